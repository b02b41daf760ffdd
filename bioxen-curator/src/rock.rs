//! The names of rocks, and what can be asked of one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Constraints, Error, Result, RockVersion};

/// The name of a rock, in lower case as LuaRocks keeps it.
///
/// It starts with a letter or digit and goes on with letters, digits, `.`, `_` and `-`, so that it
/// is never taken for an option, a path or a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RockName(String);

impl RockName {
    /// Checks a name and turns it into lower case.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when no rock can have this name.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref().to_ascii_lowercase();
        let refuse = |reason: &str| {
            Err(Error::Invalid(format!(
                "{name:?} cannot be the name of a rock: {reason}"
            )))
        };
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return refuse("it has to start with a letter or digit");
        }
        if name.len() > 100 {
            return refuse("it has more than 100 characters");
        }
        if !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        {
            return refuse("only letters, digits, '.', '_' and '-' are allowed");
        }
        // LuaRocks would look for a file.
        if name.ends_with(".rock") || name.ends_with(".rockspec") {
            return refuse("it names a file; serve the file's directory and give the rock's name");
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RockName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for RockName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<RockName> for String {
    fn from(name: RockName) -> Self {
        name.0
    }
}

/// A rock of one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rock {
    /// Its name.
    pub name: RockName,
    /// Its version.
    pub version: RockVersion,
}

impl fmt::Display for Rock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// A rock that is asked for, with what its version has to satisfy.
///
/// As text it is what a rockspec writes for a dependency: `lpeg`, `lpeg 1.0.2-1`,
/// `lpeg >= 1.0, < 2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RockRequest {
    /// The name of the rock.
    pub name: RockName,
    /// What its version has to satisfy; any version does when empty.
    pub constraints: Constraints,
}

impl RockRequest {
    /// Asks for a rock in any version.
    #[must_use]
    pub fn any(name: RockName) -> Self {
        Self {
            name,
            constraints: Constraints::default(),
        }
    }

    /// Reads requests, one to a line. Blank lines and what follows a `#` do not count.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] and the number of the line.
    pub fn read_all(text: &str) -> Result<Vec<Self>> {
        let lines = text.lines().enumerate();
        lines
            .map(|(number, line)| {
                (
                    number + 1,
                    line.split('#').next().unwrap_or_default().trim(),
                )
            })
            .filter(|(_, line)| !line.is_empty())
            .map(|(number, line)| {
                let request = line.parse();
                request.map_err(|error| Error::Invalid(format!("line {number}: {error}")))
            })
            .collect()
    }

    /// Whether this rock answers the request.
    #[must_use]
    pub fn accepts(&self, rock: &Rock) -> bool {
        self.name == rock.name && self.constraints.accept(&rock.version)
    }
}

impl fmt::Display for RockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if self.constraints.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.constraints)
    }
}

impl FromStr for RockRequest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let end = text
            .find(|c: char| c.is_whitespace() || "@<>=~!".contains(c))
            .unwrap_or(text.len());
        let (name, constraints) = text.split_at(end);
        Ok(Self {
            name: RockName::new(name)?,
            constraints: constraints.parse()?,
        })
    }
}

impl TryFrom<&str> for RockRequest {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl From<RockName> for RockRequest {
    fn from(name: RockName) -> Self {
        Self::any(name)
    }
}

impl From<Rock> for RockRequest {
    fn from(rock: Rock) -> Self {
        Self {
            name: rock.name,
            constraints: Constraints::exactly(rock.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_never_an_option_a_path_or_source_text() {
        assert_eq!(RockName::new("LPeg").unwrap().as_str(), "lpeg");
        for good in ["bio_compute", "lua-cjson", "30log", "lua.resty", "a"] {
            assert_eq!(RockName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-e",
            "--server=http://x",
            "../x",
            "a/b",
            "a b",
            "a;reboot",
            "$(reboot)",
            "a\nb",
            "a\"..os.exit()..\"",
            "a'",
            "x.rockspec",
            "http://x/y.src.rock",
            "é",
            &"x".repeat(101),
        ] {
            let error = RockName::new(bad).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn requests_are_written_as_in_a_rockspec() {
        for (text, shown) in [
            ("lpeg", "lpeg"),
            (" LPeg ", "lpeg"),
            ("lpeg 1.0.2-1", "lpeg == 1.0.2-1"),
            ("lpeg >=1.0,<2", "lpeg >= 1.0, < 2"),
            ("lpeg~>1.4", "lpeg ~> 1.4"),
        ] {
            let request: RockRequest = text.parse().unwrap();
            assert_eq!(request.to_string(), shown);
            assert_eq!(request.to_string().parse::<RockRequest>().unwrap(), request);
        }
        let all = RockRequest::read_all("# all\nlpeg >= 1 # new\n\nargparse\n").unwrap();
        assert_eq!(all.len(), 2);
        let error = RockRequest::read_all("lpeg\n$(x)\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        for bad in ["", ">= 1", "lpeg >=", "lpeg ? 1", "lpeg 1 2;", "a b/c"] {
            assert!(bad.parse::<RockRequest>().is_err(), "{bad}");
        }
    }
}
