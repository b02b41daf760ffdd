//! How well a run over records uses its VMs: the time that one VM needs, divided by the number of VMs and
//! the time that they need together. All of it counts, from the input to the result: cutting, making
//! the VMs, and gathering.
//!
//! Programs that wait tell how the work is given out, whatever the processors; programs that compute
//! also tell what the machine can do, and want one that does nothing else.
//!
//! ```sh
//! cargo bench -p bioxen --features full --bench map
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::sync::Arc;
use std::time::Duration;

use bioxen::map::{Format, Input, Map, Shards};
use bioxen::{Script, VmManager};
use serde_json::json;

const SHARDS: u64 = 64;

/// Stands for a program that waits for something else than a processor, a second for each shard.
const WAIT: &str = "io.read('a') os.execute('sleep 1')";

/// Reads with qualities, as their quality control goes through them.
const COMPUTE: &str = "
local lines, sum = {}, 0
for line in io.lines() do lines[#lines + 1] = line end
for _ = 1, 100 do
  for _, line in ipairs(lines) do
    for place = 1, #line do sum = sum + line:byte(place) end
  end
end
return sum";

#[tokio::main]
async fn main() {
    bioxen::basic::worker::run_if_asked();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    let text: String = (0..SHARDS * 500)
        .map(|line| format!("{line:060}\n"))
        .collect();
    std::fs::write(&file, text).unwrap();
    let processors = std::thread::available_parallelism().unwrap();
    println!("{processors} processors");
    for (name, program, counts) in [
        ("waiting", WAIT, &[8, 16][..]),
        ("computing", COMPUTE, &[2]),
    ] {
        let alone = took(program, &file, 1).await;
        println!("{name}, 1 VM: {:.2} s", alone.as_secs_f64());
        for vms in counts {
            let together = took(program, &file, *vms).await;
            let speedup = alone.as_secs_f64() / together.as_secs_f64();
            println!(
                "{name}, {vms} VMs: {:.2} s, {speedup:.2} times as fast, {:.0} % of {vms}",
                together.as_secs_f64(),
                100.0 * speedup / *vms as f64
            );
        }
    }
}

async fn took(program: &'static str, file: &std::path::Path, vms: usize) -> Duration {
    let manager = Arc::new(VmManager::new(bioxen::factory()));
    let input = Input::new([file], Format::Lines);
    let map = Map::new(Script::new(program), input)
        .on("basic", json!({"processes": true}), vms)
        .with_shards(Shards::Count(SHARDS));
    let mapped = map.run(&manager).await.unwrap();
    manager.shutdown_all().await.unwrap();
    mapped.times.total
}
