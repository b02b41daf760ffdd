//! One request and its answer, on a connection of their own.
//!
//! Handlers use HTTP in ways that general libraries do not follow to the end: they answer before they read,
//! they leave the length of both bodies open, and they mark the end of an answer by closing, with or without
//! a farewell. So the head is written here, and bodies are passed on as they are.

use std::io;
use std::time::Duration;

use httparse::{EMPTY_HEADER, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{Cause, Error, Result};
use crate::transport::Connection;

/// The largest head of an answer that is read, in bytes.
const MAX_ANSWER_HEAD: usize = 32 * 1024;
/// How much of a refusal is read, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;
/// How long the text of a refusal may take.
const REFUSAL: Duration = Duration::from_secs(5);

/// What an answer begins with.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Where to ask instead.
    pub(super) location: Option<String>,
    /// The length of the body; `None`: it ends where the connection does.
    pub(super) length: Option<u64>,
}

/// A request that was sent, and what has come back so far.
pub(super) struct Exchange {
    pub(super) connection: Box<dyn Connection>,
    /// What was read and not yet looked at; once the head is known, the first bytes of the body.
    pub(super) unread: Vec<u8>,
    /// The request and the host, for messages.
    method: String,
    host: String,
}

impl Exchange {
    /// Sends the head of a request.
    pub(super) async fn send(
        mut connection: Box<dyn Connection>,
        head: &str,
        method: &str,
        host: &str,
    ) -> Result<Self> {
        let sent = async {
            connection.write_all(head.as_bytes()).await?;
            connection.flush().await
        };
        let outcome = sent.await;
        let exchange = Self {
            connection,
            unread: Vec::new(),
            method: method.to_owned(),
            host: host.to_owned(),
        };
        match outcome {
            Ok(()) => Ok(exchange),
            Err(error) => Err(exchange.broke(error)),
        }
    }

    /// Reads the head of the answer. Dropping the future loses nothing.
    pub(super) async fn head(&mut self) -> Result<Head> {
        loop {
            if let Some((head, end)) = parse(&self.unread).map_err(|why| self.broke(why))? {
                self.unread.drain(..end);
                return Ok(head);
            }
            if self.unread.len() > MAX_ANSWER_HEAD {
                return Err(self.broke("the head of the answer does not end"));
            }
            match self.connection.read_buf(&mut self.unread).await {
                Ok(0) => return Err(self.broke("the host closed it without an answer")),
                Ok(_) => {}
                Err(error) => return Err(self.broke(error)),
            }
        }
    }

    /// Reads what a refusal says, as far as it says anything.
    pub(super) async fn refusal(mut self, head: &Head) -> String {
        let length = head.length.map_or(MAX_REFUSAL, |length| {
            usize::try_from(length).map_or(MAX_REFUSAL, |length| length.min(MAX_REFUSAL))
        });
        let read = async {
            while self.unread.len() < length {
                match self.connection.read_buf(&mut self.unread).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        // What came in time has to do.
        let _ = tokio::time::timeout(REFUSAL, read).await;
        String::from_utf8_lossy(&self.unread).into_owned()
    }

    pub(super) fn broke(&self, source: impl Into<Cause>) -> Error {
        broke(&self.method, &self.host, source)
    }
}

/// The connection broke, or what came over it made no sense.
pub(super) fn broke(method: &str, host: &str, source: impl Into<Cause>) -> Error {
    Error::Transport {
        method: method.to_owned(),
        host: host.to_owned(),
        source: source.into(),
    }
}

/// Whether a connection merely ended: servers often end TLS without its farewell.
pub(super) fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

/// The head that a text begins with, and where it ends; `None` where it goes on.
pub(super) fn parse(text: &[u8]) -> std::result::Result<Option<(Head, usize)>, Cause> {
    let mut headers = [EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let Status::Complete(end) = response.parse(text)? else {
        return Ok(None);
    };
    let mut head = Head {
        status: response.code.unwrap_or_default(),
        location: None,
        length: None,
    };
    for header in response.headers {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "location" => head.location = Some(value.to_owned()),
            "content-length" => {
                let length = value
                    .parse()
                    .map_err(|_| format!("`{value}` is no length of an answer"))?;
                head.length = Some(length);
            }
            // No server of the API does, but what sits between may.
            "transfer-encoding" if !value.eq_ignore_ascii_case("identity") => {
                return Err(format!(
                    "the answer is {value}, which servers of the API never send; is there a proxy between"
                )
                .into());
            }
            _ => {}
        }
    }
    Ok(Some((head, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        let text = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\ndata";
        let (head, end) = parse(text).unwrap().unwrap();
        assert_eq!((head.status, head.length), (200, None));
        assert_eq!(&text[end..], b"data");
        for cut in 0..end {
            assert!(parse(&text[..cut]).unwrap().is_none(), "{cut}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
