//! `bioxen net`: the networks of a pool, and the interfaces of hosts and VMs on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use bioxen_net::{
    Locking, Mac, NetworkSelector, NetworkSpec, Networks, NicSpec, Subnet, VlanSpec, Wanted,
};
use bioxen_vm_xcpng::XcpngBackend;

use super::interrupt::Interrupts;
use super::vms::{Common, adopt, on_pool, pool, to_the_end};
use crate::settings::Settings;
use isolate::Isolate;
use lines::{
    bond_table, each, interface_table, listed, network_table, nic_line, nic_table, show, tell,
    tell_there,
};

mod file;
mod isolate;
mod lasting;
mod lines;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the networks
    Ls(Common),
    /// Tell all about a network: what leads there, and which VMs are on it
    Show(One),
    /// List the interfaces of the hosts: cards, bonds and VLANs
    Interfaces(Common),
    /// List the bonds of the hosts
    Bonds(Common),
    /// List the interfaces of a VM
    Nics(OfVm),
    /// Say what would have to be done to have what a file wants; change nothing
    Plan(File),
    /// Make the pool have what a file wants
    Apply(File),
    /// Make a network, private or of a VLAN, or change one that is there
    Create(Create),
    /// Remove a network that BioXen has made and that no VM is on
    Rm(Rm),
    /// Give a VM an interface, also while it runs
    Attach(Attach),
    /// Take an interface from a VM, also while it runs
    Detach(Nic),
    /// Move an interface to another network, also while its VM runs
    Move(Move),
    /// Make VMs with a network of their own, with addresses and names
    Isolate(Box<Isolate>),
}

impl Command {
    /// Whether it changes the pool.
    fn changes(&self) -> bool {
        match self {
            Self::Apply(_) | Self::Rm(_) | Self::Attach(_) | Self::Detach(_) | Self::Move(_) => {
                true
            }
            Self::Create(create) => !create.dry_run,
            _ => false,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// Name, uuid, bridge or tag of a network, or `name:...`, `uuid:...`, `bridge:...`, `tag:...`
    #[arg(value_name = "NETWORK")]
    network: String,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// First destroy the VMs on it, with their disks, where BioXen has made all of them
    #[arg(long)]
    vms: bool,

    #[command(flatten)]
    one: One,
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
pub(super) struct File {
    /// A TOML file with tables [[network]] and [[nic]]
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    common: Common,
}

/// What a network that is made is like.
#[derive(Debug, clap::Args)]
struct Made {
    /// Carry this VLAN, `eth1:42`, on every host; without it the network is private
    #[arg(long, value_name = "DEVICE:TAG", value_parser = vlan)]
    vlan: Option<VlanSpec>,

    /// The addresses of its machines, `10.77.0.0/24`
    #[arg(long)]
    subnet: Option<Subnet>,

    /// Where its machines reach everything else
    #[arg(long)]
    gateway: Option<IpAddr>,

    /// The largest packet in bytes; 1500 by default
    #[arg(long)]
    mtu: Option<u16>,

    /// A host that must reach it; may be given several times
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
}

impl Made {
    fn spec(&self, name: &str) -> NetworkSpec {
        let mut spec = NetworkSpec::new(name);
        spec.mtu = self.mtu;
        spec.vlan.clone_from(&self.vlan);
        spec.subnet = self.subnet;
        spec.gateway = self.gateway;
        spec.hosts.clone_from(&self.hosts);
        spec
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The name of the network
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    made: Made,

    /// What it is for, in a line
    #[arg(long)]
    description: Option<String>,

    /// A tag besides "bioxen"; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,

    /// Only print what would be done
    #[arg(long, short = 'n')]
    dry_run: bool,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Attach {
    /// Id, name or UUID of a VM, or `tag:NAME`
    #[arg(value_name = "VM")]
    vm: String,

    /// Name, uuid, bridge or tag of a network
    #[arg(value_name = "NETWORK")]
    network: String,

    /// The number of the interface in the VM; the first free one by default
    #[arg(long)]
    device: Option<u8>,

    /// Its MAC address; one that the pool derives from the VM and the number by default
    #[arg(long)]
    mac: Option<Mac>,

    /// What it may send at most, in kilobytes per second
    #[arg(long, value_name = "KBPS")]
    rate: Option<u32>,

    /// Lock it to this address; may be given several times
    #[arg(long = "allow", value_name = "ADDRESS", conflicts_with = "locking")]
    allow: Vec<IpAddr>,

    /// Let it use any address, or none, whatever its network says
    #[arg(long, value_enum)]
    locking: Option<Fixed>,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Fixed {
    Unlocked,
    Disabled,
}

#[derive(Debug, clap::Args)]
pub(super) struct Nic {
    /// Id, name or UUID of a VM, or `tag:NAME`
    #[arg(value_name = "VM")]
    vm: String,

    /// The number of the interface in the VM
    #[arg(value_name = "DEVICE")]
    device: String,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Move {
    #[command(flatten)]
    nic: Nic,

    /// Name, uuid, bridge or tag of a network
    #[arg(value_name = "NETWORK")]
    network: String,
}

fn vlan(text: &str) -> Result<VlanSpec, String> {
    let (device, tag) = text.rsplit_once(':').unwrap_or((text, ""));
    let tag = tag.parse().map_err(|_| {
        "give the interface of the hosts and the number of the VLAN: eth1:42".to_owned()
    })?;
    let device = device.to_owned();
    Ok(VlanSpec { device, tag })
}

pub(super) async fn run(command: Command, settings: Settings) -> anyhow::Result<ExitCode> {
    if let Command::Isolate(args) = command {
        return isolate::isolate(*args, settings).await;
    }
    let common = match &command {
        Command::Ls(common) | Command::Interfaces(common) | Command::Bonds(common) => common,
        Command::Show(one) | Command::Rm(Rm { one, .. }) => &one.common,
        Command::Nics(OfVm { common, .. }) | Command::Detach(Nic { common, .. }) => common,
        Command::Plan(File { common, .. }) | Command::Apply(File { common, .. }) => common,
        Command::Create(Create { common, .. }) | Command::Attach(Attach { common, .. }) => common,
        Command::Move(Move { nic, .. }) => &nic.common,
        Command::Isolate(args) => args.common(),
    };
    let json = common.json();
    // What is wrong with a file is told without a pool.
    let wanted = match &command {
        Command::Plan(args) | Command::Apply(args) => Some(file::read(&args.file)?),
        _ => None,
    };
    let interrupts = Interrupts::listen()?;
    let pool = pool(common, settings)?;
    let work = on_pool(pool, async |pool| {
        let work = Box::pin(async {
            let networks = Networks::new(&pool.client().await?);
            act(&command, wanted.as_ref(), &networks, pool, json).await?;
            Ok(ExitCode::SUCCESS)
        });
        if command.changes() {
            return to_the_end(work).await;
        }
        match interrupts.unless(work).await {
            Ok(done) => done,
            Err(interrupted) => Ok(ExitCode::from(interrupted.exit_code())),
        }
    });
    work.await
}

async fn act(
    command: &Command,
    wanted: Option<&file::Read>,
    networks: &Networks,
    pool: &XcpngBackend,
    json: bool,
) -> anyhow::Result<()> {
    match command {
        Command::Ls(_) => listed(networks.list().await?, json, network_table),
        Command::Interfaces(_) => listed(networks.interfaces().await?, json, interface_table),
        Command::Bonds(_) => listed(networks.bonds().await?, json, bond_table),
        Command::Show(args) => show(networks, &args.network, json).await,
        Command::Nics(args) => {
            let vm = networks.find_vm(&args.vm).await?;
            listed(networks.nics(&vm).await?, json, nic_table)
        }
        Command::Plan(_) | Command::Apply(_) => {
            let Some(read) = wanted else { return Ok(()) };
            let plan = match command {
                Command::Plan(_) => networks.plan(&read.wanted).await.map_err(Into::into),
                _ => lasting::apply(networks, pool, &read.wanted).await,
            };
            let plan = plan.map_err(|error| read.explain(error))?;
            tell(&plan, json)?;
            match command {
                Command::Plan(_) => Ok(()),
                _ => tell_there(networks, &read.wanted, json).await,
            }
        }
        Command::Create(args) => {
            let mut spec = args.made.spec(&args.name);
            spec.description.clone_from(&args.description);
            spec.tags.clone_from(&args.tags);
            let wanted = Wanted::new().with_network(spec);
            match args.dry_run {
                true => tell(&networks.plan(&wanted).await?, json),
                false => {
                    tell(&lasting::apply(networks, pool, &wanted).await?, json)?;
                    tell_there(networks, &wanted, json).await
                }
            }
        }
        Command::Rm(Rm { vms, one }) => {
            if *vms {
                destroy_vms(networks, pool, &one.network).await?;
            }
            networks.remove(one.network.as_str()).await?;
            one.common.tell_removed(&one.network)
        }
        Command::Attach(args) => {
            let vm = networks.find_vm(&args.vm).await?;
            let nic = lasting::attach(networks, pool, &vm, &args.spec()).await?;
            each([nic], json, nic_line)
        }
        Command::Detach(args) => {
            let vm = networks.find_vm(&args.vm).await?;
            let nic = networks.nic(&vm, &args.device).await?;
            networks.detach(&nic).await?;
            let what = format!("interface {} of {}", args.device, args.vm);
            args.common.tell_removed(&what)
        }
        Command::Move(args) => {
            let vm = networks.find_vm(&args.nic.vm).await?;
            let nic = networks.nic(&vm, &args.nic.device).await?;
            let moved = networks.move_nic(&nic, args.network.as_str()).await?;
            each([moved], json, nic_line)
        }
        Command::Isolate(_) => Ok(()),
    }
}

/// Destroys the VMs on a network that is ours, if all of them are too.
async fn destroy_vms(
    networks: &Networks,
    pool: &XcpngBackend,
    network: &str,
) -> anyhow::Result<()> {
    let found = networks.find(network).await?;
    ensure!(
        found.ours,
        "network {found} was not made by BioXen, so it and the VMs on it stay"
    );
    // A snapshot goes with its VM; a VM may have several interfaces there.
    let mut vms = BTreeMap::new();
    for nic in networks.nics_on(NetworkSelector::Uuid(found.uuid)).await? {
        let of_vm = match &nic.snapshot {
            Some(snapshot) => snapshot.vm_uuid.clone(),
            None => Some(nic.vm_uuid.clone()),
        };
        let of_vm = of_vm.filter(|_| !nic.template);
        let of_vm =
            of_vm.with_context(|| format!("{} is of no VM; remove it first", nic.place()))?;
        vms.entry(of_vm).or_insert_with(|| nic.place());
    }
    let mut ours = Vec::new();
    for (uuid, place) in vms {
        let vm = adopt(pool, &uuid).await?;
        let made_by = vm.info().await?.details.get("made_by").cloned();
        ensure!(
            made_by.as_deref() == Some("bioxen"),
            "{place} is on the network and was not made by BioXen; detach it first"
        );
        ours.push(vm);
    }
    for vm in ours {
        vm.destroy().await?;
    }
    Ok(())
}

impl Attach {
    fn spec(&self) -> NicSpec {
        let mut spec = NicSpec::new(self.network.as_str());
        spec.device = self.device;
        spec.mac = self.mac;
        spec.rate = self.rate;
        spec.locking = match self.locking {
            Some(Fixed::Unlocked) => Locking::Unlocked,
            Some(Fixed::Disabled) => Locking::Disabled,
            None if self.allow.is_empty() => Locking::NetworkDefault,
            None => {
                let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
                for address in &self.allow {
                    match address {
                        IpAddr::V4(address) => ipv4.push(*address),
                        IpAddr::V6(address) => ipv6.push(*address),
                    }
                }
                Locking::Locked { ipv4, ipv6 }
            }
        };
        spec
    }
}
