//! Durations and sizes as people write them in configurations: `30s`, `1h30m`, `256MB`; and what is
//! similar to a name that there is not.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};

/// A number of bytes, written `2GB`, `512MiB` or as a plain number of bytes.
///
/// All units are powers of 1024, as hypervisors and Lua count memory: `GB`, `GiB` and `G` are the
/// same.
///
/// ```
/// use bioxen_vm_core::words::ByteSize;
///
/// let size: ByteSize = "2GB".parse()?;
/// assert_eq!(size, ByteSize(2 << 30));
/// assert_eq!(size.to_string(), "2 GiB");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no size; write for example 256MB or 2GB, or a whole number of bytes"
            )
        };
        let (number, unit, rest) = quantity(text.trim()).ok_or_else(wrong)?;
        let power = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 1,
            "m" | "mb" | "mib" => 2,
            "g" | "gb" | "gib" => 3,
            "t" | "tb" | "tib" => 4,
            _ => return Err(wrong()),
        };
        let bytes = number * 1024_f64.powi(power);
        // From here on a float no longer holds every byte; no machine has such memory.
        if bytes.fract() != 0.0 || bytes >= (1_u64 << 53) as f64 || !rest.is_empty() {
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
                "a size must be text such as \"256MB\" or a whole number of bytes",
            )),
        }
    }
}

/// Reads a duration: numbers with a unit (`ms`, `s`, `min` or `m`, `h`, `d`, or the words), largest
/// first as in `1h30m`, or one number of seconds.
///
/// # Errors
/// Fails with a sentence that quotes the text and gives examples.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write for example 500ms, 30s, 5min or 1h30m");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    loop {
        let (number, unit, after) = quantity(rest).ok_or_else(wrong)?;
        let seconds = match unit.to_ascii_lowercase().as_str() {
            "ms" => number / 1000.0,
            "s" | "sec" | "second" | "seconds" => number,
            "m" | "min" | "minute" | "minutes" => number * 60.0,
            "h" | "hour" | "hours" => number * 3600.0,
            "d" | "day" | "days" => number * 86_400.0,
            // Next to other numbers nobody can tell what it counts.
            "" if rest == text.trim() && after.is_empty() => number,
            _ => return Err(wrong()),
        };
        total = Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        if after.is_empty() {
            return Ok(total);
        }
        rest = after;
    }
}

/// How many letters must be changed, added or left out to make one text of the other: a small
/// number speaks for a typing error.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What there is, for whoever asked for a name that there is not: the most similar first, at most eight,
/// and how many more there are.
///
/// ```
/// use bioxen_vm_core::words::nearest_first;
///
/// assert_eq!(nearest_first("reids", ["index", "reads"]), r#""reads", "index""#);
/// ```
#[must_use]
pub fn nearest_first<'a>(name: &str, there: impl IntoIterator<Item = &'a str>) -> String {
    const LISTED: usize = 8;
    let there: BTreeSet<&str> = there.into_iter().collect();
    let mut there: Vec<_> = there.into_iter().collect();
    let wanted = name.to_lowercase();
    there.sort_by_cached_key(|other| distance(&wanted, &other.to_lowercase()));
    let listed = there.iter().take(LISTED).map(|one| format!("{one:?}"));
    let listed = listed.collect::<Vec<_>>().join(", ");
    match there.len().saturating_sub(LISTED) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

/// Splits `1.5 GB and more` into the number, its unit, and the rest.
fn quantity(text: &str) -> Option<(f64, &str, &str)> {
    let end_of = |text: &str, part: fn(char) -> bool| text.find(|c| !part(c)).unwrap_or(text.len());
    let (number, rest) = text.split_at(end_of(text, |c| c.is_ascii_digit() || c == '.'));
    let rest = rest.trim_start();
    let (unit, rest) = rest.split_at(end_of(rest, |c| c.is_ascii_alphabetic()));
    Some((number.parse().ok()?, unit, rest.trim_start()))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
    /// Without it the error would speak of this enum.
    Other(IgnoredAny),
}

/// Reads an optional duration, in words or as a number of seconds, and writes it in words:
/// `#[serde(with = "words::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::de::{Deserializer, Error as _};
    use serde::{Deserialize, Serialize, Serializer};

    use super::NumberOrText;

    /// Writes the value.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration
            .map(|duration| format!("{}s", duration.as_secs_f64()))
            .serialize(serializer)
    }

    /// Reads the value.
    ///
    /// # Errors
    /// As the deserializer, and for what is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        match Option::<NumberOrText>::deserialize(deserializer)? {
            None => Ok(None),
            Some(NumberOrText::Number(seconds)) => Ok(Some(Duration::from_secs(seconds))),
            Some(NumberOrText::Text(text)) => super::parse_duration(&text)
                .map(Some)
                .map_err(D::Error::custom),
            Some(NumberOrText::Other(_)) => Err(D::Error::custom(
                "a duration must be text such as \"30s\" or a whole number of seconds",
            )),
        }
    }
}

/// Reads an optional number of bytes as [`ByteSize`] does, and writes it as a
/// number: `#[serde(with = "words::size")]`.
pub mod size {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::ByteSize;

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
    /// As the deserializer, and for what is no size.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let size = Option::<ByteSize>::deserialize(deserializer)?;
        Ok(size.map(|size| size.0))
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
            ("1.5 min", 90_000),
            ("1h30m", 5_400_000),
            ("1m 30 s", 90_000),
            ("2 Days", 172_800_000),
            (" 7 ", 7_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "-1s",
            "1..5s",
            "5 parsecs",
            "1h30",
            "30 1h",
            "99999999999999999999s",
            "1s,2s",
            "1s,",
        ] {
            assert!(parse_duration(text).unwrap_err().contains("30s"), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_however_they_are_written() {
        for (text, bytes) in [
            ("1024", 1024),
            ("64kB", 64 << 10),
            ("256MB", 256 << 20),
            ("512MiB", 512 << 20),
            ("0.5GB", 512 << 20),
            ("2 GiB", 2 << 30),
            ("2g", 2 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "MB",
            "-1MB",
            "1.2345678b",
            "1XB",
            "2GB4",
            "1e9",
            "9999999TB",
        ] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains("2GB"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(ByteSize(2 << 30).to_string(), "2 GiB");
        assert_eq!(ByteSize(1536 << 20).to_string(), "1536 MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000 bytes");
    }

    #[test]
    fn distances_count_letters() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn what_was_written_is_read_back() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Limits {
            #[serde(with = "duration")]
            time: Option<Duration>,
            #[serde(with = "size")]
            memory: Option<u64>,
            disk: ByteSize,
        }
        for time in [
            None,
            Some(Duration::from_secs(90)),
            Some(Duration::from_micros(1_234_567)),
        ] {
            let limits = Limits {
                time,
                memory: time.map(|_| u64::MAX),
                disk: ByteSize(3 << 30),
            };
            let text = serde_json::to_string(&limits).unwrap();
            assert_eq!(
                serde_json::from_str::<Limits>(&text).unwrap(),
                limits,
                "{text}"
            );
        }
    }
}
