//! Programs in threads of this process: what holds all the same, and what does not and is said.

use std::path::Path;
use std::time::Duration;

use bioxen_vm_basic::{BasicBackend, BasicConfig};
use bioxen_vm_core::{ErrorKind, Outcome, Script, Status};

use crate::support::Lab;

async fn run(lab: &Lab, script: impl Into<Script>) -> Outcome {
    lab.vm.execute(script.into()).await.unwrap()
}

/// How many threads of this process run programs.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name == "lua\n").count()
}

#[test]
fn what_needs_a_process_of_its_own_is_refused() {
    let config = BasicConfig::default()
        .with_in_process(true)
        .with_lua_executable("lua5.4")
        .with_cpu_time(Duration::from_secs(1))
        .with_processes(true)
        .with_fresh_process(true);
    let error = BasicBackend::new(config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    for key in ["lua_executable", "cpu_time", "processes", "fresh_process"] {
        assert!(
            text.contains(&format!("{key} needs processes of its own")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn it_is_told_that_programs_are_no_processes() {
    let lab = Lab::in_process().await;
    let own = lab.vm.isolation().wall("own process").unwrap().clone();
    assert!(!own.stands && own.detail.contains("in_process"), "{own:?}");
    assert!(!lab.vm.capabilities().processes && !lab.vm.capabilities().commands);
    let info = lab.vm.info().await.unwrap();
    assert_eq!(info.details["program"], "this process");
    for lab in Lab::both().await {
        assert!(lab.vm.isolation().wall("own process").unwrap().stands);
    }
}

#[tokio::test]
async fn the_kernel_walls_a_thread_in_and_nobody_else() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    let lab = Lab::in_process().await;
    for name in ["files", "network", "processes", "system calls"] {
        assert!(lab.vm.isolation().wall(name).unwrap().stands, "{name}");
    }
    let script = Script::new("print((io.open(...)))").arg(secret.path().display().to_string());
    assert_eq!(run(&lab, script).await.stdout_text(), "nil\n");
    assert_eq!(std::fs::read(secret.path()).unwrap(), b"secret");
    std::process::Command::new("true").status().unwrap();
}

#[tokio::test]
async fn a_program_has_a_directory_and_variables_of_its_own() {
    let here = std::env::current_dir().unwrap();
    let lab = Lab::in_process().await;
    let code = "io.open('kept', 'w'):write('x'):close() \
                print(os.getenv('MINE'), os.getenv('CARGO_MANIFEST_DIR'), \
                      os.tmpname():find(os.getenv('TMPDIR'), 1, true))";
    let outcome = run(&lab, Script::new(code).with_env("MINE", "x")).await;
    assert!(
        outcome.stdout_text().starts_with("x\tnil\t1\t"),
        "{outcome:?}"
    );
    assert!(lab.home().join("kept").is_file());
    assert_eq!(std::env::current_dir().unwrap(), here);
    assert!(!Path::new("kept").exists());
    let code = "print(os.setlocale('C.UTF-8'), os.setlocale())";
    assert_eq!(run(&lab, code).await.stdout_text(), "nil\tC\n");
}

#[tokio::test]
async fn os_exit_ends_the_program_and_not_this_process() {
    let lab = Lab::in_process().await;
    for code in [
        "pcall(os.exit, 3)",
        "xpcall(os.exit, print, 3)",
        "coroutine.wrap(pcall)(os.exit, 3)",
        "coroutine.resume(coroutine.create(os.exit), 3)",
        "table.sort({1, 2}, function() os.exit(3) end)",
        "setmetatable({}, {__close = print}) local x <close> = setmetatable({}, {__close = \
         function() print('closed') end}) os.exit(3)",
    ] {
        let outcome = run(&lab, format!("io.write('before') {code} print('after')")).await;
        assert_eq!(outcome.status, Status::Exited(3), "{code}");
        assert_eq!(outcome.stdout_text(), "before", "{code}");
    }
}

#[tokio::test]
async fn the_standard_streams_cannot_be_closed() {
    let lab = Lab::in_process().await;
    let code = "print(io.stdout:close()) print(io.close()) do local f <close> = io.stdout end \
                print(io.type(io.stdout))";
    assert_eq!(
        run(&lab, code).await.stdout_text(),
        "nil\tcannot close standard file\n".repeat(2) + "file\n"
    );
}

#[tokio::test]
async fn whatever_a_program_does_in_lua_ends_with_its_time() {
    let lab = Lab::in_process().await;
    for code in [
        "while true do pcall(function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do pcall(string.rep, 'x', -1) end",
        "local x <close> = setmetatable({}, {__close = function() while true do end end})",
        "io.read('a')",
    ] {
        let (_theirs, ours) = tokio::io::duplex(1);
        let script = Script::new(code)
            .with_timeout(Duration::from_millis(300))
            .with_stdin(bioxen_vm_core::Input::stream(ours));
        assert_eq!(run(&lab, script).await.status, Status::TimedOut, "{code}");
    }
    assert!(run(&lab, "print(1)").await.success());
    lab.vm.stop().await.unwrap();
    all_ended().await;
}

/// Waits for the threads to be gone; the time limit of the test ends the wait.
async fn all_ended() {
    while threads() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_function_of_c_that_does_not_return_is_not_waited_for() {
    let lab = Lab::in_process().await;
    // It takes some seconds, and then its thread ends, too.
    let code = "string.find(('a'):rep(3000), ('.-'):rep(3) .. 'b')";
    let script = Script::new(code).with_timeout(Duration::from_millis(50));
    assert_eq!(run(&lab, script).await.status, Status::TimedOut);
    assert!(run(&lab, "print(1)").await.success());
}

#[tokio::test]
async fn a_dropped_execution_and_a_dropped_vm_end_their_programs() {
    let lab = Lab::in_process().await;
    let (mut sink, mut pieces) = bioxen_vm_core::channel(1);
    let endless = "print('on') io.stdout:flush() while true do end";
    tokio::select! {
        _ = lab.vm.execute_streaming(endless.into(), &mut sink) => panic!("it ended by itself"),
        piece = pieces.recv() => assert_eq!(piece.unwrap().1, "on\n"),
    }
    drop(lab);
    all_ended().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_to_the_program_alone() {
    let config = BasicConfig::default()
        .with_in_process(true)
        .with_memory(32 << 20);
    let lab = Lab::new(config).await;
    for code in [
        "local s = ('x'):rep(64 << 20)",
        "local t = {} for i = 1, 1e9 do t[i] = i end",
    ] {
        let outcome = run(&lab, code).await;
        assert_eq!(outcome.status, Status::OutOfMemory, "{code}");
        assert_eq!(outcome.stderr_text(), "lua: not enough memory\n", "{code}");
    }
    assert!(run(&lab, "print(1)").await.success());
}
