//! What tests do to a pool.

use std::sync::Arc;

use super::Sim;
use crate::failure::Failure;
use crate::fault::FaultRule;
use crate::outage;
use crate::plugin::Plugin;
use crate::value::Value;

impl Sim {
    /// Adds a rule that makes calls fail or wait. Rules act in the order of their adding.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.with(|world| world.faults.add(rule));
    }

    /// The rules in force, in the order of their adding, with what they have done so far.
    #[must_use]
    pub fn faults(&self) -> Vec<FaultRule> {
        self.shared.with(|world| world.faults.rules().to_vec())
    }

    /// Removes all rules of [`inject`](Sim::inject).
    pub fn clear_faults(&self) {
        self.shared.with(|world| world.faults.clear());
    }

    /// Lets a plugin of the hosts answer a function of `host.call_plugin`.
    pub fn add_plugin(&self, plugin: Plugin) {
        self.shared.with(|world| world.plugins.push(plugin));
    }

    /// What plugins answer, in the order of their adding.
    #[must_use]
    pub fn plugins(&self) -> Vec<Plugin> {
        self.shared.with(|world| world.plugins.clone())
    }

    /// Removes all plugins from the hosts.
    pub fn clear_plugins(&self) {
        self.shared.with(|world| world.plugins.clear());
    }

    /// Restarts the toolstack of the coordinator: connections break, sessions and tasks are lost,
    /// VMs run on.
    pub fn restart_toolstack(&self) {
        outage::restart_toolstack(&self.shared);
    }

    /// Cuts the power of a host, by its name, uuid or reference. Connections to it break and are
    /// refused, the guests of its VMs end. Its VMs still count as running until
    /// [`boot_host`](Sim::boot_host).
    ///
    /// # Errors
    ///
    /// `HANDLE_INVALID` for a host that does not exist, `INVALID_VALUE` for a name that several have.
    pub fn crash_host(&self, host: &str) -> Result<(), Failure> {
        outage::crash(&self.shared, &outage::find(&self.shared, "host", host)?)
    }

    /// Boots a host that is down; its VMs are halted then. Where only the toolstack is down, after
    /// `host.shutdown_agent`, that is started and its VMs run on.
    ///
    /// # Errors
    ///
    /// As [`crash_host`](Sim::crash_host).
    pub fn boot_host(&self, host: &str) -> Result<(), Failure> {
        outage::boot(&self.shared, &outage::find(&self.shared, "host", host)?).map(drop)
    }

    /// Makes another host the coordinator; sessions and tasks are lost.
    ///
    /// # Errors
    ///
    /// As [`crash_host`](Sim::crash_host), and `CANNOT_CONTACT_HOST` for a host that is down.
    pub fn fail_over(&self, host: &str) -> Result<(), Failure> {
        outage::fail_over(&self.shared, &outage::find(&self.shared, "host", host)?).map(drop)
    }

    /// Lets an SR take nothing more, or again what fits, by its name, uuid or reference. A full one
    /// says so in its `physical_utilisation`.
    ///
    /// # Errors
    ///
    /// `HANDLE_INVALID` for an SR that does not exist, `INVALID_VALUE` for a name that several have,
    /// as each host has its own `Local storage`.
    pub fn fill_sr(&self, sr: &str, full: bool) -> Result<(), Failure> {
        let sr = outage::find(&self.shared, "SR", sr)?;
        outage::fill_sr(&self.shared, &sr, full)
    }

    /// Moves the clock of the pool by so many seconds, backwards if negative. Sessions and tasks
    /// that are too old then end.
    pub fn shift_clock(&self, seconds: i64) {
        outage::shift_clock(&self.shared, seconds);
    }

    /// Moves the clock of one host by so many seconds against that of the pool, as
    /// [`Model::clock_skew`](crate::Model::clock_skew) does from the start.
    ///
    /// # Errors
    ///
    /// As [`crash_host`](Sim::crash_host).
    pub fn skew_clock(&self, host: &str, seconds: i64) -> Result<(), Failure> {
        let host = outage::find(&self.shared, "host", host)?;
        outage::skew_clock(&self.shared, &host, seconds);
        Ok(())
    }

    /// Lets a function answer a method by its wire name, after all checks. It gets the parameters
    /// without the session, and leaves a call to the simulator by giving `None`. A constructor's
    /// struct is not among the parameters. The newest function for a method counts.
    pub fn on(
        &self,
        method: impl Into<String>,
        answer: impl Fn(&[Value]) -> Option<Result<Value, Failure>> + Send + Sync + 'static,
    ) {
        self.shared.hook(method.into(), Arc::new(answer));
    }

    /// Puts the coordinator into emergency mode, in which nearly every call to it answers with this
    /// failure (`HOST_STILL_BOOTING` for example), or takes it out again.
    pub fn set_emergency(&self, failure: Option<Failure>) {
        let coordinator = self.shared.with(|world| world.coordinator());
        outage::set_emergency(&self.shared, &coordinator, failure);
    }

    /// The same for any host: `HOST_MASTER_CANNOT_TALK_BACK` and `HOST_UNKNOWN_TO_MASTER` are what
    /// members come to.
    ///
    /// # Errors
    ///
    /// As [`crash_host`](Sim::crash_host).
    pub fn set_emergency_of(&self, host: &str, failure: Option<Failure>) -> Result<(), Failure> {
        let host = outage::find(&self.shared, "host", host)?;
        outage::set_emergency(&self.shared, &host, failure);
        Ok(())
    }
}
