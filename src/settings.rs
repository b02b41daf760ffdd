//! The configuration of VMs as a user gives it to the program: a file, environment variables and
//! options, in rising order of weight.
//!
//! The file is TOML with one table per VM type, `[basic]` and `[xcpng]`; the keys are those of the
//! type's configuration. `[pools.NAME]` has the keys of one pool, which outweigh those of `[xcpng]`
//! when that pool is asked for. A variable is `BIOXEN_`, the type, `_` and the key, in capitals, with two
//! underscores where the file has a table in a table: `BIOXEN_XCPNG_TEMPLATE`,
//! `BIOXEN_XCPNG_SSH__USER`; `BIOXEN_XCPNG_HOST` stands for the key `xcpng_host`. An option is
//! `key=value` with a dot instead: `ssh.user=lua`.
//!
//! Each setting remembers where it comes from, so that what is wrong is told with its file and line,
//! its variable or its option.
//!
//! Nothing here reads the environment by itself: the program hands it in.

mod file;
mod origin;
mod problem;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bioxen_vm_core::{ConfigProblem, Error, ErrorKind, Result, VmFactory};
use serde_json::{Map, Value};

#[cfg(feature = "xcpng")]
pub(crate) use file::holds_password;
pub use origin::Origin;
pub use problem::Problem;
pub(crate) use problem::{joined, sort};
pub(crate) use text::value;

/// The configurations of VM types, by the name of the type.
#[derive(Clone, Default)]
pub struct Settings {
    types: BTreeMap<String, Map<String, Value>>,
    /// Where each key of a type comes from.
    origins: BTreeMap<(String, String), Origin>,
    /// By which of its names each was given.
    names: BTreeMap<(String, String), String>,
    /// Keys that are given by two of their names.
    twice: Vec<Problem>,
    notes: Vec<String>,
    /// The named pools of the file.
    pools: Vec<String>,
    /// The files that a password stands in.
    with_password: Vec<PathBuf>,
    /// What the program was started with: for `~` and for passwords that a variable has.
    environment: BTreeMap<String, String>,
}

/// The types that settings can be given for.
const TYPES: [&str; 2] = ["basic", "xcpng"];

/// Keys whose values are paths.
const PATHS: [&str; 9] = [
    "password_file",
    "tls.ca_file",
    "ssh.identity_file",
    "ssh.known_hosts",
    "state_dir",
    "worker",
    "directory",
    "read",
    "write",
];

/// Keys whose values are files that are read.
const READ: [&str; 4] = [
    "password_file",
    "tls.ca_file",
    "ssh.identity_file",
    "ssh.known_hosts",
];

/// Keys of which one is given. What has more weight replaces all of them.
const ALTERNATIVES: [&[&str]; 3] = [
    &[
        "password",
        "password_file",
        "password_command",
        PASSWORD_VARIABLE,
    ],
    &["tls.fingerprint", "tls.ca_file", "tls.insecure"],
    &["ssh.host_key", "ssh.known_hosts"],
];

const PASSWORD_VARIABLE: &str = "password_variable";

/// What keys of earlier programs are called now.
#[cfg(feature = "xcpng")]
const OLDER_KEYS: &[(&str, &str)] = bioxen_vm_xcpng::XcpngConfig::OLDER_KEYS;
#[cfg(not(feature = "xcpng"))]
const OLDER_KEYS: &[(&str, &str)] = &[];

impl Settings {
    /// Settings that say nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the settings of a file, with those of one of its named pools if one is asked for.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when the file cannot be read, is not TOML of the form
    /// above, or does not have the pool.
    pub fn read_file(&mut self, path: &Path, pool: Option<&str>) -> Result<()> {
        match self.read_what_is_right(path, pool)?.as_slice() {
            [] => Ok(()),
            problems => Err(config(joined(problems))),
        }
    }

    /// Adds what the file says as far as that can be understood, and gives all that cannot.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when the file cannot be read.
    pub fn read_what_is_right(&mut self, path: &Path, pool: Option<&str>) -> Result<Vec<Problem>> {
        Ok(self.read_text(&file::text(path)?, path, pool))
    }

    /// The same for what a file is to say.
    pub(crate) fn read_text(
        &mut self,
        text: &str,
        path: &Path,
        pool: Option<&str>,
    ) -> Vec<Problem> {
        let read = file::read(text, &TYPES, pool);
        let mut problems: Vec<_> = read
            .wrong
            .into_iter()
            .map(|(line, message)| {
                let path = path.to_owned();
                Problem::new(None, Some(Origin::File { path, line }), message)
            })
            .collect();
        // Of what is not TOML nobody knows which pools it has.
        if let Some(pool) = pool
            && !read.pools.iter().any(|known| known == pool)
            && (problems.is_empty() || !read.entries.is_empty() || !read.pools.is_empty())
        {
            let remedy = match read.pools.as_slice() {
                [] => "write its keys under [pools.NAME]".to_owned(),
                known => format!("its pools: {}", known.join(", ")),
            };
            let message = format!("{} has no pool {pool:?}; {remedy}", path.display());
            problems.push(Problem::new(None, None, message));
        }
        if read.has_password {
            self.with_password.push(path.to_owned());
        }
        self.pools = read.pools;
        for entry in read.entries {
            let (path, line) = (path.to_owned(), entry.line);
            let origin = match entry.of_pool {
                true => Origin::Pool { path, line },
                false => Origin::File { path, line },
            };
            self.put(&entry.vm_type, &entry.key, entry.value, origin);
        }
        sort(&mut problems);
        problems
    }

    /// Adds the settings of environment variables. Of the others only those that a setting asks for
    /// are looked at: `HOME` for `~`, and what `password_variable` names.
    pub fn read_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, text) in variables {
            for vm_type in TYPES {
                let prefix = format!("BIOXEN_{}_", vm_type.to_uppercase());
                let Some(key) = name.strip_prefix(&prefix) else {
                    continue;
                };
                let key = match (vm_type, key.to_lowercase().replace("__", ".")) {
                    // The type is in the name already: BIOXEN_XCPNG_HOST.
                    ("xcpng", key) if key == "host" => "xcpng_host".to_owned(),
                    (_, key) => key,
                };
                let origin = Origin::Variable(name.clone());
                self.put_text(vm_type, &key, &text, origin);
            }
            self.environment.insert(name, text);
        }
    }

    /// Adds one setting of a type, written as `key=value`.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when there is no `=`.
    pub fn set(&mut self, vm_type: &str, assignment: &str) -> Result<()> {
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(config(format!(
                "{assignment:?} is no setting; write key=value"
            )));
        };
        let key = key.trim();
        self.put_text(vm_type, key, text, Origin::Option);
        Ok(())
    }

    fn put_text(&mut self, vm_type: &str, name: &str, text: &str, origin: Origin) {
        let value = value(newer(vm_type, name), text);
        self.put(vm_type, name, value, origin);
    }

    fn put(&mut self, vm_type: &str, name: &str, value: Value, origin: Origin) {
        let key = newer(vm_type, name);
        if key != name {
            self.notes
                .push(format!("{origin}: {name} is an older name; write {key}"));
        }
        let here = place(vm_type, key);
        if let Some(before) = self.origins.get(&here)
            && before.is_of_one_layer(&origin)
            && let Some(other) = self.names.get(&here)
            && other != name
        {
            let message = format!("{name} is the same key as {other} ({before}); keep one of them");
            let twice = Problem::new(Some(vm_type), Some(origin.clone()), message);
            self.twice.push(twice);
        }
        // A table as a whole replaces all that is known of its keys.
        let inner = format!("{key}.");
        self.origins
            .retain(|(of, known), _| of != vm_type || !known.starts_with(&inner));
        for others in ALTERNATIVES.iter().filter(|all| all.contains(&key)) {
            for other in others.iter().filter(|other| **other != key) {
                let known = self.origins.get(&place(vm_type, other));
                if known.is_some_and(|known| !known.is_of_one_layer(&origin)) {
                    self.remove(vm_type, other);
                }
            }
        }
        let path: Vec<_> = key.split('.').collect();
        set(
            self.types.entry(vm_type.to_owned()).or_default(),
            &path,
            value,
        );
        self.names.insert(here.clone(), name.to_owned());
        self.origins.insert(here, origin);
    }

    fn remove(&mut self, vm_type: &str, key: &str) {
        self.origins.remove(&place(vm_type, key));
        let Some(mut table) = self.types.get_mut(vm_type) else {
            return;
        };
        let (tables, last) = match key.rsplit_once('.') {
            Some((tables, last)) => (tables.split('.').collect(), last),
            None => (Vec::new(), key),
        };
        for inner in tables {
            match table.get_mut(inner) {
                Some(Value::Object(inner)) => table = inner,
                _ => return,
            }
        }
        table.remove(last);
    }

    /// Whether anything is set for a type.
    #[must_use]
    pub fn has(&self, vm_type: &str) -> bool {
        self.types
            .get(vm_type)
            .is_some_and(|table| !table.is_empty())
    }

    /// The names of the pools of the file, of which one may be asked for.
    #[must_use]
    pub fn pools(&self) -> &[String] {
        &self.pools
    }

    /// What the user should know of keys that mean something, but are called otherwise now.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where a key of a type comes from, `ssh.user` for example. When nothing says it, that of a key
    /// in whose place it would be, of its table, or of what stands in that.
    #[must_use]
    pub fn origin(&self, vm_type: &str, key: &str) -> Option<&Origin> {
        let of = |key: &&str| self.origins.get(&place(vm_type, key));
        let alternatives = ALTERNATIVES.into_iter().find(|all| all.contains(&key));
        let own = of(&key).or_else(|| alternatives?.iter().find_map(of));
        let outer = key.rsplit_once('.').map(|(table, _)| table);
        own.or_else(|| of(&outer?)).or_else(|| {
            let table = format!("{}.", outer.unwrap_or(key));
            let inner = self
                .origins
                .iter()
                .filter(|((known, key), _)| known == vm_type && key.starts_with(&table));
            inner
                .map(|(_, origin)| origin)
                .min_by_key(|origin| origin.place())
        })
    }

    /// The files that hold a password, or are said to.
    #[must_use]
    pub fn files_with_password(&self) -> Vec<PathBuf> {
        let mut files = self.with_password.clone();
        let config = self.config("xcpng");
        let named = config.get("password_file").and_then(Value::as_str);
        files.extend(named.map(PathBuf::from));
        files
    }

    /// The configuration of a type, as [`VmFactory::open`] takes it: with whole paths, and with the
    /// password where a variable has it.
    #[must_use]
    pub fn config(&self, vm_type: &str) -> Value {
        let Some(table) = self.types.get(vm_type) else {
            return Value::Null;
        };
        let mut table = table.clone();
        for key in PATHS {
            if let Some(origin) = self.origin(vm_type, key)
                && let Some(value) = at(&mut table, key)
            {
                self.make_whole(value, origin);
            }
        }
        if let Some(Value::String(name)) = table.get(PASSWORD_VARIABLE)
            && let Some(password) = self.environment.get(name).filter(|text| !text.is_empty())
        {
            let password = Value::from(password.as_str());
            table.remove(PASSWORD_VARIABLE);
            table.insert("password".to_owned(), password);
        }
        Value::Object(table)
    }

    /// All that is wrong with the configuration of a type, in the order of the lines. `config` is
    /// what [`config`](Self::config) gave, with what the program adds by itself.
    ///
    /// # Errors
    /// As [`VmFactory::check`].
    pub fn check(
        &self,
        factory: &VmFactory,
        vm_type: &str,
        config: &Value,
    ) -> Result<Vec<Problem>> {
        let mut problems = factory.check(vm_type, config)?;
        for problem in &mut problems {
            if problem.key == PASSWORD_VARIABLE
                && let Some(Value::String(name)) = config.get(PASSWORD_VARIABLE)
            {
                problem.message =
                    format!("{PASSWORD_VARIABLE}: the variable {name:?} is not set, or empty");
            }
        }
        let placed = |problem: ConfigProblem| {
            let origin = self.origin(vm_type, &problem.key).cloned();
            Problem::new(Some(vm_type), origin, problem.message)
        };
        let mut problems: Vec<_> = problems.into_iter().map(placed).collect();
        let twice = self.twice.iter();
        problems.extend(
            twice
                .filter(|problem| problem.vm_type.as_deref() == Some(vm_type))
                .cloned(),
        );
        sort(&mut problems);
        Ok(problems)
    }

    /// The files that a configuration names and that are not there, which
    /// [`check`](Self::check) does not look for.
    #[must_use]
    pub fn missing_files(&self, vm_type: &str, config: &Value) -> Vec<Problem> {
        let missing = READ.iter().filter_map(|key| {
            let pointer = format!("/{}", key.replace('.', "/"));
            let path = Path::new(config.pointer(&pointer)?.as_str()?);
            let reason = match path.metadata() {
                Ok(about) if about.is_dir() => "it is a folder".to_owned(),
                Ok(_) => return None,
                Err(error) => error.to_string(),
            };
            let origin = self.origin(vm_type, key).cloned();
            let message = format!(
                "{key}: there is no file {}: {reason}; make it, or name another one",
                path.display()
            );
            Some(Problem::new(Some(vm_type), origin, message))
        });
        missing.collect()
    }

    /// Makes paths whole that start from home or from the folder of the file that names them.
    fn make_whole(&self, value: &mut Value, origin: &Origin) {
        match value {
            Value::String(text) => {
                let path = Path::new(text.as_str());
                let home = self.environment.get("HOME").map(PathBuf::from);
                let whole = match (path.strip_prefix("~"), home) {
                    (Ok(rest), Some(home)) => home.join(rest),
                    (Ok(_), None) => return,
                    (Err(_), _) => origin.folder().join(path),
                };
                if let Ok(whole) = whole.into_os_string().into_string() {
                    *text = whole;
                }
            }
            Value::Array(all) => {
                for one in all {
                    self.make_whole(one, origin);
                }
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for Settings {
    /// Shows which keys are set, never a value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(
                self.origins.iter().map(|((vm_type, key), origin)| {
                    (format!("{vm_type}.{key}"), origin.to_string())
                }),
            )
            .finish()
    }
}

/// What a key is called now.
fn newer<'k>(vm_type: &str, key: &'k str) -> &'k str {
    let older = OLDER_KEYS.iter().find(|(old, _)| *old == key);
    match older {
        Some((_, new)) if vm_type == "xcpng" => new,
        _ => key,
    }
}

fn place(vm_type: &str, key: &str) -> (String, String) {
    (vm_type.to_owned(), key.to_owned())
}

fn at<'v>(table: &'v mut Map<String, Value>, key: &str) -> Option<&'v mut Value> {
    let mut parts = key.split('.');
    let mut value = table.get_mut(parts.next()?)?;
    for part in parts {
        value = value.get_mut(part)?;
    }
    Some(value)
}

fn set(table: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let mut inner = match table.remove(*key) {
                Some(Value::Object(inner)) => inner,
                _ => Map::new(),
            };
            set(&mut inner, rest, value);
            table.insert((*key).to_owned(), Value::Object(inner));
        }
    }
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests;
