//! The text form of the server's database: what filters compare with, and what the metadata of a
//! snapshot consist of. Sets are `('a' 'b')`, maps `(('k' 'v'))`.

use xapi_client::meta::Type;

use crate::value::{Value, parse_int};

/// A value as the database writes it.
pub(crate) fn write(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Int32(number) => number.to_string(),
        Value::Float(number) => crate::value::general(*number, 18),
        Value::String(text) | Value::DateTime(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| quoted(&write(item))).collect();
            format!("({})", items.join(" "))
        }
        Value::Struct(members) => {
            let members = members.iter();
            write_pairs(members.map(|(key, value)| (key.clone(), write(value))))
        }
    }
}

/// Pairs of texts as a map.
pub(crate) fn write_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> String {
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(key, value)| format!("({} {})", quoted(&key), quoted(&value)))
        .collect();
    format!("({})", pairs.join(" "))
}

fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('\'', "\\'")
        .replace('\n', "\\n")
        .replace('\t', "\\t")
        .replace('\r', "\\r");
    format!("'{escaped}'")
}

/// Reads a value of a type; `None` for what is none.
pub(crate) fn read(ty: Type, text: &str) -> Option<Value> {
    Some(match ty {
        Type::Int => Value::Int(parse_int(text)?),
        Type::Float => Value::Float(text.parse().ok()?),
        Type::Bool => Value::Bool(text.parse().ok()?),
        Type::DateTime => Value::DateTime(text.to_owned()),
        Type::Set(inner) => {
            let mut reader = Reader(text);
            let items = reader.list(|reader| read(*inner, &reader.quoted()?))?;
            reader.0.is_empty().then_some(Value::Array(items))?
        }
        Type::Map(_, inner) => {
            let pairs = read_pairs(text)?.into_iter();
            let pairs = pairs.map(|(key, value)| Some((key, read(*inner, &value)?)));
            Value::Struct(pairs.collect::<Option<_>>()?)
        }
        _ => Value::from(text),
    })
}

/// Reads a map of texts.
pub(crate) fn read_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut reader = Reader(text);
    let pairs = reader.list(|reader| {
        let mut pair = reader.list(Reader::quoted)?.into_iter();
        Some((pair.next()?, pair.next()?))
    })?;
    reader.0.is_empty().then_some(pairs)
}

struct Reader<'t>(&'t str);

impl Reader<'_> {
    fn eat(&mut self, token: char) -> Option<()> {
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        self.eat('(')?;
        while self.eat(')').is_none() {
            if !items.is_empty() {
                self.eat(' ')?;
            }
            items.push(item(self)?);
        }
        Some(items)
    }

    fn quoted(&mut self) -> Option<String> {
        self.eat('\'')?;
        let mut out = String::new();
        let mut rest = self.0.char_indices();
        loop {
            match rest.next()? {
                (at, '\'') => {
                    self.0 = &self.0[at + 1..];
                    return Some(out);
                }
                (_, '\\') => out.push(match rest.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                }),
                (_, other) => out.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_as_a_real_server_writes_them() {
        for (value, text) in [
            (Value::strings(["a", "it's"]), "('a' 'it\\'s')"),
            (Value::map([("k", "v")]), "(('k' 'v'))"),
            (Value::Array(vec![]), "()"),
            (Value::Bool(true), "true"),
            (Value::Float(1.0), "1"),
            (Value::Float(0.5), "0.5"),
        ] {
            assert_eq!(write(&value), text);
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        static TEXTS: Type = Type::Set(&Type::String);
        let map = Type::Map(&Type::String, &Type::String);
        for (ty, value) in [
            (TEXTS, Value::strings(["a b", "it's", "\\", "line\n", ""])),
            (map, Value::map([("k'", "(('nested' '\\'v'))"), ("", "x")])),
            (map, Value::Struct(vec![])),
            (Type::Int, Value::Int(-7)),
            (Type::Float, Value::Float(0.1)),
            (Type::Bool, Value::Bool(false)),
        ] {
            assert_eq!(read(ty, &write(&value)), Some(value));
        }
        for text in ["", "(", "('a'", "('a)", "('a' 'b'", "('a') "] {
            assert_eq!(read(TEXTS, text), None, "{text}");
        }
    }
}
