//! Lua values as data.

use std::fmt;

use bytes::Bytes;

use crate::{Error, ErrorKind, Result};

/// What a program or a chunk returned.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Returned {
    /// No value: it returned none, or did not come to its end.
    #[default]
    Nothing,
    /// These values: `return 1, "x"` gives two.
    Values(Vec<LuaValue>),
    /// Something that is no data, and why: `a function at [1].callback`. No failure: the program
    /// did what it did.
    NotData(String),
}

impl Returned {
    /// The first value, where there is one.
    #[must_use]
    pub fn first(&self) -> Option<&LuaValue> {
        match self {
            Self::Values(values) => values.first(),
            Self::Nothing | Self::NotData(_) => None,
        }
    }
}

/// A Lua value that is data, exactly: integers stay integers, strings stay bytes.
///
/// Lua 5.1, 5.2 and LuaJIT know one kind of number. There, what is whole and can be told apart
/// from its neighbours (up to 2^53) counts as an integer.
#[derive(Debug, Clone, PartialEq)]
pub enum LuaValue {
    /// `nil`; only among returned values, for no table holds it.
    Nil,
    /// A boolean.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// A number with a fraction, too large for an integer, infinite, or NaN.
    Float(f64),
    /// A string: any bytes.
    String(Bytes),
    /// A table. Metatables are left out.
    Table(LuaTable),
}

/// A table as data.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct LuaTable {
    /// The values at 1, 2, 3 and so on up to the first `nil`.
    pub array: Vec<LuaValue>,
    /// All others, sorted by key: booleans, integers, other numbers, strings.
    pub fields: Vec<(LuaValue, LuaValue)>,
}

impl LuaTable {
    /// The value of a field with a string key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&LuaValue> {
        self.fields.iter().find_map(|(at, value)| match at {
            LuaValue::String(name) if name == key.as_bytes() => Some(value),
            _ => None,
        })
    }
}

impl LuaValue {
    /// The string as text, if this is a string and UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number, if this is one. Integers beyond 2^53 are rounded.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "said in the documentation")]
            Self::Integer(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The integer, if this is one.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The field of a table with this string key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&LuaValue> {
        match self {
            Self::Table(table) => table.get(key),
            _ => None,
        }
    }

    /// The same as JSON, from which `serde_json::from_value` makes a typed value.
    ///
    /// A table with array values only is an array, any other an object whose keys are text; the
    /// empty table is an empty array.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for what JSON cannot hold: infinite numbers and NaN,
    /// strings that are not UTF-8, keys that are no strings, integers or booleans.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        use serde_json::Value;
        Ok(match self {
            Self::Nil => Value::Null,
            Self::Boolean(value) => Value::Bool(*value),
            Self::Integer(number) => Value::from(*number),
            Self::Float(number) => serde_json::Number::from_f64(*number)
                .map(Value::Number)
                .ok_or_else(|| no_json(&format!("the number {number}")))?,
            Self::String(_) => Value::String(self.text()?),
            Self::Table(table) if table.fields.is_empty() => Value::Array(
                table
                    .array
                    .iter()
                    .map(Self::to_json)
                    .collect::<Result<_>>()?,
            ),
            Self::Table(table) => {
                let mut object = serde_json::Map::new();
                for (index, value) in table.array.iter().enumerate() {
                    object.insert((index + 1).to_string(), value.to_json()?);
                }
                for (key, value) in &table.fields {
                    object.insert(key.text()?, value.to_json()?);
                }
                Value::Object(object)
            }
        })
    }

    fn text(&self) -> Result<String> {
        match self {
            Self::String(bytes) => std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|_| no_json("a string that is not UTF-8")),
            Self::Integer(number) => Ok(number.to_string()),
            Self::Boolean(value) => Ok(value.to_string()),
            other => Err(no_json(&format!("the key {other}"))),
        }
    }
}

fn no_json(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("JSON cannot hold {what}"))
}

impl fmt::Display for LuaValue {
    /// As Lua source text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) if number.is_nan() => f.write_str("0/0"),
            Self::Float(number) if number.is_infinite() => {
                f.write_str(if *number > 0.0 { "1/0" } else { "-1/0" })
            }
            Self::Float(number) => write!(f, "{number:?}"),
            Self::String(bytes) => {
                f.write_str("\"")?;
                for byte in bytes {
                    match byte {
                        b'"' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                        b'\n' => f.write_str("\\n")?,
                        b' '..=b'~' => write!(f, "{}", char::from(*byte))?,
                        byte => write!(f, "\\{byte:03}")?,
                    }
                }
                f.write_str("\"")
            }
            Self::Table(table) => {
                f.write_str("{")?;
                let mut separator = "";
                for value in &table.array {
                    write!(f, "{separator}{value}")?;
                    separator = ", ";
                }
                for (key, value) in &table.fields {
                    match key.as_str().filter(|name| is_name(name)) {
                        Some(name) => write!(f, "{separator}{name} = {value}")?,
                        None => write!(f, "{separator}[{key}] = {value}")?,
                    }
                    separator = ", ";
                }
                f.write_str("}")
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    const KEYWORDS: [&str; 22] = [
        "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if",
        "in", "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
    ];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !KEYWORDS.contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(array: Vec<LuaValue>, fields: Vec<(LuaValue, LuaValue)>) -> LuaValue {
        LuaValue::Table(LuaTable { array, fields })
    }

    #[test]
    fn json_keeps_what_it_can_hold_and_names_what_it_cannot() {
        let value = table(
            vec![LuaValue::Integer(i64::MAX), LuaValue::Float(0.5)],
            vec![(LuaValue::String("gc".into()), LuaValue::Boolean(true))],
        );
        assert_eq!(
            value.to_json().unwrap(),
            json!({"1": i64::MAX, "2": 0.5, "gc": true})
        );
        assert_eq!(table(vec![], vec![]).to_json().unwrap(), json!([]));
        for value in [
            LuaValue::Float(f64::NAN),
            LuaValue::String(Bytes::from_static(b"\xff")),
            table(vec![], vec![(LuaValue::Float(0.5), LuaValue::Nil)]),
        ] {
            let error = value.to_json().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }

    #[test]
    fn a_value_shows_as_lua_source() {
        let value = table(
            vec![LuaValue::Integer(1), LuaValue::String("a\"\n\0".into())],
            vec![
                (LuaValue::String("gc".into()), LuaValue::Float(0.5)),
                (LuaValue::String("end".into()), LuaValue::Nil),
            ],
        );
        assert_eq!(
            value.to_string(),
            r#"{1, "a\"\n\000", gc = 0.5, ["end"] = nil}"#
        );
    }
}
