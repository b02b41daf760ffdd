//! Whatever ends an execution ends everything that the program started, wherever it has gone.

use std::path::Path;
use std::time::Duration;

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{Command, ErrorKind, Script, Status};

use crate::support::{Lab, ended, runs, somebody_below};

/// How many processes [`ESCAPE`] makes.
pub(crate) const ESCAPED: usize = 4;

/// A shell script that starts what is hard to end: a daemon of a session of its own whose parent
/// is gone and that ignores what can be ignored, the same with hold of the output, one below
/// another in the group, and one that stands still. It ends when all of them have noted their ids.
pub(crate) const ESCAPE: &str = r#"
(setsid sh -c 'trap "" TERM HUP INT; echo $$ >> pids; exec sleep 3600' >/dev/null 2>&1 </dev/null &)
(setsid sh -c 'trap "" TERM HUP INT; (setsid sh -c "echo \$\$ >> pids; exec sleep 3600" &)' &)
sh -c 'trap "" TERM; sh -c "echo \$\$ >> pids; exec sleep 3600"; true' &
(setsid sh -c 'echo $$ >> pids; kill -s STOP $$; exec sleep 3600' &)
until [ "$(wc -l 2>/dev/null < pids || echo 0)" -ge 4 ]; do sleep 0.01; done
"#;

/// The ids in the file, which is removed.
fn noted(home: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(home.join("pids")).unwrap();
    std::fs::remove_file(home.join("pids")).unwrap();
    let pids: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(pids.len() >= ESCAPED, "{pids:?}");
    pids
}

/// Lua that runs the script above, and then this.
fn escape(then: &str) -> String {
    format!("local function escape() os.execute([==[{ESCAPE}]==]) end {then}")
}

#[tokio::test]
async fn nothing_is_left_when_a_program_ends_by_itself() {
    for lab in Lab::both_with_processes().await {
        for (then, status) in [
            ("escape()", Status::Exited(0)),
            ("escape() error('boom')", Status::Exited(1)),
            ("escape() os.exit(7)", Status::Exited(7)),
            ("escape() os.exit(true, true)", Status::Exited(0)),
            ("setmetatable({}, {__gc = escape})", Status::Exited(0)),
            (
                "setmetatable({}, {__gc = escape}) os.exit(3, true)",
                Status::Exited(3),
            ),
        ] {
            let outcome = lab.vm.execute(escape(then).into()).await.unwrap();
            assert_eq!(outcome.status, status, "{then}: {}", outcome.stderr_text());
            // They have ended already, and need not be waited for.
            for pid in noted(&lab.home()) {
                assert!(!runs(pid), "{then}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_program_that_runs_out_of_time() {
    for lab in Lab::both_with_processes().await {
        let code = escape("escape() io.write('on') io.stdout:flush() while true do end");
        let script = Script::new(code).with_timeout(Duration::from_secs(4));
        let outcome = lab.vm.execute(script).await.unwrap();
        assert_eq!(outcome.status, Status::TimedOut);
        assert_eq!(outcome.stdout_text(), "on");
        for pid in noted(&lab.home()) {
            ended(pid).await;
        }
    }
}

/// Waits until the script above has noted all.
async fn all_noted(home: &Path) {
    let count = |text: String| text.lines().count();
    while !std::fs::read_to_string(home.join("pids")).is_ok_and(|text| count(text) >= ESCAPED) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_program_that_nobody_waits_for_any_more() {
    for lab in Lab::both_with_processes().await {
        let home = lab.home();
        tokio::select! {
            _ = lab.vm.execute(escape("escape() while true do end").into()) => panic!("it ended"),
            () = all_noted(&home) => {}
        }
        for pid in noted(&home) {
            ended(pid).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_left_when_a_vm_stops_or_is_destroyed() {
    for lab in Lab::both_with_processes().await {
        let home = lab.home();
        let (outcome, pids) = tokio::join!(
            lab.vm.execute(escape("escape() while true do end").into()),
            async {
                all_noted(&home).await;
                let pids = noted(&home);
                lab.vm.stop().await.unwrap();
                pids
            }
        );
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
        for pid in pids {
            ended(pid).await;
        }

        lab.vm.start().await.unwrap();
        let (_, pids) = tokio::join!(
            lab.vm.execute(escape("escape() while true do end").into()),
            async {
                all_noted(&home).await;
                let pids = noted(&home);
                lab.vm.destroy().await.unwrap();
                pids
            }
        );
        for pid in pids {
            ended(pid).await;
        }
        assert_eq!(std::fs::read_dir(lab.base.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn the_least_memory_is_enough_to_end_everything() {
    let config = BasicConfig::default()
        .with_processes(true)
        .with_memory(1 << 20);
    for config in [config.clone(), config.with_lua_executable("lua5.4")] {
        let lab = Lab::new(config).await;
        let code = escape("escape() local t = {} for i = 1, 1e9 do t[i] = 'text ' .. i end");
        let outcome = lab.vm.execute(code.into()).await.unwrap();
        assert_eq!(outcome.stderr_text(), "lua: not enough memory\n");
        for pid in noted(&lab.home()) {
            assert!(!runs(pid));
        }
    }
}

#[tokio::test]
async fn commands_of_a_package_manager_leave_nothing_either() {
    let lab = Lab::built_in().await;
    let site = lab.vm.package_site().await.unwrap();
    let command = Command::new("sh").args(["-c", &format!("{ESCAPE} exit 5")]);
    let outcome = site.runner.run(command).await.unwrap();
    assert_eq!(
        outcome.status,
        Status::Exited(5),
        "{}",
        outcome.stderr_text()
    );
    for pid in noted(&lab.home()) {
        assert!(!runs(pid));
    }
    let missing = site.runner.run(Command::new("no-such-program")).await;
    let missing = missing.unwrap();
    assert_eq!(missing.exit_code(), Some(127));
    assert!(missing.stderr_text().contains("no-such-program"));
}

/// A process that starts its successor, in a session of its own, and ends: there is never one that
/// lives for long.
const HOP: &str = r#"
printf '#!/bin/sh\n[ -e stop ] || { echo $$ > hop.new; mv hop.new hop; setsid ./hop.sh & }\n' > hop.sh
chmod +x hop.sh
for i in 1 2 3 4 5 6 7 8; do ./hop.sh </dev/null >/dev/null 2>&1 & done
until [ -e hop ]; do sleep 0.01; done
"#;

#[tokio::test]
async fn processes_that_replace_themselves_all_the_time_are_caught() {
    for lab in Lab::both_with_processes().await {
        let home = lab.home();
        for then in ["", "while true do end"] {
            let mut script = Script::new(format!("os.execute([==[{HOP}]==]) {then}"));
            let mut expected = Status::Exited(0);
            if !then.is_empty() {
                script = script.with_timeout(Duration::from_secs(1));
                expected = Status::TimedOut;
            }
            let outcome = lab.vm.execute(script).await.unwrap();
            assert_eq!(outcome.status, expected, "{}", outcome.stderr_text());
            if let Some(left) = somebody_left(&home).await {
                std::fs::write(home.join("stop"), "").unwrap();
                panic!("{left} is left after {expected}");
            }
            // It is there unless time was up before.
            let _ = std::fs::remove_file(home.join("hop"));
        }
    }
}

/// A process in this directory, after those that have been killed have had time to end.
async fn somebody_left(dir: &Path) -> Option<i32> {
    for _ in 0..50 {
        somebody_below(dir)?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    somebody_below(dir)
}

#[tokio::test]
async fn a_storm_of_processes_is_ended() {
    for lab in Lab::both_with_processes().await {
        let code = "os.execute([==[for i in 1 2 3 4 5 6 7 8 9 10; do \
                    (setsid sh -c 'for j in 1 2 3 4 5 6 7 8 9 10; do \
                    (setsid sleep 3600 >/dev/null 2>&1 &); done; sleep 3600' >/dev/null 2>&1 &) \
                    done]==]) while true do os.execute('setsid sleep 3600 >/dev/null 2>&1 &') end";
        let script = Script::new(code).with_timeout(Duration::from_secs(1));
        let outcome = lab.vm.execute(script).await.unwrap();
        // Which limit it meets first is a matter of the machine.
        let limits = [Status::TimedOut, Status::ProcessLimit];
        assert!(limits.contains(&outcome.status), "{:?}", outcome.status);
        assert_eq!(somebody_left(&lab.home()).await, None);
    }
}

#[tokio::test]
async fn a_program_that_ends_by_a_signal_is_told_apart() {
    for (lab, signal) in Lab::both_with_processes().await.into_iter().zip([9, 11]) {
        let code = format!("os.execute('kill -s {signal} $PPID') print('never')");
        let outcome = lab.vm.execute(code.into()).await.unwrap();
        assert_eq!(outcome.status, Status::Signaled(signal));
        assert_eq!(outcome.stdout_text(), "");
    }
}
