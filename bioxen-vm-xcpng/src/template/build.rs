//! Turns a VM into a template.

use bioxen_vm_core::LuaVm as _;
use xapi_client::ErrorCode;

use super::{Template, guest};
use crate::disks;
use crate::error::{Error, Result};
use crate::find::{BY_DRIVE, FIRST_CONTACT};
use crate::first_contact::{FirstContact, PREFIX};
use crate::marks::{Run, is_ours, template_mark};
use crate::settings::Handover;
use crate::vm::XcpngVm;

/// Cleans a VM that runs, and turns it into a template of this name. The name comes last: up to
/// then everything says that this is something unfinished of ours.
pub(super) async fn turn(vm: &XcpngVm, name: &str) -> Result<Template> {
    let left = guest::clean(vm).await?;
    vm.stop()
        .await
        .map_err(|error| Error::Guest(Box::new(error)))?;
    let shared = vm.shared();
    let client = shared.client().await?;
    let (api, reference) = (client.vm(), vm.reference());
    let failed = || Error::pool("turn the VM into a template");
    let run = Run::now(shared.ledger().await?.run(), shared.settings().expiry);
    let unfinished = run.unfinished(&crate::backend::random_name(), vm.id());
    api.set_name_label(reference, &unfinished)
        .await
        .map_err(failed())?;
    vm.give_up_drive(client).await?;
    let record = api.get_record(reference).await.map_err(failed())?;
    let mut config = record.other_config;
    config.retain(|key, _| !is_ours(key));
    config.extend([template_mark(vm.uuid())]);
    if vm.contact().and_then(FirstContact::handover) == Some(Handover::Drive) {
        config.insert(FIRST_CONTACT.to_owned(), BY_DRIVE.to_owned());
    }
    api.set_other_config(reference, &config)
        .await
        .map_err(failed())?;
    let mut data = record.xenstore_data;
    data.retain(|key, _| !key.starts_with(PREFIX));
    api.set_xenstore_data(reference, &data)
        .await
        .map_err(failed())?;
    disks::let_go(client, reference).await.map_err(failed())?;
    match api.set_is_a_template(reference, true).await {
        // It was sent again, as its first answer got lost.
        Err(error)
            if error
                .failure()
                .is_some_and(|failure| failure.code == ErrorCode::VmIsTemplate) => {}
        turned => turned.map_err(failed())?,
    }
    api.set_name_label(reference, name)
        .await
        .map_err(failed())?;
    vm.release().await?;
    Ok(Template {
        name: name.to_owned(),
        uuid: vm.uuid().to_owned(),
        left,
    })
}
