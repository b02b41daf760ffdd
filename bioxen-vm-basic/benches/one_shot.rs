//! What one execution in a fresh process costs, as ratio to starting the program `lua5.4` bare.
//!
//! All ways take turns in one run, so that a busy machine slows them alike.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use bioxen_vm_basic::{BasicBackend, BasicConfig, BasicVm};
use bioxen_vm_core::{LuaVm, VmId};

const ROUNDS: usize = 400;
const CODE: &str = "print(1)";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let built_in = vm(BasicConfig::default()).await;
    let foreign = vm(BasicConfig::default().with_lua_executable("lua5.4")).await;
    let mut times: [Vec<Duration>; 3] = std::array::from_fn(|_| Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS + 20 {
        let one = [
            timed(bare()).await,
            timed(execute(&built_in)).await,
            timed(execute(&foreign)).await,
        ];
        if round >= 20 {
            for (all, time) in times.iter_mut().zip(one) {
                all.push(time);
            }
        }
    }
    let [bare, built_in_time, foreign_time] = times.map(median);
    println!("bare `lua5.4 -e`     {bare:>10.1?}   1.00");
    for (name, time) in [
        ("built-in Lua", built_in_time),
        ("lua_executable", foreign_time),
    ] {
        let ratio = time.as_secs_f64() / bare.as_secs_f64();
        println!("{name:<18} {time:>12.1?}   {ratio:.2}");
    }
    built_in.destroy().await.unwrap();
    foreign.destroy().await.unwrap();
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

async fn bare() {
    let output = tokio::process::Command::new("lua5.4")
        .args(["-e", CODE])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert_eq!(output.stdout, b"1\n");
}

async fn execute(vm: &BasicVm) {
    let outcome = vm.execute(CODE.into()).await.unwrap();
    assert_eq!(outcome.stdout, "1\n");
}

async fn timed(work: impl Future<Output = ()>) -> Duration {
    let started = Instant::now();
    work.await;
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
