//! The process in which one Lua program runs, seen from inside.
//!
//! A program that uses this crate can be its own worker, and then needs no other file:
//!
//! ```no_run
//! use bioxen_vm_basic::{BasicConfig, worker};
//!
//! fn main() -> std::io::Result<()> {
//!     worker::run_if_asked();
//!     let config = BasicConfig::default().with_worker(std::env::current_exe()?);
//!     // ...
//! #   drop(config);
//!     Ok(())
//! }
//! ```

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::sysinfo::sysinfo;

use crate::{engine, leash, supervisor};

/// The first argument of a program that is started as a worker.
pub(crate) const ARGUMENT: &str = "__lua-worker";

/// The second argument of a worker that runs the built-in Lua. The lock of the owner and the limit
/// on memory in bytes, or `unlimited`, follow.
pub(crate) const LUA: &str = "lua";

/// The second argument of a worker that supervises another program. The lock, the limit, the
/// program and its arguments follow.
pub(crate) const PROGRAM: &str = "program";

/// The second argument of the process that ends a worker, whose process id follows.
pub(crate) const END: &str = "end";

/// The second argument that asks a worker who it is.
pub(crate) const IDENTIFY: &str = "--identify";

/// What a worker answers. Worker and library must be of one version.
pub(crate) const IDENTITY: &str = concat!("bioxen-lua-worker ", env!("CARGO_PKG_VERSION"), "\n");

/// What the process may take beyond twice the memory of its Lua state, so that the state meets its
/// own limit first, which it can tell the program about.
const HEADROOM: u64 = 64 << 20;

/// Is a worker, and ends the process, if this process was started as one; returns otherwise.
///
/// Call it first in `main`, before any thread is started, in a program that is given as
/// [`BasicConfig::worker`](crate::BasicConfig::worker).
pub fn run_if_asked() {
    if was_asked() {
        std::process::exit(i32::from(work()));
    }
}

/// Whether this process was started as a worker.
pub(crate) fn was_asked() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == ARGUMENT)
}

/// Runs the one program that this process was started for; the `main` of the program
/// `bioxen-lua-worker`.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(work())
}

/// Does what the arguments ask for; returns the exit code.
fn work() -> u8 {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let args: Vec<&str> = args
        .iter()
        .map(|arg| arg.to_str().unwrap_or_default())
        .collect();
    let done = match args[..] {
        [ARGUMENT, LUA, lock, memory] => run_lua(Path::new(lock), memory.parse().ok()),
        [ARGUMENT, PROGRAM, lock, memory, program, ref args @ ..] => {
            run_program(Path::new(lock), memory.parse().ok(), program, args)
        }
        [ARGUMENT, END, pid] => {
            leash::end_parent(pid);
            Ok(0)
        }
        [ARGUMENT, IDENTIFY] => io::stdout().write_all(IDENTITY.as_bytes()).map(|()| 0),
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

/// Runs the one Lua program that standard input brings.
fn run_lua(lock: &Path, memory: Option<u64>) -> io::Result<u8> {
    begin(lock)?;
    if let Some(bytes) = memory {
        lower(
            Resource::RLIMIT_DATA,
            bytes.saturating_mul(2).saturating_add(HEADROOM),
        )?;
    }
    let memory = usize::try_from(memory.unwrap_or_else(all_there_is)).unwrap_or(usize::MAX);
    let ended_well = engine::run(memory, supervisor::end_leftovers);
    supervisor::end_leftovers();
    Ok(u8::from(!ended_well))
}

/// Runs a program that is not ours.
fn run_program(lock: &Path, memory: Option<u64>, program: &str, args: &[&str]) -> io::Result<u8> {
    begin(lock)?;
    if let Some(bytes) = memory {
        lower(Resource::RLIMIT_DATA, bytes)?;
    }
    Ok(supervisor::supervise(program, args))
}

/// Does what every worker must have done before anything else runs.
fn begin(lock: &Path) -> io::Result<()> {
    supervisor::adopt()?;
    leash::watch(lock)?;
    lower(Resource::RLIMIT_CORE, 0)?;
    sigpipe::reset();
    Ok(())
}

/// The memory of this machine. A state without a limit would not be told that there is no more,
/// its process would be aborted.
fn all_there_is() -> u64 {
    sysinfo().map_or(u64::MAX, |info| info.ram_total())
}

/// Lowers a limit of this process, which what it starts inherits.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let limit = limit.min(hard);
    Ok(setrlimit(resource, limit, limit)?)
}
