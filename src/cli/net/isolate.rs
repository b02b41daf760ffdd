//! `bioxen net isolate`: VMs with a network of their own.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use bioxen_vm_core::{BackendConfig as _, VmId};
use bioxen_vm_xcpng::XcpngConfig;
use serde::Serialize;

use super::Made;
use super::lines::{each, push};
use crate::cli::config;
use crate::cli::interrupt::Interrupts;
use crate::cli::vms::{Common, is_free};
use crate::cli::waiting::doing;
use crate::group::{GroupSpec, Preset, VmGroup};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Isolate {
    /// The name of the network that is made; with another preset, a network that is there
    #[arg(value_name = "NETWORK")]
    network: String,

    /// The ids of the VMs that are made
    #[arg(value_name = "VM", required = true)]
    vms: Vec<VmId>,

    /// What network the VMs are on
    #[arg(long, value_enum, default_value_t = Wish::Own)]
    preset: Wish,

    #[command(flatten)]
    made: Made,

    /// Put the VMs on no other network: they are reached there
    #[arg(long)]
    alone: bool,

    /// Let the hosts drop what a VM sends from another address than its own
    #[arg(long)]
    lock: bool,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wish {
    /// One that is made for them, beside that by which they are reached
    Own,
    /// One that is there, with addresses from its DHCP server
    Lan,
    /// The one by which they are reached, each locked to its address there
    SshOnly,
}

impl Isolate {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    /// Refuses what says how a network is made when none is.
    fn check(&self) -> anyhow::Result<()> {
        let made = &self.made;
        let given = [
            ("--vlan", made.vlan.is_some()),
            ("--subnet", made.subnet.is_some()),
            ("--gateway", made.gateway.is_some()),
            ("--mtu", made.mtu.is_some()),
            ("--host", !made.hosts.is_empty()),
            ("--alone", self.alone),
        ];
        let given = given.iter().filter(|(_, is_given)| *is_given);
        let given: Vec<_> = given.map(|(option, _)| *option).collect();
        ensure!(
            self.preset == Wish::Own || given.is_empty(),
            "{} would say how a network is made, and with this --preset the VMs are on one that is there; \
             leave it out, or leave out --preset",
            given.join(", ")
        );
        Ok(())
    }
}

/// Makes VMs with a network of their own that outlive this program, or leaves nothing.
pub(super) async fn isolate(args: Isolate, mut settings: Settings) -> anyhow::Result<ExitCode> {
    args.check()?;
    for assignment in args.common.settings() {
        settings.set(XcpngConfig::VM_TYPE, assignment)?;
    }
    let interrupts = Interrupts::listen()?;
    let mut config = config(&settings, XcpngConfig::VM_TYPE)?;
    let preset = match args.preset {
        Wish::Own => Preset::Own {
            network: args.made.spec(&args.network),
            alone: args.alone,
        },
        Wish::Lan => Preset::Lan(args.network.as_str().into()),
        Wish::SshOnly => {
            config["network"] = vec![args.network.as_str()].into();
            Preset::ReachedOnly
        }
    };
    let mut spec = GroupSpec::new(preset, args.vms.clone());
    if args.lock || args.preset == Wish::SshOnly {
        spec = spec.with_locking();
    }
    let group = VmGroup::new(config, spec)?;
    let work = async {
        for id in &args.vms {
            is_free(group.backend(), id).await?;
        }
        group.create().await?;
        group.start().await?;
        let mut members = Vec::new();
        let mut vms = group.vms().await;
        // In the order in which they were named.
        let named = args.vms.iter().filter_map(|id| vms.remove_entry(id));
        for (id, vm) in named.collect::<Vec<_>>() {
            let reached = vm.info().await?.address;
            let own = group.addresses().get(&id).copied();
            members.push(Member { id, reached, own });
        }
        Ok(members)
    };
    let names: Vec<_> = args.vms.iter().map(VmId::as_str).collect();
    let what = format!("making {}", names.join(", "));
    let work = doing(&what, work);
    let done: Result<anyhow::Result<_>, _> = interrupts.unless(Box::pin(work)).await;
    match done {
        Ok(Ok(members)) => match group.keep().await {
            // What is told of is there to stay.
            Ok(()) => {
                each(members, args.common.json(), Member::line)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                let left = group.destroy().await;
                left.context(format!("{error}, and not all could be removed"))?;
                Err(error.into())
            }
        },
        Ok(Err(error)) => {
            let left = group.destroy().await;
            left.context(format!("{error:#}, and not all could be removed"))?;
            Err(error)
        }
        Err(interrupted) => {
            let left = group.destroy().await;
            left.context("interrupted, and not all could be removed")?;
            Ok(ExitCode::from(interrupted.exit_code()))
        }
    }
}

/// A VM of a group.
#[derive(Serialize)]
struct Member {
    id: VmId,
    /// Where it is reached from here.
    #[serde(rename = "address")]
    reached: Option<IpAddr>,
    /// Its address on the network that was made.
    #[serde(rename = "own_address")]
    own: Option<IpAddr>,
}

impl Member {
    fn line(&self) -> String {
        let mut line = format!("{}: running", self.id);
        push(&mut line, "address", self.reached);
        push(&mut line, "own_address", self.own);
        line
    }
}
