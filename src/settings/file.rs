//! Settings files: TOML, of which the line of each key is kept.

use std::path::Path;

use bioxen_vm_core::Result;
use bioxen_vm_core::words::distance;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::config;

/// A key of a type.
pub(super) struct Entry {
    pub(super) vm_type: String,
    /// `ssh.user` for one in a table.
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) line: usize,
    /// Whether it stands in the table of a named pool.
    pub(super) of_pool: bool,
}

/// What a file says.
#[derive(Default)]
pub(super) struct Read {
    pub(super) entries: Vec<Entry>,
    /// The names of its pools.
    pub(super) pools: Vec<String>,
    /// What is wrong with the file itself, by line.
    pub(super) wrong: Vec<(usize, String)>,
    /// Whether a password stands in it, of whichever pool.
    pub(super) has_password: bool,
}

/// The text of a file.
pub(super) fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        config(format!("cannot read the settings file {}", path.display())).with_source(error)
    })
}

/// Reads a text with a table for each of these types and for named pools, of which one may be wanted.
/// What that one says comes last. Tells all tables that it must not have.
pub(super) fn read(text: &str, types: &[&str], pool: Option<&str>) -> Read {
    let broken = |error: toml::de::Error| {
        // The parser's own report quotes the line, which may hold a password.
        let line = error.span().map_or(1, |span| line(text, span.start));
        Read {
            wrong: vec![(line, format!("not valid TOML: {}", error.message()))],
            ..Read::default()
        }
    };
    let parsed = match DeTable::parse(text) {
        Ok(parsed) => parsed,
        Err(error) => return broken(error),
    };
    let mut values: Map<String, Value> = match toml::from_str(text) {
        Ok(values) => values,
        Err(error) => return broken(error),
    };
    let mut read = Read::default();
    let mut of_pool = Vec::new();
    for (name, table) in parsed.get_ref() {
        let (at, vm_type) = (line(text, name.span().start), name.get_ref().as_ref());
        match (table.get_ref(), values.remove(vm_type)) {
            (DeValue::Table(spans), Some(Value::Object(table))) if types.contains(&vm_type) => {
                read.has_password |= has_password(&table);
                let outer = Table {
                    text,
                    vm_type,
                    prefix: "",
                    of_pool: false,
                };
                outer.collect(spans, table, &mut read.entries);
            }
            (DeValue::Table(spans), Some(Value::Object(mut tables))) if vm_type == POOLS => {
                for (name, table) in spans {
                    let (at, name) = (line(text, start(name)), name.get_ref().as_ref());
                    match (table.get_ref(), tables.remove(name)) {
                        (DeValue::Table(spans), Some(Value::Object(table))) => {
                            read.pools.push(name.to_owned());
                            read.has_password |= has_password(&table);
                            let outer = Table {
                                text,
                                vm_type: POOL_TYPE,
                                prefix: "",
                                of_pool: true,
                            };
                            if pool == Some(name) {
                                outer.collect(spans, table, &mut of_pool);
                            }
                        }
                        _ => read.wrong.push((
                            at,
                            format!(
                                "{name:?} is no table; the keys of a pool go under [pools.NAME]"
                            ),
                        )),
                    }
                }
            }
            (DeValue::Table(_), _) => {
                read.wrong.push((
                    at,
                    format!("unknown table [{vm_type}]; {}", instead(vm_type)),
                ));
            }
            _ => read
                .wrong
                .push((at, format!("{vm_type:?} is outside of any table; {TABLES}"))),
        }
    }
    read.entries.append(&mut of_pool);
    read
}

/// Whether a password stands in a settings file of this text.
#[cfg(feature = "xcpng")]
pub(crate) fn holds_password(text: &str) -> bool {
    read(text, &super::TYPES, None).has_password
}

const TABLES: &str = "put all keys under [basic], [xcpng] or [pools.NAME]";

/// The table that was probably meant, or all.
fn instead(table: &str) -> String {
    let known = ["basic", "xcpng", POOLS];
    match known.iter().find(|known| distance(table, known) <= 2) {
        Some(known) => format!("did you mean [{known}]?"),
        None => TABLES.to_owned(),
    }
}

/// Whether the password of a pool stands in its table, by this or an earlier name.
fn has_password(table: &Map<String, Value>) -> bool {
    ["password", "xcp_password"]
        .iter()
        .any(|key| table.contains_key(*key))
}

/// The table of tables of named pools.
pub(super) const POOLS: &str = "pools";

/// The type of the VMs on them.
const POOL_TYPE: &str = "xcpng";

struct Table<'t> {
    text: &'t str,
    vm_type: &'t str,
    /// What its keys start with.
    prefix: &'t str,
    of_pool: bool,
}

impl Table<'_> {
    fn collect(&self, spans: &DeTable<'_>, mut values: Map<String, Value>, all: &mut Vec<Entry>) {
        for (name, span) in spans {
            let Some(value) = values.remove(name.get_ref().as_ref()) else {
                continue;
            };
            let key = format!("{}{}", self.prefix, name.get_ref());
            match (span.get_ref(), value) {
                // One on a line of its own is one value, whose parts have no lines.
                (DeValue::Table(spans), Value::Object(values)) if !values.is_empty() => {
                    let inner = Table {
                        prefix: &format!("{key}."),
                        ..*self
                    };
                    inner.collect(spans, values, all);
                }
                (_, value) => all.push(Entry {
                    vm_type: self.vm_type.to_owned(),
                    line: line(self.text, start(name)),
                    key,
                    value,
                    of_pool: self.of_pool,
                }),
            }
        }
    }
}

fn start<T>(spanned: &Spanned<T>) -> usize {
    spanned.span().start
}

/// The line of a place in a text, from 1.
fn line(text: &str, place: usize) -> usize {
    1 + text[..place.min(text.len())].matches('\n').count()
}
