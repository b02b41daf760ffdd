//! The VMs that belong to this run: for as long as it lives, they do not expire.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use xapi_client::api::Vm;
use xapi_client::{Client, Ref};

use crate::marks::{EXPIRES, Run};

/// How often in the time until it expires the mark of a VM is renewed.
const RENEWALS: u32 = 3;

/// The VMs of a run. Their marks are renewed until this is dropped or ended.
#[derive(Debug, Default)]
pub(crate) struct Living {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    vms: BTreeSet<String>,
    /// What renews the marks, once there is a first VM.
    renewing: Option<AbortHandle>,
}

impl Living {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(self: &Arc<Self>, vm: &Ref<Vm>, client: &Client, expiry: Duration) {
        let mut inner = self.lock();
        inner.vms.insert(vm.as_str().to_owned());
        if inner.renewing.is_none() {
            let renewing = keep_renewing(Arc::downgrade(self), client.clone(), expiry);
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

async fn keep_renewing(living: Weak<Living>, client: Client, expiry: Duration) {
    loop {
        tokio::time::sleep(expiry / RENEWALS).await;
        let Some(vms) = living.upgrade().map(|living| living.lock().vms.clone()) else {
            return;
        };
        for vm in vms {
            match renew(&client, &Ref::new(&vm), expiry).await {
                // Somebody else has removed it.
                Err(error) if error.failure().is_some_and(|failure| failure.is_gone()) => {}
                Err(error) => tracing::warn!(vm, %error, "a VM's mark could not be renewed"),
                Ok(()) => {}
            }
        }
    }
}

/// Puts off when a VM expires. Other keys may be changed by others meanwhile, so only this one is
/// touched; without it, the VM never expires.
pub(crate) async fn renew(
    client: &Client,
    vm: &Ref<Vm>,
    expiry: Duration,
) -> xapi_client::Result<()> {
    let expires = Run::now("", expiry).expires.to_string();
    let api = client.vm();
    api.remove_from_other_config(vm, EXPIRES).await?;
    match api.add_to_other_config(vm, EXPIRES, &expires).await {
        // Its answer got lost, or somebody else was faster.
        Err(error)
            if error
                .failure()
                .is_some_and(|failure| failure.code == xapi_client::ErrorCode::MapDuplicateKey) =>
        {
            Ok(())
        }
        result => result,
    }
}
