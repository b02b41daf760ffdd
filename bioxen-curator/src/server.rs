//! Where rocks come from.

use std::fmt;
use std::path::PathBuf;

use crate::{EmbeddedRocks, Error, Result};

/// A place that rocks are installed from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RocksServer {
    /// A server that is reached by `http` or `https`: from the machine of the tree, or from this
    /// machine when the curator has a [`Cache`](crate::Cache).
    Url(String),
    /// Servers that have the same rocks. The first that answers is asked.
    Mirrors(Vec<String>),
    /// A directory of this machine that holds rocks and their manifests, as
    /// [`publish`](crate::publish) and [`Bundle`](crate::Bundle) make it. The rocks
    /// that are needed are sent to the machine of the tree, each once, so that the machine needs no
    /// way to any server.
    Directory(PathBuf),
    /// Such a directory in a `.tar.gz`, as [`Bundle::write_archive`](crate::Bundle::write_archive)
    /// makes it.
    Archive(PathBuf),
    /// Rocks that a program brings along.
    Embedded(EmbeddedRocks),
}

impl fmt::Display for RocksServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Mirrors(urls) => f.write_str(&urls.join(" or ")),
            Self::Directory(path) | Self::Archive(path) => write!(f, "{}", path.display()),
            Self::Embedded(rocks) => f.write_str(rocks.name()),
        }
    }
}

impl RocksServer {
    /// Whether a download program is needed to read it.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Url(_) | Self::Mirrors(_))
    }

    /// The place behind it, checked.
    pub(crate) fn place(&self) -> Result<Place> {
        Ok(match self {
            Self::Url(url) => Place::Urls(vec![checked_url(url)?]),
            Self::Mirrors(urls) if urls.is_empty() => {
                return Err(Error::Invalid(
                    "a list of mirrors is empty; name one".into(),
                ));
            }
            Self::Mirrors(urls) => Place::Urls(
                urls.iter()
                    .map(|url| checked_url(url))
                    .collect::<Result<_>>()?,
            ),
            Self::Directory(path) => Place::Directory(path.clone()),
            Self::Archive(path) => Place::Archive(path.clone()),
            Self::Embedded(rocks) => Place::Embedded(rocks.clone()),
        })
    }
}

/// A place that files of rocks are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Directory(PathBuf),
    Archive(PathBuf),
    Embedded(EmbeddedRocks),
    /// The first that answers.
    Urls(Vec<String>),
}

/// A URL that is safe as an argument and carries no password.
pub(crate) fn checked_url(url: &str) -> Result<String> {
    let refuse = |reason: &str| {
        // The URL itself may hold a password.
        let shown = url.rsplit('@').next().unwrap_or_default();
        Err(Error::Invalid(format!(
            "{shown:?} cannot be a rocks server: {reason}"
        )))
    };
    let Some(rest) = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
    else {
        return refuse("only http:// and https:// are known; give a directory as a directory");
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        return refuse("it names no host");
    }
    if host.contains('@') {
        return refuse("a user name or password in it would be seen in process lists");
    }
    if !url
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~:/[]%?&=+,;".contains(&b))
    {
        return refuse("it has characters that no URL has; write them as %XX");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Whether LuaRocks would ask a server for a file of this name.
#[cfg(feature = "mirror")]
pub(crate) fn is_served(name: &str) -> bool {
    let is_rock = name.ends_with(".rock") || name.ends_with(".rockspec");
    (name == "manifest" || name.starts_with("manifest-") || is_rock) && !name.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_plain_and_carry_no_password() {
        for (good, same) in [
            ("https://luarocks.org", "https://luarocks.org"),
            (
                "http://127.0.0.1:8080/rocks/",
                "http://127.0.0.1:8080/rocks",
            ),
            ("http://[::1]:80/a%20b", "http://[::1]:80/a%20b"),
        ] {
            assert_eq!(checked_url(good).unwrap(), same);
        }
        for bad in [
            "",
            "luarocks.org",
            "file:///etc",
            "ftp://x/",
            "http://",
            "http://x/\"..os.exit()..\"",
            "http://x\nhttp://y",
            "http://x/$(reboot)",
            "http://x/`reboot`",
            "http://x/a b",
        ] {
            assert!(checked_url(bad).is_err(), "{bad}");
        }
        let error = checked_url("https://me:secret@x/").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
