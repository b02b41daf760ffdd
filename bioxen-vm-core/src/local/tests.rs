//! Commands of this machine, as they are run.

use super::*;
use crate::{Input, channel};

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

#[tokio::test]
async fn output_input_and_exit_code_come_back_byte_for_byte() {
    let outcome = LocalRunner::new()
        .run(sh("cat; printf '\\377\\000 ' >&2; exit 7").with_stdin(&b" in\xfe\n"[..]))
        .await
        .unwrap();
    assert_eq!(outcome.status, Status::Exited(7));
    assert_eq!(&outcome.stdout[..], b" in\xfe\n");
    assert_eq!(&outcome.stderr[..], b"\xff\0 ");
}

#[tokio::test]
async fn a_command_sees_nothing_of_our_environment() {
    let outcome = LocalRunner::new()
        .run(Command::new("env").with_env("A", "b"))
        .await
        .unwrap();
    let mut names: Vec<_> = outcome
        .stdout_text()
        .lines()
        .map(|l| l.split('=').next().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["A", "LANG", "PATH"]);
}

#[tokio::test]
async fn a_timeout_ends_grandchildren_and_keeps_the_output_so_far() {
    let outcome = LocalRunner::new()
        .run(sh("sleep 3600 & echo $!; wait").with_timeout(Duration::from_millis(300)))
        .await
        .unwrap();
    assert_eq!(outcome.status, Status::TimedOut);
    let grandchild: i32 = outcome.stdout_text().trim().parse().unwrap();
    ended(grandchild).await;
}

#[tokio::test]
async fn a_background_process_that_holds_the_pipes_does_not_hold_us() {
    let outcome = LocalRunner::new()
        .run(sh("sleep 3600 & echo $!"))
        .await
        .unwrap();
    assert_eq!(outcome.status, Status::Exited(0));
    ended(outcome.stdout_text().trim().parse().unwrap()).await;
}

#[tokio::test]
async fn dropping_the_future_ends_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("pid");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("echo $$ > {}; exec sleep 3600", fifo.display());
    let run = tokio::spawn(async move { LocalRunner::new().run(sh(&script)).await });
    let pid: i32 = tokio::fs::read_to_string(&fifo)
        .await
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(runs(pid));
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    ended(pid).await;
}

#[tokio::test]
async fn too_much_output_is_cut_and_said_so() {
    let command = sh("head -c 1000000 /dev/zero; echo end >&2").with_max_output(1000);
    let outcome = LocalRunner::new().run(command).await.unwrap();
    assert_eq!(
        (outcome.stdout.len(), outcome.stdout_truncated),
        (1000, true)
    );
    assert_eq!(
        (&outcome.stderr[..], outcome.stderr_truncated),
        (&b"end\n"[..], false)
    );
    assert!(outcome.success());
}

#[tokio::test]
async fn output_is_handed_on_as_it_comes_and_input_read_as_it_is_asked_for() {
    let (mut ours, theirs) = tokio::io::duplex(64);
    let command = sh("read line; echo got $line; read line; echo got $line; cat")
        .with_stdin(Input::stream(theirs).with_bytes("one\n".into()));
    let (mut sink, mut output) = channel(1);
    let run = async { LocalRunner::new().run_streaming(command, &mut sink).await };
    let talk = async {
        let (_, piece) = output.recv().await.unwrap();
        assert_eq!(piece, "got one\n");
        ours.write_all(b"two\n").await.unwrap();
        let (_, piece) = output.recv().await.unwrap();
        assert_eq!(piece, "got two\n");
        drop(ours);
    };
    let (outcome, ()) = tokio::join!(run, talk);
    assert_eq!(outcome.unwrap().status, Status::Exited(0));
}

#[tokio::test]
async fn a_taker_that_wants_no_more_ends_the_command() {
    let (mut sink, output) = channel(1);
    drop(output);
    let outcome = LocalRunner::new().run_streaming(sh("yes"), &mut sink).await;
    assert_eq!(outcome.unwrap().status, Status::OutputLimit);
}

#[tokio::test]
async fn the_end_of_a_lifeline_ends_the_command() {
    let (ours, theirs) = tokio::io::duplex(64);
    let command = sh("trap '' TERM; sleep 3600 & wait").with_stdin(Input::lifeline(theirs));
    drop(ours);
    let outcome = LocalRunner::new().run(command).await.unwrap();
    assert_eq!(outcome.status, Status::Signaled(9));
}

#[tokio::test]
async fn an_input_stream_is_for_one_command() {
    let command = sh("cat").with_stdin(Input::stream(&b"x"[..]));
    let outcome = LocalRunner::new().run(command.clone()).await.unwrap();
    assert_eq!(outcome.stdout_text(), "x");
    let error = LocalRunner::new().run(command).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_missing_program_or_directory_is_named() {
    let error = LocalRunner::new()
        .run(Command::new("no-such-program"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let error = LocalRunner::new()
        .run(sh("true").with_cwd("/no/such"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
}

/// Waits for a killed process to be gone; the test's own time limit ends the wait.
async fn ended(pid: i32) {
    while runs(pid) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process exists and is no zombie.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('Z')
    })
}
