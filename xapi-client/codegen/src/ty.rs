//! The type grammar of the schema.

use anyhow::{Result, bail};

/// A type of the datamodel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    Void,
    String,
    SecretString,
    Int,
    Float,
    Bool,
    DateTime,
    /// A string in the schema; the field `uuid` of records.
    Uuid,
    EventBatch,
    /// The record of the class that the surrounding event names.
    AnyRecord,
    Enum(String),
    Ref(String),
    Record(String),
    Set(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Option(Box<Type>),
}

impl Type {
    /// Parses `set(ref VM)`, `map(string,enum vm_operations)` and the like.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some(inner) = argument(text, "set") {
            return Ok(Self::Set(Box::new(Self::parse(inner)?)));
        }
        if let Some(inner) = argument(text, "option") {
            return Ok(Self::Option(Box::new(Self::parse(inner)?)));
        }
        if let Some(inner) = argument(text, "map") {
            // Keys are scalars, so the first comma ends the key.
            let Some((key, value)) = inner.split_once(',') else {
                bail!("a map needs a key and a value type: `{text}`");
            };
            return Ok(Self::Map(
                Box::new(Self::parse(key)?),
                Box::new(Self::parse(value)?),
            ));
        }
        Ok(match text.split_once(' ') {
            Some(("enum", name)) => Self::Enum(name.to_owned()),
            Some(("ref", name)) => Self::Ref(name.to_owned()),
            Some(("record", "<class>")) => Self::AnyRecord,
            Some(("record", name)) => Self::Record(name.to_owned()),
            Some(_) => bail!("unknown type `{text}`"),
            None => match text {
                "void" => Self::Void,
                "string" => Self::String,
                "secret_string" => Self::SecretString,
                "int" => Self::Int,
                "float" => Self::Float,
                "bool" => Self::Bool,
                "datetime" => Self::DateTime,
                "event_batch" => Self::EventBatch,
                _ => bail!("unknown type `{text}`"),
            },
        })
    }
}

fn argument<'a>(text: &'a str, constructor: &str) -> Option<&'a str> {
    text.strip_prefix(constructor)?
        .strip_prefix('(')?
        .strip_suffix(')')
}
