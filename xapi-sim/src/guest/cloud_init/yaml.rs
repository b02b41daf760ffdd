//! YAML as cloud-init reads it: its parser knows version 1.1, in which `yes` is true and `0644` is
//! octal.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// How deep values may be nested; no document of use comes near.
const DEPTH: usize = 64;

/// A value with its scalars as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// Nothing, `~` or `null`.
    Nothing,
    /// A scalar, and whether it is written without quotes, so that it may be a number or the like.
    Scalar(String, bool),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Reads the first document of a text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader {
            parser: Parser::new_from_str(text),
            anchors: HashMap::new(),
        };
        loop {
            match reader.next()? {
                Event::StreamEnd => return Ok(Self::Nothing),
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                event => return reader.node(event, 0),
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(pairs) = self else { return None };
        let found = pairs.iter().rev().find(|(name, _)| name == key);
        found
            .map(|(_, value)| value)
            .filter(|value| **value != Self::Nothing)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    /// Its items; a single value counts as a list of one.
    pub(super) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Nothing => &[],
            single => std::slice::from_ref(single),
        }
    }

    /// Its texts: of a list, or the words of a scalar between commas.
    pub(super) fn words(&self) -> Vec<String> {
        match self {
            Self::List(items) => {
                let texts = items.iter().filter_map(Self::text);
                texts.map(str::to_owned).collect()
            }
            Self::Scalar(text, _) => text.split(',').map(|word| word.trim().to_owned()).collect(),
            Self::Nothing | Self::Map(_) => Vec::new(),
        }
    }

    /// The value at a key, or what stands for an absent one.
    pub(super) fn flag_at(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Self::flag).unwrap_or(default)
    }

    pub(super) fn text_at(&self, key: &str) -> Option<String> {
        Some(self.get(key)?.text()?.to_owned())
    }
}

/// Makes values of the parser's events. The scalars stay as they are written: the rules of version
/// 1.2 would lose what 1.1 makes of them.
struct Reader<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Event<'t>, String> {
        match self.parser.next() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Event::StreamEnd),
        }
    }

    /// The value that begins with this event.
    fn node(&mut self, event: Event<'t>, depth: usize) -> Result<Node, String> {
        if depth > DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        let (anchor, node) = match event {
            Event::Alias(anchor) => {
                let named = self.anchors.get(&anchor).cloned();
                return Ok(named.unwrap_or(Node::Nothing));
            }
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(text.into_owned(), style)),
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break (anchor, Node::List(items)),
                        event => items.push(self.node(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(anchor, _) => {
                let mut pairs = Vec::new();
                loop {
                    let key = match self.next()? {
                        Event::MappingEnd => break (anchor, Node::Map(pairs)),
                        event => self.node(event, depth + 1)?,
                    };
                    let event = self.next()?;
                    let value = self.node(event, depth + 1)?;
                    pairs.push((key.text().unwrap_or_default().to_owned(), value));
                }
            }
            _ => return Err("it ends too early".to_owned()),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

fn scalar(text: String, style: ScalarStyle) -> Node {
    let is_plain = style == ScalarStyle::Plain;
    if is_plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
        return Node::Nothing;
    }
    Node::Scalar(text, is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_as_written() {
        let node = Node::parse("a: 0644\nb: 'x'\nc: yes\nd: ~\ne: [1, two]\nf: p, q\n").unwrap();
        assert_eq!(node.get("a"), Some(&Node::Scalar("0644".into(), true)));
        assert_eq!(node.get("b"), Some(&Node::Scalar("x".into(), false)));
        assert!(node.flag_at("c", false));
        assert_eq!(node.get("d"), None);
        assert_eq!(node.get("e").unwrap().words(), ["1", "two"]);
        assert_eq!(node.get("f").unwrap().words(), ["p", "q"]);
        assert!(Node::parse("a: [").is_err());
        assert_eq!(Node::parse("").unwrap(), Node::Nothing);
    }

    #[test]
    fn json_is_yaml() {
        let node = Node::parse(r#"{"a": ["x\ny", "\u00e9"], "b": true}"#).unwrap();
        assert_eq!(node.get("a").unwrap().words(), ["x\ny", "\u{e9}"]);
        assert!(node.flag_at("b", false));
    }

    #[test]
    fn anchors_are_resolved() {
        let node = Node::parse("a: &x [k]\nb: *x\n").unwrap();
        assert_eq!(node.get("b").unwrap().words(), ["k"]);
    }
}
