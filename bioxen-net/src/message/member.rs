//! Programs in VMs that have joined a hub.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bioxen_vm_core::{
    Error, LuaVm, Outcome, PackageSite, Result, Script, SessionOptions, VmId, lua,
};

use super::hub::{Endpoint, Hub};
use super::link::Link;

impl Hub {
    /// Lets a program in a VM join, under the id of the VM.
    ///
    /// # Errors
    /// As [`join_as`](Self::join_as).
    ///
    /// # Cancel safety
    /// As of [`join_as`](Self::join_as).
    pub async fn join(&self, vm: Arc<dyn LuaVm>) -> Result<Member> {
        let name = vm.id().clone();
        self.join_as(vm, name.as_str()).await
    }

    /// Lets a program in a VM join under a name of its own; so several programs of a VM can join.
    /// Messages can be sent to it from then on, before it runs.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint) and [`LuaVm::package_site`], and when the VM cannot give the
    /// program what it needs.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the hub; what was made in the VM is removed in the background.
    pub async fn join_as(&self, vm: Arc<dyn LuaVm>, name: &str) -> Result<Member> {
        let told = |error: Error| error.with_operation("join").with_vm(vm.id());
        let endpoint = Arc::new(self.endpoint(name).map_err(told)?);
        let PackageSite {
            runner,
            lua_version,
            tree,
            ..
        } = vm.package_site().await.map_err(told)?;
        let (link, ready) = Link::new(Arc::clone(&vm), runner, Arc::clone(&endpoint));
        let folder = ready.await.map_err(told)?;
        Ok(Member {
            vm: Arc::clone(&vm),
            endpoint,
            search: lua::search_path(&lua_version, &tree)[0].clone(),
            folder,
            programs: AtomicU64::new(0),
            link,
        })
    }
}

/// A place at a hub for a program in a VM. Dropping it leaves the hub.
///
/// One program at a time: [`execute`](Self::execute) runs it to its end, and
/// [`script`](Self::script) and [`session`](Self::session) prepare one that is run in another way. A
/// second one takes the place over.
///
/// What was made for it in the VM is removed in the background when it is dropped;
/// [`leave`](Self::leave) waits for that.
#[derive(Debug)]
pub struct Member {
    vm: Arc<dyn LuaVm>,
    endpoint: Arc<Endpoint>,
    /// The variable by which Lua finds modules, and what the VM has in it.
    search: (String, String),
    folder: String,
    programs: AtomicU64,
    link: Link,
}

impl Member {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VmId {
        self.endpoint.name()
    }

    /// Runs a program that can `require "bioxen.net"` in the VM to its end, and leaves the hub.
    ///
    /// # Errors
    /// As [`LuaVm::execute`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the program and leaves the hub.
    pub async fn execute(self, script: impl Into<Script>) -> Result<Outcome> {
        let result = self.vm.execute(self.script(script)).await;
        let why = match &result {
            Ok(outcome) => format!("its program has ended ({})", outcome.status),
            Err(error) => format!("its program could not go on ({error})"),
        };
        self.endpoint.leave(why);
        self.leave().await;
        result
    }

    /// The same program, which can `require "bioxen.net"` in the VM of this member.
    #[must_use]
    pub fn script(&self, script: impl Into<Script>) -> Script {
        let mut script = script.into();
        self.add_to(&mut script.env);
        script
    }

    /// The same session, whose chunks can `require "bioxen.net"` in the VM of this member.
    #[must_use]
    pub fn session(&self, mut options: SessionOptions) -> SessionOptions {
        self.add_to(&mut options.env);
        options
    }

    /// Leaves the hub, and waits until nothing of it is left in the VM. Those who wait for replies
    /// are told. A VM that runs and cannot be reached is waited for, for two minutes at most; what is
    /// left there then is removed when a program of it joins a hub again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the hub; the rest is done in the background.
    pub async fn leave(self) {
        self.link.end().await;
    }

    fn add_to(&self, env: &mut Vec<(String, OsString)>) {
        let program = self.programs.fetch_add(1, Ordering::Relaxed) + 1;
        let (name, own) = &self.search;
        let given = env.iter().rev().find(|(given, _)| given == name);
        let mut path = OsString::from(format!("{}/?.lua;", self.folder));
        path.push(given.map_or(own.as_ref(), |(_, value)| value.as_os_str()));
        env.retain(|(given, _)| given != name);
        env.push((name.clone(), path));
        let place = format!("{program} {} {}", self.name(), self.folder);
        env.push(("BIOXEN_NET".to_owned(), place.into()));
    }
}
