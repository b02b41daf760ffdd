//! `bioxen snapshot`: what the disks of a VM of a pool held at some time.

use std::process::ExitCode;

use anyhow::Context as _;
use bioxen_vm_core::Snapshot;
use bioxen_vm_xcpng::DateTime;

use super::print;
use super::table::Table;
use super::vms::{self, Common, adopt, on_pool, pool, to_the_end};
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Keep what the disks of a VM hold now
    Create(Named),
    /// List the snapshots of a VM, the oldest first
    Ls(OfVm),
    /// Give a VM back what its disks held; it is stopped then
    Revert(Named),
    /// Remove a snapshot with its disks
    Rm(Named),
}

#[derive(Debug, clap::Args)]
pub(super) struct OfVm {
    /// Id, name or UUID of a VM, or `tag:NAME`
    #[arg(value_name = "VM")]
    vm: String,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    #[command(flatten)]
    of: OfVm,

    /// The name of the snapshot; to find one, its UUID will do too
    #[arg(value_name = "SNAPSHOT")]
    name: String,
}

pub(super) async fn run(command: Command, settings: Settings) -> anyhow::Result<ExitCode> {
    let of = match &command {
        Command::Ls(of) => of,
        Command::Create(named) | Command::Revert(named) | Command::Rm(named) => &named.of,
    };
    let pool = pool(&of.common, settings)?;
    let work = on_pool(pool, async |pool| {
        let vm = adopt(pool, &of.vm).await?;
        match &command {
            Command::Create(named) => tell(&vm.snapshot(&named.name).await?, of)?,
            Command::Ls(_) => list(&vm.snapshots().await?, of)?,
            Command::Revert(named) => {
                vm.revert(&named.name).await?;
                let info = vm.info().await?;
                vms::tell(&info, &of.common, |info| {
                    format!("{}, with the disks of the snapshot", vms::short(info))
                })?;
            }
            Command::Rm(named) => {
                vm.remove_snapshot(&named.name).await?;
                of.common.tell_removed(&named.name)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    });
    to_the_end(work).await
}

fn list(snapshots: &[Snapshot], of: &OfVm) -> anyhow::Result<()> {
    if of.common.json() {
        return snapshots.iter().try_for_each(|snapshot| tell(snapshot, of));
    }
    let mut table = Table::new(["SNAPSHOT", "MADE", "UUID"]);
    for Snapshot {
        id, name, created, ..
    } in snapshots
    {
        let created = format!("{:#}", DateTime::from(*created));
        table.row([name.clone(), created, id.clone()]);
    }
    table.print()
}

fn tell(snapshot: &Snapshot, of: &OfVm) -> anyhow::Result<()> {
    if of.common.json() {
        let json = serde_json::to_string(snapshot).context("cannot write JSON")?;
        return print(&format!("{json}\n"));
    }
    let created = DateTime::from(snapshot.created);
    let Snapshot { id, name, .. } = snapshot;
    print(&format!("{name} ({id}), made {created:#}\n"))
}
