//! Values that are written in more than one way, or must not be repeated in an error.

use std::time::Duration;

pub(crate) use bioxen_vm_core::words::duration::deserialize as duration_or_none;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny};

use crate::config_drive::Cidr;

/// Reads a duration that has to be there.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_or_none(deserializer)?
        .ok_or_else(|| D::Error::custom("a duration is missing; write one as in \"30s\""))
}

/// Reads one text or a list of them, which is not empty.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
        Other(IgnoredAny),
    }
    match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => Ok(vec![one]),
        // It would be as if the key were not given, which is said by leaving it out.
        OneOrMany::Many(many) if many.is_empty() => Err(D::Error::custom(
            "the list is empty; name one at least, or leave the key out",
        )),
        OneOrMany::Many(many) => Ok(many),
        OneOrMany::Other(_) => Err(D::Error::custom("expected a text or a list of texts")),
    }
}

/// Reads one network or a list of them.
pub(crate) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Cidr>, D::Error> {
    let all = one_or_many(deserializer)?;
    let all = all
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom));
    all.collect()
}

/// Reads an optional password.
pub(crate) fn secret<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    Option::<Unshown<SecretString>>::deserialize(deserializer)?
        .map(|value| value.or("a password must be text in quotes (the value is not shown)"))
        .transpose()
}

/// Reads a command whose arguments may be secret.
pub(crate) fn secret_command<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Unshown::deserialize(deserializer)?.or(
        "a command must be a list of texts, the program and its arguments (the value is not shown)",
    )
}

/// A value of which an error must not repeat anything, also when it has the wrong type.
#[derive(Deserialize)]
#[serde(untagged)]
enum Unshown<T> {
    Right(T),
    Wrong(IgnoredAny),
}

impl<T> Unshown<T> {
    fn or<E: serde::de::Error>(self, complaint: &str) -> Result<T, E> {
        match self {
            Self::Right(value) => Ok(value),
            Self::Wrong(_) => Err(E::custom(complaint)),
        }
    }
}
