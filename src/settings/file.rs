//! Settings files: TOML, of which the line of each key is kept.

use std::path::Path;

use bioxen_vm_core::Result;
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
pub(super) struct Read {
    pub(super) entries: Vec<Entry>,
    /// The names of its pools.
    pub(super) pools: Vec<String>,
}

/// Reads a file with a table for each of these types and for named pools, of which one may be wanted.
/// What that one says comes last. Tells all tables that the file must not have.
pub(super) fn read(path: &Path, types: &[&str], pool: Option<&str>) -> Result<Read> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        config(format!("cannot read the settings file {}", path.display())).with_source(error)
    })?;
    let broken = |error: toml::de::Error| {
        // The parser's own report quotes the line, which may hold a password.
        let line = error.span().map_or(1, |span| line(&text, span.start));
        config(format!(
            "{} line {line} is not valid TOML: {}",
            path.display(),
            error.message()
        ))
    };
    let parsed = DeTable::parse(&text).map_err(broken)?;
    let mut values: Map<String, Value> = toml::from_str(&text).map_err(broken)?;
    let mut entries = Vec::new();
    let mut pools = Vec::new();
    let mut of_pool = Vec::new();
    let mut wrong = Vec::new();
    for (name, table) in parsed.get_ref() {
        let (at, vm_type) = (line(&text, name.span().start), name.get_ref().as_ref());
        match (table.get_ref(), values.remove(vm_type)) {
            (DeValue::Table(spans), Some(Value::Object(table))) if types.contains(&vm_type) => {
                let outer = Table {
                    text: &text,
                    vm_type,
                    prefix: "",
                    of_pool: false,
                };
                outer.collect(spans, table, &mut entries);
            }
            (DeValue::Table(spans), Some(Value::Object(mut tables))) if vm_type == POOLS => {
                for (name, table) in spans {
                    let (at, name) = (line(&text, start(name)), name.get_ref().as_ref());
                    match (table.get_ref(), tables.remove(name)) {
                        (DeValue::Table(spans), Some(Value::Object(table))) => {
                            pools.push(name.to_owned());
                            let outer = Table {
                                text: &text,
                                vm_type: POOL_TYPE,
                                prefix: "",
                                of_pool: true,
                            };
                            if pool == Some(name) {
                                outer.collect(spans, table, &mut of_pool);
                            }
                        }
                        _ => wrong.push(format!(
                            "line {at} has {name:?} where a pool's table is due"
                        )),
                    }
                }
            }
            (DeValue::Table(_), _) => wrong.push(format!("line {at} has a table [{vm_type}]")),
            _ => wrong.push(format!("line {at} has {vm_type:?} outside of any table")),
        }
    }
    if !wrong.is_empty() {
        return Err(config(format!(
            "{} {}; put all keys under [basic], [xcpng] or [pools.NAME]",
            path.display(),
            wrong.join(", and ")
        )));
    }
    match pool {
        Some(pool) if !pools.iter().any(|known| known == pool) => Err(config(format!(
            "{} has no pool {pool:?}; {}",
            path.display(),
            match pools.as_slice() {
                [] => "write its keys under [pools.NAME]".to_owned(),
                known => format!("its pools: {}", known.join(", ")),
            }
        ))),
        _ => {
            entries.append(&mut of_pool);
            Ok(Read { entries, pools })
        }
    }
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
