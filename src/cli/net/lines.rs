//! What `bioxen net` prints.

use std::fmt::Display;

use anyhow::Context as _;
use bioxen_net::{
    BondInfo, HostInterface, Locking, NetworkInfo, NetworkKind, NetworkSelector, Networks, NicInfo,
    Plan, Wanted,
};
use serde::Serialize;
use serde_json::json;

use crate::cli::print;
use crate::cli::table::Table;

/// Prints things, one to a line.
pub(super) fn each<T: Serialize>(
    all: impl IntoIterator<Item = T>,
    json: bool,
    line: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    for one in all {
        let line = match json {
            true => serde_json::to_string(&one).context("cannot write JSON")?,
            false => line(&one),
        };
        print(&format!("{line}\n"))?;
    }
    Ok(())
}

/// Prints things: a table for people, for programs one to a line.
pub(super) fn listed<T: Serialize, const COLUMNS: usize>(
    all: Vec<T>,
    json: bool,
    table: impl Fn(&[T]) -> Table<COLUMNS>,
) -> anyhow::Result<()> {
    match json {
        true => each(all, true, |_| String::new()),
        false => table(&all).print(),
    }
}

/// Prints a plan: a step to a line.
pub(super) fn tell(plan: &Plan, json: bool) -> anyhow::Result<()> {
    if json {
        return each(&plan.steps, true, |_| String::new());
    }
    print(&format!("{plan}\n"))
}

/// Tells programs how the networks that were wanted are known on the pool, also where nothing had to be
/// done for them.
pub(super) async fn tell_there(
    networks: &Networks,
    wanted: &Wanted,
    json: bool,
) -> anyhow::Result<()> {
    for spec in wanted.networks.iter().filter(|_| json) {
        let named = NetworkSelector::Name(spec.name.clone());
        let uuid = networks.find(named).await?.uuid;
        let line = json!({"step": "ready", "network": spec.name, "uuid": uuid});
        print(&format!("{line}\n"))?;
    }
    Ok(())
}

/// Prints all about a network.
pub(super) async fn show(networks: &Networks, network: &str, json: bool) -> anyhow::Result<()> {
    /// A network with the interfaces of VMs on it.
    #[derive(Serialize)]
    struct Shown {
        #[serde(flatten)]
        network: NetworkInfo,
        nics: Vec<NicInfo>,
    }
    let network = networks.find(network).await?;
    let nics = networks.nics_on(NetworkSelector::Uuid(network.uuid.clone()));
    let nics = nics.await?;
    if json {
        return each([Shown { network, nics }], true, |_| String::new());
    }
    print(&format!("{}\n", network_line(&network)))?;
    let known = [
        ("description", network.description.clone()),
        ("tags", network.tags.join(", ")),
        ("locking", network.locking.clone()),
        (
            "subnet",
            network.subnet.map(|it| it.to_string()).unwrap_or_default(),
        ),
        (
            "gateway",
            network.gateway.map(|it| it.to_string()).unwrap_or_default(),
        ),
    ];
    for (key, value) in known.iter().filter(|(_, value)| !value.is_empty()) {
        print(&format!("  {key}: {value}\n"))?;
    }
    for interface in &network.interfaces {
        print(&format!("  {}\n", interface_line(interface)))?;
    }
    for nic in &nics {
        print(&format!("  {}\n", nic_line(nic)))?;
    }
    Ok(())
}

fn network_line(network: &NetworkInfo) -> String {
    let hosts = match &network.kind {
        NetworkKind::Private | NetworkKind::HostInternal => String::new(),
        _ => format!(" hosts={}", network.interfaces.len()),
    };
    let templates = match network.template_vifs {
        0 => String::new(),
        count => format!(" template_vifs={count}"),
    };
    let ours = if network.ours { " made by bioxen" } else { "" };
    format!(
        "{network}: {} mtu={} vifs={}{templates}{hosts} uuid={}{ours}",
        network.kind, network.mtu, network.vifs, network.uuid
    )
}

fn interface_line(interface: &HostInterface) -> String {
    let mut line = format!(
        "{interface}: on {:?} mac={} mtu={}",
        interface.network, interface.mac, interface.mtu
    );
    push(&mut line, "address", interface.address);
    push(&mut line, "part of", interface.part_of.as_ref());
    for (is, word) in [
        (interface.management, "management"),
        (!interface.attached, "down"),
    ] {
        if is {
            line.push_str(&format!(" {word}"));
        }
    }
    line
}

pub(super) fn nic_line(nic: &NicInfo) -> String {
    let mut line = format!(
        "{}: on {:?} mac={} mtu={}",
        nic.place(),
        nic.network,
        nic.mac,
        nic.mtu
    );
    push(&mut line, "rate", nic.rate);
    if nic.locking != Locking::NetworkDefault {
        line.push_str(&format!(" {}", nic.locking));
    }
    line.push_str(if nic.attached {
        " plugged in"
    } else {
        " unplugged"
    });
    line
}

pub(super) fn network_table(networks: &[NetworkInfo]) -> Table<9> {
    let mut table = Table::new([
        "NETWORK", "BRIDGE", "KIND", "SUBNET", "MTU", "VIFS", "HOSTS", "MADE BY", "UUID",
    ]);
    for network in networks {
        let hosts = match &network.kind {
            NetworkKind::Private | NetworkKind::HostInternal => String::new(),
            _ => network.interfaces.len().to_string(),
        };
        table.row([
            network.name.clone(),
            network.bridge.clone(),
            network.kind.to_string(),
            text(network.subnet),
            network.mtu.to_string(),
            network.vifs.to_string(),
            hosts,
            text(network.ours.then_some("bioxen")),
            network.uuid.clone(),
        ]);
    }
    table
}

pub(super) fn interface_table(interfaces: &[HostInterface]) -> Table<8> {
    let mut table = Table::new([
        "HOST",
        "INTERFACE",
        "NETWORK",
        "ADDRESS",
        "MTU",
        "MAC",
        "PART OF",
        "STATE",
    ]);
    for interface in interfaces {
        let state = match (interface.attached, interface.management) {
            (false, _) => "down",
            (true, true) => "up, management",
            (true, false) => "up",
        };
        let device = &interface.device;
        table.row([
            interface.host.clone(),
            match interface.vlan {
                Some(tag) => format!("{device} VLAN {tag}"),
                None => device.clone(),
            },
            interface.network.clone(),
            text(interface.address),
            interface.mtu.to_string(),
            interface.mac.to_string(),
            text(interface.part_of.as_ref()),
            state.to_owned(),
        ]);
    }
    table
}

pub(super) fn bond_table(bonds: &[BondInfo]) -> Table<6> {
    let mut table = Table::new(["HOST", "BOND", "NETWORK", "MODE", "PARTS", "LINKS UP"]);
    for bond in bonds {
        table.row([
            bond.host.clone(),
            bond.device.clone(),
            bond.network.clone(),
            bond.mode.to_string(),
            bond.parts.join("+"),
            bond.links_up.to_string(),
        ]);
    }
    table
}

pub(super) fn nic_table(nics: &[NicInfo]) -> Table<7> {
    let mut table = Table::new([
        "DEVICE", "NETWORK", "MAC", "MTU", "RATE", "LOCKING", "STATE",
    ]);
    for nic in nics {
        let state = if nic.attached {
            "plugged in"
        } else {
            "unplugged"
        };
        table.row([
            nic.device.clone(),
            nic.network.clone(),
            nic.mac.to_string(),
            nic.mtu.to_string(),
            text(nic.rate),
            nic.locking.to_string(),
            state.to_owned(),
        ]);
    }
    table
}

fn text(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

pub(super) fn push(line: &mut String, key: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        line.push_str(&format!(" {key}={value}"));
    }
}
