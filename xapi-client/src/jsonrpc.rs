//! The JSON-RPC 2.0 envelope.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::reply::Reply;

/// Writes a request; the session, where there is one, is the first parameter.
pub(crate) fn encode(id: u64, method: &str, session: Option<&str>, params: &[Value]) -> Bytes {
    let mut body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":{},"params":["#,
        Value::from(method)
    );
    let session = session.map(|session| Value::from(session).to_string());
    let params = session
        .into_iter()
        .chain(params.iter().map(Value::to_string));
    for (position, param) in params.enumerate() {
        if position > 0 {
            body.push(',');
        }
        body.push_str(&param);
    }
    body.push_str("]}");
    Bytes::from(body)
}

/// An answer, not yet decoded.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Problem>,
}

/// The server has two forms of errors: the object of JSON-RPC 2.0, and, where it fails before it looks at
/// the request, the array of JSON-RPC 1.0 in an envelope of 2.0.
#[derive(Deserialize)]
#[serde(untagged)]
enum Problem {
    Object {
        message: String,
        #[serde(default)]
        data: Vec<Text>,
    },
    Array(Vec<Text>),
}

/// A parameter of a failure: text, whatever the server made of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Other(Value),
}

impl Text {
    fn into_string(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Other(value) => value.to_string(),
        }
    }
}

/// The answer cannot be one of JSON-RPC, whatever a repair might do: the server may speak XML-RPC only.
#[derive(Debug, thiserror::Error)]
#[error("it is not JSON")]
pub(crate) struct NotJson;

/// The result of a successful answer.
pub(crate) fn open(method: &str, body: Bytes) -> Result<Reply> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Error::Decode {
            method: method.to_owned(),
            source: NotJson.into(),
        });
    }
    if let Some(result) = plain_result(&body) {
        return Ok(Reply::json(method, body.slice(result)));
    }
    match locate(method, &body) {
        Ok(found) => found.into_reply(method, body),
        // Errors may repeat a parameter that is not valid UTF-8, and floats may be no JSON: worth the
        // cost of a repair only when the straight way fails.
        Err(error) => {
            let Some(repaired) = repair(&body) else {
                return Err(error);
            };
            let repaired = Bytes::from(repaired);
            locate(method, &repaired)?.into_reply(method, repaired)
        }
    }
}

/// Where the result is in a successful answer as servers write it. It saves reading all of a large answer
/// just to find where its result ends; what is between is looked at when it is decoded.
fn plain_result(body: &[u8]) -> Option<Range<usize>> {
    const BEFORE: &[u8] = br#"{"jsonrpc":"2.0","result":"#;
    const BEHIND: &[u8] = br#","id":"#;
    let id = body.strip_prefix(BEFORE)?.strip_suffix(b"}")?;
    let id = id.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let end = body.len() - 1 - id.count();
    let result = body[..end].strip_suffix(BEHIND)?;
    Some(BEFORE.len()..result.len())
}

enum Found {
    Result { start: usize, end: usize },
    Failure(Failure),
}

impl Found {
    fn into_reply(self, method: &str, body: Bytes) -> Result<Reply> {
        match self {
            Self::Result { start, end } => Ok(Reply::json(method, body.slice(start..end))),
            Self::Failure(failure) => Err(Error::Api(failure)),
        }
    }
}

fn locate(method: &str, body: &[u8]) -> Result<Found> {
    let wrong = |source| Error::Decode {
        method: method.to_owned(),
        source,
    };
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|error| wrong(error.into()))?;
    if let Some(problem) = answer.error {
        let description = match problem {
            Problem::Object { message, data } => std::iter::once(message)
                .chain(data.into_iter().map(Text::into_string))
                .collect(),
            Problem::Array(parts) => parts.into_iter().map(Text::into_string).collect(),
        };
        return Ok(Found::Failure(Failure::new(method, description)));
    }
    let Some(result) = answer.result else {
        return Err(wrong("the answer has neither a result nor an error".into()));
    };
    // The text borrows from the body, so its place there is the distance of the two.
    let start = result.get().as_ptr().addr() - body.as_ptr().addr();
    Ok(Found::Result {
        start,
        end: start + result.get().len(),
    })
}

/// Makes JSON of what servers write that is none: quotes `NaN`, `Infinity` and `-Infinity` outside
/// strings, and replaces bytes that are not valid UTF-8. `None` when there was nothing to repair.
pub(crate) fn repair(body: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(body);
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut rest = text.as_bytes();
    let mut changed = text.as_bytes() != body;
    while let Some(&byte) = rest.first() {
        if byte == b'"' {
            let end = string_end(rest);
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(word) = NON_FINITE.iter().find(|word| rest.starts_with(word)) {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            rest = &rest[word.len()..];
            changed = true;
        } else {
            out.push(byte);
            rest = &rest[1..];
        }
    }
    changed.then_some(out)
}

const NON_FINITE: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// Where the string that `text` begins with ends, its closing quote included.
fn string_end(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests;
