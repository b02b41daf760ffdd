//! The SSH side of a guest: its identity, its configuration, and a first login to prove it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::disk::{DiskFiles, write_file};
use super::state::remove_tree;
use super::{BOOT_LIMIT, BootConfig, GuestError, Inner, VM_DATA_AUTHORIZED_KEYS, VM_DATA_HOST_KEY};

const HOST_KEY: &str = "ssh/ssh_host_ed25519_key";
const HOST_KEY_PUBLIC: &str = "ssh/ssh_host_ed25519_key.pub";
const AUTHORIZED_KEYS: &str = "ssh/authorized_keys";

/// What PAM is told of logins over SSH. The machine's own file has modules that a guest may not
/// use, and greets whoever logs in.
pub(super) const PAM: &str = "auth required pam_unix.so\n\
    account required pam_nologin.so\n\
    account required pam_unix.so\n\
    session required pam_permit.so\n\
    password required pam_unix.so\n";

/// What differs between the rungs.
#[derive(Debug)]
pub(super) struct SshdConfig<'a> {
    pub(super) address: SocketAddr,
    /// The disk's `ssh` directory, as the guest sees it.
    pub(super) directory: &'a str,
    /// Whether files are owned inside as OpenSSH wants them before it trusts them.
    pub(super) strict_modes: bool,
    /// Whether PAM is asked, which lets keys into accounts whose password is locked.
    pub(super) pam: bool,
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
            pam,
            sftp,
            more,
        } = self;
        let strict_modes = if *strict_modes { "yes" } else { "no" };
        let pam = if *pam { "yes" } else { "no" };
        format!(
            "Include {directory}/sshd_config.d/*.conf\n\
             ListenAddress {address}\n\
             PidFile none\n\
             HostKey {directory}/ssh_host_ed25519_key\n\
             AuthorizedKeysFile .ssh/authorized_keys {directory}/authorized_keys\n\
             StrictModes {strict_modes}\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n\
             UsePAM {pam}\n\
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

/// What a guest is known by.
#[derive(Debug)]
pub(super) struct Identity {
    /// The public host key: type and key.
    pub(super) host_key: String,
    /// Whether the boot data have given it another than it had.
    pub(super) is_new: bool,
}

/// Puts the keys from the boot data where sshd looks for them.
pub(super) fn install_keys(disk: &DiskFiles, boot: &BootConfig) -> Result<Identity, GuestError> {
    // cloud-init installs keys once, where they stay.
    if boot.config_drives.is_none() || disk.read(AUTHORIZED_KEYS).is_none() {
        let keys = boot.vm_data.get(VM_DATA_AUTHORIZED_KEYS);
        authorize(disk, keys.map_or("", String::as_str))?;
    }
    let given = boot.vm_data.get(VM_DATA_HOST_KEY);
    let is_new = match given {
        Some(key) => install_host_key(disk, key)?,
        None => false,
    };
    let public = match public_host_key(disk)? {
        Some(public) => public,
        None => generate_host_key(disk)?,
    };
    let words: Vec<_> = public.split_whitespace().take(2).collect();
    Ok(Identity {
        host_key: words.join(" "),
        is_new,
    })
}

/// Lets these keys in, one to a line, and no others but those in the home directories.
pub(super) fn authorize(disk: &DiskFiles, keys: &str) -> Result<(), GuestError> {
    disk.write(AUTHORIZED_KEYS, &ended_line(keys), 0o644)
}

/// Removes the host keys, so that the next start makes another.
pub(super) fn remove_host_keys(disk: &DiskFiles) -> Result<(), GuestError> {
    let directory = disk.path().join("ssh");
    let listed = fs::read_dir(&directory).map_err(GuestError::files("read", &directory))?;
    for entry in listed {
        let entry = entry.map_err(GuestError::files("read", &directory))?;
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => remove_tree(&path),
                _ => fs::remove_file(&path),
            };
            removed.map_err(GuestError::files("remove", &path))?;
        }
    }
    Ok(())
}

/// Installs a private host key, and the public one that belongs to it. False when it is there
/// already.
pub(super) fn install_host_key(disk: &DiskFiles, key: &str) -> Result<bool, GuestError> {
    let key = &ended_line(key);
    let path = disk.path().join(HOST_KEY);
    if disk
        .read(HOST_KEY)
        .is_some_and(|installed| installed == *key)
    {
        return Ok(false);
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
    disk.write(HOST_KEY_PUBLIC, &public, 0o644)?;
    Ok(true)
}

/// The public part of the installed host key, which somebody in the guest may have replaced;
/// `None` where there is none, or something else.
fn public_host_key(disk: &DiskFiles) -> Result<Option<String>, GuestError> {
    if disk.read(HOST_KEY).is_none() {
        return Ok(None);
    }
    let path = disk.path().join(HOST_KEY);
    let output = run_keygen(&disk.guests, |keygen| {
        keygen.args(["-y", "-P", "", "-f"]).arg(&path)
    });
    match output {
        Ok(public) => Ok(public.starts_with("ssh-ed25519 ").then_some(public)),
        Err(KeygenError::Run(error)) => Err(error),
        Err(KeygenError::Refused) => Ok(None),
    }
}

/// Makes a host key, where no link of the guest's can lead it elsewhere.
fn generate_host_key(disk: &DiskFiles) -> Result<String, GuestError> {
    let made = FileKey::generate(&disk.guests)?;
    disk.write(HOST_KEY, &made.private()?, 0o600)?;
    let public = made.public()?;
    disk.write(HOST_KEY_PUBLIC, &public, 0o644)?;
    Ok(public)
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

/// A key pair in files of its own, to log in with or to be copied from.
#[derive(Debug)]
pub(super) struct FileKey {
    directory: tempfile::TempDir,
}

impl FileKey {
    pub(super) fn generate(guests: &Inner) -> Result<Self, GuestError> {
        let parent = guests.state.path();
        let directory = tempfile::Builder::new()
            .prefix("key-")
            .tempdir_in(parent)
            .map_err(GuestError::files("create a directory in", parent))?;
        generate_key(guests, &directory.path().join("key"))?;
        Ok(Self { directory })
    }

    pub(super) fn public(&self) -> Result<String, GuestError> {
        self.read("key.pub")
    }

    fn private(&self) -> Result<String, GuestError> {
        self.read("key")
    }

    fn read(&self, name: &str) -> Result<String, GuestError> {
        let path = self.directory.path().join(name);
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
            pam: false,
            sftp: "internal-sftp",
            more: "SetEnv A=b\n",
        };
        let text = config.text();
        // What somebody puts there comes first, and so counts.
        assert!(
            text.starts_with(
                "Include /etc/ssh/sshd_config.d/*.conf\nListenAddress 127.77.3.9:2222\n"
            )
        );
        assert!(text.contains("\nStrictModes yes\n"));
        assert!(text.contains("\nUsePAM no\n"));
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
