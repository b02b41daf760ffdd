//! The time of the simulated pool.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Wall-clock time that follows tokio's clock, so that a test which pauses or advances tokio's
/// time moves the pool's time with it. It can also be moved against it.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    started: SystemTime,
    since: Instant,
    /// Seconds by which the pool's clock is ahead.
    ahead: i64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Clock {
            started: SystemTime::now(),
            since: Instant::now(),
            ahead: 0,
        }
    }

    /// Moves the clock by so many seconds, forwards or backwards.
    pub(crate) fn shift(&mut self, seconds: i64) {
        self.ahead = self.ahead.saturating_add(seconds);
    }

    /// A clock that is ahead of this one by so many seconds.
    pub(crate) fn ahead_by(&self, seconds: i64) -> Clock {
        let mut other = self.clone();
        other.shift(seconds);
        other
    }

    /// Seconds since 1970.
    pub(crate) fn seconds(&self) -> u64 {
        let now = self.started + self.since.elapsed();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        seconds.as_secs().saturating_add_signed(self.ahead)
    }

    /// Now, as the server writes it: `20261123T02:31:00Z`.
    pub(crate) fn now(&self) -> String {
        stamp(self.seconds())
    }

    /// Now without a zone, as `host.get_server_localtime` writes it. The pool lives in UTC.
    pub(crate) fn local(&self) -> String {
        text(self.seconds())
    }

    /// Seconds since 1970 in the form that `host.other_config` keeps.
    pub(crate) fn unix(&self) -> String {
        format!("{}.", self.seconds())
    }
}

/// A point in time as the server writes it.
pub(crate) fn stamp(seconds: u64) -> String {
    format!("{}Z", text(seconds))
}

fn text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The Gregorian date of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counting years from March puts the leap day at the end of a year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The seconds since 1970 of a point in time as [`stamp`] writes it.
pub(crate) fn seconds_of(stamp: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| stamp.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(12..14)?, number(15..17)?);
    // The reverse of `civil`.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let year_of_era = year - era * 400;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Reads the ISO 8601 forms that the server accepts and gives its own form back: compact, without
/// fractions of a second, `Z` where no zone is given. `None` for anything else, also a bare date.
pub(crate) fn normalise(input: &str) -> Option<String> {
    let (date, time) = input.split_once('T').or_else(|| input.split_once(' '))?;
    let date: String = match date.len() {
        8 => date.to_owned(),
        10 if date.as_bytes()[4] == b'-' && date.as_bytes()[7] == b'-' => date.replace('-', ""),
        _ => return None,
    };
    let zone_at = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone_at);
    let clock = clock.split('.').next()?;
    let clock = match clock.len() {
        8 if clock.as_bytes()[2] == b':' && clock.as_bytes()[5] == b':' => clock.to_owned(),
        6 => format!(
            "{}:{}:{}",
            clock.get(..2)?,
            clock.get(2..4)?,
            clock.get(4..)?
        ),
        _ => return None,
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    let in_range = (1..=12).contains(&number(date.get(4..6))?)
        && (1..=31).contains(&number(date.get(6..8))?)
        && number(clock.get(..2))? < 24
        && number(clock.get(3..5))? < 60
        && number(clock.get(6..))? <= 60;
    if !digits(&date) || !digits(&clock.replace(':', "")) || !in_range {
        return None;
    }
    let zone = match zone {
        "" | "Z" | "z" => "Z".to_owned(),
        offset => {
            let bare = offset[1..].replace(':', "");
            if !digits(&bare) || !matches!(bare.len(), 2 | 4) {
                return None;
            }
            let minutes = bare
                .get(2..)
                .filter(|rest| !rest.is_empty())
                .unwrap_or("00");
            format!("{}{}:{minutes}", &offset[..1], &bare[..2])
        }
    };
    Some(format!("{date}T{clock}{zone}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar() {
        assert_eq!(text(0), "19700101T00:00:00");
        assert_eq!(text(951_782_400), "20000229T00:00:00");
        assert_eq!(text(1_795_401_061), "20261123T02:31:01");
        for seconds in [0, 951_782_400, 1_795_401_061, 1_704_067_199] {
            assert_eq!(seconds_of(&stamp(seconds)), i64::try_from(seconds).ok());
        }
    }

    #[test]
    fn dates_that_the_server_reads() {
        for (input, output) in [
            ("20250319T04:16:24Z", "20250319T04:16:24Z"),
            ("2025-03-19T04:16:24Z", "20250319T04:16:24Z"),
            ("2025-03-19T04:16:24.123", "20250319T04:16:24Z"),
            ("20250319T041624+0100", "20250319T04:16:24+01:00"),
            ("2025-03-19T04:16:24-05", "20250319T04:16:24-05:00"),
        ] {
            assert_eq!(normalise(input).as_deref(), Some(output), "{input}");
        }
        for input in [
            "",
            "2025-03-19",
            "20250319",
            "yesterday",
            "20251319T04:16:24Z",
            "ééééTéééé",
        ] {
            assert_eq!(normalise(input), None, "{input}");
        }
    }
}
