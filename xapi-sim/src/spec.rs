//! Descriptions in TOML and JSON: tables of named values that are read with all their mistakes
//! told at once.

mod table;

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(crate) use self::table::Table;
use crate::value::Value;

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
    let mut table = Table::new(place.to_owned(), None, entries);
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

#[cfg(test)]
mod tests {
    use super::*;

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
