//! How values look on the wire: what we send, and the many spellings that we accept.

mod datetime;
mod lenient;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserializer;
use serde::de::{DeserializeOwned, Error, Visitor};
use serde_json::Value;

pub use self::datetime::{DateTime, ParseDateTimeError};
pub(crate) use self::lenient::Lenient;

/// Decodes a value from JSON text, with the leniency that servers need: integers, floats and booleans may
/// be strings, floats may be `"NaN"` or `"Infinity"`, and any value stands for void.
pub(crate) fn decode<R: DeserializeOwned>(json: &str) -> Result<R, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = R::deserialize(Lenient(&mut deserializer))?;
    deserializer.end()?;
    Ok(value)
}

/// A value that can be a parameter.
pub trait ToWire {
    /// The value as JSON.
    fn to_wire(&self) -> Value;
}

impl<T: ToWire + ?Sized> ToWire for &T {
    fn to_wire(&self) -> Value {
        (**self).to_wire()
    }
}

impl ToWire for str {
    fn to_wire(&self) -> Value {
        Value::from(self)
    }
}

impl ToWire for String {
    fn to_wire(&self) -> Value {
        Value::from(self.as_str())
    }
}

impl ToWire for SecretString {
    fn to_wire(&self) -> Value {
        Value::from(self.expose_secret())
    }
}

impl ToWire for i64 {
    fn to_wire(&self) -> Value {
        Value::from(*self)
    }
}

impl ToWire for f64 {
    /// JSON has no numbers that are not finite; the server takes them as text.
    fn to_wire(&self) -> Value {
        serde_json::Number::from_f64(*self).map_or_else(
            || {
                Value::from(if self.is_nan() {
                    "nan"
                } else if *self > 0.0 {
                    "inf"
                } else {
                    "-inf"
                })
            },
            Value::Number,
        )
    }
}

impl ToWire for bool {
    fn to_wire(&self) -> Value {
        Value::from(*self)
    }
}

impl ToWire for Value {
    fn to_wire(&self) -> Value {
        self.clone()
    }
}

impl<T: ToWire> ToWire for [T] {
    fn to_wire(&self) -> Value {
        self.iter().map(ToWire::to_wire).collect()
    }
}

impl<T: ToWire> ToWire for Vec<T> {
    fn to_wire(&self) -> Value {
        self.as_slice().to_wire()
    }
}

impl<K: ToWire, V: ToWire> ToWire for BTreeMap<K, V> {
    fn to_wire(&self) -> Value {
        let entries = self.iter().map(|(key, value)| {
            let key = match key.to_wire() {
                Value::String(text) => text,
                other => other.to_string(),
            };
            (key, value.to_wire())
        });
        Value::Object(entries.collect())
    }
}

/// Appends trailing parameters that may be left out, and leaves out those after the last given one: an
/// older server counts, and refuses what it does not know. One that precedes a given one is filled with
/// the server's default, which stands beside it as JSON.
pub(crate) fn with_optional(
    mut params: Vec<Value>,
    optional: &mut [(Option<Value>, &str)],
) -> Vec<Value> {
    let given = optional
        .iter()
        .rposition(|(value, _)| value.is_some())
        .map_or(0, |last| last + 1);
    params.extend(optional[..given].iter_mut().map(|(value, default)| {
        value
            .take()
            .unwrap_or_else(|| serde_json::from_str(default).unwrap_or(Value::Null))
    }));
    params
}

/// Decodes a string into something made from text.
pub(crate) fn text<'de, D, T, F>(deserializer: D, make: F) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    F: FnOnce(&str) -> T,
{
    struct Text<T, F>(F, PhantomData<T>);

    impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Text<T, F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
            Ok((self.0)(value))
        }
    }

    deserializer.deserialize_str(Text(make, PhantomData))
}

#[cfg(test)]
mod tests;
