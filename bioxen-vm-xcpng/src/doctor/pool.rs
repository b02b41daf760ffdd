//! What the pool has for a VM.

use std::collections::BTreeMap;

use bioxen_vm_core::VmId;
use bioxen_vm_core::words::ByteSize;
use xapi_client::api::{
    Host, HostRecord, Network, NetworkRecord, PbdRecord, Pif, PifRecord, Sr, SrRecord, VdiRecord,
    Vm, VmRecord,
};
use xapi_client::{Client, Ref};

use super::{Check, Finding, Report, Told};
use crate::backend::{Origin, random_name};
use crate::config::CloneMode;
use crate::deploy::Plan;
use crate::error::{Error, Result};
use crate::find;
use crate::marks::Run;
use crate::settings::{Keys, Settings, Wish};

/// What a deployment does with a VM, from its template to its end.
const PERMISSIONS: [&str; 17] = [
    "vm.clone",
    "vm.copy",
    "vm.provision",
    "vm.set_memory_limits",
    "vm.set_vcpus_max",
    "vm.set_name_label",
    "vm.set_other_config",
    "vm.set_xenstore_data",
    "vm.start",
    "vm.hard_shutdown",
    "vm.destroy",
    "vdi.create",
    "vdi.destroy",
    "vbd.create",
    "vbd.unplug",
    "vif.create",
    "vif.destroy",
];

/// The oldest version of the API that has been tried: that of XCP-ng 8.2.
const OLDEST: (i64, i64) = (2, 15);

/// What a fast clone takes on storage that shares data, with room for what the VM will write.
const THIN: u64 = 2 << 30;

/// Storage on which every clone takes the whole size of its disk.
fn is_thick(kind: &str) -> bool {
    kind.starts_with("lvm")
}

/// Looks at the pool as far as a deployment needs it.
pub(super) async fn look<F: FnMut(Told<'_>) + Send>(
    client: &Client,
    settings: &Settings,
    report: &mut Report<F>,
) {
    report.begin(Check::Role);
    report.add(or_failed(Check::Role, role(client, settings).await));
    report.begin(Check::ApiVersion);
    let hosts = hosts(client).await;
    match &hosts {
        Ok(hosts) => report.add(or_failed(Check::ApiVersion, version(client, hosts).await)),
        Err(error) => report.add(Finding::of(Check::ApiVersion, error)),
    }
    let wish = &settings.wish;
    // What only a plan finds stands where it belongs.
    let unplanned = plan(client, settings).await.err();
    report.begin(Check::Template);
    let template = match template(client, settings).await {
        Ok((finding, template)) => {
            report.add(finding);
            Some(template)
        }
        Err(error) => {
            report.add(Finding::of(Check::Template, &error));
            None
        }
    };
    report.add_new(Check::Template, unplanned.as_ref());
    report.begin(Check::Storage);
    match &template {
        Some(template) => {
            let found = storage(client, wish, &template.disks).await;
            report.add_all(Check::Storage, found);
        }
        None => report.add(Finding::skipped(Check::Storage, Check::Template)),
    }
    report.add_new(Check::Storage, unplanned.as_ref());
    report.begin(Check::Memory);
    let of_template = template.as_ref().map(|template| &template.record);
    let wanted = wish
        .memory
        .map(|memory| memory.0)
        .or(of_template.map(|record| record.memory_static_max.unsigned_abs()));
    report.add(match (&hosts, wanted) {
        (Ok(hosts), Some(wanted)) => or_failed(Check::Memory, memory(client, wanted, hosts).await),
        (Err(error), _) => Finding::of(Check::Memory, error),
        (Ok(_), None) => Finding::skipped(Check::Memory, Check::Template),
    });
    report.add_new(Check::Memory, unplanned.as_ref());
    report.begin(Check::Network);
    if wish.networks.is_empty() && template.is_none() {
        report.add(Finding::skipped(Check::Network, Check::Template));
    } else {
        let found = networks(client, wish, of_template).await;
        report.add_all(Check::Network, found);
    }
    report.add_new(Check::Network, unplanned.as_ref());
}

/// Plans a VM, as a deployment would.
async fn plan(client: &Client, settings: &Settings) -> Result<()> {
    let handover = match &settings.login.keys {
        Keys::PerVm(handover) => Some(*handover),
        Keys::Fixed { .. } => None,
    };
    let found = find::find(client, &settings.wish, &Origin::Template, handover).await?;
    let name = random_name();
    let id = VmId::new(format!("doctor-{name}"));
    let id = id.map_err(|error| Error::Guest(Box::new(error)))?;
    let run = Run::now(&name, settings.expiry);
    Plan::new(&id, &run, &name, &settings.wish, found).map(drop)
}

/// The check that an error of a plan belongs to.
fn place(error: &Error) -> Check {
    match error.check() {
        check @ (Check::Template | Check::Storage | Check::Network) => check,
        _ => Check::Memory,
    }
}

fn or_failed(check: Check, result: Result<Finding>) -> Finding {
    result.unwrap_or_else(|error| Finding::of(check, &error))
}

impl<F: FnMut(Told<'_>) + Send> Report<F> {
    /// Tells what a plan failed for, if that is of this check. A plan fails for one thing, which may be
    /// what was found in another way.
    fn add_new(&mut self, check: Check, unplanned: Option<&Error>) {
        let error = unplanned.filter(|error| place(error) == check);
        if let Some(error) = error.filter(|_| self.failed.is_empty()) {
            self.add(Finding::of(check, error));
        }
    }

    fn add_all(&mut self, check: Check, result: Result<Vec<Finding>>) {
        match result {
            Ok(findings) => findings.into_iter().for_each(|finding| self.add(finding)),
            Err(error) => self.add(Finding::of(check, &error)),
        }
    }
}

async fn role(client: &Client, settings: &Settings) -> Result<Finding> {
    let failed = || Error::pool("tell what this user may do");
    let session = client.session_ref().map_err(failed())?;
    let api = client.session();
    let user = &settings.username;
    if api
        .get_is_local_superuser(&session)
        .await
        .map_err(failed())?
    {
        return Ok(Finding::good(
            Check::Role,
            format!("{user:?} may do everything"),
        ));
    }
    let allowed = api.get_rbac_permissions(&session).await.map_err(failed())?;
    let is_allowed = |name: &&str| allowed.iter().any(|has| has.eq_ignore_ascii_case(name));
    let missing: Vec<_> = PERMISSIONS
        .into_iter()
        .filter(|name| !is_allowed(name))
        .collect();
    Ok(if missing.is_empty() {
        Finding::good(
            Check::Role,
            format!("{user:?} may make, start and remove VMs"),
        )
    } else {
        Finding::failed(
            Check::Role,
            format!("{user:?} may not use {}", missing.join(", ")),
            "give the user the role vm-power-admin, or set username to one that has it",
        )
    })
}

async fn hosts(client: &Client) -> Result<BTreeMap<Ref<Host>, HostRecord>> {
    let hosts = client.host().get_all_records().await;
    hosts.map_err(Error::pool("list its hosts"))
}

async fn version(client: &Client, hosts: &BTreeMap<Ref<Host>, HostRecord>) -> Result<Finding> {
    let pools = client.pool().get_all_records().await;
    let pools = pools.map_err(Error::pool("tell about itself"))?;
    let coordinator = pools.into_values().next().map(|pool| pool.master);
    let Some(host) = coordinator.and_then(|host| hosts.get(&host)) else {
        return Ok(Finding::warning(
            Check::ApiVersion,
            "the pool does not tell its coordinator",
            "restart the toolstack of the coordinator (xe-toolstack-restart)",
        ));
    };
    let (major, minor) = (host.api_version_major, host.api_version_minor);
    let product = |key: &str| host.software_version.get(key).map_or("", String::as_str);
    let found = format!(
        "{} {} with API {major}.{minor}",
        product("product_brand"),
        product("product_version")
    );
    Ok(if (major, minor) >= OLDEST {
        Finding::good(Check::ApiVersion, found)
    } else {
        Finding::warning(
            Check::ApiVersion,
            format!("{found} is older than what has been tried"),
            "update the pool to XCP-ng 8.2 or later",
        )
    })
}

struct Template {
    record: VmRecord,
    disks: Vec<VdiRecord>,
}

async fn template(client: &Client, settings: &Settings) -> Result<(Finding, Template)> {
    let (reference, record) = find::template(client, &settings.wish.template).await?;
    let disks = disks(client, &reference).await?;
    if disks.is_empty() {
        return Err(Error::Diskless {
            name: record.name_label,
        });
    }
    if let Some(memory) = settings.wish.memory
        && memory.0 < record.memory_static_min.unsigned_abs()
    {
        return Err(Error::MemoryTooSmall {
            memory,
            minimum: ByteSize(record.memory_static_min.unsigned_abs()),
            template: record.name_label,
        });
    }
    let contact = find::contact_of(&record);
    let found = format!(
        "{:?} ({}), disks of {} in all, VMs get their keys by {contact}",
        record.name_label,
        record.uuid.as_str(),
        ByteSize(total(&disks)),
    );
    Ok((
        Finding::good(Check::Template, found),
        Template { record, disks },
    ))
}

async fn disks(client: &Client, vm: &Ref<Vm>) -> Result<Vec<VdiRecord>> {
    let failed = || Error::pool("list the disks of the template");
    let mut disks = Vec::new();
    for drive in find::drives(client, vm).await.map_err(failed())? {
        let disk = client.vdi().get_record(&drive.vdi).await;
        disks.push(disk.map_err(failed())?);
    }
    Ok(disks)
}

fn total(disks: &[VdiRecord]) -> u64 {
    disks
        .iter()
        .map(|disk| disk.virtual_size.unsigned_abs())
        .sum()
}

async fn storage(client: &Client, wish: &Wish, disks: &[VdiRecord]) -> Result<Vec<Finding>> {
    let failed = || Error::pool("tell about its storage");
    // How much goes to which.
    let mut needs: BTreeMap<Ref<Sr>, u64> = BTreeMap::new();
    let copy = wish.clone == CloneMode::Copy;
    match &wish.sr {
        Some(name) => {
            let sr = find::sr(client, name).await?;
            needs.insert(sr.reference, total(disks));
        }
        None => {
            for disk in disks {
                *needs.entry(disk.sr.clone()).or_default() += disk.virtual_size.unsigned_abs();
            }
        }
    }
    let mut findings = Vec::new();
    for (sr, size) in needs {
        let record = client.sr().get_record(&sr).await.map_err(failed())?;
        let plugs = client
            .pbd()
            .get_all_records_where(&format!("field \"SR\" = \"{}\"", sr.as_str()))
            .await
            .map_err(failed())?;
        let shares = !copy && !is_thick(&record.type_);
        let needed = if shares { THIN.min(size) } else { size };
        findings.push(room(&record, plugs.into_values().collect(), needed));
    }
    Ok(findings)
}

fn room(sr: &SrRecord, plugs: Vec<PbdRecord>, needed: u64) -> Finding {
    let name = &sr.name_label;
    if !plugs.iter().any(|plug| plug.currently_attached) {
        return Finding::failed(
            Check::Storage,
            format!("no host is connected to storage {name:?}"),
            format!(
                "look at it with `xe pbd-list sr-uuid={}`, and plug it",
                sr.uuid.as_str()
            ),
        );
    }
    let free = sr.physical_size.saturating_sub(sr.physical_utilisation);
    let free = u64::try_from(free).unwrap_or(0);
    let found = format!(
        "storage {name:?} ({}) has {} free, a VM needs about {}",
        sr.type_,
        shown(free),
        shown(needed)
    );
    if free < needed {
        return Finding::failed(
            Check::Storage,
            found,
            "remove what is not needed there (`bioxen gc` removes what killed runs left), or set sr \
             with clone = \"copy\"",
        );
    }
    let detached = plugs.iter().filter(|plug| !plug.currently_attached).count();
    if detached > 0 {
        return Finding::warning(
            Check::Storage,
            format!("{found}, and {detached} hosts are not connected to it"),
            format!(
                "look at it with `xe pbd-list sr-uuid={}`, and plug it",
                sr.uuid.as_str()
            ),
        );
    }
    Finding::good(Check::Storage, found)
}

/// A size for people: to a tenth of the largest unit.
fn shown(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 1.0 {
        format!("{:.0} MiB", gib * 1024.0)
    } else {
        format!("{gib:.1} GiB")
    }
}

async fn memory(
    client: &Client,
    wanted: u64,
    hosts: &BTreeMap<Ref<Host>, HostRecord>,
) -> Result<Finding> {
    let mut seen = Vec::new();
    let mut fits = false;
    for (host, record) in hosts {
        let name = &record.name_label;
        if !record.enabled {
            seen.push(format!("{name} is disabled"));
            continue;
        }
        let free = client.host().compute_free_memory(host).await;
        let free = free.map_err(Error::pool("tell the free memory of a host"))?;
        let free = u64::try_from(free).unwrap_or(0);
        fits |= free >= wanted;
        seen.push(format!("{name} has {} free", shown(free)));
    }
    let found = format!("a VM needs {}; {}", shown(wanted), seen.join(", "));
    Ok(if fits {
        Finding::good(Check::Memory, found)
    } else {
        Finding::failed(
            Check::Memory,
            found,
            "set memory to less, stop VMs, or enable a host",
        )
    })
}

async fn networks(
    client: &Client,
    wish: &Wish,
    template: Option<&VmRecord>,
) -> Result<Vec<Finding>> {
    let failed = || Error::pool("tell about its networks");
    let all = client.network().get_all_records().await.map_err(failed())?;
    let pifs = client.pif().get_all_records().await.map_err(failed())?;
    let mut wanted: Vec<Ref<Network>> = Vec::new();
    let mut findings = Vec::new();
    if wish.networks.is_empty() {
        for vif in template.map_or(&[][..], |template| &template.vifs) {
            let network = client.vif().get_network(vif).await;
            wanted.push(network.map_err(failed())?);
        }
    } else {
        for name in &wish.networks {
            match find::network(name, &all) {
                Ok(found) => wanted.push(found.reference),
                Err(error) => findings.push(Finding::of(Check::Network, &error)),
            }
        }
    }
    if wanted.is_empty() && findings.is_empty() {
        return Ok(vec![Finding::failed(
            Check::Network,
            "neither the configuration nor the template gives VMs an interface",
            "set network to the name of one of the pool's networks",
        )]);
    }
    for reference in wanted {
        if let Some(record) = all.get(&reference) {
            findings.push(connected(client, record, &pifs).await?);
        }
    }
    Ok(findings)
}

async fn connected(
    client: &Client,
    network: &NetworkRecord,
    all: &BTreeMap<Ref<Pif>, PifRecord>,
) -> Result<Finding> {
    let name = &network.name_label;
    let cards: Vec<_> = network.pifs.iter().filter_map(|pif| all.get(pif)).collect();
    if cards.is_empty() {
        return Ok(Finding::warning(
            Check::Network,
            format!("network {name:?} is internal to a host: nothing outside reaches its VMs"),
            "set network to one with a physical interface, unless this machine is a VM on it",
        ));
    }
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for card in cards {
        let carrier = match card.metrics.non_null() {
            Some(metrics) => client.pif_metrics().get_carrier(metrics).await,
            None => Ok(true),
        };
        let carrier = carrier.map_err(Error::pool("tell about a network card"))?;
        match (card.currently_attached, carrier) {
            (true, true) => up.push(card.device.clone()),
            (true, false) => down.push(format!("{} has no carrier", card.device)),
            (false, _) => down.push(format!("{} is unplugged", card.device)),
        }
    }
    let remedy = "check the cable and the port of the switch, or plug it (`xe pif-plug`)";
    Ok(if up.is_empty() {
        let found = format!("network {name:?} is not connected: {}", down.join(", "));
        Finding::failed(Check::Network, found, remedy)
    } else if !down.is_empty() {
        let found = format!("network {name:?} is connected in part: {}", down.join(", "));
        Finding::warning(Check::Network, found, remedy)
    } else {
        up.dedup();
        let found = format!("network {name:?} is connected by {}", up.join(", "));
        Finding::good(Check::Network, found)
    })
}
