//! Durations and sizes as people write them in configurations: `30s`, `1h30m`, `256MB`.

use std::time::Duration;

/// Reads a duration made of whole numbers with a unit: `ms`, `s`, `m` (or `min`), `h`.
///
/// # Errors
/// Fails with a sentence that quotes the text and gives examples.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write for example 500ms, 30s, 5m or 1h30m");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(wrong)?;
        let end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let millis: u64 = match &after[..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(millis).map(Duration::from_millis);
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = after[end..].trim_start();
    }
    Ok(total)
}

/// Reads a size in bytes; `kB`, `MB`, `GB` and `TB` are powers of 1024, with or without an `i`.
///
/// # Errors
/// Fails with a sentence that quotes the text and gives examples.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write for example 256MB or 2GB");
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A leading whole number, and what comes after it and after spaces.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// Reads and writes an optional duration in words: `#[serde(with = "words::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    /// Writes the value.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration
            .map(|d| format!("{}ms", d.as_millis()))
            .serialize(serializer)
    }

    /// Reads the value.
    ///
    /// # Errors
    /// As the deserializer, and for text that is no such value.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse_duration(&text).map_err(de::Error::custom))
            .transpose()
    }
}

/// Reads an optional size, in words or as a number of bytes, and writes it as a number:
/// `#[serde(with = "words::size")]`.
pub mod size {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a size must be text such as \"256MB\" or a number of bytes"
    )]
    enum Size {
        Bytes(u64),
        Words(String),
    }

    /// Writes the value.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(size: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        size.serialize(serializer)
    }

    /// Reads the value.
    ///
    /// # Errors
    /// As the deserializer, and for text that is no such value.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        match Option::<Size>::deserialize(deserializer)? {
            None => Ok(None),
            Some(Size::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Size::Words(text)) => super::parse_size(&text)
                .map(Some)
                .map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1h30m", 5_400_000),
            ("1m 30 s", 90_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "99999999999999999999s",
            "1s,2s",
        ] {
            assert!(parse_duration(text).unwrap_err().contains("30s"), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("1024", 1024),
            ("64kB", 65_536),
            ("256MB", 268_435_456),
            ("2 GiB", 2_147_483_648),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "-1MB", "1.5GB", "1XB", "99999999999TB"] {
            assert!(parse_size(text).unwrap_err().contains("2GB"), "{text}");
        }
    }
}
