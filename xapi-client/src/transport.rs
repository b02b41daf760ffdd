//! How requests travel.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, Result};

/// A JSON-RPC request on its way to one server.
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// The method, for messages; the body holds it too.
    pub method: String,
    /// The JSON text to post to `/jsonrpc`. It may hold secrets.
    pub body: Bytes,
    /// How long to wait for the whole answer.
    pub timeout: Duration,
}

impl Request {
    /// A request to call `method` with this body.
    #[must_use]
    pub fn new(method: impl Into<String>, body: impl Into<Bytes>, timeout: Duration) -> Self {
        Self {
            method: method.into(),
            body: body.into(),
            timeout,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("body_bytes", &self.body.len())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Carries requests to one server: over HTTPS, or within the process to a simulator.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends a request and returns the body of the answer, which is JSON text.
    ///
    /// # Errors
    ///
    /// Whatever kept the answer away. A failure of the API is an answer, not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the answer; the server may execute the request all the same.
    async fn send(&self, request: Request) -> Result<Bytes>;

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
