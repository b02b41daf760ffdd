//! The entries of a JSON object, from text that is still arriving.

use serde::de::{Deserialize, DeserializeOwned, Deserializer};

use super::{Step, Unread};
use crate::error::Cause;
use crate::jsonrpc::repair;
use crate::wire::{self, Lenient};

/// Where the first entry of the result begins, if the text begins an answer whose result is an object.
pub(super) fn begin(text: &[u8]) -> Option<usize> {
    let mut at = after(text, 0, b'{')?;
    loop {
        at = blanks(text, at);
        let key = at;
        at = value_end(text, key)?;
        let name = &text[key..at];
        at = blanks(text, after(text, at, b':')?);
        if name == br#""result""# {
            return after(text, at, b'{');
        }
        at = after(text, value_end(text, at)?, b',')?;
    }
}

/// The next entry. Values are decoded where they stand, in one pass; only what serde_json does not take as it
/// is, bare `NaN` and the like, is looked at twice.
pub(super) fn next<K: DeserializeOwned, V: DeserializeOwned>(
    unread: &mut Unread,
    ended: bool,
) -> Result<Step<(K, V)>, Cause> {
    let text = unread.rest();
    let mut at = blanks(text, 0);
    match (text.get(at), unread.begun) {
        (None, _) => return Ok(Step::More),
        (Some(b'}'), _) => {
            unread.take(at + 1);
            return Ok(Step::End);
        }
        (Some(b','), true) => at = blanks(text, at + 1),
        (Some(_), true) => return Err("a comma is missing between two entries".into()),
        (Some(_), false) => {}
    }
    match text.get(at) {
        None => return Ok(Step::More),
        Some(b'"') => {}
        Some(_) => return Err("the key of an entry is no text".into()),
    }
    let Some(key_end) = value_end(text, at) else {
        return Ok(Step::More);
    };
    let colon = blanks(text, key_end);
    match text.get(colon) {
        None => return Ok(Step::More),
        Some(b':') => {}
        Some(_) => return Err("a colon is missing after the key of an entry".into()),
    }
    let start = blanks(text, colon + 1);
    let Some((value, end)) = value(text, start, ended)? else {
        return Ok(Step::More);
    };
    let key = whole(&text[at..key_end])?;
    unread.take(end);
    unread.begun = true;
    Ok(Step::Entry((key, value)))
}

/// The value that begins here, and where it ends; `None` where it goes on beyond the text.
fn value<V: DeserializeOwned>(
    text: &[u8],
    start: usize,
    ended: bool,
) -> Result<Option<(V, usize)>, Cause> {
    let rest = &text[start..];
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Forgiving<V>>();
    match values.next() {
        None => Ok(None),
        Some(Ok(Forgiving(value))) => {
            let end = values.byte_offset();
            // A number at the end of the text may go on.
            let is_whole = end < rest.len() || matches!(rest[end - 1], b'}' | b']' | b'"');
            Ok((is_whole || ended).then_some((value, start + end)))
        }
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => {
            let Some(end) = value_end(text, start) else {
                return Ok(None);
            };
            match repair(&text[start..end]) {
                Some(repaired) => Ok(Some((whole(&repaired)?, end))),
                None => Err(error.into()),
            }
        }
    }
}

fn whole<T: DeserializeOwned>(text: &[u8]) -> Result<T, Cause> {
    Ok(wire::decode(&String::from_utf8_lossy(text))?)
}

/// A value, read with the leniency that servers need.
struct Forgiving<V>(V);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Forgiving<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        V::deserialize(Lenient(deserializer)).map(Self)
    }
}

/// The first place from here on that is not blank.
fn blanks(text: &[u8], at: usize) -> usize {
    let rest = &text[at..];
    at + rest
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())
        .unwrap_or(rest.len())
}

/// The place after this byte, which must be the first that is not blank.
fn after(text: &[u8], at: usize, expected: u8) -> Option<usize> {
    let at = blanks(text, at);
    (text.get(at) == Some(&expected)).then_some(at + 1)
}

/// Where the value that begins here ends; `None` where it goes on beyond the text.
fn value_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    let mut depth = 0usize;
    loop {
        match text.get(at)? {
            b'"' => at = string_end(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                // Beyond the value: a scalar ends before it.
                let Some(above) = depth.checked_sub(1) else {
                    return Some(at);
                };
                depth = above;
                at += 1;
            }
            b',' | b':' if depth == 0 => return Some(at),
            byte if byte.is_ascii_whitespace() && depth == 0 => return Some(at),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Where the string that begins here ends, its closing quote included.
fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
