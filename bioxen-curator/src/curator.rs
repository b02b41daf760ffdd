//! Installs, removes and describes the rocks of one tree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen_vm_core::PackageSite;
use tokio::sync::Mutex;

use crate::diagnose::{Attempt, unreachable};
use crate::error::{Servers, Unreachable};
use crate::luarocks::{Answer, Site};
use crate::parse::{self, Record};
use crate::{
    Error, Found, InstallReport, InstalledRock, RemoveReport, Result, Rock, RockInfo, RockName,
    RockRequest, RocksServer,
};

/// How long an operation may take unless the curator is given another time: 10 minutes.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Takes care of the rocks of one tree, on the machine that holds it.
///
/// Changes of one tree wait for each other, between the clones of a curator and between processes.
/// Each change is complete or undone: when a rock cannot be installed, everything that came before
/// it in the same call is taken back too.
#[derive(Debug, Clone)]
pub struct Curator {
    site: PackageSite,
    servers: Vec<RocksServer>,
    timeout: Duration,
    turn: Arc<Mutex<()>>,
}

impl Curator {
    /// Makes a curator that asks the servers that the machine's LuaRocks is set up with, which is
    /// `luarocks.org` unless somebody changed it.
    #[must_use]
    pub fn new(site: PackageSite) -> Self {
        Self {
            site,
            servers: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            turn: Arc::default(),
        }
    }

    /// Asks these servers, in this order, and no others. The newest version wins, wherever it is.
    #[must_use]
    pub fn with_servers(mut self, servers: impl IntoIterator<Item = RocksServer>) -> Self {
        self.servers = servers.into_iter().collect();
        self
    }

    /// Limits the time of each operation; 10 minutes by default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes turns with all curators that are given the same lock.
    pub(crate) fn with_turn(mut self, turn: Arc<Mutex<()>>) -> Self {
        self.turn = turn;
        self
    }

    /// The tree that this curator takes care of.
    #[must_use]
    pub fn site(&self) -> &PackageSite {
        &self.site
    }

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

    /// Installs rocks and what they need: all of them, or none when one fails.
    ///
    /// A rock that the tree has in a version that answers the request stays as it is. Afterwards
    /// it is checked that Lua finds every file of every new rock.
    ///
    /// # Errors
    /// Tells why a rock could not be installed, and keeps the log; see [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future ends LuaRocks. The tree is then put back by the next operation on it.
    pub async fn install(&self, requests: &[RockRequest]) -> Result<InstallReport> {
        const OPERATION: &str = "install rocks";
        let started = Instant::now();
        let _turn = self.turn.lock().await;
        let site = Site::open(&self.site, &self.servers, self.timeout).await?;
        let known = site.list(OPERATION).await?;
        let before = rocks(&known);
        let mut report = InstallReport {
            installed: Vec::new(),
            present: Vec::new(),
            replaced: Vec::new(),
            repaired: known.has("repaired"),
            duration: Duration::ZERO,
            log: known.log.clone(),
        };
        let mut wanted = Vec::new();
        for request in requests {
            match before.iter().find(|rock| request.accepts(rock)) {
                Some(rock) => report.present.push(rock.clone()),
                None => wanted.push((request, self.version_for(&site, request).await?)),
            }
        }
        if !wanted.is_empty() {
            let steps: Vec<_> = wanted
                .iter()
                .map(|(request, version)| ["install", request.name.as_str(), version.as_str()])
                .collect();
            let answer = site.change(OPERATION, &known, &steps).await?;
            if let Some(failed) = Failed::of(&answer) {
                let request = wanted
                    .get(failed.step)
                    .map_or_else(String::new, |(request, _)| request.to_string());
                return Err(self.failure(&site, &request, failed, answer));
            }
            let wanted: Vec<_> = wanted.into_iter().map(|(request, _)| request).collect();
            self.report_change(&site, &before, &wanted, &answer, &mut report)?;
            report.log = answer.log;
        }
        report.duration = started.elapsed();
        tracing::debug!(machine = site.machine(), tree = self.site.tree, %report, "rocks installed");
        Ok(report)
    }

    /// Removes rocks: all of them, or none when one fails. What came along with them stays.
    ///
    /// With `force`, rocks that others need go too.
    ///
    /// # Errors
    /// Fails with [`Error::NotInstalled`] and [`Error::StillNeeded`], and when the machine or the
    /// tree cannot be used.
    ///
    /// # Cancel safety
    /// As [`install`](Self::install).
    pub async fn remove(&self, names: &[RockName], force: bool) -> Result<RemoveReport> {
        const OPERATION: &str = "remove rocks";
        let started = Instant::now();
        let _turn = self.turn.lock().await;
        let site = Site::open(&self.site, &[], self.timeout).await?;
        let known = site.list(OPERATION).await?;
        let before = rocks(&known);
        if let Some(name) = names
            .iter()
            .find(|name| before.iter().all(|rock| rock.name != **name))
        {
            return Err(self.not_installed(&site, name));
        }
        let verb = if force { "force-remove" } else { "remove" };
        let steps: Vec<_> = names.iter().map(|name| [verb, name.as_str(), ""]).collect();
        let answer = site.change(OPERATION, &known, &steps).await?;
        if let Some(failed) = Failed::of(&answer) {
            let request = names
                .get(failed.step)
                .map_or_else(String::new, RockName::to_string);
            let attempt = self.attempt(&site, &request);
            return Err(attempt.removal_failure(answer.log));
        }
        let after = rocks(&answer);
        Ok(RemoveReport {
            removed: before.difference(&after).cloned().collect(),
            duration: started.elapsed(),
            log: answer.log,
        })
    }

    /// The rocks of the tree, sorted. Needs no LuaRocks.
    ///
    /// # Errors
    /// Fails when the machine cannot be asked or a broken tree cannot be repaired.
    pub async fn list(&self) -> Result<Vec<Rock>> {
        let site = Site::open(&self.site, &[], self.timeout).await?;
        let answer = site.list("list rocks").await?;
        Ok(rocks(&answer).into_iter().collect())
    }

    /// What a rock of the tree says of itself.
    ///
    /// # Errors
    /// Fails with [`Error::NotInstalled`], and when the machine or the tree cannot be used.
    pub async fn info(&self, name: &RockName) -> Result<RockInfo> {
        const OPERATION: &str = "describe a rock";
        let site = Site::open(&self.site, &[], self.timeout).await?;
        let (success, answer) = site
            .ask(OPERATION, &["show", "--porcelain", name.as_str()])
            .await?;
        if !success {
            return Err(self.not_installed(&site, name));
        }
        parse::show(&answer.text)
            .ok_or_else(|| site.senseless(OPERATION, "it names no rock", &answer.log))
    }

    /// The rocks of the servers whose names contain this text, oldest version first.
    ///
    /// # Errors
    /// Fails with [`Error::ServerUnreachable`] when nothing was found and a server could not be read,
    /// and when the machine or the tree cannot be used.
    pub async fn search(&self, name: &RockName) -> Result<Vec<Found>> {
        let site = Site::open(&self.site, &self.servers, self.timeout).await?;
        self.found(&site, name, name.as_str()).await
    }

    /// The servers in use.
    pub(crate) fn servers(&self) -> &[RocksServer] {
        &self.servers
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn found(&self, site: &Site<'_>, name: &RockName, request: &str) -> Result<Vec<Found>> {
        let (_, answer) = site
            .ask("search rocks", &["search", "--porcelain", name.as_str()])
            .await?;
        let mut found = parse::search(&answer.text);
        let unreachable = unreachable(answer.log.as_str());
        if found.is_empty() && !unreachable.is_empty() {
            return Err(Error::ServerUnreachable {
                request: request.to_owned(),
                unreachable: Unreachable(unreachable),
                log: answer.log,
            });
        }
        for found in &mut found {
            found.server = site.server_of(&found.server);
        }
        found.sort_by(|a, b| a.rock.cmp(&b.rock));
        Ok(found)
    }

    /// The version to give LuaRocks, which itself understands none or an exact one only.
    async fn version_for(&self, site: &Site<'_>, request: &RockRequest) -> Result<String> {
        if request.constraints.is_empty() {
            return Ok(String::new());
        }
        if let Some(version) = request.constraints.exact() {
            return Ok(version.to_string());
        }
        let shown = request.to_string();
        let found = self.found(site, &request.name, &shown).await?;
        let best = found
            .into_iter()
            .rfind(|found| request.accepts(&found.rock))
            .ok_or_else(|| Error::NoSuchRock {
                request: shown,
                lua_version: self.site.lua_version.clone(),
                servers: Servers(site.servers()),
                log: crate::Log::default(),
            })?;
        Ok(best.rock.version.to_string())
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

    fn attempt<'s>(&'s self, site: &'s Site<'_>, request: &'s str) -> Attempt<'s> {
        Attempt {
            machine: site.machine(),
            tree: &self.site.tree,
            lua_version: &self.site.lua_version,
            request,
            servers: site.servers(),
            free: None,
        }
    }

    fn not_installed(&self, site: &Site<'_>, name: &RockName) -> Error {
        Error::NotInstalled {
            rock: name.to_string(),
            tree: self.site.tree.clone(),
            machine: site.machine().to_owned(),
        }
    }

    /// Fills a report from the answer of a change, and checks that everything is in its place.
    fn report_change(
        &self,
        site: &Site<'_>,
        before: &BTreeSet<Rock>,
        wanted: &[&RockRequest],
        answer: &Answer,
        report: &mut InstallReport,
    ) -> Result<()> {
        let misplaced = |request: &str, missing: String| Error::Misplaced {
            request: request.to_owned(),
            lua_version: self.site.lua_version.clone(),
            missing,
            log: answer.log.clone(),
        };
        let after = rocks(answer);
        for request in wanted {
            if !after.iter().any(|rock| request.accepts(rock)) {
                return Err(misplaced(&request.to_string(), request.to_string()));
            }
        }
        let files: BTreeSet<_> = answer
            .records()
            .filter(|record| record.name == "file")
            .map(|record| record.text())
            .collect();
        let origins: BTreeMap<_, _> = parse::origins(answer.log.as_str())
            .into_iter()
            .map(|found| (found.rock.clone(), found))
            .collect();
        for (rock, manifest) in manifests(answer) {
            let modules = parse::rock_manifest(&manifest).map_err(|reason| {
                let reason = format!("the manifest of {rock}: {reason}");
                site.senseless("install rocks", &reason, &answer.log)
            })?;
            let lua = modules.lua.iter().map(|file| ("share", file));
            let native = modules.native.iter().map(|file| ("lib", file));
            for (place, file) in lua.chain(native) {
                let path = format!("{place}/lua/{}/{file}", self.site.lua_version);
                if !files.contains(path.as_str()) {
                    return Err(misplaced(&rock.to_string(), path));
                }
            }
            let origin = origins.get(&rock);
            report.installed.push(InstalledRock {
                requested: wanted.iter().any(|request| request.accepts(&rock)),
                form: origin.map(|found| found.form),
                server: origin.map(|found| site.server_of(&found.server)),
                native: !modules.native.is_empty(),
                modules: modules.lua.len() + modules.native.len(),
                rock,
            });
        }
        report.replaced = before.difference(&after).cloned().collect();
        Ok(())
    }
}

/// The rocks of the tree.
fn rocks(answer: &Answer) -> BTreeSet<Rock> {
    answer
        .records()
        .filter(|record| record.name == "rock")
        .filter_map(|record| record.rock())
        .collect()
}

/// Where a change failed.
#[derive(Clone, Copy)]
struct Failed {
    step: usize,
    /// Whether LuaRocks reported success, but the rock is not there.
    misplaced: bool,
}

impl Failed {
    fn of(answer: &Answer) -> Option<Self> {
        let record = answer
            .records()
            .find(|record| matches!(record.name, "failed" | "misplaced"))?;
        Some(Self {
            step: record.field(0).parse().unwrap_or_default(),
            misplaced: record.name == "misplaced",
        })
    }
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
