use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Capabilities, Error, ErrorKind, Isolation, Outcome, OutputSink, Result, Runner, Script,
    Session, SessionOptions, Snapshot,
};

/// A Lua VM of any type.
///
/// Handles are shared as `Arc<dyn LuaVm>`. What only one type can do is reached by upcasting to
/// [`Any`]: `(&*vm as &dyn Any).downcast_ref::<XcpngVm>()`.
#[async_trait]
pub trait LuaVm: Any + fmt::Debug + Send + Sync {
    /// The id that its owner gave it.
    fn id(&self) -> &VmId;

    /// The name of its type, `basic` for example.
    fn vm_type(&self) -> &'static str;

    /// What is known of it now.
    ///
    /// # Errors
    /// Fails when the machine or pool that it is on cannot be asked.
    async fn info(&self) -> Result<VmInfo>;

    /// Starts it and waits until it can run Lua. Does nothing when it runs.
    ///
    /// # Errors
    /// Fails when it cannot be started or does not become ready in time.
    async fn start(&self) -> Result<()>;

    /// Stops it, ends every process in it, and keeps what it has on disk. Does nothing when it is
    /// stopped.
    ///
    /// # Errors
    /// Fails when it cannot be stopped.
    async fn stop(&self) -> Result<()>;

    /// Stops it and starts it again.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    async fn reboot(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Lets it stand still in memory: its programs get no processor until
    /// [`unpause`](Self::unpause). Does nothing when it is paused.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types that cannot
    /// ([`pause`](Capabilities::pause)), and with [`ErrorKind::InvalidState`] when it does not run.
    async fn pause(&self) -> Result<()> {
        Err(self.unsupported("be paused"))
    }

    /// Lets a paused VM go on, and waits until it can run Lua. Does nothing when it runs.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    async fn unpause(&self) -> Result<()> {
        Err(self.unsupported("be paused"))
    }

    /// Writes its memory to disk and gives the memory back. Does nothing when it is suspended.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types that cannot
    /// ([`suspend`](Capabilities::suspend)), and with [`ErrorKind::InvalidState`] when it does not
    /// run.
    async fn suspend(&self) -> Result<()> {
        Err(self.unsupported("be suspended"))
    }

    /// Lets a suspended VM go on where it stood, and waits until it can run Lua. Does nothing when
    /// it runs.
    ///
    /// # Errors
    /// As [`suspend`](Self::suspend).
    async fn resume(&self) -> Result<()> {
        Err(self.unsupported("be suspended"))
    }

    /// Keeps what its disks hold now, under a name. Memory is not part of it.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types without snapshots
    /// ([`snapshots`](Capabilities::snapshots)), and with [`ErrorKind::AlreadyExists`] when it has a
    /// snapshot of that name.
    async fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let _ = name;
        Err(self.unsupported("keep snapshots"))
    }

    /// Its snapshots, the oldest first.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types without snapshots.
    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        Err(self.unsupported("keep snapshots"))
    }

    /// Gives it back what its disks held when a snapshot was made, given by name or id. It is
    /// stopped then; the snapshot stays.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types without snapshots, and with
    /// [`ErrorKind::NotFound`] when there is no such snapshot.
    async fn revert(&self, snapshot: &str) -> Result<()> {
        let _ = snapshot;
        Err(self.unsupported("keep snapshots"))
    }

    /// Removes a snapshot, given by name or id, with its disks.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types without snapshots, with
    /// [`ErrorKind::NotFound`] when there is no such snapshot, and otherwise when something could not
    /// be removed.
    async fn remove_snapshot(&self, snapshot: &str) -> Result<()> {
        let _ = snapshot;
        Err(self.unsupported("keep snapshots"))
    }

    /// Makes another VM that has on its disks what this one has now, stopped. It belongs to whoever
    /// calls this, as a VM of [`Backend::create`](crate::Backend::create) does.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types that cannot
    /// ([`clones`](Capabilities::clones)), and otherwise when it cannot be made; then nothing of it
    /// is left behind.
    ///
    /// # Cancel safety
    /// As [`Backend::create`](crate::Backend::create).
    async fn clone_vm(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        let _ = id;
        Err(self.unsupported("be cloned"))
    }

    /// Moves it to another host of its pool, given by name or id, while it runs. One that does not
    /// run is started there the next time. Does nothing when it is there.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types that cannot
    /// ([`migrate`](Capabilities::migrate)), with [`ErrorKind::NotFound`] when there is no such
    /// host, and otherwise with what that host lacks.
    async fn migrate(&self, host: &str) -> Result<()> {
        let _ = host;
        Err(self.unsupported("be moved to another host"))
    }

    /// Lets it outlive this program: no clean-up after a killed program takes it any more, only
    /// [`destroy`](Self::destroy) does. [`Backend::adopt`](crate::Backend::adopt) finds it again.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types whose VMs end with their program
    /// ([`keep`](Capabilities::keep)), and with [`ErrorKind::AlreadyExists`] when another VM is known by
    /// its id: of several programs that make one of the same id at the same time, one can keep it.
    async fn keep(&self) -> Result<()> {
        Err(self.unsupported("outlive their program"))
    }

    /// Runs a Lua program in a fresh Lua state.
    ///
    /// # Errors
    /// Fails when the program could not be tried, [`ErrorKind::InvalidState`] for example when the
    /// VM is stopped. A program that ran and failed is an [`Outcome`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the program and what it started.
    async fn execute(&self, script: Script) -> Result<Outcome>;

    /// Runs a Lua program in a fresh Lua state and hands on its output as it comes; the outcome has
    /// none. [`Script::max_output`] does not count, and memory use does not grow with the output.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), and with [`ErrorKind::Unsupported`] for types whose output
    /// comes only at the end.
    ///
    /// # Cancel safety
    /// Dropping the future ends the program and what it started.
    async fn execute_streaming(
        &self,
        script: Script,
        sink: &mut dyn OutputSink,
    ) -> Result<Outcome> {
        let _ = (script, sink);
        Err(self.unsupported("give output as it comes"))
    }

    /// Starts a Lua state that lives on between chunks. There may be several at once.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types without sessions, and otherwise when its
    /// process could not be started.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started.
    async fn open_session(&self, options: SessionOptions) -> Result<Session> {
        let _ = options;
        Err(self.unsupported("keep sessions"))
    }

    /// What it can do beyond that.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// What keeps its programs away from everything else; no wall is listed by default.
    fn isolation(&self) -> Isolation {
        Isolation::default()
    }

    /// Where the packages of this VM live, and how to reach that place.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types without packages, and otherwise when the VM
    /// cannot be reached.
    async fn package_site(&self) -> Result<PackageSite> {
        Err(self.unsupported("have packages"))
    }

    /// Runs commands on the machine that its programs run on; the way to its files
    /// ([`files`](crate::files) with the feature `local`).
    ///
    /// # Errors
    /// As [`package_site`](Self::package_site).
    async fn runner(&self) -> Result<Arc<dyn Runner>> {
        self.package_site().await.map(|site| site.runner)
    }

    /// Ends it and removes everything that was made for it. Does nothing the second time.
    ///
    /// # Errors
    /// Fails when something could not be removed, and names it.
    async fn destroy(&self) -> Result<()>;

    /// The error of a VM whose type cannot do this.
    #[doc(hidden)]
    fn unsupported(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            format!("VMs of type {:?} cannot {what}", self.vm_type()),
        )
        .with_vm(self.id())
    }
}

/// Where the Lua packages of a VM live.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PackageSite {
    /// Runs commands on the machine that holds the tree.
    pub runner: Arc<dyn Runner>,
    /// The Lua version that the packages are for, `5.4`.
    pub lua_version: String,
    /// The LuaRocks tree on that machine, as an absolute path.
    pub tree: String,
}

impl PackageSite {
    /// Describes a tree on the machine of a runner.
    pub fn new(
        runner: Arc<dyn Runner>,
        lua_version: impl Into<String>,
        tree: impl Into<String>,
    ) -> Self {
        Self {
            runner,
            lua_version: lua_version.into(),
            tree: tree.into(),
        }
    }
}

/// What is known of a VM.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VmInfo {
    /// The id that its owner gave it.
    pub id: VmId,
    /// The name of its type.
    pub vm_type: String,
    /// Whether it runs.
    pub state: VmState,
    /// The address that it is reached at, for types that have one.
    pub address: Option<IpAddr>,
    /// What else its type tells: uuid, host, template.
    pub details: BTreeMap<String, String>,
}

impl VmInfo {
    /// Describes a VM.
    pub fn new(id: VmId, vm_type: impl Into<String>, state: VmState) -> Self {
        Self {
            id,
            vm_type: vm_type.into(),
            state,
            address: None,
            details: BTreeMap::new(),
        }
    }
}

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VmState {
    /// It exists and can be started.
    Stopped,
    /// It can run Lua.
    Running,
    /// It stands still in memory.
    Paused,
    /// It stands still on disk.
    Suspended,
    /// It is gone.
    Destroyed,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Destroyed => "destroyed",
        })
    }
}

/// The id of a VM: 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit.
///
/// The form fits a host name, a file name and a line of a log, so that no id is ever quoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(String);

impl VmId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when the id is not of the form above.
    pub fn new(id: impl Into<String>) -> Result<Self> {
        let id = id.into();
        let fits = (1..=63).contains(&id.len())
            && id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if fits {
            return Ok(Self(id));
        }
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "{id:?} cannot be a VM id; use 1 to 63 letters, digits, '.', '_' or '-', \
                 starting with a letter or digit"
            ),
        ))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VmId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self> {
        Self::new(id)
    }
}

impl TryFrom<String> for VmId {
    type Error = Error;

    fn try_from(id: String) -> Result<Self> {
        Self::new(id)
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_fit_host_names_file_names_and_logs() {
        for good in ["a", "vm_000", "lab-7.sample", &"x".repeat(63)] {
            assert!(VmId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "a b",
            "a/b",
            "a\nb",
            "a'b",
            "ü",
            &"x".repeat(64),
        ] {
            let error = VmId::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
        }
    }
}
