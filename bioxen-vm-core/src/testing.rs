//! An in-memory backend for tests of what is built on top of this crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use serde::Deserialize;

use crate::{
    Backend, BackendConfig, Capabilities, Error, ErrorKind, LuaVm, Outcome, OutputSink,
    OutputStream, Result, Script, Status, VmId, VmInfo, VmState,
};

/// Makes VMs that run no Lua: each program's output is its own source text.
#[derive(Debug, Clone, Default)]
pub struct EchoBackend {
    config: EchoConfig,
}

/// The configuration of [`EchoBackend`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EchoConfig {
    /// Lets [`LuaVm::start`] fail.
    pub fail_start: bool,
    /// Lets [`LuaVm::start`] wait for ever.
    pub hang_start: bool,
    /// Lets [`LuaVm::destroy`] wait for ever.
    pub hang_destroy: bool,
}

impl BackendConfig for EchoConfig {
    const VM_TYPE: &'static str = "echo";
    type Backend = EchoBackend;

    fn build(self) -> Result<EchoBackend> {
        Ok(EchoBackend { config: self })
    }
}

#[async_trait]
impl Backend for EchoBackend {
    fn vm_type(&self) -> &'static str {
        EchoConfig::VM_TYPE
    }

    async fn create(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        Ok(EchoVm::make(id, STOPPED, &self.config))
    }

    /// Every name is that of a running VM, but for `nobody`.
    async fn adopt(&self, id: VmId, which: &str) -> Result<Arc<dyn LuaVm>> {
        if which == "nobody" {
            return Err(Error::new(ErrorKind::NotFound, "there is no such VM"));
        }
        Ok(EchoVm::make(id, RUNNING, &self.config))
    }
}

#[derive(Debug)]
struct EchoVm {
    id: VmId,
    state: AtomicU8,
    config: EchoConfig,
}

const STOPPED: u8 = 0;
const RUNNING: u8 = 1;
const DESTROYED: u8 = 2;

impl EchoVm {
    fn make(id: VmId, state: u8, config: &EchoConfig) -> Arc<dyn LuaVm> {
        Arc::new(Self {
            id,
            state: AtomicU8::new(state),
            config: config.clone(),
        })
    }

    fn state(&self) -> VmState {
        match self.state.load(Ordering::Acquire) {
            STOPPED => VmState::Stopped,
            RUNNING => VmState::Running,
            _ => VmState::Destroyed,
        }
    }
}

#[async_trait]
impl LuaVm for EchoVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    fn vm_type(&self) -> &'static str {
        EchoConfig::VM_TYPE
    }

    async fn info(&self) -> Result<VmInfo> {
        Ok(VmInfo::new(self.id.clone(), self.vm_type(), self.state()))
    }

    async fn start(&self) -> Result<()> {
        if self.config.hang_start {
            std::future::pending::<()>().await;
        }
        if self.config.fail_start {
            return Err(Error::new(ErrorKind::Unavailable, "told to fail"));
        }
        self.state.store(RUNNING, Ordering::Release);
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        self.state.store(STOPPED, Ordering::Release);
        Ok(())
    }

    async fn execute(&self, script: Script) -> Result<Outcome> {
        script.validate()?;
        if self.state() != VmState::Running {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("it is {}; start it first", self.state()),
            )
            .with_operation("execute")
            .with_vm(&self.id));
        }
        if script.code.starts_with(b"wait for ever") {
            std::future::pending::<()>().await;
        }
        let mut outcome = Outcome::new(Status::Exited(0));
        outcome.stdout = script.code;
        Ok(outcome)
    }

    async fn execute_streaming(
        &self,
        script: Script,
        sink: &mut dyn OutputSink,
    ) -> Result<Outcome> {
        let mut outcome = self.execute(script).await?;
        let output = std::mem::take(&mut outcome.stdout);
        if sink.write(OutputStream::Stdout, output).await.is_break() {
            outcome.status = Status::OutputLimit;
        }
        Ok(outcome)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            streaming: true,
            clones: true,
            keep: true,
            ..Capabilities::default()
        }
    }

    async fn clone_vm(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        Ok(Self::make(id, STOPPED, &self.config))
    }

    async fn keep(&self) -> Result<()> {
        Ok(())
    }

    async fn destroy(&self) -> Result<()> {
        if self.config.hang_destroy {
            std::future::pending::<()>().await;
        }
        self.state.store(DESTROYED, Ordering::Release);
        Ok(())
    }
}
