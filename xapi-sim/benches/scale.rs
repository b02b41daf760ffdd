//! How the simulator carries a large pool: `cargo bench -p xapi-sim`.
//!
//! It prints what each thing takes, and ratios between a small and a large pool, which say more
//! than seconds do: work that grows faster than the pool shows there. Two worker threads, as on a
//! small machine.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a bench")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xapi_sim::{GuestMode, LUA_TEMPLATE, Model, Server, Sim, SimOptions, Value};

fn main() {
    // `cargo test --benches` asks for nothing but to be built.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

/// The memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

struct Pool {
    sim: Arc<Sim>,
    server: Server,
    session: String,
}

async fn pool(vms: usize) -> Pool {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let sim = Sim::start(Model::fleet(vms), options).await.unwrap();
    let server = sim.serve_plain(([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut pool = Pool {
        sim: Arc::new(sim),
        server,
        session: String::new(),
    };
    pool.session = pool.log_in().await;
    pool
}

impl Pool {
    async fn log_in(&self) -> String {
        use xapi_sim::SecretString;
        let credentials = self.sim.credentials();
        let password: &SecretString = credentials.password();
        let params = vec![
            Value::from(credentials.user()),
            Value::from(secrecy::ExposeSecret::expose_secret(password)),
            Value::from("1.0"),
            Value::from("bench"),
        ];
        let session = self.sim.call("session.login_with_password", params).await;
        session.unwrap().as_str().unwrap().to_owned()
    }

    async fn call(&self, method: &str, args: Vec<Value>) -> Value {
        let session = std::iter::once(Value::from(self.session.as_str()));
        let params = session.chain(args).collect();
        self.sim.call(method, params).await.unwrap()
    }

    /// A call over HTTP on a connection of its own; gives the number of bytes.
    async fn over_http(&self, method: &str, params: &str) -> usize {
        let session = &self.session;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":["{session}"{params}]}}"#
        );
        let length = body.len();
        let head = format!(
            "POST /jsonrpc HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer.len()
    }
}

/// The shortest of some runs.
async fn best<F: Future<Output = ()>>(runs: usize, mut run: impl FnMut() -> F) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let begun = Instant::now();
        run().await;
        best = best.min(begun.elapsed());
    }
    best
}

fn ratio(large: Duration, small: Duration) -> f64 {
    large.as_secs_f64() / small.as_secs_f64().max(1e-9)
}

async fn run() {
    let before = memory();
    let begun = Instant::now();
    let large = pool(10_000).await;
    println!(
        "pool of 10,000 VMs: built in {:.2?}, {:.1} KB of memory for a VM",
        begun.elapsed(),
        (memory().saturating_sub(before)) as f64 / 10_000.0 / 1000.0
    );
    let small = pool(1_000).await;
    records(&small, &large).await;
    listeners(&large).await;
    let few = lifecycles(&small, 1_000).await;
    let many = lifecycles(&large, 1_000).await;
    println!(
        "lifecycles (clone, provision, start, hard_shutdown, destroy) of 1,000 VMs, 8 at a time: \
         {many:.2?} in the pool of 10,000; {:.2} times those in a pool of 1,000",
        ratio(many, few)
    );
}

async fn records(small: &Pool, large: &Pool) {
    let bytes = large.over_http("VM.get_all_records", "").await;
    let slow = best(3, || async {
        large.over_http("VM.get_all_records", "").await;
    })
    .await;
    let quick = best(3, || async {
        small.over_http("VM.get_all_records", "").await;
    })
    .await;
    println!(
        "VM.get_all_records of 10,000 VMs over HTTP: {slow:.2?}, {:.1} MB, {:.0} MB/s; {:.1} times \
         that of 1,000",
        bytes as f64 / 1e6,
        bytes as f64 / 1e6 / slow.as_secs_f64(),
        ratio(slow, quick)
    );
}

/// 50 clients wait for changes of one VM each; one change after another wakes one of them.
async fn listeners(pool: &Pool) {
    let vms = pool.call("VM.get_all", vec![]).await;
    let vms: Vec<&str> = vms
        .items()
        .iter()
        .rev()
        .take(50)
        .filter_map(Value::as_str)
        .collect();
    let all = pool.over_http("event.from", r#",["*"],"",1.0"#).await;
    let whole = best(3, || async {
        pool.over_http("event.from", r#",["*"],"",1.0"#).await;
    })
    .await;
    println!(
        "event.from of everything: {whole:.2?}, {:.1} MB",
        all as f64 / 1e6
    );
    let rounds = 20;
    let begun = Instant::now();
    let listening = vms.iter().map(|vm| async move {
        let classes = Value::strings([format!("VM/{vm}")]);
        let mut token = String::new();
        for _ in 0..=rounds {
            let args = vec![classes.clone(), token.as_str().into(), 30.0.into()];
            let batch = pool.call("event.from", args).await;
            token = batch.get("token").unwrap().as_str().unwrap().to_owned();
        }
    });
    let changing = async {
        for round in 0..rounds {
            // Longer than events are gathered for, so that each round is seen alone.
            tokio::time::sleep(Duration::from_millis(60)).await;
            for vm in &vms {
                let label = Value::from(format!("round {round}"));
                let args = vec![Value::from(*vm), label];
                pool.call("VM.set_name_label", args).await;
            }
        }
    };
    let all = futures_join(listening.collect(), changing);
    all.await;
    println!(
        "event.from with 50 listeners: {} changes heard in {:.2?}, {:.2?} of it gathering",
        rounds * vms.len(),
        begun.elapsed(),
        Duration::from_millis(50) * u32::try_from(rounds).unwrap_or(0)
    );
}

/// Polls all of them to their ends on this task.
async fn futures_join<F: Future<Output = ()>>(many: Vec<F>, one: impl Future<Output = ()>) {
    let mut many: Vec<_> = many.into_iter().map(Box::pin).collect();
    let mut one = Box::pin(one);
    let mut one_done = false;
    std::future::poll_fn(|context| {
        if !one_done {
            one_done = one.as_mut().poll(context).is_ready();
        }
        many.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if one_done && many.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

async fn lifecycles(pool: &Pool, count: usize) -> Duration {
    let template = pool.call("VM.get_by_name_label", vec![LUA_TEMPLATE.into()]);
    let template = template.await.items()[0].clone();
    let begun = Instant::now();
    let lanes = (0..8).map(|lane| {
        let template = template.clone();
        async move {
            for number in (lane..count).step_by(8) {
                let name = Value::from(format!("life {number}"));
                let vm = pool.call("VM.clone", vec![template.clone(), name]).await;
                pool.call("VM.provision", vec![vm.clone()]).await;
                let start = vec![vm.clone(), false.into(), false.into()];
                pool.call("VM.start", start).await;
                pool.call("VM.hard_shutdown", vec![vm.clone()]).await;
                let vbds = pool.call("VM.get_VBDs", vec![vm.clone()]).await;
                let mut disks = Vec::new();
                for vbd in vbds.items() {
                    let vdi = pool.call("VBD.get_VDI", vec![vbd.clone()]).await;
                    if vdi.as_str() != Some(xapi_sim::NULL_REF) {
                        disks.push(vdi);
                    }
                }
                pool.call("VM.destroy", vec![vm]).await;
                for disk in disks {
                    pool.call("VDI.destroy", vec![disk]).await;
                }
            }
        }
    });
    futures_join(lanes.collect(), async {}).await;
    begun.elapsed()
}
