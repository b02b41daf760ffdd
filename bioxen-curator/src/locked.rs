//! Locks rocks, and installs exactly what was locked.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;

use crate::curator::{ATTEMPTS, rocks};
use crate::error::Servers;
use crate::fetch::{Kind, Miss};
use crate::hash::sha256;
use crate::index::read_rock;
use crate::install::{File, OPERATION, Ready};
use crate::lock::LockedRock;
use crate::luarocks::Answer;
use crate::plan::{self, Installed, Plan, PlanStep};
use crate::rockspec::Rockspec;
use crate::server::{Place, checked_url};
use crate::{Curator, Error, InstallReport, Lock, Progress, Result, RockRequest, sources};

impl Curator {
    /// Decides which rocks answer the requests, whatever the tree has now, and gives them with their
    /// sources and SHA-256.
    ///
    /// A rock of which a server has only the rockspec is packed with its sources on this machine, for
    /// which it needs `luarocks` and what fetches them, `git` for example.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and with [`Error::NoSources`] and [`Error::Publish`] for a rock whose
    /// sources cannot be had.
    pub async fn lock(&self, requests: &[RockRequest]) -> Result<Lock> {
        let site = self.open()?;
        let index = self.index(&site, "lock rocks").await?;
        let lua_version = &self.site.lua_version;
        let nothing = (Installed::new(), BTreeSet::new());
        let planned = plan::plan(&index, &nothing.0, requests, &nothing.1, lua_version).await?;
        let mut rocks = Vec::new();
        for (step, offer) in planned.plan.steps.iter().zip(&planned.offers) {
            let complete = sources::complete(&index, offer, self.cache.as_ref()).await?;
            site.tell(Progress::Fetched {
                file: complete.file.clone(),
                bytes: complete.content.len() as u64,
            });
            rocks.push(LockedRock::new(step, index.source(offer), &complete));
        }
        let requests = requests.iter().map(RockRequest::to_string).collect();
        Ok(Lock::new(lua_version, requests, rocks))
    }

    /// Installs exactly the rocks of a lock. Rocks that the lock does not name stay.
    ///
    /// No manifest is read. Each file is taken from the store of the tree, the cache, the servers of
    /// the curator, or where it was locked, whichever has it first with the right SHA-256. What was
    /// packed with its sources is packed anew where nobody has it, and has to be the same.
    ///
    /// # Errors
    /// Fails with [`Error::Changed`] when a file has another content than it had, with
    /// [`Error::Invalid`] when the lock is for another Lua, and as [`install`](Self::install).
    ///
    /// # Cancel safety
    /// As [`install`](Self::install).
    #[tracing::instrument(name = "install", skip_all, fields(tree = self.site.tree, rocks = lock.rocks.len()))]
    pub async fn install_locked(&self, lock: &Lock) -> Result<InstallReport> {
        if lock.lua != self.site.lua_version {
            return Err(Error::Invalid(format!(
                "the lock is for Lua {}, but the tree is for Lua {}; lock the rocks for that too",
                lock.lua, self.site.lua_version
            )));
        }
        let started = Instant::now();
        let _turn = self.turn.lock().await;
        let site = self.open()?;
        for _ in 0..ATTEMPTS {
            let known = site.look(OPERATION).await?;
            let ready = self.ready_from_lock(&known, lock).await?;
            if let Some(report) = self.act(&site, &known, ready, started).await? {
                return Ok(report);
            }
        }
        Err(self.busy(&site))
    }

    async fn ready_from_lock(&self, known: &Answer, lock: &Lock) -> Result<Ready> {
        let there = rocks(known);
        let stored: BTreeSet<_> = known
            .records()
            .filter(|record| record.name == "stored")
            .map(|record| record.field(0))
            .collect();
        let mut ready = Ready {
            plan: Plan {
                lua_version: lock.lua.clone(),
                steps: Vec::new(),
                present: Vec::new(),
                replaced: Vec::new(),
            },
            files: Vec::new(),
            external: Vec::new(),
        };
        let requests: Vec<RockRequest> = lock
            .requests
            .iter()
            .filter_map(|r| r.parse().ok())
            .collect();
        for locked in &lock.rocks {
            let rock = locked.rock();
            if there.contains(&rock) {
                ready.plan.present.push(rock);
                continue;
            }
            let other = there.iter().filter(|other| other.name == rock.name);
            ready.plan.replaced.extend(other.cloned());
            let mut native = false;
            let content = if stored.contains(locked.sha256.as_str()) {
                None
            } else {
                let content = self.locked_file(locked).await?;
                let spec = self.checked(locked, &locked.file, &content).await?;
                native = spec.native;
                ready
                    .external
                    .extend(spec.external.into_iter().map(|lib| (rock.clone(), lib)));
                Some(content)
            };
            ready.plan.steps.push(PlanStep {
                requested: requests.iter().any(|request| request.accepts(&rock)),
                form: locked.form(),
                native,
                server: locked.source.clone(),
                file: locked.file.clone(),
                needs: locked.needs.clone(),
                rock,
            });
            ready.files.push(File {
                sha256: locked.sha256.clone(),
                content,
            });
        }
        Ok(ready)
    }

    /// The file of a locked rock, from the first place that has it as it was.
    async fn locked_file(&self, locked: &LockedRock) -> Result<Bytes> {
        if let Some(cache) = &self.cache
            && let Some(content) = cache.get(&locked.sha256).await
        {
            return Ok(content);
        }
        let content = match self.found(locked, &locked.file, &locked.sha256).await {
            // No server has what was packed with its sources.
            Err(Error::NoSuchRock { .. }) if locked.sources.is_some() => {
                self.packed_anew(locked).await?
            }
            found => found?,
        };
        if let Some(cache) = &self.cache {
            cache.put(None, &content).await?;
        }
        Ok(content)
    }

    /// A file of this SHA-256, from the servers of the curator or where it was locked.
    async fn found(&self, locked: &LockedRock, file: &str, hash: &str) -> Result<Bytes> {
        let fetcher = self.fetcher();
        let (mut changed, mut dead, mut names) = (None, Vec::new(), Vec::new());
        for (name, place) in self.places(locked)? {
            match fetcher.read(&place, file, Kind::Changing).await {
                Ok(content) => {
                    let found = sha256(&content);
                    if found == hash {
                        return Ok(content);
                    }
                    changed.get_or_insert(Error::Changed {
                        file: file.to_owned(),
                        source_name: name.clone(),
                        locked: hash.to_owned(),
                        found,
                    });
                }
                Err(Miss::Absent | Miss::Error(Error::Io { .. })) => {}
                Err(Miss::Unreachable(reason)) => dead.push((name.clone(), reason)),
                Err(Miss::Error(error)) => return Err(error),
            }
            names.push(name);
        }
        Err(match changed {
            Some(changed) => changed,
            None if !dead.is_empty() => Error::ServerUnreachable {
                request: locked.rock().to_string(),
                unreachable: crate::Unreachable(dead),
                log: crate::Log::default(),
            },
            None => Error::NoSuchRock {
                request: file.to_owned(),
                lua_version: self.site.lua_version.clone(),
                servers: Servers(names),
                log: crate::Log::default(),
            },
        })
    }

    /// Where a locked file may be: on the servers of the curator, and where it was locked.
    fn places(&self, locked: &LockedRock) -> Result<Vec<(String, Place)>> {
        let mut places = Vec::new();
        for server in &self.servers {
            places.push((server.to_string(), server.place()?));
        }
        if let Some((folder, _)) = locked.source.rsplit_once('/') {
            let origin = if folder.contains("://") {
                Place::Urls(vec![checked_url(folder)?])
            } else {
                Place::Directory(folder.into())
            };
            places.push((folder.to_owned(), origin));
        }
        Ok(places)
    }

    /// A locked rock that was packed with its sources, which are fetched again.
    async fn packed_anew(&self, locked: &LockedRock) -> Result<Bytes> {
        let rock = locked.rock();
        let file = format!("{}-{}.rockspec", rock.name, rock.version);
        let hash = &locked.rockspec_sha256;
        let rockspec = self.found(locked, &file, hash).await?;
        let spec = self.checked(locked, &file, &rockspec).await?;
        let packed = sources::pack(&rock, &rockspec, &spec.source, &*self.packer()).await?;
        let found = sha256(&packed);
        if found == locked.sha256 {
            return Ok(packed);
        }
        Err(Error::Changed {
            file: locked.file.clone(),
            source_name: spec.source.to_string(),
            locked: locked.sha256.clone(),
            found,
        })
    }

    /// The rockspec in a locked file, which has to be the one that was locked.
    async fn checked(&self, locked: &LockedRock, file: &str, content: &Bytes) -> Result<Rockspec> {
        let read = read_rock(&locked.rock(), file, content, &self.interpreter()).await;
        let (spec, rockspec) = read.map_err(|reason| Error::Damaged {
            file: file.to_owned(),
            server: locked.source.clone(),
            reason,
        })?;
        let found = sha256(&rockspec);
        if found != locked.rockspec_sha256 {
            return Err(Error::Changed {
                file: format!("the rockspec in {file}"),
                source_name: locked.source.clone(),
                locked: locked.rockspec_sha256.clone(),
                found,
            });
        }
        Ok(spec)
    }
}
