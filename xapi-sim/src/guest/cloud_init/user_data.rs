//! User data: one document, or several as the parts of a MIME message or the entries of an
//! archive. Those of settings are merged to one.

use std::io::Read as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::read::MultiGzDecoder;

use super::drive::LARGEST;
use super::merge::Merge;
use super::yaml::Node;

/// How deep messages may be nested; nobody has more than one in another.
const DEPTH: usize = 8;

/// What the documents say.
#[derive(Debug)]
pub(super) struct UserData {
    pub(super) config: Node,
    /// Scripts for the end of the first boot, and for the beginning of each.
    pub(super) scripts: Vec<String>,
    pub(super) boothooks: Vec<String>,
    pub(super) errors: Vec<String>,
}

impl UserData {
    /// Reads what a drive has, compressed or not.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut made = Self {
            config: Node::Nothing,
            scripts: Vec::new(),
            boothooks: Vec::new(),
            errors: Vec::new(),
        };
        let text = made.text(bytes);
        if !made.document(&kind_of(&text), &text, None, 0) && !text.trim().is_empty() {
            made.errors.push(
                "Unhandled non-multipart (text/x-not-multipart) userdata: it begins neither with \
                 #cloud-config nor with #! and is no MIME message"
                    .to_owned(),
            );
        }
        made
    }

    /// What bytes say that may be compressed.
    fn text(&mut self, bytes: &[u8]) -> String {
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            return String::from_utf8_lossy(bytes).into_owned();
        }
        let mut unpacked = Vec::new();
        let mut reader = MultiGzDecoder::new(bytes).take(LARGEST);
        if let Err(error) = reader.read_to_end(&mut unpacked) {
            self.errors
                .push(format!("user data cannot be decompressed: {error}"));
        }
        String::from_utf8_lossy(&unpacked).into_owned()
    }

    /// Reads a document of a MIME type; false for a type that nobody knows.
    fn document(&mut self, kind: &str, text: &str, how: Option<&str>, depth: usize) -> bool {
        match kind {
            "text/cloud-config" => self.settings(text, how),
            "text/x-shellscript" => self.scripts.push(text.trim_start().to_owned()),
            "text/cloud-boothook" => {
                let text = text.trim_start();
                let script = text.strip_prefix("#cloud-boothook").unwrap_or(text);
                self.boothooks.push(script.trim_start().to_owned());
            }
            "text/cloud-config-archive" => self.archive(text, depth),
            multipart if multipart.starts_with("multipart/") => self.message(text, depth),
            "text/x-include-url"
            | "text/x-include-once-url"
            | "text/part-handler"
            | "text/jinja2"
            | "text/cloud-config-jsonp" => self
                .errors
                .push(format!("xapi-sim does not carry out {kind} of user data")),
            _ => return false,
        }
        true
    }

    fn settings(&mut self, text: &str, how: Option<&str>) {
        let document = match Node::parse(text) {
            Ok(document) => document,
            Err(error) => {
                self.errors
                    .push(format!("Failed loading yaml blob of user-data: {error}"));
                return;
            }
        };
        let own = document.get("merge_how").or(document.get("merge_type"));
        let merge = match (how, own) {
            (Some(how), _) => Merge::named(how),
            (None, Some(own)) => Merge::of(own),
            (None, None) => Merge::default(),
        };
        let old = std::mem::replace(&mut self.config, Node::Nothing);
        self.config = match old {
            Node::Nothing => document,
            old => merge.merge(old, document),
        };
    }

    fn archive(&mut self, text: &str, depth: usize) {
        let entries = match Node::parse(text) {
            Ok(entries) => entries,
            Err(error) => {
                self.errors
                    .push(format!("Failed loading yaml blob of user-data: {error}"));
                return;
            }
        };
        for entry in entries.items() {
            let content = match entry {
                Node::Scalar(text, _) => text.clone(),
                entry => entry.text_at("content").unwrap_or_default(),
            };
            let kind = entry.text_at("type").unwrap_or_else(|| kind_of(&content));
            self.part(&kind, &content, None, depth + 1);
        }
    }

    fn message(&mut self, text: &str, depth: usize) {
        let (headers, body) = split_headers(text);
        let kind = header(&headers, "content-type").unwrap_or_default();
        let Some(boundary) = parameter(kind, "boundary") else {
            self.errors
                .push("user data: a multipart message names no boundary".to_owned());
            return;
        };
        for part in parts(body, &boundary) {
            let (headers, body) = split_headers(&part);
            let encoding = header(&headers, "content-transfer-encoding");
            let content = match decoded(body, encoding.unwrap_or_default()) {
                Ok(bytes) => self.text(&bytes),
                Err(error) => {
                    self.errors
                        .push(format!("user data: a part cannot be decoded: {error}"));
                    continue;
                }
            };
            let kind = header(&headers, "content-type").unwrap_or("text/plain");
            let kind = kind.split(';').next().unwrap_or_default().trim();
            let how = header(&headers, "merge-type").or(header(&headers, "x-merge-type"));
            if kind.starts_with("multipart/") {
                // It needs its own headers to be read.
                self.part(kind, &part, how, depth + 1);
            } else {
                self.part(&kind.to_ascii_lowercase(), &content, how, depth + 1);
            }
        }
    }

    fn part(&mut self, kind: &str, text: &str, how: Option<&str>, depth: usize) {
        if depth > DEPTH {
            self.errors
                .push("user data: messages are nested too deeply".to_owned());
            return;
        }
        let guessed;
        let kind = match kind {
            "text/plain" | "text/x-not-multipart" => {
                guessed = kind_of(text);
                &guessed
            }
            kind => kind,
        };
        if !self.document(kind, text, how, depth) {
            self.errors
                .push(format!("Unhandled unknown content-type ({kind}) userdata"));
        }
    }
}

/// The type of a document as its first line tells it.
fn kind_of(text: &str) -> String {
    const KINDS: [(&str, &str); 10] = [
        ("#cloud-config-archive", "text/cloud-config-archive"),
        ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
        ("#cloud-config", "text/cloud-config"),
        ("#cloud-boothook", "text/cloud-boothook"),
        ("#include-once", "text/x-include-once-url"),
        ("#include", "text/x-include-url"),
        ("#part-handler", "text/part-handler"),
        ("#upstart-job", "text/upstart-job"),
        ("## template: jinja", "text/jinja2"),
        ("#!", "text/x-shellscript"),
    ];
    let text = text.trim_start();
    let found = KINDS.iter().find(|(start, _)| text.starts_with(start));
    if let Some((_, kind)) = found {
        return (*kind).to_owned();
    }
    let (headers, _) = split_headers(text);
    let kind = header(&headers, "content-type").unwrap_or("text/x-not-multipart");
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

/// The headers of a message, and what comes after them.
fn split_headers(text: &str) -> (Vec<(String, String)>, &str) {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, next) = rest.split_once('\n').unwrap_or((rest, ""));
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            return (headers, next);
        }
        if line.starts_with([' ', '\t']) {
            // It goes on where the line before has ended.
            let Some((_, value)) = headers.last_mut() else {
                break;
            };
            value.push(' ');
            value.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        } else if !line.starts_with("From ") {
            break;
        }
        rest = next;
    }
    (headers, rest)
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    let found = headers.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// A parameter of a header, `multipart/mixed; boundary="X"`.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case(name);
        is_it.then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// What is between the boundaries of a message. The line break before one belongs to it.
fn parts(body: &str, boundary: &str) -> Vec<String> {
    let start = format!("--{boundary}");
    let end = format!("{start}--");
    let mut parts: Vec<String> = Vec::new();
    let mut is_inside = false;
    for line in body.split_inclusive('\n') {
        let words = line.trim_end();
        if words == start || words == end {
            if let Some(part) = parts.last_mut().filter(|_| is_inside) {
                let kept = part.strip_suffix('\n').unwrap_or(part);
                let kept = kept.strip_suffix('\r').unwrap_or(kept).len();
                part.truncate(kept);
            }
            if words == end {
                break;
            }
            is_inside = true;
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
        }
    }
    parts
}

/// The bytes of a part.
fn decoded(body: &str, encoding: &str) -> Result<Vec<u8>, String> {
    match encoding.to_ascii_lowercase().as_str() {
        "base64" => {
            let body: String = body.split_ascii_whitespace().collect();
            let bytes = BASE64_STANDARD.decode(body);
            bytes.map_err(|error| error.to_string())
        }
        "quoted-printable" => Ok(unquoted(body)),
        _ => Ok(body.as_bytes().to_vec()),
    }
}

fn unquoted(body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body.as_bytes();
    while let Some((byte, next)) = rest.split_first() {
        rest = next;
        if *byte != b'=' {
            out.push(*byte);
            continue;
        }
        let digits = next.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        if let Some(code) = digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            out.push(code);
            rest = &next[2..];
        } else if let Some(next) = next.strip_prefix(b"\r\n").or(next.strip_prefix(b"\n")) {
            // The line goes on.
            rest = next;
        } else {
            out.push(b'=');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const MESSAGE: &str = "Content-Type: multipart/mixed;\r\n boundary=\"MIMEBOUNDARY\"\r\n\
        MIME-Version: 1.0\r\n\r\n\
        --MIMEBOUNDARY\r\n\
        Content-Transfer-Encoding: 7bit\r\nContent-Type: text/cloud-config\r\n\r\n\
        packages: [one]\nhostname: a\r\n\
        --MIMEBOUNDARY\r\n\
        Content-Transfer-Encoding: base64\r\nContent-Type: text/x-shellscript; charset=\"utf-8\"\r\n\r\n\
        IyEvYmlu\r\nL3NoCmVjaG8K\r\n\
        --MIMEBOUNDARY\r\n\
        Merge-Type: list(append)+dict(recurse_array)+str()\r\nContent-Type: text/plain\r\n\r\n\
        #cloud-config\npackages: [two]\nhostname: b\n\r\n\
        --MIMEBOUNDARY--\r\n";

    #[test]
    fn the_parts_of_a_message_are_read_and_merged_as_they_ask() {
        let read = UserData::read(MESSAGE.as_bytes());
        assert_eq!(read.errors, [""; 0]);
        assert_eq!(read.scripts, ["#!/bin/sh\necho\n"]);
        let packages = read.config.get("packages").unwrap().words();
        assert_eq!(packages, ["one", "two"]);
        assert_eq!(read.config.text_at("hostname").unwrap(), "a");

        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(MESSAGE.as_bytes()).unwrap();
        let unpacked = UserData::read(&gzip.finish().unwrap());
        assert_eq!(unpacked.config, read.config);
    }

    #[test]
    fn other_forms_are_read_or_told() {
        let archive = "#cloud-config-archive\n- {type: text/cloud-boothook, content: \"#cloud-boothook\\n#!/bin/sh\\n\"}\n\
            - \"#cloud-config\\nhostname: x\\n\"\n- {type: text/strange, content: y}\n";
        let read = UserData::read(archive.as_bytes());
        assert_eq!(read.boothooks, ["#!/bin/sh\n"]);
        assert_eq!(read.config.text_at("hostname").unwrap(), "x");
        assert_eq!(
            read.errors,
            ["Unhandled unknown content-type (text/strange) userdata"]
        );
        for (text, said) in [
            ("hello", "neither with #cloud-config nor with #!"),
            (
                "#include\nhttp://x/",
                "does not carry out text/x-include-url",
            ),
            ("Content-Type: multipart/mixed\n\nx", "names no boundary"),
            ("#cloud-config\na: [", "Failed loading yaml"),
        ] {
            let errors = UserData::read(text.as_bytes()).errors;
            assert!(errors.len() == 1 && errors[0].contains(said), "{errors:?}");
        }
        assert_eq!(UserData::read(b" \n").errors, [""; 0]);
        assert_eq!(unquoted("a=3Db=\r\nc=zz"), b"a=bc=zz");
    }
}
