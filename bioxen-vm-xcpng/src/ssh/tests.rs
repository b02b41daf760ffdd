//! The folder against a real sshd, started for each test on a port of its own.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::lua::WarmInterpreters;
use bioxen_vm_core::{Command, ErrorKind, Gather, Input, Outcome, Runner, Script, Status, channel};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

use super::*;

struct Server {
    dir: TempDir,
    target: SshTarget,
    sshd: Child,
}

impl Server {
    async fn start() -> Self {
        Self::whose_commands_see("").await
    }

    /// One with more variables for commands, as sshd_config has them.
    async fn whose_commands_see(variables: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (client, host) = (
            KeyPair::generate("client").unwrap(),
            KeyPair::generate("host").unwrap(),
        );
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("authorized_keys"), client.public()).unwrap();
        fs::write(path("host_key"), host.expose_private()).unwrap();
        set_mode(Path::new(&path("host_key")), 0o600);
        fs::create_dir(path("run")).unwrap();
        // Only root's sshd needs it, and only root can make it.
        let _ = fs::create_dir_all("/run/sshd");
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\n\
             PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nSetEnv HOME={} {variables}\n",
            path("host_key"),
            path("authorized_keys"),
            // What the user's shell does at a login is not what these tests are about.
            path("home"),
        );
        fs::write(path("config"), config).unwrap();
        let sshd = listen(Path::new(&path("config"))).await;
        let target = SshTarget::new(
            IpAddr::from([127, 0, 0, 1]),
            user().await,
            Identity::Key(client.private().clone()),
            HostKey::Pinned(host.public().to_owned()),
        )
        .with_port(port)
        .with_runtime_dir(dir.path().join("run"));
        Self { dir, target, sshd }
    }

    /// Starts sshd again.
    async fn listen(&mut self) {
        self.sshd = listen(&self.dir.path().join("config")).await;
    }

    fn session(&self) -> Arc<SshSession> {
        Arc::new(SshSession::new(self.target.clone()))
    }

    fn runner(&self) -> SshRunner {
        SshRunner::new(self.session())
    }

    /// The private directories of connections that are there now.
    fn connections(&self) -> usize {
        fs::read_dir(self.dir.path().join("run")).unwrap().count()
    }
}

async fn listen(config: &Path) -> Child {
    let mut sshd = tokio::process::Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(sshd.stderr.take().unwrap()).lines();
    while !lines
        .next_line()
        .await
        .unwrap()
        .unwrap()
        .contains("listening")
    {}
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    sshd
}

async fn user() -> String {
    let outcome = LocalRunner::new()
        .run(Command::new("id").arg("-un"))
        .await
        .unwrap();
    outcome.stdout_text().trim().to_owned()
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

/// What two outcomes of one command must agree in.
fn essence(outcome: &Outcome) -> (Status, Vec<u8>, Vec<u8>, bool, bool) {
    (
        outcome.status,
        outcome.stdout.to_vec(),
        outcome.stderr.to_vec(),
        outcome.stdout_truncated,
        outcome.stderr_truncated,
    )
}

/// Waits for something outside this process; the test's own time limit ends the wait.
async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process exists and is no zombie.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('Z')
    })
}

#[tokio::test]
async fn commands_end_as_they_do_on_this_machine() {
    let server = Server::start().await;
    let (here, there) = (LocalRunner::new(), server.runner());
    let commands = [
        sh("echo out; echo err >&2; exit 7"),
        sh("exit 137"),
        sh("exit 255"),
        sh("exit 127"),
        sh("kill -9 $$"),
        sh("kill -TERM $$"),
        sh("kill -SEGV $$"),
        sh("printf '\\377\\000\\n\\n' ; printf 'no end' >&2"),
        sh("cat; printf '|%s|' \"$@\"")
            .args([
                "sh",
                "a b",
                "",
                "-n",
                "$(id)",
                "new\nline\n",
                "back\\slash\\n",
                "'\"`",
                "=x",
                "ü",
            ])
            .with_stdin(&b" in\xfe\0\n"[..]),
        sh("printf %s \"$A\"; printf %s \"$_count\"")
            .with_env("A", "x\ny\\n $(id) '\"")
            .with_env("_count", "mine"),
        // All bytes that there are.
        sh("printf %s \"$A\"").with_env("A", OsString::from_vec((1..=255).collect())),
        sh("pwd").with_cwd("/usr/share"),
        sh("head -c 3").with_stdin(vec![b'x'; 1_000_000]),
        sh("true").with_stdin(vec![b'x'; 1_000_000]),
        sh("wc -c").with_stdin(vec![b'x'; 3_000_000]),
        sh("head -c 5000 /dev/zero; head -c 300 /dev/zero >&2").with_max_output(100),
        sh("printf 12345; printf 12345 >&2").with_max_output(5),
        sh("sleep 3600 & echo started"),
        // Long enough for a busy machine to get to the output.
        sh("echo until; exec sleep 3600").with_timeout(Duration::from_secs(3)),
        sh("trap '' TERM INT HUP; echo deaf; sleep 3600; sleep 3600")
            .with_timeout(Duration::from_secs(3)),
    ];
    for command in commands {
        let (ours, theirs) = tokio::join!(there.run(command.clone()), here.run(command.clone()));
        assert_eq!(
            essence(&ours.unwrap()),
            essence(&theirs.unwrap()),
            "{command:?}"
        );
    }
}

/// A folder with the programs of busybox under their names, as a small guest has them.
fn busybox() -> TempDir {
    let path = Path::new("/bin/busybox");
    let dir = tempfile::tempdir().unwrap();
    let list = std::process::Command::new(path).arg("--list").output();
    for name in String::from_utf8(list.unwrap().stdout).unwrap().lines() {
        std::os::unix::fs::symlink(path, dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink("/usr/bin/lua5.4", dir.path().join("lua5.4")).unwrap();
    dir
}

#[tokio::test]
async fn a_guest_with_no_programs_but_those_of_busybox_will_do() {
    let programs = busybox();
    let path = programs.path().display();
    let server = Server::whose_commands_see(&format!("PATH={path}")).await;
    let runner = server.runner();
    let said = runner.run(sh("command -v awk; readlink -f $(command -v sh)"));
    let said = said.await.unwrap().stdout_text().into_owned();
    let shell = said.lines().nth(1).unwrap().to_owned();
    assert!(said.starts_with(&format!("{path}/awk\n")), "{said}");
    assert!(shell.ends_with("/busybox"), "{said}");

    let arguments = [
        "sh",
        "a b",
        "",
        "-n",
        "$(id)",
        "new\nline\n",
        "b\\s\\n",
        "'\"`",
        "=x",
    ];
    let command = sh("cat; printf '|%s|' \"$@\"; printf %s \"$A\" >&2; exit 7");
    let variable: Vec<u8> = (1..=255).collect();
    let command = command.args(arguments);
    let command = command.with_env("A", OsString::from_vec(variable.clone()));
    let outcome = runner.run(command.with_stdin(&b" in\xfe\0\n"[..])).await;
    let outcome = outcome.unwrap();
    let mut expected = b" in\xfe\0\n".to_vec();
    for argument in &arguments[1..] {
        expected.extend(format!("|{argument}|").bytes());
    }
    assert_eq!(outcome.status, Status::Exited(7), "{outcome:?}");
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    assert_eq!(outcome.stderr, variable, "{outcome:?}");

    // Several pieces, and none takes what is behind it.
    for stdin in [
        Input::stream(tokio::io::repeat(b'x').take(3_000_000)),
        vec![b'x'; 3_000_000].into(),
    ] {
        let outcome = runner.run(sh("wc -c").with_stdin(stdin)).await.unwrap();
        assert_eq!(outcome.stdout_text().trim(), "3000000", "{outcome:?}");
    }

    let killed = runner.run(sh("kill -9 $$")).await.unwrap();
    assert_eq!(killed.status, Status::Signaled(9));
    let missing = runner.run(Command::new("no-such-program")).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    // All that it started ends with it.
    let mark = server.dir.path().join("pid");
    let tree = format!("sleep 3600 & echo $! >{}; sleep 3600", mark.display());
    let tree = sh(&tree).with_timeout(Duration::from_secs(3));
    assert_eq!(runner.run(tree).await.unwrap().status, Status::TimedOut);
    let pid = fs::read_to_string(mark).unwrap().trim().to_owned();
    until(|| !runs(&pid)).await;

    let warm = WarmInterpreters::new(Arc::new(runner), "lua5.4", Vec::new());
    let mut said = Gather::new(100);
    let outcome = loop {
        let script = Script::new("print(_VERSION, ...)").arg("x");
        if let Some(outcome) = warm.run(&script, &mut said).await.unwrap() {
            break said.into_outcome(outcome);
        }
    };
    assert_eq!(outcome.stdout, "Lua 5.4\tx\n", "{outcome:?}");
    warm.close().await;
}

#[tokio::test]
async fn output_is_handed_on_as_it_comes_and_input_read_as_it_is_asked_for() {
    let server = Server::start().await;
    let runner = server.runner();
    let (mut ours, theirs) = tokio::io::duplex(64);
    let command = sh("read line; echo got $line; read line; echo got $line; cat")
        .with_stdin(Input::stream(theirs).with_bytes("one\n".into()));
    let (mut sink, mut output) = channel(1);
    let talk = async {
        assert_eq!(output.recv().await.unwrap().1, "got one\n");
        ours.write_all(b"two\n").await.unwrap();
        assert_eq!(output.recv().await.unwrap().1, "got two\n");
        ours.write_all(b"rest").await.unwrap();
        assert_eq!(output.recv().await.unwrap().1, "rest");
        drop(ours);
    };
    let (outcome, ()) = tokio::join!(runner.run_streaming(command, &mut sink), talk);
    assert_eq!(outcome.unwrap().status, Status::Exited(0));

    let command = sh("wc -c").with_stdin(Input::stream(tokio::io::repeat(b'x').take(3_000_000)));
    let outcome = runner.run(command).await.unwrap();
    assert_eq!(outcome.stdout_text().trim(), "3000000");
}

#[tokio::test]
async fn a_taker_that_wants_no_more_and_the_end_of_a_lifeline_end_the_command_on_the_guest() {
    let server = Server::start().await;
    let (mut sink, output) = channel(1);
    drop(output);
    let outcome = server.runner().run_streaming(sh("yes"), &mut sink).await;
    assert_eq!(outcome.unwrap().status, Status::OutputLimit);

    let (ours, theirs) = tokio::io::duplex(64);
    let command = sh("echo $$; exec sleep 3600").with_stdin(Input::lifeline(theirs));
    let (mut sink, mut output) = channel(1);
    let leave = async {
        let pid = output.recv().await.unwrap().1;
        drop(ours);
        String::from_utf8_lossy(&pid).trim().to_owned()
    };
    let runner = server.runner();
    let (outcome, pid) = tokio::join!(runner.run_streaming(command, &mut sink), leave);
    assert_eq!(outcome.unwrap().status, Status::Signaled(9));
    until(|| !runs(&pid)).await;
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_as_on_this_machine() {
    let server = Server::start().await;
    let (here, there) = (LocalRunner::new(), server.runner());
    for command in [
        Command::new("no-such-program"),
        Command::new("/no/such"),
        sh("true").with_cwd("/no/such"),
        sh("true").arg("x".repeat(2_000_000)),
    ] {
        let ours = there.run(command.clone()).await.unwrap_err();
        let theirs = here.run(command).await.unwrap_err();
        assert_eq!(ours.kind(), theirs.kind(), "{ours}");
    }
    for command in [
        sh("true").arg("a\0b"),
        sh("true").with_env("A-B", "x"),
        sh("true").with_env("A", "x\0"),
        Command::new(""),
    ] {
        let error = there.run(command).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
}

#[tokio::test]
async fn a_timeout_ends_the_whole_tree_on_the_guest() {
    let server = Server::start().await;
    let command = sh("sh -c 'trap \"\" TERM; sleep 3600 & echo $!; wait' & echo $$; wait")
        .with_timeout(Duration::from_millis(500));
    let outcome = server.runner().run(command).await.unwrap();
    assert_eq!(outcome.status, Status::TimedOut);
    let pids: Vec<_> = outcome.stdout_text().lines().map(String::from).collect();
    assert_eq!(pids.len(), 2, "{outcome:?}");
    for pid in pids {
        until(|| !runs(&pid)).await;
    }
}

/// Leaves a daemon behind that minds no signal, in a session of its own, and holds the streams open.
fn leaves_a_daemon(file: &Path) -> String {
    format!(
        "setsid sh -c 'sh -c \"trap \\\"\\\" TERM HUP INT; echo \\$\\$ >{0}.new; mv {0}.new {0}; \
         sleep 3600; sleep 3600\" &' & until [ -e {0} ]; do sleep 0.01; done",
        file.display()
    )
}

#[tokio::test]
async fn a_daemon_in_a_session_of_its_own_ends_with_the_command_that_started_it() {
    let server = Server::start().await;
    let session = server.session();
    let runner = SshRunner::new(Arc::clone(&session));
    let file = |name: &str| server.dir.path().join(name);
    let pid = |file: &Path| fs::read_to_string(file).unwrap().trim().to_owned();

    let ended = file("ended");
    let outcome = runner.run(sh(&leaves_a_daemon(&ended))).await.unwrap();
    assert!(outcome.success());
    until(|| !runs(&pid(&ended))).await;

    let timed_out = file("timed-out");
    let script = format!("{}; sleep 3600", leaves_a_daemon(&timed_out));
    let outcome = runner.run(sh(&script).with_timeout(Duration::from_secs(2)));
    assert_eq!(outcome.await.unwrap().status, Status::TimedOut);
    until(|| !runs(&pid(&timed_out))).await;

    let cut_off = file("cut-off");
    let script = format!("{}; sleep 3600", leaves_a_daemon(&cut_off));
    let run = tokio::spawn(async move { runner.run(sh(&script)).await });
    until(|| cut_off.exists()).await;
    session.close().await;
    run.await.unwrap().unwrap_err();
    until(|| !runs(&pid(&cut_off))).await;
}

#[tokio::test]
async fn after_the_server_killed_its_connections_or_was_gone_the_next_command_works_or_says_why() {
    let mut server = Server::start().await;
    let runner = server.runner();
    // The next sshd above holds our connection.
    let kill_connection = sh(
        "pid=$PPID; until grep -q sshd /proc/$pid/comm; do pid=$(cut -d' ' -f4 /proc/$pid/stat); done; \
         kill -9 $pid; sleep 3600",
    );
    for _ in 0..3 {
        assert!(runner.run(sh("true")).await.unwrap().success());
        let error = runner.run(kill_connection.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    server.sshd.kill().await.unwrap();
    // Those that exist outlive the listener; a rebooted guest has none.
    let _ = runner.run(kill_connection).await;
    let error = runner.run(sh("true")).await.unwrap_err();
    assert!(
        std::error::Error::source(&error).is_some_and(|why| why.to_string().contains("closed")),
        "{error:?}"
    );
    server.listen().await;
    assert!(runner.run(sh("true")).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_stay_get_more_connections() {
    let server = Server::start().await;
    let session = server.session();
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..25).map(|_| tokio::io::duplex(64)).unzip();
    let runs: Vec<_> = theirs
        .into_iter()
        .map(|theirs| {
            let runner = SshRunner::new(Arc::clone(&session));
            let command = sh("echo here; exec sleep 3600").with_stdin(Input::lifeline(theirs));
            let (mut sink, mut output) = channel(1);
            let run = tokio::spawn(async move { runner.run_streaming(command, &mut sink).await });
            (run, tokio::spawn(async move { output.recv().await }))
        })
        .collect();
    let mut ended = Vec::new();
    for (run, first) in runs {
        assert_eq!(first.await.unwrap().unwrap().1, "here\n");
        ended.push(run);
    }
    assert!(server.connections() >= 3, "all run at the same time");
    drop(ours);
    for run in ended {
        run.await.unwrap().unwrap();
    }
    session.close().await;
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn dropping_the_future_ends_the_command_on_the_guest() {
    let server = Server::start().await;
    let file = server.dir.path().join("pid");
    let runner = server.runner();
    let script = format!(
        "echo $$ >{0}.new; mv {0}.new {0}; sleep 3600",
        file.display()
    );
    let run = tokio::spawn(async move { runner.run(sh(&script)).await });
    until(|| file.exists()).await;
    let pid = fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(runs(&pid));
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    until(|| !runs(&pid)).await;
}

#[tokio::test]
async fn a_broken_connection_ends_the_command_and_the_next_one_gets_a_new_connection() {
    let server = Server::start().await;
    let session = server.session();
    let runner = SshRunner::new(Arc::clone(&session));
    let file = server.dir.path().join("pid");
    let script = format!(
        "echo $$ >{0}.new; mv {0}.new {0}; sleep 3600",
        file.display()
    );
    let other = runner.clone();
    let run = tokio::spawn(async move { other.run(sh(&script)).await });
    until(|| file.exists()).await;
    let pid = fs::read_to_string(&file).unwrap().trim().to_owned();
    session.close().await;
    let error = run.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("unknown"), "{error}");
    until(|| !runs(&pid)).await;
    assert!(runner.run(sh("true")).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_commands_at_once_than_the_server_has_room_for_all_succeed() {
    let server = Server::start().await;
    let session = server.session();
    let runs: Vec<_> = (0..200)
        .map(|number| {
            let runner = SshRunner::new(Arc::clone(&session));
            tokio::spawn(async move {
                let outcome = runner.run(sh(&format!("echo {number}"))).await.unwrap();
                assert_eq!(outcome.stdout_text(), format!("{number}\n"));
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
    session.close().await;
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn another_host_key_or_a_refused_key_is_never_worked_around() {
    let server = Server::start().await;
    let mut target = server.target.clone();
    let other = KeyPair::generate("other").unwrap();
    target.host_key = HostKey::Pinned(other.public().to_owned());
    let error = SshSession::new(target).slot_error().await;
    assert!(matches!(error, SshError::WrongHostKey), "{error:?}");

    let mut target = server.target.clone();
    target.identity = Identity::Key(other.private().clone());
    let error = SshSession::new(target).slot_error().await;
    assert!(matches!(error, SshError::KeyRefused), "{error:?}");

    let mut target = server.target.clone();
    target.identity = Identity::File("/no/such/key".into());
    let error = SshSession::new(target).slot_error().await;
    assert!(
        matches!(error, SshError::BadIdentity { .. } | SshError::KeyRefused),
        "{error:?}"
    );
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_server_that_never_comes_is_named_when_the_time_is_up() {
    let server = Server::start().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let session = SshSession::new(server.target.clone().with_port(port));
    let error = session.ready(Duration::from_millis(400)).await.unwrap_err();
    assert!(
        matches!(&error, SshError::NotReady { last: Some(last), .. } if matches!(**last, SshError::PortClosed)),
        "{error:?}"
    );
}

#[tokio::test]
async fn files_with_keys_are_private_and_go_with_the_connection() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start().await;
    let session = server.session();
    session.ready(Duration::from_secs(10)).await.unwrap();
    assert_eq!(server.connections(), 1);
    let entry = fs::read_dir(server.dir.path().join("run"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&entry.path()), 0o700);
    assert_eq!(mode(&entry.path().join("key")), 0o600);
    drop(session);
    until(|| server.connections() == 0).await;
}

/// Runs in a process of its own, which the test below kills.
#[tokio::test]
#[ignore = "a part of another test"]
async fn holds_a_connection_until_it_is_killed() {
    let server = Server::start().await;
    let session = server.session();
    session.ready(Duration::from_secs(10)).await.unwrap();
    let runner = SshRunner::new(session);
    let dir = std::env::var("BIOXEN_TEST_DIR").unwrap();
    let warm = WarmInterpreters::new(Arc::new(runner.clone()), "lua5.4", Vec::new());
    warm.prepare();
    let daemon = Path::new(&dir).join("daemon");
    let program = format!("os.execute([[{}; sleep 3600]])", leaves_a_daemon(&daemon));
    tokio::spawn(async move {
        loop {
            let mut nothing = bioxen_vm_core::Gather::new(0);
            let script = bioxen_vm_core::Script::new(program.clone());
            if warm.run(&script, &mut nothing).await.unwrap().is_some() {
                return;
            }
        }
    });
    until(|| daemon.exists()).await;
    let (sshd, path) = (server.sshd.id().unwrap(), server.dir.path().display());
    let script = format!("echo $$ {sshd} {path} >{dir}/pid; sleep 3600");
    runner.run(sh(&script)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_when_this_program_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "ssh::tests::holds_a_connection_until_it_is_killed",
        ])
        .env("BIOXEN_TEST_DIR", dir.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let file = dir.path().join("pid");
    until(|| fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))).await;
    let text = fs::read_to_string(&file).unwrap();
    let [pid, sshd, server] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{text:?}");
    };
    let daemon = fs::read_to_string(dir.path().join("daemon")).unwrap();
    let connections = Path::new(server).join("run");
    assert!(runs(daemon.trim()));
    assert!(runs(pid) && fs::read_dir(&connections).unwrap().count() == 1);
    child.kill().await.unwrap();
    until(|| !runs(pid) && !runs(daemon.trim())).await;
    until(|| fs::read_dir(&connections).unwrap().count() == 0).await;
    // What the killed test could not remove itself: its sshd and its directory.
    let sshd = Command::new("kill").arg(sshd);
    assert!(LocalRunner::new().run(sshd).await.unwrap().success());
    fs::remove_dir_all(server).unwrap();
}
