//! VMs with real guests behind them: what the records say and what SSH finds agree.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

#[path = "../common/mod.rs"]
mod common;
mod images;
mod snapshots;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;

use common::{Pool, login, text};
use tokio::process::Command;
use xapi_sim::guest::{GuestOptions, PORT, Rung, VM_DATA_AUTHORIZED_KEYS};
use xapi_sim::{GuestMode, Model, NULL_REF, Sim, SimOptions, Value};

/// A pool with real guests, a key that opens them, and the directory of their files.
struct Real {
    pool: Pool,
    directory: tempfile::TempDir,
}

async fn real() -> Real {
    real_with(Model::single_host(), SimOptions::default()).await
}

async fn real_with(model: Model, options: SimOptions) -> Real {
    // The names of other directories may hold what mounts cannot name.
    let directory = tempfile::Builder::new()
        .prefix("backed-")
        .tempdir_in("/var/tmp")
        .unwrap();
    let key = directory.path().join("key");
    let status = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(status.success());
    let guests = GuestOptions::default().with_state_dir(directory.path());
    let options = options.with_guests(GuestMode::RealWith(guests));
    let sim = Sim::start(model, options).await.unwrap();
    let session = login(&sim).await;
    Real {
        pool: Pool { sim, session },
        directory,
    }
}

impl Real {
    /// A VM that lets our key in.
    async fn vm(&self, name: &str) -> String {
        let vm = self.pool.vm(name).await;
        let key = std::fs::read_to_string(self.directory.path().join("key.pub")).unwrap();
        let data = Value::map([(format!("vm-data/{VM_DATA_AUTHORIZED_KEYS}"), key)]);
        self.pool
            .call("VM.set_xenstore_data", vec![vm.as_str().into(), data])
            .await;
        vm
    }

    async fn wait(&self, vm: &str, done: impl AsyncFn() -> bool) {
        let mut token = String::new();
        while !done().await {
            let args = vec![
                Value::strings([format!("VM/{vm}")]),
                token.into(),
                30.0.into(),
            ];
            token = text(
                self.pool
                    .call("event.from", args)
                    .await
                    .get("token")
                    .unwrap(),
            );
        }
    }

    /// Where the guest of a VM can be reached, once its agent has told.
    async fn address(&self, vm: &str) -> SocketAddr {
        loop {
            let metrics = || async { text(&self.pool.get("VM", "guest_metrics", vm).await) };
            self.wait(vm, async || metrics().await != NULL_REF).await;
            let asked = vec![metrics().await.into()];
            let networks = self.pool.try_call("VM_guest_metrics.get_networks", asked);
            match networks.await {
                Ok(networks) => {
                    let ip = networks.get("0/ip").and_then(Value::as_str).unwrap();
                    return SocketAddr::new(ip.parse().unwrap(), PORT);
                }
                // A report of an earlier run, which that of the present one has just replaced.
                Err(failure) => assert_eq!(failure.code, "HANDLE_INVALID"),
            }
        }
    }

    async fn ssh(&self, address: SocketAddr, user: &str, command: &str) -> String {
        let output = Command::new("ssh")
            .args([
                "-F",
                "none",
                "-T",
                "-o",
                "BatchMode=yes",
                "-o",
                "LogLevel=ERROR",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args([
                "-o",
                "KexAlgorithms=curve25519-sha256",
                "-o",
                "IdentitiesOnly=yes",
            ])
            .arg("-i")
            .arg(self.directory.path().join("key"))
            .args([
                "-p",
                &address.port().to_string(),
                &format!("{user}@{}", address.ip()),
                command,
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    async fn run(&self, address: SocketAddr, command: &str) -> String {
        self.ssh(address, self.pool.sim.guest_user().unwrap(), command)
            .await
    }

    async fn stop(&self, vm: &str) {
        self.pool.call("VM.hard_shutdown", vec![vm.into()]).await;
    }

    /// Runs a command in the guest of a VM that runs.
    async fn inside(&self, vm: &str, command: &str) -> String {
        self.run(self.address(vm).await, command).await
    }

    async fn disk(&self, vm: &str) -> String {
        for vbd in self.pool.get("VM", "VBDs", vm).await.items() {
            let vdi = text(&self.pool.get("VBD", "VDI", vbd.as_str().unwrap()).await);
            if vdi != NULL_REF {
                return vdi;
            }
        }
        panic!("{vm} has no disk")
    }

    /// How many disks of guests lie in the state directory.
    fn disks(&self) -> usize {
        disks_in(self.directory.path())
    }
}

fn disks_in(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let state = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    state
        .flat_map(|path| std::fs::read_dir(path).unwrap().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("disk-"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_belong_to_the_disk() {
    let real = real().await;
    let vm = real.vm("worker").await;
    real.pool.start(&vm).await;
    let address = real.address(&vm).await;
    assert!(address.to_string().starts_with("127.77."));
    assert_eq!(
        real.run(address, "lua5.4 -e 'print(_VERSION)'").await,
        "Lua 5.4"
    );
    assert_eq!(
        real.run(address, "echo kept > ~/note; cat ~/note").await,
        "kept"
    );

    real.pool
        .call("VM.clean_shutdown", vec![vm.as_str().into()])
        .await;
    assert!(
        TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
    // The lease of the address holds, and so do the files.
    real.pool.start(&vm).await;
    assert_eq!(real.address(&vm).await, address);
    assert_eq!(real.run(address, "cat ~/note").await, "kept");
    real.pool
        .call("VM.hard_reboot", vec![vm.as_str().into()])
        .await;
    assert_eq!(
        real.run(real.address(&vm).await, "cat ~/note").await,
        "kept"
    );
    real.pool
        .call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    assert!(TcpStream::connect(address).is_err());

    // A copy has the files too, and its own from then on.
    let copy = real
        .pool
        .call("VM.clone", vec![vm.as_str().into(), "copy".into()])
        .await;
    let copy = text(&copy);
    for machine in [&vm, &copy] {
        real.pool.start(machine).await;
    }
    let (first, second) = (real.address(&vm).await, real.address(&copy).await);
    assert_ne!(first, second);
    assert_eq!(
        real.run(second, "cat ~/note; echo changed > ~/note").await,
        "kept"
    );
    assert_eq!(real.run(first, "cat ~/note").await, "kept");

    let before = real.disks();
    let disk = real.disk(&copy).await;
    real.pool
        .call("VM.hard_shutdown", vec![copy.as_str().into()])
        .await;
    real.pool.call("VM.destroy", vec![copy.into()]).await;
    assert_eq!(real.disks(), before, "destroying a VM leaves its disk");
    real.pool.call("VDI.destroy", vec![disk.into()]).await;
    assert_eq!(real.disks(), before - 1);

    let Real { pool, directory } = real;
    pool.sim.shutdown().await;
    assert!(
        TcpStream::connect(first).is_err(),
        "no guest outlives the pool"
    );
    assert_eq!(disks_in(directory.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ends_by_itself_halts_its_vm() {
    let real = real().await;
    let vm = real.vm("worker").await;
    real.pool.start(&vm).await;
    let address = real.address(&vm).await;
    // On the plain rung too, the listener is an ancestor of the session.
    let stop = "p=$$; while [ \"$p\" -gt 1 ]; do read -r l </proc/$p/stat; set -- ${l##*) }; \
                tr '\\0' ' ' </proc/$p/cmdline | grep -q '[l]istener' && kill $p; p=$2; done";
    let root = real.pool.sim.rung() == Some(Rung::Overlay);
    let user = if root {
        "root"
    } else {
        real.pool.sim.guest_user().unwrap()
    };
    real.ssh(address, user, stop).await;
    real.wait(&vm, async || real.pool.state(&vm).await == "Halted")
        .await;
    // And it can be started again.
    real.pool.start(&vm).await;
    assert_eq!(real.run(real.address(&vm).await, "echo back").await, "back");
    real.pool.sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let real = real().await;
    let template = real.pool.template().await;
    let names: Vec<String> = (0..8).map(|index| format!("worker-{index}")).collect();
    let mut tasks = Vec::new();
    for name in &names {
        let args = vec![template.as_str().into(), name.as_str().into()];
        tasks.push(real.pool.call("Async.VM.clone", args).await);
    }
    let mut vms = Vec::new();
    for task in tasks {
        let task = text(&task);
        let status = || async { text(&real.pool.get("task", "status", &task).await) };
        let mut token = String::new();
        while status().await == "pending" {
            let args = vec![
                Value::strings([format!("task/{task}")]),
                token.into(),
                30.0.into(),
            ];
            token = text(
                real.pool
                    .call("event.from", args)
                    .await
                    .get("token")
                    .unwrap(),
            );
        }
        assert_eq!(status().await, "success");
        let result = text(&real.pool.get("task", "result", &task).await);
        vms.push(result.replace("<value>", "").replace("</value>", ""));
    }
    for vm in &vms {
        real.pool
            .call("VM.provision", vec![vm.as_str().into()])
            .await;
        let args = vec![vm.as_str().into(), false.into(), false.into()];
        real.pool.call("Async.VM.start", args).await;
    }
    let mut addresses = Vec::new();
    for vm in &vms {
        addresses.push(real.address(vm).await);
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), vms.len());
    // Dropping ends them as well, as far as that goes without waiting.
    let directory = real.directory;
    drop(real.pool);
    assert!(
        addresses
            .iter()
            .all(|address| TcpStream::connect(address).is_err())
    );
    assert_eq!(disks_in(directory.path()), 0);
}
