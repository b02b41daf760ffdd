//! What says, in the `other_config` of a network or an interface, which run of a program it belongs to:
//! for as long as it is not complete, or for as long as the run lasts.

use std::collections::BTreeMap;

use xapi_client::api::{Network, Vif};
use xapi_client::{Client, ErrorCode, Ref, Result};

/// The run.
const RUN: &str = "bioxen:run";
/// Seconds since 1970: until when it counts as in use where nobody knows the run.
const EXPIRES: &str = "bioxen:expires";
/// The uuid of the VM whose interface it is: what copies a VM copies the marks of its interfaces.
const OF_VM: &str = "bioxen:vm";

/// The keys that what is made is marked with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    pub(crate) keys: BTreeMap<String, String>,
    /// Whether those that tell the run go once the change is complete.
    pub(crate) are_passing: bool,
}

impl Marks {
    pub(crate) fn of_nic(&self, vm_uuid: &str) -> BTreeMap<String, String> {
        let mut keys = self.keys.clone();
        if !keys.is_empty() {
            keys.insert(OF_VM.to_owned(), vm_uuid.to_owned());
        }
        keys
    }
}

/// The run that a network belongs to.
pub(crate) fn run_of(other_config: &BTreeMap<String, String>) -> Option<String> {
    other_config.get(RUN).cloned()
}

/// The run that an interface of a VM belongs to.
pub(crate) fn run_of_nic(other_config: &BTreeMap<String, String>, vm_uuid: &str) -> Option<String> {
    let is_its_own = other_config.get(OF_VM).is_some_and(|of| of == vm_uuid);
    run_of(other_config).filter(|_| is_its_own)
}

/// Something that has marks.
#[derive(Debug, Clone)]
pub(crate) enum Marked {
    Network(Ref<Network>),
    Nic(Ref<Vif>),
}

impl Marked {
    /// Takes off it what says that it belongs to a run.
    pub(crate) async fn keep(&self, client: &Client) -> Result<()> {
        // Without the run no clean-up touches it.
        for key in [RUN, EXPIRES] {
            match self {
                Self::Network(network) => {
                    let api = client.network();
                    api.remove_from_other_config(network, key).await?;
                }
                Self::Nic(vif) => client.vif().remove_from_other_config(vif, key).await?,
            }
        }
        Ok(())
    }

    /// Gives it to a run again, given what it had in its `other_config`.
    pub(crate) async fn give_back(
        &self,
        client: &Client,
        had: &BTreeMap<String, String>,
    ) -> Result<()> {
        for key in [EXPIRES, RUN] {
            let Some(value) = had.get(key) else { continue };
            let added = match self {
                Self::Network(network) => {
                    let api = client.network();
                    api.add_to_other_config(network, key, value).await
                }
                Self::Nic(vif) => client.vif().add_to_other_config(vif, key, value).await,
            };
            match added {
                Err(error)
                    if error
                        .failure()
                        .is_some_and(|failure| failure.code == ErrorCode::MapDuplicateKey) => {}
                added => added?,
            }
        }
        Ok(())
    }
}
