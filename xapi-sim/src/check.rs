//! Parameters against the types of the datamodel, with the server's own complaints.

use xapi_client::meta::{self, Type};

use crate::clock;
use crate::failure::Failure;
use crate::value::{Value, parse_int};

/// Brings a value as it came over the wire into the type that the datamodel declares.
///
/// # Errors
///
/// `INTERNAL_ERROR` with the text of the exception that a real server answers with.
pub(crate) fn convert(ty: Type, value: Value) -> Result<Value, Failure> {
    match ty {
        Type::String | Type::SecretString | Type::Ref(_) => match value {
            Value::String(_) => Ok(value),
            other => Err(expected("string", &other)),
        },
        Type::Int => match value {
            Value::Int(_) => Ok(value),
            Value::Int32(number) => Ok(Value::Int(i64::from(number))),
            Value::String(text) => parse_int(&text)
                .map(Value::Int)
                .ok_or_else(|| Failure::internal_failure("Int64.of_string")),
            other => Err(expected("int64", &other)),
        },
        Type::Float => match value {
            Value::Float(_) => Ok(value),
            Value::Int(number) => Ok(Value::Float(number as f64)),
            Value::Int32(number) => Ok(Value::Float(f64::from(number))),
            Value::String(text) => parse_float(&text)
                .map(Value::Float)
                .ok_or_else(|| Failure::internal_failure("float_of_string")),
            other => Err(expected("float", &other)),
        },
        Type::Bool => match value {
            Value::Bool(_) => Ok(value),
            other => Err(expected("bool", &other)),
        },
        Type::DateTime => match value {
            Value::String(text) | Value::DateTime(text) => {
                clock::normalise(&text).map(Value::DateTime).ok_or_else(|| {
                    let text = crate::failure::escaped(&text);
                    Failure::internal(format!("Invalid_argument(\"date_of_iso8601: {text}\")"))
                })
            }
            other => Err(expected("DateTime", &other)),
        },
        Type::Enum(name) => value
            .as_str()
            .and_then(|text| canonical(name, text))
            .map(Value::from)
            .ok_or_else(|| Failure::internal_failure("Unknown tag/contents")),
        Type::Set(inner) => match value {
            Value::Array(items) => {
                let items = items.into_iter().map(|item| convert(*inner, item));
                items.collect::<Result<_, _>>().map(Value::Array)
            }
            other => Err(expected("list", &other)),
        },
        Type::Map(key, inner) => match value {
            Value::Struct(members) => map(*key, *inner, members),
            other => Err(expected("dict", &other)),
        },
        Type::Option(inner) => match value {
            Value::Nil => Ok(value),
            other => convert(*inner, other),
        },
        Type::Record(_) | Type::EventBatch | Type::Void => Ok(value),
    }
}

fn expected(what: &str, value: &Value) -> Failure {
    Failure::internal_failure(&format!("Expected {what}, got '{}'", value.debug_text()))
}

fn map(key: Type, inner: Type, members: Vec<(String, Value)>) -> Result<Value, Failure> {
    let mut out: Vec<(String, Value)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        let name = match convert(key, Value::String(name))? {
            Value::Int(number) => number.to_string(),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        let value = convert(inner, value)?;
        // Of duplicate keys the last wins.
        match out.iter_mut().find(|(existing, _)| *existing == name) {
            Some((_, existing)) => *existing = value,
            None => out.push((name, value)),
        }
    }
    Ok(Value::Struct(out))
}

/// The value of an enum in the datamodel's spelling: the server reads any mix of cases.
fn canonical(name: &str, text: &str) -> Option<&'static str> {
    let entry = meta::ENUMS.iter().find(|entry| entry.name == name)?;
    entry
        .values
        .iter()
        .find(|value| value.eq_ignore_ascii_case(text))
        .copied()
}

fn parse_float(text: &str) -> Option<f64> {
    if let Some(digits) = text.trim_start_matches(['-', '+']).get(..2)
        && matches!(digits, "0x" | "0X")
    {
        // Hexadecimal floats without a point are all that anybody writes.
        return crate::value::parse_int(text).map(|number| number as f64);
    }
    let bare = text.replace('_', "");
    // Rust reads "infinity" and friends as well, and so does the server.
    (!bare.starts_with(char::is_whitespace))
        .then(|| bare.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        Failure::internal(format!("Failure(\"{text}\")"))
    }

    #[test]
    fn scalars() {
        assert_eq!(
            convert(Type::Bool, Value::from("false")),
            Err(failure("Expected bool, got 'S(false)'"))
        );
        assert_eq!(convert(Type::Int, Value::from("0x10")), Ok(Value::Int(16)));
        assert_eq!(
            convert(Type::Float, Value::from("0x10")),
            Ok(Value::Float(16.0))
        );
        assert_eq!(
            convert(Type::Int, Value::from("1.5")),
            Err(failure("Int64.of_string"))
        );
        assert!(convert(Type::Int, Value::Float(1.0)).is_err());
        assert_eq!(
            convert(Type::Float, Value::from("1.5")),
            Ok(Value::Float(1.5))
        );
        assert_eq!(convert(Type::Float, Value::Int(2)), Ok(Value::Float(2.0)));
        assert!(convert(Type::Float, Value::Bool(true)).is_err());
        assert!(convert(Type::String, Value::Nil).is_err());
        assert!(convert(Type::DateTime, Value::from("2025-03-19")).is_err());
    }

    #[test]
    fn enums_are_read_in_any_case() {
        let ty = Type::Enum("on_normal_exit");
        assert_eq!(
            convert(ty, Value::from("Destroy")),
            Ok(Value::from("destroy"))
        );
        assert_eq!(
            convert(ty, Value::from("explode")),
            Err(failure("Unknown tag/contents"))
        );
        let map = Type::Map(&Type::Enum("vm_operations"), &Type::String);
        assert_eq!(
            convert(map, Value::map([("START", "x")])),
            Ok(Value::map([("start", "x")]))
        );
    }

    #[test]
    fn collections() {
        let set = Type::Set(&Type::String);
        assert_eq!(
            convert(set, Value::strings(["a", "b", "a"])),
            Ok(Value::strings(["a", "b", "a"]))
        );
        assert!(convert(set, Value::from("a")).is_err());
        let map = Type::Map(&Type::String, &Type::String);
        assert_eq!(
            convert(map, Value::map([("a", "1"), ("a", "2")])),
            Ok(Value::map([("a", "2")]))
        );
    }
}
