//! XML-RPC as the server speaks it: integers as bare text, `Status` in a struct instead of faults.

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::failure::Reply;
use crate::value::{Value, general, parse_int};

/// A call as the document carried it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) params: Vec<Value>,
}

/// Reads a request body. The error is the text of the exception that the server would answer
/// with HTTP 500.
pub(crate) fn parse(body: &str) -> Result<Call, String> {
    let mut parser = Parser {
        nodes: nodes(body)?,
        at: 0,
        depth: 0,
    };
    parser.open("methodCall")?;
    parser.open("methodName")?;
    let method = parser.data()?;
    parser.close("methodName")?;
    parser.open("params")?;
    let mut params = Vec::new();
    parser.skip_blank();
    while !parser.at_end_tag() {
        parser.open("param")?;
        params.push(parser.value()?);
        parser.close("param")?;
        parser.skip_blank();
    }
    Ok(Call { method, params })
}

/// Reads a value alone, the form of [`value_text`].
pub(crate) fn parse_value(text: &str) -> Result<Value, String> {
    let mut parser = Parser {
        nodes: nodes(text)?,
        at: 0,
        depth: 0,
    };
    parser.skip_blank();
    parser.value()
}

/// Writes the answer to a call.
pub(crate) fn reply(reply: &Reply) -> String {
    let (status, key, value) = match reply {
        Ok(value) => ("Success", "Value", value.clone()),
        Err(failure) => ("Failure", "ErrorDescription", failure.to_value()),
    };
    bare_reply(&Value::Struct(vec![
        ("Status".to_owned(), Value::from(status)),
        (key.to_owned(), value),
    ]))
}

/// Writes an answer without the `Status` struct; `system.listMethods` gets one.
pub(crate) fn bare_reply(value: &Value) -> String {
    let mut out = "<?xml version=\"1.0\"?><methodResponse><params><param>".to_owned();
    write(&mut out, value);
    out.push_str("</param></params></methodResponse>");
    out
}

/// A value alone, the form in which `task.result` keeps it whatever protocol the client speaks.
pub(crate) fn value_text(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

fn write(out: &mut String, value: &Value) {
    // Writing to a String cannot fail.
    match value {
        Value::Nil => out.push_str("<value><nil/></value>"),
        Value::Bool(truth) => {
            let _ = write!(
                out,
                "<value><boolean>{}</boolean></value>",
                u8::from(*truth)
            );
        }
        Value::Int(number) => {
            let _ = write!(out, "<value>{number}</value>");
        }
        Value::Int32(number) => {
            let _ = write!(out, "<value><i4>{number}</i4></value>");
        }
        Value::Float(number) => {
            let _ = write!(
                out,
                "<value><double>{}</double></value>",
                general(*number, 16)
            );
        }
        Value::String(text) => {
            out.push_str("<value>");
            write_text(out, text);
            out.push_str("</value>");
        }
        Value::DateTime(text) => {
            let _ = write!(
                out,
                "<value><dateTime.iso8601>{text}</dateTime.iso8601></value>"
            );
        }
        Value::Array(items) => {
            out.push_str("<value><array><data>");
            for item in items {
                write(out, item);
            }
            out.push_str("</data></array></value>");
        }
        Value::Struct(members) => {
            out.push_str("<value><struct>");
            for (name, member) in members {
                // The server does not escape names: a key with `&` in it makes the reply
                // ill-formed, and clients should meet that here rather than in production.
                let _ = write!(out, "<member><name>{name}</name>");
                write(out, member);
                out.push_str("</member>");
            }
            out.push_str("</struct></value>");
        }
    }
}

fn write_text(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '>' => out.push_str("&gt;"),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(character),
            // Control characters are dropped, not escaped.
            '\0'..='\u{1f}' => {}
            other => out.push(other),
        }
    }
}

/// What the grammar of XML-RPC sees of a document.
#[derive(Debug)]
enum Node {
    Start(String),
    End,
    Data(String),
}

/// Flattens a document, merging text, CDATA and entities. Stops at the end of the root element:
/// what follows it is ignored.
fn nodes(body: &str) -> Result<Vec<Node>, String> {
    let mut reader = Reader::from_str(body);
    reader.config_mut().check_end_names = true;
    let mut nodes = Vec::new();
    let mut depth = 0_usize;
    loop {
        let event = reader.read_event();
        let position = usize::try_from(reader.buffer_position()).unwrap_or(body.len());
        let error = |what: &str| {
            let before = body.get(..position).unwrap_or(body);
            let line = 1 + before.matches('\n').count();
            let column = before
                .rsplit('\n')
                .next()
                .map_or(0, |last| last.chars().count());
            format!("Xmlm.Error({line}:{}, \"{what}\")", column.max(1))
        };
        match event {
            Ok(Event::Start(tag)) => {
                depth += 1;
                nodes.push(Node::Start(tag.local_name().as_ref().to_owned()));
            }
            Ok(Event::Empty(tag)) => {
                nodes.push(Node::Start(tag.local_name().as_ref().to_owned()));
                nodes.push(Node::End);
                if depth == 0 {
                    return Ok(nodes);
                }
            }
            Ok(Event::End(_)) => {
                nodes.push(Node::End);
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Ok(nodes);
                }
            }
            Ok(Event::Text(text)) => {
                let text = text.xml10_content();
                if depth == 0 {
                    if !text.trim().is_empty() {
                        return Err("Xmlm.Error(1:1, \"expected root element\")".to_owned());
                    }
                } else {
                    push_data(&mut nodes, &text);
                }
            }
            Ok(Event::CData(text)) => push_data(&mut nodes, &text.xml10_content()),
            Ok(Event::GeneralRef(entity)) => match entity.resolve_char_ref() {
                Ok(Some(character)) => push_data(&mut nodes, character.encode_utf8(&mut [0; 4])),
                Ok(None) => {
                    let name = entity.xml10_content();
                    let Some(text) = predefined(&name) else {
                        return Err(error(&format!("unknown entity reference ({name})")));
                    };
                    push_data(&mut nodes, text);
                }
                Err(_) => return Err(error("illegal character reference")),
            },
            Ok(Event::Eof) => {
                return Err(if nodes.is_empty() {
                    "Xmlm.Error(1:1, \"expected root element\")".to_owned()
                } else {
                    // The server counts the place behind the last character.
                    let last = body.rsplit('\n').next().unwrap_or_default();
                    let line = 1 + body.matches('\n').count();
                    let column = last.chars().count() + 1;
                    format!("Xmlm.Error({line}:{column}, \"unexpected end of input\")")
                });
            }
            Ok(Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {}
            Err(_) => return Err(error("malformed character stream")),
        }
    }
}

fn predefined(entity: &str) -> Option<&'static str> {
    Some(match entity {
        "lt" => "<",
        "gt" => ">",
        "amp" => "&",
        "quot" => "\"",
        "apos" => "'",
        _ => return None,
    })
}

fn push_data(nodes: &mut Vec<Node>, text: &str) {
    if let Some(Node::Data(data)) = nodes.last_mut() {
        data.push_str(text);
    } else {
        nodes.push(Node::Data(text.to_owned()));
    }
}

struct Parser {
    nodes: Vec<Node>,
    at: usize,
    depth: usize,
}

/// Deep enough for any call, shallow enough for our stack.
const MAX_DEPTH: usize = 128;

impl Parser {
    fn error(got: &str, expected: &str) -> String {
        format!("Xmlrpc.Parse_error(\"{got}\", \"{expected}\", _)")
    }

    fn describe(&self) -> String {
        match self.nodes.get(self.at) {
            Some(Node::Start(tag)) => format!("open_tag({tag})"),
            Some(Node::Data(text)) => format!("data({})", crate::failure::escaped(text)),
            Some(Node::End) | None => "close_tag".to_owned(),
        }
    }

    fn skip_blank(&mut self) {
        while matches!(self.nodes.get(self.at), Some(Node::Data(text)) if is_blank(text)) {
            self.at += 1;
        }
    }

    fn at_end_tag(&self) -> bool {
        matches!(self.nodes.get(self.at), Some(Node::End) | None)
    }

    fn open_any(&mut self) -> Result<String, String> {
        self.skip_blank();
        match self.nodes.get(self.at) {
            Some(Node::Start(tag)) => {
                let tag = tag.clone();
                self.at += 1;
                Ok(tag)
            }
            _ => Err(Self::error(&self.describe(), "open_tag")),
        }
    }

    fn open(&mut self, expected: &str) -> Result<(), String> {
        let tag = self.open_any()?;
        if tag == expected {
            Ok(())
        } else {
            Err(Self::error(
                &format!("open_tag({tag})"),
                &format!("open_tag({expected})"),
            ))
        }
    }

    fn close(&mut self, tag: &str) -> Result<(), String> {
        self.skip_blank();
        match self.nodes.get(self.at) {
            Some(Node::End) => {
                self.at += 1;
                Ok(())
            }
            _ => Err(Self::error(&self.describe(), &format!("close_tag({tag})"))),
        }
    }

    fn data(&mut self) -> Result<String, String> {
        match self.nodes.get(self.at) {
            Some(Node::Data(text)) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            Some(Node::End) => Ok(String::new()),
            _ => Err(Self::error(&self.describe(), "data")),
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("Stack_overflow".to_owned());
        }
        self.open("value")?;
        let value = match self.nodes.get(self.at) {
            Some(Node::End) | None => Value::void(),
            Some(Node::Data(text)) => {
                let before_tag = matches!(self.nodes.get(self.at + 1), Some(Node::Start(_)));
                if is_blank(text) && before_tag {
                    self.at += 1;
                    self.typed()?
                } else {
                    // Blank text alone is text: `<value>  </value>` is two spaces.
                    Value::String(self.data()?)
                }
            }
            Some(Node::Start(_)) => self.typed()?,
        };
        self.close("value")?;
        self.depth -= 1;
        Ok(value)
    }

    fn typed(&mut self) -> Result<Value, String> {
        let tag = self.open_any()?;
        let value = if self.at_end_tag() {
            match tag.as_str() {
                "string" | "value" => Value::void(),
                "array" => Value::Array(Vec::new()),
                "struct" => Value::Struct(Vec::new()),
                "nil" => Value::Nil,
                _ => return Err(Self::error(&format!("empty_{tag}"), &tag)),
            }
        } else {
            self.content(&tag)?
        };
        self.close(&tag)?;
        Ok(value)
    }

    fn content(&mut self, tag: &str) -> Result<Value, String> {
        let failure = |what: &str| format!("Failure(\"{what}\")");
        Ok(match tag {
            "int" | "i8" | "i4" => {
                Value::Int(parse_int(&self.data()?).ok_or_else(|| failure("Int64.of_string"))?)
            }
            "boolean" => Value::Bool(self.data()? == "1"),
            "double" => Value::Float(
                self.data()?
                    .trim()
                    .parse()
                    .map_err(|_| failure("float_of_string"))?,
            ),
            "string" | "base64" => Value::String(self.data()?),
            "dateTime.iso8601" => Value::DateTime(self.data()?),
            "array" => {
                self.open("data")?;
                let mut items = Vec::new();
                self.skip_blank();
                while !self.at_end_tag() {
                    items.push(self.value()?);
                    self.skip_blank();
                }
                self.close("data")?;
                Value::Array(items)
            }
            "struct" => {
                let mut members = Vec::new();
                self.skip_blank();
                while !self.at_end_tag() {
                    self.open("member")?;
                    self.open("name")?;
                    let name = self.data()?;
                    self.close("name")?;
                    members.push((name, self.value()?));
                    self.close("member")?;
                    self.skip_blank();
                }
                Value::Struct(members)
            }
            _ => {
                return Err(Self::error(
                    &format!("open_tag({tag})"),
                    "open_tag(int/i8/i4/boolean/double/string/dateTime.iso8601/array/struct/nil)",
                ));
            }
        })
    }
}

fn is_blank(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'\n' | b' ' | b'\t'))
}

#[cfg(test)]
mod tests;
