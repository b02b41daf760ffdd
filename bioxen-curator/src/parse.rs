//! Reads what the machine and LuaRocks print.

use crate::lua_table::{self, Value};
use crate::{Form, Found, Rock, RockInfo, RockName, RockVersion};

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

/// Reads `luarocks search --porcelain`: name, version, form and server in columns.
pub(crate) fn search(text: &str) -> Vec<Found> {
    text.lines()
        .filter_map(|line| {
            let mut columns = line.split('\t');
            let rock = rock(columns.next()?, columns.next()?)?;
            let form = Form::of_arch(columns.next()?)?;
            let server = columns.next()?.to_owned();
            Some(Found { rock, form, server })
        })
        .collect()
}

impl Form {
    /// The form that LuaRocks calls by this architecture. Rocks that are installed or that come
    /// with the interpreter are none to install.
    fn of_arch(arch: &str) -> Option<Self> {
        match arch {
            "installed" => None,
            "src" | "rockspec" => Some(Self::Source),
            _ => Some(Self::Binary),
        }
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

/// The files that LuaRocks says to install, `<server>/<name>-<version>.<arch>.rock`, in the log of
/// an installation: the rock, its form and its server.
pub(crate) fn origins(log: &str) -> Vec<Found> {
    log.lines()
        .filter_map(|line| line.strip_prefix("Installing "))
        .filter_map(|url| {
            let (server, file) = url.trim().rsplit_once('/')?;
            let (stem, arch) = match file.strip_suffix(".rockspec") {
                Some(stem) => (stem, "rockspec"),
                None => file.strip_suffix(".rock")?.rsplit_once('.')?,
            };
            let (rest, revision) = stem.rsplit_once('-')?;
            let (name, version) = rest.rsplit_once('-')?;
            Some(Found {
                rock: rock(name, &format!("{version}-{revision}"))?,
                form: Form::of_arch(arch)?,
                server: server.to_owned(),
            })
        })
        .collect()
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
    fn a_log_tells_where_each_rock_came_from() {
        let log = "Installing http://127.0.0.1:8/alpha-1.0-1.src.rock\nnoise\n\
                   Installing /t/lua-cjson-2.1.0.10-1.linux-x86_64.rock\n\
                   Installing https://luarocks.org/x-scm-1.rockspec\n\
                   Installing dependencies\n";
        let found: Vec<_> = origins(log)
            .into_iter()
            .map(|found| (found.rock.to_string(), found.form, found.server))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "alpha 1.0-1".into(),
                    Form::Source,
                    "http://127.0.0.1:8".into()
                ),
                ("lua-cjson 2.1.0.10-1".into(), Form::Binary, "/t".into()),
                (
                    "x scm-1".into(),
                    Form::Source,
                    "https://luarocks.org".into()
                ),
            ]
        );
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

    #[test]
    fn a_search_finds_what_can_be_installed() {
        let found = search(
            "beta\t1.0-1\tsrc\t/srv\nbeta\t1.0-1\tall\thttp://x\nlua\t5.4-1\tinstalled\tprovided by VM\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].form, found[1].form), (Form::Source, Form::Binary));
        assert_eq!(found[1].server, "http://x");
    }
}
