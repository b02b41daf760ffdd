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

use crate::{engine, leash};

/// The first argument of a program that is started as a worker.
pub(crate) const ARGUMENT: &str = "__lua-worker";

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
        let code = main();
        // What `main` of a program would do with the code, which has no number of its own.
        std::process::exit(i32::from(code != ExitCode::SUCCESS));
    }
}

/// Whether this process was started as a worker.
pub(crate) fn was_asked() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == ARGUMENT)
}

/// Runs the one Lua program that standard input brings; the `main` of the program
/// `bioxen-lua-worker`.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let args: Vec<&str> = args
        .iter()
        .map(|arg| arg.to_str().unwrap_or_default())
        .collect();
    match args[..] {
        [ARGUMENT, IDENTIFY] => match io::stdout().write_all(IDENTITY.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        [ARGUMENT, lock, memory] => serve(Path::new(lock), memory.parse().ok()),
        _ => {
            let _ = writeln!(
                io::stderr(),
                "this program runs Lua for BioXen, which starts it; there is nothing to call by hand"
            );
            ExitCode::from(2)
        }
    }
}

fn serve(lock: &Path, memory: Option<u64>) -> ExitCode {
    let ready = leash::watch(lock).and_then(|()| limit(memory).map_err(io::Error::from));
    if let Err(error) = ready {
        let _ = writeln!(io::stderr(), "lua: the worker cannot start: {error}");
        return ExitCode::FAILURE;
    }
    sigpipe::reset();
    engine::run(usize::try_from(memory.unwrap_or_else(all_there_is)).unwrap_or(usize::MAX))
}

/// The memory of this machine. A state without a limit would not be told that there is no more,
/// its process would be aborted.
fn all_there_is() -> u64 {
    sysinfo().map_or(u64::MAX, |info| info.ram_total())
}

/// Lowers the limits of this process, which what it starts inherits.
fn limit(memory: Option<u64>) -> nix::Result<()> {
    lower(Resource::RLIMIT_CORE, 0)?;
    match memory {
        Some(bytes) => lower(
            Resource::RLIMIT_DATA,
            bytes.saturating_mul(2).saturating_add(HEADROOM),
        ),
        None => Ok(()),
    }
}

fn lower(resource: Resource, limit: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let limit = limit.min(hard);
    setrlimit(resource, limit, limit)
}
