//! Rocks that a program brings along.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::lua_table::{self, Value};
use crate::manifest::manifest;
use crate::rockspec::Rockspec;
use crate::zip::{self, Member};
use crate::{Error, Result, Rock};

/// Rocks that a program brings along, made of their sources in memory: a
/// [`RocksServer`](crate::RocksServer) that needs neither a network nor files nor LuaRocks on this
/// machine.
///
/// They are rocks of Lua alone, and install like those that `luarocks make --pack-binary-rock` packs
/// of the same sources.
#[derive(Clone, PartialEq, Eq)]
pub struct EmbeddedRocks {
    name: String,
    rocks: Vec<Rock>,
    files: Arc<BTreeMap<String, Bytes>>,
}

impl EmbeddedRocks {
    /// Packs rocks. Each file is given with its path, the first part of which is the folder of its
    /// rock, as in `alpha/alpha-1.0-1.rockspec` and `alpha/src/alpha.lua`. The name of the whole
    /// stands where the URL of a server does.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when a rockspec makes no sense, computes something, is built
    /// otherwise than of Lua modules, or names a file that is not there.
    pub fn new<'f>(
        name: impl Into<String>,
        files: impl IntoIterator<Item = (&'f str, &'f [u8])>,
    ) -> Result<Self> {
        let mut folders: BTreeMap<&str, BTreeMap<&str, &[u8]>> = BTreeMap::new();
        for (path, content) in files {
            if let Some((folder, file)) = path.split_once('/') {
                folders.entry(folder).or_default().insert(file, content);
            }
        }
        let (mut rocks, mut packed) = (Vec::new(), BTreeMap::new());
        for (folder, files) in &folders {
            for (file, text) in files.iter().filter(|(file, _)| file.ends_with(".rockspec")) {
                let refuse = |reason| Error::Invalid(format!("{folder}/{file}: {reason}"));
                let (rock, content) = pack(file, text, files).map_err(refuse)?;
                packed.insert(format!("{}-{}.all.rock", rock.name, rock.version), content);
                rocks.push(rock);
            }
        }
        Ok(Self {
            name: name.into(),
            rocks,
            files: Arc::new(packed),
        })
    }

    /// The name that stands where the URL of a server does.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rocks.
    #[must_use]
    pub fn rocks(&self) -> &[Rock] {
        &self.rocks
    }

    /// What a server has under this name.
    pub(crate) fn file(&self, name: &str) -> Option<Bytes> {
        if name.starts_with("manifest-") {
            // Lua of any version can load them, as far as their rockspecs do not object.
            let rocks = self.rocks.iter().map(|rock| (rock.clone(), "all"));
            return Some(manifest(rocks).into());
        }
        self.files.get(name).cloned()
    }
}

impl fmt::Debug for EmbeddedRocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedRocks")
            .field("name", &self.name)
            .field("rocks", &self.rocks)
            .finish_non_exhaustive()
    }
}

/// Packs a rock ready for use.
fn pack(
    rockspec: &str,
    text: &[u8],
    files: &BTreeMap<&str, &[u8]>,
) -> Result<(Rock, Bytes), String> {
    let said = std::str::from_utf8(text).map_err(|_| "it is no UTF-8")?;
    let rock = Rockspec::of_constants(said)?.info.rock;
    let expected = format!("{}-{}.rockspec", rock.name, rock.version);
    if rockspec != expected {
        return Err(format!("its name has to be {expected}"));
    }
    let member = |name: String, content| Member {
        name,
        content,
        executable: false,
    };
    let mut members = vec![member(expected, text.into())];
    for (module, file) in modules(said)? {
        let content = files.get(file.as_str());
        let content = content.ok_or_else(|| format!("{file} is not there"))?;
        let place = format!("lua/{}.lua", module.replace('.', "/"));
        members.push(member(place, (*content).into()));
    }
    let docs = files.iter().filter(|(file, _)| is_document(file));
    members.extend(docs.map(|(file, content)| member(format!("doc/{file}"), (*content).into())));
    Ok((rock, zip::pack(members)?.into()))
}

/// The modules of a rockspec and their files, when there is nothing else to build.
fn modules(rockspec: &str) -> Result<Vec<(String, String)>, String> {
    let spec = lua_table::parse(rockspec)?;
    let build = spec.get("build").ok_or("it has no build")?;
    let only = |name: &String| ["type", "modules"].contains(&name.as_str());
    let is_builtin = build.get("type").and_then(Value::as_str) == Some("builtin");
    if !is_builtin || !build.fields().is_some_and(|fields| fields.keys().all(only)) {
        return Err("more is to be built than modules of Lua".into());
    }
    let modules = build.get("modules").and_then(Value::fields);
    let modules = modules.ok_or("it names no modules")?.iter();
    modules
        .map(|(module, file)| match file.as_str() {
            // A file of this name would be placed elsewhere.
            Some(file) if file.ends_with(".lua") && !file.ends_with("init.lua") => {
                Ok((module.clone(), file.to_owned()))
            }
            _ => Err(format!("module {module} is no file of Lua")),
        })
        .collect()
}

/// Whether LuaRocks takes a file for documentation.
fn is_document(file: &str) -> bool {
    let name = file.to_ascii_lowercase();
    let known = ["readme", "license", "copying"];
    !file.contains('/') && (name.contains(".md") || known.iter().any(|word| name.starts_with(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "package = \"alpha\"\nversion = \"1.0-1\"\n\
                        build = { type = \"builtin\", modules = { alpha = \"src/alpha.lua\" } }\n";

    fn of(rockspec: &str, files: &[(&str, &[u8])]) -> Result<EmbeddedRocks> {
        let spec = ("a/alpha-1.0-1.rockspec", rockspec.as_bytes());
        EmbeddedRocks::new("mine", files.iter().copied().chain([spec]))
    }

    #[test]
    fn what_cannot_be_packed_is_refused_with_the_reason() {
        let lua: &[(&str, &[u8])] = &[("a/src/alpha.lua", b"return 1")];
        let rocks = of(SPEC, lua).unwrap();
        assert_eq!(rocks.rocks()[0].to_string(), "alpha 1.0-1");
        assert!(rocks.file("manifest-5.3").is_some());
        assert!(rocks.file("alpha-1.0-1.all.rock").is_some());
        assert!(rocks.file("beta-1.0-1.all.rock").is_none());
        for (spec, files, reason) in [
            (SPEC.to_owned(), &[][..], "src/alpha.lua is not there"),
            (
                SPEC.replace("1.0", "1.1"),
                lua,
                "has to be alpha-1.1-1.rockspec",
            ),
            (
                SPEC.replace("src/alpha.lua", "a.c"),
                lua,
                "is no file of Lua",
            ),
            (SPEC.replace("builtin", "make"), lua, "more is to be built"),
            (format!("local x = 1\n{SPEC}"), lua, "line 1"),
        ] {
            let error = of(&spec, files).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
