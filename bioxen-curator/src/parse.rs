//! Reads what the machine and LuaRocks print.

use crate::lua_table::{self, Value};
use crate::{Rock, RockInfo, RockName, RockVersion};

/// A line of `site.sh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'t> {
    pub(crate) name: &'t str,
    fields: &'t str,
}

impl<'t> Record<'t> {
    /// A field, empty where there is none.
    pub(crate) fn field(&self, index: usize) -> &'t str {
        self.fields.split('\t').nth(index).unwrap_or_default()
    }

    /// All fields as they were written.
    pub(crate) fn text(&self) -> &'t str {
        self.fields
    }

    /// The fields as a rock: a name and a version.
    pub(crate) fn rock(&self) -> Option<Rock> {
        rock(self.field(0), self.field(1))
    }
}

/// The lines of `site.sh`.
pub(crate) fn records(text: &str) -> impl Iterator<Item = Record<'_>> {
    text.lines().map(|line| {
        let (name, fields) = line.split_once('\t').unwrap_or((line, ""));
        Record { name, fields }
    })
}

fn rock(name: &str, version: &str) -> Option<Rock> {
    Some(Rock {
        name: RockName::new(name).ok()?,
        version: RockVersion::new(version).ok()?,
    })
}

/// The files of a `rock_manifest` that Lua loads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModuleFiles {
    /// Relative to `share/lua/<version>`.
    pub(crate) lua: Vec<String>,
    /// Relative to `lib/lua/<version>`.
    pub(crate) native: Vec<String>,
}

/// Reads a `rock_manifest`.
pub(crate) fn rock_manifest(text: &str) -> Result<ModuleFiles, String> {
    let all = lua_table::parse(text)?;
    let manifest = all
        .get("rock_manifest")
        .and_then(Value::fields)
        .ok_or("it has no table rock_manifest")?;
    let mut files = ModuleFiles::default();
    if let Some(tree) = manifest.get("lua") {
        walk(tree, "", &mut files.lua);
    }
    if let Some(tree) = manifest.get("lib") {
        walk(tree, "", &mut files.native);
    }
    Ok(files)
}

fn walk(value: &Value, path: &str, into: &mut Vec<String>) {
    match value.fields() {
        Some(fields) => {
            for (name, value) in fields {
                let slash = if path.is_empty() { "" } else { "/" };
                walk(value, &format!("{path}{slash}{name}"), into);
            }
        }
        None => into.push(path.to_owned()),
    }
}

/// Reads `luarocks show --porcelain`: a key and its values in columns per line.
pub(crate) fn show(text: &str) -> Option<RockInfo> {
    let all = |key: &'static str| {
        records(text)
            .filter(move |line| line.name == key)
            .map(|line| line.field(0).to_owned())
    };
    let one = |key| all(key).next();
    let mut modules: Vec<_> = all("module").collect();
    modules.sort();
    Some(RockInfo {
        rock: rock(&one("package")?, &one("version")?)?,
        summary: one("summary").unwrap_or_default(),
        license: one("license"),
        homepage: one("homepage"),
        modules,
        dependencies: all("dependency").collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_fields_between_tabs() {
        let all: Vec<_> = records("rock\ta\t1-1\ndone\nmanifest\t x\ty\n").collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].rock().unwrap().to_string(), "a 1-1");
        assert_eq!((all[1].name, all[1].field(0)), ("done", ""));
        assert_eq!(all[2].text(), " x\ty");
    }

    #[test]
    fn a_rock_manifest_gives_the_files_that_lua_loads() {
        let files = rock_manifest(
            r#"rock_manifest = {
                ["a-1.0-1.rockspec"] = "b1",
                doc = { ["readme.md"] = "0" },
                lib = { ["a"] = { ["core.so"] = "1" } },
                lua = { ["a.lua"] = "2", a = { ["b.lua"] = "3" } }
            }"#,
        )
        .unwrap();
        assert_eq!(files.lua, ["a/b.lua", "a.lua"]);
        assert_eq!(files.native, ["a/core.so"]);
        assert!(rock_manifest("rock_manifest = 1").is_err());
        assert!(rock_manifest("rock_manifest = {").is_err());
    }

    #[test]
    fn a_rock_is_described_by_keys_and_columns() {
        let info = show(
            "package\talpha\nversion\t1.0-1\nsummary\tNeeds beta\nlicense\tMIT\n\
             location\t/t\nmodule\tb\t/t/b.lua\nmodule\ta\t/t/a.lua\n\
             dependency\tbeta >= 1.0\tusing 1.0-1\nindirect_dependency\tbeta\tusing 1.0-1\n",
        )
        .unwrap();
        assert_eq!(info.rock.to_string(), "alpha 1.0-1");
        assert_eq!(info.modules, ["a", "b"]);
        assert_eq!(info.dependencies, ["beta >= 1.0"]);
        assert_eq!(
            (info.license.as_deref(), info.homepage),
            (Some("MIT"), None)
        );
        assert_eq!(show("package\talpha\n"), None);
    }
}
