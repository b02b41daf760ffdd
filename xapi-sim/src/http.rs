//! HTTP/1.1 as the server does it, by hand: a general library would be more lenient, and clients
//! would meet the server's limits in production only.

mod connection;
mod head;
mod page;

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use crate::classes::certificate;
use crate::fault::Spoil;
use crate::handlers;
use crate::rpc::{self, Codec, Face};
use connection::Stream;
pub(crate) use connection::{Connection, Way};
pub(crate) use head::Head;
pub(crate) use page::{exception, forbidden, injected, unauthorised};
use page::{not_implemented, timed_out, too_large};

/// The longest request head, request line and headers with their ends of line.
const MAX_HEAD: usize = 1006;
/// The longest body of a call.
const MAX_BODY: i64 = 300 * 1024;
/// How long each part of the first head of a connection, and the whole of it, may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

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

/// Serves a connection until either side ends it.
pub(crate) async fn serve(face: Face, stream: impl Stream + 'static) {
    let mut connection = Connection::new(stream);
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
    let Connection { stream, buffer, .. } = connection;
    let deadline = Instant::now() + HEAD_TIMEOUT;
    loop {
        let window = &buffer[..buffer.len().min(MAX_HEAD)];
        if let Some(at) = window.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..at + 4).collect();
            return head::parse(&head).map_err(NoHead::Refused);
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

/// `None` when the client has gone in the middle of its request.
async fn respond(face: &Face, head: &Head, connection: &mut Connection) -> Option<Response> {
    match head.method.as_str() {
        "POST" if !handlers::serves("POST", &head.path) => {
            let Some(codec) = codec_of(&head.path) else {
                return Some(forbidden().ending());
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
                    Some(Spoil::Status(status)) => injected(status),
                    spoil => {
                        let thumbprint = match head.header(ASKED_THUMBPRINT) {
                            Some(kind) if answer.redirects => {
                                certificate::of_coordinator(&face.shared, kind).await
                            }
                            _ => None,
                        };
                        let mut response = success(head, codec, answer.dispatched, answer.body);
                        response.spoil = spoil;
                        response
                            .headers
                            .extend(thumbprint.map(|text| (THUMBPRINT, text)));
                        response
                    }
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

/// By which header a client asks for the fingerprint of the coordinator's certificate, and by which one
/// the host that sends it there answers.
const ASKED_THUMBPRINT: &str = "x-xenapi-request-host-certificate-thumbprint";
const THUMBPRINT: &str = "x-xenapi-response-host-certificate-thumbprint";

fn kept(head: &Head) -> Vec<(&'static str, String)> {
    let connection = if head.close { "close" } else { "keep-alive" };
    vec![
        ("connection", connection.to_owned()),
        ("cache-control", NO_CACHE.to_owned()),
    ]
}

/// The answer to a call. Browsers are told that they may read it only where it was dispatched.
fn success(head: &Head, codec: Codec, dispatched: bool, body: Vec<u8>) -> Response {
    let content = match codec {
        Codec::Json => "application/json",
        Codec::Xml => "text/xml",
    };
    let mut headers = kept(head);
    headers.push(("content-type", content.to_owned()));
    if dispatched {
        let allowed = "X-Requested-With".to_owned();
        headers.push(("Access-Control-Allow-Origin", "*".to_owned()));
        headers.push(("Access-Control-Allow-Headers", allowed));
    }
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
