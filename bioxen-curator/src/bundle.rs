//! Everything that some rocks take, in one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::local::PrivateDir;
use bytes::Bytes;
use serde::Serialize;

use crate::curator::DEFAULT_TIMEOUT;
use crate::evaluate::Interpreter;
use crate::fetch::Fetcher;
use crate::index::Index;
use crate::lock::LockedRock;
use crate::manifest::manifest;
use crate::plan::{self, Installed};
use crate::sources::{complete, packer};
use crate::{Cache, Error, Lock, Result, Rock, RockRequest, RocksServer, tar};

/// Gathers rocks with all that they need, so that machines without any network install them.
///
/// The directory is a [`RocksServer::Directory`]. Beside the rocks it has a manifest for each Lua
/// version and `bioxen-<lua>.lock` with the SHA-256 of every rock. A rock whose server has only its
/// rockspec is packed with its sources, for which this machine needs `luarocks`.
#[derive(Debug, Clone)]
pub struct Bundle {
    servers: Vec<RocksServer>,
    lua_versions: Vec<String>,
    platforms: Vec<String>,
    cache: Option<Cache>,
    timeout: Duration,
}

/// What a bundle has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BundleReport {
    /// The rocks, sorted.
    pub rocks: Vec<Rock>,
    /// The files that hold them, and how many bytes each has.
    pub files: BTreeMap<String, u64>,
    /// The Lua versions that it is for.
    pub lua_versions: Vec<String>,
    /// The kinds of machine that it is for.
    pub platforms: Vec<String>,
}

impl Bundle {
    /// Gathers from these servers, for Lua 5.4 and machines like this one.
    pub fn new(servers: impl IntoIterator<Item = RocksServer>) -> Self {
        Self {
            servers: servers.into_iter().collect(),
            lua_versions: vec!["5.4".into()],
            platforms: vec![format!("linux-{}", std::env::consts::ARCH)],
            cache: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Gathers for these Lua versions.
    #[must_use]
    pub fn for_lua<I: Into<String>>(mut self, versions: impl IntoIterator<Item = I>) -> Self {
        self.lua_versions = versions.into_iter().map(Into::into).collect();
        self
    }

    /// Gathers for these kinds of machine, as LuaRocks calls them: `linux-x86_64`, `linux-aarch64`.
    #[must_use]
    pub fn for_platforms<I: Into<String>>(mut self, names: impl IntoIterator<Item = I>) -> Self {
        self.platforms = names.into_iter().map(Into::into).collect();
        self
    }

    /// Keeps what is downloaded.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Limits the time of each download; 10 minutes by default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Writes the bundle into a directory, which is made if need be. What else is in it stays.
    ///
    /// # Errors
    /// As [`Curator::lock`](crate::Curator::lock), and with [`Error::Io`].
    pub async fn write(&self, requests: &[RockRequest], into: &Path) -> Result<BundleReport> {
        let (files, report) = self.gather(requests).await?;
        for (name, content) in &files {
            write_file(into, name, content)?;
        }
        Ok(report)
    }

    /// Writes the bundle as a `.tar.gz`, which is a [`RocksServer::Archive`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_archive(
        &self,
        requests: &[RockRequest],
        into: &Path,
    ) -> Result<BundleReport> {
        let (files, report) = self.gather(requests).await?;
        let files = files.iter().map(|(name, content)| (name.as_str(), content));
        let packed = tar::compressed(files)?;
        let folder = into.parent().unwrap_or(Path::new("."));
        let name = into.file_name().unwrap_or_default().to_string_lossy();
        write_file(folder, &name, &packed)?;
        Ok(report)
    }

    /// All files: the rocks, then manifests and locks, so that nothing is offered too early.
    async fn gather(
        &self,
        requests: &[RockRequest],
    ) -> Result<(Vec<(String, Bytes)>, BundleReport)> {
        if self.servers.is_empty() || self.lua_versions.is_empty() || self.platforms.is_empty() {
            return Err(Error::Invalid(
                "a bundle needs at least one server, one Lua version and one kind of machine"
                    .into(),
            ));
        }
        // Without a cache to keep, one for this bundle: nothing is fetched once for each Lua version.
        let scratch = PrivateDir::temporary("bioxen-bundle-").map_err(|source| Error::Io {
            operation: "make a folder in",
            path: std::env::temp_dir(),
            source,
        })?;
        let cache = match &self.cache {
            Some(cache) => cache.clone(),
            None => Cache::new(scratch.path()),
        };
        let runner = packer(Some(&cache));
        let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        let mut rocks = BTreeSet::new();
        for lua_version in &self.lua_versions {
            let mut locked: Vec<LockedRock> = Vec::new();
            for platform in &self.platforms {
                let fetcher = Fetcher {
                    runner: Arc::clone(&runner),
                    timeout: self.timeout,
                    cache: Some(cache.clone()),
                };
                let lua = Interpreter::new(&runner);
                let index = Index::read(&self.servers, fetcher, lua, lua_version, platform).await?;
                let nothing = (Installed::new(), BTreeSet::new());
                let planned =
                    plan::plan(&index, &nothing.0, requests, &nothing.1, lua_version).await?;
                for (step, offer) in planned.plan.steps.iter().zip(&planned.offers) {
                    let mut complete = complete(&index, offer, Some(&cache)).await?;
                    // Sources that were packed for one Lua version do for another.
                    if let Some(packed) = files.get(&complete.file) {
                        complete.content = packed.clone();
                    }
                    if locked.iter().all(|locked| locked.file != complete.file) {
                        locked.push(LockedRock::new(step, index.source(offer), &complete));
                    }
                    rocks.insert(step.rock.clone());
                    files.insert(complete.file, complete.content);
                }
            }
            let requests = requests.iter().map(RockRequest::to_string).collect();
            let forms = locked.iter().map(|locked| (locked.rock(), locked.arch()));
            texts.insert(format!("manifest-{lua_version}"), manifest(forms));
            let lock = Lock::new(lua_version, requests, locked);
            texts.insert(format!("bioxen-{lua_version}.lock"), lock.to_string());
        }
        let sizes = files.iter();
        let report = BundleReport {
            rocks: rocks.into_iter().collect(),
            files: sizes
                .map(|(name, content)| (name.clone(), content.len() as u64))
                .collect(),
            lua_versions: self.lua_versions.clone(),
            platforms: self.platforms.clone(),
        };
        let texts = texts
            .into_iter()
            .map(|(name, text)| (name, Bytes::from(text)));
        Ok((files.into_iter().chain(texts).collect(), report))
    }
}

fn write_file(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(&path, content)
    };
    write().map_err(|source| Error::Io {
        operation: "write",
        path: path.clone(),
        source,
    })
}
