//! What the user has configured: where the settings are, and what they and this program's own defaults
//! make of them.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{BackendConfig as _, Value};

use super::{Cli, warn};
use crate::settings::Settings;

/// Where the settings are: which file, and which pool of it.
#[derive(Debug)]
pub(super) struct Place {
    /// The file, if there is any place for one.
    pub(super) file: Option<PathBuf>,
    /// Whether the user named it.
    pub(super) is_named: bool,
    pub(super) pool: Option<String>,
}

impl Place {
    pub(super) fn of(cli: &Cli) -> Self {
        let usual = || Some(user_dir("XDG_CONFIG_HOME", ".config")?.join("config.toml"));
        Self {
            is_named: cli.config.is_some(),
            file: cli.config.clone().or_else(usual),
            pool: cli.pool.clone(),
        }
    }

    /// The file to read: one that the user named, or the usual one where it is there.
    pub(super) fn to_read(&self) -> anyhow::Result<Option<&Path>> {
        let file = self.file.as_deref();
        let file = file.filter(|file| self.is_named || file.is_file());
        if let (None, Some(pool)) = (file, &self.pool) {
            anyhow::bail!(
                "there is no settings file that has a pool {pool:?}; name one with --config, or make \
                 it with `bioxen config init --pool {pool}`"
            );
        }
        Ok(file)
    }
}

/// The configuration of a VM type as the user gave it, once nothing is wrong with it.
pub(super) fn config(settings: &Settings, vm_type: &str) -> anyhow::Result<Value> {
    let config = configured(settings, vm_type)?;
    let problems = settings.check(&crate::factory(), vm_type, &config)?;
    ensure!(
        problems.is_empty(),
        "the configuration of VM type {vm_type:?} is wrong: {}",
        problems.join("; ")
    );
    Ok(config)
}

/// What to do where no key of a pool is set.
#[cfg(feature = "xcpng")]
pub(super) fn no_pool_remedy(settings: &Settings) -> String {
    match settings.pools() {
        [] => {
            "`bioxen sim pool.toml` serves one on this machine to try things on, which `--config \
               pool.toml` reaches; `bioxen config init` sets up your own"
                .to_owned()
        }
        pools => format!(
            "choose one of the settings file with --pool: {}",
            pools.join(", ")
        ),
    }
}

/// The same as [`with_defaults`], for what cannot do without a pool.
pub(super) fn configured(settings: &Settings, vm_type: &str) -> anyhow::Result<Value> {
    #[cfg(feature = "xcpng")]
    ensure!(
        vm_type != "xcpng" || settings.has(vm_type),
        "no pool is configured; {}",
        no_pool_remedy(settings)
    );
    Ok(with_defaults(settings, vm_type))
}

/// The configuration of a VM type with what this program adds by itself. A local VM runs this program
/// as its worker unless the user says otherwise, and what is made on pools is recorded where programs
/// of a user keep their state.
pub(super) fn with_defaults(settings: &Settings, vm_type: &str) -> Value {
    let mut config = settings.config(vm_type);
    let added = match vm_type {
        "xcpng" => ("state_dir", state_dir as fn() -> Option<String>),
        BasicConfig::VM_TYPE => ("worker", this_program as fn() -> Option<String>),
        _ => return config,
    };
    let (key, default) = added;
    if config.get(key).is_none()
        && let Some(value) = default()
    {
        if config.is_null() {
            config = Value::Object(serde_json::Map::new());
        }
        config[key] = Value::String(value);
    }
    config
}

fn this_program() -> Option<String> {
    let path = std::env::current_exe().ok()?;
    path.into_os_string().into_string().ok()
}

/// Where what is made on pools is recorded, if there is such a place.
fn state_dir() -> Option<String> {
    let dir = state_home()?;
    if let Err(error) = std::fs::create_dir_all(&dir) {
        warn(&format!(
            "cannot record what is made on the pool in {} ({error}); after a kill, `bioxen gc` \
             finds it only once it has expired; set state_dir",
            dir.display()
        ));
        return None;
    }
    dir.into_os_string().into_string().ok()
}

/// Our folder among those where programs of this user keep their state.
pub(super) fn state_home() -> Option<PathBuf> {
    user_dir("XDG_STATE_HOME", ".local/state")
}

/// Our folder among those where programs of this user keep things of a kind: where the variable says,
/// else in this place below the home folder.
pub(super) fn user_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).map(PathBuf::from);
    let base = of(variable)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(of("HOME")?.join(below_home)))?;
    Some(base.join("bioxen"))
}
