//! Removes a template.

use std::sync::Arc;

use super::Template;
use super::list::is_built_in;
use crate::backend::XcpngBackend;
use crate::error::{Error, Result};
use crate::find;
use crate::marks::is_template_of_ours;
use crate::progress::Stage;
use crate::remove::remove;

impl XcpngBackend {
    /// Removes a template with its disks, given its name or UUID. VMs that were made from it stay as
    /// they are.
    ///
    /// # Errors
    /// Fails when there is none or several are called so, when the pool brought it along, when it was
    /// not made by [`TemplateBuilder`](crate::TemplateBuilder) and is not to be removed all the same
    /// (`foreign`), and when the pool does not remove it.
    ///
    /// # Cancel safety
    /// What a dropped future has left is removed when it is called again.
    pub async fn remove_template(
        &self,
        which: &str,
        foreign: bool,
    ) -> bioxen_vm_core::Result<Template> {
        Ok(self.try_to_remove(which, foreign).await?)
    }

    async fn try_to_remove(&self, which: &str, foreign: bool) -> Result<Template> {
        let shared = Arc::clone(self.shared());
        let client = shared.client().await?;
        let (reference, record) = find::template(client, which).await?;
        let (name, uuid) = (record.name_label, record.uuid.as_str().to_owned());
        if is_built_in(&record.other_config) {
            return Err(Error::BuiltIn { name });
        }
        if !foreign && !is_template_of_ours(&uuid, &record.other_config) {
            return Err(Error::ForeignTemplate { name });
        }
        tracing::info!(template = name, stage = %Stage::Destroy, "removing a template");
        remove(client, &reference)
            .await
            .map_err(|source| Error::LeftBehind {
                what: format!("something of the template {name:?} ({uuid})"),
                remedy: "remove it again",
                source: Box::new(source),
            })?;
        Ok(Template {
            name,
            uuid,
            left: Vec::new(),
        })
    }
}
