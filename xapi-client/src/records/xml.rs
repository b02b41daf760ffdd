//! The members of an XML-RPC struct, from text that is still arriving.

use serde::de::DeserializeOwned;

use super::{Step, Unread};
use crate::error::Cause;
use crate::xmlrpc;

const OPEN: &[u8] = b"<member>";
const CLOSE: &[u8] = b"</member>";

/// Where the first member of the result begins, if the text begins a good answer whose result is a struct.
pub(super) fn begin(text: &[u8]) -> Option<usize> {
    // A character may be cut off at the end.
    let valid = match std::str::from_utf8(text) {
        Ok(valid) => valid,
        Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).ok()?,
    };
    xmlrpc::members(valid)
}

/// The next member.
pub(super) fn next<K: DeserializeOwned, V: DeserializeOwned>(
    unread: &mut Unread,
    ended: bool,
) -> Result<Step<(K, V)>, Cause> {
    let blanks = unread
        .rest()
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace());
    unread.at += blanks.count();
    let text = unread.rest();
    if !text.starts_with(OPEN) {
        return match text.get(1) {
            // `</struct>`, or `</value>` where the struct was an empty tag.
            Some(b'/') => Ok(Step::End),
            None => Ok(Step::More),
            Some(_) if OPEN.starts_with(text) && !ended => Ok(Step::More),
            Some(_) => Err("a struct holds something that is no member".into()),
        };
    }
    let (end, depth) = search(text, unread.searched);
    unread.searched = (end, depth);
    if depth > 0 {
        return Ok(Step::More);
    }
    let entry = xmlrpc::member(&String::from_utf8_lossy(&unread.rest()[..end]))?;
    unread.take(end);
    Ok(Step::Entry(entry))
}

/// Looks for the end of the member that the text begins with, from where a search ended before: where this
/// one ends, and how many members are open there. Servers write `<` as nothing but the beginning of a tag,
/// except in names, which they do not escape, and which cannot be read then at all.
fn search(text: &[u8], (mut at, mut depth): (usize, usize)) -> (usize, usize) {
    while let Some(found) = text[at..].iter().position(|&byte| byte == b'<') {
        let tag = &text[at + found..];
        if tag.starts_with(CLOSE) {
            depth = depth.saturating_sub(1);
            at += found + CLOSE.len();
            if depth == 0 {
                break;
            }
        } else if tag.starts_with(OPEN) {
            depth += 1;
            at += found + OPEN.len();
        } else if CLOSE.starts_with(tag) || OPEN.starts_with(tag) {
            // The tag is cut off.
            return (at + found, depth);
        } else {
            at += found + 1;
        }
    }
    if depth > 0 {
        at = text.len();
    }
    (at, depth)
}
