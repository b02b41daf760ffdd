//! A table of a description, whose entries are taken one by one.

use std::fmt;
use std::time::Duration;

use super::{Node, Problems, Spot};
use crate::value::parse_int;

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
    pub(super) fn new(place: String, line: Option<usize>, entries: Vec<(String, Spot)>) -> Self {
        Table {
            place,
            line,
            entries,
            asked: Vec::new(),
            lines: Vec::new(),
        }
    }

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

    /// A table of texts, each with a name of its own; empty where it is missing.
    pub(crate) fn pairs(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
    ) -> Vec<(String, String)> {
        let Some(spot) = self.take(key) else {
            return Vec::new();
        };
        if let Node::Table(entries) = &spot.node {
            let pairs = entries.iter().map(|(name, value)| match &value.node {
                Node::Text(text) => Some((name.clone(), text.clone())),
                _ => None,
            });
            if let Some(pairs) = pairs.collect() {
                return pairs;
            }
        }
        self.complain(problems, &spot, key, "has to be a table of texts");
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
                    let mut table = Table::new(format!("[[{key}]]"), line, entries);
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
        let mut table = Table::new(format!("[{key}]"), spot.line, entries);
        let found = read(&mut table, problems);
        table.end(problems);
        Some(found)
    }

    /// Whether a key is there that has not been taken yet.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == key)
    }

    /// Complains about what nobody asked for.
    pub(super) fn end(&self, problems: &mut Problems) {
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
}
