//! Failures as the server reports them: a code and its parameters.

use crate::value::Value;

/// A failure that the server answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code, `VM_BAD_POWER_STATE` for example.
    pub code: String,
    /// Its parameters, in the server's order.
    pub params: Vec<String>,
}

/// What a handler gives back.
pub(crate) type Reply = Result<Value, Failure>;

impl Failure {
    /// A failure with this code and these parameters.
    pub fn new<S: Into<String>>(
        code: impl Into<String>,
        params: impl IntoIterator<Item = S>,
    ) -> Self {
        Failure {
            code: code.into(),
            params: params.into_iter().map(Into::into).collect(),
        }
    }

    /// A failure without parameters.
    pub fn code(code: impl Into<String>) -> Self {
        Failure {
            code: code.into(),
            params: Vec::new(),
        }
    }

    /// `INTERNAL_ERROR` with the text of an exception of the server.
    pub(crate) fn internal(exception: impl Into<String>) -> Self {
        Failure::new("INTERNAL_ERROR", [exception.into()])
    }

    /// `INTERNAL_ERROR` with `Failure("...")`, the server's commonest exception.
    pub(crate) fn internal_failure(text: &str) -> Self {
        Failure::internal(format!("Failure(\"{}\")", escaped(text)))
    }

    pub(crate) fn handle_invalid(class: &str, reference: &str) -> Self {
        Failure::new("HANDLE_INVALID", [class, reference])
    }

    pub(crate) fn uuid_invalid(class: &str, uuid: &str) -> Self {
        Failure::new("UUID_INVALID", [class, uuid])
    }

    pub(crate) fn session_invalid(session: &str) -> Self {
        Failure::new("SESSION_INVALID", [session])
    }

    pub(crate) fn invalid_value(name: &str, value: &str) -> Self {
        Failure::new("INVALID_VALUE", [name, value])
    }

    pub(crate) fn not_allowed(reason: &str) -> Self {
        Failure::new("OPERATION_NOT_ALLOWED", [reason])
    }

    /// Code and parameters in one list, as both protocols carry them.
    pub(crate) fn to_value(&self) -> Value {
        Value::strings(std::iter::once(&self.code).chain(&self.params).cloned())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.code, self.params.join(", "))
    }
}

impl std::error::Error for Failure {}

/// A text as the server's `%S` prints it inside the text of an exception.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\r' => out.push_str("\\r"),
            0x08 => out.push_str("\\b"),
            0x20..=0x7e => out.push(char::from(byte)),
            other => out.push_str(&format!("\\{other:03}")),
        }
    }
    out
}
