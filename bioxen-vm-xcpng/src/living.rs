//! The VMs and networks that belong to this run: for as long as it lives, they do not expire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::Deserialize;
use tokio::task::AbortHandle;
use xapi_client::api::{Network, Vm};
use xapi_client::{Client, Error, ErrorCode, Failure, Ref, Result};

use crate::marks::{EXPIRES, Run};

/// How often in the time until it expires the mark of a VM is renewed.
const RENEWALS: u32 = 3;

/// The VMs and networks of a run. Their marks are renewed until this is dropped or ended.
#[derive(Debug, Default)]
pub(crate) struct Living {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    vms: BTreeSet<String>,
    /// What renews the marks, once there is something to renew.
    renewing: Option<AbortHandle>,
}

impl Living {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the marks of a VM from now on.
    pub(crate) fn add(
        self: &Arc<Self>,
        vm: &Ref<Vm>,
        client: &Client,
        run: &str,
        expiry: Duration,
    ) {
        self.lock().vms.insert(vm.as_str().to_owned());
        self.begin(client, run, expiry);
    }

    /// Renews the marks of the networks that carry those of this run, also of later ones.
    pub(crate) fn begin(self: &Arc<Self>, client: &Client, run: &str, expiry: Duration) {
        let mut inner = self.lock();
        if inner.renewing.is_none() {
            let renewing =
                keep_renewing(Arc::downgrade(self), client.clone(), run.to_owned(), expiry);
            inner.renewing = Some(tokio::spawn(renewing).abort_handle());
        }
    }

    pub(crate) fn has(&self, vm: &Ref<Vm>) -> bool {
        self.lock().vms.contains(vm.as_str())
    }

    pub(crate) fn remove(&self, vm: &Ref<Vm>) {
        self.lock().vms.remove(vm.as_str());
    }

    /// Stops renewing.
    pub(crate) fn end(&self) {
        if let Some(renewing) = self.lock().renewing.take() {
            renewing.abort();
        }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.end();
    }
}

async fn keep_renewing(living: Weak<Living>, client: Client, run: String, expiry: Duration) {
    let gone = |error: &Error| error.failure().is_some_and(Failure::is_gone);
    loop {
        tokio::time::sleep(expiry / RENEWALS).await;
        let Some(vms) = living.upgrade().map(|living| living.lock().vms.clone()) else {
            return;
        };
        for vm in vms {
            match renew(&client, &Ref::new(&vm), expiry).await {
                // Somebody else has removed it.
                Err(error) if gone(&error) => {}
                Err(error) => tracing::warn!(vm, %error, "a VM's mark could not be renewed"),
                Ok(()) => {}
            }
        }
        match renew_networks(&client, &run, expiry).await {
            Err(error) if gone(&error) => {}
            Err(error) => tracing::warn!(%error, "the marks of networks could not be renewed"),
            Ok(()) => {}
        }
    }
}

/// Puts off when a VM expires. Other keys may be changed by others meanwhile, so only this one is
/// touched; without it, the VM never expires.
pub(crate) async fn renew(client: &Client, vm: &Ref<Vm>, expiry: Duration) -> Result<()> {
    let api = client.vm();
    api.remove_from_other_config(vm, EXPIRES).await?;
    let expires = Run::now("", expiry).expires.to_string();
    added(api.add_to_other_config(vm, EXPIRES, &expires).await)
}

/// The same for the networks that carry the mark of a run; those that were kept meanwhile do not.
async fn renew_networks(client: &Client, run: &str, expiry: Duration) -> Result<()> {
    #[derive(Deserialize)]
    struct Marked {
        other_config: BTreeMap<String, String>,
        tags: Vec<String>,
    }
    let api = client.network();
    let all: BTreeMap<Ref<Network>, Marked> = api.get_all_records().select().await?;
    for (network, Marked { other_config, tags }) in all {
        if Run::of_network(&other_config, &tags).is_none_or(|marked| marked.id != run) {
            continue;
        }
        let prefix = format!("{EXPIRES}=");
        let expires = format!("{prefix}{}", Run::now("", expiry).expires);
        api.add_tags(&network, &expires).await?;
        for before in &tags {
            if before.starts_with(&prefix) && *before != expires {
                api.remove_tags(&network, before).await?;
            }
        }
    }
    Ok(())
}

/// A key that is there already: the answer of a first try got lost, or somebody else was faster.
fn added(result: Result<()>) -> Result<()> {
    match result {
        Err(error)
            if error
                .failure()
                .is_some_and(|failure| failure.code == ErrorCode::MapDuplicateKey) =>
        {
            Ok(())
        }
        result => result,
    }
}
