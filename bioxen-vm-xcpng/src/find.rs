//! Looks up what a configuration names.

use std::collections::{BTreeMap, BTreeSet};

use bioxen_vm_core::words::nearest_first;
use xapi_client::api::{
    Host, Network, NetworkRecord, Sr, Vbd, VbdRecord, VbdType, VdiRecord, Vm, VmRecord,
};
use xapi_client::{Class, Client, Ref};

use crate::backend::Origin;
use crate::deploy::{Drive, FirstDisk, Found, Named, Template, Told};
use crate::error::{Error, Result};
use crate::execute::AttachedDrive;
use crate::marks::is_config_drive;
use crate::placement::{self, Need, Networks};
use crate::settings::{Handover, Wish};
use crate::template::is_built_in;

/// What a template says of how its VMs get their keys, in its `other_config`.
pub(crate) const FIRST_CONTACT: &str = "bioxen:first-contact";
pub(crate) const BY_DRIVE: &str = "config-drive";
pub(crate) const BY_VM_DATA: &str = "vm-data";

/// Which VMs are templates. Snapshots count as such to the pool, not to people.
pub(crate) const TEMPLATES: &str = "((field \"is_a_template\" = \"true\") and \
                                    (field \"is_a_snapshot\" = \"false\")) and \
                                    (field \"is_control_domain\" = \"false\")";

/// Looks up the template, or the VM in its place, the storage and the networks of a wish, and what it
/// takes to hand the new VM its keys.
pub(crate) async fn find(
    client: &Client,
    wish: &Wish,
    origin: &Origin,
    handover: Option<Handover>,
) -> Result<Found> {
    let (reference, record) = match origin {
        Origin::Template => template(client, &wish.template).await?,
        Origin::Vm { vm, .. } => {
            let record = client.vm().get_record(vm).await;
            (
                vm.clone(),
                record.map_err(Error::pool("tell about the VM"))?,
            )
        }
    };
    let disks = drives(client, &reference)
        .await
        .map_err(Error::pool("list the disks of the template"))?;
    if disks.is_empty() {
        return Err(Error::Diskless {
            name: record.name_label,
        });
    }
    let sr = match &wish.sr {
        Some(name) => Some(sr(client, name).await?),
        None => None,
    };
    let networks = networks(client, wish).await?;
    if networks.is_empty() && record.vifs.is_empty() && matches!(origin, Origin::Template) {
        return Err(Error::NoInterface {
            template: record.name_label,
        });
    }
    let affinity = match &wish.affinity {
        Some(name) => Some(choose("host", name, hosts(client).await?)?),
        None => None,
    };
    let held = held(client, &disks).await?;
    let first = held
        .iter()
        .find(|(_, vdi)| !is_config_drive(&vdi.name_label));
    let disk = first.map(|(device, vdi)| FirstDisk {
        device: device.clone(),
        size: vdi.virtual_size,
    });
    let mut storage: BTreeSet<_> = match &sr {
        Some(sr) => [sr.reference.clone()].into(),
        None => held.iter().map(|(_, vdi)| vdi.sr.clone()).collect(),
    };
    let next_to = sr.as_ref().map(|sr| sr.reference.clone());
    let next_to = next_to.or_else(|| first.map(|(_, vdi)| vdi.sr.clone()));
    let mut places = Vec::new();
    for disk in &wish.disks {
        places.push(match &disk.sr {
            Some(name) => self::sr(client, name).await?.reference,
            None => next_to.clone().unwrap_or_else(Ref::null),
        });
    }
    storage.extend(places.iter().cloned());
    let by_drive = contact_of(&record) == BY_DRIVE;
    let told = match handover {
        None => Told::Nothing,
        Some(Handover::Drive) => Told::Drive(drive(held, sr.as_ref())),
        Some(Handover::AsTemplate) if by_drive => Told::Drive(drive(held, sr.as_ref())),
        Some(Handover::AsTemplate) if wish.needs_drive() => {
            let hint = with_cloud_init(client, &record.name_label).await?;
            let template = record.name_label;
            return Err(Error::NoDrive { template, hint });
        }
        Some(Handover::AsTemplate | Handover::VmData) => Told::VmData,
    };
    let template = Template::new(reference, record);
    let memory = match wish.memory {
        Some(memory) => i64::try_from(memory.0).unwrap_or(i64::MAX),
        None => template.least_memory(),
    };
    let need = Need {
        memory: memory.saturating_add(template.overhead(memory)),
        vcpus: template.vcpus(wish),
        storage,
        networks: match &networks[..] {
            [] => Networks::OfTemplate(template.reference.clone()),
            wanted => {
                let named = wanted
                    .iter()
                    .map(|it| (it.reference.clone(), it.name.clone()));
                Networks::Named(named.collect())
            }
        },
    };
    placement::check(client, &need).await?;
    Ok(Found {
        template,
        sr,
        networks,
        affinity,
        disk,
        places,
        told,
    })
}

/// The UUID of the pool, by which it is told from all others.
pub(crate) async fn pool_uuid(client: &Client) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Known {
        uuid: String,
    }
    let pools = client.pool().get_all_records().select().await;
    let pools: BTreeMap<Ref<xapi_client::api::Pool>, Known> =
        pools.map_err(Error::pool("tell its UUID"))?;
    // A server has one, always.
    let uuid = pools.into_values().map(|pool| pool.uuid).next();
    uuid.ok_or_else(|| Error::NotFound {
        what: "pool",
        name: "itself".to_owned(),
        hint: "the server has no record of it".to_owned(),
    })
}

/// The disks that are held by drives, each with its device.
async fn held(client: &Client, drives: &[VbdRecord]) -> Result<Vec<(String, VdiRecord)>> {
    let mut held = Vec::new();
    for drive in drives {
        let vdi = client.vdi().get_record(&drive.vdi).await;
        let vdi = vdi.map_err(Error::pool("tell about a disk of the template"))?;
        held.push((drive.userdevice.clone(), vdi));
    }
    Ok(held)
}

async fn hosts(client: &Client) -> Result<Vec<Named<Host>>> {
    let all = client.host().get_all_records().await;
    let all = all.map_err(Error::pool("list its hosts"))?;
    Ok(all
        .into_iter()
        .map(|(reference, record)| Named {
            reference,
            uuid: record.uuid.as_str().to_owned(),
            name: record.name_label,
        })
        .collect())
}

/// Where the config drive goes, and which ones the template has already.
fn drive(held: Vec<(String, VdiRecord)>, sr: Option<&Named<Sr>>) -> Drive {
    let mut storage = sr.map(|sr| sr.reference.clone());
    let mut old = Vec::new();
    for (device, vdi) in held {
        if is_config_drive(&vdi.name_label) {
            old.push(device);
        } else {
            storage.get_or_insert(vdi.sr);
        }
    }
    Drive {
        sr: storage.unwrap_or_else(Ref::null),
        old,
        addresses: BTreeMap::new(),
        hosts: None,
    }
}

async fn templates(client: &Client) -> Result<BTreeMap<Ref<Vm>, VmRecord>> {
    let all = client.vm().get_all_records_where(TEMPLATES);
    all.await.map_err(Error::pool("list its templates"))
}

/// What to use in place of a template that does not say that it has cloud-init.
async fn with_cloud_init(client: &Client, instead_of: &str) -> Result<String> {
    let all = templates(client).await?;
    let fit = all.values().filter(|one| contact_of(one) == BY_DRIVE);
    let names: Vec<_> = fit.map(|one| one.name_label.as_str()).collect();
    Ok(match names.is_empty() {
        true => "make one that has with bioxen template build".to_owned(),
        false => format!("choose one that has ({})", nearest_first(instead_of, names)),
    })
}

pub(crate) async fn template(client: &Client, name: &str) -> Result<(Ref<Vm>, VmRecord)> {
    let all = templates(client).await?;
    // Those that the pool brought along have no disks: they are found by who names them, and offered to
    // nobody.
    let is_called_so = |record: &VmRecord| {
        record.name_label == name || record.uuid.as_str().eq_ignore_ascii_case(name)
    };
    let named = all
        .iter()
        .filter(|(_, record)| is_called_so(record) || !is_built_in(&record.other_config))
        .map(|(reference, record)| Named {
            reference: reference.clone(),
            uuid: record.uuid.as_str().to_owned(),
            name: record.name_label.clone(),
        })
        .collect();
    let chosen = choose("template", name, named)?;
    let record = all.get(&chosen.reference).cloned().unwrap_or_default();
    Ok((chosen.reference, record))
}

/// The disk drives of a VM that hold a disk, in the order of their devices.
pub(crate) async fn drives(client: &Client, vm: &Ref<Vm>) -> xapi_client::Result<Vec<VbdRecord>> {
    let mut drives: Vec<_> = disks(client, vm)
        .await?
        .into_iter()
        .map(|(_, drive)| drive)
        .collect();
    drives.sort_by_key(|drive| (drive.userdevice.len(), drive.userdevice.clone()));
    Ok(drives)
}

/// The config drive that a VM has, if it has one of ours.
pub(crate) async fn config_drive(
    client: &Client,
    vm: &Ref<Vm>,
) -> xapi_client::Result<Option<AttachedDrive>> {
    for (device, drive) in disks(client, vm).await? {
        let name = client.vdi().get_name_label(&drive.vdi).await?;
        if is_config_drive(&name) {
            let disk = drive.vdi;
            return Ok(Some(AttachedDrive { device, disk }));
        }
    }
    Ok(None)
}

/// The disk drives of a VM that hold a disk.
pub(crate) async fn disks(
    client: &Client,
    vm: &Ref<Vm>,
) -> xapi_client::Result<Vec<(Ref<Vbd>, VbdRecord)>> {
    let drives = client
        .vbd()
        .get_all_records_where(&format!("field \"VM\" = \"{}\"", vm.as_str()))
        .await?;
    Ok(drives
        .into_iter()
        .filter(|(_, drive)| drive.type_ == VbdType::Disk && !drive.vdi.is_null())
        .collect())
}

pub(crate) async fn sr(client: &Client, name: &str) -> Result<Named<Sr>> {
    let all = client
        .sr()
        .get_all_records()
        .await
        .map_err(Error::pool("list its storage"))?;
    let named = all
        .into_iter()
        .filter(|(_, record)| record.content_type != "iso")
        .map(|(reference, record)| Named {
            reference,
            uuid: record.uuid.as_str().to_owned(),
            name: record.name_label,
        });
    choose("storage repository", name, named.collect())
}

/// The networks that a wish names.
pub(crate) async fn networks(client: &Client, wish: &Wish) -> Result<Vec<Named<Network>>> {
    if wish.networks.is_empty() {
        return Ok(Vec::new());
    }
    let all = client.network().get_all_records().await;
    let all = all.map_err(Error::pool("list its networks"))?;
    let names = wish.networks.iter();
    names.map(|name| network(name, &all)).collect()
}

/// The network of this name or UUID, or what `name:…`, `uuid:…`, `bridge:…` or `tag:…` means.
pub(crate) fn network(
    name: &str,
    all: &BTreeMap<Ref<Network>, NetworkRecord>,
) -> Result<Named<Network>> {
    let is_it = |one: &NetworkRecord| {
        let is_uuid = |text: &str| one.uuid.as_str().eq_ignore_ascii_case(text);
        match name.split_once(':') {
            Some(("uuid", uuid)) => is_uuid(uuid),
            Some(("name", name)) => one.name_label == name,
            Some(("bridge", bridge)) => one.bridge == bridge,
            Some(("tag", tag)) => one.tags.iter().any(|has| has == tag),
            _ => is_uuid(name) || one.name_label == name,
        }
    };
    let (matching, others): (Vec<_>, Vec<_>) = all.iter().partition(|(_, one)| is_it(one));
    let named = |all: Vec<(&Ref<Network>, &NetworkRecord)>| -> Vec<_> {
        let named = all.into_iter().map(|(reference, record)| Named {
            reference: reference.clone(),
            uuid: record.uuid.as_str().to_owned(),
            name: record.name_label.clone(),
        });
        named.collect()
    };
    the_one("network", name, named(matching), &named(others))
}

/// How VMs of a template get their keys unless the configuration says otherwise.
pub(crate) fn contact_of(template: &VmRecord) -> &str {
    let said = template.other_config.get(FIRST_CONTACT);
    said.map_or(BY_VM_DATA, String::as_str)
}

/// The one thing that has this name or UUID.
pub(crate) fn choose<T: Class>(
    what: &'static str,
    name: &str,
    all: Vec<Named<T>>,
) -> Result<Named<T>> {
    let is_it = |one: &Named<T>| one.uuid.eq_ignore_ascii_case(name) || one.name == name;
    let (matching, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_it);
    the_one(what, name, matching, &others)
}

fn the_one<T: Class>(
    what: &'static str,
    name: &str,
    mut matching: Vec<Named<T>>,
    others: &[Named<T>],
) -> Result<Named<T>> {
    match matching.len() {
        0 => Err(Error::NotFound {
            what,
            name: name.to_owned(),
            hint: match others {
                [] => "it has none".to_owned(),
                others => {
                    let others = others.iter().map(|one| one.name.as_str());
                    format!("there are: {}", nearest_first(name, others))
                }
            },
        }),
        1 => Ok(matching.remove(0)),
        _ => {
            let mut uuids: Vec<_> = matching.into_iter().map(|one| one.uuid).collect();
            uuids.sort_unstable();
            Err(Error::Ambiguous {
                what,
                name: name.to_owned(),
                uuids,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, uuid: &str) -> Named<Vm> {
        Named {
            reference: Ref::new(uuid),
            uuid: uuid.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_name_or_a_uuid_chooses() {
        let all = || vec![named("lua", "u1"), named("debian", "U2")];
        assert_eq!(choose("template", "lua", all()).unwrap().uuid, "u1");
        assert_eq!(choose("template", "u2", all()).unwrap().name, "debian");
    }

    #[test]
    fn two_of_a_name_are_listed_by_uuid() {
        let all = vec![named("lua", "u2"), named("lua", "u1"), named("x", "u3")];
        assert_eq!(
            choose("template", "lua", all).unwrap_err().to_string(),
            "the pool has 2 templates of the name \"lua\"; give the UUID of one of them instead: \
             u1, u2"
        );
    }

    #[test]
    fn a_network_is_also_named_by_its_bridge_or_a_tag() {
        let record = |uuid: &str, bridge: &str, tag: &str| {
            let mut record = NetworkRecord::default();
            record.uuid = uuid.into();
            record.name_label = "LAN".to_owned();
            record.bridge = bridge.to_owned();
            record.tags = vec![tag.to_owned()];
            (Ref::new(uuid), record)
        };
        let all = [record("U1", "xenbr0", "a"), record("U2", "xenbr1", "b")].into();
        let found = |name: &str| network(name, &all).map(|found| found.uuid);
        for name in ["u2", "uuid:U2", "bridge:xenbr1", "tag:b"] {
            assert_eq!(found(name).unwrap(), "U2", "{name}");
        }
        for name in ["LAN", "name:LAN"] {
            let error = found(name).unwrap_err();
            assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
        }
        for name in ["bridge:LAN", "xenbr0", "tag:c"] {
            let error = found(name).unwrap_err();
            assert!(matches!(error, Error::NotFound { .. }), "{error}");
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_similar_ones_first() {
        let all = vec![
            named("Windows", "1"),
            named("lua-bio-template", "2"),
            named("CentOS", "3"),
        ];
        let error = choose("template", "Lua-bio-tmplate", all).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no template \"Lua-bio-tmplate\" on the pool; there are: \
             \"lua-bio-template\", \"CentOS\", \"Windows\""
        );
        let many = (0..20)
            .map(|n| named(&format!("t{n}"), &n.to_string()))
            .collect();
        let error = choose("template", "x", many).unwrap_err().to_string();
        assert!(error.ends_with("and 12 more"), "{error}");
        let error = choose::<Vm>("template", "x", Vec::new()).unwrap_err();
        assert!(error.to_string().ends_with("it has none"), "{error}");
    }
}
