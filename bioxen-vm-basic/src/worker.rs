//! The process in which Lua programs run, seen from inside.
//!
//! A program that uses this crate can be its own worker, and then needs no other file:
//!
//! ```no_run
//! use bioxen_vm_basic::{BasicConfig, worker};
//!
//! fn main() {
//!     worker::run_if_asked();
//!     let config = BasicConfig::default(); // finds this program
//!     // ...
//! #   drop(config);
//! }
//! ```

use std::ffi::OsString;
use std::io::{self, Write};
use std::iter::repeat_n;
use std::os::fd::RawFd;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bioxen_vm_core::lua::SESSION_DRIVER;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use crate::brake::Brake;
use crate::census::Census;
use crate::orders::{Engine, Finding, Limits, Orders};
use crate::supervisor::{Warden, ending, imitate, unstartable};
use crate::{census, group, leash, link, serve};

/// The first argument of a program that is started as a worker. What it is told, as JSON, follows;
/// where a program and its arguments follow that, it runs this one program.
pub(crate) const ARGUMENT: &str = "__lua-worker";

/// The second argument of the process that ends a worker, whose process id follows.
pub(crate) const END: &str = "--end";

/// The second argument that asks a worker who it is.
pub(crate) const IDENTIFY: &str = "--identify";

/// The second argument that asks which walls stand. What a worker is told follows.
pub(crate) const WALLS: &str = "--walls";

/// The second argument of a worker that keeps a session. What it is told follows, and where an
/// interpreter of this machine keeps it, the program. Requests come on standard input.
pub(crate) const SESSION: &str = "--session";

/// The same for a session of the built-in Lua whose chunks can be interrupted, by SIGINT.
pub(crate) const INTERRUPTIBLE: &str = "--interruptible-session";

/// How many interrupts a session of an interpreter survives: it minds one for each part of its
/// command line.
const INTERRUPTS: usize = 256;

/// What a worker answers. Worker and library must be of one version.
pub(crate) const IDENTITY: &str = concat!("bioxen-lua-worker ", env!("CARGO_PKG_VERSION"), "\n");

/// What the process may take beyond twice the memory of its Lua state, so that the state meets its
/// own limit first, which it can tell the program about.
const HEADROOM: u64 = 64 << 20;

/// How many processes and threads more the user of a worker may have that starts others, and how
/// many more its control group.
const OF_OTHERS: u64 = 1000;

/// Whether `main` has called [`run_if_asked`]. The only thing that this library keeps for the whole
/// process: it is a property of its program.
static CAN_BE_ASKED: AtomicBool = AtomicBool::new(false);

/// Is a worker, and ends the process, if this process was started as one; returns otherwise.
///
/// Call it first in `main`: from then on VMs find the running program as their worker, and need no
/// other. Under `#[tokio::main]` the threads of the runtime are there already; they take some memory
/// in each worker, and do no harm.
pub fn run_if_asked() {
    if was_asked() {
        std::process::exit(i32::from(work()));
    }
    CAN_BE_ASKED.store(true, Ordering::Relaxed);
}

/// Whether the running program can be its own worker.
pub(crate) fn can_be_asked() -> bool {
    CAN_BE_ASKED.load(Ordering::Relaxed)
}

/// Whether this process was started as a worker.
pub(crate) fn was_asked() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == ARGUMENT)
}

/// Does what this process was started for; the `main` of the program `bioxen-lua-worker`.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(work())
}

/// Does what the arguments ask for; returns the exit code.
fn work() -> u8 {
    close_inherited();
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let args: Vec<&str> = args
        .iter()
        .map(|arg| arg.to_str().unwrap_or_default())
        .collect();
    let done = match args[..] {
        [ARGUMENT, IDENTIFY] => io::stdout().write_all(IDENTITY.as_bytes()).map(|()| 0),
        [ARGUMENT, END, pid] => {
            leash::end_parent(pid);
            Ok(0)
        }
        [ARGUMENT, WALLS, orders] => tell_walls(orders),
        [ARGUMENT, SESSION, orders] => serve::move_requests().and_then(|_requests| {
            let (orders, warden) = begin_one(orders)?;
            serve::keep_session(&orders, warden, None)
        }),
        [ARGUMENT, INTERRUPTIBLE, orders] => serve::move_requests().and_then(|_requests| {
            let brake = listen_for_interrupts()?;
            let (orders, warden) = begin_one(orders)?;
            serve::keep_session(&orders, warden, Some(brake))
        }),
        [ARGUMENT, SESSION, orders, program] => serve::move_requests().and_then(|_requests| {
            let mut args = vec!["-e", SESSION_DRIVER];
            args.extend(repeat_n(["-e", serve::SESSION], INTERRUPTS).flatten());
            run_program(orders, program, &args)
        }),
        [ARGUMENT, orders] => serve(orders),
        [ARGUMENT, orders, program, ref args @ ..] => run_program(orders, program, args),
        _ => {
            let _ = writeln!(
                io::stderr(),
                "this program runs Lua for BioXen, which starts it; there is nothing to call by hand"
            );
            Ok(2)
        }
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "lua: the worker cannot start: {error}");
        1
    })
}

/// Closes what the owner has itself inherited from whoever started it: the owner gives a worker its
/// standard streams and nothing else, and an open file would be a hole in the walls.
fn close_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<RawFd> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    // The directory that was just read is among them, and closed already.
    for number in numbers.into_iter().filter(|number| is_inherited(*number)) {
        let _ = nix::unistd::close(number);
    }
}

/// Whether an open file has come through the start of this program, and was not opened by it, by
/// the runtime of its `main` for example: that opens all its files so that they do not.
fn is_inherited(number: RawFd) -> bool {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
        return false;
    };
    let mut lines = info.lines();
    lines
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
}

/// Runs the programs that the owner sends.
fn serve(orders: &str) -> io::Result<u8> {
    let socket = serve::take_socket()?;
    let owner = socket.try_clone()?;
    let (orders, warden, census) = begin(orders, move |_, _, ending| {
        // The owner ends this process then, or is gone.
        let _ = link::report(&owner, ending, false);
    })?;
    serve::serve(&orders, warden, &census, &socket)
}

/// Has the returned brake told of each SIGINT. To be called before there is another thread: a signal
/// that all of them block waits for the one that takes it.
fn listen_for_interrupts() -> io::Result<Arc<Brake>> {
    let interrupt = SigSet::from(Signal::SIGINT);
    interrupt.thread_block()?;
    let brake = Arc::new(Brake::default());
    let told = Arc::clone(&brake);
    std::thread::Builder::new()
        .name("interrupts".into())
        .stack_size(128 << 10)
        .spawn(move || {
            while interrupt.wait().is_ok() {
                told.interrupt();
            }
        })?;
    Ok(brake)
}

/// Runs one program that is not ours to its end, ends what it has left, and ends as it ended.
fn run_program(orders: &str, program: &str, args: &[&str]) -> io::Result<u8> {
    let (_, warden) = begin_one(orders)?;
    let status = Command::new(program).args(args).status();
    warden.end_leftovers();
    Ok(match status {
        Ok(status) => imitate(ending(status)),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{program}: {error}");
            imitate(unstartable(&error))
        }
    })
}

/// Puts up walls, and tells which stand.
fn tell_walls(orders: &str) -> io::Result<u8> {
    let orders: Orders = serde_json::from_str(orders)?;
    let count = orders.limits.processes.map(|count| {
        let entered = match &orders.limits.group {
            Some(group) => group::enter(group, tasks(count)),
            None => group::base().and_then(|_| Err(io::ErrorKind::Unsupported.into())),
        };
        group::finding(entered)
    });
    let mut findings: Vec<Finding> = orders.plan.raise()?;
    findings.extend(count);
    io::stdout().write_all(&serde_json::to_vec(&findings)?)?;
    Ok(0)
}

/// Does what every worker must have done before anything else runs. A program that has too much is told
/// of, with what is to be held while this process is ended.
fn begin(
    orders: &str,
    tell: impl FnOnce(&Orders, &Mutex<()>, i32) + Send + 'static,
) -> io::Result<(Orders, Warden, Census)> {
    let orders: Orders = serde_json::from_str(orders)?;
    let ending: Arc<Mutex<()>> = Arc::default();
    let warden = Warden::appoint(Arc::clone(&ending))?;
    leash::watch(&orders, Arc::clone(&ending))?;
    let told = orders.clone();
    let census = Census::take(&orders, move |found| tell(&told, &ending, found))?;
    limit(&orders)?;
    sigpipe::reset();
    orders.plan.raise()?;
    Ok((orders, warden, census))
}

/// The same for a worker that runs one program to its end, and has nobody to tell.
fn begin_one(orders: &str) -> io::Result<(Orders, Warden)> {
    let (orders, warden, census) = begin(orders, |orders, ending, found| {
        let what = match found {
            link::TOO_MANY_PROCESSES => "processes",
            _ => "on disk",
        };
        let _ = writeln!(io::stderr(), "lua: ended for too much: {what}");
        leash::end_all(orders, ending)
    })?;
    census.begin();
    Ok((orders, warden))
}

fn limit(orders: &Orders) -> io::Result<()> {
    let Limits {
        memory, file_size, ..
    } = orders.limits;
    lower(Resource::RLIMIT_CORE, 0)?;
    if let Some(count) = orders.limits.processes {
        // What others of this user start must not keep the program from its own.
        let all = census::of_this_user().saturating_add(tasks(count));
        lower(Resource::RLIMIT_NPROC, all)?;
        if let Some(group) = &orders.limits.group {
            group::enter(group, tasks(count))?;
        }
    }
    if let Some(bytes) = memory {
        let bytes = match orders.engine {
            Engine::BuiltIn => bytes.saturating_mul(2).saturating_add(HEADROOM),
            Engine::Program(_) => bytes,
        };
        lower(Resource::RLIMIT_DATA, bytes)?;
    }
    if let Some(bytes) = file_size {
        lower(Resource::RLIMIT_FSIZE, bytes)?;
        // A program that writes too much is told so, and not killed.
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
    }
    Ok(())
}

/// The processes and threads that the kernel lets a program have that may have so many processes:
/// more, since it also counts threads and the other programs of the VM.
fn tasks(count: usize) -> u64 {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    count.saturating_add(OF_OTHERS)
}

/// Lowers a limit of this process, which what it starts inherits.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let limit = limit.min(hard);
    Ok(setrlimit(resource, limit, limit)?)
}
