//! The value model of the API: what parameters and results are made of.

use std::fmt::Write as _;

/// The null reference.
pub const NULL_REF: &str = "OpaqueRef:NULL";

/// "Never", as the server writes it.
pub(crate) const EPOCH: &str = "19700101T00:00:00Z";

/// A parameter or a result.
///
/// Both wire formats decode into this and encode from it. Structs keep their order, because the
/// server does: a client that prints a record sees the fields in the order of the datamodel.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value (`null`, `<nil/>`). The server sends it for nothing but the unused half of a
    /// JSON-RPC 1.0 reply.
    Nil,
    /// A truth value.
    Bool(bool),
    /// A 64-bit integer; XML-RPC carries it as plain text.
    Int(i64),
    /// A 32-bit integer; XML-RPC carries it as `<i4>`. Only `event.from` uses it, for counts.
    Int32(i32),
    /// A double.
    Float(f64),
    /// Text, a reference or a value of an enum.
    String(String),
    /// A point in time, in the server's own text form.
    DateTime(String),
    /// A set; order and duplicates are kept.
    Array(Vec<Value>),
    /// A map or a record.
    Struct(Vec<(String, Value)>),
}

impl Value {
    /// Text.
    pub fn string(text: impl Into<String>) -> Self {
        Value::String(text.into())
    }

    /// The result of a message without one: the empty string.
    pub(crate) fn void() -> Self {
        Value::String(String::new())
    }

    /// The null reference.
    pub(crate) fn null_ref() -> Self {
        Value::string(NULL_REF)
    }

    /// A set of texts.
    pub fn strings<S: Into<String>>(items: impl IntoIterator<Item = S>) -> Self {
        Value::Array(items.into_iter().map(Value::string).collect())
    }

    /// A map from text to text.
    pub fn map<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Value::Struct(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), Value::string(value)))
                .collect(),
        )
    }

    /// The text of a string or a point in time.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) | Value::DateTime(text) => Some(text),
            _ => None,
        }
    }

    /// The integer.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Int32(number) => Some(i64::from(*number)),
            _ => None,
        }
    }

    /// The truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The items of a set; empty for anything else.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The members of a map or record; empty for anything else.
    #[must_use]
    pub fn members(&self) -> &[(String, Value)] {
        match self {
            Value::Struct(members) => members,
            _ => &[],
        }
    }

    /// The member with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.members()
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// The notation that the server uses for values in the text of its errors.
    pub(crate) fn debug_text(&self) -> String {
        let mut out = String::new();
        self.write_debug(&mut out);
        out
    }

    fn write_debug(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = match self {
            Value::Nil => out.write_str("N"),
            Value::Bool(truth) => write!(out, "B({truth})"),
            Value::Int(number) => write!(out, "I({number})"),
            Value::Int32(number) => write!(out, "I32({number})"),
            Value::Float(number) => write!(out, "F({})", general(*number, 6)),
            Value::String(text) => write!(out, "S({text})"),
            Value::DateTime(text) => write!(out, "D({text})"),
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(';');
                    }
                    item.write_debug(out);
                }
                out.write_char(']')
            }
            Value::Struct(members) => {
                out.push('{');
                for (index, (name, member)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(';');
                    }
                    out.push_str(name);
                    out.push(':');
                    member.write_debug(out);
                }
                out.write_char('}')
            }
        };
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Float(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::String(text)
    }
}

/// C's `%.<precision>g`, which the server uses wherever a float becomes text.
pub(crate) fn general(number: f64, precision: usize) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{number:.*e}", precision - 1);
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| -> String {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    let places = i32::try_from(precision).unwrap_or(i32::MAX) - 1 - exponent;
    if exponent < -4 || places < 0 {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(digits), exponent.abs())
    } else {
        trim(&format!(
            "{number:.*}",
            usize::try_from(places).unwrap_or(0)
        ))
    }
}

/// Reads an integer in the syntax of the server's language: decimal, `0x`, `0o`, `0b`, with sign
/// and underscores; nothing around it.
pub(crate) fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    let digits: String = digits.chars().filter(|&digit| digit != '_').collect();
    if radix == 10 {
        let magnitude: i128 = digits.parse().ok()?;
        i64::try_from(if negative { -magnitude } else { magnitude }).ok()
    } else {
        // Other radixes name bit patterns, so 0xffffffffffffffff is -1.
        let bits = u64::from_str_radix(&digits, radix).ok()?;
        let number = i64::from_ne_bytes(bits.to_ne_bytes());
        Some(if negative {
            number.wrapping_neg()
        } else {
            number
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_is_printf_g() {
        for (number, precision, text) in [
            (1.0, 16, "1"),
            (0.1, 16, "0.1"),
            (1e20, 16, "1e+20"),
            (1.5e-7, 16, "1.5e-07"),
            (123_456_789.0, 6, "1.23457e+08"),
            (2.25, 6, "2.25"),
            (f64::NAN, 16, "nan"),
            (f64::NEG_INFINITY, 16, "-inf"),
        ] {
            assert_eq!(general(number, precision), text);
        }
    }

    #[test]
    fn integers_follow_the_servers_syntax() {
        for (text, number) in [
            ("7", 7),
            ("+7", 7),
            ("-7", -7),
            ("0x1", 1),
            ("1_000", 1000),
            ("0xffffffffffffffff", -1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(parse_int(text), Some(number), "{text}");
        }
        for text in [
            " 1",
            "",
            "1.5",
            "-",
            "_1",
            "0x",
            "1 ",
            "9223372036854775808",
            "true",
        ] {
            assert_eq!(parse_int(text), None, "{text}");
        }
    }

    #[test]
    fn debug_text_is_the_servers() {
        let value = Value::Struct(vec![
            (
                "a".to_owned(),
                Value::Array(vec![Value::Int(1), Value::Bool(true)]),
            ),
            ("b".to_owned(), Value::Nil),
        ]);
        assert_eq!(value.debug_text(), "{a:[I(1);B(true)];b:N}");
        assert_eq!(Value::Float(1.0).debug_text(), "F(1)");
    }
}
