//! A worker that is a thread of this process, for trusted programs: what [`serve`](crate::serve) does
//! in a process of its own.
//!
//! The kernel gives a thread its own working directory and puts walls around it alone, so that
//! programs see what they would see in a process. Memory, processor time and open files it does not
//! tell apart; and a thread can only end itself, which its Lua does when the [`Brake`] says so.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

use crate::brake::Brake;
use crate::engine::{Compiled, Exits, Fresh, Guest, Setting};
use crate::link;
use crate::orders::{Finding, Orders};
use crate::serve::{self, SESSION};

/// How long a thread that was told to end is waited for. Its Lua looks every some thousand
/// instructions; only a function of C takes longer.
const GRACE: Duration = Duration::from_millis(500);

/// Lua calls itself deep in the stack, as far as it goes in a process.
const STACK: usize = 8 << 20;

/// What a thread is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Programs, one after the other.
    Programs,
    /// One session, whose requests come as the input of one request.
    Session,
}

/// A thread that works. When this is dropped it is told to end.
#[derive(Debug)]
pub(crate) struct Thread {
    brake: Arc<Brake>,
    over: oneshot::Receiver<()>,
}

/// What a thread works with.
pub(crate) struct Tools {
    pub(crate) orders: Arc<Orders>,
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) socket: UnixStream,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Thread {
    pub(crate) fn start(work: Work, tools: Tools) -> io::Result<Self> {
        let brake = Arc::new(Brake::default());
        let heeded = Arc::clone(&brake);
        let (alive, over) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("lua".into())
            .stack_size(STACK)
            .spawn(move || {
                // The end of the socket tells the owner.
                if let Err(error) = tools.work(work, &heeded) {
                    tracing::debug!(%error, "a thread for programs ends early");
                }
                drop(alive);
            })?;
        Ok(Self { brake, over })
    }

    pub(crate) fn brake(&self) -> &Arc<Brake> {
        &self.brake
    }

    /// Tells it to end, and waits until it has ended, or until that takes too long.
    pub(crate) async fn end(&mut self) {
        self.brake.stop();
        if tokio::time::timeout(GRACE, &mut self.over).await.is_err() {
            tracing::warn!(
                "a program does not end: it is in a function that is not Lua, and its thread runs \
                 until that returns"
            );
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.brake.stop();
    }
}

impl Tools {
    fn work(self, work: Work, brake: &Arc<Brake>) -> io::Result<()> {
        let Self {
            orders,
            env,
            socket,
            stdout,
            stderr,
        } = self;
        let nothing: OwnedFd = File::open("/dev/null")?.into();
        begin(&orders)?;
        let guest = Rc::new(Guest {
            stdout,
            stderr: stderr.into(),
            env,
        });
        let setting = Setting {
            memory: serve::memory(&orders),
            processes: false,
            end_leftovers: Rc::new(|| ()),
            temporary_folder: guest.temporary_folder(),
            changed: Rc::new(Cell::new(false)),
            compiled: Rc::new(Compiled::new().map_err(io::Error::other)?),
            exits: None,
            guest: Some(Rc::clone(&guest)),
        };
        while let Some(request) = link::receive(&socket)? {
            let setting = Setting {
                exits: Some(Exits::new(Arc::clone(brake))),
                ..setting.clone()
            };
            let input = request.stdin.as_ref();
            let ended = match (serve::enter(&request.cwd, &guest.stderr), work) {
                (Err(code), _) => code,
                (Ok(()), Work::Programs) => {
                    let stdin = input.unwrap_or(&nothing);
                    let fresh = Fresh::reading(&setting, Some(stdin)).map_err(io::Error::other)?;
                    fresh.run(request.program)
                }
                (Ok(()), Work::Session) => {
                    let fresh =
                        Fresh::reading(&setting, Some(&nothing)).map_err(io::Error::other)?;
                    fresh.keep_session(SESSION, input)
                }
            };
            std::env::set_current_dir("/")?;
            if brake.is_stopped() {
                return Ok(());
            }
            link::report(&socket, ended, work == Work::Programs)?;
        }
        Ok(())
    }
}

/// Does what a thread must have done before anything else runs, and tells which walls stand.
fn begin(orders: &Orders) -> io::Result<Vec<Finding>> {
    // From now on its working directory is its own.
    unshare(CloneFlags::CLONE_FS)?;
    orders.plan.raise()
}

/// Finds out which walls stand around a thread.
pub(crate) fn walls(orders: Orders) -> io::Result<Vec<Finding>> {
    let found: Receiver<_> = {
        let (tell, found) = mpsc::channel();
        std::thread::Builder::new()
            .name("walls".into())
            .spawn(move || tell.send(begin(&orders)))?;
        found
    };
    found
        .recv()
        .unwrap_or_else(|_| Err(io::Error::from(ErrorKind::BrokenPipe)))
}
