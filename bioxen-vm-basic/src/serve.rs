//! The work of a worker: one program after the other, each in a fresh Lua state, or in a fresh
//! process of an interpreter.
//!
//! A worker is used again only if nothing of a program can have stayed in it. What a program can
//! reach of its process is its Lua state, which is closed; open files, which go with the state; the
//! buffers of the standard streams, which are emptied, and whose modes tell when they are changed;
//! the locale, which is looked at; and what it starts, which is ended.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use bioxen_vm_core::lua::DRIVER;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{dup, dup2_stdin};

use crate::brake::Brake;
use crate::census::Census;
use crate::engine::{Compiled, Exits, Fresh, Housekeeper, Setting};
use crate::link;
use crate::orders::{Engine, Orders};
use crate::supervisor::{Warden, ending, unstartable};
use crate::walls::Start;

/// A process that has had more memory than this, in KiB, is not kept.
const MUCH_MEMORY: i64 = 64 << 10;

/// Takes the socket to the owner, which is the standard input of this process, out of the way of
/// programs.
pub(crate) fn take_socket() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(&nothing()?)?;
    Ok(socket.into())
}

/// The descriptor on which the driver of sessions looks for requests.
const REQUESTS: i32 = 3;

/// Serves the requests of a session, once its driver is loaded.
pub(crate) const SESSION: &str = "package.loaded['bioxen.session']()";

/// Moves the requests of a session from standard input, which is to be empty, to where its driver
/// looks for them. To be called before any file is opened; they are there until the result is
/// dropped.
pub(crate) fn move_requests() -> io::Result<OwnedFd> {
    let requests = dup(io::stdin())?;
    if requests.as_raw_fd() != REQUESTS {
        return Err(io::Error::other("a file is open that should not be"));
    }
    dup2_stdin(&nothing()?)?;
    Ok(requests)
}

/// Keeps a session with the built-in Lua until there are no more requests. With a brake its chunks can
/// be interrupted. Returns the exit code of this process.
pub(crate) fn keep_session(
    orders: &Orders,
    warden: Warden,
    brake: Option<Arc<Brake>>,
) -> io::Result<u8> {
    allow_cpu_time(orders.limits.cpu_time)?;
    let warden = Rc::new(warden);
    let mut setting = setting(orders, &warden)?;
    setting.exits = brake.map(Exits::new);
    let fresh = Fresh::new(&setting).map_err(io::Error::other)?;
    let ended = fresh.keep_session(SESSION, None);
    warden.end_leftovers();
    Ok(u8::try_from(ended).unwrap_or(u8::MAX))
}

/// Runs programs until the owner wants no more, or until something of one may have stayed here.
/// Returns the exit code of this process.
pub(crate) fn serve(
    orders: &Orders,
    warden: Warden,
    census: &Census,
    socket: &UnixStream,
) -> io::Result<u8> {
    let nothing = nothing()?;
    let warden = Rc::new(warden);
    let mut runner = match &orders.engine {
        Engine::BuiltIn => Runner::built_in(orders, &warden)?,
        Engine::Program(program) => Runner::Program(program.clone()),
    };
    loop {
        runner.prepare()?;
        let Some(request) = link::receive(socket)? else {
            return Ok(0);
        };
        let has_input = request.stdin.is_some();
        if let Some(stdin) = request.stdin {
            dup2_stdin(&stdin)?;
        }
        allow_cpu_time(orders.limits.cpu_time)?;
        census.begin();
        let ended = match enter(&request.cwd, io::stderr()) {
            Ok(()) => runner.run(request.program, &warden),
            Err(code) => code,
        };
        warden.end_leftovers();
        let flushed = runner.flush();
        if has_input {
            dup2_stdin(&nothing)?;
        }
        // A process that waits is in nobody's way.
        std::env::set_current_dir("/")?;
        if !census.end() {
            // The owner knows, and ends this process.
            return Ok(0);
        }
        let reusable = !orders.fresh && flushed && runner.is_clean(orders, has_input);
        link::report(socket, ended, reusable)?;
        if !reusable {
            return Ok(0);
        }
        // On a busy machine the owner may be waiting for this processor. The next state has time.
        std::thread::yield_now();
    }
}

/// What runs a program.
enum Runner {
    BuiltIn {
        setting: Box<Setting>,
        fresh: Option<Fresh>,
        housekeeper: Housekeeper,
    },
    Program(String),
}

impl Runner {
    fn built_in(orders: &Orders, warden: &Rc<Warden>) -> io::Result<Self> {
        Ok(Self::BuiltIn {
            setting: Box::new(setting(orders, warden)?),
            fresh: None,
            housekeeper: Housekeeper::new().map_err(io::Error::other)?,
        })
    }

    /// Does ahead what can be done before there is a program.
    fn prepare(&mut self) -> io::Result<()> {
        if let Self::BuiltIn { setting, fresh, .. } = self {
            *fresh = Some(Fresh::new(setting).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Runs a program; returns how it ended.
    fn run(&mut self, program: Vec<u8>, warden: &Warden) -> i32 {
        match self {
            Self::BuiltIn { fresh, .. } => fresh.take().map_or(1, |fresh| fresh.run(program)),
            Self::Program(program) => {
                let status = Command::new(&*program)
                    .args(["-e", DRIVER])
                    .stdin(Stdio::inherit())
                    .status();
                warden.end_leftovers();
                match status {
                    Ok(status) => ending(status),
                    Err(error) => {
                        let _ = writeln!(io::stderr(), "{program}: {error}");
                        unstartable(&error)
                    }
                }
            }
        }
    }

    fn flush(&self) -> bool {
        match self {
            Self::BuiltIn { housekeeper, .. } => housekeeper.flush(),
            Self::Program(_) => true,
        }
    }

    /// Whether nothing of the program has stayed in this process or has a hold of its output.
    fn is_clean(&self, orders: &Orders, has_had_input: bool) -> bool {
        let plan = &orders.plan;
        match self {
            Self::BuiltIn {
                setting,
                housekeeper,
                ..
            } => {
                !setting.changed.get()
                    && (plan.start == Start::Nothing || !has_had_children())
                    && housekeeper.restore(has_had_input)
                    && holds_little_memory()
            }
            // Over the network it could have passed its output on to others, which live.
            Self::Program(_) => plan.walls && !plan.network,
        }
    }
}

/// What the states of the built-in Lua are made for.
fn setting(orders: &Orders, warden: &Rc<Warden>) -> io::Result<Setting> {
    let warden = Rc::clone(warden);
    Ok(Setting {
        memory: memory(orders),
        processes: orders.plan.start != Start::Nothing,
        end_leftovers: Rc::new(move || warden.end_leftovers()),
        temporary_folder: std::env::temp_dir(),
        changed: Rc::new(Cell::new(false)),
        compiled: Rc::new(Compiled::new().map_err(io::Error::other)?),
        exits: None,
        guest: None,
    })
}

/// The bytes that a state may have: all of this machine where there is no limit. A state without one
/// would not be told that there is no more, its process would be aborted.
pub(crate) fn memory(orders: &Orders) -> usize {
    let memory = orders
        .limits
        .memory
        .unwrap_or_else(|| sysinfo().map_or(u64::MAX, |info| info.ram_total()));
    usize::try_from(memory).unwrap_or(usize::MAX)
}

fn nothing() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

/// Goes to a directory; an exit code where that cannot be.
pub(crate) fn enter(cwd: &[u8], mut stderr: impl Write) -> Result<(), i32> {
    use std::os::unix::ffi::OsStrExt;
    let cwd = Path::new(std::ffi::OsStr::from_bytes(cwd));
    std::env::set_current_dir(cwd).map_err(|error| {
        let _ = writeln!(stderr, "lua: cannot enter {}: {error}", cwd.display());
        1
    })
}

/// Lets this process have so many seconds of processor time more. What it starts counts anew.
fn allow_cpu_time(seconds: Option<u64>) -> io::Result<()> {
    let Some(seconds) = seconds else {
        return Ok(());
    };
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = usage.user_time().tv_sec() + usage.system_time().tv_sec();
    // The time that is used counts in whole seconds, and the limit is not to come too early.
    let limit = seconds.saturating_add(used.unsigned_abs() + 1);
    let (_, hard) = getrlimit(Resource::RLIMIT_CPU)?;
    Ok(setrlimit(Resource::RLIMIT_CPU, limit.min(hard), hard)?)
}

fn has_had_children() -> bool {
    getrusage(UsageWho::RUSAGE_CHILDREN).is_ok_and(|usage| usage.minor_page_faults() > 0)
}

fn holds_little_memory() -> bool {
    getrusage(UsageWho::RUSAGE_SELF).is_ok_and(|usage| usage.max_rss() < MUCH_MEMORY)
}
