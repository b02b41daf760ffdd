//! Where rocks come from.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest;

use crate::{Error, Result};

/// A place that rocks are installed from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RocksServer {
    /// A server that the machine of the tree reaches by `http` or `https`.
    Url(String),
    /// A directory of this machine that holds rocks and their manifests, as
    /// [`publish`](crate::publish) makes it. Its content is sent to the machine of the tree, once
    /// until it changes, so that the machine needs no way to any server.
    Directory(PathBuf),
}

impl fmt::Display for RocksServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A server as the machine of the tree gets it.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Url(String),
    Archive(Archive),
}

/// The rocks of a directory in one tar, under the hash of their names and contents.
#[derive(Clone)]
pub(crate) struct Archive {
    pub(crate) hash: String,
    /// Without the two blocks that end a tar, so that archives can be joined.
    pub(crate) tar: Bytes,
}

impl RocksServer {
    pub(crate) async fn load(&self, lua_version: &str) -> Result<Source> {
        match self {
            Self::Url(url) => Ok(Source::Url(checked_url(url)?)),
            Self::Directory(path) => {
                let (path, lua_version) = (path.clone(), lua_version.to_owned());
                let packing =
                    tokio::task::spawn_blocking(move || Archive::pack(&path, &lua_version));
                match packing.await {
                    Ok(archive) => Ok(Source::Archive(archive?)),
                    Err(failed) => Err(Error::Invalid(format!("packing rocks failed: {failed}"))),
                }
            }
        }
    }
}

/// A URL that is safe as a line of a list and that carries no password.
fn checked_url(url: &str) -> Result<String> {
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

impl Archive {
    fn pack(directory: &Path, lua_version: &str) -> Result<Self> {
        let read = |path: &Path, operation: &'static str| {
            let path = path.to_owned();
            move |source| Error::Io {
                operation,
                path,
                source,
            }
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(read(directory, "read"))? {
            let entry = entry.map_err(read(directory, "read"))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_served(name)) else {
                continue;
            };
            if entry.path().is_file() {
                names.push(name.to_owned());
            }
        }
        let manifest = format!("manifest-{lua_version}");
        if !names.contains(&manifest) {
            return Err(Error::NoManifest {
                path: directory.to_owned(),
                lua_version: lua_version.to_owned(),
            });
        }
        names.sort();
        let mut files = Vec::with_capacity(names.len());
        let mut hash = digest::Context::new(&digest::SHA256);
        for name in names {
            let path = directory.join(&name);
            let content = std::fs::read(&path).map_err(read(&path, "read"))?;
            hash.update(name.as_bytes());
            hash.update(b"\0");
            hash.update(&(content.len() as u64).to_be_bytes());
            hash.update(&content);
            files.push((name, content));
        }
        let hash = hex(&hash.finish().as_ref()[..16]);
        let mut tar = Vec::new();
        append(&mut tar, &format!("{hash}/"), None)?;
        for (name, content) in &files {
            append(&mut tar, &format!("{hash}/{name}"), Some(content))?;
        }
        Ok(Self {
            hash,
            tar: tar.into(),
        })
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive({}, {} bytes)", self.hash, self.tar.len())
    }
}

/// Joins archives to one complete tar.
pub(crate) fn joined<'a>(archives: impl IntoIterator<Item = &'a Archive>) -> Bytes {
    let mut all = Vec::new();
    for archive in archives {
        all.extend_from_slice(&archive.tar);
    }
    if !all.is_empty() {
        all.resize(all.len() + 2 * BLOCK, 0);
    }
    all.into()
}

/// Whether LuaRocks would ask a server for a file of this name.
pub(crate) fn is_served(name: &str) -> bool {
    (name == "manifest" || name.starts_with("manifest-") || is_rock(name)) && !name.contains('/')
}

fn is_rock(name: &str) -> bool {
    name.ends_with(".rock") || name.ends_with(".rockspec")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const BLOCK: usize = 512;

/// Appends a file, or a directory when there is no content, in the ustar format.
fn append(tar: &mut Vec<u8>, name: &str, content: Option<&Vec<u8>>) -> Result<()> {
    let size = content.map_or(0, Vec::len);
    let fits = name.len() <= 100 && size < 1 << 33;
    if !fits {
        return Err(Error::Invalid(format!(
            "{name:?} cannot be sent to a VM: its name is longer than 100 bytes or it has 8 GiB"
        )));
    }
    let (mode, kind) = if content.is_some() {
        ("0000644", b'0')
    } else {
        ("0000755", b'5')
    };
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, mode);
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // The checksum is taken with blanks in its own place.
    put(148, "        ");
    put(257, "ustar");
    put(263, "00");
    header[156] = kind;
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&header);
    if let Some(content) = content {
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    Ok(())
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

    #[test]
    fn the_archive_is_a_tar_that_tar_unpacks_and_its_hash_follows_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = dir.path().join("rocks");
        std::fs::create_dir(&rocks).unwrap();
        let missing = Archive::pack(&rocks, "5.4").unwrap_err();
        assert!(matches!(missing, Error::NoManifest { .. }), "{missing}");
        std::fs::write(rocks.join("manifest-5.4"), "repository = {}\n").unwrap();
        std::fs::write(rocks.join("a-1-1.src.rock"), vec![7_u8; 1500]).unwrap();
        std::fs::write(rocks.join("notes.txt"), "not served").unwrap();
        let first = Archive::pack(&rocks, "5.4").unwrap();
        assert_eq!(first.hash, Archive::pack(&rocks, "5.4").unwrap().hash);

        std::fs::write(dir.path().join("all.tar"), joined([&first])).unwrap();
        let output = std::process::Command::new("tar")
            .args(["-xvf", "all.tar"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let listed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(listed.lines().count(), 3, "{listed}");
        let unpacked = dir.path().join(&first.hash).join("a-1-1.src.rock");
        assert_eq!(std::fs::read(unpacked).unwrap(), vec![7_u8; 1500]);

        std::fs::write(rocks.join("a-1-1.src.rock"), vec![8_u8; 1500]).unwrap();
        assert_ne!(first.hash, Archive::pack(&rocks, "5.4").unwrap().hash);
    }
}
