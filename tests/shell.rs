//! What a user of `bioxen shell` sees, at a terminal and in a script.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use tempfile::TempDir;

/// A shell with folders of its own.
fn shell(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    let temporary = home.path().join("tmp");
    std::fs::create_dir_all(&temporary).unwrap();
    command
        .arg("shell")
        .env("TERM", "xterm")
        .env("TMPDIR", temporary)
        .env("XDG_STATE_HOME", home.path());
    command
}

fn left_behind(home: &TempDir) -> usize {
    std::fs::read_dir(home.path().join("tmp")).unwrap().count()
}

/// What a shell makes of a script.
fn script(lines: &str) -> Output {
    let home = tempfile::tempdir().unwrap();
    script_in(&home, &[], lines)
}

/// The same in a folder, with options.
fn script_in(home: &TempDir, args: &[&str], lines: &str) -> Output {
    let mut child = shell(home)
        .args(args)
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A shell that ends early reads no more.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!(left_behind(home), 0, "the VM is still there");
    output
}

#[test]
fn a_script_gets_values_and_output_without_prompts_or_echo() {
    let output =
        script("x = 20\n\nx + 1, 'a'\nfor i = 1, 2 do\n  print(i)\nend\nlocal _ = io.write('end')");
    assert_eq!(output.stdout, b"21\ta\n1\n2\nend");
    assert_eq!(output.stderr, b"");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn files_that_are_open_where_it_is_started_do_not_reach_the_vm() {
    let home = tempfile::tempdir().unwrap();
    let shell = shell(&home);
    let output = Command::new("sh")
        .args(["-c", "exec 3</dev/null; echo 'print(7)' | \"$0\" shell"])
        .arg(shell.get_program())
        .envs(
            shell
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout, b"7\n");
}

#[test]
fn a_script_goes_on_after_an_error_and_ends_with_1() {
    let output = script("error('no gene')\nprint('on')\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("stdin:1: no gene\nstack traceback:"),
        "{said}"
    );
    assert_eq!(output.stdout, b"on\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn rocks_and_files_come_in_first_and_files_go_out_in_the_end() {
    let home = tempfile::tempdir().unwrap();
    let path = |name| home.path().join(name);
    std::fs::write(path("a.fa"), "ACGT").unwrap();
    let args = ["-p", "bio_compute", "--put", "a.fa", "--get", "b.fa"];
    // The second file is still open when the script ends.
    let lines = "sequence = io.open('a.fa'):read('a')\n\
                 out = io.open('b.fa', 'w')\n\
                 local _ = out:write(require('bio_compute').reverse_complement(sequence .. 'AA'))\n";
    let output = script_in(&home, &args, lines);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(std::fs::read(path("b.fa")).unwrap(), b"TTACGT");
    // Not after a failure.
    let args = ["--put", "a.fa", "--get", "a.fa:c.fa"];
    let output = script_in(&home, &args, "error('no gene')");
    assert_eq!(output.status.code(), Some(1));
    assert!(!path("c.fa").exists());
}

#[test]
fn a_module_that_is_not_there_is_followed_by_what_gives_it() {
    let output = script("require 'bio_compute'");
    let said = String::from_utf8(output.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("did you mean the rock bio_compute")
            && last.contains("`--package bio_compute`"),
        "{said}"
    );
}

#[test]
fn a_script_that_breaks_off_is_told() {
    let output = script("for i = 1, 2 do\n");
    assert_eq!(
        output.stderr,
        b"the input ends within a chunk, which was not run\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn os_exit_ends_it_with_its_code() {
    let output = script("os.exit(4)\nprint('never')\n");
    assert_eq!(
        (&output.stdout[..], output.status.code()),
        (&b""[..], Some(4))
    );
}

#[test]
fn a_reader_that_goes_ends_it_quietly_also_in_an_endless_chunk() {
    let home = tempfile::tempdir().unwrap();
    let mut child = shell(&home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"while true do print('x') end\n").unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 2]).unwrap();
    drop(output);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stderr, b"");
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(left_behind(&home), 0, "the VM is still there");
}

#[test]
fn a_script_that_is_told_to_end_removes_its_vm() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let home = tempfile::tempdir().unwrap();
        let mut child = shell(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input
            .write_all(b"print('on') io.flush() while true do end\n")
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0; 3]).unwrap();
        assert_ne!(left_behind(&home), 0);
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(left_behind(&home), 0, "the VM is still there");
    }
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// How often an impatient person presses a key.
const PRESS: Duration = Duration::from_millis(50);

/// A person at a terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    /// Kept, so that what is read does not end with the shell.
    line: OwnedFd,
    seen: String,
}

impl Terminal {
    fn open(home: &TempDir, args: &[&str]) -> Self {
        let pty = openpty(None, None).unwrap();
        for file in [&pty.master, &pty.slave] {
            // Not for the shell, whose VM would refuse to start with somebody's open file.
            fcntl(file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = shell(home)
            .args(args)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self {
            child,
            keyboard: pty.master.into(),
            line: pty.slave,
            seen: String::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this shows, after what was waited for before.
    fn sees(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let mut buffer = [0; 4096];
            let count = self.keyboard.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "{text:?} does not show in {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&buffer[..count]);
        }
    }

    /// Presses Ctrl-C again and again until the result is dropped.
    fn keep_pressing(&self) -> mpsc::Sender<()> {
        let (goes_on, until) = mpsc::channel();
        let shell = Pid::from_raw(self.child.id().try_into().unwrap());
        std::thread::spawn(move || {
            while until.recv_timeout(PRESS) == Err(RecvTimeoutError::Timeout) {
                kill(shell, Signal::SIGINT).unwrap();
            }
        });
        goes_on
    }

    fn ends(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

#[test]
fn a_person_gets_prompts_values_and_the_history_of_earlier_shells() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open(&home, &[]);
    terminal.sees("Lua in a VM of type basic");
    terminal.sees("> ");
    terminal.press("6 * 7\r");
    terminal.sees("42\r\n");
    terminal.press("for i = 1, 1 do\r");
    terminal.sees(">> ");
    terminal.press("print('line', i) end\r");
    terminal.sees("line\t1\r\n");
    // What is typed before the prompt is back counts.
    terminal.press("y = 5\ry + 2\r");
    terminal.sees("\n7\r\n");
    // Ctrl-C drops what is typed and nothing else.
    terminal.sees("> ");
    terminal.press("x = ");
    terminal.sees("x = ");
    terminal.press("\u{3}");
    terminal.sees("\r\n");
    terminal.sees("> ");
    terminal.press("'still' .. 'here'\r");
    terminal.sees("stillhere\r\n");
    terminal.sees("> ");
    terminal.press("\u{4}");
    assert_eq!(terminal.ends().code(), Some(0));
    assert_eq!(left_behind(&home), 0, "the VM is still there");

    let mut terminal = Terminal::open(&home, &[]);
    terminal.sees("> ");
    // The arrow up.
    terminal.press("\u{1b}[A\r");
    terminal.sees("stillhere\r\n");
    terminal.sees("> ");
    terminal.press("os.exit(5)\r");
    assert_eq!(terminal.ends().code(), Some(5));
}

#[test]
fn ctrl_c_ends_what_runs_and_keeps_the_variables() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open(&home, &[]);
    terminal.sees("> ");
    terminal.press("x = 'kept'\r");
    terminal.sees("> ");
    terminal.press("print('go' .. 'ing') io.flush() while true do end\r");
    terminal.sees("going\r\n");
    send(&terminal.child, Signal::SIGINT);
    terminal.sees("interrupted!");
    terminal.sees("> ");
    terminal.press("'still ' .. x\r");
    terminal.sees("still kept\r\n");
    terminal.sees("> ");
    terminal.press("\u{4}");
    assert_eq!(terminal.ends().code(), Some(0));
    assert_eq!(left_behind(&home), 0, "the VM is still there");
}

#[test]
fn ctrl_c_never_ends_the_shell_whatever_runs() {
    // A function of C, which Lua cannot be interrupted in, and a session at full speed.
    let search = "string.find(('a'):rep(1e5), ('.-'):rep(50) .. 'b')";
    for (args, chunk) in [(&[][..], search), (&["--fast"], "while true do end")] {
        let home = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::open(&home, args);
        terminal.sees("> ");
        terminal.press(&format!("print('go' .. 'ing') io.flush() {chunk}\r"));
        terminal.sees("going\r\n");
        let press = terminal.keep_pressing();
        terminal.sees("cannot be interrupted");
        terminal.sees("Ctrl-C once more ends it");
        terminal.sees("this is a new session");
        drop(press);
        terminal.sees("> ");
        terminal.press("'al' .. 'ive'\r");
        terminal.sees("alive\r\n");
        terminal.sees("> ");
        terminal.press("\u{4}");
        assert_eq!(terminal.ends().code(), Some(0));
        assert_eq!(left_behind(&home), 0, "the VM is still there");
    }
}

#[test]
fn a_shell_that_is_told_to_end_removes_its_vm_and_gives_the_terminal_back() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open(&home, &[]);
    let line = terminal.line.try_clone().unwrap();
    let before = tcgetattr(&line).unwrap();
    terminal.sees("> ");
    terminal.press("'rea' .. 'dy'\r");
    terminal.sees("ready\r\n");
    terminal.sees("> ");
    send(&terminal.child, Signal::SIGTERM);
    assert_eq!(terminal.ends().code(), Some(143));
    assert_eq!(tcgetattr(&line).unwrap(), before);
    assert_eq!(left_behind(&home), 0, "the VM is still there");
}
