//! The overlay rung: the machine's software below, the guest's disk above.

use std::fmt::Write;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::GuestError;
use super::disk::{DiskFiles, write_file};
use super::state::make_dir;

/// The devices that a guest may use.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEV_LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "fd/0"),
    ("stdout", "fd/1"),
    ("stderr", "fd/2"),
];

/// Options under which the upper layer makes sense without knowing the lower one's inodes, so
/// that a copy of it is a disk as well.
const OPTIONS: &str = "index=off,metacopy=off,redirect_dir=off,xino=off";

/// Returns the command that makes the namespaces, and in them runs `overlay.sh` with the
/// arguments given to it.
pub(super) fn command(disk: &DiskFiles, hostname: &str) -> Result<Command, GuestError> {
    let guests = &disk.guests;
    disk.write("fstab", &fstab(disk), 0o600)?;
    let boot = guests.state.path().join("boot");
    let mut command = Command::new(guests.software.program("unshare", "util-linux")?);
    command
        // Without --fork, the supervisor stays outside of the namespace, and the first process
        // that it starts is the first in there.
        .args(["--mount", "--uts", "--ipc", "--pid", "--", "/bin/sh"])
        .arg(boot.join("supervise.sh"))
        .args(["", "/bin/sh"])
        .arg(boot.join("overlay.sh"))
        .arg(disk.path().join("root"))
        .arg(disk.path().join("fstab"))
        .arg(hostname);
    Ok(command)
}

/// Returns the mounts of the guest in the order of their making.
///
/// No path in it needs to be escaped: the state directory has been checked for that.
fn fstab(disk: &DiskFiles) -> String {
    let software = &disk.guests.software;
    let state = disk.guests.state.path().display();
    let disk = disk.path().display();
    let mut fstab = String::new();
    let mut mount = |source: &str, target: &str, kind: &str, options: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(fstab, "{source} {disk}/root/{target} {kind} {options} 0 0");
    };
    mount(&format!("{disk}/root"), "", "none", "bind");
    for layer in software.layers() {
        let lower = software.root().join(layer);
        let lower = lower.display();
        let layers = format!(
            "lowerdir={lower},upperdir={disk}/upper/{layer},workdir={disk}/scratch/{layer}"
        );
        mount("overlay", layer, "overlay", &format!("{layers},{OPTIONS}"));
    }
    for secret in software.secrets() {
        mount(&format!("{state}/empty"), secret, "none", "bind,ro");
    }
    mount(&format!("{disk}/ssh"), "etc/ssh", "none", "bind");
    mount(&format!("{state}/boot"), "boot", "none", "bind,ro");
    mount(
        &format!("{disk}/volatile/run"),
        "run",
        "none",
        "bind,nosuid,nodev",
    );
    mount(
        &format!("{disk}/volatile/tmp"),
        "tmp",
        "none",
        "bind,nosuid,nodev",
    );
    mount(&format!("{state}/dev"), "dev", "none", "bind,ro");
    for device in DEVICES {
        mount(
            &format!("/dev/{device}"),
            &format!("dev/{device}"),
            "none",
            "bind",
        );
    }
    mount(
        "devpts",
        "dev/pts",
        "devpts",
        "newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec",
    );
    mount("shm", "dev/shm", "tmpfs", "mode=1777,nosuid,nodev");
    mount("proc", "proc", "proc", "nosuid,nodev,noexec");
    fstab
}

/// Makes the `/dev` that all guests share, which has mount points in place of devices.
pub(super) fn make_dev(path: &Path) -> io::Result<()> {
    make_dir(path, 0o755)?;
    for device in DEVICES {
        write_file(&path.join(device), "", 0o644)?;
    }
    for directory in ["pts", "shm"] {
        make_dir(&path.join(directory), 0o755)?;
    }
    DEV_LINKS
        .into_iter()
        .try_for_each(|(link, target)| symlink(target, path.join(link)))
}
