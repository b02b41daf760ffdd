//! Results of calls, not yet decoded.

use std::error::Error as StdError;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::{jsonrpc, wire, xmlrpc};

/// The result of a call, as the text of the protocol that it came in.
#[derive(Debug)]
pub(crate) struct Reply {
    method: String,
    result: Encoded,
}

#[derive(Debug)]
enum Encoded {
    Json(Bytes),
    /// Begins with a `<value>`; what follows that is of no interest.
    Xml(Bytes),
}

impl Reply {
    pub(crate) fn json(method: &str, result: Bytes) -> Self {
        Self {
            method: method.to_owned(),
            result: Encoded::Json(result),
        }
    }

    pub(crate) fn xml(method: &str, result: Bytes) -> Self {
        Self {
            method: method.to_owned(),
            result: Encoded::Xml(result),
        }
    }

    /// The result of a call that returns nothing.
    pub(crate) fn void(method: &str) -> Self {
        Self::json(method, Bytes::from_static(b"\"\""))
    }

    /// The result of a task, which is XML whatever the protocol. Text that is no XML is a result that a
    /// client has set, and stands for itself; no text is void.
    pub(crate) fn of_task(method: &str, result: String) -> Self {
        if result.trim_start().starts_with('<') {
            Self::xml(method, Bytes::from(result))
        } else {
            Self::json(method, Bytes::from(Value::from(result).to_string()))
        }
    }

    /// Decodes the result.
    pub(crate) fn decode<R: DeserializeOwned>(&self) -> Result<R> {
        let wrong = |source| Error::Decode {
            method: self.method.clone(),
            source,
        };
        match &self.result {
            Encoded::Json(bytes) => decode_json(bytes).map_err(wrong),
            Encoded::Xml(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|error| wrong(error.into()))?;
                xmlrpc::decode(text).map_err(|error| wrong(error.into()))
            }
        }
    }
}

type Cause = Box<dyn StdError + Send + Sync>;

/// Floats that are no JSON are worth the cost of a repair only when the straight way fails.
fn decode_json<R: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<R, Cause> {
    let straight = match std::str::from_utf8(bytes) {
        Ok(text) => wire::decode(text).map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    straight.or_else(|error| match jsonrpc::repair(bytes) {
        Some(repaired) => Ok(wire::decode(std::str::from_utf8(&repaired)?)?),
        None => Err(error),
    })
}
