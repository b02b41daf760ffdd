//! What a rockspec says.

use std::collections::BTreeMap;
use std::fmt;

use crate::evaluate::Interpreter;
use crate::lua_table::{self, Value};
use crate::{Rock, RockInfo, RockName, RockRequest, RockVersion};

/// What a rockspec says that matters before the rock is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rockspec {
    pub(crate) info: RockInfo,
    /// What it needs when it runs or is built, with `lua` among them.
    pub(crate) needs: Vec<RockRequest>,
    /// Whether a compiler may be needed to build it.
    pub(crate) native: bool,
    /// The libraries of the machine that it is built with.
    pub(crate) external: Vec<External>,
    pub(crate) source: Source,
}

/// Where the sources of a rock are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) url: String,
    /// What the file is called that is downloaded, where the rockspec tells.
    pub(crate) file: Option<String>,
    /// The tag or branch of a repository.
    pub(crate) at: Option<String>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)?;
        match &self.at {
            Some(at) => write!(f, " at {at}"),
            None => Ok(()),
        }
    }
}

/// A library that is not a rock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct External {
    pub(crate) name: String,
    pub(crate) header: Option<String>,
    pub(crate) library: Option<String>,
}

impl Rockspec {
    /// Reads a rockspec. One that computes something is run.
    ///
    /// # Errors
    /// Fails with the reason.
    pub(crate) async fn read(text: &str, lua: &Interpreter) -> Result<Self, String> {
        // A file that a program of another system has written may begin with this.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match lua_table::parse(text) {
            Ok(said) => Self::of(&said),
            Err(_) => Self::of(&lua_table::parse(&lua.constants(text).await?)?),
        }
    }

    /// Reads a rockspec that computes nothing.
    ///
    /// # Errors
    /// Fails with the reason.
    pub(crate) fn of_constants(text: &str) -> Result<Self, String> {
        Self::of(&lua_table::parse(text)?)
    }

    fn of(spec: &BTreeMap<String, Value>) -> Result<Self, String> {
        let top = |name: &str| spec.get(name);
        let word = |name: &str| {
            top(name)
                .and_then(Value::as_str)
                .ok_or(format!("it has no {name}"))
        };
        let rock = Rock {
            name: RockName::new(word("package")?).map_err(|error| error.to_string())?,
            version: RockVersion::new(word("version")?).map_err(|error| error.to_string())?,
        };
        let dependencies = texts(top("dependencies"));
        let mut needs = Vec::new();
        for text in dependencies.iter().chain(&texts(top("build_dependencies"))) {
            needs.push(need(text)?);
        }
        let described = |name: &str| {
            let value = top("description")?.get(name)?.as_str()?;
            Some(value.trim().to_owned())
        };
        let source = |name: &str| Some(top("source")?.get(name)?.as_str()?.to_owned());
        let build = top("build");
        let modules = build.and_then(|build| build.get("modules"));
        let mut modules: Vec<_> = modules
            .and_then(Value::fields)
            .map(|modules| modules.keys().cloned().collect())
            .unwrap_or_default();
        modules.sort();
        Ok(Self {
            info: RockInfo {
                rock,
                summary: described("summary").unwrap_or_default(),
                license: described("license"),
                homepage: described("homepage"),
                modules,
                dependencies,
            },
            needs,
            native: build.is_some_and(is_native),
            external: external(top("external_dependencies")),
            source: Source {
                url: source("url").unwrap_or_default(),
                file: source("file"),
                at: ["tag", "branch"].into_iter().find_map(source),
            },
        })
    }
}

/// A list of texts, with what it says for systems like the ones that VMs have.
fn texts(list: Option<&Value>) -> Vec<String> {
    let Some(list) = list else { return Vec::new() };
    let platforms = list.get("platforms");
    let special = ["unix", "linux"]
        .into_iter()
        .filter_map(|name| platforms?.get(name));
    [list]
        .into_iter()
        .chain(special)
        .flat_map(Value::items)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// A dependency. The name may have a user of the server before it.
fn need(text: &str) -> Result<RockRequest, String> {
    let trimmed = text.trim();
    let end = trimmed
        .find(|c: char| c.is_whitespace() || "<>=~!".contains(c))
        .unwrap_or(trimmed.len());
    let start = trimmed[..end].rfind('/').map_or(0, |slash| slash + 1);
    trimmed[start..]
        .parse()
        .map_err(|error| format!("its dependency {text:?}: {error}"))
}

/// Whether building it may take a compiler.
fn is_native(build: &Value) -> bool {
    let kind = build.get("type").and_then(Value::as_str);
    match kind.unwrap_or("builtin") {
        "none" => false,
        "builtin" | "module" => {
            let is_lua = |value: &Value| value.as_str().is_some_and(|file| file.ends_with(".lua"));
            let modules = build.get("modules");
            let all = modules.into_iter().flat_map(|modules| {
                let named = modules.fields().into_iter().flatten();
                named.map(|(_, value)| value).chain(modules.items())
            });
            !all.into_iter().all(is_lua)
        }
        // Whether `make` or a command compiles something is not to be seen here.
        _ => false,
    }
}

fn external(table: Option<&Value>) -> Vec<External> {
    let named = table.and_then(Value::fields).into_iter().flatten();
    named
        .filter(|(name, _)| *name != "platforms")
        .map(|(name, value)| {
            let part = |part| value.get(part).and_then(Value::as_str).map(str::to_owned);
            External {
                name: name.clone(),
                header: part("header"),
                library: part("library"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rockspec_tells_what_the_rock_needs() {
        let spec = Rockspec::of_constants(
            r#"
            package = "Alpha"
            version = "1.2-1";
            source = { url = "git+https://x/alpha.git", tag = "v1.2" }
            description = { summary = "Does things", license = "MIT" }
            dependencies = { "lua >= 5.1, < 5.5", "someone/beta ~> 1.4",
                platforms = { unix = { "luaposix" }, windows = { "winapi" } } }
            build_dependencies = { "luarocks-build-x" }
            external_dependencies = { ZLIB = { header = "zlib.h", library = "z" } }
            build = { type = "builtin", modules = { alpha = "a.lua", ["alpha.core"] = { "a.c" } } }
            "#,
        )
        .unwrap();
        assert_eq!(spec.info.rock.to_string(), "alpha 1.2-1");
        let needs: Vec<_> = spec.needs.iter().map(ToString::to_string).collect();
        assert_eq!(
            needs,
            [
                "lua >= 5.1, < 5.5",
                "beta ~> 1.4",
                "luaposix",
                "luarocks-build-x"
            ]
        );
        assert!(spec.native);
        assert_eq!(spec.source.url, "git+https://x/alpha.git");
        assert_eq!(spec.source.at.as_deref(), Some("v1.2"));
        assert_eq!(spec.external[0].header.as_deref(), Some("zlib.h"));
        assert_eq!(spec.info.modules, ["alpha", "alpha.core"]);
    }

    #[test]
    fn what_is_no_rockspec_is_refused_with_the_reason() {
        for (text, reason) in [
            ("version = \"1-1\"", "it has no package"),
            ("package = \"a\"", "it has no version"),
            ("package = os.getenv('x')", "line 1"),
            ("package = \"a;b\" version = \"1-1\"", "cannot be the name"),
        ] {
            let error = Rockspec::of_constants(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
