//! What of the datamodel the generated files hold, and why the rest is left out.
//!
//! It looks at the text of the files as they lie there, not at what the generator meant to write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::descriptor::{Class, Descriptor, State, state};
use crate::names::value_name;

const REMOVED: &str = "the server has removed it";
const REMOVED_CLASS: &str = "it is of, or about, a class that the server has removed";
const INTERNAL: &str = "it is internal to the server";
const POOL_INTERNAL: &str = "only hosts of the pool may call it";
const HAND_WRITTEN: &str = "it is written by hand, in src/event.rs";
const UNUSED: &str = "nothing that is generated has a value of this enum";

/// The coverage of each kind of item.
pub(crate) struct Coverage {
    kinds: Vec<Kind>,
}

struct Kind {
    name: &'static str,
    generated: usize,
    /// What is left out, by the reason.
    left_out: BTreeMap<&'static str, Vec<String>>,
    missing: Vec<String>,
}

impl Coverage {
    /// Compares a datamodel with the files that were generated from it.
    pub(crate) fn of(descriptor: &Descriptor, generated: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = generated.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let removed: BTreeSet<_> = descriptor
            .classes
            .iter()
            .filter(|class| state(&class.lifecycle) == State::Removed)
            .map(|class| class.name.as_str())
            .collect();
        let names_removed = |ty: &str| words(ty).any(|word| removed.contains(word));
        let mut messages = Kind::new("messages");
        let mut fields = Kind::new("fields");
        let mut all_text = String::new();
        for class in &descriptor.classes {
            let class_is_removed = removed.contains(class.name.as_str());
            let text = if class_is_removed {
                String::new()
            } else {
                read(&format!("{}.rs", value_name(&class.name)))?
            };
            for message in &class.messages {
                let wire = format!("{}.{}", class.name, message.name);
                let is_there = text.contains(&format!("\"{wire}\""));
                let about_removed = names_removed(&message.result)
                    || message.params.iter().any(|param| names_removed(&param.ty));
                let reason = if state(&message.lifecycle) == State::Removed {
                    Some(REMOVED)
                } else if message.pool_internal {
                    Some(POOL_INTERNAL)
                } else {
                    (class_is_removed || about_removed).then_some(REMOVED_CLASS)
                };
                messages.add(wire, is_there, reason);
            }
            fields.add_fields(class, &text, class_is_removed, names_removed);
            all_text.push_str(&text);
        }
        let mut enums = Kind::new("enum values");
        let text = read("enums.rs")?;
        for item in &descriptor.enums {
            let head = format!("/// The enum `{}`.\n", item.name);
            let block = text.split_once(&head).map(|(_, rest)| rest);
            let block = block.and_then(|rest| rest.split("\n}\n").next());
            for value in &item.values {
                let is_there = block.is_some_and(|text| text.contains(&format!(" = \"{value}\"")));
                let reason = block.is_none().then_some(UNUSED);
                enums.add(format!("{}.{value}", item.name), is_there, reason);
            }
        }
        let mut errors = Kind::new("errors");
        let text = read("errors.rs")?;
        for error in &descriptor.errors {
            let is_there = text.contains(&format!(" = \"{}\"", error.code));
            errors.add(error.code.clone(), is_there, None);
        }
        Ok(Self {
            kinds: vec![messages, fields, enums, errors],
        })
    }

    /// What is neither generated nor left out for a reason.
    pub(crate) fn missing(&self) -> Vec<&str> {
        let missing = self.kinds.iter().flat_map(|kind| &kind.missing);
        missing.map(String::as_str).collect()
    }
}

impl Kind {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            generated: 0,
            left_out: BTreeMap::new(),
            missing: Vec::new(),
        }
    }

    fn add(&mut self, item: String, is_there: bool, reason: Option<&'static str>) {
        match reason {
            _ if is_there => self.generated += 1,
            Some(reason) => self.left_out.entry(reason).or_default().push(item),
            None => self.missing.push(item),
        }
    }

    fn add_fields(
        &mut self,
        class: &Class,
        text: &str,
        class_is_removed: bool,
        names_removed: impl Fn(&str) -> bool,
    ) {
        for field in &class.fields {
            // Filters and constructors name fields too, but do not say who writes them.
            let is_there = text.contains(&format!("/// `{}`, ", field.name));
            let reason = if state(&field.lifecycle) == State::Removed {
                Some(REMOVED)
            } else if field.internal {
                Some(INTERNAL)
            } else if class_is_removed || names_removed(&field.ty) {
                Some(REMOVED_CLASS)
            } else {
                (class.name == "event").then_some(HAND_WRITTEN)
            };
            self.add(format!("{}.{}", class.name, field.name), is_there, reason);
        }
    }
}

/// The names in a type, `ref VM` or `map(string,set(enum x))`.
fn words(ty: &str) -> impl Iterator<Item = &str> {
    ty.split([' ', '(', ')', ','])
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:12} {:>9} {:>9} {:>9}",
            "", "generated", "left out", "missing"
        )?;
        for kind in &self.kinds {
            let left_out: usize = kind.left_out.values().map(Vec::len).sum();
            let (name, generated, missing) = (kind.name, kind.generated, kind.missing.len());
            writeln!(f, "{name:12} {generated:>9} {left_out:>9} {missing:>9}")?;
        }
        for kind in &self.kinds {
            for (reason, items) in &kind.left_out {
                let (name, count) = (kind.name, items.len());
                writeln!(
                    f,
                    "\n{name}: {count} left out, because {reason}:\n  {}",
                    items.join(", ")
                )?;
            }
            if !kind.missing.is_empty() {
                writeln!(
                    f,
                    "\n{}: missing:\n  {}",
                    kind.name,
                    kind.missing.join(", ")
                )?;
            }
        }
        Ok(())
    }
}
