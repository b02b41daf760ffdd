//! How requests travel.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Error, Result};
use crate::reply::Reply;
use crate::retry::TaskTag;
use crate::{jsonrpc, xmlrpc};

/// How calls and answers are written. The values are the same either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// JSON-RPC 2.0, at `/jsonrpc`.
    #[default]
    JsonRpc,
    /// XML-RPC, at `/`. Every server speaks it. It is slower, and cannot express most control characters.
    XmlRpc,
}

impl Protocol {
    /// Writes a request; the session, where there is one, is the first parameter.
    pub(crate) fn encode(
        self,
        id: u64,
        method: &str,
        session: Option<&str>,
        params: &[Value],
    ) -> Result<Bytes> {
        match self {
            Self::JsonRpc => Ok(jsonrpc::encode(id, method, session, params)),
            Self::XmlRpc => xmlrpc::encode(method, session, params),
        }
    }

    /// The result of a successful answer.
    pub(crate) fn open(self, method: &str, body: Bytes) -> Result<Reply> {
        match self {
            Self::JsonRpc => jsonrpc::open(method, body),
            Self::XmlRpc => xmlrpc::open(method, body),
        }
    }
}

/// A request on its way to one server.
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// The method, for messages; the body holds it too.
    pub method: String,
    /// What the body is written in.
    pub protocol: Protocol,
    /// The text to post. It may hold secrets.
    pub body: Bytes,
    /// What the server should mark the task of this call with; over HTTP it goes as a header.
    pub task_tag: Option<TaskTag>,
    /// A key and a value that the server should mark the task with besides, in the same way.
    pub task_mark: Option<(String, String)>,
    /// How long to wait for the whole answer.
    pub timeout: Duration,
}

impl Request {
    /// A request to call `method` with this body, in JSON-RPC.
    #[must_use]
    pub fn new(method: impl Into<String>, body: impl Into<Bytes>, timeout: Duration) -> Self {
        Self {
            method: method.into(),
            protocol: Protocol::JsonRpc,
            body: body.into(),
            task_tag: None,
            task_mark: None,
            timeout,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("protocol", &self.protocol)
            .field("body_bytes", &self.body.len())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// The body of an answer, piece by piece.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// A body in one piece.
struct Whole(Option<Bytes>);

impl Stream for Whole {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

/// A connection to a server, for one request to an HTTP handler. What protects it is already in place.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Carries requests to one server: over HTTPS, or within the process to a simulator.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends a request and returns the body of the answer, in the protocol of the request.
    ///
    /// # Errors
    ///
    /// Whatever kept the answer away. A failure of the API is an answer, not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the answer; the server may execute the request all the same.
    async fn send(&self, request: Request) -> Result<Bytes>;

    /// As [`send`](Self::send), and returns the body as it comes. By default it comes in one piece.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), at any time.
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send); so does dropping the body.
    async fn stream(&self, request: Request) -> Result<BodyStream> {
        let body = self.send(request).await?;
        Ok(Box::pin(Whole(Some(body))))
    }

    /// Opens a connection of its own for one request to an HTTP handler: disk images and the like do not
    /// travel as calls.
    ///
    /// # Errors
    ///
    /// Whatever keeps the connection from coming about; [`Error::Config`] when this kind of transport
    /// carries calls only (the default).
    async fn connect(&self) -> Result<Box<dyn Connection>> {
        Err(Error::Config(format!(
            "the transport to {} carries calls only; connect over HTTPS to import and export",
            self.host()
        )))
    }

    /// The server, for messages: host name or address.
    fn host(&self) -> &str;

    /// A transport like this one to another host of the pool, which a server named as its coordinator.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when this kind of transport cannot follow (the default), or the address is
    /// none.
    fn redirect(&self, address: &str) -> Result<Arc<dyn Transport>> {
        Err(Error::Config(format!(
            "{} is no pool coordinator; connect to {address} instead",
            self.host()
        )))
    }
}
