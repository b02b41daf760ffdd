//! What a VM does: running, standing still, stopped.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::timeout;
use xapi_client::api::VmPowerState;
use xapi_client::{Client, ErrorCode, Watch};

use super::{KeyIn, Living, XcpngVm, has_become, state};
use crate::address;
use crate::calls::{begin, carry_out, end, patiently};
use crate::error::{Error, Result, STARTING};
use crate::execute::AttachedDrive;
use crate::first_contact::HOST_KEY;
use crate::guest::{Guest, Reached};
use crate::life;
use crate::placement;
use crate::progress::Stage;
use crate::remove::{remove_disk, switch_off};

impl XcpngVm {
    /// Makes it run from whatever state, and waits until it can run Lua.
    pub(super) async fn start_alive(&self, living: &mut Living) -> Result<()> {
        let client = self.shared.client().await?;
        let state = match living.fresh {
            None => self.power_state(client).await?,
            Some(_) => VmPowerState::Halted,
        };
        if state == VmPowerState::Running && self.guest.read().await.is_some() {
            return Ok(());
        }
        self.leave_guest().await;
        if state != VmPowerState::Running {
            let run = self.run(client, &state);
            self.reporter.stage(Stage::Start, run).await?;
        }
        let watched = living.fresh.take();
        let Some(contact) = &self.contact else {
            // Nobody can tell when its system is up.
            return Ok(());
        };
        let settings = self.shared.settings();
        let limit = settings.login_timeout;
        let (address, watch) = self.address(client, watched).await?;
        let login = Box::pin(Guest::log_in(contact, address, &settings.lua, limit));
        let login = life::while_it_runs(client, &self.vm, watch, login);
        let guest = Arc::new(self.reporter.stage(Stage::Login, login).await?);
        *self.guest.write().await = Some(guest);
        self.take_key_back(client, &mut living.key_in).await
    }

    /// The address of a VM that runs, and what tells when it ends.
    async fn address(&self, client: &Client, watched: Option<Watch>) -> Result<(IpAddr, Watch)> {
        let settings = self.shared.settings();
        match settings.wish.addresses(&self.id).get(&0) {
            // It needs no tools to tell it.
            Some(fixed) => {
                let watch = watched.unwrap_or_else(|| client.watch(&[&life::subject(&self.vm)]));
                Ok((fixed.ip(), watch))
            }
            None => {
                let (within, limit) = (&settings.wish.address_cidr, settings.boot_timeout);
                let address = address::wait(client, &self.vm, watched, within, limit);
                self.reporter.stage(Stage::Address, address).await
            }
        }
    }

    /// Logs in beside what runs programs, also to a VM without Lua.
    pub(crate) async fn reach(&self) -> Result<Reached> {
        let contact = self.contact.as_ref().ok_or(Error::NoWayIn)?;
        let client = self.shared.client().await?;
        let (address, watch) = self.address(client, None).await?;
        let limit = self.shared.settings().login_timeout;
        let login = Box::pin(Reached::log_in(contact, address, limit));
        life::while_it_runs(client, &self.vm, watch, login).await
    }

    /// Takes the config drive from a VM that does not run, if it still has one.
    pub(crate) async fn give_up_drive(&self, client: &Client) -> Result<()> {
        self.alive(async |living| {
            if let KeyIn::Drive(drive) = &living.key_in {
                let failed = Error::pool("take the config drive from the VM");
                detach(client, drive).await.map_err(failed)?;
                living.key_in = KeyIn::Nowhere;
            }
            Ok(())
        })
        .await
    }

    /// Makes a VM run, from whatever state. Where no host would have it and one would now, it is asked for
    /// once more.
    async fn run(&self, client: &Client, state: &VmPowerState) -> Result<()> {
        let mut is_last = false;
        loop {
            let refused = match self.try_to_run(client, state).await {
                Err(Error::Pool { source, .. }) if placement::is_no_place(&source) => *source,
                result => return result,
            };
            let refused = placement::explain(client, &self.vm, refused).await;
            if is_last || !refused.is_over {
                return Err(refused.error);
            }
            is_last = true;
        }
    }

    async fn try_to_run(&self, client: &Client, state: &VmPowerState) -> Result<()> {
        let limit = self.shared.settings().boot_timeout;
        let vm = client.vm();
        let result = match state {
            VmPowerState::Suspended => {
                let call = || vm.resume(&self.vm, false, false).into_task();
                return already("running", carry_out(client, call, STARTING).await);
            }
            VmPowerState::Paused => {
                let call = || async { vm.unpause(&self.vm).uncounted().timeout(limit).await };
                patiently(client, None, call).await
            }
            // Sent again after a lost answer it does no harm, so it needs no task.
            _ => {
                let call = || async {
                    let start = vm.start(&self.vm, false, false);
                    start.uncounted().timeout(limit).await
                };
                patiently(client, None, call).await
            }
        };
        already("running", result.map_err(Error::pool(STARTING)))
    }

    /// Removes the VM's private host key from where it was handed over. The VM has it on its own disk
    /// now; nobody else needs to be able to read it.
    async fn take_key_back(&self, client: &Client, key_in: &mut KeyIn) -> Result<()> {
        match key_in {
            KeyIn::Nowhere => return Ok(()),
            KeyIn::XenstoreData => client
                .vm()
                .remove_from_xenstore_data(&self.vm, HOST_KEY)
                .await
                .map_err(Error::pool(
                    "take the host key out of the VM's xenstore data",
                ))?,
            KeyIn::Drive(drive) => {
                if let Err(error) = detach(client, drive).await {
                    // The VM is as good with it; it goes with the VM at the latest.
                    tracing::warn!(
                        vm = %self.id, %error,
                        "the config drive stays until the VM is started again or removed"
                    );
                    return Ok(());
                }
            }
        }
        *key_in = KeyIn::Nowhere;
        Ok(())
    }

    /// Asks its system to end, and switches it off when that does not help in time.
    pub(super) async fn stop_alive(&self, living: &mut Living) -> Result<()> {
        self.leave_guest().await;
        living.fresh = None;
        let client = self.shared.client().await?;
        let state = self.power_state(client).await?;
        if state == VmPowerState::Halted {
            return Ok(());
        }
        let stop = async {
            if state != VmPowerState::Running
                && let Err(error) = self.run(client, &state).await
            {
                tracing::debug!(vm = %self.id, %error, "it cannot be woken to be asked");
            }
            if self.asked_to_end(client).await? {
                return Ok(());
            }
            switch_off(client, &self.vm)
                .await
                .map_err(Error::pool("switch off the VM"))
        };
        self.reporter.stage(Stage::Stop, stop).await
    }

    /// Whether its system ends when it is asked to.
    async fn asked_to_end(&self, client: &Client) -> Result<bool> {
        const DOING: &str = "shut down the VM";
        let limit = self.shared.settings().stop_timeout;
        let call = client.vm().clean_shutdown(&self.vm).into_task();
        let task = match begin(client, call).await {
            Err(error) if error.failure().is_some() => return self.refused(error),
            begun => begun.map_err(Error::pool(DOING))?,
        };
        match timeout(limit, end(&task)).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) => self.refused(error),
            Err(_) => {
                tracing::info!(
                    vm = %self.id, seconds = limit.as_secs(),
                    "its system has not ended in time, so it is switched off"
                );
                // What remains of the task ends with the VM.
                let _ = task.cancel().await;
                Ok(false)
            }
        }
    }

    fn refused(&self, error: xapi_client::Error) -> Result<bool> {
        if has_become(&error, "halted") {
            return Ok(true);
        }
        tracing::info!(vm = %self.id, %error, "its system does not end, so it is switched off");
        Ok(false)
    }

    pub(super) async fn reboot_alive(&self, living: &mut Living) -> Result<()> {
        let client = self.shared.client().await?;
        let state = self.power_state(client).await?;
        if state != VmPowerState::Running {
            return Err(stands(&state, "start it first"));
        }
        self.leave_guest().await;
        let reboot = async {
            let call = || client.vm().clean_reboot(&self.vm).into_task();
            match carry_out(client, call, "reboot the VM").await {
                Err(Error::Pool { source, .. }) if is_deaf(&source) => {
                    let call = || client.vm().hard_reboot(&self.vm).into_task();
                    carry_out(client, call, "reset the VM").await
                }
                result => result,
            }
        };
        self.reporter.stage(Stage::Reboot, reboot).await?;
        self.start_alive(living).await
    }

    pub(super) async fn pause_alive(&self) -> Result<()> {
        let client = self.shared.client().await?;
        match self.power_state(client).await? {
            VmPowerState::Paused => return Ok(()),
            VmPowerState::Running => {}
            other => return Err(stands(&other, "only what runs can be paused")),
        }
        self.leave_guest().await;
        let pause = async {
            let call = || async { client.vm().pause(&self.vm).await };
            let paused = patiently(client, None, call).await;
            already("paused", paused.map_err(Error::pool("pause the VM")))
        };
        self.reporter.stage(Stage::Pause, pause).await
    }

    pub(super) async fn suspend_alive(&self) -> Result<()> {
        let client = self.shared.client().await?;
        match self.power_state(client).await? {
            VmPowerState::Suspended => return Ok(()),
            VmPowerState::Running => {}
            other => return Err(stands(&other, "only what runs can be suspended")),
        }
        self.leave_guest().await;
        let suspend = async {
            let call = || client.vm().suspend(&self.vm).into_task();
            let suspended = carry_out(client, call, "suspend the VM").await;
            already("suspended", suspended)
        };
        self.reporter.stage(Stage::Suspend, suspend).await
    }

    /// Lets a VM go on that stands still like this.
    pub(super) async fn wake(&self, living: &mut Living, from: VmPowerState) -> Result<()> {
        let client = self.shared.client().await?;
        let now = self.power_state(client).await?;
        if now != from && now != VmPowerState::Running {
            return Err(stands(&now, "start makes it run from any state"));
        }
        self.start_alive(living).await
    }
}

/// The error of a VM whose state forbids what was asked for.
fn stands(power: &VmPowerState, remedy: &'static str) -> Error {
    Error::State {
        state: state(power).to_string(),
        remedy,
    }
}

/// That a VM is in the wanted state already is as good as having got it there.
fn already(wanted: &str, result: Result<()>) -> Result<()> {
    match result {
        Err(Error::Pool { source, .. }) if has_become(&source, wanted) => Ok(()),
        result => result,
    }
}

/// Whether a VM's system was asked and did nothing.
fn is_deaf(error: &xapi_client::Error) -> bool {
    error.failure().is_some_and(|failure| {
        matches!(
            failure.code,
            ErrorCode::VmLacksFeature
                | ErrorCode::VmFailedShutdownAcknowledgment
                | ErrorCode::VmShutdownTimeout
        )
    })
}

/// Takes a config drive from a VM, running or not, and removes it.
async fn detach(client: &Client, drive: &AttachedDrive) -> xapi_client::Result<()> {
    match client.vbd().unplug(&drive.device).await {
        Err(error)
            if error.failure().is_some_and(|failure| {
                failure.is_gone()
                    || matches!(
                        failure.code,
                        ErrorCode::DeviceAlreadyDetached | ErrorCode::VmBadPowerState
                    )
            }) => {}
        result => result?,
    }
    remove_disk(client, &drive.disk).await
}
