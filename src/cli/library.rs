//! The rocks that programs find instead of those of their VM: an environment, or a tree of this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use bioxen_curator::{Curator, Environment, Error, LuaVmPackages as _};
use bioxen_vm_core::{Command, LuaVm, PackageSite, Runner as _, Value, lua};
use serde_json::json;

use super::ground::Ground;
use super::pkg::{LUA, machine, shell_word, tree_of};

/// How long an interpreter may take to say which it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// The VM type whose VMs can see a tree of this machine.
const LOCAL: &str = "basic";

/// Which rocks, as the user says it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Library {
    /// Let programs find the rocks of this environment, and no others but those of the system. It is
    /// one of the VM, where --package installs; for a VM of this machine it is one of the tree
    #[arg(long, value_name = "NAME")]
    pub(super) env: Option<String>,

    /// Let programs of a VM of this machine find the rocks that `bioxen pkg install` has put into
    /// this tree [default with --env: bioxen/rocks-LUA among the data of this user]
    #[arg(long, value_name = "FOLDER")]
    pub(super) tree: Option<PathBuf>,
}

impl Library {
    fn is_named(&self) -> bool {
        self.env.is_some() || self.tree.is_some()
    }

    /// Whether it is of this machine, not of a VM of this type.
    fn is_local(&self, vm_type: &str) -> bool {
        self.is_named() && vm_type == LOCAL
    }

    /// Sees to it before a VM of this type and configuration is made that its programs may read the
    /// rocks.
    pub(super) async fn open(
        &self,
        vm_type: &str,
        config: &mut Value,
        installs: bool,
    ) -> anyhow::Result<()> {
        if !self.is_local(vm_type) {
            ensure!(
                self.tree.is_none(),
                "--tree is a tree of this machine, which VMs of type {vm_type} do not see; --package installs \
                 rocks in the VM, and --env NAME takes those of an environment there"
            );
            return Ok(());
        }
        ensure!(
            !installs,
            "--package installs rocks in the VM, where programs look for none with --env or --tree; \
             install them with `bioxen pkg install` and the same options"
        );
        let version = version_of(config).await;
        let Value::Object(config) = config else {
            bail!("the configuration of VM type {LOCAL} is no table");
        };
        let tree = self.local_tree(&version)?;
        if !config.get("read").is_some_and(Value::is_array) {
            config.insert("read".into(), json!([]));
        }
        if let Some(Value::Array(read)) = config.get_mut("read") {
            read.push(Value::from(self.existing(&tree, &version).await?));
        }
        Ok(())
    }

    fn local_tree(&self, version: &str) -> anyhow::Result<String> {
        let tree = tree_of(self.tree.as_deref(), version)?;
        let said = self.tree.as_deref().unwrap_or(Path::new(&tree)).display();
        ensure!(
            Path::new(&tree).is_dir(),
            "there is no tree {said}; `bioxen pkg{} install ROCK` makes one",
            self.target(version)
        );
        Ok(tree)
    }

    /// What names the tree of this machine to `bioxen pkg`.
    fn target(&self, version: &str) -> String {
        let tree = self.tree.as_ref();
        let tree = tree.map(|tree| format!(" --tree {}", shell_word(&tree.display().to_string())));
        let lua = (version != LUA).then(|| format!(" --lua {version}"));
        tree.unwrap_or_default() + &lua.unwrap_or_default()
    }

    /// The folder of the rocks in a tree of this machine.
    async fn existing(&self, tree: &str, version: &str) -> anyhow::Result<String> {
        let Some(name) = &self.env else {
            return Ok(tree.to_owned());
        };
        let site = PackageSite::new(Arc::new(machine()), version, tree);
        let remedy = makes(&self.target(version), name);
        let there = environment(&Curator::new(site), name, &remedy).await?;
        Ok(there.curator().site().tree.clone())
    }

    /// The curator that installs what a program asks for.
    pub(super) fn curator(&self, of_vm: Curator) -> anyhow::Result<Curator> {
        Ok(match &self.env {
            Some(name) => of_vm.environment(name)?.curator().clone(),
            None => of_vm,
        })
    }

    /// The variables by which Lua finds the rocks, once all are installed.
    pub(super) async fn variables(
        &self,
        ground: &Ground,
        vm: &dyn LuaVm,
    ) -> anyhow::Result<Vec<(String, String)>> {
        if self.is_local(&ground.vm_type) {
            return self
                .variables_for(&vm.package_site().await?.lua_version)
                .await;
        }
        Ok(match &self.env {
            Some(name) => {
                let remedy = match &ground.existing {
                    Some(which) => makes(&format!(" --vm {}", shell_word(which)), name),
                    None => "`--package ROCK` makes it".to_owned(),
                };
                let there = environment(&vm.curator().await?, name, &remedy).await?;
                there.variables().into()
            }
            None => Vec::new(),
        })
    }

    /// The same for VMs of this machine and this configuration before there are any.
    pub(super) async fn variables_of_machine(
        &self,
        config: &Value,
    ) -> anyhow::Result<Vec<(String, String)>> {
        match self.is_named() {
            true => self.variables_for(&version_of(config).await).await,
            false => Ok(Vec::new()),
        }
    }

    async fn variables_for(&self, version: &str) -> anyhow::Result<Vec<(String, String)>> {
        let tree = self.existing(&self.local_tree(version)?, version).await?;
        let has = |folder: &str| Path::new(&tree).join(folder).join(version).is_dir();
        ensure!(
            has("share/lua") || has("lib/lua"),
            "{tree} has no rocks for Lua {version}, which the VM has; `bioxen pkg{}{} install ROCK` \
             installs some",
            self.target(version),
            self.env
                .as_ref()
                .map_or_else(String::new, |name| format!(" --env {name}"))
        );
        Ok(lua::search_path(version, &tree).into())
    }
}

/// The Lua version of a VM of this machine: what the interpreter says that it is configured with.
async fn version_of(config: &Value) -> String {
    const VERSION: &str = "io.write((_VERSION:gsub('Lua ', '')))";
    let Some(program) = config.get("lua_executable").and_then(Value::as_str) else {
        return LUA.to_owned();
    };
    let asking = Command::new(program).args(["-e", VERSION]);
    match machine().run(asking.with_timeout(PATIENCE)).await {
        Ok(outcome) if outcome.success() => outcome.stdout_text().into_owned(),
        // The VM tells what is wrong with it.
        _ => LUA.to_owned(),
    }
}

/// How an environment of a tree is made. The target is what the user says to name the tree.
pub(super) fn makes(target: &str, name: &str) -> String {
    format!("`bioxen pkg{target} --env {name} install ROCK` makes it")
}

/// The environment of this name, or the remedy.
pub(super) async fn environment(
    curator: &Curator,
    name: &str,
    remedy: &str,
) -> anyhow::Result<Environment> {
    curator.existing_environment(name).await.map_err(|error| {
        let is_missing = matches!(error, Error::NoEnvironment { .. });
        let error = anyhow::Error::from(error);
        match is_missing {
            true => anyhow::anyhow!("{error}; {remedy}"),
            false => error,
        }
    })
}
