//! What executions in basic VMs cost, beside the other ways to run Lua on this machine.
//!
//! All ways take turns in one run, so that a busy machine slows them alike. The ways that Python
//! programs go need `target/venv`:
//!
//! ```sh
//! python3 -m venv target/venv
//! target/venv/bin/pip install pylua-bioxen-vm-lib==0.1.18 lupa
//! ```
//!
//! Arguments choose parts: `one_shot`, `loops`, `session`, `cpu_bound`, `streaming`, `many_vms`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_vm_basic::{BasicBackend, BasicConfig, BasicVm};
use bioxen_vm_core::{LuaVm, OutputSink, OutputStream, SessionOptions, VmId};
use bytes::Bytes;

const ROUNDS: usize = 300;
const LOOP: usize = 50;
const CODE: &str = "print(1)";
const CPU_BOUND: &str = "local function fib(n) if n < 2 then return n end \
                         return fib(n - 1) + fib(n - 2) end print(fib(30))";
const STREAM: usize = 1 << 30;
const MANY: usize = 1000;

/// The argument that makes this program the other end of a pipe.
const ECHO: &str = "__floor";

#[tokio::main]
async fn main() {
    if std::env::args().any(|arg| arg == ECHO) {
        return echo();
    }
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    if wanted("one_shot") {
        one_shot().await;
    }
    if wanted("loops") {
        loops().await;
    }
    if wanted("session") {
        session().await;
    }
    if wanted("cpu_bound") {
        cpu_bound().await;
    }
    if wanted("streaming") {
        streaming().await;
    }
    if wanted("many_vms") {
        many_vms().await;
    }
}

async fn vm(config: BasicConfig) -> BasicVm {
    let backend = BasicBackend::new(config).unwrap();
    let vm = backend
        .create_vm(VmId::new("bench").unwrap())
        .await
        .unwrap();
    vm.start().await.unwrap();
    vm
}

/// The ways, in turns.
async fn one_shot() {
    println!("one execution of `{CODE}`, median of {ROUNDS}, in turns");
    let built_in = vm(BasicConfig::default()).await;
    let fresh = vm(BasicConfig::default().with_fresh_process(true)).await;
    let foreign = vm(BasicConfig::default().with_lua_executable("lua5.4")).await;
    let mut upstream = Python::start("upstream");
    let mut lupa = Python::start("lupa");
    let mut floor = Floor::start();
    let names = [
        "mlua, fresh state, in this process",
        "the same behind a pipe: the floor",
        "basic VM",
        "basic VM, fresh_process",
        "basic VM, lua_executable lua5.4",
        "`lua5.4 -e`",
        "lupa, fresh state, in its process",
        "pylua-bioxen-vm-lib 0.1.18",
    ];
    let mut times: [Vec<Duration>; 8] = std::array::from_fn(|_| Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS + 20 {
        let one = [
            Some(timed(async { in_process(CODE) }).await),
            Some(timed(async { floor.round() }).await),
            Some(timed(execute(&built_in)).await),
            Some(timed(execute(&fresh)).await),
            Some(timed(execute(&foreign)).await),
            Some(timed(bare()).await),
            lupa.as_mut().map(Python::round),
            upstream.as_mut().map(Python::round),
        ];
        if round >= 20 {
            for (all, time) in times.iter_mut().zip(one) {
                all.extend(time);
            }
        }
    }
    let medians = times.map(median);
    let [_, floor_time, ours, .., upstream_time] = medians;
    for (name, time) in names.iter().zip(medians) {
        match time {
            Some(time) => println!(
                "  {name:<36} {time:>9.1?}   {:>6.2} x basic VM",
                ratio(time, ours.unwrap())
            ),
            None => println!("  {name:<36} not installed: see the head of this file"),
        }
    }
    println!(
        "  basic VM: {:.2} x the floor; the old library: {} x basic VM",
        ratio(ours.unwrap(), floor_time.unwrap()),
        upstream_time.map_or("?".into(), |time| format!(
            "{:.1}",
            ratio(time, ours.unwrap())
        ))
    );
    for vm in [built_in, fresh, foreign] {
        vm.destroy().await.unwrap();
    }
}

/// The isolated ways, each by itself as a loop goes it.
async fn loops() {
    let built_in = vm(BasicConfig::default()).await;
    let fresh = vm(BasicConfig::default().with_fresh_process(true)).await;
    let mut floor = Floor::start();
    println!("the same in loops of {LOOP}, which take turns");
    let mut loops: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS / 10 {
        for _ in 0..LOOP {
            loops[0].push(timed(execute(&built_in)).await);
        }
        for _ in 0..LOOP / 10 {
            loops[1].push(timed(execute(&fresh)).await);
        }
        for _ in 0..LOOP {
            loops[2].push(timed(async { floor.round() }).await);
        }
    }
    let loops = loops.map(|times| median(times).unwrap());
    for (name, time) in ["basic VM", "basic VM, fresh_process", "the floor"]
        .iter()
        .zip(loops)
    {
        println!(
            "  {name:<36} {time:>9.1?}   {:>6.2} x the floor",
            ratio(time, loops[2])
        );
    }
    for vm in [built_in, fresh] {
        vm.destroy().await.unwrap();
    }
}

/// A command of a session: a round trip to a state that lives.
async fn session() {
    let vm = vm(BasicConfig::default()).await;
    let session = vm.open_session(SessionOptions::default()).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..ROUNDS * 5 {
        let started = Instant::now();
        let reply = session.eval("print(1)").await.unwrap();
        times.push(started.elapsed());
        assert_eq!(reply.stdout, "1\n");
    }
    println!("a session's command: {:.1?}", median(times).unwrap());
    session.close().await;
    vm.destroy().await.unwrap();
}

async fn cpu_bound() {
    let vm = vm(BasicConfig::default()).await;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        bare.push(timed(async { in_process(CPU_BOUND) }).await);
        ours.push(
            timed(async {
                let outcome = vm.execute(CPU_BOUND.into()).await.unwrap();
                assert_eq!(outcome.stdout, "832040\n");
            })
            .await,
        );
    }
    let (ours, bare) = (median(ours).unwrap(), median(bare).unwrap());
    println!(
        "fib(30): mlua {bare:.1?}, basic VM {ours:.1?}: {:.2} x",
        ratio(ours, bare)
    );
    vm.destroy().await.unwrap();
}

/// Counts what comes.
struct Count(usize);

#[async_trait]
impl OutputSink for Count {
    async fn write(&mut self, _: OutputStream, piece: Bytes) -> ControlFlow<()> {
        self.0 += piece.len();
        ControlFlow::Continue(())
    }
}

async fn streaming() {
    let vm = vm(BasicConfig::default()).await;
    let code = format!(
        "local piece = ('x'):rep(1 << 16) for _ = 1, {} do io.write(piece) end print()",
        STREAM >> 16
    );
    let before = memory("self", "VmHWM");
    let started = Instant::now();
    let mut count = Count(0);
    let outcome = vm.execute_streaming(code.into(), &mut count).await.unwrap();
    let time = started.elapsed();
    assert!(outcome.success() && count.0 > STREAM);
    let worker = children().first().map_or(0, |pid| memory(pid, "VmHWM"));
    println!(
        "{} MB streamed in {time:.2?} ({:.0} MB/s); this process grew by {} kB at its peak, the \
         worker's peak is {worker} kB",
        STREAM >> 20,
        (STREAM >> 20) as f64 / time.as_secs_f64(),
        memory("self", "VmHWM") - before
    );
    vm.destroy().await.unwrap();
}

async fn many_vms() {
    // Each idle VM holds its lock, its socket and a handle of its process.
    let (_, hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    for (name, config) in [
        (
            "a warm worker each",
            BasicConfig::default().with_idle_workers(1),
        ),
        (
            "idle_workers = 0",
            BasicConfig::default().with_idle_workers(0),
        ),
    ] {
        // Making and removing folders is the work of the disk, which is not measured.
        let folder = Path::new("/dev/shm");
        let config = match folder.is_dir() {
            true => config.with_directory(folder),
            false => config,
        };
        let before = memory("self", "VmRSS");
        let backend = BasicBackend::new(config).unwrap();
        let started = Instant::now();
        let mut vms = Vec::new();
        for i in 0..MANY {
            let vm = backend
                .create_vm(VmId::new(format!("vm_{i}")).unwrap())
                .await
                .unwrap();
            vm.start().await.unwrap();
            vms.push(Arc::new(vm));
        }
        let created = started.elapsed();
        let started = Instant::now();
        for vm in &vms {
            assert_eq!(vm.execute("print(1)".into()).await.unwrap().stdout, "1\n");
        }
        let executed = started.elapsed();
        let workers = children();
        let pss: u64 = workers.iter().map(|pid| memory(pid, "Pss")).sum();
        println!(
            "{MANY} VMs, {name}: created in {created:.2?}, one execution in each {executed:.2?}; \
             {} processes with {:.2} MB each (PSS), and {:.1} kB for each VM in this process",
            workers.len(),
            pss as f64 / 1024.0 / workers.len().max(1) as f64,
            memory("self", "VmRSS").saturating_sub(before) as f64 / MANY as f64
        );
        let started = Instant::now();
        for vm in vms {
            vm.destroy().await.unwrap();
        }
        println!("  all destroyed in {:.2?}", started.elapsed());
    }
}

/// The children of this process.
fn children() -> Vec<String> {
    let own = std::process::id();
    let tasks = std::fs::read_dir(format!("/proc/{own}/task")).unwrap();
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A number of kB that the kernel tells about a process.
fn memory(pid: &str, name: &str) -> u64 {
    let file = if name == "Pss" {
        "smaps_rollup"
    } else {
        "status"
    };
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(&format!("{name}:")))
        .and_then(|rest| rest.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

async fn execute(vm: &BasicVm) {
    let outcome = vm.execute(CODE.into()).await.unwrap();
    assert_eq!(outcome.stdout, "1\n");
}

async fn bare() {
    let output = tokio::process::Command::new("lua5.4")
        .args(["-e", CODE])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert_eq!(output.stdout, b"1\n");
}

/// Runs Lua without any isolation.
fn in_process(code: &str) {
    let lua = mlua::Lua::new();
    let said = std::rc::Rc::new(std::cell::Cell::new(0));
    let print = {
        let said = said.clone();
        lua.create_function(move |_, number: i64| {
            said.set(number);
            Ok(())
        })
    };
    lua.globals().set("print", print.unwrap()).unwrap();
    lua.load(code).exec().unwrap();
    assert!(said.get() > 0);
}

/// What nothing that isolates can be faster than: a process that makes a fresh state for each
/// program that a pipe brings.
struct Floor {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Floor {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(ECHO)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            stdout,
        }
    }

    fn round(&mut self) {
        self.stdin.write_all(CODE.as_bytes()).unwrap();
        self.stdout.read_exact(&mut [0; 1]).unwrap();
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn echo() {
    let mut code = [0; CODE.len()];
    while std::io::stdin().read_exact(&mut code).is_ok() {
        in_process(std::str::from_utf8(&code).unwrap());
        std::io::stdout().write_all(b"1").unwrap();
        std::io::stdout().flush().unwrap();
    }
}

/// Another way to run Lua, from Python.
struct Python {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn start(way: &str) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(root.join("../target/venv/bin/python"))
            .arg(root.join("benches/peers.py"))
            .args([way, CODE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdin = child.stdin.take()?;
        let lines = BufReader::new(child.stdout.take()?).lines();
        let mut python = Self {
            child,
            stdin,
            lines,
        };
        let ready = python.lines.next()?.ok()? == "ready";
        ready.then_some(python)
    }

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
