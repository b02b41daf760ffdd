//! What came of an installation.

use std::collections::{BTreeMap, BTreeSet};

use crate::curator::{Failed, rocks};
use crate::install::{File, OPERATION};
use crate::luarocks::{Answer, Site};
use crate::parse::{self, Record};
use crate::{Curator, Error, InstallReport, InstalledRock, Plan, Result, Rock};

impl Curator {
    pub(crate) fn failure(
        &self,
        site: &Site<'_>,
        request: &str,
        failed: Failed,
        answer: Answer,
    ) -> Error {
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
    pub(crate) fn report_change(
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
