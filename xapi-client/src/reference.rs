//! References to objects, and UUIDs.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::wire::{ToWire, text};

const NULL: &str = "OpaqueRef:NULL";

/// A class of the API; implemented by the marker types in [`api`](crate::api).
pub trait Class: Send + Sync + 'static {
    /// The name in messages, `VM`.
    const NAME: &'static str;
    /// The name in events, `vm`.
    const EVENT_NAME: &'static str;
}

/// A class whose objects have records.
pub trait Recorded: Class {
    /// The record.
    type Record: DeserializeOwned + fmt::Debug + Clone + Default + Send + Sync + 'static;
}

/// A reference to an object of class `T`, `Ref<Vm>` for example.
///
/// The text is the server's affair: it is kept as it came and never looked into. Records hold the null
/// reference where there is no object, and may hold references to objects that are gone. Cloning is
/// cheap.
pub struct Ref<T> {
    /// `None` is the null reference, in whichever of its spellings it came.
    value: Option<Arc<str>>,
    class: PhantomData<fn() -> T>,
}

impl<T> Ref<T> {
    /// The null reference.
    #[must_use]
    pub const fn null() -> Self {
        Self {
            value: None,
            class: PhantomData,
        }
    }

    /// The reference with this text. An empty text is the null reference too.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let value = (!text.is_empty() && text != NULL).then(|| Arc::from(text));
        Self {
            value,
            class: PhantomData,
        }
    }

    /// Whether it refers to nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.value.is_none()
    }

    /// The reference, unless it is null.
    #[must_use]
    pub fn non_null(&self) -> Option<&Self> {
        self.value.as_ref().map(|_| self)
    }

    /// The text as on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.value.as_deref().unwrap_or(NULL)
    }
}

impl<T> Clone for Ref<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            class: PhantomData,
        }
    }
}

impl<T> Default for Ref<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl<T> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> Eq for Ref<T> {}

impl<T> PartialOrd for Ref<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ref<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value.cmp(&other.value)
    }
}

impl<T> Hash for Ref<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<T: Class> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever holds the reference of a session is logged in.
        let text = if T::NAME == "session" {
            "…"
        } else {
            self.as_str()
        };
        write!(f, "{}({text})", T::NAME)
    }
}

impl<T> From<&str> for Ref<T> {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<T> From<String> for Ref<T> {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl<'de, T> Deserialize<'de> for Ref<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |value| Self::new(value))
    }
}

impl<T> ToWire for Ref<T> {
    fn to_wire(&self) -> Value {
        Value::from(self.as_str())
    }
}

/// A UUID as the server writes it. It reads as a `&str`; the server decides what is valid.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(Arc<str>);

impl Uuid {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Uuid {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Uuid {
    fn from(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, |value| Self::from(value))
    }
}

impl ToWire for Uuid {
    fn to_wire(&self) -> Value {
        Value::from(self.as_str())
    }
}
