//! Installs rocks: plans, gathers their files and changes the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::curator::{ATTEMPTS, Failed, rocks};
use crate::evaluate::Interpreter;
use crate::hash::sha256;
use crate::index::{Index, Offer};
use crate::luarocks::{Answer, Changed, Site, Step};
use crate::plan::{self, Installed, Plan, Planned};
use crate::rockspec::{External, Rockspec};
use crate::{
    Curator, Error, InstallReport, Progress, Result, Rock, RockName, RockRequest, sources, tar,
};

pub(crate) const OPERATION: &str = "install rocks";

/// What is to be done, with the files that it takes.
pub(crate) struct Ready {
    pub(crate) plan: Plan,
    pub(crate) files: Vec<File>,
    pub(crate) external: Vec<(Rock, External)>,
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
        let there: BTreeSet<Rock> = self.list().await?.into_iter().collect();
        let site = self.open()?;
        for name in names {
            if there.iter().all(|rock| rock.name != *name) {
                return Err(self.not_installed(&site, name, &there));
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

    #[tracing::instrument(name = "install", skip_all, fields(tree = self.site.tree, rocks = requests.len()))]
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
            let mut planned = self
                .planned(&site, &known, &mut index, requests, renew)
                .await?;
            site.tell(Progress::Planned(planned.plan.clone()));
            let mut files = Vec::new();
            for (step, offer) in planned.plan.steps.iter_mut().zip(&planned.offers) {
                if let Some(index) = &index {
                    let (file, content) = self.fetched(index, offer).await?;
                    site.tell(Progress::Fetched {
                        file: file.clone(),
                        bytes: content.len() as u64,
                    });
                    step.file = file;
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
        let installed = installed(known, &self.interpreter()).await;
        plan::plan(index, &installed, requests, renew, lua_version).await
    }

    /// The file that an offer is installed from. With a cache, sources are fetched on this machine
    /// too, where it has the programs for that.
    async fn fetched(&self, index: &Index, offer: &Offer) -> Result<(String, Bytes)> {
        if self.cache.is_some() || offer.is_complete() {
            match sources::complete(index, offer, self.cache.as_ref()).await {
                Ok(complete) => return Ok((complete.file, complete.content)),
                Err(Error::MissingProgram { program, .. }) if !offer.is_complete() => {
                    tracing::debug!(program, "the machine of the tree has to fetch the sources");
                }
                Err(error) => return Err(error),
            }
        }
        let content = index.content(offer).await?;
        index.open(offer, &content).await?;
        Ok((offer.file(), content))
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
}

/// The rocks of the tree, with what their rockspecs say that they need.
async fn installed(known: &Answer, lua: &Interpreter) -> Installed {
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
        let needs = match specs.get(&rock) {
            Some(text) => Rockspec::read(text, lua).await.map(|spec| spec.needs),
            None => Ok(Vec::new()),
        };
        let needs = needs.unwrap_or_default();
        // Of several versions, the newest, which comes last.
        installed.insert(rock.name, (rock.version, needs));
    }
    installed
}
