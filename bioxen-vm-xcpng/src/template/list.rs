//! Lists the templates of a pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xapi_client::Ref;
use xapi_client::api::Vm;

use crate::backend::XcpngBackend;
use crate::error::{Error, Result};
use crate::find::{BY_VM_DATA, FIRST_CONTACT, TEMPLATES};
use crate::marks::is_template_of_ours;

/// What is known of a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct TemplateInfo {
    /// Its name on the pool, which others may have too.
    pub name: String,
    /// The UUID that the pool gave it.
    pub uuid: String,
    /// Whether [`TemplateBuilder`](crate::TemplateBuilder) made it.
    pub ours: bool,
    /// Whether the pool brought it along: those have no disks, so no VM of them boots.
    pub built_in: bool,
    /// How its VMs get their keys: `config-drive` where it says so, else `vm-data`; `None` for those that
    /// the pool brought along.
    pub first_contact: Option<String>,
}

/// The fields that are asked for; whole records of a large pool are many megabytes.
#[derive(Deserialize)]
struct Known {
    uuid: String,
    name_label: String,
    other_config: BTreeMap<String, String>,
}

impl XcpngBackend {
    /// The templates of the pool, sorted by name. Snapshots count as templates to the pool, not here.
    ///
    /// # Errors
    /// Fails when the pool cannot be reached or does not list them.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn templates(&self) -> bioxen_vm_core::Result<Vec<TemplateInfo>> {
        Ok(self.list_templates().await?)
    }

    async fn list_templates(&self) -> Result<Vec<TemplateInfo>> {
        let shared = Arc::clone(self.shared());
        let client = shared.client().await?;
        let all = client.vm().get_all_records_where(TEMPLATES).select().await;
        let all: BTreeMap<Ref<Vm>, Known> = all.map_err(Error::pool("list its templates"))?;
        let mut infos: Vec<_> = all.into_values().map(TemplateInfo::from).collect();
        infos.sort();
        Ok(infos)
    }
}

impl From<Known> for TemplateInfo {
    fn from(mut known: Known) -> Self {
        let built_in = is_built_in(&known.other_config);
        let said = known.other_config.remove(FIRST_CONTACT);
        Self {
            ours: is_template_of_ours(&known.uuid, &known.other_config),
            built_in,
            first_contact: said.or_else(|| (!built_in).then(|| BY_VM_DATA.to_owned())),
            name: known.name_label,
            uuid: known.uuid,
        }
    }
}

/// What a pool's own templates have in their `other_config`.
const BUILT_IN: &str = "default_template";

/// Whether the pool brought a template along.
pub(crate) fn is_built_in(other_config: &BTreeMap<String, String>) -> bool {
    other_config.get(BUILT_IN).map(String::as_str) == Some("true")
}
