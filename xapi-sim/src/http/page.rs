//! Answers that are pages: what cannot be done, in the server's words.

use std::borrow::Cow;

use super::{NO_CACHE, Response};

/// An answer with a page. It says that the connection is to be closed.
pub(super) fn page(status: impl Into<Cow<'static, str>>, body: String, ends: bool) -> Response {
    Response {
        status: status.into(),
        headers: vec![
            ("content-type", "text/html".to_owned()),
            ("connection", "close".to_owned()),
            ("cache-control", NO_CACHE.to_owned()),
        ],
        body: format!("<html><body>{body}</body></html>").into_bytes(),
        ends,
        spoil: None,
    }
}

/// The connection stays open although the header says otherwise, unless it is told to end.
pub(crate) fn forbidden() -> Response {
    let text = "<h1>HTTP 403 forbidden</h1>Access to the requested resource is forbidden.";
    page("403 Forbidden", text.to_owned(), false)
}

pub(crate) fn unauthorised(realm: &str) -> Response {
    let text = "<h1>HTTP 401 unauthorised</h1>Please check your credentials and retry.";
    let mut response = page("401 Unauthorised", text.to_owned(), true);
    response
        .headers
        .push(("WWW-Authenticate", format!("Basic realm=\"{realm}\"")));
    response
}

/// The page of a rule that asks for a status.
pub(crate) fn injected(status: u16) -> Response {
    page(
        format!("{status} Injected"),
        format!("<h1>HTTP {status}</h1>"),
        true,
    )
}

pub(super) fn not_implemented(method: &str) -> Response {
    let text = format!(
        "<h1>HTTP 501 Method Not Implemented</h1><p>Unknown {method} not supported.<br /></p>"
    );
    page("501 Method not implemented", text, true)
}

pub(super) fn too_large() -> Response {
    let text = "<h1>HTTP 431 request header fields too large</h1>Exceeded the maximum header size.";
    page("431 Request Header Fields Too Large", text.to_owned(), true)
}

pub(super) fn timed_out() -> Response {
    let text = "<h1>HTTP 408 request timeout</h1>Timed out waiting for the request.";
    page("408 Request Timeout", text.to_owned(), true)
}

/// The page for an exception of the server.
pub(crate) fn exception(text: &str) -> Response {
    internal_error(&escape(text))
}

/// The page for a head that is none.
pub(super) fn unparsable() -> Response {
    internal_error("The HTTP headers could not be parsed.")
}

fn internal_error(extra: &str) -> Response {
    let text = format!(
        "<h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while \
         and try again. If the problem persists, please contact your support representative.\
         <h1> Additional information </h1>{extra}"
    );
    page("500 Internal Error", text, true)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '&' => out.push_str("&amp;"),
            other => out.push(other),
        }
    }
    out
}
