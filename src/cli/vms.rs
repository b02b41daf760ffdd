//! `bioxen create`, `start`, `stop` and the like: VMs of a pool that outlive this program.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bioxen_vm_core::{
    Backend, BackendConfig as _, Error, ErrorKind, LuaVm, VmId, VmInfo, VmManager, VmState,
};
use bioxen_vm_xcpng::{XcpngBackend, XcpngConfig};
use serde_json::{Value, json};

use super::ground::handle;
use super::interrupt::Interrupts;
use super::table::Table;
use super::waiting::told;
use super::{config, config_without_template, print, warn};
use crate::settings::Settings;

/// What every command about VMs of a pool takes.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Print JSON, one object to a line
    #[arg(long)]
    json: bool,

    /// Set a key of the configuration, `xcpng_host=pool.example` for example
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Common {
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Prints that something is gone.
    pub(super) fn tell_removed(&self, what: &str) -> anyhow::Result<()> {
        print(&match self.json {
            true => format!("{}\n", json!({"removed": what})),
            false => format!("removed {what}\n"),
        })
    }

    pub(super) fn settings(&self) -> &[String] {
        &self.set
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The id of the VM, by which the other commands find it
    #[arg(value_name = "VM")]
    id: VmId,

    /// VM type; only those whose VMs outlive their program will do
    #[arg(
        long = "type",
        short = 't',
        default_value = XcpngConfig::VM_TYPE,
        value_name = "TYPE"
    )]
    vm_type: String,

    /// Only print what would be done
    #[arg(long, short = 'n')]
    dry_run: bool,

    #[command(flatten)]
    common: Common,
}

/// VMs that are there: by id, name, UUID, or tag as `tag:NAME`.
#[derive(Debug, clap::Args)]
pub(super) struct Existing {
    /// Id, name or UUID of a VM, or `tag:NAME`
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Destroy {
    /// Also VMs that BioXen has not made
    #[arg(long)]
    foreign: bool,

    /// Go on when there is no such VM, as when it was destroyed before
    #[arg(long)]
    if_exists: bool,

    #[command(flatten)]
    existing: Existing,
}

#[derive(Debug, clap::Args)]
pub(super) struct Clone {
    /// Id, name or UUID of a VM, or `tag:NAME`
    #[arg(value_name = "VM")]
    vm: String,

    /// The id of the new VM
    #[arg(value_name = "NEW")]
    id: VmId,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Migrate {
    /// Id, name or UUID of a VM, or `tag:NAME`
    #[arg(value_name = "VM")]
    vm: String,

    /// Name or UUID of a host of the pool
    #[arg(value_name = "HOST")]
    host: String,

    #[command(flatten)]
    common: Common,
}

/// What `start`, `stop` and their like do to a VM.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Start,
    Stop,
    Reboot,
    Pause,
    Unpause,
    Suspend,
    Resume,
}

/// Opens the pool for VMs that are there already.
pub(super) fn pool(common: &Common, mut settings: Settings) -> anyhow::Result<XcpngBackend> {
    for assignment in &common.set {
        settings.set(XcpngConfig::VM_TYPE, assignment)?;
    }
    let config = XcpngConfig::from_value(config_without_template(&settings)?)?;
    Ok(config.build_without_template()?)
}

/// Takes over a VM that is there.
pub(super) async fn adopt(pool: &XcpngBackend, which: &str) -> anyhow::Result<Arc<dyn LuaVm>> {
    let id = VmId::new(handle(which, "vm"))?;
    Ok(pool.adopt(id, which).await?)
}

/// Does work on VMs to its end, also when the program is told to end meanwhile: what is half done on a
/// pool would have to be looked for.
pub(super) async fn to_the_end(
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let mut work = Box::pin(work);
    match interrupts.unless(&mut work).await {
        Ok(done) => done,
        Err(interrupted) => {
            warn("ends as soon as what was begun on the pool is done");
            work.await?;
            Ok(ExitCode::from(interrupted.exit_code()))
        }
    }
}

/// Does work on a pool, and leaves the pool in order whatever came of it.
pub(super) async fn on_pool<T>(
    pool: XcpngBackend,
    work: impl AsyncFnOnce(&XcpngBackend) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let result = told(pool.subscribe(), work(&pool)).await;
    let closed = pool.close().await;
    let result = result?;
    closed?;
    Ok(result)
}

pub(super) async fn create(args: Create, mut settings: Settings) -> anyhow::Result<ExitCode> {
    for assignment in &args.common.set {
        settings.set(&args.vm_type, assignment)?;
    }
    let interrupts = Interrupts::listen()?;
    let config = config(&settings, &args.vm_type)?;
    if args.vm_type != XcpngConfig::VM_TYPE {
        // One that is unknown is told as such.
        crate::factory()
            .open(&args.vm_type, config)?
            .close()
            .await?;
        bail!(
            "VMs of type {type_} end with the program that made them, so none can be created to stay; \
             `bioxen run --type {type_}` and `bioxen shell --type {type_}` make one for what they do, \
             and --type {} makes one on a pool",
            XcpngConfig::VM_TYPE,
            type_ = args.vm_type,
        );
    }
    let pool = XcpngConfig::from_value(config)?.build()?;
    if args.dry_run {
        let plan = on_pool(pool, async |pool| Ok(pool.plan(&args.id).await?)).await?;
        for step in plan.to_string().lines() {
            print(&match args.common.json {
                true => format!("{}\n", json!({"step": step})),
                false => format!("{step}\n"),
            })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = is_free(&pool, &args.id).await {
        pool.close().await?;
        return Err(error);
    }
    let stages = pool.subscribe();
    let manager = VmManager::new(crate::factory()).with_backend(Arc::new(pool));
    let work = async {
        let created = manager.create_vm(args.id.as_str(), &args.vm_type, Value::Null);
        let vm = created.await?;
        manager.keep_vm(args.id.as_str()).await?;
        tell(&vm.info().await?, &args.common, short)?;
        Ok(ExitCode::SUCCESS)
    };
    told(stages, super::with_vms(&manager, &interrupts, work)).await
}

/// Refuses an id that a VM has already, before anything is made. Of several programs that make one at the
/// same time, one will be able to keep it.
pub(super) async fn is_free(pool: &dyn Backend, id: &VmId) -> anyhow::Result<()> {
    let all = pool.list().await?;
    let Some(taken) = all.iter().find(|info| info.id == *id) else {
        return Ok(());
    };
    let message = match taken.details.get("kept").map(String::as_str) {
        Some("false") => {
            "another program is making a VM of this id; choose another id, or run `bioxen gc` if that \
             program has been killed"
        }
        _ => "the pool has a VM of this id already; destroy it or choose another id",
    };
    Err(Error::new(ErrorKind::AlreadyExists, message)
        .with_operation("create")
        .with_vm(id)
        .into())
}

pub(super) async fn change(
    args: Existing,
    change: Change,
    settings: Settings,
) -> anyhow::Result<ExitCode> {
    each(args, settings, TOLD, async |vm| {
        match change {
            Change::Start => vm.start().await,
            Change::Stop => vm.stop().await,
            Change::Reboot => vm.reboot().await,
            Change::Pause => vm.pause().await,
            Change::Unpause => vm.unpause().await,
            Change::Suspend => vm.suspend().await,
            Change::Resume => vm.resume().await,
        }?;
        Ok(vm.info().await?)
    })
    .await
}

pub(super) async fn info(args: Existing, settings: Settings) -> anyhow::Result<ExitCode> {
    let told = Telling {
        text: whole,
        ..TOLD
    };
    each(args, settings, told, async |vm| Ok(vm.info().await?)).await
}

pub(super) async fn destroy(args: Destroy, settings: Settings) -> anyhow::Result<ExitCode> {
    let foreign = args.foreign;
    let told = Telling {
        missing: Some("nothing to destroy"),
        may_be_missing: args.if_exists,
        ..TOLD
    };
    each(args.existing, settings, told, async |vm| {
        let mut info = vm.info().await?;
        if !foreign && info.details.get("made_by").map(String::as_str) != Some("bioxen") {
            anyhow::bail!("BioXen has not made it; say --foreign to destroy it all the same");
        }
        vm.destroy().await?;
        // What it was is known no longer to anybody else.
        info.state = VmState::Destroyed;
        info.address = None;
        Ok(info)
    })
    .await
}

/// How VMs are told of.
struct Telling {
    text: fn(&VmInfo) -> String,
    /// What is said first of one that is not there.
    missing: Option<&'static str>,
    /// Whether that is as good as success.
    may_be_missing: bool,
}

const TOLD: Telling = Telling {
    text: short,
    missing: None,
    may_be_missing: false,
};

/// Does something to each of the VMs, and tells what they are like then. Whatever fails is told, and
/// the others are done. One that is named again has had its turn.
async fn each(
    args: Existing,
    settings: Settings,
    told: Telling,
    act: impl AsyncFn(&Arc<dyn LuaVm>) -> anyhow::Result<VmInfo>,
) -> anyhow::Result<ExitCode> {
    let pool = pool(&args.common, settings)?;
    let work = on_pool(pool, async |pool| {
        let mut failed = Vec::new();
        for (at, which) in args.vms.iter().enumerate() {
            if args.vms[..at].contains(which) {
                continue;
            }
            let done = async {
                let vm = adopt(pool, which).await?;
                tell(&act(&vm).await?, &args.common, told.text)
            };
            if let Err(error) = done.await {
                // Errors of VMs name theirs.
                failed.push(match (error.downcast_ref::<Error>(), told.missing) {
                    (Some(known), Some(missing)) if known.kind() == ErrorKind::NotFound => {
                        let is_there = known.operation() != Some("find it");
                        let error = error.context(missing);
                        if told.may_be_missing && !is_there {
                            warn(&format!("{error:#}"));
                            continue;
                        }
                        error
                    }
                    (Some(_), _) => error,
                    (None, _) => error.context(format!("VM {which}")),
                });
            }
        }
        let last = failed.pop();
        for error in failed {
            warn(&format!("{error:#}"));
        }
        last.map_or(Ok(ExitCode::SUCCESS), Err)
    });
    to_the_end(work).await
}

pub(super) async fn list(args: Common, settings: Settings) -> anyhow::Result<ExitCode> {
    let pool = pool(&args, settings)?;
    on_pool(pool, async |pool| {
        let infos = pool.list().await?;
        if args.json {
            for info in &infos {
                tell(info, &args, short)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = Table::new([
            "VM", "STATE", "ADDRESS", "KEPT", "NAME", "TEMPLATE", "HOST", "UUID",
        ]);
        for info in &infos {
            let known = |key| info.details.get(key).cloned().unwrap_or_default();
            let kept = if known("kept") == "true" { "yes" } else { "no" };
            table.row([
                info.id.to_string(),
                info.state.to_string(),
                info.address.map(|it| it.to_string()).unwrap_or_default(),
                kept.to_owned(),
                known("name"),
                known("template"),
                known("host"),
                known("uuid"),
            ]);
        }
        table.print()?;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

pub(super) async fn clone(args: Clone, settings: Settings) -> anyhow::Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let pool = pool(&args.common, settings)?;
    on_pool(pool, async |pool| {
        let making = async {
            is_free(pool, &args.id).await?;
            let vm = adopt(pool, &args.vm).await?;
            Ok::<_, anyhow::Error>(vm.clone_vm(args.id.clone()).await?)
        };
        // What is there of a clone by then goes with the future.
        let made = match interrupts.unless(making).await {
            Ok(made) => made?,
            Err(interrupted) => return Ok(ExitCode::from(interrupted.exit_code())),
        };
        let keeping = async {
            made.start().await?;
            made.keep().await?;
            tell(&made.info().await?, &args.common, short)
        };
        let failed = match interrupts.unless(keeping).await {
            Ok(Ok(())) => return Ok(ExitCode::SUCCESS),
            Ok(Err(error)) => Err(error),
            Err(interrupted) => Ok(ExitCode::from(interrupted.exit_code())),
        };
        let left = made.destroy().await;
        match &failed {
            Ok(_) => left.context("interrupted, and the clone could not be removed")?,
            Err(error) => {
                left.with_context(|| format!("{error:#}, and the clone could not be removed"))?;
            }
        }
        failed
    })
    .await
}

pub(super) async fn migrate(args: Migrate, settings: Settings) -> anyhow::Result<ExitCode> {
    let existing = Existing {
        vms: vec![args.vm],
        common: args.common,
    };
    let host = args.host;
    let act = async |vm: &Arc<dyn LuaVm>| {
        vm.migrate(&host).await?;
        let info = vm.info().await?;
        if info.state == VmState::Stopped {
            warn(&format!(
                "{} does not run, so nothing was moved; it starts on {host} where it can",
                info.id
            ));
        }
        Ok(info)
    };
    each(existing, settings, TOLD, act).await
}

/// Prints what is known of a VM: as JSON, or as this text.
pub(super) fn tell(
    info: &VmInfo,
    args: &Common,
    text: fn(&VmInfo) -> String,
) -> anyhow::Result<()> {
    let text = match args.json {
        true => serde_json::to_string(info).context("cannot write JSON")?,
        false => text(info),
    };
    print(&format!("{text}\n"))
}

/// How a VM is, in a line.
pub(super) fn short(info: &VmInfo) -> String {
    let line = format!("{}: {}", info.id, info.state);
    match info.address {
        Some(address) => format!("{line} at {address}"),
        None => line,
    }
}

/// All that is known of a VM.
fn whole(info: &VmInfo) -> String {
    let details = info.details.iter();
    let lines = details.map(|(key, value)| format!("\n  {key}: {value}"));
    short(info) + &lines.collect::<String>()
}
