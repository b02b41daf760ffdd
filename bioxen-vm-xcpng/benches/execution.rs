//! What an execution in a guest costs, beside the other ways to run Lua over SSH.
//!
//! All ways take turns in one run against one sshd with its default limits, so that a busy machine
//! slows them alike. The ways that Python programs go need `target/venv`:
//!
//! ```sh
//! python3 -m venv target/venv
//! target/venv/bin/pip install asyncssh paramiko
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_vm_core::lua::{self, Mark, WarmInterpreters};
use bioxen_vm_core::{Gather, OutputSink, OutputStream, Script};
use bioxen_vm_xcpng::ssh::{HostKey, Identity, KeyPair, SshRunner, SshSession, SshTarget};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

const ROUNDS: usize = 200;
const WARM_UP: usize = 10;
const CODE: &str = "print(1)";
const STREAM: usize = 1 << 30;
/// A worker that stays, and has a state that stays.
const WORKER: &str = "io.stdout:setvbuf('full') for line in io.lines() do \
                      load(line)() io.stdout:flush() end";

#[tokio::main]
async fn main() {
    let server = Server::start();
    one_execution(&server).await;
    streaming(&server).await;
}

async fn one_execution(server: &Server) {
    println!("one execution of `{CODE}` over SSH, median of {ROUNDS}, in turns");
    let session = Arc::new(SshSession::new(server.target.clone()));
    let runner = SshRunner::new(Arc::clone(&session));
    let warm = WarmInterpreters::new(Arc::new(runner.clone()), "lua5.4", Vec::new());
    warm.prepare();
    let (mut master, socket) = server.control_master();
    let mux = openssh::Session::resume_mux(socket.clone().into_boxed_path(), None);
    let mut worker = mux
        .command("lua5.4")
        .args(["-e", WORKER])
        .stdin(openssh::Stdio::piped())
        .stdout(openssh::Stdio::piped())
        .spawn()
        .await
        .unwrap();
    let mut to_worker = worker.stdin().take().unwrap();
    let mut from_worker = tokio::io::BufReader::new(worker.stdout().take().unwrap()).lines();
    let mut asyncssh = server.python("asyncssh");
    let mut paramiko = server.python("paramiko");
    let names = [
        "BioXen, an interpreter that waits",
        "BioXen, a command of its own",
        "a worker that stays, no fresh state",
        "the openssh crate, native-mux",
        "asyncssh",
        "ssh with ControlMaster",
        "paramiko",
    ];
    let mut times: [Vec<Duration>; 7] = std::array::from_fn(|_| Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS + WARM_UP {
        let ours = timed(execute(&warm)).await;
        let cold = timed(async {
            let mark = Mark::new();
            let command = lua::command("lua5.4", &Script::new(CODE), Some(&mark));
            let mut gather = Gather::new(100);
            lua::run(&runner, command, &mark, &mut gather)
                .await
                .unwrap();
        });
        let cold = cold.await;
        let stays = timed(async {
            to_worker.write_all(b"print(1)\n").await.unwrap();
            assert_eq!(from_worker.next_line().await.unwrap().unwrap(), "1");
        });
        let stays = stays.await;
        let native = timed(async {
            let mut child = mux
                .command("lua5.4")
                .arg("-")
                .stdin(openssh::Stdio::piped())
                .stdout(openssh::Stdio::piped())
                .spawn()
                .await
                .unwrap();
            let mut stdin = child.stdin().take().unwrap();
            stdin.write_all(CODE.as_bytes()).await.unwrap();
            drop(stdin);
            let mut said = String::new();
            let mut stdout = child.stdout().take().unwrap();
            stdout.read_to_string(&mut said).await.unwrap();
            assert!(child.wait().await.unwrap().success() && said == "1\n");
        });
        let native = native.await;
        let process = timed(async {
            let mut child = tokio::process::Command::new("ssh")
                .args(["-F", "none", "-S"])
                .arg(&socket)
                .args(["guest", "lua5.4", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(CODE.as_bytes()).await.unwrap();
            drop(stdin);
            assert_eq!(child.wait_with_output().await.unwrap().stdout, b"1\n");
        });
        let process = process.await;
        let one = [
            Some(ours),
            Some(cold),
            Some(stays),
            Some(native),
            asyncssh.as_mut().map(Python::round),
            Some(process),
            paramiko.as_mut().map(Python::round),
        ];
        if round >= WARM_UP {
            for (all, time) in times.iter_mut().zip(one) {
                all.extend(time);
            }
        }
    }
    let medians = times.map(median);
    let ours = medians[0].unwrap();
    for (name, time) in names.iter().zip(medians) {
        match time {
            Some(time) => println!("  {name:<36} {time:>9.2?}   {:>6.2} x", ratio(time, ours)),
            None => println!("  {name:<36} not installed: see the head of this file"),
        }
    }
    let started = Instant::now();
    for _ in 0..ROUNDS {
        execute(&warm).await;
    }
    let each = started.elapsed() / u32::try_from(ROUNDS).unwrap();
    println!("  BioXen in a loop, nothing in between: {each:.2?} each");
    warm.close().await;
    session.close().await;
    drop(to_worker);
    master.kill().unwrap();
    master.wait().unwrap();
}

/// Runs a program in an interpreter that waits; one is there soon when all are taken.
async fn execute(warm: &WarmInterpreters) {
    loop {
        let mut gather = Gather::new(100);
        if let Some(outcome) = warm.run(&Script::new(CODE), &mut gather).await.unwrap() {
            assert_eq!(gather.into_outcome(outcome).stdout, "1\n");
            return;
        }
    }
}

struct Count(usize);

#[async_trait]
impl OutputSink for Count {
    async fn write(&mut self, _: OutputStream, piece: Bytes) -> ControlFlow<()> {
        self.0 += piece.len();
        ControlFlow::Continue(())
    }
}

async fn streaming(server: &Server) {
    let session = Arc::new(SshSession::new(server.target.clone()));
    let runner = SshRunner::new(Arc::clone(&session));
    let warm = WarmInterpreters::new(Arc::new(runner), "lua5.4", Vec::new());
    execute(&warm).await;
    let code = format!(
        "local s = ('x'):rep(2^16) for _ = 1, {} do io.write(s) end",
        STREAM >> 16
    );
    let before = peak();
    let mut count = Count(0);
    let started = Instant::now();
    while warm
        .run(&Script::new(code.clone()), &mut count)
        .await
        .unwrap()
        .is_none()
    {}
    let time = started.elapsed();
    assert_eq!(count.0, STREAM);
    println!(
        "1 GiB of output: {:.0} MB/s, and {} kB more of memory at most",
        STREAM as f64 / 1e6 / time.as_secs_f64(),
        peak() - before
    );
    warm.close().await;
    session.close().await;
}

/// The most memory that this process has ever had, in kB.
fn peak() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let words = line.unwrap().split_whitespace().next();
    words.unwrap().parse().unwrap()
}

/// An sshd as Debian installs it, but for where it listens and whom it lets in.
struct Server {
    dir: TempDir,
    target: SshTarget,
    sshd: Child,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = KeyPair::generate("client").unwrap();
        let host = KeyPair::generate("host").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("authorized_keys"), client.public()).unwrap();
        for (name, key) in [("host_key", &host), ("key", &client)] {
            fs::write(path(name), key.expose_private()).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        // Only root's sshd needs it, and only root can make it.
        let _ = fs::create_dir_all("/run/sshd");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\n\
             PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nSetEnv HOME={}\n",
            path("host_key"),
            path("authorized_keys"),
            // What the user's shell does at a login is not what is measured.
            path("home"),
        );
        fs::write(path("config"), config).unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", &path("config")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(sshd.stderr.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("listening"));
        std::thread::spawn(move || lines.for_each(drop));
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let target = SshTarget::new(
            IpAddr::from([127, 0, 0, 1]),
            String::from_utf8(user).unwrap().trim(),
            Identity::Key(client.private().clone()),
            HostKey::Pinned(host.public().to_owned()),
        )
        .with_port(port);
        Self { dir, target, sshd }
    }

    /// A connection as `ssh` keeps it, and its socket.
    fn control_master(&self) -> (Child, std::path::PathBuf) {
        let socket = self.dir.path().join("control");
        let child = Command::new("ssh")
            .args(["-F", "none", "-M", "-N", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .arg("-S")
            .arg(&socket)
            .arg("-i")
            .arg(self.dir.path().join("key"))
            .args(["-p", &self.target.port.to_string(), "-l", &self.target.user])
            .arg("127.0.0.1")
            .spawn()
            .unwrap();
        while !socket.exists() {
            std::thread::yield_now();
        }
        (child, socket)
    }

    fn python(&self, way: &str) -> Option<Python> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(root.join("../target/venv/bin/python"))
            .arg(root.join("benches/peers.py"))
            .args([way, &self.target.port.to_string(), &self.target.user])
            .arg(self.dir.path().join("key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdin = child.stdin.take()?;
        let mut lines = BufReader::new(child.stdout.take()?).lines();
        let ready = lines.next()?.ok()? == "ready";
        let python = Python {
            child,
            stdin,
            lines,
        };
        ready.then_some(python)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.sshd.kill().unwrap();
        self.sshd.wait().unwrap();
    }
}

/// Another way over SSH, from Python.
struct Python {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn round(&mut self) -> Duration {
        self.stdin.write_all(b"\n").unwrap();
        let line = self.lines.next().unwrap().unwrap();
        Duration::from_nanos(line.parse().unwrap())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn timed(work: impl Future<Output = ()>) -> Duration {
    let started = Instant::now();
    work.await;
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

fn ratio(time: Duration, to: Duration) -> f64 {
    time.as_secs_f64() / to.as_secs_f64()
}
