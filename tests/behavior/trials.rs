//! The trials, in the order of their numbers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bioxen::{
    Answer, Capabilities, ErrorKind, ExecutionStatus, Input, LuaValue, Outcome, Returned, Script,
    SessionOptions, Status, Value, gather,
};
use bytes::Bytes;
use libtest_mimic::Trial;
use proptest::prelude::{ProptestConfig, any};
use proptest::test_runner::TestRunner;
use proptest::{prop_assert, prop_assert_eq};
use tokio::io::AsyncWriteExt as _;

use crate::target::{Bench, TARGETS, Target};

type Running<'b> = Pin<Box<dyn Future<Output = ()> + Send + 'b>>;
type Body = for<'b> fn(&'b Bench) -> Running<'b>;
type Needs = fn(&Capabilities) -> bool;

/// Anything can do it.
const ANY: Needs = |_| true;
const COMMANDS: Needs = |can| can.processes && can.commands;
const VALUES: Needs = |can| can.returned_values;
const STREAMING: Needs = |can| can.streaming;
const FILES: Needs = |can| can.files;
const SESSIONS: Needs = |can| can.sessions;

macro_rules! trials {
    ($($needs:ident $name:ident),* $(,)?) => {
        &[$((stringify!($name), $needs, |bench| Box::pin($name(bench)))),*]
    };
}

const TRIALS: &[(&str, Needs, Body)] = trials![
    ANY b01_output_is_exact_and_success_is_told,
    VALUES b02_a_returned_value_is_data_and_is_not_printed,
    ANY b03_errors_have_their_text_and_exit_code_1,
    ANY b04_exit_codes_arrive,
    ANY b05_blank_code_is_refused,
    ANY b06_time_that_is_up_is_told,
    ANY b07_each_execution_has_a_fresh_state,
    ANY b08_standard_input_is_empty_unless_given,
    ANY b09_an_id_is_taken_once,
    ANY b10_an_execution_in_the_background_is_awaited_and_cancelled,
    ANY b11_a_cluster_is_broadcast_to_and_its_failures_are_data,
    ANY b12_the_manager_counts,
    SESSIONS b13_a_session_keeps_its_state,
    ANY b18_whoever_leaves_takes_everything_along,
    COMMANDS d01_a_timeout_ends_grandchildren,
    ANY d02_code_may_begin_with_a_comment,
    ANY d03_code_may_have_any_size,
    ANY d04_output_may_be_any_bytes,
    ANY d05_spaces_and_line_ends_stay,
    ANY d07_nothing_of_our_environment_is_seen,
    SESSIONS d09_replies_have_no_echo_and_no_prompt,
    SESSIONS d10_a_reply_is_complete_when_it_comes,
    SESSIONS d11_output_comes_in_the_order_in_which_it_was_written,
    ANY d12_two_executions_at_once_know_their_own,
    SESSIONS d16_a_session_starts_every_time,
    SESSIONS d17_a_session_that_exits_is_over,
    ANY d19_empty_lines_and_prompts_in_the_output_stay,
    ANY d20_output_over_the_limit_is_cut_and_said_so,
    SESSIONS d21_sessions_end_with_their_vm,
    ANY d27_arguments_are_never_code,
    STREAMING output_over_any_buffer_is_handed_on_whole,
    STREAMING input_comes_as_it_is_written,
    ANY a_file_of_this_machine_is_run_by_its_path,
    FILES relative_names_are_meant_from_the_working_directory,
];

/// The names of the trials of every kind of VM.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TRIALS.iter().map(|(name, ..)| *name)
}

/// The trials of a kind of VM. Those that it cannot do pass, and say so.
pub(crate) fn of(target: Target) -> Vec<Trial> {
    TRIALS
        .iter()
        .map(|(name, needs, body)| {
            Trial::test(format!("{}::{name}", target.name), move || {
                block_on(async {
                    let bench = target.bench().await;
                    if needs(&bench.can()) {
                        body(&bench).await;
                    } else {
                        eprintln!("{} cannot do this", target.name);
                    }
                    bench.end().await;
                });
                Ok(())
            })
        })
        .collect()
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}

async fn run(bench: &Bench, script: impl Into<Script>) -> Outcome {
    bench.manager.execute_vm("vm", script).await.unwrap()
}

async fn b01_output_is_exact_and_success_is_told(bench: &Bench) {
    let outcome = run(bench, "print('hi')").await;
    assert_eq!(
        (&outcome.stdout[..], &outcome.stderr[..]),
        (&b"hi\n"[..], &b""[..])
    );
    assert!(outcome.success());
}

async fn b02_a_returned_value_is_data_and_is_not_printed(bench: &Bench) {
    let outcome = run(bench, "return 4").await;
    assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty());
    assert_eq!(
        outcome.returned,
        Returned::Values(vec![LuaValue::Integer(4)])
    );
    let outcome = run(bench, "return {gc = 0.5}").await;
    let gc = outcome.returned.first().and_then(|value| value.get("gc"));
    assert_eq!(gc, Some(&LuaValue::Float(0.5)));
    let outcome = run(bench, "return print").await;
    assert!(outcome.success());
    assert_eq!(
        outcome.returned,
        Returned::NotData("a function at [1]".into())
    );
}

async fn b03_errors_have_their_text_and_exit_code_1(bench: &Bench) {
    for (code, part) in [
        ("error('boom')", "lua: script:1: boom\nstack traceback:\n"),
        ("x = = 1", "lua: script:1: unexpected symbol near '='"),
    ] {
        let outcome = run(bench, code).await;
        assert_eq!(outcome.status, Status::Exited(1));
        assert!(
            outcome.stderr_text().contains(part),
            "{}",
            outcome.stderr_text()
        );
    }
}

async fn b04_exit_codes_arrive(bench: &Bench) {
    for code in [7, 0, 255, 137] {
        let outcome = run(bench, format!("os.exit({code})")).await;
        assert_eq!(outcome.status, Status::Exited(code));
    }
}

async fn b05_blank_code_is_refused(bench: &Bench) {
    let error = bench.manager.execute_vm("vm", " \n").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

async fn b06_time_that_is_up_is_told(bench: &Bench) {
    let endless = "print('so far') io.stdout:flush() while true do pcall(error) end";
    let script = Script::new(endless).with_timeout(Duration::from_secs(1));
    let outcome = run(bench, script).await;
    assert_eq!(outcome.status, Status::TimedOut);
    assert_eq!(outcome.stdout_text(), "so far\n");
}

async fn b07_each_execution_has_a_fresh_state(bench: &Bench) {
    run(bench, "x = 1 string.x = 1").await;
    assert_eq!(
        run(bench, "print(x, string.x)").await.stdout_text(),
        "nil\tnil\n"
    );
}

async fn b08_standard_input_is_empty_unless_given(bench: &Bench) {
    assert_eq!(
        run(bench, "print(io.read('*a') == '')").await.stdout_text(),
        "true\n"
    );
    let script = Script::new("io.write(io.read('*a'))").with_stdin(&b"a\r\n\0\xff"[..]);
    assert_eq!(&run(bench, script).await.stdout[..], b"a\r\n\0\xff");
}

async fn b09_an_id_is_taken_once(bench: &Bench) {
    let again = bench
        .manager
        .create_vm("vm", bench.vm_type, bench.config.clone())
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

async fn b10_an_execution_in_the_background_is_awaited_and_cancelled(bench: &Bench) {
    let quick = bench.manager.spawn_execution("vm", "print(1)").unwrap();
    assert!(quick.wait().await.unwrap().success());
    assert_eq!(quick.status(), ExecutionStatus::Done);
    let endless = bench
        .manager
        .spawn_execution("vm", "while true do end")
        .unwrap();
    assert_eq!(endless.status(), ExecutionStatus::Running);
    endless.cancel();
    assert_eq!(
        endless.wait().await.unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    assert_eq!(endless.status(), ExecutionStatus::Cancelled);
    let error = bench
        .manager
        .spawn_execution("nobody", "print(1)")
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn b11_a_cluster_is_broadcast_to_and_its_failures_are_data(bench: &Bench) {
    let config: Value = bench.config.clone();
    let ids = bench
        .manager
        .create_cluster("x", 2, bench.vm_type, config)
        .await
        .unwrap();
    let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["x_000", "x_001"]);
    bench.manager.vm("x_001").unwrap().stop().await.unwrap();
    let results = gather(&bench.manager.broadcast("x_*", "print(1)").unwrap()).await;
    assert_eq!(results[&ids[0]].as_ref().unwrap().stdout_text(), "1\n");
    assert_eq!(
        results[&ids[1]].as_ref().unwrap_err().kind(),
        ErrorKind::InvalidState
    );
    assert_eq!(bench.manager.remove_cluster("x_*").await.unwrap(), 2);
}

async fn b12_the_manager_counts(bench: &Bench) {
    run(bench, "print(1)").await;
    let stats = bench.manager.stats();
    assert_eq!((stats.total_vms, stats.vms_by_type[bench.vm_type]), (1, 1));
    assert_eq!(
        (stats.running_operations, stats.completed_operations),
        (0, 1)
    );
}

async fn b13_a_session_keeps_its_state(bench: &Bench) {
    let session = open(bench, "one").await;
    session
        .eval("function double(n)\n\tlocal twice = n * 2\n\treturn twice\nend")
        .await
        .unwrap();
    assert_eq!(
        session.eval("double(21)").await.unwrap().answer,
        integer(42)
    );
    let answer = session.eval("function f()").await.unwrap().answer;
    assert_eq!(answer, Answer::Incomplete);
    let other = open(bench, "two").await;
    assert_eq!(
        other.eval("double").await.unwrap().answer,
        nothing_but_nil()
    );
    assert_eq!(bench.manager.stats().interactive_sessions, 2);
}

async fn b18_whoever_leaves_takes_everything_along(bench: &Bench) {
    let endless = bench
        .manager
        .spawn_execution("vm", "while true do end")
        .unwrap();
    bench.manager.shutdown_all().await.unwrap();
    assert!(bench.manager.vms().is_empty());
    assert!(endless.wait().await.is_err());
}

async fn d01_a_timeout_ends_grandchildren(bench: &Bench) {
    // Whoever still ran would hold the stream open, and write to it.
    let code =
        "io.stdout:setvbuf('no') os.execute('(sleep 2; echo late) & echo early; sleep 3600')";
    let script = Script::new(code).with_timeout(Duration::from_secs(1));
    let outcome = run(bench, script).await;
    assert_eq!(outcome.status, Status::TimedOut);
    assert_eq!(outcome.stdout_text(), "early\n");
}

async fn d02_code_may_begin_with_a_comment(bench: &Bench) {
    for code in [
        "-- just a comment",
        "--[[ and ]] print(1)",
        "-v",
        "#!/usr/bin/lua\nprint(1)",
    ] {
        let outcome = run(bench, code).await;
        assert_eq!(
            outcome.success(),
            code != "-v",
            "{code}: {}",
            outcome.stderr_text()
        );
    }
}

async fn d03_code_may_have_any_size(bench: &Bench) {
    let code = format!("print(#'{}')", "ACGT".repeat(500_000));
    assert_eq!(run(bench, code).await.stdout_text(), "2000000\n");
}

async fn d04_output_may_be_any_bytes(bench: &Bench) {
    let outcome = run(bench, r"for i = 0, 255 do io.write(string.char(i)) end").await;
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(&outcome.stdout[..], &all[..]);
}

async fn d05_spaces_and_line_ends_stay(bench: &Bench) {
    let outcome = run(bench, r"io.write('  >seq1  \n\n')").await;
    assert_eq!(&outcome.stdout[..], b"  >seq1  \n\n");
}

async fn d07_nothing_of_our_environment_is_seen(bench: &Bench) {
    // Cargo gives it to every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let script = Script::new("print(os.getenv('CARGO_MANIFEST_DIR'), os.getenv('MINE'))");
    let outcome = run(bench, script.with_env("MINE", "a 'b'\n$(id)")).await;
    assert_eq!(outcome.stdout_text(), "nil\ta 'b'\n$(id)\n");
}

async fn d09_replies_have_no_echo_and_no_prompt(bench: &Bench) {
    let session = open(bench, "one").await;
    let reply = session.eval("print(6 * 7)").await.unwrap();
    assert_eq!(&reply.stdout[..], b"42\n");
    let reply = session.eval("error('no', 0)").await.unwrap();
    assert!(reply.stdout.is_empty() && reply.stderr.is_empty());
    assert!(
        matches!(&reply.answer, Answer::Failed(why) if why.starts_with("no\n")),
        "{reply:?}"
    );
}

async fn d10_a_reply_is_complete_when_it_comes(bench: &Bench) {
    let session = open(bench, "one").await;
    let slow = "local t = os.clock() while os.clock() - t < 0.5 do end print('slow')";
    assert_eq!(&session.eval(slow).await.unwrap().stdout[..], b"slow\n");
    assert_eq!(
        &session.eval("print('next')").await.unwrap().stdout[..],
        b"next\n"
    );
}

async fn d11_output_comes_in_the_order_in_which_it_was_written(bench: &Bench) {
    let session = open(bench, "one").await;
    let reply = session
        .eval("for i = 1, 20000 do print(i) end")
        .await
        .unwrap();
    let lines: Vec<String> = (1..=20000).map(|i| format!("{i}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&reply.stdout), lines.concat());
}

async fn d12_two_executions_at_once_know_their_own(bench: &Bench) {
    let first = bench
        .manager
        .spawn_execution("vm", "while true do end")
        .unwrap();
    let second = bench.manager.spawn_execution("vm", "print(2)").unwrap();
    assert_eq!(second.wait().await.unwrap().stdout_text(), "2\n");
    assert_eq!(first.status(), ExecutionStatus::Running);
    first.cancel();
    assert!(first.wait().await.is_err());
}

async fn d16_a_session_starts_every_time(bench: &Bench) {
    for number in 0..5 {
        let session = open(bench, "one").await;
        let answer = session.eval(format!("{number} + 1")).await.unwrap().answer;
        assert_eq!(answer, integer(number + 1));
        session.close().await;
    }
}

async fn d17_a_session_that_exits_is_over(bench: &Bench) {
    let session = open(bench, "one").await;
    let reply = session.eval("os.exit(3)").await.unwrap();
    assert_eq!(reply.answer, Answer::Ended(Status::Exited(3)));
    let error = session.eval("id").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);
}

async fn d19_empty_lines_and_prompts_in_the_output_stay(bench: &Bench) {
    let outcome = run(bench, r"io.write('> a\n\n>> b\n>c\n\n')").await;
    assert_eq!(outcome.stdout_text(), "> a\n\n>> b\n>c\n\n");
}

async fn d20_output_over_the_limit_is_cut_and_said_so(bench: &Bench) {
    let script =
        Script::new("io.write(('x'):rep(100000)) io.stderr:write('y')").with_max_output(10);
    let outcome = run(bench, script).await;
    assert_eq!(
        (&outcome.stdout[..], outcome.stdout_truncated),
        (&b"xxxxxxxxxx"[..], true)
    );
    assert_eq!(
        (&outcome.stderr[..], outcome.stderr_truncated),
        (&b"y"[..], false)
    );
    assert!(outcome.success());
}

async fn d21_sessions_end_with_their_vm(bench: &Bench) {
    let session = open(bench, "one").await;
    bench.manager.remove_vm("vm").await.unwrap();
    assert!(
        session.eval("1").await.is_err()
            || matches!(session.status(), bioxen::SessionStatus::Ended)
    );
    assert_eq!(bench.manager.stats().interactive_sessions, 0);
}

async fn d27_arguments_are_never_code(bench: &Bench) {
    let hostile = "x',1) print('INJECTED') --$(id)`id`\n";
    let script = Script::new("io.write((...), arg[0])")
        .with_name("a 'name'")
        .arg(hostile);
    let outcome = run(bench, script).await;
    assert_eq!(outcome.stdout_text(), format!("{hostile}a 'name'"));
}

async fn output_over_any_buffer_is_handed_on_whole(bench: &Bench) {
    // More than any buffer on the way holds.
    const SIZE: usize = 32 << 20;
    let code = format!(
        "local s = ('x'):rep(2^16) for _ = 1, {} do io.write(s) end",
        SIZE >> 16
    );
    let (execution, mut output) = bench.manager.spawn_streaming("vm", code).unwrap();
    let mut got = 0;
    while let Some((_, piece)) = output.recv().await {
        got += piece.len();
    }
    assert_eq!(got, SIZE);
    assert!(execution.wait().await.unwrap().success());
}

async fn input_comes_as_it_is_written(bench: &Bench) {
    // The second line is written when the first has been answered.
    let code = "io.stdout:setvbuf('no') for line in io.lines() do print('got ' .. line) end";
    let (mut ours, theirs) = tokio::io::duplex(64);
    let script = Script::new(code).with_stdin(Input::stream(theirs));
    let (execution, mut output) = bench.manager.spawn_streaming("vm", script).unwrap();
    let mut got = Vec::new();
    for (line, answer) in [("one\n", "got one\n"), ("two\n", "got one\ngot two\n")] {
        ours.write_all(line.as_bytes()).await.unwrap();
        while got.len() < answer.len() {
            let (_, piece) = output.recv().await.unwrap();
            got.extend_from_slice(&piece);
        }
        assert_eq!(String::from_utf8_lossy(&got), answer);
    }
    drop(ours);
    assert!(output.recv().await.is_none());
    assert!(execution.wait().await.unwrap().success());
}

async fn a_file_of_this_machine_is_run_by_its_path(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my program.lua");
    std::fs::write(&file, "#!/usr/bin/lua\nprint('ran') error('boom')").unwrap();
    let outcome = bench.manager.execute_file("vm", &file).await.unwrap();
    assert_eq!(outcome.status, Status::Exited(1));
    assert_eq!(outcome.stdout_text(), "ran\n");
    let named = "my program.lua:2: boom\n";
    assert!(
        outcome.stderr_text().contains(named),
        "{}",
        outcome.stderr_text()
    );
    let missing = folder.path().join("missing.lua");
    let error = bench.manager.execute_file("vm", &missing).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing.lua"), "{error}");
}

async fn relative_names_are_meant_from_the_working_directory(bench: &Bench) {
    let temporary = run(bench, "io.write(os.getenv('TMPDIR') or '/tmp')").await;
    let folder = temporary.stdout_text().into_owned();
    // The guests of one machine may share such a folder.
    let name = format!("here-{}-{}", bench.vm_type, std::process::id());
    let make = "local file = assert(io.open((...), 'w')) file:write('x') file:close()";
    let make = Script::new(make).arg(name.clone()).with_cwd(folder.clone());
    let made = run(bench, make).await;
    assert!(made.success(), "{}", made.stderr_text());
    let read = Script::new("local file = io.open((...)) io.write(file and file:read('*a') or '-')");
    // Without one programs start in another folder.
    let elsewhere = read.clone().arg(name.clone());
    assert_eq!(run(bench, elsewhere).await.stdout_text(), "-");
    let path = format!("{folder}/{name}");
    assert_eq!(run(bench, read.arg(path.clone())).await.stdout_text(), "x");
    let gone = run(bench, Script::new("assert(os.remove((...)))").arg(path)).await;
    assert!(gone.success(), "{}", gone.stderr_text());
    let nowhere = Script::new("print('ran')").with_cwd("/no/such/folder");
    match bench.manager.execute_vm("vm", nowhere).await {
        Ok(outcome) => assert!(
            !outcome.success() && outcome.stdout.is_empty(),
            "{outcome:?}"
        ),
        Err(error) => assert!(error.to_string().contains("/no/such/folder"), "{error}"),
    }
}

async fn open(bench: &Bench, name: &str) -> bioxen::Session {
    let options = SessionOptions::named(name);
    bench.manager.open_session("vm", options).await.unwrap()
}

fn integer(number: i64) -> Answer {
    Answer::Returned(Returned::Values(vec![LuaValue::Integer(number)]))
}

fn nothing_but_nil() -> Answer {
    Answer::Returned(Returned::Values(vec![LuaValue::Nil]))
}

/// How many programs of random bytes each kind of VM is given.
const CASES: u32 = 30;

/// Tells all that came to it: input, a variable, arguments. The same in every Lua.
const TELL: &str = "io.write(io.read('*a'), '|', os.getenv('E') or '', '|') \
                    for i = 1, #arg do io.write(#arg[i], ':', arg[i]) end \
                    return #arg, arg[1]";

/// All kinds of VMs give the same bytes for any bytes.
pub(crate) fn agreement() -> Trial {
    Trial::test("agreement::any_bytes_give_the_same_everywhere", || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let mut benches = Vec::new();
        for target in TARGETS {
            benches.push((target, runtime.block_on(target.bench())));
        }
        let bytes = |most| proptest::collection::vec(any::<u8>(), 0..=most);
        let inputs = (
            bytes(60),
            bytes(5000),
            proptest::collection::vec(bytes(300), 0..4),
            "[^\0]{0,40}",
        );
        let mut runner = TestRunner::new(ProptestConfig {
            cases: CASES,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let result = runner.run(&inputs, |(code, input, args, variable)| {
            let mut tell = Script::new(TELL).with_stdin(input).with_env("E", variable);
            tell.args = args.into_iter().map(Into::into).collect();
            runtime.block_on(async {
                let mut told = Vec::new();
                for (_, bench) in &benches {
                    told.push(ending(run(bench, tell.clone()).await));
                }
                for other in &told[1..] {
                    prop_assert_eq!(&told[0], other);
                }
                // Seldom a program, always an answer.
                let script = Script::new(code).with_name("any");
                if script.validate().is_err() {
                    return Ok(());
                }
                let mut newest = None;
                for (target, bench) in &benches {
                    let outcome = ending(run(bench, script.clone()).await);
                    if target.is_newest() {
                        prop_assert_eq!(newest.get_or_insert_with(|| outcome.clone()), &outcome);
                    } else {
                        // Each Lua has its own words for what is wrong.
                        let fails =
                            outcome.0 == Status::Exited(1) && outcome.2.starts_with(b"lua: any:");
                        prop_assert!(fails || outcome.0 == Status::Exited(0), "{:?}", outcome);
                    }
                }
                Ok(())
            })
        });
        for (_, bench) in benches {
            runtime.block_on(bench.end());
        }
        result.map_err(|error| error.to_string().into())
    })
}

/// What is the same in every VM.
fn ending(outcome: Outcome) -> (Status, Bytes, Bytes, Returned) {
    let Outcome {
        status,
        stdout,
        stderr,
        returned,
        ..
    } = outcome;
    (status, stdout, stderr, returned)
}
