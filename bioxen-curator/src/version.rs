//! The versions of rocks and the constraints on them, as LuaRocks orders and reads them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The version of a rock: `2.1.0-3`, `scm-1`, `1.0rc2-1`. What follows the last `-` is the revision
/// of the rockspec.
///
/// Versions are ordered as LuaRocks orders them: number by number, words such as `beta` below and
/// `scm` above every release, the revision last. LuaRocks takes a version without a revision for
/// equal to that version with any revision, which is no order; here it is the lowest of them, and
/// [`Constraints::accept`] judges as LuaRocks does.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RockVersion {
    text: String,
    parts: Vec<f64>,
    revision: Option<u64>,
}

impl RockVersion {
    /// Checks and reads a version.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when it is not made of numbers and words joined by `.`, `_`
    /// and `-`.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let (main, revision) = match text.rsplit_once('-') {
            Some((main, digits)) if !main.is_empty() && is_number(digits) => {
                (main, digits.parse().ok())
            }
            _ => (text.as_str(), None),
        };
        match parts(main) {
            Some(parts) if text.len() <= 64 => Ok(Self {
                parts,
                revision,
                text,
            }),
            _ => Err(Error::Invalid(format!(
                "{text:?} cannot be the version of a rock; versions look like \"2.1.0-3\" or \
                 \"scm-1\""
            ))),
        }
    }

    /// The version as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The revision of the rockspec, `3` in `2.1.0-3`.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// Compares the parts, absent ones being 0.
    fn compare_parts(&self, other: &Self) -> Ordering {
        let count = self.parts.len().max(other.parts.len());
        (0..count)
            .map(|i| self.part(i).total_cmp(&other.part(i)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    fn part(&self, index: usize) -> f64 {
        self.parts.get(index).copied().unwrap_or(0.0)
    }
}

/// Reads numbers and words as LuaRocks does: a word has a fixed place among the numbers, and the
/// number behind it counts as a fraction of it.
fn parts(mut text: &str) -> Option<Vec<f64>> {
    let mut parts: Vec<f64> = Vec::new();
    let mut word: Option<f64> = None;
    if text.is_empty() || text.starts_with(['.', '_', '-']) {
        return None;
    }
    while !text.is_empty() {
        let is_digit = text.starts_with(|c: char| c.is_ascii_digit());
        let end = text
            .find(|c: char| {
                if is_digit {
                    !c.is_ascii_digit()
                } else {
                    !c.is_ascii_alphabetic()
                }
            })
            .unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        if is_digit {
            let number: f64 = token.parse().ok()?;
            parts.push(word.take().map_or(number, |word| word + number / 100_000.0));
        } else {
            word = Some(word_value(token)?);
        }
        text = rest.trim_start_matches(['.', '_', '-']);
    }
    parts.extend(word);
    Some(parts)
}

fn word_value(word: &str) -> Option<f64> {
    Some(match word {
        "dev" => 120_000_000.0,
        "scm" => 110_000_000.0,
        "cvs" => 100_000_000.0,
        "rc" => -1_000.0,
        "pre" => -10_000.0,
        "beta" => -100_000.0,
        "alpha" => -1_000_000.0,
        other => f64::from(*other.as_bytes().first()?) / 1000.0,
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

impl Ord for RockVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare_parts(other)
            .then(self.parts.len().cmp(&other.parts.len()))
            .then(self.revision.cmp(&other.revision))
    }
}

impl PartialOrd for RockVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for RockVersion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for RockVersion {}

impl fmt::Debug for RockVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RockVersion").field(&self.text).finish()
    }
}

impl fmt::Display for RockVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for RockVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for RockVersion {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<RockVersion> for String {
    fn from(version: RockVersion) -> Self {
        version.text
    }
}

/// What a version has to satisfy, in the words of a rockspec: `>= 1.2, < 2`, `~> 1.4`,
/// `== 3.1.0-1`. A version alone means `==`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraints(Vec<(Operator, RockVersion)>);

/// How a [`Constraints`] entry compares a version with its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    /// `~>`: the parts that are given are the same.
    Like,
}

impl Constraints {
    /// Only this version, in any revision unless it has one.
    #[must_use]
    pub fn exactly(version: RockVersion) -> Self {
        Self(vec![(Operator::Equal, version)])
    }

    /// Whether every version satisfies them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a version satisfies all of them, by the rules of LuaRocks: where one of two versions
    /// has no revision, revisions do not count.
    #[must_use]
    pub fn accept(&self, version: &RockVersion) -> bool {
        self.0
            .iter()
            .all(|(operator, wanted)| operator.accepts(version, wanted))
    }
}

impl Operator {
    fn accepts(self, version: &RockVersion, wanted: &RockVersion) -> bool {
        let revisions = match (version.revision, wanted.revision) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => Ordering::Equal,
        };
        let order = version.compare_parts(wanted).then(revisions);
        let equal = version.parts.len() == wanted.parts.len() && order.is_eq();
        match self {
            Self::Equal => equal,
            Self::NotEqual => !equal,
            Self::Greater => order.is_gt(),
            Self::Less => order.is_lt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::LessOrEqual => order.is_le(),
            Self::Like => {
                wanted
                    .parts
                    .iter()
                    .enumerate()
                    .all(|(i, part)| version.part(i).total_cmp(part).is_eq())
                    && (wanted.revision.is_none() || wanted.revision == version.revision)
            }
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "~=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::GreaterOrEqual => ">=",
            Self::LessOrEqual => "<=",
            Self::Like => "~>",
        }
    }
}

impl fmt::Display for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (operator, version)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} {version}", operator.as_str())?;
        }
        Ok(())
    }
}

impl FromStr for Constraints {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut all = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !"<>=~!".contains(c))
                .unwrap_or(rest.len());
            let (operator, after) = rest.split_at(end);
            let operator = match operator {
                "" | "=" | "==" => Operator::Equal,
                "~=" | "!=" => Operator::NotEqual,
                ">" => Operator::Greater,
                "<" => Operator::Less,
                ">=" => Operator::GreaterOrEqual,
                "<=" => Operator::LessOrEqual,
                "~>" => Operator::Like,
                other => {
                    return Err(Error::Invalid(format!(
                        "{other:?} in {text:?} compares nothing; use ==, ~=, <, <=, >, >= or ~>"
                    )));
                }
            };
            let after = after.trim_start();
            let end = after
                .find(|c: char| c.is_whitespace() || c == ',')
                .unwrap_or(after.len());
            let (version, after) = after.split_at(end);
            all.push((operator, RockVersion::new(version)?));
            rest = after.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        }
        Ok(Self(all))
    }
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
