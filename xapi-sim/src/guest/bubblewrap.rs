//! The bubblewrap rung: the machine's software read-only, the rest the guest's.

use std::process::Command;

use super::BootConfig;
use super::GuestError;
use super::accounts::ID;
use super::disk::{DiskFiles, MACHINE_ID};

/// Account files that cover the machine's.
const ACCOUNT_FILES: [&str; 4] = ["passwd", "group", "shadow", "gshadow"];

/// Returns the lines of `sshd_config` that let logins find `cloud-init`, where the guest has it: the
/// folders of programs are the machine's.
pub(super) fn sshd_config(boot: &BootConfig) -> String {
    match boot.config_drives {
        Some(_) => "SetEnv PATH=/boot/bin:/usr/local/bin:/usr/bin:/bin:/usr/games\n".to_owned(),
        None => String::new(),
    }
}

/// Returns the command that makes the sandbox and in it runs `init.sh` with the arguments given
/// to it.
pub(super) fn command(disk: &DiskFiles, hostname: &str) -> Result<Command, GuestError> {
    let guests = &disk.guests;
    let software = &guests.software;
    let state = guests.state.path();
    let mut command = Command::new("/bin/sh");
    command
        .arg(state.join("boot/supervise.sh"))
        .arg(disk.path().join("first-process"))
        .arg(software.program("bwrap", "bubblewrap")?)
        .args(["--info-fd", "5", "--die-with-parent", "--as-pid-1"])
        .args(["--unshare-user", "--unshare-pid"])
        .args(["--unshare-ipc", "--unshare-uts", "--hostname", hostname])
        .args(["--uid", &ID.to_string(), "--gid", &ID.to_string()]);
    let mut bind = |how: &str, from: &std::path::Path, to: &str| {
        command.arg(how).arg(from).arg(format!("/{to}"));
    };
    bind("--bind", &disk.path().join("root"), "");
    for layer in software.layers() {
        bind("--ro-bind", &software.root().join(layer), layer);
    }
    for name in ACCOUNT_FILES {
        let covered = format!("etc/{name}");
        if software.root().join(&covered).exists() {
            bind("--ro-bind", &disk.path().join(&covered), &covered);
        }
    }
    for secret in software.secrets() {
        bind("--ro-bind", &state.join("empty"), secret);
    }
    // A folder that is read-only gets no new file to mount over.
    let machine_id = disk.path().join(MACHINE_ID);
    if software.root().join(MACHINE_ID).exists() && machine_id.is_file() {
        bind("--bind", &machine_id, MACHINE_ID);
    }
    bind("--bind", &disk.path().join("ssh"), "etc/ssh");
    bind("--ro-bind", &state.join("boot"), "boot");
    bind("--bind", &disk.path().join("volatile/run"), "run");
    bind("--bind", &disk.path().join("volatile/tmp"), "tmp");
    command
        .args(["--proc", "/proc", "--dev", "/dev", "--chdir", "/"])
        .args(["--", "/bin/sh", "/boot/init.sh"]);
    Ok(command)
}
