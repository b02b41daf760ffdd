//! Rocks that were downloaded, kept on this machine for all VMs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bioxen_vm_core::Runner;
use bioxen_vm_core::local::LocalRunner;
use bytes::Bytes;

use crate::hash::{is_sha256, sha256};
use crate::{Error, Result};

/// A directory of this machine that keeps what was downloaded, under its SHA-256.
///
/// A curator with a cache downloads on this machine, once for all VMs, and sends the rocks to the
/// machine of its tree through its runner. Programs that use the directory at the same time do not
/// disturb each other. A damaged file is removed and downloaded again.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    runner: Arc<dyn Runner>,
}

impl Cache {
    /// Keeps files in a directory, which is made when it is needed.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            runner: Arc::new(LocalRunner::new()),
        }
    }

    /// Downloads with this runner, for example one that knows a proxy:
    /// `LocalRunner::new().with_env("https_proxy", …)`. It needs `curl` or `wget`.
    #[must_use]
    pub fn with_runner(mut self, runner: Arc<dyn Runner>) -> Self {
        self.runner = runner;
        self
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn runner(&self) -> &Arc<dyn Runner> {
        &self.runner
    }

    /// The file of this hash, if it is there and whole.
    pub(crate) async fn get(&self, hash: &str) -> Option<Bytes> {
        if !is_sha256(hash) {
            return None;
        }
        let path = self.files().join(hash);
        let content = Bytes::from(tokio::fs::read(&path).await.ok()?);
        if sha256(&content) == hash {
            return Some(content);
        }
        tracing::warn!(path = %path.display(), "a damaged file of the cache is removed");
        // If it stays, it is found damaged again.
        let _ = tokio::fs::remove_file(&path).await;
        None
    }

    /// The file that was downloaded from this address.
    pub(crate) async fn get_by_url(&self, url: &str) -> Option<Bytes> {
        let note = self.directory.join("urls").join(sha256(url.as_bytes()));
        let hash = tokio::fs::read_to_string(note).await.ok()?;
        self.get(hash.trim()).await
    }

    /// Keeps a file, and the address that it came from.
    pub(crate) async fn put(&self, url: Option<&str>, content: &Bytes) -> Result<()> {
        let hash = sha256(content);
        write(&self.files(), &hash, content).await?;
        if let Some(url) = url {
            let notes = self.directory.join("urls");
            write(&notes, &sha256(url.as_bytes()), hash.as_bytes()).await?;
        }
        Ok(())
    }

    fn files(&self) -> PathBuf {
        self.directory.join("sha256")
    }
}

/// Writes a file at once: others see all of it or nothing.
async fn write(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    let (directory, name, content) = (directory.to_owned(), name.to_owned(), content.to_owned());
    let path = directory.join(&name);
    let writing = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&directory)?;
        let mut file = tempfile::NamedTempFile::new_in(&directory)?;
        io::Write::write_all(&mut file, &content)?;
        file.persist(directory.join(&name))?;
        io::Result::Ok(())
    });
    let written = writing
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    written.map_err(|source| Error::Io {
        operation: "write",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_found_by_hash_and_address_and_never_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cache"));
        let content = Bytes::from_static(b"a rock");
        let hash = sha256(&content);
        assert_eq!(cache.get(&hash).await, None);
        cache.put(Some("https://x/a"), &content).await.unwrap();
        assert_eq!(cache.get(&hash).await, Some(content.clone()));
        assert_eq!(cache.get_by_url("https://x/a").await, Some(content));
        assert_eq!(cache.get_by_url("https://x/b").await, None);
        assert_eq!(cache.get("../../etc/passwd").await, None);
        std::fs::write(cache.files().join(&hash), "another").unwrap();
        assert_eq!(cache.get(&hash).await, None);
        assert!(!cache.files().join(&hash).exists());
    }
}
