//! `bioxen.lock`: exactly which rocks, from where, with which bytes.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::{is_sha256, sha256};
use crate::sources::Complete;
use crate::{Error, Form, PlanStep, Result, Rock, RockName, RockVersion};

/// The format that is written and read.
const FORMAT: u32 = 1;

/// The rocks that answer some requests, with their versions, sources and SHA-256.
///
/// Installing from a lock needs no manifest of a server, gives the same rocks every time, and
/// refuses a file whose content has changed. As a file it is TOML, sorted, so that it can be kept
/// under version control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Lock {
    /// The format of the file: 1.
    pub format: u32,
    /// The Lua version that it was made for.
    pub lua: String,
    /// What was asked for.
    pub requests: Vec<String>,
    /// The rocks, each after those that it needs.
    #[serde(rename = "rock", default)]
    pub rocks: Vec<LockedRock>,
}

/// A rock of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LockedRock {
    /// Its name.
    pub name: RockName,
    /// Its version.
    pub version: RockVersion,
    /// The file that holds it.
    pub file: String,
    /// Where the file was read from: a URL, or a path.
    pub source: String,
    /// The SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// The SHA-256 of the rockspec in it.
    pub rockspec_sha256: String,
    /// What it needs, as its rockspec writes it.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Where its sources were fetched from to be packed, when `source` is only its rockspec: a URL,
    /// with the tag or branch of a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<String>,
}

impl Lock {
    pub(crate) fn new(lua: &str, requests: Vec<String>, rocks: Vec<LockedRock>) -> Self {
        Self {
            format: FORMAT,
            lua: lua.to_owned(),
            requests,
            rocks,
        }
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// Fails with [`Error::Io`], and with [`Error::Invalid`] when it is no lock.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            operation: "read the lock",
            path: path.to_owned(),
            source,
        })?;
        text.parse()
            .map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))
    }

    /// Writes a lock file, replacing what was there only once all of it is written.
    ///
    /// # Errors
    /// Fails with [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut file, self.to_string().as_bytes())?;
            // Like any other file of a project; temporary files are their owner's alone.
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(readable)?;
            file.persist(path)?;
            std::io::Result::Ok(())
        };
        write().map_err(|source| Error::Io {
            operation: "write the lock",
            path: path.to_owned(),
            source,
        })
    }

    /// The rocks by name and version.
    pub fn rocks(&self) -> impl Iterator<Item = Rock> + '_ {
        self.rocks.iter().map(LockedRock::rock)
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid(reason));
        if self.format != FORMAT {
            return refuse(format!(
                "it has the format {}, and this program knows {FORMAT}; make it anew, or take the \
                 program that made it",
                self.format
            ));
        }
        for locked in &self.rocks {
            if locked.arch().is_empty() {
                return refuse(format!("{:?} is no file of {}", locked.file, locked.rock()));
            }
            for hash in [&locked.sha256, &locked.rockspec_sha256] {
                if !is_sha256(hash) {
                    return refuse(format!("{hash:?} of {} is no SHA-256", locked.rock()));
                }
            }
        }
        Ok(())
    }
}

impl LockedRock {
    pub(crate) fn new(step: &PlanStep, source: String, complete: &Complete) -> Self {
        Self {
            name: step.rock.name.clone(),
            version: step.rock.version.clone(),
            file: complete.file.clone(),
            source,
            sha256: sha256(&complete.content),
            rockspec_sha256: sha256(&complete.rockspec),
            needs: step.needs.clone(),
            sources: complete.sources.clone(),
        }
    }

    /// The rock.
    #[must_use]
    pub fn rock(&self) -> Rock {
        Rock {
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }

    /// What its file is for: `src`, `all`, a kind of machine. Empty when it is the file of another
    /// rock, or holds none.
    pub(crate) fn arch(&self) -> &str {
        let stem = format!("{}-{}.", self.name, self.version);
        let arch = self.file.strip_prefix(&stem);
        let arch = arch.and_then(|arch| arch.strip_suffix(".rock"));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        arch.filter(|arch| arch.chars().all(plain))
            .unwrap_or_default()
    }

    /// The form of its file.
    pub(crate) fn form(&self) -> Form {
        match self.arch() {
            "src" => Form::Source,
            _ => Form::Binary,
        }
    }
}

impl fmt::Display for Lock {
    /// The text of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = toml::to_string(self).map_err(|_| fmt::Error)?;
        write!(
            f,
            "# Made by bioxen; it is replaced when rocks are locked again.\n{text}"
        )
    }
}

impl FromStr for Lock {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let lock: Self = toml::from_str(text)
            .map_err(|error| Error::Invalid(format!("it is no lock: {}", one_line(&error))))?;
        lock.check()?;
        Ok(lock)
    }
}

/// What a TOML reader says, without the picture of the line.
pub(crate) fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let rock = LockedRock {
            name: RockName::new("alpha").unwrap(),
            version: RockVersion::new("1.0-1").unwrap(),
            file: "alpha-1.0-1.all.rock".into(),
            source: "https://rocks.example/alpha-1.0-1.all.rock".into(),
            sha256: "a".repeat(64),
            rockspec_sha256: "b".repeat(64),
            needs: vec!["lua >= 5.1".into()],
            sources: Some("git+https://x/alpha.git at v1.0".into()),
        };
        Lock::new("5.4", vec!["alpha >= 1".into()], vec![rock])
    }

    #[test]
    fn a_lock_is_the_same_after_writing_and_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bioxen.lock");
        lock().write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), lock());
        assert_eq!(lock().to_string().parse::<Lock>().unwrap(), lock());
    }

    #[test]
    fn what_is_no_lock_is_refused_with_the_reason() {
        let text = lock().to_string();
        for (from, to, reason) in [
            ("format = 1", "format = 2", "the format 2"),
            (
                "alpha-1.0-1.all.rock\"",
                "../../evil\"",
                "is no file of alpha 1.0-1",
            ),
            (
                "alpha-1.0-1.all.rock\"",
                "alpha-1.0-1.a/../b.rock\"",
                "is no file of",
            ),
            (&"a".repeat(64), "abc", "is no SHA-256"),
            (
                "name = \"alpha\"",
                "name = \"al;pha\"",
                "cannot be the name",
            ),
            ("lua = ", "lau = ", "lau"),
        ] {
            let bad = text.replacen(from, to, 1);
            assert_ne!(bad, text, "{from}");
            let error = bad.parse::<Lock>().unwrap_err().to_string();
            assert!(error.contains(reason), "{to}: {error}");
        }
    }
}
