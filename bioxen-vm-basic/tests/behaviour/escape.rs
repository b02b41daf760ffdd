//! What a hostile program tries, and what becomes of it: it is stopped, and nobody else notices.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bioxen_vm_basic::{BasicConfig, Walls};
use bioxen_vm_core::{Answer, Command, ErrorKind, LuaVm, Outcome, Script, SessionOptions, Status};

use crate::support::{Lab, create, ended, groups_named, runs, somebody_below, workers_of};

async fn run(lab: &Lab, script: impl Into<Script>) -> Outcome {
    lab.vm.execute(script.into()).await.unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Whether another VM and this process do as before.
async fn unharmed(neighbour: &Lab) {
    let outcome = run(neighbour, "print(io.open('own'):read())").await;
    assert_eq!(outcome.stdout_text(), "kept\n", "{}", outcome.stderr_text());
}

async fn neighbour() -> Lab {
    let lab = Lab::built_in().await;
    let kept = run(&lab, "io.open('own', 'w'):write('kept'):close()").await;
    assert!(kept.success(), "{}", kept.stderr_text());
    lab
}

#[tokio::test]
async fn all_walls_stand_on_a_kernel_that_has_them() {
    for lab in Lab::both().await {
        let isolation = lab.vm.isolation();
        for name in ["files", "network", "processes", "system calls"] {
            let wall = isolation.wall(name).unwrap();
            assert!(wall.stands, "{wall:?}");
            assert!(!wall.detail.is_empty());
        }
    }
    let required = BasicConfig::default().with_walls(Walls::Required);
    Lab::new(required).await;
}

#[tokio::test]
async fn walls_that_are_switched_off_are_said_to_be() {
    let lab = Lab::new(BasicConfig::default().with_walls(Walls::Off)).await;
    let wall = lab.vm.isolation().wall("files").unwrap().clone();
    assert!(
        !wall.stands && wall.detail.contains("configuration"),
        "{wall:?}"
    );
    let outcome = run(&lab, "print(io.open('/etc/passwd') ~= nil)").await;
    assert_eq!(outcome.stdout_text(), "true\n");
}

#[tokio::test]
async fn files_outside_of_the_vm_can_neither_be_read_nor_written() {
    let neighbour = neighbour().await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    for lab in Lab::both().await {
        let own = neighbour.home().join("own");
        for path in [
            secret.path(),
            &own,
            "/proc/self/environ".as_ref(),
            "/etc/shadow".as_ref(),
        ] {
            for mode in ["r", "w", "a", "r+"] {
                let code = "local file, problem = io.open(...) print(file, problem)";
                let script = Script::new(code).arg(text(path)).arg(mode);
                let outcome = run(&lab, script).await;
                let text = outcome.stdout_text();
                assert!(
                    text.starts_with("nil\t"),
                    "{} {mode}: {text}",
                    path.display()
                );
            }
            let code = "print((os.remove(...))) print((os.rename(..., 'mine')))";
            let script = Script::new(code).arg(text(path));
            assert_eq!(run(&lab, script).await.stdout_text(), "nil\nnil\n");
        }
        let planted = lab.base.path().join("planted");
        let script = Script::new("print((io.open(..., 'w')))").arg(text(&planted));
        assert_eq!(run(&lab, script).await.stdout_text(), "nil\n");
        assert!(!planted.exists());
    }
    assert_eq!(std::fs::read(secret.path()).unwrap(), b"secret");
    unharmed(&neighbour).await;
}

#[tokio::test]
async fn folders_that_are_named_are_open_and_no_wider_than_said() {
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("data"), "ACGT").unwrap();
    let given = tempfile::tempdir().unwrap();
    let config = BasicConfig::default()
        .with_read(shared.path())
        .with_write(given.path());
    for lab in Lab::both_with(config).await {
        let code = "local read, write = ... print(io.open(read .. '/data'):read('a')) \
                    print((io.open(read .. '/data', 'w'))) \
                    io.open(write .. '/out', 'w'):write('x'):close() \
                    print(os.rename(write .. '/out', write .. '/renamed'))";
        let script = Script::new(code)
            .arg(text(shared.path()))
            .arg(text(given.path()));
        let outcome = run(&lab, script).await;
        assert_eq!(
            outcome.stdout_text(),
            "ACGT\nnil\ntrue\n",
            "{}",
            outcome.stderr_text()
        );
        assert!(given.path().join("renamed").is_file());
    }
}

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
    let neighbour = neighbour().await;
    let config = BasicConfig::default().with_processes(true);
    for lab in Lab::both_with(config).await {
        let bomb = "os.execute([[f() { f | f & }; i=0; while [ $i -lt 40 ]; do i=$((i+1)); \
                    (setsid sleep 3600 &) ; done; while true; do (sleep 3600 &); sleep 0.01; done]])";
        let script = Script::new(bomb).with_timeout(Duration::from_secs(1));
        assert_eq!(run(&lab, script).await.status, Status::TimedOut);
        unharmed(&neighbour).await;
        assert!(run(&lab, "print(1)").await.success());
    }
}

#[tokio::test]
async fn a_storm_of_processes_ends_with_their_number() {
    let neighbour = neighbour().await;
    let config = BasicConfig::default()
        .with_processes(true)
        .with_max_processes(30);
    for lab in Lab::both_with(config).await {
        for bomb in [
            "for i = 1, 100 do os.execute('sleep 3600 &') end os.execute('sleep 3600')",
            "for i = 1, 100 do os.execute('setsid sleep 3600 &') end while true do end",
        ] {
            assert_eq!(run(&lab, bomb).await.status, Status::ProcessLimit, "{bomb}");
            // What is killed may take a moment to go.
            while let Some(pid) = somebody_below(lab.base.path()) {
                ended(pid).await;
            }
            unharmed(&neighbour).await;
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
    let neighbour = neighbour().await;
    let config = BasicConfig::default()
        .with_processes(true)
        .with_max_processes(30);
    for lab in Lab::both_with(config).await {
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
        unharmed(&neighbour).await;
        assert!(run(&lab, "print(1)").await.success());
    }
}

#[tokio::test]
async fn a_session_whose_processes_double_ends_with_all_of_them() {
    let neighbour = neighbour().await;
    let config = BasicConfig::default()
        .with_processes(true)
        .with_max_processes(30);
    for lab in Lab::both_with(config).await {
        let session = lab.vm.open_session(SessionOptions::default()).await;
        let code = format!("os.execute([[{DOUBLING}]])");
        let reply = session.unwrap().eval(code).await.unwrap();
        assert!(matches!(reply.answer, Answer::Ended(_)), "{reply:?}");
        unharmed(&neighbour).await;
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
async fn many_files_cannot_fill_the_disk() {
    let neighbour = neighbour().await;
    let config = BasicConfig::default().with_disk(8 << 20);
    for lab in Lab::both_with(config).await {
        let code = "local i, s = 0, ('x'):rep(1 << 16) while true do i = i + 1 \
                    local file = assert(io.open((os.getenv('TMPDIR') .. '/' .. i), 'w')) \
                    file:write(s) file:close() end";
        let outcome = run(&lab, code).await;
        assert_eq!(outcome.status, Status::DiskLimit, "{outcome:?}");
        unharmed(&neighbour).await;
        // What is there stays, and the next program can work, and make room.
        let room = "local t = os.clock() while os.clock() - t < 0.3 do end \
                    for i = 1, math.huge do if not os.remove(os.getenv('TMPDIR') .. '/' .. i) \
                    then break end end io.open('small', 'w'):write('x'):close()";
        let outcome = run(&lab, room).await;
        assert!(outcome.success(), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_session_that_fills_the_disk_ends() {
    let neighbour = neighbour().await;
    let config = BasicConfig::default().with_disk(8 << 20);
    for lab in Lab::both_with(config).await {
        let session = lab
            .vm
            .open_session(SessionOptions::default())
            .await
            .unwrap();
        let code =
            "local file = io.open('large', 'w') while true do file:write(('x'):rep(1 << 16)) end";
        let reply = session.eval(code).await.unwrap();
        assert!(matches!(reply.answer, Answer::Ended(_)), "{reply:?}");
        unharmed(&neighbour).await;
        assert!(run(&lab, "os.remove('large')").await.success());
    }
}

#[tokio::test]
async fn ten_gigabytes_of_memory_are_refused() {
    let neighbour = neighbour().await;
    let config = BasicConfig::default().with_memory(64 << 20);
    for lab in Lab::both_with(config).await {
        for code in [
            "local t = {} for i = 1, 10240 do t[i] = ('x'):rep(1 << 20) .. i end",
            "local t = {} for i = 1, 10 do t[i] = ('x'):rep(1 << 30) end",
            "local t = {} for i = 1, 1e10 do t[i] = {} end",
        ] {
            let outcome = run(&lab, code).await;
            let text = outcome.stderr_text();
            assert_eq!(outcome.status, Status::OutOfMemory, "{code}: {text}");
        }
        unharmed(&neighbour).await;
    }
}

#[tokio::test]
async fn ten_gigabytes_of_output_take_no_memory_of_ours() {
    let neighbour = neighbour().await;
    let lab = Lab::built_in().await;
    let code = "local s = ('x'):rep(1 << 20) for _ = 1, 10240 do io.write(s) end";
    let script = Script::new(code)
        .with_max_output(1 << 20)
        .with_timeout(Duration::from_secs(1));
    let outcome = run(&lab, script).await;
    assert!(outcome.stdout_truncated);
    assert_eq!(outcome.stdout.len(), 1 << 20);
    unharmed(&neighbour).await;
}

#[tokio::test]
async fn endless_loops_end_with_their_time_wherever_they_are() {
    let neighbour = neighbour().await;
    for lab in Lab::both().await {
        for code in [
            "while true do pcall(function() while true do end end) end",
            "coroutine.wrap(function() while true do end end)()",
            "string.find(('a'):rep(1e5), ('.-'):rep(50) .. 'b')",
            "while true do pcall(string.rep, 'x', -1) end",
            "setmetatable({}, {__gc = function() while true do end end})",
            "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) \
             while true do pcall(function() return t[1] end) end",
        ] {
            let script = Script::new(code).with_timeout(Duration::from_millis(300));
            assert_eq!(run(&lab, script).await.status, Status::TimedOut, "{code}");
        }
        unharmed(&neighbour).await;
    }
}

#[tokio::test]
async fn processor_time_that_is_used_up_is_told_apart() {
    let config = BasicConfig::default().with_cpu_time(Duration::from_secs(1));
    for lab in Lab::both_with(config).await {
        assert!(run(&lab, "print(1)").await.success());
        let outcome = run(&lab, "while true do end").await;
        assert_eq!(outcome.status, Status::CpuLimit);
        assert!(run(&lab, "print(1)").await.success());
    }
}

#[tokio::test]
async fn bytecode_is_refused_by_every_way_in() {
    let lab = Lab::built_in().await;
    let code = r"
        local bytecode = string.dump(function() return 'ran' end)
        io.open('b.lua', 'wb'):write(bytecode):close()
        package.path = './?.lua'
        for _, way in ipairs{
          function() return assert(load(bytecode))() end,
          function() return assert(load(bytecode, 'b', 'b'))() end,
          function() return assert(load(bytecode, 'b', 'bt'))() end,
          function() local done return assert(load(function()
            if not done then done = true return bytecode end end))() end,
          function() return assert(loadfile('b.lua', 'b'))() end,
          function() return dofile('b.lua') end,
          function() return require('b') end,
          function() return package.searchers[2]('b')() end,
        } do
          local ok, problem = pcall(way)
          print(ok, tostring(problem):match('binary chunk'))
        end
        print(load('return 1', 'text', 'bt')())";
    let outcome = run(&lab, code).await;
    assert_eq!(
        outcome.stdout_text(),
        "false\tbinary chunk\n".repeat(8) + "1\n",
        "{}",
        outcome.stderr_text()
    );
}

#[tokio::test]
async fn a_program_cannot_signal_this_process() {
    let config = BasicConfig::default().with_processes(true);
    for lab in Lab::both_with(config).await {
        let own = std::process::id();
        let code = format!("print((os.execute('kill -s KILL {own} 2>/dev/null')))");
        let outcome = run(&lab, code).await;
        assert_eq!(outcome.stdout_text(), "nil\n", "{}", outcome.stderr_text());
    }
}

#[tokio::test]
async fn a_file_cannot_fill_the_disk() {
    let config = BasicConfig::default().with_file_size(1 << 20);
    for lab in Lab::both_with(config).await {
        let code = "local file = io.open('large', 'w') file:setvbuf('no') \
                    local s, problem = ('x'):rep(1 << 16) \
                    for _ = 1, 1000 do local ok; ok, problem = file:write(s) \
                    if not ok then break end end print(problem) file:close()";
        let outcome = run(&lab, code).await;
        assert_eq!(
            outcome.stdout_text(),
            "File too large\n",
            "{}",
            outcome.stderr_text()
        );
        let size = lab.home().join("large").metadata().unwrap().len();
        assert_eq!(size, 1 << 20);
    }
}

/// Connects in a shell, which the programs of these VMs can start.
const CONNECT: &str = "print((os.execute(\"bash -c 'exec 3<>/dev/tcp/127.0.0.1/\" .. ... .. \"' \
                       2>/dev/null\")))";

#[tokio::test]
async fn no_socket_can_be_opened_unless_that_is_allowed() {
    let neighbour = neighbour().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let config = BasicConfig::default().with_processes(true);
    for lab in Lab::both_with(config.clone()).await {
        let script = Script::new(CONNECT).arg(port.clone());
        assert_eq!(run(&lab, script).await.stdout_text(), "nil\n");
        unharmed(&neighbour).await;
    }
    for lab in Lab::both_with(config.with_network(true)).await {
        let script = Script::new(CONNECT).arg(port.clone());
        let outcome = run(&lab, script).await;
        assert_eq!(outcome.stdout_text(), "true\n", "{}", outcome.stderr_text());
    }
}

#[tokio::test]
async fn nothing_of_a_program_stays_for_the_next_one() {
    let lab = Lab::built_in().await;
    for code in [
        "x = 1; string.rep = nil; getmetatable('').__index = nil",
        "io.stdout:setvbuf('no') io.write('unflushed')",
        "os.setlocale('C.UTF-8')",
        "io.read(1)",
        "io.output('file') io.input('file')",
        "debug.getmetatable('').__index.upper = nil",
        "collectgarbage('stop') warn('@on')",
        "package.loaded.string = 1 package.path = ''",
        "error('boom')",
        "os.exit(3)",
        "setmetatable({}, {__gc = function() io.write('late') end})",
    ] {
        run(&lab, Script::new(code).with_stdin("abc\n".repeat(10_000))).await;
        let check = "warn('no') print(x, string.rep ~= nil, #('x'):upper(), os.setlocale(), \
                     package.path ~= '', io.read())";
        let outcome = run(&lab, Script::new(check).with_stdin("own\n")).await;
        assert_eq!(
            outcome.stdout_text(),
            "nil\ttrue\t1\tC\ttrue\town\n",
            "after {code}"
        );
        assert_eq!(outcome.stderr_text(), "", "after {code}");
    }
}

#[tokio::test]
async fn random_numbers_differ_from_one_program_to_the_next() {
    let lab = Lab::built_in().await;
    let code = "print(math.random(0))";
    let first = run(&lab, code).await.stdout;
    assert_ne!(run(&lab, code).await.stdout, first);
}

#[tokio::test]
async fn temporary_files_are_those_of_the_vm() {
    let lab = Lab::built_in().await;
    let code = "local name = os.tmpname() print(name:find(os.getenv('TMPDIR'), 1, true)) \
                local file = io.tmpfile() file:write('x') file:seek('set') print(file:read('a'))";
    let outcome = run(&lab, code).await;
    let text = outcome.stdout_text();
    assert!(
        text.starts_with("1\t") && text.ends_with("\nx\n"),
        "{text}{}",
        outcome.stderr_text()
    );
}

#[tokio::test]
async fn with_fresh_process_no_process_runs_two_programs() {
    let config = BasicConfig::default()
        .with_fresh_process(true)
        .with_processes(true);
    for lab in Lab::both_with(config).await {
        let code = "print(io.popen('echo $PPID'):read())";
        let first = run(&lab, code).await.stdout;
        assert_ne!(run(&lab, code).await.stdout, first);
    }
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
async fn a_relative_folder_is_refused() {
    let config = BasicConfig::default().with_read("data");
    let error = bioxen_vm_basic::BasicBackend::new(config).unwrap_err();
    assert!(error.to_string().contains("begin it with /"), "{error}");
    create(BasicConfig::default()).await;
}
