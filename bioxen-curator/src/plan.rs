//! What an installation will do, before it does it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use crate::error::Servers;
use crate::index::{Index, Offer};
use crate::resolve::{Cause, Conflict, Known, Stop, resolve};
use crate::rockspec::{External, Rockspec};
use crate::{Error, Form, Log, Result, Rock, RockName, RockRequest, RockVersion};

/// What an installation will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// The Lua version of the tree.
    pub lua_version: String,
    /// The rocks that will be installed, each after those that it needs.
    pub steps: Vec<PlanStep>,
    /// The rocks that were asked for and are there already.
    pub present: Vec<Rock>,
    /// The rocks that will give way to another version of themselves.
    pub replaced: Vec<Rock>,
}

/// A rock that will be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlanStep {
    /// The rock.
    pub rock: Rock,
    /// Whether it was asked for. Otherwise another rock needs it.
    pub requested: bool,
    /// The form that it comes in.
    pub form: Form,
    /// Whether its rockspec names code to compile.
    pub native: bool,
    /// The server that it comes from.
    pub server: String,
    /// The file that holds it.
    pub file: String,
    /// What it needs, as its rockspec writes it.
    pub needs: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Display for Plan {
    /// A line for each rock: `install alpha 1.0-1 from /srv/rocks (needs beta >= 1.0)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let verb = match (step.form, step.native) {
                (Form::Source, true) => "build",
                _ => "install",
            };
            write!(f, "{verb} {} from {}", step.rock, step.server)?;
            if !step.needs.is_empty() {
                write!(f, " (needs {})", step.needs.join("; "))?;
            }
            writeln!(f)?;
        }
        for rock in &self.replaced {
            writeln!(f, "replace {rock}")?;
        }
        for rock in &self.present {
            writeln!(f, "keep {rock}")?;
        }
        Ok(())
    }
}

/// The rocks of a tree, with what they need.
pub(crate) type Installed = BTreeMap<RockName, (RockVersion, Vec<RockRequest>)>;

/// A plan, and where its files are.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) offers: Vec<Offer>,
    /// The libraries that rocks are built with, each with the rock.
    pub(crate) external: Vec<(Rock, External)>,
}

/// Chooses what has to be installed so that a tree answers the requests.
pub(crate) async fn plan(
    index: &Index,
    installed: &Installed,
    requests: &[RockRequest],
    renew: &BTreeSet<RockName>,
    lua_version: &str,
) -> Result<Planned> {
    let offers = index.versions();
    let provided = provided(lua_version);
    let mut specs: HashMap<(RockName, String), Rockspec> = HashMap::new();
    let mut needs = HashMap::new();
    let solution = loop {
        let known = Known {
            provided: &provided,
            offers: &offers,
            needs: &needs,
            installed,
            renew,
        };
        match resolve(&known, requests) {
            Ok(solution) => break solution,
            Err(Stop::Conflict(conflict)) => return Err(explain(*conflict, index, lua_version)),
            Err(Stop::Unread(rocks)) => {
                for rock in rocks {
                    let spec = index.rockspec(&rock).await?;
                    let key = (rock.name, rock.version.as_str().to_owned());
                    needs.insert(key.clone(), spec.needs.clone());
                    specs.insert(key, spec);
                }
            }
        }
    };
    let mut planned = Planned {
        plan: Plan {
            lua_version: lua_version.to_owned(),
            steps: Vec::new(),
            present: Vec::new(),
            replaced: Vec::new(),
        },
        offers: Vec::new(),
        external: Vec::new(),
    };
    for rock in solution {
        let requested = requests.iter().any(|request| request.accepts(&rock));
        match installed.get(&rock.name) {
            Some((there, _)) if *there == rock.version => {
                if requested {
                    planned.plan.present.push(rock);
                }
                continue;
            }
            Some((there, _)) => planned.plan.replaced.push(Rock {
                name: rock.name.clone(),
                version: there.clone(),
            }),
            None => {}
        }
        let spec = specs.get(&(rock.name.clone(), rock.version.as_str().to_owned()));
        let (Some(offer), Some(spec)) = (index.best(&rock), spec) else {
            continue;
        };
        if offer.form() == Form::Source {
            let external = spec.external.iter().cloned();
            planned
                .external
                .extend(external.map(|lib| (rock.clone(), lib)));
        }
        planned.plan.steps.push(PlanStep {
            requested,
            form: offer.form(),
            native: spec.native,
            server: index.label(offer).to_owned(),
            file: offer.file(),
            needs: spec.info.dependencies.clone(),
            rock,
        });
        planned.offers.push(offer.clone());
    }
    planned.plan.present.sort();
    planned.plan.replaced.sort();
    Ok(planned)
}

/// The rocks that a Lua of this version brings along, as LuaRocks counts them.
pub(crate) fn provided(lua_version: &str) -> BTreeMap<RockName, RockVersion> {
    let bundled = match lua_version {
        "5.2" => Some(("bit32", "5.2-1")),
        "5.3" | "5.4" | "5.5" => Some(("utf8", "5.3-1")),
        _ => None,
    };
    let lua = format!("{lua_version}-1");
    [("lua", lua.as_str())]
        .into_iter()
        .chain(bundled)
        .filter_map(|(name, version)| {
            Some((RockName::new(name).ok()?, RockVersion::new(version).ok()?))
        })
        .collect()
}

/// Tells why nothing fits.
fn explain(conflict: Conflict, index: &Index, lua_version: &str) -> Error {
    let Conflict { need, by, cause } = conflict;
    let lua_version = lua_version.to_owned();
    let servers = Servers(index.servers());
    let dead = index.dead();
    let asked = match index.similar(&need.name) {
        Some(name) => format!("{need} (did you mean {name}?)"),
        None => need.to_string(),
    };
    match (cause, by, dead) {
        (Cause::Absent(_), by, Some(unreachable)) => Error::ServerUnreachable {
            request: match by {
                Some(by) => format!("{need} (needed by {by})"),
                None => asked,
            },
            unreachable,
            log: Log::default(),
        },
        (Cause::Absent(_), None, None) => Error::NoSuchRock {
            request: asked,
            lua_version,
            servers,
            log: Log::default(),
        },
        (Cause::Absent(versions), Some(by), None) => Error::MissingDependency {
            request: by.to_string(),
            dependency: need.to_string(),
            servers,
            offered: versions.iter().map(RockVersion::to_string).collect(),
            log: Log::default(),
        },
        (Cause::Provided(_), by, _) if need.name.as_str() == "lua" => Error::WrongLua {
            request: by.map_or_else(|| "the request".into(), |by| by.to_string()),
            needs: need.to_string(),
            lua_version,
            log: Log::default(),
        },
        (Cause::Provided(version) | Cause::Taken(version), by, _) => Error::Conflict {
            need: need.to_string(),
            by: by.map_or_else(|| "the request".into(), |by| by.to_string()),
            taken: format!("{} {version}", need.name),
        },
        (Cause::TooHard, ..) => Error::Conflict {
            taken: "no version that was tried in time".into(),
            by: "the request".into(),
            need: need.to_string(),
        },
    }
}
