//! HTTP/1.1 as the server does it, by hand: a general library would be more lenient, and clients
//! would meet the server's limits in production only.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::fault::Spoil;
use crate::handlers;
use crate::rpc::{self, Codec, Face};
use crate::value::parse_int;

/// The longest request head, request line and headers with their ends of line.
const MAX_HEAD: usize = 1006;
/// The longest body of a call.
const MAX_BODY: i64 = 300 * 1024;
/// How much room for bytes to come is made at least, so that large bodies come in large pieces.
const READ_AHEAD: usize = 64 * 1024;
/// How long each part of the first head of a connection, and the whole of it, may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// A parsed request head.
#[derive(Debug, Default, Clone)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    old_version: bool,
    close: bool,
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

    fn tags(&self) -> Vec<(String, String)> {
        let tagged = self.headers.iter().rev().filter_map(|(name, value)| {
            let key = name.strip_prefix("x-http-other-config-")?;
            Some((key.to_owned(), value.clone()))
        });
        tagged.collect()
    }

    fn version(&self) -> &'static str {
        if self.old_version { "1.0" } else { "1.1" }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    status: Cow<'static, str>,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Whether the connection ends, whatever the headers say.
    ends: bool,
    /// What happens to it on its way.
    spoil: Option<Spoil>,
}

impl Response {
    /// The same with the end of the connection.
    pub(crate) fn ending(mut self) -> Self {
        self.ends = true;
        self
    }
}

/// What came instead of a request head.
enum NoHead {
    /// The client has gone.
    Gone,
    /// A last answer is due.
    Refused(Response),
}

/// What carries bytes both ways: a socket, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection, and what has been read from it and not been used yet.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Reads more into the buffer, and tells whether anything came.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(READ_AHEAD);
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// Exactly so many bytes; `None` when the client ends before.
    pub(crate) async fn read(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        let rest = self.buffer.split_off(length);
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    /// As many bytes as come without waiting, at least one and at most so many; none at the end.
    pub(crate) async fn read_some(&mut self, most: usize) -> Vec<u8> {
        if self.buffer.is_empty() && !self.fill().await {
            return Vec::new();
        }
        let rest = self.buffer.split_off(most.min(self.buffer.len()));
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Writes a head as handlers do it, line by line.
    pub(crate) async fn write_head(&mut self, lines: &[&str]) -> io::Result<()> {
        let mut head = lines.join("\r\n");
        head.push_str("\r\n\r\n");
        self.write(head.as_bytes()).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

/// Serves a connection until either side ends it.
pub(crate) async fn serve(face: Face, stream: impl Stream + 'static) {
    let mut connection = Connection {
        stream: Box::new(stream),
        buffer: Vec::new(),
    };
    let mut first = true;
    loop {
        let head = match read_head(&mut connection, first).await {
            Ok(head) => head,
            Err(NoHead::Gone) => break,
            Err(NoHead::Refused(response)) => {
                let _ = write(&mut connection.stream, &Head::default(), &response).await;
                break;
            }
        };
        first = false;
        let Some(response) = respond(&face, &head, &mut connection).await else {
            break;
        };
        let ends = response.ends || matches!(response.spoil, Some(Spoil::Truncate(_)));
        if write(&mut connection.stream, &head, &response)
            .await
            .is_err()
            || ends
        {
            break;
        }
    }
    let _ = connection.stream.shutdown().await;
}

async fn read_head(connection: &mut Connection, first: bool) -> Result<Head, NoHead> {
    let Connection { stream, buffer } = connection;
    let deadline = Instant::now() + HEAD_TIMEOUT;
    loop {
        let window = &buffer[..buffer.len().min(MAX_HEAD)];
        if let Some(at) = window.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..at + 4).collect();
            return parse_head(&head).map_err(NoHead::Refused);
        }
        if buffer.len() >= MAX_HEAD {
            return Err(NoHead::Refused(too_large()));
        }
        let read = stream.read_buf(buffer);
        let read = if first {
            let limit = deadline.min(Instant::now() + READ_TIMEOUT);
            match timeout_at(limit, read).await {
                Ok(read) => read,
                Err(_) => return Err(NoHead::Refused(timed_out())),
            }
        } else {
            read.await
        };
        match read {
            Ok(0) | Err(_) => return Err(NoHead::Gone),
            Ok(_) => {}
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Head, Response> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let request: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let [method, target, version] = request[..] else {
        return Err(internal_error("The HTTP headers could not be parsed."));
    };
    // A target like `//host/path` names a host, as in any URI.
    let path = match target.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
        None => target,
    };
    let (path, _) = path.split_once('#').unwrap_or((path, ""));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let version = version.trim().get("HTTP/".len()..).unwrap_or_default();
    let mut head = Head {
        method: method.to_owned(),
        path: path.to_owned(),
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

/// `None` when the client has gone in the middle of its request.
async fn respond(face: &Face, head: &Head, connection: &mut Connection) -> Option<Response> {
    match head.method.as_str() {
        "POST" if !handlers::serves("POST", &head.path) => {
            let Some(codec) = codec_of(&head.path) else {
                return Some(forbidden());
            };
            let length = match head.content_length {
                None => {
                    return Some(exception(
                        "Failure(\"We require a content-length: HTTP header\")",
                    ));
                }
                Some(length) if length > MAX_BODY => {
                    return Some(exception("Http_svr.Client_requested_size_over_limit"));
                }
                Some(length) => length,
            };
            let Ok(length) = usize::try_from(length) else {
                return Some(exception("Invalid_argument(\"Bytes.create\")"));
            };
            let body = connection.read(length).await?;
            Some(match rpc::answer(face, codec, &body, head.tags()).await {
                Ok(answer) => match answer.spoil {
                    Some(Spoil::Disconnect) => return None,
                    Some(Spoil::Status(status)) => page(
                        format!("{status} Injected"),
                        format!("<h1>HTTP {status}</h1>"),
                        true,
                    ),
                    spoil => Response {
                        spoil,
                        ..success(head, codec, answer.body)
                    },
                },
                Err(text) => exception(&text),
            })
        }
        "OPTIONS" => Some(options(head)),
        "GET" | "PUT" | "POST" | "CONNECT" => handlers::respond(face, head, connection).await,
        other => Some(not_implemented(other)),
    }
}

/// Every path speaks XML-RPC, except those that begin with `/jsonrpc`.
fn codec_of(path: &str) -> Option<Codec> {
    if path.starts_with("/jsonrpc") {
        Some(Codec::Json)
    } else if path.starts_with('/') {
        Some(Codec::Xml)
    } else {
        None
    }
}

async fn write(stream: &mut impl Stream, head: &Head, response: &Response) -> io::Result<()> {
    let mut out = format!("HTTP/{} {}\r\n", head.version(), response.status);
    out.push_str(&format!("content-length: {}\r\n", response.body.len()));
    for (name, value) in &response.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    let (now, later) = match response.spoil {
        Some(Spoil::Truncate(bytes)) => (bytes.min(response.body.len()), None),
        Some(Spoil::Slow(pause)) => (response.body.len() / 2, Some(pause)),
        _ => (response.body.len(), None),
    };
    let (first, rest) = response.body.split_at(now);
    out.extend_from_slice(first);
    stream.write_all(&out).await?;
    stream.flush().await?;
    if let Some(pause) = later {
        tokio::time::sleep(pause).await;
        stream.write_all(rest).await?;
        stream.flush().await?;
    }
    Ok(())
}

const NO_CACHE: &str = "no-cache, no-store";

fn kept(head: &Head) -> Vec<(&'static str, String)> {
    let connection = if head.close { "close" } else { "keep-alive" };
    vec![
        ("connection", connection.to_owned()),
        ("cache-control", NO_CACHE.to_owned()),
    ]
}

fn success(head: &Head, codec: Codec, body: Vec<u8>) -> Response {
    let content = match codec {
        Codec::Json => "application/json",
        Codec::Xml => "text/xml",
    };
    let mut headers = kept(head);
    headers.extend([
        ("content-type", content.to_owned()),
        ("Access-Control-Allow-Origin", "*".to_owned()),
        (
            "Access-Control-Allow-Headers",
            "X-Requested-With".to_owned(),
        ),
    ]);
    Response {
        status: "200 OK".into(),
        headers,
        body,
        ends: head.close,
        spoil: None,
    }
}

fn options(head: &Head) -> Response {
    let allowed = match head.header("access-control-request-headers") {
        Some(requested) => format!("{requested}, X-Requested-With"),
        None => "X-Requested-With".to_owned(),
    };
    let mut headers = kept(head);
    headers.extend([
        ("Access-Control-Allow-Origin", "*".to_owned()),
        ("Access-Control-Allow-Headers", allowed),
        ("Access-Control-Allow-Methods", "PUT".to_owned()),
    ]);
    Response {
        status: "200 OK".into(),
        headers,
        body: Vec::new(),
        ends: head.close,
        spoil: None,
    }
}

/// An answer with other content than a page.
pub(crate) fn plain(head: &Head, content: &str, body: Vec<u8>) -> Response {
    let mut headers = kept(head);
    headers.push(("content-type", content.to_owned()));
    Response {
        status: "200 OK".into(),
        headers,
        body,
        ends: head.close,
        spoil: None,
    }
}

/// An answer with a page. It says that the connection is to be closed.
fn page(status: impl Into<Cow<'static, str>>, body: String, ends: bool) -> Response {
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

/// The connection stays open although the header says otherwise: so does the server's.
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

fn not_implemented(method: &str) -> Response {
    let text = format!(
        "<h1>HTTP 501 Method Not Implemented</h1><p>{} not supported.<br /></p>",
        escape(method)
    );
    page("501 Method not implemented", text, true)
}

fn too_large() -> Response {
    let text = "<h1>HTTP 431 request header fields too large</h1>Exceeded the maximum header size.";
    page("431 Request Header Fields Too Large", text.to_owned(), true)
}

fn timed_out() -> Response {
    let text = "<h1>HTTP 408 request timeout</h1>Timed out waiting for the request.";
    page("408 Request Timeout", text.to_owned(), true)
}

/// The page for an exception of the server.
pub(crate) fn exception(text: &str) -> Response {
    internal_error(&escape(text))
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
