//! The other VMs of a manager that has a hostile program to run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{
    Execution, ExecutionStatus, Input, OutputStream, Script, Session, SessionOptions, VmManager,
};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc::Receiver;

use crate::support::{Lab, home_below, manager};

const VM: &str = "neighbour";

/// A VM with a file of its own, a session that has a variable, and a program that answers; and the
/// manager that they have in common with hostile ones.
pub(super) struct Neighbours {
    manager: Arc<VmManager>,
    session: Session,
    program: Execution,
    asks: DuplexStream,
    answers: Receiver<(OutputStream, Bytes)>,
    made: AtomicUsize,
    base: TempDir,
}

impl Neighbours {
    pub(super) async fn new() -> Self {
        let (manager, base) = (Arc::new(manager()), tempfile::tempdir().unwrap());
        let config = BasicConfig::default().with_directory(base.path());
        let config = serde_json::to_value(config).unwrap();
        manager.create_vm(VM, "basic", config).await.unwrap();
        let keep = "io.open('own', 'w'):write('kept'):close()";
        let kept = manager.execute_vm(VM, keep).await.unwrap();
        assert!(kept.success(), "{}", kept.stderr_text());
        let session = manager.open_session(VM, SessionOptions::default()).await;
        let session = session.unwrap();
        session.eval("own = 'kept'").await.unwrap();
        let (asks, asked) = tokio::io::duplex(64);
        let echo = "io.stdout:setvbuf('no') for line in io.lines() do print(line) end";
        let echo = Script::new(echo).with_stdin(Input::stream(asked));
        let (program, answers) = manager.spawn_streaming(VM, echo).unwrap();
        Self {
            manager,
            session,
            program,
            asks,
            answers,
            made: AtomicUsize::new(0),
            base,
        }
    }

    /// Where programs of the neighbour start.
    pub(super) fn home(&self) -> PathBuf {
        home_below(self.base.path())
    }

    pub(super) async fn built_in(&self) -> Lab {
        self.lab(BasicConfig::default()).await
    }

    /// VMs of the same manager, as [`Lab::both`].
    pub(super) async fn both(&self) -> [Lab; 2] {
        self.both_with(BasicConfig::default()).await
    }

    pub(super) async fn both_with(&self, config: BasicConfig) -> [Lab; 2] {
        [
            self.lab(config.clone()).await,
            self.lab(config.with_lua_executable("lua5.4")).await,
        ]
    }

    async fn lab(&self, config: BasicConfig) -> Lab {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Lab::managed(Arc::clone(&self.manager), &format!("lab-{number}"), config).await
    }

    /// Sees that all of them do as before, and that the manager makes, runs and removes VMs.
    pub(super) async fn unharmed(&mut self) {
        let read = "print(io.open('own'):read())";
        let outcome = self.manager.execute_vm(VM, read).await.unwrap();
        assert_eq!(outcome.stdout_text(), "kept\n", "{}", outcome.stderr_text());
        let reply = self.session.eval("print(own)").await.unwrap();
        assert_eq!(&reply.stdout[..], b"kept\n");

        self.asks.write_all(b"there?\n").await.unwrap();
        let mut answer = Vec::new();
        while answer.len() < b"there?\n".len() {
            let (_, piece) = self.answers.recv().await.unwrap();
            answer.extend_from_slice(&piece);
        }
        assert_eq!(answer, b"there?\n");
        assert_eq!(self.program.status(), ExecutionStatus::Running);

        let another =
            Lab::managed(Arc::clone(&self.manager), "another", BasicConfig::default()).await;
        let outcome = self.manager.execute_vm("another", "print(1)").await;
        assert_eq!(outcome.unwrap().stdout_text(), "1\n");
        self.manager.remove_vm("another").await.unwrap();
        drop(another);
        // Only the program that answers; nothing hangs.
        assert_eq!(self.manager.stats().running_operations, 1);
    }
}
