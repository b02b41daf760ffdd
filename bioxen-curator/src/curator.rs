//! Takes care of the rocks of one tree: what is there, and what goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen_vm_core::{PackageSite, Runner};
use bytes::Bytes;
use tokio::sync::{Mutex, broadcast};

use crate::builds::Builds;
use crate::diagnose::Attempt;
use crate::evaluate::Interpreter;
use crate::fetch::Fetcher;
use crate::index::Index;
use crate::luarocks::{Answer, Changed, Site, Step};
use crate::parse;
use crate::sources::packer;
use crate::{
    Cache, Error, Found, Offered, Progress, RemoveReport, Result, Rock, RockInfo, RockName,
    RockRequest, RocksServer, UndoReport, Verified,
};

/// How long an operation may take unless the curator is given another time: 10 minutes.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// How often a change is planned anew because somebody else was faster.
pub(crate) const ATTEMPTS: usize = 20;

/// How many steps may be told before a slow subscriber misses the oldest.
const PROGRESS_KEPT: usize = 256;

/// Takes care of the rocks of one tree, on the machine that holds it.
///
/// Changes of one tree wait for each other, between the clones of a curator and between processes.
/// Each change is complete or undone: when a rock cannot be installed, everything that came before
/// it in the same call is taken back too.
#[derive(Debug, Clone)]
pub struct Curator {
    pub(crate) site: PackageSite,
    pub(crate) servers: Vec<RocksServer>,
    pub(crate) timeout: Duration,
    pub(crate) cache: Option<Cache>,
    pub(crate) builds: Option<Builds>,
    pub(crate) progress: broadcast::Sender<Progress>,
    pub(crate) turn: Arc<Mutex<()>>,
}

impl Curator {
    /// Makes a curator that asks the servers that the machine's LuaRocks is set up with, which are
    /// `luarocks.org` and its mirrors unless somebody changed it.
    #[must_use]
    pub fn new(site: PackageSite) -> Self {
        Self {
            site,
            servers: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            cache: None,
            builds: None,
            progress: broadcast::channel(PROGRESS_KEPT).0,
            turn: Arc::default(),
        }
    }

    /// Asks these servers, in this order, and no others. The newest version wins, wherever it is;
    /// a version that several have comes from the first of them.
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

    /// Downloads on this machine and keeps what was downloaded, for all curators with this cache.
    /// Without one, the machine of the tree downloads.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Shares what was built with other curators, see [`Builds`].
    #[must_use]
    pub fn with_builds(mut self, builds: Builds) -> Self {
        self.builds = Some(builds);
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

    /// Hears what goes on from now on. Whoever listens too slowly misses the oldest of 256 steps.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Progress> {
        self.progress.subscribe()
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
        let site = self.open()?;
        for _ in 0..ATTEMPTS {
            let known = site.list(OPERATION).await?;
            let before = rocks(&known);
            let mut steps = Vec::new();
            for name in names {
                let rock = before.iter().find(|rock| rock.name == *name);
                let rock = rock.ok_or_else(|| self.not_installed(&site, name, &before))?;
                steps.push(Step {
                    verb: if force { "force-remove" } else { "remove" },
                    rock: rock.clone(),
                    sha256: String::new(),
                    file: String::new(),
                });
            }
            let changed = site.change(OPERATION, &known, Bytes::new(), &steps).await?;
            let Changed::Tried(answer) = changed else {
                continue;
            };
            if let Some(failed) = Failed::of(&answer) {
                let name = steps
                    .get(failed.step)
                    .map(|step| step.rock.name.to_string());
                let request = name.unwrap_or_default();
                let attempt = self.attempt(&site, &request);
                return Err(attempt.removal_failure(&before, answer.log));
            }
            let after = rocks(&answer);
            return Ok(RemoveReport {
                removed: before.difference(&after).cloned().collect(),
                duration: started.elapsed(),
                log: answer.log,
            });
        }
        Err(self.busy(&site))
    }

    /// Returns to the rocks that were there before the last change. Doing it twice returns to those
    /// that were there at first.
    ///
    /// # Errors
    /// Fails with [`Error::NothingToUndo`], and when the machine or the tree cannot be used.
    ///
    /// # Cancel safety
    /// As [`install`](Self::install).
    pub async fn undo(&self) -> Result<UndoReport> {
        const OPERATION: &str = "return to the previous rocks";
        let _turn = self.turn.lock().await;
        let site = self.open()?;
        let answer = site.run(OPERATION, "back", &[]).await?;
        let (mut was, mut now) = (BTreeSet::new(), BTreeSet::new());
        let mut is_now = false;
        for record in answer.records() {
            is_now |= record.name == "now";
            if let ("rock", Some(rock)) = (record.name, record.rock()) {
                if is_now { &mut now } else { &mut was }.insert(rock);
            }
        }
        Ok(UndoReport {
            removed: was.difference(&now).cloned().collect(),
            restored: now.difference(&was).cloned().collect(),
        })
    }

    /// Compares the files of the tree with what curators have put there, by their SHA-256, and its rocks
    /// with a lock. Whatever else was in the tree when a curator first changed it counts as put there.
    ///
    /// # Errors
    /// Fails when the machine cannot be asked or a broken tree cannot be repaired.
    pub async fn verify(&self, lock: Option<&crate::Lock>) -> Result<Verified> {
        let site = self.open()?;
        let answer = site.run("verify rocks", "sums", &[]).await?;
        let sums = |name: &'static str| -> BTreeSet<(&str, &str)> {
            let lines = answer.records().filter(move |record| record.name == name);
            lines
                .filter_map(|record| record.text().split_once("  "))
                .map(|(hash, file)| (file, hash))
                .collect()
        };
        let (was, is) = (sums("was"), sums("is"));
        let names = |sums: &BTreeSet<(&str, &str)>| -> BTreeSet<String> {
            sums.iter().map(|(file, _)| (*file).to_owned()).collect()
        };
        let (were, are) = (names(&was), names(&is));
        let differing = names(&was.difference(&is).copied().collect());
        let there = rocks(&answer);
        let locked: BTreeSet<Rock> = lock.into_iter().flat_map(crate::Lock::rocks).collect();
        Ok(Verified {
            unchanged: was.intersection(&is).count(),
            changed: differing.intersection(&are).cloned().collect(),
            missing: were.difference(&are).cloned().collect(),
            foreign: are.difference(&were).cloned().collect(),
            unlocked: locked.difference(&there).cloned().collect(),
            extra: match lock {
                Some(_) => there.difference(&locked).cloned().collect(),
                None => Vec::new(),
            },
        })
    }

    /// The rocks of the tree, sorted. Needs no LuaRocks.
    ///
    /// # Errors
    /// Fails when the machine cannot be asked or a broken tree cannot be repaired.
    pub async fn list(&self) -> Result<Vec<Rock>> {
        let answer = self.open()?.list("list rocks").await?;
        Ok(rocks(&answer).into_iter().collect())
    }

    /// The rocks of the tree as requests, `alpha == 1.0-1` to a line, which
    /// [`RockRequest::read_all`] reads.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn export(&self) -> Result<String> {
        let rocks = self.list().await?.into_iter();
        Ok(rocks
            .map(|rock| format!("{}\n", RockRequest::from(rock)))
            .collect())
    }

    /// What a rock of the tree says of itself.
    ///
    /// # Errors
    /// Fails with [`Error::NotInstalled`], and when the machine or the tree cannot be used.
    pub async fn info(&self, name: &RockName) -> Result<RockInfo> {
        const OPERATION: &str = "describe a rock";
        let site = self.open()?;
        let (success, answer) = site
            .ask(OPERATION, &["show", "--porcelain", name.as_str()])
            .await?;
        if !success {
            let there = rocks(&site.list(OPERATION).await?);
            return Err(self.not_installed(&site, name, &there));
        }
        parse::show(&answer.text)
            .ok_or_else(|| site.senseless(OPERATION, "it names no rock", &answer.log))
    }

    /// What the servers have of a rock.
    ///
    /// # Errors
    /// Fails with [`Error::NoSuchRock`], and with [`Error::ServerUnreachable`] when a server could
    /// not be read that might have it.
    pub async fn offered(&self, request: &RockRequest) -> Result<Offered> {
        let site = self.open()?;
        let index = self.index(&site, "describe a rock").await?;
        let Some(offer) = index.newest(request) else {
            let log = crate::Log::default();
            return Err(match index.dead() {
                Some(unreachable) => Error::ServerUnreachable {
                    request: request.to_string(),
                    unreachable,
                    log,
                },
                None => Error::NoSuchRock {
                    request: request.to_string(),
                    lua_version: self.site.lua_version.clone(),
                    servers: crate::Servers(index.servers()),
                    log,
                },
            });
        };
        let info = index.rockspec(&offer.rock).await?.info;
        let versions = index.versions().remove(&request.name);
        Ok(Offered {
            info,
            server: index.label(offer).to_owned(),
            versions: versions.unwrap_or_default(),
        })
    }

    /// The rocks of the servers whose names contain this text, oldest version first.
    ///
    /// # Errors
    /// Fails with [`Error::ServerUnreachable`] when nothing was found and a server could not be read,
    /// and when the machine or the tree cannot be used.
    pub async fn search(&self, name: &RockName) -> Result<Vec<Found>> {
        let site = self.open()?;
        let index = self.index(&site, "search rocks").await?;
        let found = index.search(name.as_str());
        match index.dead() {
            Some(unreachable) if found.is_empty() => Err(Error::ServerUnreachable {
                request: name.to_string(),
                unreachable,
                log: crate::Log::default(),
            }),
            _ => Ok(found),
        }
    }

    pub(crate) fn open(&self) -> Result<Site<'_>> {
        Site::open(&self.site, self.timeout, &self.progress)
    }

    /// What the servers have for the machine of this tree.
    pub(crate) async fn index(&self, site: &Site<'_>, operation: &'static str) -> Result<Index> {
        let known = site.look(operation).await?;
        self.index_for(site, &known, operation).await
    }

    pub(crate) async fn index_for(
        &self,
        site: &Site<'_>,
        known: &Answer,
        operation: &'static str,
    ) -> Result<Index> {
        let servers = if self.servers.is_empty() {
            configured(site, operation).await?
        } else {
            self.servers.clone()
        };
        Index::read(
            &servers,
            self.fetcher(),
            self.interpreter(),
            &self.site.lua_version,
            &arch(known),
        )
        .await
    }

    /// Downloads where it is to be done.
    pub(crate) fn fetcher(&self) -> Fetcher {
        let runner = match &self.cache {
            Some(cache) => cache.runner(),
            None => &self.site.runner,
        };
        Fetcher {
            runner: Arc::clone(runner),
            timeout: self.timeout,
            cache: self.cache.clone(),
        }
    }

    /// Rockspecs run where their rocks will.
    pub(crate) fn interpreter(&self) -> Interpreter {
        Interpreter::new(&self.site.runner)
    }

    /// Packs rocks on this machine.
    pub(crate) fn packer(&self) -> Arc<dyn Runner> {
        packer(self.cache.as_ref())
    }

    pub(crate) fn attempt<'s>(&'s self, site: &'s Site<'_>, request: &'s str) -> Attempt<'s> {
        Attempt {
            machine: site.machine(),
            tree: &self.site.tree,
            lua_version: &self.site.lua_version,
            request,
            servers: self.servers.iter().map(RocksServer::to_string).collect(),
            free: None,
        }
    }

    pub(crate) fn busy(&self, site: &Site<'_>) -> Error {
        Error::Busy {
            tree: self.site.tree.clone(),
            machine: site.machine().to_owned(),
        }
    }

    pub(crate) fn not_installed(
        &self,
        site: &Site<'_>,
        name: &RockName,
        there: &BTreeSet<Rock>,
    ) -> Error {
        Error::NotInstalled {
            there: there.iter().map(|rock| rock.name.to_string()).collect(),
            rock: name.to_string(),
            tree: self.site.tree.clone(),
            machine: site.machine().to_owned(),
        }
    }
}

/// The servers that LuaRocks is set up with on the machine.
async fn configured(site: &Site<'_>, operation: &'static str) -> Result<Vec<RocksServer>> {
    let (_, answer) = site.ask(operation, &["config", "rocks_servers"]).await?;
    let servers = crate::lua_table::parse(&format!("servers = {}", answer.text.trim()));
    let servers = servers.map_err(|reason| {
        let reason = format!("its list of servers: {reason}");
        site.senseless(operation, &reason, &answer.log)
    })?;
    let text = |value: &crate::lua_table::Value| value.as_str().map(str::to_owned);
    let all = servers.get("servers").map(|list| list.items());
    Ok(all
        .unwrap_or_default()
        .iter()
        .map(|entry| match text(entry) {
            Some(url) => RocksServer::Url(url),
            None => RocksServer::Mirrors(entry.items().iter().filter_map(text).collect()),
        })
        .collect())
}

/// The kind of machine as LuaRocks calls it, `linux-x86_64`.
fn arch(known: &Answer) -> String {
    let machine = known.records().find(|record| record.name == "machine");
    machine.map_or_else(String::new, |record| {
        let system = match record.field(0) {
            "Darwin" => "macosx".to_owned(),
            other => other.to_ascii_lowercase(),
        };
        format!("{system}-{}", record.field(1))
    })
}

/// The rocks of the tree.
pub(crate) fn rocks(answer: &Answer) -> BTreeSet<Rock> {
    answer
        .records()
        .filter(|record| record.name == "rock")
        .filter_map(|record| record.rock())
        .collect()
}

/// Where a change failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed {
    pub(crate) step: usize,
    /// Whether LuaRocks reported success, but the rock is not there.
    pub(crate) misplaced: bool,
}

impl Failed {
    pub(crate) fn of(answer: &Answer) -> Option<Self> {
        let record = answer
            .records()
            .find(|record| matches!(record.name, "failed" | "misplaced"))?;
        Some(Self {
            step: record.field(0).parse().unwrap_or_default(),
            misplaced: record.name == "misplaced",
        })
    }
}
