//! The plain rung: an sshd beside the machine's processes, among the machine's files.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{User, geteuid};

use super::disk::{DiskFiles, is_root};
use super::{GuestError, accounts};

/// The environment variable by which the processes of a guest are found when it ends.
const MARK: &str = "BIOXEN_GUEST";
/// The directory that sshd insists on when root starts it.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";
/// Where Debian has the SFTP server; a forced command rules out the one inside sshd.
pub(super) const SFTP: &str = "/usr/lib/openssh/sftp-server";

/// Returns the command that runs `plain.sh` with the arguments given to it.
pub(super) fn command(disk: &DiskFiles) -> Result<Command, GuestError> {
    if is_root() {
        make_privilege_separation()?;
    }
    let mut command = Command::new("/bin/sh");
    command.arg(disk.guests.state.path().join("boot/plain.sh"));
    Ok(command)
}

/// Returns the variable that marks the processes of the guest, with its value.
pub(super) fn mark(disk: &DiskFiles) -> String {
    format!("{MARK}={}", disk.path().display())
}

/// Returns the lines of `sshd_config` that make logins as private as they can be.
///
/// sshd takes the home directory from the machine's accounts, and starts commands in it. So the
/// variable is set over that, and a forced command goes there before it runs what was asked.
pub(super) fn sshd_config(disk: &DiskFiles) -> String {
    let path = disk.path().display();
    let home = accounts::HOME;
    let mark = mark(disk);
    let login = disk.guests.state.path().join("boot/login.sh");
    let login = login.display();
    format!(
        "SetEnv {mark} HOME={path}/root/{home} TMPDIR={path}/volatile/tmp SHELL=/bin/sh\n\
         ForceCommand /bin/sh {login}\n"
    )
}

/// Returns the name of the user who runs the simulator: without privileges, sshd can let in
/// nobody else.
pub(super) fn user() -> Result<String, GuestError> {
    let uid = geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => Ok(user.name),
        Ok(None) => Err(GuestError::Unsupported {
            reason: format!("user {uid} has no account to log in to"),
        }),
        Err(errno) => Err(GuestError::files("read", Path::new("/etc/passwd"))(
            errno.into(),
        )),
    }
}

fn make_privilege_separation() -> Result<(), GuestError> {
    let path = Path::new(PRIVILEGE_SEPARATION);
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(GuestError::files("create", path)(error))
        }
        _ => Ok(()),
    }
}
