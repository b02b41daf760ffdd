//! Finds VMs that are on the pool already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bioxen_vm_core::{BackendConfig, VmId, VmInfo};
use serde::Deserialize;
use xapi_client::api::{Host, Vm, VmGuestMetrics, VmPowerState};
use xapi_client::{Client, Failure, Ref};

use crate::address;
use crate::backend::Shared;
use crate::config::XcpngConfig;
use crate::deploy::Named;
use crate::error::{Error, Result};
use crate::find::choose;
use crate::first_contact::FirstContact;
use crate::keyring::Keyring;
use crate::marks::{OWNER_NAME, VM_ID, is_kept, is_made_by_us};
use crate::progress::{Reporter, Stage};
use crate::settings::Keys;
use crate::vm::{Names, XcpngVm, state};

/// What a cloned VM is told it was cloned from.
const TEMPLATE: &str = "base_template_name";

/// What a selector starts with that names a tag.
const BY_TAG: &str = "tag:";

/// The fields that VMs are chosen by; whole records of a large pool are many megabytes.
#[derive(Debug, Clone, Deserialize)]
struct Known {
    uuid: String,
    name_label: String,
    power_state: VmPowerState,
    tags: Vec<String>,
    other_config: BTreeMap<String, String>,
    guest_metrics: Ref<VmGuestMetrics>,
    resident_on: Ref<Host>,
}

#[derive(Deserialize)]
struct Report {
    networks: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Called {
    name_label: String,
}

async fn all(client: &Client) -> Result<BTreeMap<Ref<Vm>, Known>> {
    client
        .vm()
        .get_all_records_where(
            "((field \"is_a_template\" = \"false\") and (field \"is_a_snapshot\" = \"false\")) \
             and (field \"is_control_domain\" = \"false\")",
        )
        .select()
        .await
        .map_err(Error::pool("list its VMs"))
}

/// Another VM that has the same id.
pub(crate) struct Rival {
    pub(crate) vm: Ref<Vm>,
    pub(crate) uuid: String,
    /// Whether it outlives the program that made it.
    pub(crate) is_kept: bool,
}

/// The VMs of this id that this project has made, but for one.
pub(crate) async fn rivals(client: &Client, id: &VmId, uuid: &str) -> Result<Vec<Rival>> {
    let is_rival = |known: &Known| {
        known.uuid != uuid
            && is_made_by_us(&known.uuid, &known.other_config)
            && known.other_config.get(VM_ID).map(String::as_str) == Some(id.as_str())
    };
    let all = all(client).await?.into_iter();
    let rivals = all.filter(|(_, known)| is_rival(known));
    let rivals = rivals.map(|(vm, known)| Rival {
        vm,
        is_kept: is_kept(&known.other_config),
        uuid: known.uuid,
    });
    Ok(rivals.collect())
}

/// Takes over the VM that this selects.
pub(crate) async fn adopt(
    shared: &Arc<Shared>,
    id: VmId,
    which: &str,
    reporter: Reporter,
) -> Result<XcpngVm> {
    let client = reporter.stage(Stage::Connect, shared.client()).await?;
    let mut all = all(client).await?;
    let chosen = select(&all, which)?;
    let known = all.remove(&chosen.reference);
    let template = known.and_then(|mut known| known.other_config.remove(TEMPLATE));
    let contact = way_in(shared, &chosen.uuid).await?;
    let names = Names {
        name: chosen.name,
        // No record here says that it has to be removed.
        working_name: String::new(),
        template: template.unwrap_or_default(),
    };
    let vm = (chosen.reference, chosen.uuid);
    Ok(XcpngVm::adopted(
        id,
        Arc::clone(shared),
        vm,
        names,
        contact,
        reporter,
    ))
}

/// The one VM that has this UUID, name or id of ours, or this tag.
fn select(all: &BTreeMap<Ref<Vm>, Known>, which: &str) -> Result<Named<Vm>> {
    let tag = which.strip_prefix(BY_TAG);
    let named = all.iter().map(|(reference, known)| {
        let has_tag = tag.is_some_and(|tag| known.tags.iter().any(|has| has == tag));
        let is_ours = is_made_by_us(&known.uuid, &known.other_config);
        let id = known.other_config.get(VM_ID).filter(|_| is_ours);
        let has_id = id.is_some_and(|id| id == which);
        let name = match has_tag || has_id || known.name_label == which {
            true => which,
            // What is listed for one who asks in vain, is listed as it is called.
            false => id.unwrap_or(&known.name_label),
        };
        Named {
            reference: reference.clone(),
            uuid: known.uuid.clone(),
            name: name.to_owned(),
        }
    });
    let mut chosen = choose("VM", which, named.collect())?;
    if let Some(known) = all.get(&chosen.reference) {
        chosen.name.clone_from(&known.name_label);
    }
    Ok(chosen)
}

/// How a VM is logged in to: as was kept on this machine, or as the configuration says.
async fn way_in(shared: &Shared, uuid: &str) -> Result<Option<FirstContact>> {
    let settings = shared.settings();
    if let Some(dir) = &settings.state_dir {
        let kept = Keyring::at(dir).load(uuid.to_owned()).await;
        if let Some(way_in) = kept.map_err(Error::Ledger)? {
            return Ok(Some(FirstContact::kept(way_in)));
        }
    }
    match settings.login.keys {
        Keys::Fixed { .. } => FirstContact::new(&settings.login).map(Some),
        Keys::PerVm(_) => Ok(None),
    }
}

/// So many objects are asked about one by one; for more, the whole class of a large pool is cheaper.
const FEW: usize = 2;

/// What guest tools report.
async fn reports(
    client: &Client,
    of: &[&Ref<VmGuestMetrics>],
) -> Result<BTreeMap<Ref<VmGuestMetrics>, Report>> {
    let failed = || Error::pool("list the reports of guest tools");
    let api = client.vm_guest_metrics();
    if of.len() > FEW {
        return api.get_all_records().select().await.map_err(failed());
    }
    let mut reports = BTreeMap::new();
    for one in of {
        match api.get_networks(one).await {
            Ok(networks) => {
                reports.insert((*one).clone(), Report { networks });
            }
            // A report of an earlier run, which goes as soon as there is a newer one.
            Err(error) if error.failure().is_some_and(Failure::is_gone) => {}
            Err(error) => return Err(failed()(error)),
        }
    }
    Ok(reports)
}

/// What hosts are called.
async fn hosts_of(
    client: &Client,
    of: &BTreeSet<&Ref<Host>>,
) -> Result<BTreeMap<Ref<Host>, Called>> {
    let failed = || Error::pool("list its hosts");
    if of.len() > FEW {
        let hosts = client.host().get_all_records().select().await;
        return hosts.map_err(failed());
    }
    let mut hosts = BTreeMap::new();
    for host in of {
        let name_label = client.host().get_name_label(host).await.map_err(failed())?;
        hosts.insert((*host).clone(), Called { name_label });
    }
    Ok(hosts)
}

/// The VMs that this project has made, sorted by id.
pub(crate) async fn list(shared: &Shared) -> Result<Vec<VmInfo>> {
    let client = shared.client().await?;
    let ours: Vec<_> = all(client)
        .await?
        .into_values()
        .filter(|known| is_made_by_us(&known.uuid, &known.other_config))
        .collect();
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let running = ours
        .iter()
        .filter(|known| known.power_state == VmPowerState::Running);
    let running: Vec<_> = running
        .filter_map(|known| known.guest_metrics.non_null())
        .collect();
    let reports = reports(client, &running).await?;
    let hosts: BTreeSet<_> = ours
        .iter()
        .filter_map(|known| known.resident_on.non_null())
        .collect();
    let hosts = hosts_of(client, &hosts).await?;
    let within = &shared.settings().wish.address_cidr;
    let mut infos: Vec<_> = ours
        .into_iter()
        .filter_map(|known| {
            // Nobody else writes our marks, so there is one.
            let id = VmId::new(known.other_config.get(VM_ID)?.clone()).ok()?;
            let now = state(&known.power_state);
            let mut info = VmInfo::new(id, XcpngConfig::VM_TYPE, now);
            if known.power_state == VmPowerState::Running {
                let report = reports.get(&known.guest_metrics);
                info.address = report.and_then(|report| address::choose(&report.networks, within));
            }
            let mut tell = |key: &str, value: String| info.details.insert(key.to_owned(), value);
            if let Some(template) = known.other_config.get(TEMPLATE) {
                tell("template", template.clone());
            }
            if let Some(host) = hosts.get(&known.resident_on) {
                tell("host", host.name_label.clone());
            }
            tell("made_by", OWNER_NAME.to_owned());
            tell("kept", is_kept(&known.other_config).to_string());
            tell("name", known.name_label);
            tell("uuid", known.uuid);
            Some(info)
        })
        .collect();
    infos.sort_by(|a, b| (&a.id, &a.details).cmp(&(&b.id, &b.details)));
    Ok(infos)
}
