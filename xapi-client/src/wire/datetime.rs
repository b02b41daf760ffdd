//! Points in time.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{ToWire, text};

/// A point in time, to the second, as servers send it.
///
/// The server says "never" with the epoch: see [`is_never`](Self::is_never). It reads compact and dashed
/// ISO forms (`20250319T04:16:24Z`, `2025-03-19T04:16:24.123+01:00`), dates alone, and seconds since the
/// epoch; without a zone it takes UTC. It is sent in the compact form, which `Display` prints; `{:#}` prints
/// that of RFC 3339 (`2025-03-19T04:16:24Z`).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime {
    seconds: i64,
}

impl DateTime {
    /// The point this many seconds after (or, negative, before) 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self { seconds }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// Whether it is the epoch, with which the server says that something has not happened.
    #[must_use]
    pub const fn is_never(self) -> bool {
        self.seconds == 0
    }
}

impl From<DateTime> for SystemTime {
    fn from(value: DateTime) -> Self {
        let distance = Duration::from_secs(value.seconds.unsigned_abs());
        let time = if value.seconds < 0 {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        };
        time.unwrap_or(UNIX_EPOCH)
    }
}

impl From<SystemTime> for DateTime {
    fn from(value: SystemTime) -> Self {
        let seconds = match value.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds)
            }
        };
        Self { seconds }
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (
            self.seconds.div_euclid(86_400),
            self.seconds.rem_euclid(86_400),
        );
        let (year, month, day) = date_of(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let dash = if f.alternate() { "-" } else { "" };
        write!(
            f,
            "{year:04}{dash}{month:02}{dash}{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl fmt::Debug for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseDateTimeError {
    text: String,
}

impl fmt::Display for ParseDateTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no date and time, expected a form like 20250319T04:16:24Z",
            self.text
        )
    }
}

impl std::error::Error for ParseDateTimeError {}

impl FromStr for DateTime {
    type Err = ParseDateTimeError;

    fn from_str(text: &str) -> Result<Self, ParseDateTimeError> {
        parse(text.trim())
            .map(|seconds| Self { seconds })
            .ok_or_else(|| ParseDateTimeError {
                text: text.to_owned(),
            })
    }
}

impl<'de> Deserialize<'de> for DateTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, str::parse)?.map_err(D::Error::custom)
    }
}

impl ToWire for DateTime {
    fn to_wire(&self) -> Value {
        Value::from(self.to_string())
    }
}

fn parse(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    // A compact date alone is all digits too, but has eight of them and no point.
    if text.len() != 8
        && let Ok(seconds) = text.parse::<f64>()
    {
        return (seconds.is_finite() && seconds.abs() < 1e15).then_some(seconds as i64);
    }
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let day = days_of(date)?;
    let Some(time) = time else {
        return Some(day * 86_400);
    };
    let (clock, offset) = split_zone(time)?;
    let clock = clock.split(['.', ',']).next()?;
    let (hour, minute, second) = three(clock, ':', 2)?;
    let in_range = hour < 24 && minute < 60 && second <= 60;
    in_range.then(|| day * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// The clock and the offset in seconds east of UTC.
fn split_zone(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else {
        return Some((time, 0));
    };
    let (clock, zone) = time.split_at(at);
    let digits: String = zone[1..].chars().filter(|&c| c != ':').collect();
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i64>().ok();
    let seconds = match digits.len() {
        2 => number(0..2)? * 3600,
        4 => number(0..2)? * 3600 + number(2..4)? * 60,
        _ => return None,
    };
    Some((
        clock,
        if zone.starts_with('-') {
            -seconds
        } else {
            seconds
        },
    ))
}

fn days_of(date: &str) -> Option<i64> {
    let (year, month, day) = three(date, '-', 4)?;
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day);
    in_range.then(|| days_from_date(year, month, day))
}

/// Three numbers, parted by `separator` or by width: the first has `first` digits, the others two.
fn three(text: &str, separator: char, first: usize) -> Option<(i64, i64, i64)> {
    if !text.is_ascii() || !text.chars().all(|c| c.is_ascii_digit() || c == separator) {
        return None;
    }
    let parts: Vec<&str> = if text.contains(separator) {
        text.split(separator).collect()
    } else if text.len() == first + 4 {
        vec![&text[..first], &text[first..first + 2], &text[first + 2..]]
    } else {
        return None;
    };
    match parts[..] {
        [a, b, c] => Some((a.parse().ok()?, b.parse().ok()?, c.parse().ok()?)),
        // Seconds may be missing from a clock.
        [a, b] if separator == ':' => Some((a.parse().ok()?, b.parse().ok()?, 0)),
        _ => None,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of its year.
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_date`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
