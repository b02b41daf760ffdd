//! Installs rocks: plans, gathers their files, changes the tree and looks at what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::curator::{ATTEMPTS, Failed, rocks};
use crate::error::Servers;
use crate::hash::sha256;
use crate::index::{Index, read_rock};
use crate::lock::LockedRock;
use crate::luarocks::{Answer, Changed, Site, Step};
use crate::parse::{self, Record};
use crate::plan::{self, Installed, Plan, PlanStep, Planned};
use crate::rockspec::{External, Rockspec};
use crate::{
    Curator, Error, InstallReport, InstalledRock, Lock, Progress, Result, Rock, RockName,
    RockRequest, doctor, remedy, tar,
};

const OPERATION: &str = "install rocks";

/// What is to be done, with the files that it takes.
pub(crate) struct Ready {
    pub(crate) plan: Plan,
    pub(crate) files: Vec<File>,
    external: Vec<(Rock, External)>,
}

/// The file of a rock. The machine of the tree has it when there is no content.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) sha256: String,
    pub(crate) content: Option<Bytes>,
}

impl Curator {
    /// Installs one rock, given as in a rockspec: `lpeg`, `lpeg 1.0.2-1`, `lpeg >= 1.0, < 2`.
    ///
    /// # Errors
    /// As [`install`](Self::install), and with [`Error::Invalid`] when the text is no request.
    ///
    /// # Cancel safety
    /// As [`install`](Self::install).
    pub async fn install_package(&self, request: &str) -> Result<InstallReport> {
        self.install(&[request.parse()?]).await
    }

    /// What [`install`](Self::install) would do. Nothing is changed.
    ///
    /// # Errors
    /// As [`install`](Self::install), for all that can be known before.
    pub async fn plan(&self, requests: &[RockRequest]) -> Result<Plan> {
        let site = self.open()?;
        let known = site.look(OPERATION).await?;
        let planned = self
            .planned(&site, &known, &mut None, requests, &BTreeSet::new())
            .await?;
        Ok(planned.plan)
    }

    /// Installs rocks and what they need: all of them, or none when one fails.
    ///
    /// First it is decided which versions fit together and with the rocks of the tree: the newest,
    /// unless the tree has one that answers the request, which then stays as it is. Afterwards it is
    /// checked that Lua finds every file of every new rock.
    ///
    /// # Errors
    /// Tells why a rock could not be installed, and keeps the log; see [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future ends LuaRocks. The tree is then put back by the next operation on it.
    pub async fn install(&self, requests: &[RockRequest]) -> Result<InstallReport> {
        self.install_newest(requests, &BTreeSet::new()).await
    }

    /// Brings rocks of the tree to their newest versions, with what those need: the named ones, or
    /// all when none is named.
    ///
    /// # Errors
    /// Fails with [`Error::NotInstalled`], and as [`install`](Self::install).
    ///
    /// # Cancel safety
    /// As [`install`](Self::install).
    pub async fn upgrade(&self, names: &[RockName]) -> Result<InstallReport> {
        let there = self.list().await?;
        let site = self.open()?;
        for name in names {
            if there.iter().all(|rock| rock.name != *name) {
                return Err(self.not_installed(&site, name));
            }
        }
        let renew: BTreeSet<_> = there
            .into_iter()
            .map(|rock| rock.name)
            .filter(|name| names.is_empty() || names.contains(name))
            .collect();
        let requests: Vec<_> = renew.iter().cloned().map(RockRequest::any).collect();
        self.install_newest(&requests, &renew).await
    }

    /// Decides which rocks answer the requests, whatever the tree has now, and gives them with their
    /// sources and SHA-256.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and with [`Error::NoSources`] for a rock whose sources are not on the
    /// server.
    pub async fn lock(&self, requests: &[RockRequest]) -> Result<Lock> {
        let (lock, _) = self.lock_with_files(requests).await?;
        Ok(lock)
    }

    /// A lock, and the files that it names.
    pub(crate) async fn lock_with_files(
        &self,
        requests: &[RockRequest],
    ) -> Result<(Lock, Vec<Bytes>)> {
        let site = self.open()?;
        let index = self.index(&site, "lock rocks").await?;
        let lua_version = &self.site.lua_version;
        let nothing = (Installed::new(), BTreeSet::new());
        let planned = plan::plan(&index, &nothing.0, requests, &nothing.1, lua_version).await?;
        let (mut rocks, mut files) = (Vec::new(), Vec::new());
        for (step, offer) in planned.plan.steps.iter().zip(&planned.offers) {
            if !offer.is_complete() {
                return Err(Error::NoSources {
                    rock: step.rock.to_string(),
                });
            }
            let content = self.fetched(&site, &index, offer).await?;
            let (_, rockspec) = index.open(offer, &content)?;
            rocks.push(LockedRock {
                name: step.rock.name.clone(),
                version: step.rock.version.clone(),
                file: step.file.clone(),
                source: index.source(offer),
                sha256: sha256(&content),
                rockspec_sha256: sha256(rockspec.as_bytes()),
                needs: step.needs.clone(),
            });
            files.push(content);
        }
        let requests = requests.iter().map(RockRequest::to_string).collect();
        Ok((Lock::new(lua_version, requests, rocks), files))
    }

    /// Installs exactly the rocks of a lock. Rocks that the lock does not name stay.
    ///
    /// No manifest is read. Each file is taken from the store of the tree, the cache, the servers of
    /// the curator, or where it was locked, whichever has it first with the right SHA-256.
    ///
    /// # Errors
    /// Fails with [`Error::Changed`] when a file has another content than it had, with
    /// [`Error::Invalid`] when the lock is for another Lua, and as [`install`](Self::install).
    ///
    /// # Cancel safety
    /// As [`install`](Self::install).
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

    async fn install_newest(
        &self,
        requests: &[RockRequest],
        renew: &BTreeSet<RockName>,
    ) -> Result<InstallReport> {
        let started = Instant::now();
        let _turn = self.turn.lock().await;
        let site = self.open()?;
        let mut index = None;
        for _ in 0..ATTEMPTS {
            let known = site.look(OPERATION).await?;
            let planned = self
                .planned(&site, &known, &mut index, requests, renew)
                .await?;
            site.tell(Progress::Planned(planned.plan.clone()));
            let mut files = Vec::new();
            for offer in &planned.offers {
                if let Some(index) = &index {
                    let content = self.fetched(&site, index, offer).await?;
                    index.open(offer, &content)?;
                    files.push(File {
                        sha256: sha256(&content),
                        content: Some(content),
                    });
                }
            }
            let ready = Ready {
                plan: planned.plan,
                files,
                external: planned.external,
            };
            if let Some(report) = self.act(&site, &known, ready, started).await? {
                return Ok(report);
            }
        }
        Err(self.busy(&site))
    }

    async fn planned(
        &self,
        site: &Site<'_>,
        known: &Answer,
        index: &mut Option<Index>,
        requests: &[RockRequest],
        renew: &BTreeSet<RockName>,
    ) -> Result<Planned> {
        let there = rocks(known);
        let lua_version = &self.site.lua_version;
        let answered = |request: &RockRequest| there.iter().find(|rock| request.accepts(rock));
        if renew.is_empty() && requests.iter().all(|request| answered(request).is_some()) {
            // No server has to be asked.
            return Ok(Planned {
                plan: Plan {
                    lua_version: lua_version.clone(),
                    steps: Vec::new(),
                    present: requests.iter().filter_map(answered).cloned().collect(),
                    replaced: Vec::new(),
                },
                offers: Vec::new(),
                external: Vec::new(),
            });
        }
        let index = match index {
            Some(index) => index,
            None => index.insert(self.index_for(site, known, OPERATION).await?),
        };
        plan::plan(index, &installed(known), requests, renew, lua_version).await
    }

    async fn fetched(
        &self,
        site: &Site<'_>,
        index: &Index,
        offer: &crate::index::Offer,
    ) -> Result<Bytes> {
        let content = index.content(offer).await?;
        site.tell(Progress::Fetched {
            file: offer.file(),
            bytes: content.len() as u64,
        });
        Ok(content)
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
                let spec = checked(locked, &content)?;
                native = spec.native;
                ready
                    .external
                    .extend(spec.external.into_iter().map(|lib| (rock.clone(), lib)));
                Some(content)
            };
            ready.plan.steps.push(PlanStep {
                requested: requests.iter().any(|request| request.accepts(&rock)),
                form: locked.form().unwrap_or(crate::Form::Source),
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

    /// Carries a plan out. `None` when the tree was changed meanwhile, so that the plan is void.
    pub(crate) async fn act(
        &self,
        site: &Site<'_>,
        known: &Answer,
        ready: Ready,
        started: Instant,
    ) -> Result<Option<InstallReport>> {
        let Ready {
            plan,
            files,
            external,
        } = ready;
        let before = rocks(known);
        let mut report = InstallReport {
            installed: Vec::new(),
            present: plan.present.clone(),
            replaced: Vec::new(),
            repaired: known.has("repaired"),
            duration: Duration::ZERO,
            sent: 0,
            log: known.log.clone(),
        };
        if plan.is_empty() {
            report.duration = started.elapsed();
            return Ok(Some(report));
        }
        let share = self.builds.as_ref().filter(|_| before.is_empty());
        let mut build = match share {
            Some(builds) => Some(builds.of(known, &self.site, &plan, &files).await),
            None => None,
        };
        if let Some(tar) = build.as_ref().and_then(|build| build.tar()) {
            site.tell(Progress::Sending {
                files: 1,
                bytes: tar.len() as u64,
            });
            report.sent = tar.len() as u64;
            let Changed::Tried(answer) = site.place(OPERATION, known, tar).await? else {
                return Ok(None);
            };
            self.report_change(site, &before, &plan, &files, &answer, &mut report)?;
            report.duration = started.elapsed();
            return Ok(Some(report));
        }
        self.check_tools(site, &plan, &external).await?;
        let steps: Vec<_> = plan
            .steps
            .iter()
            .zip(&files)
            .map(|(step, file)| Step {
                verb: "install",
                rock: step.rock.clone(),
                sha256: file.sha256.clone(),
                file: step.file.clone(),
            })
            .collect();
        let stored: BTreeSet<_> = known
            .records()
            .filter(|record| record.name == "stored")
            .map(|record| record.field(0))
            .collect();
        let missing: Vec<_> = steps
            .iter()
            .zip(&files)
            .filter(|(step, _)| !stored.contains(step.sha256.as_str()))
            .filter_map(|(step, file)| {
                let content = file.content.as_ref()?;
                Some((step.sha256.as_str(), step.file.as_str(), content))
            })
            .collect();
        let bytes = missing
            .iter()
            .map(|(_, _, content)| content.len() as u64)
            .sum();
        if !missing.is_empty() {
            site.tell(Progress::Sending {
                files: missing.len(),
                bytes,
            });
        }
        let upload = tar::by_hash(missing)?;
        report.sent = upload.len() as u64;
        let Changed::Tried(answer) = site.change(OPERATION, known, upload, &steps).await? else {
            return Ok(None);
        };
        if let Some(failed) = Failed::of(&answer) {
            let request = steps
                .get(failed.step)
                .map_or_else(String::new, |step| step.rock.to_string());
            return Err(self.failure(site, &request, failed, answer));
        }
        self.report_change(site, &before, &plan, &files, &answer, &mut report)?;
        report.log = answer.log;
        if let Some(build) = &mut build {
            build.keep(site.pack(OPERATION).await?);
        }
        report.duration = started.elapsed();
        tracing::debug!(machine = site.machine(), tree = self.site.tree, %report, "rocks installed");
        Ok(Some(report))
    }

    /// Looks whether the machine has what the rocks are built with, before anything is built.
    async fn check_tools(
        &self,
        site: &Site<'_>,
        plan: &Plan,
        external: &[(Rock, External)],
    ) -> Result<()> {
        let built = |step: &&PlanStep| step.native && step.form == crate::Form::Source;
        let first = plan.steps.iter().find(built);
        if first.is_none() && external.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = external
            .iter()
            .flat_map(|(_, library)| [&library.header, &library.library])
            .flatten()
            .map(String::as_str)
            .collect();
        let found = site.inspect(OPERATION, &wanted).await?;
        let lua_version = &self.site.lua_version;
        let machine = || site.machine().to_owned();
        if let Some(step) = first
            && let Some(missing) = doctor::missing_for_builds(&found, lua_version)
        {
            return Err(Error::NoToolchain {
                request: step.rock.to_string(),
                machine: machine(),
                missing,
                remedy: remedy::headers(lua_version),
                log: crate::Log::default(),
            });
        }
        let has = |file: &str| {
            let mut records = found.records();
            records.any(|record| record.name == "external" && record.field(0) == file)
        };
        for (rock, library) in external {
            let files = [&library.header, &library.library].into_iter().flatten();
            // A name with a pattern or an ending of its own is left to LuaRocks.
            let plain = files.filter(|file| !file.contains(['*', '?']) && !file.contains(".so"));
            if let Some(missing) = plain.into_iter().find(|file| !has(file)) {
                return Err(Error::NoLibrary {
                    request: rock.to_string(),
                    machine: machine(),
                    library: library.name.clone(),
                    missing: missing.clone(),
                    remedy: remedy::library(&library.name, missing),
                });
            }
        }
        Ok(())
    }

    fn failure(&self, site: &Site<'_>, request: &str, failed: Failed, answer: Answer) -> Error {
        if failed.misplaced {
            return Error::Misplaced {
                request: request.to_owned(),
                lua_version: self.site.lua_version.clone(),
                missing: format!("lib/luarocks/rocks-{}", self.site.lua_version),
                log: answer.log,
            };
        }
        let mut attempt = self.attempt(site, request);
        attempt.free = answer
            .records()
            .find(|record| record.name == "free")
            .and_then(|record| record.field(0).parse().ok());
        attempt.failure(answer.log)
    }

    /// Fills a report from the answer of a change, and checks that everything is in its place.
    fn report_change(
        &self,
        site: &Site<'_>,
        before: &BTreeSet<Rock>,
        plan: &Plan,
        files: &[File],
        answer: &Answer,
        report: &mut InstallReport,
    ) -> Result<()> {
        let misplaced = |request: &str, missing: String| Error::Misplaced {
            request: request.to_owned(),
            lua_version: self.site.lua_version.clone(),
            missing,
            log: answer.log.clone(),
        };
        let there: BTreeSet<_> = answer
            .records()
            .filter(|record| record.name == "file")
            .map(|record| record.text())
            .collect();
        let steps: BTreeMap<_, _> = plan
            .steps
            .iter()
            .enumerate()
            .map(|(number, step)| (&step.rock, (number, step)))
            .collect();
        for (rock, manifest) in manifests(answer) {
            let modules = parse::rock_manifest(&manifest).map_err(|reason| {
                let reason = format!("the manifest of {rock}: {reason}");
                site.senseless(OPERATION, &reason, &answer.log)
            })?;
            let lua = modules.lua.iter().map(|file| ("share", file));
            let native = modules.native.iter().map(|file| ("lib", file));
            for (place, file) in lua.chain(native) {
                let path = format!("{place}/lua/{}/{file}", self.site.lua_version);
                if !there.contains(path.as_str()) {
                    return Err(misplaced(&rock.to_string(), path));
                }
            }
            let step = steps.get(&rock);
            let number = step.map_or(usize::MAX, |(number, _)| *number);
            report.installed.push(InstalledRock {
                requested: step.is_some_and(|(_, step)| step.requested),
                form: step.map(|(_, step)| step.form),
                server: step.map(|(_, step)| step.server.clone()),
                sha256: files.get(number).map(|file| file.sha256.clone()),
                native: !modules.native.is_empty(),
                modules: modules.lua.len() + modules.native.len(),
                needs: step.map_or_else(Vec::new, |(_, step)| step.needs.clone()),
                duration: answer.times.get(number).copied().unwrap_or_default(),
                rock,
            });
        }
        let after = rocks(answer);
        if let Some(step) = plan.steps.iter().find(|step| !after.contains(&step.rock)) {
            let rock = step.rock.to_string();
            return Err(misplaced(&rock, rock.clone()));
        }
        report.replaced = before.difference(&after).cloned().collect();
        Ok(())
    }

    /// The file of a locked rock, from the first place that has it as it was.
    async fn locked_file(&self, locked: &LockedRock) -> Result<Bytes> {
        use crate::fetch::{Kind, Miss};
        use crate::server::Place;
        if let Some(cache) = &self.cache
            && let Some(content) = cache.get(&locked.sha256).await
        {
            return Ok(content);
        }
        let fetcher = self.fetcher();
        let mut places = Vec::new();
        for server in &self.servers {
            places.push((server.to_string(), server.place()?));
        }
        let folder = locked
            .source
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let origin = if locked.source.contains("://") {
            Place::Urls(vec![crate::server::checked_url(folder)?])
        } else {
            Place::Directory(folder.into())
        };
        places.push((folder.to_owned(), origin));
        let (mut changed, mut dead) = (None, Vec::new());
        let names: Vec<_> = places.iter().map(|(name, _)| name.clone()).collect();
        for (name, place) in places {
            match fetcher.read(&place, &locked.file, Kind::Changing).await {
                Ok(content) => {
                    let found = sha256(&content);
                    if found == locked.sha256 {
                        if let Some(cache) = &self.cache {
                            cache.put(None, &content).await?;
                        }
                        return Ok(content);
                    }
                    changed.get_or_insert(Error::Changed {
                        file: locked.file.clone(),
                        source_name: name,
                        locked: locked.sha256.clone(),
                        found,
                    });
                }
                Err(Miss::Absent | Miss::Error(Error::Io { .. })) => {}
                Err(Miss::Unreachable(reason)) => dead.push((name, reason)),
                Err(Miss::Error(error)) => return Err(error),
            }
        }
        Err(match changed {
            Some(changed) => changed,
            None if !dead.is_empty() => Error::ServerUnreachable {
                request: locked.rock().to_string(),
                unreachable: crate::Unreachable(dead),
                log: crate::Log::default(),
            },
            None => Error::NoSuchRock {
                request: locked.file.clone(),
                lua_version: self.site.lua_version.clone(),
                servers: Servers(names),
                log: crate::Log::default(),
            },
        })
    }
}

/// The rockspec in a locked file, which has to be the one that was locked.
fn checked(locked: &LockedRock, content: &Bytes) -> Result<Rockspec> {
    let (spec, text) =
        read_rock(&locked.rock(), &locked.file, content).map_err(|reason| Error::Damaged {
            file: locked.file.clone(),
            server: locked.source.clone(),
            reason,
        })?;
    let found = sha256(text.as_bytes());
    if found != locked.rockspec_sha256 {
        return Err(Error::Changed {
            file: format!("the rockspec in {}", locked.file),
            source_name: locked.source.clone(),
            locked: locked.rockspec_sha256.clone(),
            found,
        });
    }
    Ok(spec)
}

/// The rocks of the tree, with what their rockspecs say that they need.
fn installed(known: &Answer) -> Installed {
    let mut specs: Vec<(Rock, String)> = Vec::new();
    for record in known.records() {
        match (record.name, specs.last_mut()) {
            ("spec", _) => specs.extend(record.rock().map(|rock| (rock, String::new()))),
            ("line", Some((_, text))) => {
                text.push_str(record.text());
                text.push('\n');
            }
            _ => {}
        }
    }
    let specs: BTreeMap<_, _> = specs.into_iter().collect();
    let mut installed = Installed::new();
    for rock in rocks(known) {
        // A rockspec that cannot be read by us was read by LuaRocks; then nothing is known of it.
        let spec = specs.get(&rock).map(|text| Rockspec::read(text));
        let needs = match spec {
            Some(Ok(spec)) => spec.needs,
            _ => Vec::new(),
        };
        // Of several versions, the newest, which comes last.
        installed.insert(rock.name, (rock.version, needs));
    }
    installed
}

/// The new rocks with the text of their manifests.
fn manifests(answer: &Answer) -> Vec<(Rock, String)> {
    let mut all: Vec<(Rock, String)> = Vec::new();
    for record in answer.records() {
        match (record.name, all.last_mut()) {
            ("new", _) => all.extend(record.rock().map(|rock| (rock, String::new()))),
            ("manifest", Some((_, text))) => {
                text.push_str(Record::text(&record));
                text.push('\n');
            }
            _ => {}
        }
    }
    all
}
