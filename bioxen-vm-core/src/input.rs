use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::{Error, ErrorKind, Result};

/// A stream of bytes that a program reads while it runs.
pub type InputStream = Pin<Box<dyn AsyncRead + Send>>;

/// What a program reads from standard input: bytes, then a stream if there is one.
///
/// Anything that can become [`Bytes`] can become an `Input`. A stream is read once: clones share
/// it, and only the first execution gets it.
#[derive(Clone, Default)]
pub struct Input {
    bytes: Bytes,
    stream: Option<Arc<Mutex<Option<InputStream>>>>,
    lifeline: bool,
}

impl Input {
    /// Input that is read from a stream as the program asks for it. Its end is the end of the
    /// input.
    pub fn stream(stream: impl AsyncRead + Send + 'static) -> Self {
        Self {
            bytes: Bytes::new(),
            stream: Some(Arc::new(Mutex::new(Some(Box::pin(stream))))),
            lifeline: false,
        }
    }

    /// A stream whose end also ends the program, for one that is to live as long as somebody
    /// talks to it. Each piece is passed on without delay.
    pub fn lifeline(stream: impl AsyncRead + Send + 'static) -> Self {
        Self {
            lifeline: true,
            ..Self::stream(stream)
        }
    }

    /// The same stream, if there is one, after these bytes instead.
    #[must_use]
    pub fn with_bytes(self, bytes: Bytes) -> Self {
        Self { bytes, ..self }
    }

    /// The bytes that come before the stream; all of the input when there is no stream.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether a stream follows the bytes.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether the end of the stream also ends the program.
    #[must_use]
    pub fn is_lifeline(&self) -> bool {
        self.lifeline
    }

    /// Takes the stream, if there is one.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when an earlier execution has taken it.
    pub fn take_stream(&self) -> Result<Option<InputStream>> {
        let Some(shared) = &self.stream else {
            return Ok(None);
        };
        let taken = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(stream) => Ok(Some(stream)),
            None => Err(Error::new(
                ErrorKind::Config,
                "the input stream has been read by an earlier execution; give each its own",
            )),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Input {
    fn from(bytes: T) -> Self {
        Self {
            bytes: bytes.into(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("bytes", &self.bytes)
            .field("stream", &self.stream.is_some())
            .field("lifeline", &self.lifeline)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_can_be_taken_once_and_by_one_clone_only() {
        let input = Input::stream(&b"x"[..]);
        let clone = input.clone();
        assert!(clone.take_stream().unwrap().is_some());
        let error = input.take_stream().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
