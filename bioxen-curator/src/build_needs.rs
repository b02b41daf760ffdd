//! What rocks are built with has to be there before anything is built.

use crate::install::OPERATION;
use crate::luarocks::Site;
use crate::plan::{Plan, PlanStep};
use crate::rockspec::External;
use crate::{Curator, Error, Result, Rock, doctor, remedy};

impl Curator {
    /// Looks whether the machine has what the rocks are built with, before anything is built.
    pub(crate) async fn check_tools(
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
}
