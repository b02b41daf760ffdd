//! The first state of a pool: what its model describes, as records.

mod hosts;
mod storage;
mod templates;

use std::net::IpAddr;

use secrecy::ExposeSecret as _;

use crate::backing::{Disk, GuestHost};
use crate::classes::{self, pif, sm, sr, vm_placement};
use crate::failure::Failure;
use crate::guest::GuestError;
use crate::model::{Model, NetworkSpec, UserSpec};
use crate::rbac;
use crate::value::Value;
use crate::world::{Card, World};

/// Why the first state cannot be made.
#[derive(Debug)]
pub(crate) enum Trouble {
    Guest(GuestError),
    /// The model contradicts itself.
    Model(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Model(failure.to_string())
    }
}

/// Fills an empty world and gives its hosts. A template whose VMs are guests needs a disk with a
/// system on it, and making that takes time.
pub(crate) async fn fill(
    world: &mut World,
    model: &Model,
    users: &[UserSpec],
    guests: &GuestHost,
) -> Result<Vec<String>, Trouble> {
    let hosts = hosts::add(world, model)?;
    for (number, seconds) in &model.skews {
        if let Some(host) = hosts.get(*number) {
            world.skews.insert(host.clone(), *seconds);
        }
    }
    add_management_network(world)?;
    sm::add_records(world)?;
    for network in &model.networks {
        add_network(world, &hosts, network)?;
    }
    let mut full = Vec::new();
    for spec in &model.srs {
        let made = storage::add(world, &hosts, spec)?;
        full.extend(made.into_iter().filter(|_| spec.full));
    }
    for spec in model.templates() {
        let disk = if spec.guest {
            let installed = guests.install(&spec.name, spec.report, spec.cloud_init);
            Some(Disk::System(installed.await.map_err(Trouble::Guest)?))
        } else {
            None
        };
        templates::add(world, spec, disk)?;
    }
    let network = model.networks.first().map(|network| network.name.as_str());
    for number in 0..model.vms {
        templates::add_vm(world, number, network)?;
    }
    for user in users {
        add_user(world, user)?;
    }
    // Now that all disks of the model have their place.
    for sr in full {
        world.full.insert(sr.clone());
        sr::account(world, &sr)?;
    }
    // The one that every pool has, whoever may log in.
    let root = vec![
        ("short_name", Value::from("root")),
        ("fullname", Value::from("superuser")),
    ];
    world.create("user", root)?;
    vm_placement::account(world);
    Ok(hosts)
}

/// Gives a host another address, if it is one.
pub(crate) fn move_host(world: &mut World, host: &str, address: IpAddr) {
    if address.is_unspecified() {
        return;
    }
    let address = address.to_string();
    let db = &mut world.db;
    // Hosts of the model never go.
    let _ = db.set("host", host, "address", address.as_str());
    for pif in db.list("host", host, "PIFs").unwrap_or_default() {
        if db.flag("PIF", &pif, "management").unwrap_or(false) {
            let _ = db.set("PIF", &pif, "IP", address.as_str());
        }
    }
}

fn add_user(world: &mut World, user: &UserSpec) -> Result<(), Failure> {
    let password = user.password.expose_secret();
    rbac::admit(world, &user.name, password, user.role.as_deref())
}

fn add_management_network(world: &mut World) -> Result<(), Failure> {
    let text = "Network on which guests will be assigned a private link-local IP address which \
                can be used to talk XenAPI";
    let values = vec![
        (
            "name_label",
            Value::from("Host internal management network"),
        ),
        ("name_description", Value::from(text)),
        ("bridge", Value::from("xenapi")),
        (
            "other_config",
            Value::map([
                ("is_guest_installer_network", "true"),
                ("is_host_internal_management_network", "true"),
                ("ip_begin", "169.254.0.1"),
                ("ip_end", "169.254.255.254"),
                ("netmask", "255.255.0.0"),
            ]),
        ),
    ];
    world.create("network", values).map(drop)
}

fn add_network(world: &mut World, hosts: &[String], spec: &NetworkSpec) -> Result<(), Failure> {
    let bridge = match &spec.device {
        Some(device) => format!(
            "xenbr{}",
            device.trim_start_matches(|c: char| !c.is_ascii_digit())
        ),
        None => classes::network::next_bridge(world),
    };
    let values = vec![
        ("name_label", Value::from(spec.name.as_str())),
        ("bridge", Value::String(bridge)),
    ];
    let network = world.create("network", values)?;
    let Some(device) = &spec.device else {
        return Ok(());
    };
    for (index, host) in hosts.iter().enumerate() {
        let card = world.db.list("host", host, "PIFs")?.len();
        let first = card == 0;
        let address = world.db.text("host", host, "address")?;
        let plugged = Card {
            host: host.clone(),
            device: device.clone(),
            mac: format!("00:16:3e:5e:{index:02x}:{card:02x}"),
        };
        let pif = pif::add_card(world, &plugged, &network, true)?;
        world.cards.push(plugged);
        let db = &mut world.db;
        db.set("PIF", &pif, "currently_attached", true)?;
        if first {
            db.set("PIF", &pif, "management", true)?;
            db.set("PIF", &pif, "ip_configuration_mode", "DHCP")?;
            db.set("PIF", &pif, "IP", address)?;
            db.set("PIF", &pif, "netmask", "255.255.255.0")?;
        }
    }
    Ok(())
}
