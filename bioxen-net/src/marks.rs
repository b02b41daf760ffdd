//! What says which run of a program a network or an interface belongs to: for as long as it is not
//! complete, or for as long as the run lasts.
//!
//! An interface has it in its `other_config`, a network in its tags: whoever may make a network may set
//! and remove those, while `other_config` of a network that is there is for `pool-operator` alone.

use std::collections::BTreeMap;

use xapi_client::api::{Network, Vif};
use xapi_client::{Client, ErrorCode, Ref, Result};

/// Who made something.
pub(crate) const OWNER: (&str, &str) = ("bioxen:owner", "bioxen");
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

/// A mark of a network.
fn tag(key: &str, value: &str) -> String {
    format!("{key}={value}")
}

/// The mark that a tag of a network is.
fn mark(tag: &str) -> Option<(&str, &str)> {
    let mark = tag.split_once('=')?;
    [RUN, EXPIRES].contains(&mark.0).then_some(mark)
}

/// Whether a tag of a network tells the run that it belongs to.
pub(crate) fn is_mark(tag: &str) -> bool {
    mark(tag).is_some()
}

/// What a new network is marked with: the tags that tell the run, and what goes into `other_config`.
pub(crate) fn of_new_network(
    keys: &BTreeMap<String, String>,
) -> (Vec<String>, BTreeMap<String, String>) {
    let (passing, lasting): (BTreeMap<_, _>, _) = keys
        .clone()
        .into_iter()
        .partition(|(key, _)| [RUN, EXPIRES].contains(&key.as_str()));
    let tags = passing.iter().map(|(key, value)| tag(key, value));
    (tags.collect(), lasting)
}

/// The marks that a network has, by key.
pub(crate) fn of_network(tags: &[String]) -> BTreeMap<String, String> {
    let marks = tags.iter().filter_map(|tag| mark(tag));
    marks
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The run that something belongs to.
pub(crate) fn run_of(marks: &BTreeMap<String, String>) -> Option<String> {
    marks.get(RUN).cloned()
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
        match self {
            Self::Network(network) => {
                let api = client.network();
                let mut marks = api.get_tags(network).await?;
                marks.retain(|tag| is_mark(tag));
                // Without the run no clean-up touches it.
                marks.sort_by_key(|tag| !tag.starts_with(RUN));
                for mark in marks {
                    api.remove_tags(network, &mark).await?;
                }
            }
            Self::Nic(vif) => {
                for key in [RUN, EXPIRES] {
                    client.vif().remove_from_other_config(vif, key).await?;
                }
            }
        }
        Ok(())
    }

    /// Gives it to a run again, given the marks that it had.
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
                    api.add_tags(network, &tag(key, value)).await
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
