//! Everything that some rocks take, in one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::Runner;
use bioxen_vm_core::local::{LocalRunner, PrivateDir};
use bytes::Bytes;
use serde::Serialize;

use crate::curator::DEFAULT_TIMEOUT;
use crate::fetch::Fetcher;
use crate::hash::sha256;
use crate::index::{Index, read_rock};
use crate::lock::LockedRock;
use crate::plan::{self, Installed};
use crate::{Cache, Error, Lock, Result, Rock, RockRequest, RocksServer, publish, tar};

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
        let runner: Arc<dyn Runner> = match &self.cache {
            Some(cache) => Arc::clone(cache.runner()),
            None => Arc::new(LocalRunner::new()),
        };
        let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        let mut rocks = BTreeSet::new();
        for lua_version in &self.lua_versions {
            let mut locked: Vec<LockedRock> = Vec::new();
            for platform in &self.platforms {
                let fetcher = Fetcher {
                    runner: Arc::clone(&runner),
                    timeout: self.timeout,
                    cache: self.cache.clone(),
                };
                let index = Index::read(&self.servers, fetcher, lua_version, platform).await?;
                let nothing = (Installed::new(), BTreeSet::new());
                let planned =
                    plan::plan(&index, &nothing.0, requests, &nothing.1, lua_version).await?;
                for (step, offer) in planned.plan.steps.iter().zip(&planned.offers) {
                    let mut content = index.content(offer).await?;
                    let mut file = step.file.clone();
                    if !offer.is_complete() {
                        file = format!("{}-{}.src.rock", step.rock.name, step.rock.version);
                        if let Some(packed) = files.get(&file) {
                            content = packed.clone();
                        } else {
                            let scratch = scratch()?;
                            let runner = &*runner;
                            content = publish::pack_rockspec(
                                &step.file,
                                &content,
                                scratch.path(),
                                runner,
                            )
                            .await?;
                        }
                    }
                    let (_, rockspec) =
                        read_rock(&step.rock, &file, &content).map_err(|reason| {
                            Error::Damaged {
                                file: file.clone(),
                                server: step.server.clone(),
                                reason,
                            }
                        })?;
                    if locked.iter().all(|locked| locked.file != file) {
                        locked.push(LockedRock {
                            name: step.rock.name.clone(),
                            version: step.rock.version.clone(),
                            file: file.clone(),
                            source: index.source(offer),
                            sha256: sha256(&content),
                            rockspec_sha256: sha256(rockspec.as_bytes()),
                            needs: step.needs.clone(),
                        });
                    }
                    rocks.insert(step.rock.clone());
                    files.insert(file, content);
                }
            }
            let requests = requests.iter().map(RockRequest::to_string).collect();
            texts.insert(format!("manifest-{lua_version}"), manifest(&locked));
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

fn scratch() -> Result<PrivateDir> {
    PrivateDir::temporary("bioxen-bundle-").map_err(|source| Error::Io {
        operation: "make a folder in",
        path: std::env::temp_dir(),
        source,
    })
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

/// A manifest as LuaRocks reads it.
fn manifest(rocks: &[LockedRock]) -> String {
    let mut all: BTreeMap<_, BTreeMap<_, Vec<&str>>> = BTreeMap::new();
    for rock in rocks {
        let stem = format!("{}-{}.", rock.name, rock.version);
        let arch = rock
            .file
            .trim_start_matches(&stem)
            .trim_end_matches(".rock");
        let versions = all.entry(&rock.name).or_default();
        versions.entry(&rock.version).or_default().push(arch);
    }
    let mut text = String::from("commands = {}\nmodules = {}\nrepository = {\n");
    for (name, versions) in all {
        // Writing to a string does not fail. No name, version or kind of machine has a quote.
        let _ = writeln!(text, "   [\"{name}\"] = {{");
        for (version, forms) in versions {
            let _ = write!(text, "      [\"{version}\"] = {{");
            for form in forms {
                let _ = write!(text, " {{ arch = \"{form}\" }},");
            }
            text.push_str(" },\n");
        }
        text.push_str("   },\n");
    }
    text.push_str("}\n");
    text
}
