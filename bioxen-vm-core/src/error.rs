use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of an operation on a VM.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a VM could not be done.
///
/// A Lua program that fails is not an error but an [`Outcome`](crate::Outcome): an `Error` says
/// that we could not try, or do not know what happened.
///
/// `Display` is one clause without the cause; the cause is reached through
/// [`source`](StdError::source), and the typed error of the backend by downcasting it.
///
/// `Debug` is for people too, since it is what a `main` that returns a [`Result`] shows: the error
/// and below it its causes, each in a line. The alternate form, `{:#?}`, shows the fields.
///
/// ```
/// # use bioxen_vm_core::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::Unavailable, "the guest does not answer")
///     .with_source("connection refused");
/// assert_eq!(format!("{error:?}"), "the guest does not answer\n  because: connection refused");
/// ```
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    vm: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request or configuration is wrong; change it.
    Config,
    /// This build or this VM type cannot do it.
    Unsupported,
    /// The thing that the request names does not exist.
    NotFound,
    /// A thing of that name exists already.
    AlreadyExists,
    /// The VM is in a state that forbids the operation.
    InvalidState,
    /// It took longer than allowed.
    Timeout,
    /// A machine or service cannot be reached just now; trying again may help.
    Unavailable,
    /// Credentials, keys or rights were refused.
    Denied,
    /// Memory, disk or another resource is used up.
    Exhausted,
    /// The operation was cancelled.
    Cancelled,
    /// A defect, here or in the system below.
    Internal,
}

impl Error {
    /// Makes an error of this kind, with a message that names the thing, the reason and the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            operation: None,
            vm: None,
            source: None,
        }
    }

    /// Adds the operation that failed, `start` for example.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.operation.get_or_insert(operation);
        self
    }

    /// Adds the VM that it happened to.
    #[must_use]
    pub fn with_vm(mut self, vm: impl fmt::Display) -> Self {
        self.vm.get_or_insert_with(|| vm.to_string());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The operation that failed, where known.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.operation
    }

    /// The VM that it happened to, where known.
    #[must_use]
    pub fn vm(&self) -> Option<&str> {
        self.vm.as_deref()
    }

    /// Whether the same request may succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(vm) = &self.vm {
            write!(f, "VM {vm}: ")?;
        }
        if let Some(operation) = self.operation {
            write!(f, "cannot {operation}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f
                .debug_struct("Error")
                .field("kind", &self.kind)
                .field("message", &self.message)
                .field("operation", &self.operation)
                .field("vm", &self.vm)
                .field("source", &self.source)
                .finish();
        }
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, "\n  because: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_vm_and_operation_but_not_the_cause() {
        let error = Error::new(
            ErrorKind::Unavailable,
            "10.0.0.5 port 22 refuses connections",
        )
        .with_vm("web")
        .with_operation("start")
        .with_source("connection refused (os error 111)");
        assert_eq!(
            error.to_string(),
            "VM web: cannot start: 10.0.0.5 port 22 refuses connections"
        );
        assert_eq!(
            error.source().unwrap().to_string(),
            "connection refused (os error 111)"
        );
        assert!(error.is_retryable());
    }

    #[test]
    fn debug_tells_the_causes_in_lines_and_its_alternate_form_the_fields() {
        let middle = Error::new(ErrorKind::Denied, "no key is accepted").with_source("EACCES");
        let error = Error::new(ErrorKind::Denied, "no login")
            .with_vm("web")
            .with_source(middle);
        assert_eq!(
            format!("{error:?}"),
            "VM web: no login\n  because: no key is accepted\n  because: EACCES"
        );
        let fields = format!("{error:#?}");
        assert!(
            fields.contains("kind: Denied") && fields.contains("web"),
            "{fields}"
        );
    }

    #[test]
    fn the_innermost_context_wins() {
        let error = Error::new(ErrorKind::Internal, "x")
            .with_vm("inner")
            .with_vm("outer");
        assert_eq!(error.vm(), Some("inner"));
    }
}
