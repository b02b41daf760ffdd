//! Removes a VM together with its disks, and nothing else.

use std::time::Duration;

use xapi_client::api::{Vdi, Vm, VmPowerState};
use xapi_client::{Client, Error, ErrorCode, Ref, Result};

use crate::execute::end;
use crate::find::disks;

/// How often a disk is tried that the host still detaches, and after which pause.
const DETACH_ATTEMPTS: u32 = 10;
const DETACH_PAUSE: Duration = Duration::from_secs(1);

/// What is still to be removed. A removal that failed half-way can be run again.
#[derive(Debug)]
pub(crate) struct Removal {
    vm: Option<Ref<Vm>>,
    /// Its disks, once the VM has been looked at: with the VM goes what ties them to it.
    disks: Vec<Ref<Vdi>>,
}

impl Removal {
    pub(crate) fn new(vm: Ref<Vm>) -> Self {
        Self {
            vm: Some(vm),
            disks: Vec::new(),
        }
    }

    /// Removes it all. What is gone already is as good as removed.
    pub(crate) async fn run(&mut self, client: &Client) -> Result<()> {
        if let Some(vm) = self.vm.clone() {
            match client.vm().get_power_state(&vm).await {
                Ok(state) => {
                    self.disks = own_disks(client, &vm).await?;
                    if state != VmPowerState::Halted {
                        switch_off(client, &vm).await?;
                    }
                    unless_gone(client.vm().destroy(&vm).await)?;
                }
                Err(error) => unless_gone(Err(error))?,
            }
            self.vm = None;
        }
        while let Some(disk) = self.disks.last() {
            remove_disk(client, disk).await?;
            self.disks.pop();
        }
        Ok(())
    }
}

/// The disks of a VM that no other VM uses.
async fn own_disks(client: &Client, vm: &Ref<Vm>) -> Result<Vec<Ref<Vdi>>> {
    let drives = disks(client, vm).await?;
    let mut own = Vec::new();
    for (_, disk) in &drives {
        let users = match client.vdi().get_vbds(disk).await {
            Err(Error::Api(failure)) if failure.is_gone() => continue,
            users => users?,
        };
        if users
            .iter()
            .all(|user| drives.iter().any(|(drive, _)| drive == user))
        {
            own.push(disk.clone());
        } else {
            tracing::info!(disk = disk.as_str(), "a disk that another VM uses stays");
        }
    }
    own.dedup();
    Ok(own)
}

/// Ends a VM at once, whatever it does.
async fn switch_off(client: &Client, vm: &Ref<Vm>) -> Result<()> {
    let task = client.vm().hard_shutdown(vm).into_task().await;
    let result = match task {
        Ok(task) => end(&task).await,
        Err(error) => Err(error),
    };
    match result {
        Err(Error::Api(failure))
            if failure.code == ErrorCode::VmBadPowerState
                && failure.param(2).eq_ignore_ascii_case("halted") =>
        {
            Ok(())
        }
        result => unless_gone(result),
    }
}

async fn remove_disk(client: &Client, disk: &Ref<Vdi>) -> Result<()> {
    let mut attempt = 1;
    loop {
        match unless_gone(client.vdi().destroy(disk).await) {
            Err(Error::Api(failure))
                if attempt < DETACH_ATTEMPTS
                    && matches!(
                        failure.code,
                        ErrorCode::VdiInUse | ErrorCode::OtherOperationInProgress
                    ) =>
            {
                attempt += 1;
                tokio::time::sleep(DETACH_PAUSE).await;
            }
            result => return result,
        }
    }
}

fn unless_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(Error::Api(failure)) if failure.is_gone() => Ok(()),
        result => result,
    }
}
