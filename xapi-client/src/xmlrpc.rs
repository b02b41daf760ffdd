//! XML-RPC: the other protocol of servers, and the form in which tasks hold their results whatever
//! protocol the client speaks.

mod de;
mod parser;

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use self::de::Element;
pub(crate) use self::parser::XmlRpcError;
use self::parser::{Content, Parser, Tag, Token};
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::reply::Reply;
use crate::wire::Lenient;

/// Writes a request; the session, where there is one, is the first parameter.
pub(crate) fn encode(method: &str, session: Option<&str>, params: &[Value]) -> Result<Bytes> {
    let refused = |character: char| {
        Error::Config(format!(
            "a parameter of {method} holds the character U+{:04X}, which XML cannot express; speak \
             JSON-RPC, or remove it",
            u32::from(character)
        ))
    };
    let mut body = String::from("<?xml version=\"1.0\"?><methodCall><methodName>");
    escape(&mut body, method).map_err(refused)?;
    body.push_str("</methodName><params>");
    let session = session.map(Value::from);
    for param in session.iter().chain(params) {
        body.push_str("<param>");
        write(&mut body, param).map_err(refused)?;
        body.push_str("</param>");
    }
    body.push_str("</params></methodCall>");
    Ok(Bytes::from(body))
}

/// Fails with the first character that XML cannot express.
fn write(out: &mut String, value: &Value) -> std::result::Result<(), char> {
    out.push_str("<value>");
    match value {
        Value::Null => out.push_str("<nil/>"),
        Value::Bool(value) => {
            out.push_str(if *value {
                "<boolean>1</boolean>"
            } else {
                "<boolean>0</boolean>"
            });
        }
        Value::Number(number) => {
            let kind = if number.is_f64() { "double" } else { "int" };
            // Writing to a string cannot fail.
            let _ = write!(out, "<{kind}>{number}</{kind}>");
        }
        Value::String(text) => {
            out.push_str("<string>");
            escape(out, text)?;
            out.push_str("</string>");
        }
        Value::Array(items) => {
            out.push_str("<array><data>");
            for item in items {
                write(out, item)?;
            }
            out.push_str("</data></array>");
        }
        Value::Object(members) => {
            out.push_str("<struct>");
            for (name, value) in members {
                out.push_str("<member><name>");
                escape(out, name)?;
                out.push_str("</name>");
                write(out, value)?;
                out.push_str("</member>");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>");
    Ok(())
}

fn escape(out: &mut String, text: &str) -> std::result::Result<(), char> {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // A bare one would arrive as a line feed.
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(character),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => return Err(character),
            _ => out.push(character),
        }
    }
    Ok(())
}

/// The result of a successful answer.
pub(crate) fn open(method: &str, body: Bytes) -> Result<Reply> {
    let (found, body) = match std::str::from_utf8(&body) {
        Ok(text) => (locate(text), body),
        // Errors may repeat a parameter that is not valid UTF-8.
        Err(_) => {
            let repaired = String::from_utf8_lossy(&body).into_owned();
            (locate(&repaired), Bytes::from(repaired))
        }
    };
    match found {
        Ok(Found::Result { start }) => Ok(Reply::xml(method, body.slice(start..))),
        Ok(Found::Failure(description)) => Err(Error::Api(Failure::new(method, description))),
        Err(source) => Err(Error::Decode {
            method: method.to_owned(),
            source: source.into(),
        }),
    }
}

enum Found {
    /// Where the `<value>` of the result begins.
    Result {
        start: usize,
    },
    Failure(Vec<String>),
}

/// Looks for the result without reading it, where the status comes first.
fn locate(text: &str) -> std::result::Result<Found, XmlRpcError> {
    let mut parser = Parser::new(text);
    parser.open(Tag::MethodResponse)?;
    match parser.tag()? {
        Token::Open(Tag::Params) => parser.open(Tag::Param)?,
        Token::Open(Tag::Fault) => {
            let fault = Value::deserialize(Element::next(&mut parser)?)?;
            let text = fault["faultString"].as_str().unwrap_or("no reason given");
            return Err(XmlRpcError::Custom(format!("the server faulted: {text}")));
        }
        other => return Err(other.unexpected()),
    }
    let whole = Found::Result {
        start: parser.position(),
    };
    parser.open(Tag::Value)?;
    if !matches!(parser.content()?, Content::Struct) {
        // `system.listMethods` answers with its bare result.
        return Ok(whole);
    }
    let (mut status, mut result, mut description) = (None, None, Vec::new());
    while let Some(name) = parser.next_member()? {
        match &*name {
            "Status" => status = Some(String::deserialize(Element::next(&mut parser)?)?),
            "Value" => {
                result = Some(parser.position());
                if status.is_none() {
                    IgnoredAny::deserialize(Element::next(&mut parser)?)?;
                }
            }
            "ErrorDescription" => {
                description = Vec::<Value>::deserialize(Element::next(&mut parser)?)?;
            }
            _ => {
                IgnoredAny::deserialize(Element::next(&mut parser)?)?;
            }
        }
        if let (Some("Success"), Some(start)) = (status.as_deref(), result) {
            return Ok(Found::Result { start });
        }
        parser.close(Tag::Member)?;
    }
    match status.as_deref() {
        None => Ok(whole),
        Some("Failure") => Ok(Found::Failure(
            description.into_iter().map(text_of).collect(),
        )),
        Some(status) => Err(XmlRpcError::Custom(format!(
            "the answer has the status `{status}` and no value"
        ))),
    }
}

/// A parameter of a failure: text, whatever the server made of it.
fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Decodes a text that begins with a `<value>`, with the leniency of
/// [`wire::decode`](crate::wire::decode).
pub(crate) fn decode<R: DeserializeOwned>(text: &str) -> std::result::Result<R, XmlRpcError> {
    let mut parser = Parser::new(text);
    R::deserialize(Lenient(Element::next(&mut parser)?))
}

/// Where the first member of the result begins, if the text begins a good answer whose result is a struct.
pub(crate) fn members(text: &str) -> Option<usize> {
    let mut parser = Parser::new(text);
    parser.open(Tag::MethodResponse).ok()?;
    parser.open(Tag::Params).ok()?;
    parser.open(Tag::Param).ok()?;
    parser.open(Tag::Value).ok()?;
    if !matches!(parser.content().ok()?, Content::Struct) || parser.next_member().ok()?? != "Status"
    {
        return None;
    }
    let status = String::deserialize(Element::next(&mut parser).ok()?).ok()?;
    parser.close(Tag::Member).ok()?;
    if status != "Success" || parser.next_member().ok()?? != "Value" {
        return None;
    }
    parser.open(Tag::Value).ok()?;
    let is_struct = matches!(parser.content().ok()?, Content::Struct);
    is_struct.then(|| parser.position())
}

/// Decodes one `<member>` of a struct, with the leniency of [`decode`].
pub(crate) fn member<K: DeserializeOwned, V: DeserializeOwned>(
    text: &str,
) -> std::result::Result<(K, V), XmlRpcError> {
    let mut parser = Parser::new(text);
    let name = parser.next_member()?;
    let name = name.ok_or_else(|| XmlRpcError::Custom("it is no member".to_owned()))?;
    let key = K::deserialize(Lenient(de::key(name)))?;
    let value = V::deserialize(Lenient(Element::next(&mut parser)?))?;
    Ok((key, value))
}

#[cfg(test)]
mod tests;
