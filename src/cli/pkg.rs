//! `bioxen pkg`: rocks of a tree of this machine, or of a VM that was kept.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bioxen_curator::{
    Bundle, Cache, Catalogue, Curator, InstallReport, Lock, LuaVmPackages as _, Progress, RockName,
    RockRequest, RocksServer, import, publish,
};
use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::words::parse_duration;
use bioxen_vm_core::{PackageSite, VmId, VmManager};
use serde::Serialize;
use serde_json::json;

use super::interrupt::Interrupts;
use super::run::for_existing;
use super::run::rocks_server;
use super::{print, with_defaults, with_vms};
use crate::settings::Settings;

/// What was looked at is not as it should be.
const NOT_GOOD: u8 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

/// Which rocks, and where they come from.
#[derive(Debug, clap::Args)]
struct Target {
    /// A tree of this machine [default: bioxen/rocks-LUA among the data of this user]
    #[arg(long, global = true, value_name = "FOLDER", conflicts_with = "vm")]
    tree: Option<PathBuf>,

    /// The Lua version of the tree; of several for `bundle`
    #[arg(long, global = true, value_name = "VERSION", default_value = "5.4")]
    lua: Vec<String>,

    /// A VM that was kept: its UUID, its name, or the id that it was made with
    #[arg(long, global = true, value_name = "VM")]
    vm: Option<String>,

    /// The type of that VM
    #[arg(
        long = "type",
        short = 't',
        global = true,
        value_name = "TYPE",
        default_value = "xcpng"
    )]
    vm_type: String,

    /// Set a key of the type's configuration, `xcpng_host=pool.example` for example
    #[arg(long = "set", short = 's', global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// An environment within the tree or VM
    #[arg(long, global = true, value_name = "NAME")]
    env: Option<String>,

    /// Where rocks come from: a URL or a directory, in order; `URL|URL` for mirrors
    #[arg(
        long = "server",
        global = true,
        value_name = "SERVER",
        default_value = "https://luarocks.org"
    )]
    servers: Vec<String>,

    /// Where downloads are kept [default: bioxen/rocks in the cache of this user]
    #[arg(long, global = true, value_name = "FOLDER")]
    cache: Option<PathBuf>,

    /// A file with profiles and rocks of your own, beside those that come along
    #[arg(long, global = true, value_name = "FILE", env = "BIOXEN_CATALOGUE")]
    catalogue: Option<PathBuf>,

    /// End an operation after this long: `30s`, `1h30m`, or a number of seconds
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Install rocks and what they need: all or none
    Install(Install),
    /// Remove rocks
    Remove {
        #[arg(required = true, value_name = "ROCK")]
        names: Vec<RockName>,
        /// Also rocks that others need
        #[arg(long)]
        force: bool,
    },
    /// List the rocks that are installed
    List,
    /// Tell what a rock says of itself, installed or not
    Info {
        #[arg(value_name = "ROCK")]
        request: RockRequest,
    },
    /// Search the servers for rocks whose names contain a text
    Search {
        #[arg(value_name = "TEXT")]
        name: RockName,
    },
    /// Bring rocks to their newest versions; all of them when none is named
    Upgrade {
        #[arg(value_name = "ROCK")]
        names: Vec<RockName>,
    },
    /// Look whether every file is as it was installed (exit code 1 when not)
    Verify {
        /// Compare the rocks with this lock, too
        #[arg(long, value_name = "FILE")]
        lock: Option<PathBuf>,
    },
    /// Look whether rocks can be installed, and what to do where not (exit code 1)
    Doctor,
    /// Return to the rocks that were there before the last change
    Undo,
    /// Write down exactly which rocks answer the requests, with their SHA-256
    Lock {
        #[arg(required = true, value_name = "ROCK")]
        requests: Vec<RockRequest>,
        /// The file to write
        #[arg(long, short, default_value = "bioxen.lock", value_name = "FILE")]
        output: PathBuf,
    },
    /// Print the installed rocks as requests, one to a line
    Export,
    /// Gather rocks and all that they need in a folder, or in an archive when it ends in .tar.gz
    Bundle {
        #[arg(required = true, value_name = "ROCK")]
        requests: Vec<RockRequest>,
        /// The folder or archive
        #[arg(long, value_name = "PATH")]
        into: PathBuf,
        /// For these kinds of machine, `linux-aarch64` for example
        #[arg(long = "platform", value_name = "PLATFORM")]
        platforms: Vec<String>,
    },
    /// Pack rocks from their sources into a directory to install from
    Publish {
        /// Folders that hold a rockspec each
        #[arg(required = true, value_name = "FOLDER")]
        sources: Vec<PathBuf>,
        /// The directory
        #[arg(long, value_name = "FOLDER")]
        into: PathBuf,
    },
    /// List the profiles, or what one has
    Profiles {
        #[arg(value_name = "PROFILE")]
        profile: Option<String>,
    },
    /// Recommend rocks, with reasons
    Recommend {
        /// Among others, those of this profile
        #[arg(long, value_name = "PROFILE")]
        profile: Option<String>,
    },
    /// List the environments, or remove one
    Env {
        /// Remove this one
        #[arg(long, value_name = "NAME")]
        remove: Option<String>,
    },
    /// Print the variables that let Lua find the rocks, for `eval "$(bioxen pkg path)"`
    Path,
    /// Tell what an environment.json or manifest.json of pylua_bioxen_vm_lib asks for, as requests
    Import {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Install {
    /// As in a rockspec: `lpeg`, `"lpeg >= 1.0, < 2"`
    #[arg(value_name = "ROCK")]
    requests: Vec<RockRequest>,

    /// Also the requests in this file, one to a line, as `export` prints them
    #[arg(long = "requests", short = 'r', value_name = "FILE")]
    file: Option<PathBuf>,

    /// Also the rocks of this profile
    #[arg(long, short, value_name = "PROFILE")]
    profile: Option<String>,

    /// Exactly the rocks of a lock, and nothing else
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "bioxen.lock",
        conflicts_with_all = ["requests", "file", "profile"])]
    locked: Option<PathBuf>,

    /// Only tell what would be done
    #[arg(long, short = 'n', conflicts_with = "locked")]
    dry_run: bool,
}

pub(super) async fn run(args: Args, mut settings: Settings) -> anyhow::Result<ExitCode> {
    if let Some(done) = without_tree(&args).await? {
        return Ok(done);
    }
    let interrupts = Interrupts::listen()?;
    let Some(vm) = &args.target.vm else {
        let curator = args.target.curator(args.target.local_site()?)?;
        let work = with_progress(&args, curator);
        return match interrupts.unless(Box::pin(work)).await {
            Ok(result) => result,
            Err(interrupted) => Ok(ExitCode::from(interrupted.exit_code())),
        };
    };
    for assignment in &args.target.set {
        settings.set(&args.target.vm_type, assignment)?;
    }
    let vm_type = &*args.target.vm_type;
    let config = with_defaults(&settings, vm_type);
    let manager = VmManager::new(crate::factory());
    let manager = Arc::new(match vm_type {
        "xcpng" => for_existing(manager, config.clone())?,
        _ => manager,
    });
    let work = async {
        // A VM that is found by a tag has no id that we would know before.
        let id = VmId::new(vm.as_str()).map_or("found".to_owned(), |id| id.to_string());
        let vm = manager.adopt_vm(id, vm_type, vm, config).await?;
        // Connects to one that runs already.
        vm.start().await?;
        let site = vm.curator().await?.site().clone();
        with_progress(&args, args.target.curator(site)?).await
    };
    with_vms(&manager, &interrupts, Box::pin(work)).await
}

impl Target {
    fn lua(&self) -> anyhow::Result<&str> {
        match self.lua.as_slice() {
            [one] => Ok(one),
            _ => bail!("a tree belongs to one Lua version; give --lua once"),
        }
    }

    fn local_site(&self) -> anyhow::Result<PackageSite> {
        let lua = self.lua()?;
        let tree = match &self.tree {
            Some(tree) => std::path::absolute(tree).context("cannot tell where the tree is")?,
            None => user_dir("XDG_DATA_HOME", ".local/share")
                .context("there is no home for the tree; name one with --tree")?
                .join(format!("rocks-{lua}")),
        };
        let tree = tree
            .into_os_string()
            .into_string()
            .map_err(|tree| anyhow::anyhow!("{} is no UTF-8; name another tree", tree.display()))?;
        Ok(PackageSite::new(Arc::new(machine()), lua, tree))
    }

    /// The curator of a tree, or of an environment in it.
    fn curator(&self, site: PackageSite) -> anyhow::Result<Curator> {
        let mut curator = Curator::new(site).with_servers(self.servers());
        if let Some(timeout) = self.timeout {
            curator = curator.with_timeout(timeout);
        }
        if let Some(cache) = self.cache() {
            curator = curator.with_cache(cache);
        }
        Ok(match &self.env {
            Some(name) => curator.environment(name)?.curator().clone(),
            None => curator,
        })
    }

    fn servers(&self) -> Vec<RocksServer> {
        let servers = self.servers.iter();
        servers.map(|server| rocks_server(server)).collect()
    }

    fn cache(&self) -> Option<Cache> {
        let folder = match &self.cache {
            Some(folder) => folder.clone(),
            None => user_dir("XDG_CACHE_HOME", ".cache")?.join("rocks"),
        };
        Some(Cache::new(folder).with_runner(Arc::new(machine())))
    }

    fn known(&self) -> anyhow::Result<Catalogue> {
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

/// Runs commands of this machine with the proxies that the user has set.
fn machine() -> LocalRunner {
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

/// Our folder among those where programs of this user keep such things.
fn user_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).map(PathBuf::from);
    let base = of(variable)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(of("HOME")?.join(below_home)))?;
    Some(base.join("bioxen"))
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// What needs no tree.
async fn without_tree(args: &Args) -> anyhow::Result<Option<ExitCode>> {
    match &args.command {
        Command::Bundle {
            requests,
            into,
            platforms,
        } => {
            let mut bundle = Bundle::new(args.target.servers()).for_lua(args.target.lua.clone());
            if !platforms.is_empty() {
                bundle = bundle.for_platforms(platforms.clone());
            }
            if let Some(cache) = args.target.cache() {
                bundle = bundle.with_cache(cache);
            }
            if let Some(timeout) = args.target.timeout {
                bundle = bundle.with_timeout(timeout);
            }
            let is_archive = into.to_string_lossy().ends_with(".tar.gz");
            let report = if is_archive {
                bundle.write_archive(requests, into).await?
            } else {
                bundle.write(requests, into).await?
            };
            let bytes: u64 = report.files.values().sum();
            let line = format!(
                "{} rocks, {bytes} bytes, for Lua {} on {}\n",
                report.rocks.len(),
                report.lua_versions.join(", "),
                report.platforms.join(", ")
            );
            show(args, &report, line)?;
        }
        Command::Publish { sources, into } => {
            let rocks = publish(sources, into, &machine()).await?;
            let lines = rocks.iter().map(|rock| format!("{rock}\n")).collect();
            show(args, &rocks, lines)?;
        }
        Command::Profiles { profile } => profiles(args, profile.as_deref())?,
        Command::Import { file } => {
            let imported = import(&read(file)?)
                .with_context(|| format!("cannot import {}", file.display()))?;
            let mut lines = String::new();
            for (name, value) in [
                ("Lua", &imported.lua_version),
                ("profile", &imported.profile),
            ] {
                if let Some(value) = value {
                    lines += &format!("# {name}: {value}\n");
                }
            }
            for (name, reason) in &imported.refused {
                lines += &format!("# left out {name:?}: {reason}\n");
            }
            for request in &imported.requests {
                lines += &format!("{request}\n");
            }
            let requests: Vec<_> = imported.requests.iter().map(ToString::to_string).collect();
            let value = json!({
                "lua": imported.lua_version,
                "profile": imported.profile,
                "requests": requests,
                "profiles": imported.profiles,
                "refused": imported.refused,
            });
            show(args, &value, lines)?;
        }
        _ => return Ok(None),
    }
    Ok(Some(ExitCode::SUCCESS))
}

fn profiles(args: &Args, profile: Option<&str>) -> anyhow::Result<()> {
    let catalogue = args.target.known()?;
    let Some(profile) = profile else {
        let line = |(name, profile): (&String, &bioxen_curator::Profile)| {
            format!("{name:<18}{}\n", profile.summary)
        };
        let lines = catalogue.profiles.iter().map(line).collect();
        return show(args, &catalogue.profiles, lines);
    };
    let selection = catalogue.select(profile)?;
    let requests: Vec<_> = selection.requests.iter().map(ToString::to_string).collect();
    let mut lines: String = requests.iter().map(|line| format!("{line}\n")).collect();
    for (name, reason) in &selection.unavailable {
        lines += &format!("# {name} is unavailable: {reason}\n");
    }
    let value = json!({"requests": requests, "unavailable": selection.unavailable});
    show(args, &value, lines)
}

/// Does the work, and tells of it on standard error when somebody looks.
async fn with_progress(args: &Args, curator: Curator) -> anyhow::Result<ExitCode> {
    if args.json || !std::io::stderr().is_terminal() {
        return on_tree(args, &curator).await;
    }
    let mut steps = curator.subscribe();
    let telling = tokio::spawn(async move {
        use std::io::Write as _;
        while let Ok(step) = steps.recv().await {
            if matches!(step, Progress::Finished { .. }) {
                continue;
            }
            // There is nobody left to tell when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "{step}");
        }
    });
    let result = on_tree(args, &curator).await;
    drop(curator);
    // All curators are gone, so it ends once it has told the last step.
    let _ = telling.await;
    result
}

async fn on_tree(args: &Args, curator: &Curator) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Install(install) => return self::install(args, install, curator).await,
        Command::Remove { names, force } => {
            let report = curator.remove(names, *force).await?;
            let lines = report
                .removed
                .iter()
                .map(|rock| format!("removed {rock}\n"));
            show(args, &report, lines.collect())?;
        }
        Command::List => {
            let rocks = curator.list().await?;
            let lines = rocks.iter().map(|rock| format!("{rock}\n")).collect();
            show(args, &rocks, lines)?;
        }
        Command::Info { request } => info(args, request, curator).await?,
        Command::Search { name } => {
            let found = curator.search(name).await?;
            let line = |found: &bioxen_curator::Found| format!("{} {}\n", found.rock, found.server);
            show(args, &found, found.iter().map(line).collect())?;
        }
        Command::Upgrade { names } => installed(args, &curator.upgrade(names).await?)?,
        Command::Verify { lock } => {
            let lock = lock.as_ref().map(Lock::read).transpose()?;
            let found = curator.verify(lock.as_ref()).await?;
            let mut lines = String::new();
            for (what, files) in [
                ("changed", &found.changed),
                ("missing", &found.missing),
                ("foreign", &found.foreign),
            ] {
                lines.extend(files.iter().map(|file| format!("{what} {file}\n")));
            }
            for (what, rocks) in [
                ("not as locked:", &found.unlocked),
                ("not locked:", &found.extra),
            ] {
                lines.extend(rocks.iter().map(|rock| format!("{what} {rock}\n")));
            }
            if found.is_good() {
                lines = format!("{} files are as they were installed\n", found.unchanged);
            }
            show(args, &found, lines)?;
            return Ok(verdict(found.is_good()));
        }
        Command::Doctor => {
            let health = curator.doctor().await?;
            let lines = health.checks.iter().map(|check| format!("{check}\n"));
            show(args, &health, lines.collect())?;
            return Ok(verdict(health.is_good()));
        }
        Command::Undo => {
            let report = curator.undo().await?;
            let gone = report
                .removed
                .iter()
                .map(|rock| format!("removed {rock}\n"));
            let back = report
                .restored
                .iter()
                .map(|rock| format!("restored {rock}\n"));
            show(args, &report, gone.chain(back).collect())?;
        }
        Command::Lock { requests, output } => {
            let lock = curator.lock(requests).await?;
            lock.write(output)?;
            let line = format!("{} rocks in {}\n", lock.rocks.len(), output.display());
            show(args, &lock, line)?;
        }
        Command::Export => {
            let text = curator.export().await?;
            let lines: Vec<_> = text.lines().collect();
            show(args, &lines, text.clone())?;
        }
        Command::Recommend { profile } => {
            let catalogue = args.target.known()?;
            let found = catalogue.recommend(&curator.list().await?, profile.as_deref())?;
            let line = |found: &bioxen_curator::Recommendation| {
                format!("{}: {} ({})\n", found.rock, found.summary, found.reason)
            };
            show(args, &found, found.iter().map(line).collect())?;
        }
        Command::Env { remove: None } => {
            let names = curator.environments().await?;
            let lines = names.iter().map(|name| format!("{name}\n")).collect();
            show(args, &names, lines)?;
        }
        Command::Env { remove: Some(name) } => curator.environment(name)?.remove().await?,
        Command::Path => {
            let site = curator.site();
            let variables = bioxen_vm_core::lua::search_path(&site.lua_version, &site.tree);
            let line = |(name, value): &(String, String)| {
                format!("export {name}='{}'\n", value.replace('\'', "'\\''"))
            };
            show(args, &variables, variables.iter().map(line).collect())?;
        }
        Command::Bundle { .. }
        | Command::Publish { .. }
        | Command::Profiles { .. }
        | Command::Import { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn install(args: &Args, install: &Install, curator: &Curator) -> anyhow::Result<ExitCode> {
    if let Some(file) = &install.locked {
        let lock = Lock::read(file)?;
        installed(args, &curator.install_locked(&lock).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut requests = install.requests.clone();
    if let Some(file) = &install.file {
        let more = RockRequest::read_all(&read(file)?);
        requests.extend(more.with_context(|| format!("cannot use {}", file.display()))?);
    }
    if let Some(profile) = &install.profile {
        let selection = args.target.known()?.select(profile)?;
        for (name, reason) in &selection.unavailable {
            super::warn(&format!("{name} is unavailable: {reason}"));
        }
        requests.extend(selection.requests);
    } else if requests.is_empty() {
        bail!("name a rock, a file with --requests, a --profile, or a lock with --locked");
    }
    if install.dry_run {
        let plan = curator.plan(&requests).await?;
        show(args, &plan, plan.to_string())?;
    } else {
        installed(args, &curator.install(&requests).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn installed(args: &Args, report: &InstallReport) -> anyhow::Result<()> {
    let mut line = report.to_string();
    if line.is_empty() {
        line = "nothing to install".into();
    }
    show(args, report, format!("{line}\n"))
}

async fn info(args: &Args, request: &RockRequest, curator: &Curator) -> anyhow::Result<()> {
    let there = curator.list().await?;
    let here = there.iter().any(|rock| request.accepts(rock));
    let (info, from, versions) = if here {
        (curator.info(&request.name).await?, None, Vec::new())
    } else {
        let offered = curator.offered(request).await?;
        (offered.info, Some(offered.server), offered.versions)
    };
    let mut lines = format!("{}\n{}\n", info.rock, info.summary);
    let state = match &from {
        None => "installed".to_owned(),
        Some(server) => format!("not installed; offered by {server}"),
    };
    let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
    for (name, value) in [
        ("state", Some(state)),
        ("license", info.license.clone()),
        ("homepage", info.homepage.clone()),
        ("modules", Some(info.modules.join(", "))),
        ("needs", Some(info.dependencies.join("; "))),
        ("versions", Some(versions.join(", "))),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            lines += &format!("{name}: {value}\n");
        }
    }
    let value = json!({"info": info, "installed": here, "server": from, "versions": versions});
    show(args, &value, lines)
}

/// Prints a result, for programs or for people.
fn show(args: &Args, value: &impl Serialize, text: String) -> anyhow::Result<()> {
    if args.json {
        let json = serde_json::to_string(value).context("cannot write JSON")?;
        return print(&format!("{json}\n"));
    }
    print(&text)
}

fn verdict(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_GOOD)
    }
}
