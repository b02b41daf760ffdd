//! What can go wrong.

use std::error::Error as StdError;
use std::time::Duration;

pub use crate::failure::Failure;
pub use crate::generated::errors::ErrorCode;
use crate::retry::TaskTag;

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// A cause that belongs to another crate.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call did not give a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server was asked, and refused or failed.
    #[error(transparent)]
    Api(Failure),

    /// No connection came about, so nothing was executed.
    #[error(
        "cannot connect to {host} on port {port}; check the address, that the host is up, and that no \
         firewall blocks the port"
    )]
    Connect {
        /// The host that was tried.
        host: String,
        /// The port that was tried.
        port: u16,
        /// The reason.
        source: Cause,
    },

    /// The server's certificate is not trusted, so nothing was sent.
    #[error(
        "the certificate of {host} is not trusted; its SHA-256 fingerprint is {fingerprint}{}: compare it with \
         the one the host's console shows and pin it, or give the CA certificate",
        .vouched_by.as_ref().map(|member| format!(", for which the trusted member {member} vouches")).unwrap_or_default()
    )]
    Untrusted {
        /// The host whose certificate it is.
        host: String,
        /// The fingerprint of the certificate that the server presented.
        fingerprint: crate::Fingerprint,
        /// The trusted member of the pool that named this very certificate as its coordinator's, where one
        /// led here. [`trust_vouched`](crate::ClientBuilder::trust_vouched) makes that enough.
        vouched_by: Option<String>,
        /// The reason.
        source: Cause,
    },

    /// TLS failed before any certificate was judged, so nothing was sent.
    #[error(
        "cannot establish a secure connection with {host} on port {port}; check that it speaks TLS"
    )]
    Tls {
        /// The host that was tried.
        host: String,
        /// The port that was tried.
        port: u16,
        /// The reason.
        source: Cause,
    },

    /// The connection broke during a call that does no harm when it is executed again, and every replay
    /// fared no better. The server may have executed it.
    #[error("the connection to {host} broke during {method}; try again when the host is up")]
    Transport {
        /// The method that was called.
        method: String,
        /// The host it was sent to.
        host: String,
        /// The reason.
        source: Cause,
    },

    /// The answer was lost of a call that must not be executed twice: the connection broke, or no answer
    /// came in time. The server may have executed it, or may still be at it; it was not sent again.
    #[error(
        "the answer of {host} to {method} was lost; look whether it was executed before you repeat it{}",
        .tag.as_ref().map(|tag| format!(" (task tag {tag})")).unwrap_or_default()
    )]
    UnknownOutcome {
        /// The method that was called.
        method: String,
        /// The host it was sent to.
        host: String,
        /// Marks the task of the call: [`Client::reconcile`](crate::Client::reconcile) finds it. Only calls
        /// that were sent as tasks have one.
        tag: Option<TaskTag>,
        /// The reason.
        source: Cause,
    },

    /// No answer came in time. The server may still be at it; executing the call again does no harm.
    #[error("no answer to {method} from {host} within {} s; it may still be running there", after.as_secs_f64())]
    Timeout {
        /// The method that was called.
        method: String,
        /// The host it was sent to.
        host: String,
        /// How long the client waited.
        after: Duration,
    },

    /// The answer is not one of the API: its HTTP status is not 200.
    #[error(
        "{host} answered {method} with HTTP status {status}; check that the address is that of a XAPI host"
    )]
    Http {
        /// The method that was called.
        method: String,
        /// The host that answered.
        host: String,
        /// The status.
        status: u16,
    },

    /// An HTTP handler refused a request, and named no error of the API.
    #[error("{host} refused {method} with HTTP status {status}: {reason}")]
    Refused {
        /// The request, `PUT /import`.
        method: String,
        /// The host that refused.
        host: String,
        /// The status.
        status: u16,
        /// What the server said, in one line, or what the status means where it said nothing.
        reason: String,
    },

    /// The source of an upload could not be read, or the target of a download not be written. The server
    /// was told to give up.
    #[error("cannot {action} the data of {method}")]
    Data {
        /// The request, `PUT /import`.
        method: String,
        /// `read` or `write`.
        action: &'static str,
        /// The reason.
        source: std::io::Error,
    },

    /// The answer is not what the method should return.
    #[error("cannot decode the answer to {method}")]
    Decode {
        /// The method that was called.
        method: String,
        /// The reason.
        source: Cause,
    },

    /// The request is over a limit of the server, and was not sent.
    #[error("the {part} of {method} has {size} bytes, the server takes at most {limit}")]
    TooLarge {
        /// The method that was called.
        method: String,
        /// Which part: the head (address, `User-Agent`) or the body (the parameters).
        part: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// A task vanished before its end was seen: the server restarted, or cleared it away. The work may
    /// have been done, may have failed, or may go on.
    #[error("the task of {method} is gone; whether the work was done is unknown")]
    TaskGone {
        /// The method that the task was for.
        method: String,
        /// The reference of the task.
        task: String,
    },

    /// The client was closed.
    #[error("the client is closed; log in again for {method}")]
    Closed {
        /// The method that was called.
        method: String,
    },

    /// The client was given something it cannot work with.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Whether nothing was executed, and the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Api(failure) => failure.is_retryable(),
            Self::Connect { .. } => true,
            _ => false,
        }
    }

    /// Whether the server may have executed the call all the same, or may still do so.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Transport { .. }
                | Self::Timeout { .. }
                | Self::UnknownOutcome { .. }
                | Self::TaskGone { .. }
        )
    }

    /// What happened in one word, for logs: it repeats nothing that may be secret.
    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Api(failure) => failure.code.as_str(),
            Self::Connect { .. } => "not connected",
            Self::Untrusted { .. } => "certificate not trusted",
            Self::Tls { .. } => "no TLS",
            Self::Transport { .. } => "connection lost",
            Self::UnknownOutcome { .. } => "outcome unknown",
            Self::Timeout { .. } => "no answer in time",
            Self::Http { .. } | Self::Refused { .. } => "HTTP status",
            Self::Data { .. } => "data not read or written",
            Self::Decode { .. } => "undecodable",
            Self::TooLarge { .. } => "too large",
            Self::TaskGone { .. } => "task gone",
            Self::Closed { .. } => "closed",
            Self::Config(_) => "refused by the client",
        }
    }

    /// The failure that the server answered with, if it did answer.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Api(failure) => Some(failure),
            _ => None,
        }
    }

    /// The error code that the server answered with, if it did answer.
    #[must_use]
    pub fn code(&self) -> Option<&ErrorCode> {
        self.failure().map(|failure| &failure.code)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Api(failure)
    }
}
