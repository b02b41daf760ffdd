//! Which rocks, and where they come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bioxen_curator::{Cache, Catalogue, Curator, RocksServer};
use bioxen_vm_core::PackageSite;
use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::words::parse_duration;

use super::super::library::{environment, makes};
use super::super::{servers, user_dir};

/// The Lua version of trees where none is given.
pub(in super::super) const LUA: &str = "5.4";

/// Which rocks, and where they come from.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// A tree of this machine [default: bioxen/rocks-LUA among the data of this user]
    #[arg(long, global = true, value_name = "FOLDER", conflicts_with = "vm")]
    pub(super) tree: Option<PathBuf>,

    /// The Lua version of the tree, of several for `bundle`; that of a VM is its own [default: 5.4]
    #[arg(long, global = true, value_name = "VERSION")]
    lua: Vec<String>,

    /// A VM that was kept: its UUID, its name, or the id that it was made with
    #[arg(long, global = true, value_name = "VM")]
    pub(super) vm: Option<String>,

    /// The type of that VM
    #[arg(
        long = "type",
        short = 't',
        global = true,
        value_name = "TYPE",
        default_value = "xcpng"
    )]
    pub(super) vm_type: String,

    /// Set a key of the type's configuration, `xcpng_host=pool.example` for example
    #[arg(long = "set", short = 's', global = true, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,

    /// An environment within the tree or VM
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) env: Option<String>,

    /// Where rocks come from, in order: a URL, `URL|URL` for mirrors, a directory, a bundle, or
    /// `bioxen` for the rocks of this program
    #[arg(long = "server", global = true, value_name = "SERVER", default_values = servers::DEFAULT)]
    pub(super) servers: Vec<String>,

    /// Where downloads are kept [default: bioxen/rocks in the cache of this user]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(super) cache: Option<PathBuf>,

    /// A file with profiles and rocks of your own, beside those that come along
    #[arg(long, global = true, value_name = "FILE", env = "BIOXEN_CATALOGUE")]
    pub(super) catalogue: Option<PathBuf>,

    /// End an operation after this long: `30s`, `1h30m`, or a number of seconds
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) timeout: Option<Duration>,
}

impl Target {
    fn lua(&self) -> anyhow::Result<&str> {
        match self.lua.as_slice() {
            [] => Ok(LUA),
            [one] => Ok(one),
            _ => bail!("a tree belongs to one Lua version; give --lua once"),
        }
    }

    /// The Lua versions of a bundle.
    pub(super) fn luas(&self) -> Vec<String> {
        match self.lua.as_slice() {
            [] => vec![LUA.to_owned()],
            given => given.to_vec(),
        }
    }

    /// Refuses a Lua version that the VM does not have.
    pub(super) fn suits(&self, vm: &str, site: &PackageSite) -> anyhow::Result<()> {
        let own = &site.lua_version;
        match self.lua.iter().find(|given| *given != own) {
            Some(given) => bail!("the Lua of VM {vm} is {own}, not {given}; leave --lua out"),
            None => Ok(()),
        }
    }

    /// Refuses a tree that the user has named and that is not there.
    pub(super) fn must_be_there(&self) -> anyhow::Result<()> {
        match &self.tree {
            Some(tree) if !tree.exists() => bail!(
                "there is no tree {}; `bioxen pkg install` makes one",
                tree.display()
            ),
            _ => Ok(()),
        }
    }

    pub(super) fn local_site(&self) -> anyhow::Result<PackageSite> {
        let lua = self.lua()?;
        let tree = tree_of(self.tree.as_deref(), lua)?;
        Ok(PackageSite::new(Arc::new(machine()), lua, tree))
    }

    /// The curator of a tree, or of an environment in it, which may have to be there.
    pub(super) async fn curator(
        &self,
        site: PackageSite,
        must_be_there: bool,
    ) -> anyhow::Result<Curator> {
        let mut curator = Curator::new(site).with_servers(self.servers()?);
        if let Some(timeout) = self.timeout {
            curator = curator.with_timeout(timeout);
        }
        if let Some(cache) = self.cache() {
            curator = curator.with_cache(cache);
        }
        Ok(match &self.env {
            Some(name) if must_be_there => {
                let there = environment(&curator, name, &makes(&self.tree_as_said(), name)).await?;
                there.curator().clone()
            }
            Some(name) => curator.environment(name)?.curator().clone(),
            None => curator,
        })
    }

    /// How the user has named the tree, and what is meant of it.
    pub(super) fn as_said(&self) -> String {
        let env = self.env.as_ref().map(|name| format!(" --env {name}"));
        self.tree_as_said() + &env.unwrap_or_default()
    }

    fn tree_as_said(&self) -> String {
        let lua = self.lua.iter().map(|version| format!(" --lua {version}"));
        let tree = match (&self.vm, &self.tree) {
            (Some(vm), _) => format!(" --vm {}", shell_word(vm)),
            (None, Some(tree)) => format!(" --tree {}", shell_word(&tree.display().to_string())),
            (None, None) => String::new(),
        };
        tree + &lua.collect::<String>()
    }

    /// Whether the user has named servers.
    pub(super) fn names_servers(&self) -> bool {
        self.servers != servers::DEFAULT
    }

    pub(super) fn servers(&self) -> anyhow::Result<Vec<RocksServer>> {
        servers::servers(&self.servers)
    }

    pub(super) fn cache(&self) -> Option<Cache> {
        let folder = match &self.cache {
            Some(folder) => folder.clone(),
            None => user_dir("XDG_CACHE_HOME", ".cache")?.join("rocks"),
        };
        Some(Cache::new(folder).with_runner(Arc::new(machine())))
    }

    pub(super) fn known(&self) -> anyhow::Result<Catalogue> {
        let built_in = Catalogue::built_in()?;
        Ok(match &self.catalogue {
            Some(file) => {
                let own = Catalogue::read(&read(file)?);
                built_in.with(own.with_context(|| format!("cannot use {}", file.display()))?)
            }
            None => built_in,
        })
    }
}

/// A word as a shell takes it, for commands that are told to the user.
pub(in super::super) fn shell_word(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=@+,".contains(&b);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A tree of this machine as an absolute path: this one, or that of the user.
pub(in super::super) fn tree_of(named: Option<&Path>, lua: &str) -> anyhow::Result<String> {
    let tree = match named {
        Some(tree) if tree.is_file() => {
            bail!("{} is a file; a tree is a folder", tree.display())
        }
        Some(tree) => std::path::absolute(tree).context("cannot tell where the tree is")?,
        None => user_dir("XDG_DATA_HOME", ".local/share")
            .context("there is no home for the tree; name one with --tree")?
            .join(format!("rocks-{lua}")),
    };
    tree.into_os_string()
        .into_string()
        .map_err(|tree| anyhow::anyhow!("{} is no UTF-8; name another tree", tree.display()))
}

/// Runs commands of this machine with the proxies that the user has set.
pub(in super::super) fn machine() -> LocalRunner {
    let names = [
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTPS_PROXY",
        "NO_PROXY",
    ];
    let set = names
        .into_iter()
        .filter_map(|name| Some((name, std::env::var(name).ok()?)));
    set.fold(LocalRunner::new(), |runner, (name, value)| {
        runner.with_env(name, value)
    })
}

pub(super) fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
