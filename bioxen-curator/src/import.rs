//! Reads what the Python library pylua_bioxen_vm_lib has kept of its packages.

use serde_json::{Map, Value};

use crate::{Catalogue, Error, Result, RockRequest};

/// What a file of the older library asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// The Lua version that it names, `5.4`.
    pub lua_version: Option<String>,
    /// The profile that was in use.
    pub profile: Option<String>,
    /// The packages as requests.
    pub requests: Vec<RockRequest>,
    /// Profiles of its own: their names and packages.
    pub profiles: Vec<(String, Vec<String>)>,
    /// What cannot be taken over, with the reason.
    pub refused: Vec<(String, String)>,
}

/// Keys of profiles that the older library took for packages, and installed.
const MISTAKEN: [&str; 3] = ["packages", "description", "category"];

/// Reads an `environment.json`, or the `manifest.json` of its curator.
///
/// # Errors
/// Fails with [`Error::Invalid`] when it is neither.
pub fn import(text: &str) -> Result<Imported> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Error::Invalid(format!("it is no JSON: {error}")))?;
    let Some(fields) = value.as_object() else {
        return Err(Error::Invalid("it is no object".into()));
    };
    let known = ["profile", "packages", "profiles", "system_info"];
    if !known.iter().any(|key| fields.contains_key(*key)) {
        return Err(Error::Invalid(format!(
            "it has none of the keys {}; give an environment.json or a manifest.json",
            known.join(", ")
        )));
    }
    let mut imported = Imported {
        profile: word(fields, "profile"),
        ..Imported::default()
    };
    let system = fields.get("system_info").and_then(Value::as_object);
    let version = system
        .and_then(|system| word(system, "lua_version"))
        .or_else(|| word(fields, "lua_version"));
    imported.lua_version = version.as_deref().and_then(language_version);
    let known = Catalogue::built_in()?;
    for (name, version) in packages(fields.get("packages")) {
        imported.take(&name, version.as_deref(), &known);
    }
    let profiles = fields.get("profiles").and_then(Value::as_object);
    for (name, profile) in profiles.into_iter().flatten() {
        let list = profile.get("packages").unwrap_or(profile);
        let names = packages(Some(list)).into_iter().map(|(name, _)| name);
        imported.profiles.push((name.clone(), names.collect()));
    }
    Ok(imported)
}

impl Imported {
    fn take(&mut self, name: &str, version: Option<&str>, known: &Catalogue) {
        if MISTAKEN.contains(&name) {
            let reason = "it is a key of a profile that was taken for a package";
            self.refused.push((name.to_owned(), reason.to_owned()));
            return;
        }
        let exact = version.filter(|version| !version.is_empty() && *version != "latest");
        let text = match exact {
            Some(version) => format!("{name} == {version}"),
            None => name.to_owned(),
        };
        // A version that nobody can read is no reason to lose the package.
        let request = text.parse().or_else(|_| name.parse::<RockRequest>());
        match request {
            Ok(RockRequest { name, .. }) if known.unavailable(&name).is_some() => {
                let reason = known.unavailable(&name).unwrap_or_default();
                self.refused.push((name.to_string(), reason.to_owned()));
            }
            Ok(request) => self.requests.push(request),
            Err(error) => self.refused.push((name.to_owned(), error.to_string())),
        }
    }
}

fn word(fields: &Map<String, Value>, key: &str) -> Option<String> {
    fields.get(key)?.as_str().map(str::to_owned)
}

/// `5.4` of `5.4.6` or `Lua 5.4.6`.
fn language_version(text: &str) -> Option<String> {
    let number = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut parts = number.split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    let plain = |part: &str| part.len() == 1 && part.bytes().all(|b| b.is_ascii_digit());
    (plain(major) && plain(minor)).then(|| format!("{major}.{minor}"))
}

/// Packages come as a list of names or of objects, or as an object by name.
fn packages(value: Option<&Value>) -> Vec<(String, Option<String>)> {
    let of = |name: &str, value: &Value| {
        let version = match value {
            Value::String(version) => Some(version.clone()),
            Value::Object(fields) => word(fields, "version"),
            _ => None,
        };
        (name.to_owned(), version)
    };
    match value {
        Some(Value::Object(fields)) => fields.iter().map(|(name, value)| of(name, value)).collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|entry| match entry {
                Value::String(name) => Some((name.clone(), None)),
                Value::Object(fields) => Some(of(&word(fields, "name")?, entry)),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_gives_its_profile_and_lua_version() {
        let imported = import(
            r#"{"profile": "networking", "last_updated": "host",
                "system_info": {"system": "Linux", "lua_version": "5.4.6", "luarocks_version": "3"}}"#,
        )
        .unwrap();
        assert_eq!(imported.profile.as_deref(), Some("networking"));
        assert_eq!(imported.lua_version.as_deref(), Some("5.4"));
        assert!(imported.requests.is_empty());
    }

    #[test]
    fn a_manifest_gives_its_packages_and_no_keys_of_profiles() {
        let imported = import(
            r#"{"version": "1.0", "lua_version": "Lua 5.1.5",
                "packages": {"lua-cjson": {"name": "lua-cjson", "version": "2.1.0-1", "installed": true},
                             "lpeg": {"version": "latest"}, "packages": {}, "description": {},
                             "x; reboot": {}},
                "profiles": {"bioxen-minimal": {"packages": ["bio-utils"], "description": "d"}}}"#,
        )
        .unwrap();
        let requests: Vec<_> = imported.requests.iter().map(ToString::to_string).collect();
        assert_eq!(requests, ["lpeg", "lua-cjson == 2.1.0-1"]);
        assert_eq!(imported.lua_version.as_deref(), Some("5.1"));
        let refused: Vec<_> = imported
            .refused
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(refused, ["description", "packages", "x; reboot"]);
        assert_eq!(
            imported.profiles,
            [("bioxen-minimal".into(), vec!["bio-utils".to_owned()])]
        );
    }

    #[test]
    fn something_else_is_refused() {
        for bad in ["", "[]", "{}", "{\"a\": 1}"] {
            assert!(import(bad).is_err(), "{bad}");
        }
    }
}
