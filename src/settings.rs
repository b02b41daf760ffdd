//! The configuration of VMs as a user gives it to the program: a file, environment variables and
//! options, in rising order of weight.
//!
//! The file is TOML with one table per VM type, `[basic]` and `[xcpng]`; the keys are those of the
//! type's configuration. A variable is `BIOXEN_`, the type, `_` and the key, in capitals, with two
//! underscores where the file has a table in a table: `BIOXEN_XCPNG_TEMPLATE`,
//! `BIOXEN_XCPNG_SSH__USER`; `BIOXEN_XCPNG_HOST` stands for the key `xcpng_host`. An option is
//! `key=value` with a dot instead: `ssh.user=lua`.
//!
//! Nothing here reads the environment by itself: the program hands it in.

use std::collections::BTreeMap;
use std::path::Path;

use bioxen_vm_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

/// The configurations of VM types, by the name of the type.
#[derive(Clone, Default)]
pub struct Settings {
    types: BTreeMap<String, Map<String, Value>>,
}

/// The types that settings can be given for.
const TYPES: [&str; 2] = ["basic", "xcpng"];

/// Keys whose text may be a number, a truth value or a list (`["a", "b"]`). All others stay text, so
/// that a password of digits remains a password.
const NUMBERS: [&str; 6] = [
    "vcpus",
    "cores_per_socket",
    "port",
    "memory_mb",
    "max_processes",
    "idle_workers",
];
const FLAGS: [&str; 4] = ["insecure", "processes", "network", "fresh_process"];
const LISTS: [&str; 6] = [
    "read",
    "write",
    "tags",
    "network",
    "xcpng_host",
    "password_command",
];

/// Lists that one text is a list of one for.
const ONE_OR_MANY: [&str; 3] = ["read", "write", "tags"];

impl Settings {
    /// Settings that say nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the settings of a file.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when the file cannot be read or is not TOML of the form
    /// above.
    pub fn read_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            config(format!("cannot read the settings file {}", path.display())).with_source(error)
        })?;
        let parsed: Map<String, Value> = toml::from_str(&text).map_err(|error| {
            // The parser's own report quotes the line, which may hold a password.
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].lines().count().max(1));
            config(format!(
                "{} line {line} is not valid TOML: {}",
                path.display(),
                error.message()
            ))
        })?;
        for (vm_type, table) in parsed {
            let Value::Object(table) = table else {
                return Err(config(format!(
                    "{} has {vm_type:?} outside of any table; put it under [basic] or [xcpng]",
                    path.display()
                )));
            };
            if !TYPES.contains(&vm_type.as_str()) {
                return Err(config(format!(
                    "{} has a table [{vm_type}]; known are [basic] and [xcpng]",
                    path.display()
                )));
            }
            for (key, value) in table {
                self.table(&vm_type).insert(key, value);
            }
        }
        Ok(())
    }

    /// Adds the settings of environment variables; other variables than those above are ignored.
    pub fn read_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("BIOXEN_") else {
                continue;
            };
            for vm_type in TYPES {
                let prefix = format!("{}_", vm_type.to_uppercase());
                if let Some(key) = rest.strip_prefix(&prefix) {
                    let key = match (vm_type, key.to_lowercase()) {
                        // The type is in the name already: BIOXEN_XCPNG_HOST.
                        ("xcpng", key) if key == "host" => "xcpng_host".to_owned(),
                        (_, key) => key,
                    };
                    let path: Vec<_> = key.split("__").collect();
                    set(self.table(vm_type), &path, &value);
                }
            }
        }
    }

    /// Adds one setting of a type, written as `key=value`.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when there is no `=`.
    pub fn set(&mut self, vm_type: &str, assignment: &str) -> Result<()> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(config(format!(
                "{assignment:?} is no setting; write key=value"
            )));
        };
        let path: Vec<_> = key.trim().split('.').collect();
        set(self.table(vm_type), &path, value);
        Ok(())
    }

    /// Whether anything is set for a type.
    #[must_use]
    pub fn has(&self, vm_type: &str) -> bool {
        self.types
            .get(vm_type)
            .is_some_and(|table| !table.is_empty())
    }

    /// The configuration of a type, as [`VmFactory::open`](crate::VmFactory::open) takes it.
    #[must_use]
    pub fn config(&self, vm_type: &str) -> Value {
        self.types
            .get(vm_type)
            .map_or(Value::Null, |table| Value::Object(table.clone()))
    }

    fn table(&mut self, vm_type: &str) -> &mut Map<String, Value> {
        self.types.entry(vm_type.to_owned()).or_default()
    }
}

impl std::fmt::Debug for Settings {
    /// Shows which keys are set, never a value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = |table: &Map<String, Value>| table.keys().cloned().collect::<Vec<_>>();
        f.debug_map()
            .entries(self.types.iter().map(|(name, table)| (name, keys(table))))
            .finish()
    }
}

fn set(table: &mut Map<String, Value>, path: &[&str], text: &str) {
    match path {
        [] => {}
        [key] => {
            let value = value(key, text);
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let mut inner = match table.remove(*key) {
                Some(Value::Object(inner)) => inner,
                _ => Map::new(),
            };
            set(&mut inner, rest, text);
            table.insert((*key).to_owned(), Value::Object(inner));
        }
    }
}

fn value(key: &str, text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(number @ Value::Number(_)) if NUMBERS.contains(&key) => number,
        Ok(flag @ Value::Bool(_)) if FLAGS.contains(&key) => flag,
        Ok(list @ Value::Array(_)) if LISTS.contains(&key) => list,
        _ if ONE_OR_MANY.contains(&key) => Value::from(vec![text]),
        _ => Value::from(text),
    }
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_outweigh_variables_and_variables_outweigh_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "[xcpng]\nxcpng_host = 'a'\ntemplate = 't'\nvcpus = 1\n[xcpng.ssh]\nuser = 'u'\n",
        )
        .unwrap();
        let mut settings = Settings::new();
        settings.read_file(file.path()).unwrap();
        settings.read_environment([
            ("BIOXEN_XCPNG_HOST".into(), "b".into()),
            ("BIOXEN_XCPNG_SSH__PORT".into(), "2222".into()),
            ("BIOXEN_XCPNG_PASSWORD".into(), "12345".into()),
            ("HOME".into(), "/root".into()),
        ]);
        settings.set("xcpng", "vcpus=4").unwrap();
        assert_eq!(
            settings.config("xcpng"),
            json!({
                "xcpng_host": "b", "template": "t", "vcpus": 4, "password": "12345",
                "ssh": {"user": "u", "port": 2222},
            })
        );
        assert!(!settings.has("basic"));
    }

    #[test]
    fn text_becomes_what_its_key_takes() {
        let mut settings = Settings::new();
        for assignment in [
            "processes=true",
            "idle_workers=0",
            "read=/etc",
            "write=[\"/a\", \"/b\"]",
            "memory=256MB",
        ] {
            settings.set("basic", assignment).unwrap();
        }
        assert_eq!(
            settings.config("basic"),
            json!({
                "processes": true, "idle_workers": 0, "read": ["/etc"], "write": ["/a", "/b"],
                "memory": "256MB",
            })
        );
        settings.set("xcpng", "network=42").unwrap();
        settings.set("xcpng", "tags=a").unwrap();
        assert_eq!(
            settings.config("xcpng"),
            json!({"network": "42", "tags": ["a"]})
        );
    }

    #[test]
    fn a_broken_file_is_named_with_its_line_and_never_quoted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[xcpng]\npassword = hunter2\n").unwrap();
        let error = Settings::new().read_file(file.path()).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        let report = format!("{error} {error:?}");
        assert!(!report.contains("hunter2"), "{report}");
    }

    #[test]
    fn an_unknown_table_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[xcpg]\ntemplate = 't'\n").unwrap();
        let error = Settings::new().read_file(file.path()).unwrap_err();
        assert!(error.to_string().contains("[xcpg]"), "{error}");
    }

    #[test]
    fn values_never_show() {
        let mut settings = Settings::new();
        settings.set("xcpng", "password=canary").unwrap();
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn a_setting_without_a_value_is_refused() {
        let error = Settings::new().set("basic", "vcpus").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"vcpus\" is no setting; write key=value"
        );
    }
}
