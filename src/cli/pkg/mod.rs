//! `bioxen pkg`: rocks of a tree of this machine, or of a VM that was kept.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bioxen_curator::{LuaVmPackages as _, RockName, RockRequest};
use bioxen_vm_core::{VmId, VmManager};
use serde::Serialize;

#[cfg(feature = "xcpng")]
use super::config_without_template;
use super::ground::for_existing;
use super::interrupt::Interrupts;
use super::{config, print, with_vms};
use crate::settings::Settings;
use target::Target;
pub(super) use target::{LUA, machine, shell_word, tree_of};
use tree::with_progress;
use without_tree::without_tree;

mod repair;
mod target;
mod tree;
mod without_tree;

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

impl Command {
    /// Whether it is about what has been installed.
    fn needs_a_tree(&self) -> bool {
        matches!(
            self,
            Self::Remove { .. }
                | Self::List
                | Self::Upgrade { .. }
                | Self::Verify { .. }
                | Self::Undo
                | Self::Export
                | Self::Env { .. }
        )
    }

    /// Whether there is nothing to do in an environment that is not there.
    fn needs_an_environment(&self) -> bool {
        self.needs_a_tree()
            || matches!(
                self,
                Self::Info { .. } | Self::Recommend { .. } | Self::Path
            )
    }

    fn changes_a_tree(&self) -> bool {
        matches!(
            self,
            Self::Install(_) | Self::Remove { .. } | Self::Upgrade { .. } | Self::Undo
        )
    }
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
        if args.command.needs_a_tree() {
            args.target.must_be_there()?;
        }
        let site = args.target.local_site()?;
        let must_be_there = args.command.needs_an_environment();
        let curator = args.target.curator(site, must_be_there).await?;
        let work = with_progress(&args, curator.clone());
        return match interrupts.unless(Box::pin(work)).await {
            Ok(result) => result,
            Err(interrupted) => {
                // Whatever looks at a tree first undoes what was left half done.
                if args.command.changes_a_tree() {
                    curator.list().await?;
                }
                Ok(ExitCode::from(interrupted.exit_code()))
            }
        };
    };
    for assignment in &args.target.set {
        settings.set(&args.target.vm_type, assignment)?;
    }
    let vm_type = &*args.target.vm_type;
    let config = match vm_type {
        #[cfg(feature = "xcpng")]
        "xcpng" => config_without_template(&settings)?,
        _ => config(&settings, vm_type)?,
    };
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
        args.target.suits(vm.id().as_str(), &site)?;
        let must_be_there = args.command.needs_an_environment();
        let curator = args.target.curator(site, must_be_there).await?;
        with_progress(&args, curator).await
    };
    with_vms(&manager, &interrupts, Box::pin(work)).await
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
