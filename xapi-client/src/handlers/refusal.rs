//! What handlers say when they refuse or fail: HTML, with the error of the API somewhere within.

use super::exchange;
use crate::error::Error;
use crate::failure::Failure;

/// How much of the end of an answer can be a late refusal, in bytes.
pub(super) const MAX_LATE: usize = 4096;

/// The error of an answer with this status and text.
pub(super) fn error(method: &str, host: &str, status: u16, html: &str) -> Error {
    let text = plain(html);
    if let Some(description) = description(&text) {
        return Error::Api(Failure::new(method, description));
    }
    let reason = match status {
        401 => "the session is not accepted".to_owned(),
        403 => "the role of this user does not permit it".to_owned(),
        _ if !text.is_empty() => text,
        404 => "there is no such handler, or it does not know this format".to_owned(),
        _ => "it gave no reason".to_owned(),
    };
    Error::Refused {
        method: method.to_owned(),
        host: host.to_owned(),
        status,
        reason,
    }
}

/// The refusal that a server appends to an answer that it had begun well: a whole second answer, up to the
/// very end. Disk images hold such texts too, but do not end with one.
pub(super) fn late(method: &str, host: &str, tail: &[u8]) -> Option<Error> {
    const MARK: &[u8] = b"HTTP/1.";
    let start = tail.windows(MARK.len()).rposition(|part| part == MARK)?;
    let text = &tail[start..];
    let (head, end) = exchange::parse(text).ok()??;
    let body = &text[end..];
    let is_whole = match head.length {
        Some(length) => length == body.len() as u64,
        None => body.is_empty() || body.trim_ascii_end().ends_with(b"</html>"),
    };
    (head.status >= 400 && is_whole)
        .then(|| error(method, host, head.status, &String::from_utf8_lossy(body)))
}

/// The text of a page, in one line.
fn plain(html: &str) -> String {
    // Servers put what happened behind this heading, after sentences that fit everything.
    let html = html
        .split_once("Additional information </h1>")
        .map_or(html, |(_, specific)| specific);
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        rest = tag.split_once('>').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    let text = text
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The code and the parameters in `CODE: [ p1; p2 ]`.
fn description(text: &str) -> Option<Vec<String>> {
    let (before, after) = text.split_once(": [")?;
    let code = before.rsplit(' ').next()?;
    let is_code = code.len() > 2
        && code
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let (params, _) = after.rsplit_once(']')?;
    is_code.then(|| {
        let params = params.trim();
        let params = params.split("; ").map(str::to_owned);
        std::iter::once(code.to_owned())
            .chain(params.filter(|param| !param.is_empty()))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error occurred; please \
                        wait a while and try again.<h1> Additional information </h1>";

    fn text(status: u16, html: &str) -> String {
        error("PUT /import", "xcp", status, html).to_string()
    }

    #[test]
    fn the_error_of_the_api_is_found_in_the_page() {
        let html = format!("{PAGE}VDI_TOO_LARGE: [ OpaqueRef:1; 2190433320960 ]</body></html>");
        let error = error("GET /export_raw_vdi", "xcp", 500, &html);
        let failure = error.failure().unwrap();
        assert_eq!(failure.code.as_str(), "VDI_TOO_LARGE");
        assert_eq!(failure.params, ["OpaqueRef:1", "2190433320960"]);
        assert_eq!(failure.method, "GET /export_raw_vdi");
    }

    #[test]
    fn an_error_without_parameters_has_none() {
        let html = format!("{PAGE}HOST_STILL_BOOTING: [  ]</body></html>");
        let error = error("PUT /import", "xcp", 500, &html);
        assert!(error.failure().unwrap().params.is_empty());
    }

    #[test]
    fn other_refusals_say_what_the_page_or_the_status_says() {
        let html = format!("{PAGE}Xmlm.Error(1:26, &quot;unexpected end&quot;)</body></html>");
        assert_eq!(
            text(500, &html),
            "xcp refused PUT /import with HTTP status 500: Xmlm.Error(1:26, \"unexpected end\")"
        );
        let html = "<html><body><h1>HTTP 401 unauthorised</h1>Please check your credentials.</body></html>";
        assert!(text(401, html).ends_with("the session is not accepted"));
        assert!(text(403, "").ends_with("does not permit it"));
        assert!(text(404, "").contains("no such handler"));
    }

    #[test]
    fn a_late_refusal_is_a_whole_answer_at_the_very_end() {
        let page = format!("{PAGE}VDI_IO_ERROR: [ Device I/O errors ]</body></html>");
        let answer =
            format!("HTTP/1.1 500 Internal Error\r\ncontent-type: text/html\r\n\r\n{page}");
        let late = |tail: String| late("GET /export", "xcp", tail.as_bytes());
        let error = late(format!("\0\x01disk{answer}")).unwrap();
        assert_eq!(error.code().unwrap().as_str(), "VDI_IO_ERROR");
        for harmless in [
            "disk".to_owned(),
            format!("{answer}disk"),
            answer.replace("500 Internal Error", "200 OK"),
            answer.replace("HTTP/1.1", "HTTP/2"),
            String::new(),
        ] {
            assert!(late(harmless.clone()).is_none(), "{harmless}");
        }
    }
}
