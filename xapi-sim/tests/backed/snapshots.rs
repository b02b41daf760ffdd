//! Guests that stand still, and the ways back to what they were.

use super::*;

/// The states of the processes on this machine that have this text in their arguments.
fn states_of(text: &str) -> Vec<char> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let states = processes.filter_map(|entry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if !arguments.starts_with("sleep") || !arguments.contains(text) {
            return None;
        }
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        // Whether it is on a processor right now is nobody's business.
        Some(if state == 'T' { 'T' } else { 'S' })
    });
    states.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_running_vm_brings_its_files_back() {
    let real = real().await;
    let pool = &real.pool;
    let vm = real.vm("worker").await;
    pool.start(&vm).await;
    real.inside(&vm, "echo old > ~/note").await;
    let args = vec![vm.as_str().into(), "before".into(), Value::strings([""; 0])];
    let snapshot = text(&pool.call("VM.snapshot", args).await);
    real.inside(&vm, "echo new > ~/note; echo more > ~/more")
        .await;

    // A clone of the snapshot has what was there, the VM what has come since.
    let args = vec![snapshot.as_str().into(), "clone".into()];
    let clone = text(&pool.call("VM.clone", args).await);
    pool.call("VM.provision", vec![clone.as_str().into()]).await;
    pool.start(&clone).await;
    assert_eq!(real.inside(&clone, "cat ~/note; ls ~").await, "old\nnote");
    assert_eq!(real.inside(&vm, "cat ~/note").await, "new");

    pool.call("VM.revert", vec![snapshot.into()]).await;
    assert_eq!(pool.state(&vm).await, "Halted");
    pool.start(&vm).await;
    assert_eq!(real.inside(&vm, "cat ~/note; ls ~").await, "old\nnote");
    real.pool.sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_and_suspended_guests_stand_still_and_go_on() {
    let real = real().await;
    let pool = &real.pool;
    let vm = real.vm("sleeper").await;
    pool.start(&vm).await;
    let seconds = 500_000 + std::process::id();
    let mark = seconds.to_string();
    // One that the guest has stopped itself must stay so.
    let start = format!(
        "for n in 1 2; do setsid sleep {mark} >/dev/null 2>&1 </dev/null & done; \
         until grep -q sleep /proc/$!/comm; do :; done; kill -STOP $!"
    );
    real.inside(&vm, &start).await;
    let sorted = || {
        let mut states = states_of(&mark);
        states.sort_unstable();
        states
    };
    assert_eq!(sorted(), ['S', 'T']);
    for (stop, go_on, args) in [
        ("VM.pause", "VM.unpause", 0),
        ("VM.suspend", "VM.resume", 2),
    ] {
        pool.call(stop, vec![vm.as_str().into()]).await;
        assert_eq!(sorted(), ['T', 'T'], "{stop}");
        let mut params = vec![Value::from(vm.as_str())];
        params.extend(std::iter::repeat_n(Value::from(false), args));
        pool.call(go_on, params).await;
        assert_eq!(sorted(), ['S', 'T'], "{go_on}");
        assert_eq!(real.inside(&vm, "echo here").await, "here");
    }
    // A checkpoint and a snapshot let them go on, too.
    let checkpoint = vec![vm.as_str().into(), "with memory".into()];
    let checkpoint = text(&pool.call("VM.checkpoint", checkpoint).await);
    assert_eq!(sorted(), ['S', 'T']);

    // What sleeps can be ended.
    pool.call("VM.suspend", vec![vm.as_str().into()]).await;
    real.stop(&vm).await;
    assert_eq!(sorted(), [] as [char; 0]);
    pool.start(&vm).await;
    real.inside(&vm, "touch ~/later").await;
    pool.call("VM.pause", vec![vm.as_str().into()]).await;

    // Of the checkpoint's memory nothing is left, of its disk everything.
    pool.call("VM.revert", vec![checkpoint.into()]).await;
    assert_eq!(pool.state(&vm).await, "Suspended");
    let params = vec![vm.as_str().into(), false.into(), false.into()];
    pool.call("VM.resume", params).await;
    assert_eq!(real.inside(&vm, "ls ~").await, "");
    real.pool.sim.shutdown().await;
}
