use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{self, ConfigProblem, Read};
use crate::{Error, ErrorKind, LuaVm, Result, VmId, VmInfo};

/// Makes VMs of one type, with one configuration.
#[async_trait]
pub trait Backend: Any + Debug + Send + Sync {
    /// The name of the type, `basic` for example.
    fn vm_type(&self) -> &'static str;

    /// Makes a VM, stopped.
    ///
    /// # Errors
    /// Fails when it cannot be made; then nothing of it is left behind.
    ///
    /// # Cancel safety
    /// After a dropped future nothing of the VM is left behind either; the clean-up may go on in
    /// the background, and [`close`](Self::close) waits for it.
    async fn create(&self, id: VmId) -> Result<Arc<dyn LuaVm>>;

    /// Takes over a VM that exists, under an id: one that was kept ([`LuaVm::keep`]), or one that
    /// somebody else made. `which` is its UUID, its name, the id that it was made with, or, as
    /// `tag:NAME`, a tag that it alone has. Nothing is done to the VM.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types whose VMs end with their program, with
    /// [`ErrorKind::NotFound`] when there is no such VM, and with [`ErrorKind::Config`] when there
    /// are several.
    async fn adopt(&self, id: VmId, which: &str) -> Result<Arc<dyn LuaVm>> {
        let _ = which;
        Err(self.ends_with_program().with_vm(id))
    }

    /// The VMs of this project that exist where the backend makes its own, sorted by id.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] for types whose VMs end with their program.
    async fn list(&self) -> Result<Vec<VmInfo>> {
        Err(self.ends_with_program())
    }

    /// The error of a backend whose VMs nobody finds again.
    #[doc(hidden)]
    fn ends_with_program(&self) -> Error {
        let vm_type = self.vm_type();
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "VMs of type {vm_type:?} end with the program that made them, so there are none to \
                 be found"
            ),
        )
    }

    /// Ends what the backend itself holds open: connections, sessions. VMs that it made are not
    /// touched; destroy them first.
    ///
    /// # Errors
    /// Fails when something could not be ended.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// The configuration of a backend, and the way to build it.
///
/// Implement this and give it to [`VmFactory::with`](crate::VmFactory::with) to add a VM type.
pub trait BackendConfig: DeserializeOwned + 'static {
    /// The name that the type goes by.
    const VM_TYPE: &'static str;

    /// The backend that is built.
    type Backend: Backend;

    /// Reads a configuration; `Value::Null` is the default one.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when a key is unknown or has a value of the wrong type, and
    /// names all problems of the configuration at once.
    fn from_value(config: Value) -> Result<Self> {
        let Read {
            config: read,
            problems,
        } = config::read::<Self>(&config, Self::advice);
        match read {
            Some(read) if problems.is_empty() => Ok(read),
            read => {
                let problems = with_contradictions(read, problems);
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                Err(Self::wrong(&problems))
            }
        }
    }

    /// All that is wrong with a configuration, in whatever way; nothing when it can be built.
    #[must_use]
    fn check(config: &Value) -> Vec<ConfigProblem> {
        let Read {
            config: read,
            problems,
        } = config::read::<Self>(config, Self::advice);
        with_contradictions(read, problems)
    }

    /// What is wrong with a configuration each of whose values can be read.
    #[must_use]
    fn contradictions(&self) -> Vec<ConfigProblem> {
        Vec::new()
    }

    /// What to do about an unknown key, if there is more to say than which keys there are: for
    /// keys of earlier versions and of other programs.
    #[must_use]
    fn advice(key: &str) -> Option<&'static str> {
        let _ = key;
        None
    }

    /// The error of a configuration that has these problems, one clause each.
    #[must_use]
    fn wrong(problems: &[String]) -> Error {
        let (vm_type, problems) = (Self::VM_TYPE, problems.join("; "));
        Error::new(
            ErrorKind::Config,
            format!("the configuration of VM type {vm_type:?} is wrong: {problems}"),
        )
    }

    /// Builds the backend. It does no I/O: connections are made when first needed.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] and names all problems of the
    /// configuration at once.
    fn build(self) -> Result<Self::Backend>;
}

/// The problems with those of the part that could be read. What such a key then lacks is no
/// problem of its own.
fn with_contradictions<C: BackendConfig>(
    read: Option<C>,
    mut problems: Vec<ConfigProblem>,
) -> Vec<ConfigProblem> {
    let more = read
        .map(|config| config.contradictions())
        .unwrap_or_default();
    let is_new = |problem: &ConfigProblem| problems.iter().all(|told| told.key != problem.key);
    let more: Vec<_> = more.into_iter().filter(is_new).collect();
    problems.extend(more);
    problems
}
