//! What messages between VMs cost, beside LuaSocket between the same VMs.
//!
//! Two VMs on this machine, one there and one in a guest of the embedded pool, two guests. In each
//! pair requests that wait for their reply, and messages in one direction. Both ways take turns, so
//! that a busy machine slows them alike. It needs the Debian package `lua-socket`.
//!
//! ```sh
//! cargo bench -p bioxen --features full --bench messages
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen::embedded::EmbeddedPool;
use bioxen::net::message::{Endpoint, Hub};
use bioxen::{Input, LuaVm, OutputStream, Script, VmManager, channel};
use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

const ROUNDS: usize = 7;

/// What is done in a round: its name, what each side does, how often, and with how many bytes.
const WORKS: [(&str, &str, usize, usize); 3] = [
    ("request and reply, 64 bytes", "ping", 200, 64),
    ("messages of 64 bytes", "flood", 500, 64),
    ("messages of 64 KiB", "flood", 50, 64 << 10),
];

#[tokio::main]
async fn main() {
    bioxen::basic::worker::run_if_asked();
    let pool = EmbeddedPool::start().await.unwrap();
    let manager = VmManager::new(bioxen::factory());
    let local = json!({"network": true, "lua_executable": "lua5.4"});
    let mut vms = Vec::new();
    for (id, vm_type, config) in [
        ("local1", "basic", local.clone()),
        ("local2", "basic", local),
        ("guest1", "xcpng", pool.config()),
        ("guest2", "xcpng", pool.config()),
    ] {
        vms.push(manager.create_vm(id, vm_type, config).await.unwrap());
    }
    let mut port = 28_000;
    println!(
        "medians of {ROUNDS} rounds in turns; the ratio is how often LuaSocket does it meanwhile"
    );
    for (pair, from, to) in [
        ("local-local", 0, 1),
        ("local-guest", 0, 2),
        ("guest-guest", 2, 3),
    ] {
        for (name, what, count, size) in WORKS {
            port += 1;
            let mut hub = ByHub::open(&vms[from], &vms[to], what, count, size).await;
            let mut socket = BySocket::open(&vms[from], &vms[to], port, what, count, size).await;
            let (mut by_hub, mut by_socket) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                by_hub.push(hub.round().await);
                by_socket.push(socket.round().await);
            }
            hub.end().await;
            socket.end().await;
            let each = |mut rounds: Vec<Duration>| {
                rounds.sort_unstable();
                rounds[ROUNDS / 2].as_secs_f64() * 1e6 / count as f64
            };
            let (hub, socket) = (each(by_hub), each(by_socket));
            println!(
                "{pair:<12} {name:<28} {hub:>9.1} us {socket:>9.1} us {:>7.1} x",
                hub / socket
            );
        }
    }
    manager.shutdown_all().await.unwrap();
    pool.shutdown().await;
}

/// Two programs and a hub.
struct ByHub {
    bench: Endpoint,
    names: [String; 2],
    programs: [JoinHandle<()>; 2],
}

impl ByHub {
    async fn open(
        from: &Arc<dyn LuaVm>,
        to: &Arc<dyn LuaVm>,
        what: &str,
        count: usize,
        size: usize,
    ) -> Self {
        let hub = Hub::new();
        let bench = hub.endpoint("bench").unwrap();
        let sends = match what {
            "ping" => include_str!("messages/ping.lua"),
            _ => include_str!("messages/flood.lua"),
        };
        let count = count.to_string();
        let sends = Script::new(sends)
            .arg(to.id().to_string())
            .arg(count.clone())
            .arg(size.to_string());
        let answers = Script::new(include_str!("messages/answer.lua")).arg(count);
        let mut programs = Vec::new();
        for (vm, script) in [(from, sends), (to, answers)] {
            let member = hub.join(Arc::clone(vm)).await.unwrap();
            programs.push(tokio::spawn(async move {
                let outcome = member.execute(script).await.unwrap();
                assert!(outcome.success(), "{}", outcome.stderr_text());
            }));
        }
        Self {
            bench,
            names: [from.id().to_string(), to.id().to_string()],
            programs: programs.try_into().unwrap(),
        }
    }

    async fn round(&mut self) -> Duration {
        let begun = Instant::now();
        self.bench.send(&self.names[0], "go", None).await.unwrap();
        let done = self.bench.receive(None).await.unwrap().unwrap();
        assert_eq!(done.bytes, "done");
        begun.elapsed()
    }

    async fn end(self) {
        for name in &self.names {
            self.bench.send(name, "end", None).await.unwrap();
        }
        for program in self.programs {
            program.await.unwrap();
        }
    }
}

/// Two programs and a connection between them.
struct BySocket {
    go: DuplexStream,
    done: Receiver<(OutputStream, Bytes)>,
    programs: [JoinHandle<()>; 2],
}

impl BySocket {
    async fn open(
        from: &Arc<dyn LuaVm>,
        to: &Arc<dyn LuaVm>,
        port: u16,
        what: &str,
        count: usize,
        size: usize,
    ) -> Self {
        let address = to.info().await.unwrap().address;
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let with = |script: Script| {
            script
                .arg(port.to_string())
                .arg(what.to_owned())
                .arg(count.to_string())
                .arg(size.to_string())
        };
        let server = with(Script::new(include_str!("messages/socket_server.lua")));
        let (server, mut listening) = start(to, server.arg(ROUNDS.to_string()));
        let (_, line) = listening.recv().await.unwrap();
        assert_eq!(line, "listening\n", "is lua-socket installed?");
        let (go, theirs) = tokio::io::duplex(64);
        let client = Script::new(include_str!("messages/socket_client.lua"));
        let client = with(client.arg(address.to_string())).with_stdin(Input::stream(theirs));
        let (client, done) = start(from, client);
        Self {
            go,
            done,
            programs: [server, client],
        }
    }

    async fn round(&mut self) -> Duration {
        let begun = Instant::now();
        self.go.write_all(b"go\n").await.unwrap();
        let (_, line) = self.done.recv().await.unwrap();
        assert_eq!(line, "done\n");
        begun.elapsed()
    }

    async fn end(self) {
        drop(self.go);
        for program in self.programs {
            program.await.unwrap();
        }
    }
}

/// Starts a program, which is to succeed.
fn start(vm: &Arc<dyn LuaVm>, script: Script) -> (JoinHandle<()>, Receiver<(OutputStream, Bytes)>) {
    let vm = Arc::clone(vm);
    let (mut sink, output) = channel(16);
    let program = tokio::spawn(async move {
        let outcome = vm.execute_streaming(script, &mut sink).await.unwrap();
        assert!(outcome.success(), "{}", outcome.status);
    });
    (program, output)
}
