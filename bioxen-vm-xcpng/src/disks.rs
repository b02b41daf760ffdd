//! Whose the disks of a VM are: what destroys a VM leaves them, unless it destroys them too.

use std::collections::BTreeMap;

use serde::Deserialize;
use xapi_client::api::{Vdi, Vm};
use xapi_client::{Client, Ref, Result};

use crate::calls::patiently;
use crate::find;
use crate::marks::{RUN, Run, is_config_drive, is_ours};
use crate::remove::unless_gone;

#[derive(Deserialize)]
struct Known {
    uuid: String,
    name_label: String,
    other_config: BTreeMap<String, String>,
}

/// Marks the disks of a VM as that is marked. Config drives are marked from the call on that makes them.
pub(crate) async fn mark(
    client: &Client,
    vm: &Ref<Vm>,
    marks: &BTreeMap<String, String>,
) -> Result<()> {
    change(client, vm, |known| {
        // What came with the disk of the template says whose that is.
        let mut other_config = known.other_config;
        other_config.retain(|key, _| !is_ours(key));
        other_config.extend(Run::own_marks(marks.clone(), &known.uuid));
        other_config
    })
    .await
}

/// Takes from the disks of a VM what says that they belong to a run.
pub(crate) async fn keep(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    change(client, vm, |mut known| {
        known.other_config.remove(RUN);
        known.other_config
    })
    .await
}

/// Takes all our marks from the disks of a VM that is to be something else.
pub(crate) async fn let_go(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    change(client, vm, |mut known| {
        known.other_config.retain(|key, _| !is_ours(key));
        known.other_config
    })
    .await
}

async fn change(
    client: &Client,
    vm: &Ref<Vm>,
    change: impl Fn(Known) -> BTreeMap<String, String>,
) -> Result<()> {
    let vdi = client.vdi();
    for (_, drive) in find::disks(client, vm).await? {
        let disk: &Ref<Vdi> = &drive.vdi;
        // That of a template's own config drive is removed meanwhile.
        let known: Option<Known> = unless_gone(vdi.get_record(disk).select().await)?;
        let Some(known) = known.filter(|known| !is_config_drive(&known.name_label)) else {
            continue;
        };
        let other_config = change(known);
        let set = || async { vdi.set_other_config(disk, &other_config).await };
        unless_gone(patiently(client, None, set).await)?;
    }
    Ok(())
}
