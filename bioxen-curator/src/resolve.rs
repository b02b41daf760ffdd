//! Chooses versions that fit together. Knows nothing of servers and machines.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::{Rock, RockName, RockRequest, RockVersion};

/// What is known when versions are chosen.
#[derive(Debug)]
pub(crate) struct Known<'k> {
    /// The versions that the machine's Lua stands for, by name: `lua`, and what it brings along.
    pub(crate) provided: &'k BTreeMap<RockName, RockVersion>,
    /// The versions that servers have, oldest first.
    pub(crate) offers: &'k BTreeMap<RockName, Vec<RockVersion>>,
    /// What the offered rocks need, as far as their rockspecs have been read.
    pub(crate) needs: &'k HashMap<(RockName, String), Vec<RockRequest>>,
    /// The rocks of the tree and what they need.
    pub(crate) installed: &'k BTreeMap<RockName, (RockVersion, Vec<RockRequest>)>,
    /// The rocks that are to be as new as possible. Others stay where what is there will do.
    pub(crate) renew: &'k BTreeSet<RockName>,
}

/// The version of each rock that is needed, in the order in which they can be installed.
pub(crate) type Solution = Vec<Rock>;

/// Why there is no solution yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The rockspecs of these have to be read first.
    Unread(Vec<Rock>),
    /// It cannot be done.
    Conflict(Box<Conflict>),
}

/// Why there is no solution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// What is needed.
    pub(crate) need: RockRequest,
    /// By which rock; by the user when `None`.
    pub(crate) by: Option<Rock>,
    pub(crate) cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No server has it, though some have these versions.
    Absent(Vec<RockVersion>),
    /// The Lua of the tree, or what it brings along, is another.
    Provided(RockVersion),
    /// Something else needs this other version.
    Taken(RockVersion),
    /// Trying all that fits together would take too long.
    TooHard,
}

/// How many choices are tried before giving up.
const BUDGET: u32 = 20_000;

#[derive(Debug, Clone)]
struct Need {
    request: RockRequest,
    by: Option<Rock>,
}

/// Chooses the newest versions that fit together.
pub(crate) fn resolve(known: &Known<'_>, requests: &[RockRequest]) -> Result<Solution, Stop> {
    let todo = requests
        .iter()
        .map(|request| Need {
            request: request.clone(),
            by: None,
        })
        .collect();
    let chosen = known.choose(BTreeMap::new(), todo, &mut { BUDGET })?;
    Ok(known.in_order(&chosen, requests))
}

impl Known<'_> {
    fn choose(
        &self,
        chosen: BTreeMap<RockName, RockVersion>,
        mut todo: VecDeque<Need>,
        budget: &mut u32,
    ) -> Result<BTreeMap<RockName, RockVersion>, Stop> {
        let need = loop {
            let Some(need) = todo.pop_front() else {
                return self.check_the_rest(chosen);
            };
            let name = &need.request.name;
            let (fixed, cause): (_, fn(RockVersion) -> Cause) = match self.provided.get(name) {
                Some(version) => (Some(version), Cause::Provided),
                None => (chosen.get(name), Cause::Taken),
            };
            match fixed {
                Some(version) if need.request.constraints.accept(version) => {}
                Some(version) => return Err(conflict(need, cause(version.clone()))),
                None => break need,
            }
        };
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return Err(conflict(need, Cause::TooHard));
        }
        let mut first = None;
        for version in self.candidates(&need.request) {
            let rock = Rock {
                name: need.request.name.clone(),
                version: version.clone(),
            };
            let mut todo = todo.clone();
            if !self.is_installed(&rock) {
                let Some(needs) = self.needs_of(&rock) else {
                    return Err(Stop::Unread(self.unread(rock, &todo)));
                };
                todo.extend(needs.iter().map(|request| Need {
                    request: request.clone(),
                    by: Some(rock.clone()),
                }));
            }
            let mut chosen = chosen.clone();
            chosen.insert(rock.name, rock.version);
            match self.choose(chosen, todo, budget) {
                Err(Stop::Conflict(conflict)) if conflict.cause != Cause::TooHard => {
                    first.get_or_insert(conflict);
                }
                decided => return decided,
            }
        }
        Err(match first {
            Some(conflict) => Stop::Conflict(conflict),
            None => {
                let versions = self.offers.get(&need.request.name);
                let versions = versions.cloned().unwrap_or_default();
                conflict(need, Cause::Absent(versions))
            }
        })
    }

    /// The versions that answer a request, the best first.
    fn candidates<'s>(&'s self, request: &'s RockRequest) -> Vec<&'s RockVersion> {
        let name = &request.name;
        let offered = self.offers.get(name).into_iter().flatten().rev();
        let installed = self.installed.get(name).map(|(version, _)| version);
        let mut all: Vec<_> = offered
            .filter(|version| request.constraints.accept(version))
            .collect();
        let there = installed.filter(|version| request.constraints.accept(version));
        if let Some(there) = there {
            let place = if self.renew.contains(name) {
                // What is there stays unless something newer is offered.
                all.iter().take_while(|version| **version > there).count()
            } else {
                0
            };
            all.retain(|version| *version != there);
            all.insert(place.min(all.len()), there);
        }
        all
    }

    fn is_installed(&self, rock: &Rock) -> bool {
        let installed = self.installed.get(&rock.name);
        installed.is_some_and(|(version, _)| *version == rock.version)
    }

    fn needs_of(&self, rock: &Rock) -> Option<&Vec<RockRequest>> {
        self.needs
            .get(&(rock.name.clone(), rock.version.as_str().to_owned()))
    }

    /// The rockspecs to read now: this one, and those that will be asked for anyway.
    fn unread(&self, rock: Rock, todo: &VecDeque<Need>) -> Vec<Rock> {
        let mut all = vec![rock];
        for need in todo {
            let request = &need.request;
            if self.provided.contains_key(&request.name)
                || all.iter().any(|rock| rock.name == request.name)
            {
                continue;
            }
            let rock = self.candidates(request).first().map(|version| Rock {
                name: request.name.clone(),
                version: (*version).clone(),
            });
            all.extend(
                rock.filter(|rock| !self.is_installed(rock) && self.needs_of(rock).is_none()),
            );
        }
        all
    }

    /// Refuses what would break rocks of the tree that stay.
    fn check_the_rest(
        &self,
        chosen: BTreeMap<RockName, RockVersion>,
    ) -> Result<BTreeMap<RockName, RockVersion>, Stop> {
        for (name, (version, needs)) in self.installed {
            if chosen.get(name).is_some_and(|chosen| chosen != version) {
                continue;
            }
            for need in needs {
                let Some(taken) = chosen.get(&need.name) else {
                    continue;
                };
                // What was broken before is no reason to refuse.
                let was = self.installed.get(&need.name);
                let held = was.is_some_and(|(version, _)| need.constraints.accept(version));
                if held && !need.constraints.accept(taken) {
                    let by = Rock {
                        name: name.clone(),
                        version: version.clone(),
                    };
                    let need = Need {
                        request: need.clone(),
                        by: Some(by),
                    };
                    return Err(conflict(need, Cause::Taken(taken.clone())));
                }
            }
        }
        Ok(chosen)
    }

    /// What was chosen, each rock after those that it needs.
    fn in_order(
        &self,
        chosen: &BTreeMap<RockName, RockVersion>,
        requests: &[RockRequest],
    ) -> Solution {
        let mut done = Vec::new();
        let mut seen = BTreeSet::new();
        for request in requests {
            self.visit(&request.name, chosen, &mut seen, &mut done);
        }
        done
    }

    fn visit(
        &self,
        name: &RockName,
        chosen: &BTreeMap<RockName, RockVersion>,
        seen: &mut BTreeSet<RockName>,
        done: &mut Solution,
    ) {
        let Some(version) = chosen.get(name) else {
            return;
        };
        if !seen.insert(name.clone()) {
            return;
        }
        let rock = Rock {
            name: name.clone(),
            version: version.clone(),
        };
        for need in self.needs_of(&rock).into_iter().flatten() {
            self.visit(&need.name, chosen, seen, done);
        }
        done.push(rock);
    }
}

fn conflict(need: Need, cause: Cause) -> Stop {
    Stop::Conflict(Box::new(Conflict {
        need: need.request,
        by: need.by,
        cause,
    }))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
