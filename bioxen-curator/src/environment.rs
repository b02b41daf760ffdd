//! Sets of rocks beside each other in one VM.

use std::sync::Arc;

use bioxen_vm_core::{PackageSite, Script, lua};

use crate::luarocks::Answer;
use crate::{Curator, Error, Result};

/// A tree of its own within a VM, by name.
///
/// A program that runs with an environment sees its rocks and those that come with the VM's Lua, but
/// neither those of the VM's own tree nor those of another environment. The tree is
/// `envs/<name>` in the VM's own.
///
/// ```no_run
/// # use bioxen_curator::{Curator, Result};
/// # use bioxen_vm_core::{LuaVm, Script};
/// # async fn example(vm: &dyn LuaVm, curator: &Curator) -> Result<()> {
/// let old = curator.environment("old")?;
/// old.curator().install_package("lpeg < 1").await?;
/// let script = old.activate(Script::new("print(require('lpeg').version())"));
/// let outcome = vm.execute(script).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Environment {
    name: String,
    curator: Curator,
}

impl Curator {
    /// The environment of this name, which need not be there yet: installing something in it makes
    /// it.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when the name is not made of 1 to 63 letters, digits, `_` and
    /// `-`, or begins with `-`.
    pub fn environment(&self, name: &str) -> Result<Environment> {
        let fits = (1..=63).contains(&name.len())
            && !name.starts_with('-')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !fits {
            return Err(Error::Invalid(format!(
                "{name:?} cannot be the name of an environment; use 1 to 63 letters, digits, '_' \
                 and '-', which is not the first"
            )));
        }
        let mut curator = self.clone().with_turn(Arc::default());
        let PackageSite {
            runner,
            lua_version,
            tree,
            ..
        } = self.site();
        let tree = format!("{tree}/envs/{name}");
        curator.site = PackageSite::new(Arc::clone(runner), lua_version.clone(), tree);
        Ok(Environment {
            name: name.to_owned(),
            curator,
        })
    }

    /// The environment of this name, which must be there.
    ///
    /// # Errors
    /// Fails with [`Error::NoEnvironment`], which names those that are there, as
    /// [`environment`](Self::environment), and when the machine cannot be asked.
    pub async fn existing_environment(&self, name: &str) -> Result<Environment> {
        let environment = self.environment(name)?;
        let there = self.environments().await?;
        if there.iter().any(|known| known == name) {
            return Ok(environment);
        }
        Err(Error::NoEnvironment {
            name: name.to_owned(),
            machine: self.open()?.machine().to_owned(),
            there,
        })
    }

    /// The names of the environments that are there, sorted.
    ///
    /// # Errors
    /// Fails when the machine cannot be asked.
    pub async fn environments(&self) -> Result<Vec<String>> {
        let site = self.open()?;
        let answer = site.run("list environments", "environments", &[]).await?;
        Ok(names(&answer))
    }
}

impl Environment {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The curator of its rocks.
    #[must_use]
    pub fn curator(&self) -> &Curator {
        &self.curator
    }

    /// The environment variables that let Lua find its rocks and no others.
    #[must_use]
    pub fn variables(&self) -> [(String, String); 2] {
        let site = self.curator.site();
        lua::search_path(&site.lua_version, &site.tree)
    }

    /// Lets a program run with it.
    #[must_use]
    pub fn activate(&self, script: Script) -> Script {
        self.variables()
            .into_iter()
            .fold(script, |script, (name, value)| script.with_env(name, value))
    }

    /// Removes it with all its rocks.
    ///
    /// # Errors
    /// Fails with [`Error::NoEnvironment`], which names those that are there, and when the machine or
    /// the tree cannot be used.
    pub async fn remove(&self) -> Result<()> {
        let _turn = self.curator.turn.lock().await;
        let site = self.curator.open()?;
        let answer = site.run("remove an environment", "drop", &[]).await?;
        if answer.has("dropped") {
            return Ok(());
        }
        Err(Error::NoEnvironment {
            name: self.name.clone(),
            machine: site.machine().to_owned(),
            there: names(&answer),
        })
    }
}

/// The environments that an answer names.
fn names(answer: &Answer) -> Vec<String> {
    let records = answer.records();
    let named = records.filter(|record| record.name == "environment");
    named.map(|record| record.field(0).to_owned()).collect()
}
