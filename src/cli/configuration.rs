//! What the user has configured: where the settings are, and what they and this program's own defaults
//! make of them.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{BackendConfig as _, Value};

use super::{Cli, warn};
use crate::settings::{Problem, Settings, joined};

/// Where the settings are: which file, and which pool of it.
#[derive(Debug)]
pub(super) struct Place {
    /// The file, if there is any place for one.
    pub(super) file: Option<PathBuf>,
    /// Whether the user named it.
    pub(super) is_named: bool,
    pub(super) pool: Option<String>,
    /// What the user may have forgotten: which variables said so.
    file_is_of_variable: bool,
    pool_is_of_variable: bool,
}

const FILE_VARIABLE: &str = "BIOXEN_CONFIG";
const POOL_VARIABLE: &str = "BIOXEN_POOL";

impl Place {
    pub(super) fn of(cli: &Cli) -> Self {
        let variable = |name| std::env::var_os(name).filter(|text| !text.is_empty());
        let usual = || Some(user_dir("XDG_CONFIG_HOME", ".config")?.join("config.toml"));
        let named = variable(FILE_VARIABLE).map(PathBuf::from);
        // A pool of a name that is no text is in no file.
        let pool =
            variable(POOL_VARIABLE).map(|name: OsString| name.to_string_lossy().into_owned());
        Self {
            is_named: cli.config.is_some() || named.is_some(),
            file_is_of_variable: cli.config.is_none() && named.is_some(),
            pool_is_of_variable: cli.pool.is_none() && pool.is_some(),
            file: cli.config.clone().or(named).or_else(usual),
            pool: cli.pool.clone().or(pool),
        }
    }

    /// Reads the file, and gives what could not be understood of it.
    pub(super) fn read(
        &self,
        file: &Path,
        settings: &mut Settings,
    ) -> anyhow::Result<Vec<Problem>> {
        let read = settings.read_what_is_right(file, self.pool.as_deref());
        read.map_err(|error| match self.file_is_of_variable {
            true => anyhow!(
                "{:#}; the variable {FILE_VARIABLE} names it: correct it, or unset it to do without",
                anyhow::Error::from(error)
            ),
            false => error.into(),
        })
    }

    /// The error that the file is when it has to be right.
    pub(super) fn refused(&self, wrong: &[Problem], settings: &Settings) -> anyhow::Error {
        let is_known = |pool| settings.pools().contains(pool);
        let forgotten = match &self.pool {
            Some(pool) if self.pool_is_of_variable && !is_known(pool) => {
                format!("; the variable {POOL_VARIABLE} asks for {pool:?}")
            }
            _ => String::new(),
        };
        anyhow!("{}{forgotten}", joined(wrong))
    }

    /// Whether a variable names this file, and it has gone, as that of a `bioxen sim` does when it ends.
    pub(super) fn has_gone(&self, file: &Path) -> bool {
        self.file_is_of_variable && self.pool.is_none() && !file.exists()
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
    refuse_what_is_wrong(settings, vm_type, &config)?;
    Ok(config)
}

/// The same for VMs of a pool that are there, which need no template.
#[cfg(feature = "xcpng")]
pub(super) fn config_without_template(settings: &Settings) -> anyhow::Result<Value> {
    let vm_type = bioxen_vm_xcpng::XcpngConfig::VM_TYPE;
    let config = configured(settings, vm_type)?;
    let mut whole = config.clone();
    if whole.get("template").is_none() {
        whole["template"] = "any".into();
    }
    refuse_what_is_wrong(settings, vm_type, &whole)?;
    Ok(config)
}

fn refuse_what_is_wrong(settings: &Settings, vm_type: &str, config: &Value) -> anyhow::Result<()> {
    let mut problems = settings.check(&crate::factory(), vm_type, config)?;
    problems.extend(settings.missing_files(vm_type, config));
    ensure!(
        problems.is_empty(),
        "the configuration of VM type {vm_type:?} is wrong: {}",
        joined(&problems)
    );
    Ok(())
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
fn configured(settings: &Settings, vm_type: &str) -> anyhow::Result<Value> {
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

/// Warns of files with passwords that others can read.
pub(super) fn warn_of_readers(settings: &Settings) {
    for file in settings.files_with_password() {
        let Ok(known) = file.metadata() else {
            continue;
        };
        // Whom else the owner lets read it, a user cannot change and need not mind.
        let others = match known.uid() == nix::unistd::getuid().as_raw() {
            true => 0o044,
            false => 0o004,
        };
        if known.is_file() && known.mode() & others != 0 {
            let file = file.display();
            warn(&format!(
                "others can read {file}, which has a password; `chmod 600 {file}`"
            ));
        }
    }
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
