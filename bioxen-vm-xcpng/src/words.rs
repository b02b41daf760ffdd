//! Values that people write in words: sizes, durations, one-or-many, secrets.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};

/// A number of bytes, written `2GB`, `512MiB` or as a plain number of bytes.
///
/// All units are powers of 1024, as XCP-ng counts memory: `GB`, `GiB` and `G` are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no size; write a number of bytes, or one with a unit as in \"2GB\" or \"512MiB\""
            )
        };
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let power = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 1,
            "m" | "mb" | "mib" => 2,
            "g" | "gb" | "gib" => 3,
            "t" | "tb" | "tib" => 4,
            _ => return Err(wrong()),
        };
        let bytes = number * 1024_f64.powi(power);
        // Above this a float no longer holds every byte; no host has such memory.
        if bytes.fract() != 0.0 || bytes > (1_u64 << 53) as f64 {
            return Err(wrong());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (power, unit) in [(4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")] {
            let size = 1024_u64.pow(power);
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{} {unit}", self.0 / size);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse().map_err(D::Error::custom),
            NumberOrText::Other(_) => Err(D::Error::custom(
                "a size is a number of bytes, or text as in \"2GB\"",
            )),
        }
    }
}

/// A time, written `90s`, `5min`, `1h` or as a plain number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write one as in \"30s\", \"5min\" or \"1h\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let seconds = match unit.to_ascii_lowercase().as_str() {
        "ms" => number / 1000.0,
        "" | "s" | "sec" | "second" | "seconds" => number,
        "m" | "min" | "minute" | "minutes" => number * 60.0,
        "h" | "hour" | "hours" => number * 3600.0,
        "d" | "day" | "days" => number * 86400.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Splits `1.5 GB` into its number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let unit = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..unit].parse().ok()?;
    Some((number, text[unit..].trim_start()))
}

/// Reads an optional duration.
pub(crate) fn duration_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    match Option::<NumberOrText>::deserialize(deserializer)? {
        None => Ok(None),
        Some(NumberOrText::Number(seconds)) => Ok(Some(Duration::from_secs(seconds))),
        Some(NumberOrText::Text(text)) => duration(&text).map(Some).map_err(D::Error::custom),
        Some(NumberOrText::Other(_)) => Err(D::Error::custom(
            "a duration is a number of seconds, or text as in \"30s\"",
        )),
    }
}

/// Reads a duration.
pub(crate) fn duration_in_words<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    duration_or_none(deserializer)?
        .ok_or_else(|| D::Error::custom("a duration is missing; write one as in \"30s\""))
}

/// Reads one text or a list of them.
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
        OneOrMany::Many(many) => Ok(many),
        OneOrMany::Other(_) => Err(D::Error::custom("expected a text or a list of texts")),
    }
}

/// Reads an optional secret. A value of the wrong type is not repeated in the error.
pub(crate) fn secret<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Secret {
        Text(SecretString),
        Other(IgnoredAny),
    }
    match Option::<Secret>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Secret::Text(text)) => Ok(Some(text)),
        Some(Secret::Other(_)) => Err(D::Error::custom(
            "a password must be text in quotes (the value is not shown)",
        )),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
    Other(IgnoredAny),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_however_they_are_written() {
        for (text, bytes) in [
            ("2GB", 2 << 30),
            ("2 GiB", 2 << 30),
            ("2g", 2 << 30),
            ("0.5GB", 512 << 20),
            ("512MiB", 512 << 20),
            ("1024", 1024),
            ("1 TB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "GB",
            "2XB",
            "-1GB",
            "1.2345678b",
            "2GB4",
            "1e9",
            "9999999TB",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(2 << 30).to_string(), "2 GiB");
        assert_eq!(ByteSize(1536 << 20).to_string(), "1536 MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000 bytes");
    }

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("30s", Duration::from_secs(30)),
            ("1.5 min", Duration::from_secs(90)),
            ("250ms", Duration::from_millis(250)),
            ("2h", Duration::from_secs(7200)),
            ("7", Duration::from_secs(7)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "5 parsecs", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
