//! Descriptions in TOML and JSON: tables of named values that are read with all their mistakes
//! told at once.

use std::fmt;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::value::{Value, parse_int};

/// What is wrong with a description, each mistake with its line if there are lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecError {
    problems: Vec<String>,
}

impl SpecError {
    /// The mistakes, in the order in which they were found.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("; "))
    }
}

/// A value and where it is.
#[derive(Debug)]
pub(crate) struct Spot {
    line: Option<usize>,
    node: Node,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Int(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Spot>),
    Table(Vec<(String, Spot)>),
    Other,
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Node::Text(_) => "text",
            Node::Int(_) | Node::Float(_) => "a number",
            Node::Flag(_) => "true or false",
            Node::List(_) => "a list",
            Node::Table(_) => "a table",
            Node::Other => "something else",
        }
    }
}

/// Reads a TOML text as a table.
pub(crate) fn read_toml<R>(
    text: &str,
    read: impl FnOnce(&mut Table, &mut Problems) -> R,
) -> Result<R, SpecError> {
    let line_at = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let parsed = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        SpecError {
            problems: vec![format!("line {line}: {}", error.message().trim())],
        }
    })?;
    let entries = table_of(parsed.get_ref(), &line_at);
    read_all(entries, "the file", read)
}

/// Reads a JSON value as a table.
pub(crate) fn read_json<R>(
    value: &Value,
    read: impl FnOnce(&mut Table, &mut Problems) -> R,
) -> Result<R, SpecError> {
    match spot_of(value).node {
        Node::Table(entries) => read_all(entries, "the request", read),
        other => Err(SpecError {
            problems: vec![format!("the request is {} and not a table", other.kind())],
        }),
    }
}

fn read_all<R>(
    entries: Vec<(String, Spot)>,
    place: &str,
    read: impl FnOnce(&mut Table, &mut Problems) -> R,
) -> Result<R, SpecError> {
    let mut problems = Problems(Vec::new());
    let mut table = Table {
        place: place.to_owned(),
        line: None,
        entries,
        asked: Vec::new(),
        lines: Vec::new(),
    };
    let result = read(&mut table, &mut problems);
    table.end(&mut problems);
    if problems.0.is_empty() {
        return Ok(result);
    }
    // In the order of the text.
    problems.0.sort_by_key(|(line, _)| *line);
    let told = problems.0.into_iter().map(|(line, text)| match line {
        Some(line) => format!("line {line}: {text}"),
        None => text,
    });
    Err(SpecError {
        problems: told.collect(),
    })
}

fn table_of(table: &DeTable<'_>, line_at: &dyn Fn(usize) -> usize) -> Vec<(String, Spot)> {
    let entries = table.iter().map(|(key, value)| {
        let line = Some(line_at(key.span().start));
        let spot = Spot {
            line,
            node: node_of(value, line_at),
        };
        (key.get_ref().to_string(), spot)
    });
    entries.collect()
}

fn node_of(value: &Spanned<DeValue<'_>>, line_at: &dyn Fn(usize) -> usize) -> Node {
    match value.get_ref() {
        DeValue::String(text) => Node::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Node::Other, Node::Int)
        }
        DeValue::Float(number) => number.as_str().parse().map_or(Node::Other, Node::Float),
        DeValue::Boolean(truth) => Node::Flag(*truth),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| Spot {
                line: Some(line_at(item.span().start)),
                node: node_of(item, line_at),
            });
            Node::List(items.collect())
        }
        DeValue::Table(table) => Node::Table(table_of(table, line_at)),
        DeValue::Datetime(_) => Node::Other,
    }
}

fn spot_of(value: &Value) -> Spot {
    let node = match value {
        Value::Nil => Node::Other,
        Value::Bool(truth) => Node::Flag(*truth),
        Value::Int(number) => Node::Int(*number),
        Value::Int32(number) => Node::Int(i64::from(*number)),
        Value::Float(number) => Node::Float(*number),
        Value::String(text) | Value::DateTime(text) => Node::Text(text.clone()),
        Value::Array(items) => Node::List(items.iter().map(spot_of).collect()),
        Value::Struct(members) => {
            let members = members.iter();
            Node::Table(
                members
                    .map(|(key, value)| (key.clone(), spot_of(value)))
                    .collect(),
            )
        }
    };
    Spot { line: None, node }
}

/// The mistakes so far, each with its line.
#[derive(Debug)]
pub(crate) struct Problems(Vec<(Option<usize>, String)>);

/// A table whose entries are taken one by one; what nobody asks for is a mistake.
#[derive(Debug)]
pub(crate) struct Table {
    /// What it describes, for people.
    place: String,
    line: Option<usize>,
    entries: Vec<(String, Spot)>,
    asked: Vec<&'static str>,
    /// The lines of what has been taken.
    lines: Vec<(&'static str, Option<usize>)>,
}

impl Table {
    fn take(&mut self, key: &'static str) -> Option<Spot> {
        self.asked.push(key);
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        let spot = self.entries.swap_remove(at).1;
        self.lines.push((key, spot.line));
        Some(spot)
    }

    /// Tells what is wrong with a value.
    fn complain(&self, problems: &mut Problems, spot: &Spot, key: &str, what: impl fmt::Display) {
        let line = spot.line.or(self.line);
        problems
            .0
            .push((line, format!("{key} in {} {what}", self.place)));
    }

    /// Tells that the table as a whole makes no sense.
    pub(crate) fn refuse(&self, problems: &mut Problems, why: impl fmt::Display) {
        problems
            .0
            .push((self.line, format!("{} {why}", self.place)));
    }

    /// Tells that a value which has been taken makes no sense.
    pub(crate) fn refuse_value(&self, problems: &mut Problems, key: &str, why: impl fmt::Display) {
        let line = self.lines.iter().find(|(known, _)| *known == key);
        let line = line.and_then(|(_, line)| *line).or(self.line);
        problems
            .0
            .push((line, format!("{key} in {} {why}", self.place)));
    }

    fn mistyped(&self, problems: &mut Problems, spot: &Spot, key: &str, wanted: &str) {
        let text = format!("is {} and has to be {wanted}", spot.node.kind());
        self.complain(problems, spot, key, text);
    }

    pub(crate) fn text(&mut self, problems: &mut Problems, key: &'static str) -> Option<String> {
        let spot = self.take(key)?;
        if let Node::Text(text) = &spot.node {
            return Some(text.clone());
        }
        self.mistyped(problems, &spot, key, "text");
        None
    }

    /// A text that has to be there.
    pub(crate) fn required(&mut self, problems: &mut Problems, key: &'static str) -> String {
        if !self.entries.iter().any(|(known, _)| known == key) {
            self.asked.push(key);
            let text = format!("{} has no {key}", self.place);
            problems.0.push((self.line, text));
            return String::new();
        }
        self.text(problems, key).unwrap_or_default()
    }

    pub(crate) fn flag(&mut self, problems: &mut Problems, key: &'static str) -> Option<bool> {
        let spot = self.take(key)?;
        if let Node::Flag(truth) = &spot.node {
            return Some(*truth);
        }
        self.mistyped(problems, &spot, key, "true or false");
        None
    }

    /// One of a few words, each with its meaning.
    pub(crate) fn word<T: Clone>(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let spot = self.take(key)?;
        let found = words
            .iter()
            .find(|(word, _)| matches!(&spot.node, Node::Text(text) if text == word));
        if let Some((_, meaning)) = found {
            return Some(meaning.clone());
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let text = format!("has to be one of {}", known.join(", "));
        self.complain(problems, &spot, key, text);
        None
    }

    /// A number that is not negative.
    pub(crate) fn count<T: TryFrom<i64>>(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
    ) -> Option<T> {
        let spot = self.take(key)?;
        if let Node::Int(number) = spot.node
            && number >= 0
            && let Ok(number) = T::try_from(number)
        {
            return Some(number);
        }
        self.complain(problems, &spot, key, "has to be a whole number, 0 or more");
        None
    }

    pub(crate) fn int(&mut self, problems: &mut Problems, key: &'static str) -> Option<i64> {
        let spot = self.take(key)?;
        if let Node::Int(number) = spot.node {
            return Some(number);
        }
        self.mistyped(problems, &spot, key, "a whole number");
        None
    }

    /// A share of the whole, from 0 to 1.
    pub(crate) fn share(&mut self, problems: &mut Problems, key: &'static str) -> Option<f64> {
        let spot = self.take(key)?;
        let share = number(&spot.node).filter(|share| (0.0..=1.0).contains(share));
        if share.is_none() {
            self.complain(problems, &spot, key, "has to be a number from 0 to 1");
        }
        share
    }

    /// A time in seconds.
    pub(crate) fn seconds(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
    ) -> Option<Duration> {
        let spot = self.take(key)?;
        let time = number(&spot.node).and_then(|time| Duration::try_from_secs_f64(time).ok());
        if time.is_none() {
            self.complain(
                problems,
                &spot,
                key,
                "has to be a number of seconds, 0 or more",
            );
        }
        time
    }

    /// A number of bytes: a whole number, or a text with a unit such as `8GiB`.
    pub(crate) fn bytes(&mut self, problems: &mut Problems, key: &'static str) -> Option<i64> {
        let spot = self.take(key)?;
        let bytes = match &spot.node {
            Node::Int(number) => Some(*number),
            Node::Text(text) => size(text),
            _ => None,
        };
        let bytes = bytes.filter(|bytes| *bytes >= 0);
        if bytes.is_none() {
            let text = "has to be a number of bytes, or a text such as \"8GiB\"";
            self.complain(problems, &spot, key, text);
        }
        bytes
    }

    /// A list of whole numbers.
    pub(crate) fn ints(&mut self, problems: &mut Problems, key: &'static str) -> Option<Vec<i64>> {
        let spot = self.take(key)?;
        if let Node::List(items) = &spot.node {
            let numbers = items.iter().map(|item| match item.node {
                Node::Int(number) => Some(number),
                _ => None,
            });
            if let Some(numbers) = numbers.collect() {
                return Some(numbers);
            }
        }
        self.complain(problems, &spot, key, "has to be a list of whole numbers");
        None
    }

    /// A list of texts; empty where it is missing.
    pub(crate) fn texts(&mut self, problems: &mut Problems, key: &'static str) -> Vec<String> {
        let Some(spot) = self.take(key) else {
            return Vec::new();
        };
        if let Node::List(items) = &spot.node {
            let texts = items.iter().map(|item| match &item.node {
                Node::Text(text) => Some(text.clone()),
                _ => None,
            });
            if let Some(texts) = texts.collect() {
                return texts;
            }
        }
        self.complain(problems, &spot, key, "has to be a list of texts");
        Vec::new()
    }

    /// Reads each table of a list.
    pub(crate) fn tables<T>(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        mut read: impl FnMut(&mut Table, &mut Problems) -> T,
    ) -> Vec<T> {
        let Some(spot) = self.take(key) else {
            return Vec::new();
        };
        let items = match spot.node {
            Node::List(items) => items,
            _ => {
                self.mistyped(problems, &spot, key, &format!("a list: write [[{key}]]"));
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for item in items {
            let line = item.line;
            match item.node {
                Node::Table(entries) => {
                    let mut table = Table {
                        place: format!("[[{key}]]"),
                        line,
                        entries,
                        asked: Vec::new(),
                        lines: Vec::new(),
                    };
                    found.push(read(&mut table, problems));
                    table.end(problems);
                }
                _ => self.mistyped(problems, &item, key, "a list of tables"),
            }
        }
        found
    }

    /// Reads a table inside, if it is there.
    pub(crate) fn table<T>(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        read: impl FnOnce(&mut Table, &mut Problems) -> T,
    ) -> Option<T> {
        let spot = self.take(key)?;
        let Node::Table(entries) = spot.node else {
            self.mistyped(problems, &spot, key, "a table");
            return None;
        };
        let mut table = Table {
            place: format!("[{key}]"),
            line: spot.line,
            entries,
            asked: Vec::new(),
            lines: Vec::new(),
        };
        let found = read(&mut table, problems);
        table.end(problems);
        Some(found)
    }

    /// Whether a key is there that has not been taken yet.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == key)
    }

    /// Complains about what nobody asked for.
    fn end(&self, problems: &mut Problems) {
        for (key, spot) in &self.entries {
            let known = self.asked.join(", ");
            let text = format!("is unknown; known are {known}");
            self.complain(problems, spot, key, text);
        }
    }
}

fn number(node: &Node) -> Option<f64> {
    match node {
        Node::Int(number) => Some(*number as f64),
        Node::Float(number) => Some(*number),
        _ => None,
    }
}

/// Bytes with a unit: `512MiB`, `8 GiB`.
fn size(text: &str) -> Option<i64> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    parse_int(digits.trim())?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("8GiB", Some(8 << 30)),
            ("2 TiB", Some(2 << 40)),
            ("8GB", None),
            ("", None),
            ("9999999TiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_with_their_lines() {
        let text = "a = 1\nb = \"x\"\n\n[[thing]]\nname = 3\n\n[[thing]]\nsize = \"8GB\"\nc = 1\n";
        let error = read_toml(text, |table, problems| {
            table.text(problems, "a");
            table.text(problems, "b");
            table.tables(problems, "thing", |table, problems| {
                table.required(problems, "name");
                table.bytes(problems, "size");
            })
        })
        .unwrap_err();
        assert_eq!(
            error.problems(),
            [
                "line 1: a in the file is a number and has to be text",
                "line 5: name in [[thing]] is a number and has to be text",
                "line 7: [[thing]] has no name",
                "line 8: size in [[thing]] has to be a number of bytes, or a text such as \"8GiB\"",
                "line 9: c in [[thing]] is unknown; known are name, size",
            ]
        );
    }

    #[test]
    fn text_that_is_no_toml_has_a_line() {
        let error = read_toml("a = 1\nb = = 2\n", |_, _| ()).unwrap_err();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
    }
}
