//! What a hostile program tries with processes, signals and sockets.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{Answer, Command, ErrorKind, Script, SessionOptions, Status};

use super::neighbours::Neighbours;
use super::run;
use crate::support::{Lab, ended, groups_named, runs, somebody_below, workers_of};

#[tokio::test]
async fn no_program_can_be_started_unless_that_is_allowed() {
    let lab = Lab::built_in().await;
    for call in ["os.execute('true')", "io.popen('true')"] {
        let outcome = run(&lab, call).await;
        assert_eq!(outcome.exit_code(), Some(1));
        let text = outcome.stderr_text();
        assert!(text.contains("processes = true"), "{text}");
    }
    assert_eq!(
        run(&lab, "print(os.execute())").await.stdout_text(),
        "false\n"
    );
    // An interpreter of this machine tries, and the kernel refuses.
    let lab = Lab::new(BasicConfig::default().with_lua_executable("lua5.4")).await;
    let outcome = run(&lab, "print((os.execute('touch made')))").await;
    assert_eq!(outcome.stdout_text(), "nil\n");
    assert!(!lab.home().join("made").exists());
}

#[tokio::test]
async fn a_fork_bomb_ends_with_its_time() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default().with_processes(true);
    for lab in neighbours.both_with(config).await {
        let bomb = "os.execute([[f() { f | f & }; i=0; while [ $i -lt 40 ]; do i=$((i+1)); \
                    (setsid sleep 3600 &) ; done; while true; do (sleep 3600 &); sleep 0.01; done]])";
        let script = Script::new(bomb).with_timeout(Duration::from_secs(1));
        assert_eq!(run(&lab, script).await.status, Status::TimedOut);
        neighbours.unharmed().await;
        assert!(run(&lab, "print(1)").await.success());
    }
}

#[tokio::test]
async fn a_storm_of_processes_ends_with_their_number() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default()
        .with_processes(true)
        .with_max_processes(30);
    for lab in neighbours.both_with(config).await {
        for bomb in [
            "for i = 1, 100 do os.execute('sleep 3600 &') end os.execute('sleep 3600')",
            "for i = 1, 100 do os.execute('setsid sleep 3600 &') end while true do end",
        ] {
            assert_eq!(run(&lab, bomb).await.status, Status::ProcessLimit, "{bomb}");
            // What is killed may take a moment to go.
            while let Some(pid) = somebody_below(lab.base.path()) {
                ended(pid).await;
            }
            neighbours.unharmed().await;
        }
        // The kernel has a number too, which it counts for users other than root.
        let counted = "print(io.popen([[bash -c 'ulimit -u']]):read())";
        let counted = run(&lab, counted).await.stdout_text().trim().parse();
        let ours = std::process::Command::new("bash")
            .args(["-c", "ulimit -u"])
            .output()
            .unwrap();
        let ours = String::from_utf8(ours.stdout).unwrap().trim().parse();
        let counted: u64 = counted.unwrap();
        assert!(
            counted >= 30 && counted < ours.unwrap_or(u64::MAX),
            "{counted}"
        );
        let modest = "for i = 1, 20 do os.execute('sleep 0.3 &') end os.execute('sleep 0.3')";
        assert!(run(&lab, modest).await.success());
    }
}

/// Doubles its processes as fast as it can; ends by itself after twelve times, so that it stays
/// harmless where nothing holds it.
const DOUBLING: &str =
    "f() { [ $1 = 0 ] || { f $(($1 - 1)) & f $(($1 - 1)) & }; sleep 3600; }; f 12";

#[tokio::test]
async fn processes_that_double_are_held_by_the_kernel_also_those_of_root() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default()
        .with_processes(true)
        .with_max_processes(30);
    for lab in neighbours.both_with(config).await {
        let wall = lab.vm.isolation().wall("process count").unwrap().clone();
        let holds = if Path::new("/sys/fs/cgroup").is_dir() {
            "control group"
        } else {
            "root"
        };
        assert!(wall.detail.contains(holds), "{wall:?}");
        let script = Script::new("os.execute((...))").arg(DOUBLING);
        let grown = async {
            while peak(&lab) <= 30 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let counted = wall.detail == "control group";
        let (outcome, ()) = tokio::join!(run(&lab, script), async {
            if counted {
                grown.await;
            }
        });
        assert_eq!(outcome.status, Status::ProcessLimit, "{outcome:?}");
        assert!(peak(&lab) <= 1030, "{}", peak(&lab));
        while let Some(pid) = somebody_below(lab.base.path()) {
            ended(pid).await;
        }
        neighbours.unharmed().await;
        assert!(run(&lab, "print(1)").await.success());
    }
}

#[tokio::test]
async fn a_session_whose_processes_double_ends_with_all_of_them() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default()
        .with_processes(true)
        .with_max_processes(30);
    for lab in neighbours.both_with(config).await {
        let session = lab.vm.open_session(SessionOptions::default()).await;
        // A shell that cannot fork ends at once, and may be faster than those who hold it; the outer one
        // does not fork again, so that the chunk is still there.
        let code = format!("os.execute([[({DOUBLING}); while :; do :; done]])");
        let reply = session.unwrap().eval(code).await.unwrap();
        assert!(matches!(reply.answer, Answer::Ended(_)), "{reply:?}");
        neighbours.unharmed().await;
        while let Some(pid) = somebody_below(lab.base.path()) {
            ended(pid).await;
        }
        assert!(run(&lab, "print(1)").await.success());
    }
}

#[tokio::test]
async fn the_control_group_of_a_vm_goes_with_it() {
    let config = BasicConfig::default().with_processes(true);
    let lab = Lab::new(config).await;
    let wall = lab.vm.isolation().wall("process count").unwrap().clone();
    if wall.detail != "control group" {
        assert!(
            !wall.stands || wall.detail == "the count of this user",
            "{wall:?}"
        );
        return;
    }
    assert!(run(&lab, "os.execute('true')").await.success());
    assert!(!groups_of(&lab).is_empty());
    // A worker that others take the place of leaves none.
    for _ in 0..5 {
        assert!(run(&lab, "os.execute('true')").await.success());
    }
    let groups = groups_of(&lab);
    assert!(groups.len() < 5, "{groups:?}");
    lab.vm.destroy().await.unwrap();
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

/// The control groups of a VM's workers.
fn groups_of(lab: &Lab) -> Vec<PathBuf> {
    let name = lab.home().parent().unwrap().file_name().unwrap().to_owned();
    groups_named(name.to_str().unwrap())
}

/// The most processes and threads that a worker of a VM has had, as far as it can be seen.
fn peak(lab: &Lab) -> u64 {
    let peaks = groups_of(lab).into_iter().filter_map(|group| {
        let peak = std::fs::read_to_string(group.join("pids.peak")).ok()?;
        peak.trim().parse().ok()
    });
    peaks.max().unwrap_or(0)
}

#[tokio::test]
async fn a_program_cannot_signal_this_process() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default().with_processes(true);
    for lab in neighbours.both_with(config).await {
        let own = std::process::id();
        let code = format!("print((os.execute('kill -s KILL {own} 2>/dev/null')))");
        let outcome = run(&lab, code).await;
        assert_eq!(outcome.stdout_text(), "nil\n", "{}", outcome.stderr_text());
    }
    neighbours.unharmed().await;
}

/// Connects in a shell, which the programs of these VMs can start.
const CONNECT: &str = "print((os.execute(\"bash -c 'exec 3<>/dev/tcp/127.0.0.1/\" .. ... .. \"' \
                       2>/dev/null\")))";

#[tokio::test]
async fn no_socket_can_be_opened_unless_that_is_allowed() {
    let mut neighbours = Neighbours::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let config = BasicConfig::default().with_processes(true);
    for lab in neighbours.both_with(config.clone()).await {
        let script = Script::new(CONNECT).arg(port.clone());
        assert_eq!(run(&lab, script).await.stdout_text(), "nil\n");
        neighbours.unharmed().await;
    }
    for lab in neighbours.both_with(config.with_network(true)).await {
        let script = Script::new(CONNECT).arg(port.clone());
        let outcome = run(&lab, script).await;
        assert_eq!(outcome.stdout_text(), "true\n", "{}", outcome.stderr_text());
    }
}

#[tokio::test]
async fn the_walls_do_not_stand_in_the_way_of_a_package_manager() {
    let lab = Lab::built_in().await;
    let site = lab.vm.package_site().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && cat /etc/hostname >/dev/null");
    let outcome = site
        .runner
        .run(Command::new("bash").args(["-c", &connect]))
        .await;
    assert!(outcome.unwrap().success());
}

#[tokio::test]
async fn idle_processes_go_with_their_vm() {
    for lab in Lab::both().await {
        run(&lab, "print(1)").await;
        let workers = workers_of(&lab);
        assert!(!workers.is_empty());
        lab.vm.stop().await.unwrap();
        assert!(workers.into_iter().all(|pid| !runs(pid)));
        let error = lab.vm.execute("print(1)".into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState);
    }
}
