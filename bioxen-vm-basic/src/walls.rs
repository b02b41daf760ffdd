//! The walls that the kernel puts around a worker, from inside, before it runs anything.
//!
//! Landlock confines the files, seccomp the system calls. Both need no rights, hold for everything
//! that a program starts, and cannot be taken away again. A program that was started before, such
//! as the threads that watch over a worker, stands outside.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use crate::orders::Finding;

/// The newest rights of Landlock that are known here. An older kernel keeps those that it knows.
const NEWEST: ABI = ABI::V6;

/// The wall that is no matter of the kernel's permissions: a process of its own.
pub(crate) const OWN_PROCESS: &str = "own process";

/// The wall that is of interest only where programs may start others.
pub(crate) const COUNT: &str = "process count";

/// The names of the walls.
pub(crate) const NAMES: [&str; 6] = [
    OWN_PROCESS,
    "files",
    "network",
    "processes",
    "system calls",
    COUNT,
];

/// What every program may read: the time zone and the language.
const READ_BY_ALL: [&str; 5] = [
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/usr/lib/locale",
    "/dev/urandom",
    "/dev/random",
];

/// What every program may write.
const WRITTEN_BY_ALL: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];

/// What programs of the system need to read to run.
const READ_BY_PROGRAMS: [&str; 14] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/luarocks",
];

/// What the usual programs of the system ask for besides.
const READ_BY_TOOLS: [&str; 4] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/mime.types",
];

/// What the network needs to be read.
const READ_FOR_NETWORK: [&str; 7] = [
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/services",
];

/// Where the programs lie that load all others.
const LOADERS: [&str; 4] = ["/lib64", "/lib", "/usr/lib64", "/usr/lib"];

/// What is to be open to the programs of a worker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Whether there are to be any walls.
    pub(crate) walls: bool,
    /// Folders and files that may be read.
    pub(crate) read: Vec<PathBuf>,
    /// Folders and files that may be read and written.
    pub(crate) write: Vec<PathBuf>,
    pub(crate) start: Start,
    pub(crate) network: bool,
}

/// Which programs may be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Start {
    /// None.
    #[default]
    Nothing,
    /// This one.
    Only(PathBuf),
    /// All that may be read.
    Anything,
}

impl Plan {
    /// Puts the walls up around this thread and all that it starts, and tells which stand.
    ///
    /// # Errors
    /// Fails when the kernel has a wall but does not put it up.
    pub(crate) fn raise(&self) -> io::Result<Vec<Finding>> {
        if !self.walls {
            let off = |name| opened(name, "switched off by the configuration");
            return Ok(NAMES[1..5].iter().copied().map(off).collect());
        }
        let landlock = self.confine_files()?;
        let seccomp = self.confine_calls()?;
        Ok(self.describe(landlock, seccomp))
    }

    fn describe(&self, landlock: Option<ABI>, seccomp: bool) -> Vec<Finding> {
        let without = |kind: &str| format!("the kernel of this machine has no {kind}");
        let files = match landlock {
            Some(abi) => finding("files", true, format!("landlock {}", abi as u8)),
            None => finding("files", false, without("landlock")),
        };
        let network = if self.network {
            opened("network", "opened by the configuration")
        } else if seccomp {
            finding("network", true, "seccomp")
        } else {
            finding("network", false, without("seccomp"))
        };
        let processes = match (&self.start, landlock, seccomp) {
            (Start::Anything, Some(abi), _) if abi >= ABI::V6 => finding(
                "processes",
                true,
                "programs may be started; others cannot be signalled (landlock)",
            ),
            (Start::Anything, ..) => finding(
                "processes",
                false,
                "programs may be started, and signal those of this user",
            ),
            (Start::Only(program), Some(_), _) => finding(
                "processes",
                true,
                format!("landlock; no program but {}", program.display()),
            ),
            (Start::Only(_), None, _) => finding("processes", false, without("landlock")),
            (Start::Nothing, _, true) => finding("processes", true, "seccomp; none but its own"),
            (Start::Nothing, _, false) => finding("processes", false, without("seccomp")),
        };
        let calls = match seccomp {
            true => finding("system calls", true, "seccomp"),
            false => finding("system calls", false, without("seccomp")),
        };
        vec![files, network, processes, calls]
    }

    /// Returns what the kernel has of it; `None` for nothing.
    fn confine_files(&self) -> io::Result<Option<ABI>> {
        let all = AccessFs::from_all(NEWEST);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = all & !BitFlags::from(AccessFs::Execute);
        let run = read | AccessFs::Execute;
        let mut rules: Vec<(&Path, BitFlags<AccessFs>)> = Vec::new();
        rules.extend(READ_BY_ALL.map(|path| (Path::new(path), read)));
        rules.extend(WRITTEN_BY_ALL.map(|path| (Path::new(path), write)));
        let loaders = loaders();
        match &self.start {
            Start::Nothing => {}
            Start::Only(program) => {
                rules.extend(READ_BY_PROGRAMS.map(|path| (Path::new(path), read)));
                rules.extend(loaders.iter().map(|path| (path.as_path(), run)));
                rules.push((program, run));
            }
            Start::Anything => {
                rules.extend(READ_BY_PROGRAMS.map(|path| (Path::new(path), run)));
                rules.extend(READ_BY_TOOLS.map(|path| (Path::new(path), read)));
            }
        }
        if self.network {
            rules.extend(READ_FOR_NETWORK.map(|path| (Path::new(path), read)));
        }
        let execute = match self.start {
            Start::Anything => AccessFs::Execute.into(),
            _ => BitFlags::EMPTY,
        };
        rules.extend(
            self.read
                .iter()
                .map(|path| (path.as_path(), read | execute)),
        );
        rules.extend(
            self.write
                .iter()
                .map(|path| (path.as_path(), write | execute)),
        );

        let mut ruleset = Ruleset::default().handle_access(all).map_err(other)?;
        if !self.network {
            let tcp = AccessNet::from_all(NEWEST);
            ruleset = ruleset.handle_access(tcp).map_err(other)?;
        }
        let mut ruleset = ruleset
            .scope(Scope::from_all(NEWEST))
            .map_err(other)?
            .create()
            .map_err(other)?;
        for (path, access) in rules {
            // A path that does not exist is left out; nothing can be reached by it.
            let rule = path_beneath_rules([path], access);
            ruleset = ruleset
                .add_rules(rule)
                .map_err(|error: landlock::RulesetError| other(error))?;
        }
        match ruleset.restrict_self().map_err(other)?.landlock {
            LandlockStatus::Available { effective_abi, .. } => Ok(Some(effective_abi)),
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Ok(None),
        }
    }

    /// Returns whether the kernel has it.
    fn confine_calls(&self) -> io::Result<bool> {
        let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
            return Ok(false);
        };
        let denied = filter(arch, self.denied()?, libc::EPERM)?;
        // Programs fall back to the older call, whose flags a filter can see.
        let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let unknown = filter(arch, unknown, libc::ENOSYS)?;
        for program in [denied, unknown] {
            match seccompiler::apply_filter(&program) {
                Ok(()) => {}
                Err(seccompiler::Error::Seccomp(error))
                    if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(other(error)),
            }
        }
        Ok(true)
    }

    /// The system calls that are refused, each with the arguments that it is refused for; all where
    /// there are none.
    fn denied(&self) -> io::Result<BTreeMap<i64, Vec<SeccompRule>>> {
        let mut denied: BTreeMap<i64, Vec<SeccompRule>> = [
            // Looking into other processes.
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kcmp,
            libc::SYS_pidfd_getfd,
            libc::SYS_perf_event_open,
            // Other views of the machine, where the walls look different.
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_open_by_handle_at,
            // Requests that no filter sees.
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            // The kernel itself.
            libc::SYS_bpf,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_quotactl,
            libc::SYS_acct,
        ]
        .map(|call| (call, Vec::new()))
        .into();
        if !self.network {
            denied.insert(libc::SYS_socket, Vec::new());
        }
        // A namespace of users gives rights to make others.
        let new_user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        let mut clone = vec![flags(new_user, new_user)?];
        // Typing into the terminal of who started this.
        denied.insert(
            libc::SYS_ioctl,
            vec![rule(1, SeccompCmpOp::Eq, libc::TIOCSTI)?],
        );
        if self.start == Start::Nothing {
            let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
            clone.push(flags(thread, 0)?);
            denied.insert(libc::SYS_execve, Vec::new());
            denied.insert(libc::SYS_execveat, Vec::new());
            #[cfg(target_arch = "x86_64")]
            denied.extend([libc::SYS_fork, libc::SYS_vfork].map(|call| (call, Vec::new())));
        }
        denied.insert(libc::SYS_clone, clone);
        Ok(denied)
    }
}

fn finding(name: &str, stands: bool, detail: impl Into<String>) -> Finding {
    Finding {
        name: name.to_owned(),
        stands,
        detail: detail.into(),
        opened: false,
    }
}

/// A wall that the configuration wants not to stand.
fn opened(name: &str, detail: &str) -> Finding {
    Finding {
        opened: true,
        ..finding(name, false, detail)
    }
}

/// The calls `clone` of which these flags have this value.
fn flags(mask: u64, value: u64) -> io::Result<SeccompRule> {
    rule(0, SeccompCmpOp::MaskedEq(mask), value)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value);
    SeccompRule::new(vec![condition.map_err(other)?]).map_err(other)
}

/// A filter that fails these calls with an error, and lets all others pass.
fn filter(
    arch: TargetArch,
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
) -> io::Result<BpfProgram> {
    let deny = SeccompAction::Errno(errno.cast_unsigned());
    SeccompFilter::new(calls, SeccompAction::Allow, deny, arch)
        .and_then(BpfProgram::try_from)
        .map_err(other)
}

/// The programs that load all others; they lie next to the C library.
fn loaders() -> Vec<PathBuf> {
    LOADERS
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("ld-linux") || name.starts_with("ld-musl")
        })
        .map(|entry| entry.path())
        .collect()
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}
