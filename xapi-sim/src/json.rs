//! JSON as the server's own parser and printer have it, which is not quite JSON.
//!
//! Reading is lax: comments, raw control characters in strings, bare keys and `NaN` pass. Writing
//! emits bare `NaN`, `Infinity` and `-Infinity`, and keeps the `.0` of whole floats.

use std::fmt::Write as _;

use crate::value::{Value, general};

/// Why a text is not JSON even to the server.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    line: usize,
    /// Zero-based column, in bytes.
    column: usize,
    what: &'static str,
}

impl SyntaxError {
    /// The exception as the server prints it.
    pub(crate) fn exception(&self) -> String {
        format!(
            "Yojson__Common.Json_error(\"Line {}, bytes {}-{}:\\n{}\")",
            self.line,
            self.column.saturating_sub(1),
            self.column,
            self.what
        )
    }
}

/// Reads one document; nothing but blanks and comments may follow it.
pub(crate) fn parse(text: &str) -> Result<Value, SyntaxError> {
    let mut parser = Parser {
        bytes: text.as_bytes(),
        text,
        at: 0,
        depth: 0,
    };
    parser.skip_blanks()?;
    if parser.peek().is_none() {
        return Err(parser.error("Blank input data"));
    }
    let value = parser.value()?;
    parser.skip_blanks()?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.error("Junk after end of JSON value")),
    }
}

struct Parser<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    depth: usize,
}

/// Deep enough for any call, shallow enough for our stack.
const MAX_DEPTH: usize = 256;

impl Parser<'_> {
    fn error(&self, what: &'static str) -> SyntaxError {
        let before = &self.bytes[..self.at.min(self.bytes.len())];
        let line_start = before
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        SyntaxError {
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
            column: before.len() - line_start,
            what,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, literal: &str) -> bool {
        let found = self.text[self.at..].starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    fn skip_blanks(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'/') if self.bytes.get(self.at + 1) == Some(&b'/') => {
                    let rest = &self.bytes[self.at..];
                    self.at += rest
                        .iter()
                        .position(|&byte| byte == b'\n')
                        .unwrap_or(rest.len());
                }
                Some(b'/') if self.bytes.get(self.at + 1) == Some(&b'*') => {
                    match self.text[self.at + 2..].find("*/") {
                        Some(length) => self.at += length + 4,
                        None => return Err(self.error("Unterminated comment")),
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        match self.peek() {
            None => Err(self.error("Unexpected end of input")),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => {
                for (literal, value) in [
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                    ("null", Value::Nil),
                    ("NaN", Value::Float(f64::NAN)),
                    ("Infinity", Value::Float(f64::INFINITY)),
                ] {
                    if self.take(literal) {
                        return Ok(value);
                    }
                }
                Err(self.error("Invalid token"))
            }
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("Nesting too deep"));
        }
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        let mut members = Vec::new();
        self.skip_blanks()?;
        if self.take("}") {
            return Ok(Value::Struct(members));
        }
        loop {
            self.skip_blanks()?;
            let name = match self.peek() {
                Some(b'"') => self.string()?,
                Some(first) if first.is_ascii_alphabetic() || first == b'_' => self.bare_key(),
                None => return Err(self.error("Unexpected end of input")),
                Some(_) => return Err(self.error("Expected string or identifier")),
            };
            self.skip_blanks()?;
            if !self.take(":") {
                return Err(self.error("Expected ':'"));
            }
            self.skip_blanks()?;
            members.push((name, self.value()?));
            self.skip_blanks()?;
            if self.take("}") {
                return Ok(Value::Struct(members));
            }
            if !self.take(",") {
                return Err(self.unexpected("Expected ',' or '}'"));
            }
        }
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        self.skip_blanks()?;
        if self.take("]") {
            return Ok(Value::Array(items));
        }
        loop {
            self.skip_blanks()?;
            items.push(self.value()?);
            self.skip_blanks()?;
            if self.take("]") {
                return Ok(Value::Array(items));
            }
            if !self.take(",") {
                return Err(self.unexpected("Expected ',' or ']'"));
            }
        }
    }

    fn unexpected(&self, what: &'static str) -> SyntaxError {
        self.error(if self.peek().is_none() {
            "Unexpected end of input"
        } else {
            what
        })
    }

    fn bare_key(&mut self) -> String {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            self.at += 1;
        }
        self.text[start..self.at].to_owned()
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while self
                .peek()
                .is_some_and(|byte| byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            out.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(_) => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                None => return Err(self.error("Unexpected end of input")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let Some(kind) = self.peek() else {
            return Err(self.error("Unexpected end of input"));
        };
        self.at += 1;
        Ok(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&first) {
                    if !self.take("\\u") {
                        return Err(
                            self.error("Invalid low surrogate for code point beyond U+FFFF")
                        );
                    }
                    let second = self.hex4()?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(
                            self.error("Invalid low surrogate for code point beyond U+FFFF")
                        );
                    }
                    0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };
                char::from_u32(code).ok_or_else(|| self.error("Invalid code point"))?
            }
            _ => return Err(self.error("Invalid escape sequence")),
        })
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error("Invalid escape sequence"))?;
        self.at += 4;
        Ok(digits)
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        if self.take("-Infinity") {
            return Ok(Value::Float(f64::NEG_INFINITY));
        }
        let start = self.at;
        self.take("-");
        let whole = self.digits();
        if whole == 0 || (whole > 1 && self.bytes[self.at - whole] == b'0') {
            return Err(self.error("Invalid token"));
        }
        let mut float = false;
        if self.take(".") {
            float = true;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.error("Invalid token"));
            }
        }
        let text = &self.text[start..self.at];
        if float {
            text.parse()
                .map(Value::Float)
                .map_err(|_| self.error("Invalid token"))
        } else {
            text.parse()
                .map(Value::Int)
                .map_err(|_| self.error("Int64.of_string"))
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }
}

/// Writes a value after `out`.
pub(crate) fn write(out: &mut String, value: &Value) {
    match value {
        Value::Nil => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        // Writing to a String cannot fail.
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Int32(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Float(number) => write_float(out, *number),
        Value::String(text) | Value::DateTime(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, item);
            }
            out.push(']');
        }
        Value::Struct(members) => {
            out.push('{');
            for (index, (name, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(out, name);
                out.push(':');
                write(out, member);
            }
            out.push('}');
        }
    }
}

fn write_float(out: &mut String, number: f64) {
    if number.is_nan() {
        out.push_str("NaN");
    } else if number.is_infinite() {
        out.push_str(if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        });
    } else {
        let short = general(number, 16);
        let text = if short.parse() == Ok(number) {
            short
        } else {
            general(number, 17)
        };
        out.push_str(&text);
        if text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
        {
            out.push_str(".0");
        }
    }
}

pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(value: &Value) -> String {
        let mut out = String::new();
        write(&mut out, value);
        out
    }

    #[test]
    fn lax_where_the_server_is() {
        for (text, back) in [
            ("/* a */ {\"a\" : 1} // b", "{\"a\":1}"),
            ("\"raw\ntab\t\"", "\"raw\\ntab\\t\""),
            ("[NaN, Infinity, -Infinity]", "[NaN,Infinity,-Infinity]"),
            ("{bare: null}", "{\"bare\":null}"),
            (
                "[1.0, 1e20, 9223372036854775807]",
                "[1.0,1e+20,9223372036854775807]",
            ),
            ("\"\\u00e9\\ud83d\\ude00\\/\"", "\"\u{e9}\u{1f600}/\""),
            ("{\"a\":1,\"a\":2}", "{\"a\":1,\"a\":2}"),
        ] {
            assert_eq!(printed(&parse(text).unwrap()), back, "{text}");
        }
    }

    #[test]
    fn strict_where_the_server_is() {
        for text in [
            "",
            "{\"a\":1,}",
            "[1,]",
            "{'a':1}",
            "{} {}",
            "{}x",
            "\u{feff}{}",
            "\"\\ud800\"",
            "9223372036854775808",
            "01",
            "{\"jsonrpc\":\"2.0\",",
            "[",
            "\"",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn error_text_names_the_place() {
        let error = parse("{\"jsonrpc\":\"2.0\",").unwrap_err();
        assert_eq!(
            error.exception(),
            "Yojson__Common.Json_error(\"Line 1, bytes 16-17:\\nUnexpected end of input\")"
        );
    }
}
