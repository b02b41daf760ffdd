//! Lua states that live on.

use bioxen::{Answer, ErrorKind, LuaValue, Returned, SessionOptions, Status};

use super::{Entry, SESSIONS};
use crate::target::Bench;

pub(super) const TRIALS: &[Entry] = trials![
    SESSIONS b13_a_session_keeps_its_state,
    SESSIONS d09_replies_have_no_echo_and_no_prompt,
    SESSIONS d10_a_reply_is_complete_when_it_comes,
    SESSIONS d11_output_comes_in_the_order_in_which_it_was_written,
    SESSIONS d16_a_session_starts_every_time,
    SESSIONS d17_a_session_that_exits_is_over,
    SESSIONS d21_sessions_end_with_their_vm,
    SESSIONS sessions_refuse_what_no_machine_can_take,
];

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

async fn d21_sessions_end_with_their_vm(bench: &Bench) {
    let session = open(bench, "one").await;
    bench.manager.remove_vm("vm").await.unwrap();
    assert!(
        session.eval("1").await.is_err()
            || matches!(session.status(), bioxen::SessionStatus::Ended)
    );
    assert_eq!(bench.manager.stats().interactive_sessions, 0);
}

async fn sessions_refuse_what_no_machine_can_take(bench: &Bench) {
    let options = || SessionOptions::named("odd");
    for options in [
        options().with_env("A-B", "x"),
        options().with_env("A", "x\0y"),
        options().with_cwd("/tmp\0"),
    ] {
        let error = bench.manager.open_session("vm", options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
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
