//! What the tests of guests share: real logins, and a look at the processes of the machine.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::process::Command;
use xapi_sim::guest::{
    BootConfig, Guest, GuestDisk, GuestOptions, Guests, Rung, VM_DATA_AUTHORIZED_KEYS,
};

/// A simulator's guests with a key that opens them.
pub(crate) struct Fixture {
    pub(crate) guests: Guests,
    pub(crate) keys: tempfile::TempDir,
}

impl Fixture {
    /// Returns nothing, and says so aloud, where the machine does not offer the rung.
    pub(crate) async fn new(rung: Rung) -> Option<Self> {
        Self::with(GuestOptions::default().with_rung(rung)).await
    }

    pub(crate) async fn with(options: GuestOptions) -> Option<Self> {
        let keys = tempfile::tempdir().unwrap();
        generate_key(&keys.path().join("key"));
        match Guests::new(options).await {
            Ok(guests) => Some(Self { guests, keys }),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                // Where every rung is known to work, a skip would hide that one is broken.
                assert!(
                    std::env::var_os("BIOXEN_TEST_ALL_RUNGS").is_none(),
                    "{error}"
                );
                None
            }
        }
    }

    pub(crate) fn public_key(&self) -> String {
        std::fs::read_to_string(self.keys.path().join("key.pub")).unwrap()
    }

    pub(crate) fn boot_config(&self, hostname: &str) -> BootConfig {
        BootConfig::new(hostname).with_vm_data(VM_DATA_AUTHORIZED_KEYS, self.public_key())
    }

    pub(crate) async fn boot(&self, disk: &GuestDisk) -> Guest {
        self.guests
            .boot(disk, self.boot_config(disk.name()))
            .await
            .unwrap()
    }

    pub(crate) fn ssh(&self, guest: &Guest, user: &str, command: &str) -> Command {
        self.ssh_with("-T", guest, user, command)
    }

    pub(crate) fn ssh_with(
        &self,
        option: &str,
        guest: &Guest,
        user: &str,
        command: &str,
    ) -> Command {
        let Ok(ip) = guest.address().ip().to_string().parse::<Ipv4Addr>() else {
            panic!("{} is not an IPv4 address", guest.address());
        };
        let port = guest.address().port();
        let known_hosts = self.keys.path().join(format!("known_hosts-{ip}"));
        std::fs::write(
            &known_hosts,
            format!("[{ip}]:{port} {}\n", guest.host_key()),
        )
        .unwrap();
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            option,
            "-o",
            "BatchMode=yes",
            "-o",
            "LogLevel=ERROR",
        ])
        .args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "IdentitiesOnly=yes",
        ])
        .args(["-o", "GlobalKnownHostsFile=none"])
        .args(["-o", "KexAlgorithms=curve25519-sha256"])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
        .arg("-i")
        .arg(self.keys.path().join("key"))
        .args(["-p", &port.to_string()])
        .arg(format!("{user}@{ip}"))
        .arg(command)
        .stdin(Stdio::null())
        .kill_on_drop(true);
        ssh
    }

    /// Logs in, runs a command and returns what it printed; it must succeed.
    pub(crate) async fn run(&self, guest: &Guest, command: &str) -> String {
        let output = self.try_run(guest, command).await;
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    pub(crate) async fn try_run(&self, guest: &Guest, command: &str) -> Output {
        self.ssh(guest, self.guests.user(), command)
            .output()
            .await
            .unwrap()
    }
}

pub(crate) fn generate_key(path: &std::path::Path) {
    let status = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Returns the arguments of the machine's processes that have `text` in them.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    process_table(text).into_values().collect()
}

/// Returns the same by process number.
pub(crate) fn process_table(text: &str) -> BTreeMap<i32, String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let number = entry.file_name().to_string_lossy().parse().ok()?;
            let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            arguments.contains(text).then_some((number, arguments))
        })
        .collect()
}

/// The private directories of simulators in `parent`.
pub(crate) fn state_dirs(parent: &std::path::Path) -> Vec<PathBuf> {
    std::fs::read_dir(parent)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}
