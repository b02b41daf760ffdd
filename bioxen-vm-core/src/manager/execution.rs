//! Programs that run in the VMs of a manager, awaited or in the background.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use super::VmManager;
use crate::{Error, ErrorKind, Outcome, OutputSink, OutputStream, Result, Script, channel};

/// How many pieces of output wait for their taker before the program has to wait.
const PIECES: usize = 16;

impl VmManager {
    /// Runs a Lua program in a VM and waits for its end.
    ///
    /// # Errors
    /// As [`vm`](Self::vm) and [`LuaVm::execute`](crate::LuaVm::execute).
    ///
    /// # Cancel safety
    /// Dropping the future ends the program.
    pub async fn execute_vm(&self, id: &str, script: impl Into<Script>) -> Result<Outcome> {
        let vm = self.vm(id)?;
        let operation = self.observed.begin(vm.id());
        let result = vm.execute(script.into()).await;
        operation.end(&result);
        result
    }

    /// Runs a Lua program in a VM, hands its output on as it comes, and waits for its end.
    ///
    /// # Errors
    /// As [`vm`](Self::vm) and [`LuaVm::execute_streaming`](crate::LuaVm::execute_streaming).
    ///
    /// # Cancel safety
    /// Dropping the future ends the program.
    pub async fn execute_streaming(
        &self,
        id: &str,
        script: impl Into<Script>,
        sink: &mut dyn OutputSink,
    ) -> Result<Outcome> {
        let vm = self.vm(id)?;
        let operation = self.observed.begin(vm.id());
        let result = vm.execute_streaming(script.into(), sink).await;
        operation.end(&result);
        result
    }

    /// Reads a Lua file of this machine and runs it in a VM; messages name it by its path.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::NotFound`] when the file cannot be read, and as
    /// [`execute_vm`](Self::execute_vm).
    ///
    /// # Cancel safety
    /// Dropping the future ends the program.
    #[cfg(feature = "local")]
    pub async fn execute_file(&self, id: &str, path: &std::path::Path) -> Result<Outcome> {
        self.execute_vm(id, crate::local::read_script(path).await?)
            .await
    }

    /// Runs a Lua program in a VM in the background. Needs a running tokio runtime.
    ///
    /// # Errors
    /// As [`vm`](Self::vm); what happens later is told by the [`Execution`].
    pub fn spawn_execution(&self, id: &str, script: impl Into<Script>) -> Result<Execution> {
        self.spawn(id, script.into(), None)
    }

    pub(super) fn spawn(
        &self,
        id: &str,
        script: Script,
        room: Option<Arc<Semaphore>>,
    ) -> Result<Execution> {
        let vm = self.vm(id)?;
        let observed = Arc::clone(&self.observed);
        Ok(Execution::spawn(async move {
            let _room = match &room {
                // Never closed, so never an error.
                Some(room) => room.acquire().await.ok(),
                None => None,
            };
            let operation = observed.begin(vm.id());
            let result = vm.execute(script).await;
            operation.end(&result);
            result
        }))
    }

    /// Runs a Lua program in a VM in the background and hands its output on as it comes; the
    /// program waits when nobody takes it, and ends when the receiver is dropped. Needs a running
    /// tokio runtime.
    ///
    /// # Errors
    /// As [`vm`](Self::vm); what happens later is told by the [`Execution`].
    pub fn spawn_streaming(
        &self,
        id: &str,
        script: impl Into<Script>,
    ) -> Result<(Execution, mpsc::Receiver<(OutputStream, Bytes)>)> {
        let vm = self.vm(id)?;
        let script = script.into();
        let observed = Arc::clone(&self.observed);
        let (mut sink, output) = channel(PIECES);
        let execution = Execution::spawn(async move {
            let operation = observed.begin(vm.id());
            let result = vm.execute_streaming(script, &mut sink).await;
            operation.end(&result);
            result
        });
        Ok((execution, output))
    }
}

/// A Lua program that runs in the background.
///
/// Dropping it lets the program go on; [`cancel`](Self::cancel) ends it.
#[derive(Debug, Clone)]
pub struct Execution {
    receiver: watch::Receiver<Option<Result<Outcome>>>,
    abort: AbortHandle,
}

/// How far a program in the background is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecutionStatus {
    /// It runs.
    Running,
    /// It ended, or failed to start; [`Execution::wait`] tells which.
    Done,
    /// It was cancelled.
    Cancelled,
}

impl Execution {
    fn spawn(program: impl Future<Output = Result<Outcome>> + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(None);
        let task = tokio::spawn(async move {
            sender.send_replace(Some(program.await));
        });
        Self {
            receiver,
            abort: task.abort_handle(),
        }
    }

    /// Waits for the end of the program. May be called any number of times.
    ///
    /// # Errors
    /// As [`LuaVm::execute`](crate::LuaVm::execute), and with [`ErrorKind::Cancelled`] after [`cancel`](Self::cancel).
    ///
    /// # Cancel safety
    /// Dropping the future does not end the program.
    pub async fn wait(&self) -> Result<Outcome> {
        let mut receiver = self.receiver.clone();
        let finished = receiver
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|r| r.clone());
        finished.unwrap_or_else(|| {
            let message = "the execution was cancelled";
            Err(Error::new(ErrorKind::Cancelled, message))
        })
    }

    /// Ends the program and what it started. Does nothing when it has ended.
    pub fn cancel(&self) {
        self.abort.abort();
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> ExecutionStatus {
        if self.receiver.borrow().is_some() {
            ExecutionStatus::Done
        } else if self.receiver.has_changed().is_err() {
            ExecutionStatus::Cancelled
        } else {
            ExecutionStatus::Running
        }
    }
}
