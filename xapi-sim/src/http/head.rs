//! Heads of requests, as the server reads them.

use std::borrow::Cow;

use super::Response;
use super::page::{exception, unparsable};
use crate::value::parse_int;

/// A parsed request head.
#[derive(Debug, Default, Clone)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    old_version: bool,
    pub(super) close: bool,
    pub(crate) content_length: Option<i64>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The pairs for the task of a call.
    pub(super) fn tags(&self) -> Vec<(String, String)> {
        let tagged = self.headers.iter().rev().filter_map(|(name, value)| {
            let key = name.strip_prefix("x-http-other-config-")?;
            Some((key.to_owned(), value.clone()))
        });
        tagged.collect()
    }

    pub(super) fn version(&self) -> &'static str {
        if self.old_version { "1.0" } else { "1.1" }
    }
}

/// Reads a head with all its ends of line. The error is the last answer on its connection.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Response> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let request: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let [method, target, version] = request[..] else {
        return Err(unparsable());
    };
    let (path, query) = path_and_query(target);
    // Only the length of what stands before the number is looked at.
    let Some(version) = version.get("HTTP/".len()..) else {
        let text = "Invalid_argument(\"String.sub / Bytes.sub\")";
        return Err(exception(text));
    };
    let mut head = Head {
        method: method.to_owned(),
        path: decoded(path).into_owned(),
        query: query.to_owned(),
        old_version: version == "1.0",
        close: version == "1.0",
        ..Head::default()
    };
    for line in lines {
        // A line without a colon is no header, and no failure.
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "content-length" => {
                let Some(length) = parse_int(value) else {
                    return Err(exception("Failure(\"Int64.of_string\")"));
                };
                head.content_length = Some(length);
            }
            "connection" if value.eq_ignore_ascii_case("close") => head.close = true,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => head.close = false,
            _ => {}
        }
        head.headers.push((name, value.to_owned()));
    }
    Ok(head)
}

/// The path of a target, which may be a whole URI, and what follows its question mark.
fn path_and_query(target: &str) -> (&str, &str) {
    let (target, _) = target.split_once('#').unwrap_or((target, ""));
    let (target, query) = target.split_once('?').unwrap_or((target, ""));
    let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
    let rest = match target.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => rest,
        _ => target,
    };
    // What begins like `//host` names a host.
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
        None => rest,
    };
    (path, query)
}

/// A path without its escapes. What is none stays as it is.
fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return path.into();
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let escape = (first == b'%').then(|| Some(digit(0)? * 16 + digit(1)?));
        match escape.flatten().and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_uris() {
        for (target, path, query) in [
            ("/jsonrpc", "/jsonrpc", ""),
            ("/jsonrpc?a=/b#c", "/jsonrpc", "a=/b"),
            ("http://host:80/jsonrpc", "/jsonrpc", ""),
            ("//jsonrpc", "", ""),
            ("//host/jsonrpc", "/jsonrpc", ""),
            ("*", "*", ""),
            ("/a:b", "/a:b", ""),
        ] {
            assert_eq!(path_and_query(target), (path, query), "{target}");
        }
    }

    #[test]
    fn escapes_in_paths() {
        for (path, plain) in [
            ("/%6asonrpc", "/jsonrpc"),
            ("/a%2Fb+c", "/a/b+c"),
            ("/50%", "/50%"),
            ("/%zz%4", "/%zz%4"),
            ("/%c3%a4", "/\u{e4}"),
        ] {
            assert_eq!(decoded(path), plain);
        }
    }
}
