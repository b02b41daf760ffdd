//! The SSH side of a guest: its identity, its configuration, and a first login to prove it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::disk::{DiskFiles, write_file};
use super::{BOOT_LIMIT, BootConfig, GuestError, Inner, VM_DATA_AUTHORIZED_KEYS, VM_DATA_HOST_KEY};

const HOST_KEY: &str = "ssh/ssh_host_ed25519_key";
const HOST_KEY_PUBLIC: &str = "ssh/ssh_host_ed25519_key.pub";
const AUTHORIZED_KEYS: &str = "ssh/authorized_keys";

/// What differs between the rungs.
#[derive(Debug)]
pub(super) struct SshdConfig<'a> {
    pub(super) address: SocketAddr,
    /// The disk's `ssh` directory, as the guest sees it.
    pub(super) directory: &'a str,
    /// Whether files are owned inside as OpenSSH wants them before it trusts them.
    pub(super) strict_modes: bool,
    pub(super) sftp: &'a str,
    /// Further lines.
    pub(super) more: &'a str,
}

impl SshdConfig<'_> {
    /// Returns the text of `sshd_config`.
    pub(super) fn text(&self) -> String {
        let Self {
            address,
            directory,
            strict_modes,
            sftp,
            more,
        } = self;
        let strict_modes = if *strict_modes { "yes" } else { "no" };
        format!(
            "ListenAddress {address}\n\
             PidFile none\n\
             HostKey {directory}/ssh_host_ed25519_key\n\
             AuthorizedKeysFile .ssh/authorized_keys {directory}/authorized_keys\n\
             StrictModes {strict_modes}\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n\
             UsePAM no\n\
             UseDNS no\n\
             MaxStartups 200\n\
             PrintMotd no\n\
             PrintLastLog no\n\
             AcceptEnv LANG LC_*\n\
             Subsystem sftp {sftp}\n\
             {more}"
        )
    }
}

/// Puts the keys from the boot data where sshd looks for them; returns the public host key.
pub(super) fn install_keys(disk: &DiskFiles, boot: &BootConfig) -> Result<String, GuestError> {
    // cloud-init installs keys once, where they stay.
    if boot.config_drives.is_none() || !disk.path().join(AUTHORIZED_KEYS).exists() {
        let keys = boot.vm_data.get(VM_DATA_AUTHORIZED_KEYS);
        authorize(disk, keys.map_or("", String::as_str))?;
    }
    match boot.vm_data.get(VM_DATA_HOST_KEY) {
        Some(key) => install_host_key(disk, key)?,
        None if disk.path().join(HOST_KEY).exists() => {}
        None => generate_key(&disk.guests, &disk.path().join(HOST_KEY))?,
    }
    let path = disk.path().join(HOST_KEY_PUBLIC);
    let line = fs::read_to_string(&path).map_err(GuestError::files("read", &path))?;
    Ok(line
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" "))
}

/// Lets these keys in, one to a line, and no others but those in the home directories.
pub(super) fn authorize(disk: &DiskFiles, keys: &str) -> Result<(), GuestError> {
    disk.write(AUTHORIZED_KEYS, &ended_line(keys), 0o644)
}

/// Removes the host key, so that the next start makes another.
pub(super) fn remove_host_key(disk: &DiskFiles) -> Result<(), GuestError> {
    for name in [HOST_KEY, HOST_KEY_PUBLIC] {
        let path = disk.path().join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(GuestError::files("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Installs a private host key, and the public one that belongs to it.
pub(super) fn install_host_key(disk: &DiskFiles, key: &str) -> Result<(), GuestError> {
    let key = &ended_line(key);
    let path = disk.path().join(HOST_KEY);
    if fs::read_to_string(&path).is_ok_and(|installed| installed == *key) {
        return Ok(());
    }
    disk.write(HOST_KEY, key, 0o600)?;
    let refused = |reason: String| GuestError::BootData {
        name: disk.name().to_owned(),
        key: VM_DATA_HOST_KEY,
        reason,
    };
    // An empty passphrase, so that an encrypted key is refused rather than asked about.
    let output = run_keygen(&disk.guests, |keygen| {
        keygen.args(["-y", "-P", "", "-f"]).arg(&path)
    });
    let public = match output {
        Ok(public) if public.starts_with("ssh-ed25519 ") => public,
        Ok(_) => {
            fs::remove_file(&path).map_err(GuestError::files("remove", &path))?;
            return Err(refused("it is not an ed25519 key".to_owned()));
        }
        Err(KeygenError::Run(error)) => return Err(error),
        Err(KeygenError::Refused) => {
            fs::remove_file(&path).map_err(GuestError::files("remove", &path))?;
            let form = "an OpenSSH private key without a passphrase";
            return Err(refused(format!("it is not {form}")));
        }
    };
    disk.write(HOST_KEY_PUBLIC, &public, 0o644)
}

/// Makes an ed25519 key pair.
fn generate_key(guests: &Inner, path: &Path) -> Result<(), GuestError> {
    let output = run_keygen(guests, |keygen| {
        keygen
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(path)
    });
    match output {
        Ok(_) => Ok(()),
        Err(KeygenError::Run(error)) => Err(error),
        Err(KeygenError::Refused) => Err(GuestError::files("create", path)(io::Error::other(
            "ssh-keygen fails",
        ))),
    }
}

enum KeygenError {
    Run(GuestError),
    Refused,
}

fn run_keygen(
    guests: &Inner,
    arguments: impl FnOnce(&mut std::process::Command) -> &mut std::process::Command,
) -> Result<String, KeygenError> {
    let program = &guests.software.ssh_keygen;
    let mut command = std::process::Command::new(program);
    arguments(&mut command);
    let output = command
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|source| {
            KeygenError::Run(GuestError::Spawn {
                program: program.display().to_string(),
                source,
            })
        })?;
    if !output.status.success() {
        return Err(KeygenError::Refused);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// sshd wants the last line of each of its files to end.
fn ended_line(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') {
        text.to_owned()
    } else {
        format!("{text}\n")
    }
}

/// A throw-away key to log in with.
#[derive(Debug)]
pub(super) struct TrialKey {
    directory: tempfile::TempDir,
}

impl TrialKey {
    pub(super) fn generate(guests: &Inner) -> Result<Self, GuestError> {
        let parent = guests.state.path();
        let directory = tempfile::Builder::new()
            .prefix("trial-")
            .tempdir_in(parent)
            .map_err(GuestError::files("create a directory in", parent))?;
        generate_key(guests, &directory.path().join("key"))?;
        Ok(Self { directory })
    }

    pub(super) fn public(&self) -> Result<String, GuestError> {
        let path = self.directory.path().join("key.pub");
        fs::read_to_string(&path).map_err(GuestError::files("read", &path))
    }

    /// Logs in for real, and looks whether what guests promise to have is there.
    pub(super) async fn log_in(
        &self,
        guests: &Inner,
        address: SocketAddr,
        host_key: &str,
    ) -> Result<(), GuestError> {
        let known_hosts = self.directory.path().join("known_hosts");
        let line = format!("[{}]:{} {host_key}\n", address.ip(), address.port());
        write_file(&known_hosts, &line, 0o600).map_err(GuestError::files("write", &known_hosts))?;
        let mut command = Command::new(&guests.software.ssh);
        command.args(["-F", "none", "-n", "-T", "-p", &address.port().to_string()]);
        for (option, value) in [
            ("BatchMode", "yes"),
            ("IdentitiesOnly", "yes"),
            ("StrictHostKeyChecking", "yes"),
            ("GlobalKnownHostsFile", "none"),
            ("LogLevel", "ERROR"),
            // Half the time of the default, which matters for what is thrown away at once.
            ("KexAlgorithms", "curve25519-sha256"),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
            .arg("-i")
            .arg(self.directory.path().join("key"))
            .arg(format!("{}@{}", guests.user, address.ip()))
            .arg("command -v lua5.4 && command -v luarocks")
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let failed = |message: String| GuestError::Login { message };
        let output = match timeout(BOOT_LIMIT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => {
                let program = guests.software.ssh.display().to_string();
                return Err(GuestError::Spawn { program, source });
            }
            Err(_) => return Err(failed("no answer in time".to_owned())),
        };
        if output.status.success() {
            return Ok(());
        }
        let mut report = String::from_utf8_lossy(&output.stderr).into_owned();
        report.push_str(&String::from_utf8_lossy(&output.stdout));
        Err(failed(format!(
            "{} ({})",
            super::one_line(&report),
            output.status
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_says_where_and_how_strictly() {
        let config = SshdConfig {
            address: "127.77.3.9:2222".parse().unwrap(),
            directory: "/etc/ssh",
            strict_modes: true,
            sftp: "internal-sftp",
            more: "SetEnv A=b\n",
        };
        let text = config.text();
        assert!(text.starts_with("ListenAddress 127.77.3.9:2222\n"));
        assert!(text.contains("\nStrictModes yes\n"));
        assert!(text.ends_with("\nSetEnv A=b\n"));
        assert!(
            !text.contains("MaxSessions"),
            "clients must meet the default limit"
        );
    }

    #[test]
    fn a_last_line_is_ended_once() {
        assert_eq!(ended_line("key"), "key\n");
        assert_eq!(ended_line("key\n"), "key\n");
        assert_eq!(ended_line(""), "");
    }
}
