//! What a session promises, in every Lua.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "local")]

use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{
    Answer, Chunk, ErrorKind, LuaValue, OutputStream, Returned, Session, SessionEvent,
    SessionOptions, SessionStatus, Status, channel, lua,
};

const INTERPRETERS: [&str; 4] = ["lua5.1", "lua5.3", "lua5.4", "luajit"];

async fn open(interpreter: &str) -> Session {
    let command = lua::session_command(interpreter, &SessionOptions::default());
    let host = lua::RunnerHost::new(Arc::new(LocalRunner::new()), command);
    Session::open("test", Arc::new(host)).await.unwrap()
}

fn integer(number: i64) -> Answer {
    Answer::Returned(Returned::Values(vec![LuaValue::Integer(number)]))
}

const NOTHING: Answer = Answer::Returned(Returned::Nothing);

#[tokio::test]
async fn state_lives_on_and_value_output_and_error_come_apart() {
    for interpreter in INTERPRETERS {
        let session = open(interpreter).await;
        assert_eq!(session.eval("x = 41").await.unwrap().answer, NOTHING);
        assert_eq!(session.eval("x + 1").await.unwrap().answer, integer(42));
        let reply = session.eval("io.write('a') io.stderr:write('b') print() io.stdout:flush() os.execute('echo c; echo d >&2') return 7").await.unwrap();
        assert_eq!(reply.answer, integer(7), "{interpreter}");
        assert_eq!(
            (&reply.stdout[..], &reply.stderr[..]),
            (&b"a\nc\n"[..], &b"bd\n"[..])
        );
        let reply = session
            .eval("print('before') local y = nil; y.z = 1")
            .await
            .unwrap();
        assert_eq!(&reply.stdout[..], b"before\n");
        let Answer::Failed(message) = reply.answer else {
            panic!("{reply:?}")
        };
        assert!(
            message.starts_with("stdin:1: attempt to index"),
            "{message}"
        );
        assert!(message.contains("stack traceback:"), "{message}");
        assert!(
            !message.contains("xpcall") && !message.contains("command line"),
            "{message}"
        );
        assert_eq!(session.eval("x").await.unwrap().answer, integer(41));
        session.close().await;
        assert_eq!(session.status(), SessionStatus::Ended);
    }
}

#[tokio::test]
async fn a_chunk_that_is_not_complete_is_told_from_one_that_is_wrong() {
    for interpreter in INTERPRETERS {
        let session = open(interpreter).await;
        for code in [
            "function f()",
            "x = {",
            "f(",
            "for i = 1, 2 do",
            "s = [[a\nb",
        ] {
            let answer = session.eval(code).await.unwrap().answer;
            assert_eq!(answer, Answer::Incomplete, "{interpreter}: {code}");
        }
        for code in ["x = = 1", "end", "\x1bLua", "goto"] {
            let answer = session.eval(code).await.unwrap().answer;
            assert!(
                matches!(answer, Answer::Failed(_)) || code == "goto",
                "{interpreter}: {code}: {answer:?}"
            );
        }
        for code in [
            "",
            "-- comment",
            "local function g(n)\n\treturn n * 2\nend\nr = g(4)",
        ] {
            assert_eq!(
                session.eval(code).await.unwrap().answer,
                NOTHING,
                "{interpreter}: {code}"
            );
        }
        assert_eq!(session.eval("r").await.unwrap().answer, integer(8));
    }
}

#[tokio::test]
async fn input_is_empty_and_nothing_that_a_chunk_does_disturbs_the_protocol() {
    for interpreter in INTERPRETERS {
        let session = open(interpreter).await;
        for (code, stdout) in [
            ("print(io.read('*a') == '', io.read())", "true\tnil\n"),
            ("os.execute('cat')", ""),
            ("io.stdout:setvbuf('full') io.write('kept')", "kept"),
            ("io.write('\\1\\1\\10S0\\n')", "\u{1}\u{1}\nS0\n"),
            ("print = nil io.write = nil string.find = nil", ""),
            ("table.unpack, unpack, tostring, pcall = nil", ""),
            ("io.stdout:write('still here')", "still here"),
        ] {
            let reply = session.eval(code).await.unwrap();
            assert!(
                matches!(reply.answer, Answer::Returned(_)),
                "{interpreter}: {code}: {reply:?}"
            );
            assert_eq!(
                String::from_utf8_lossy(&reply.stdout),
                stdout,
                "{interpreter}: {code}"
            );
        }
    }
}

#[tokio::test]
async fn exit_ends_the_session_with_that_code_and_nothing_takes_its_place() {
    for interpreter in INTERPRETERS {
        let session = open(interpreter).await;
        let reply = session.eval("io.write('bye') os.exit(3)").await.unwrap();
        assert_eq!(
            reply.answer,
            Answer::Ended(Status::Exited(3)),
            "{interpreter}"
        );
        assert_eq!(&reply.stdout[..], b"bye");
        let error = session.eval("id").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState);
        assert!(error.to_string().contains("exit code 3"), "{error}");
    }
}

#[tokio::test]
async fn an_interrupt_fails_the_chunk_and_leaves_the_session() {
    // What LuaJIT has compiled it does not interrupt.
    for interpreter in ["lua5.1", "lua5.3", "lua5.4"] {
        let session = open(interpreter).await;
        for round in 0..3 {
            session.eval(format!("n = {round}")).await.unwrap();
            let endless = session.clone();
            let (mut sink, mut output) = channel(1);
            let code = "print('on') io.stdout:flush() while true do end";
            let running =
                tokio::spawn(async move { endless.eval_streaming(code, &mut sink).await });
            assert_eq!(output.recv().await.unwrap().1, "on\n");
            session.interrupt().await.unwrap();
            let answer = running.await.unwrap().unwrap();
            let Answer::Failed(message) = answer else {
                panic!("{interpreter}: {answer:?}")
            };
            assert!(message.contains("interrupted!"), "{message}");
            assert_eq!(session.eval("n").await.unwrap().answer, integer(round));
        }
    }
}

#[tokio::test]
async fn printing_shows_values_as_the_lua_program_does() {
    let session = open("lua5.4").await;
    let reply = session
        .eval(Chunk::new("1, 'two', {}, nil").printing())
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&reply.stdout).into_owned();
    assert!(
        text.starts_with("1\ttwo\ttable: 0x") && text.ends_with("\tnil\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_chunk_that_nobody_waits_for_runs_on_and_later_ones_wait() {
    let session = open("lua5.4").await;
    let mut attached = session.attach();
    assert_eq!(session.attached(), 1);
    let evaluation = session.eval("os.execute('sleep 0.1') x = 1 print('done')");
    assert!(
        tokio::time::timeout(Duration::from_millis(10), evaluation)
            .await
            .is_err()
    );
    assert_eq!(session.eval("x").await.unwrap().answer, integer(1));
    assert_eq!(session.history().len(), 2);
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(attached.next().await.unwrap());
    }
    assert!(matches!(&seen[0], SessionEvent::Chunk(code) if code.starts_with(b"os.execute")));
    assert_eq!(
        seen[1],
        SessionEvent::Output(OutputStream::Stdout, "done\n".into())
    );
    assert_eq!(seen[2], SessionEvent::Answered(NOTHING));
    assert_eq!(seen[4], SessionEvent::Answered(integer(1)));
    drop(attached);
    assert_eq!(session.attached(), 0);
}

#[tokio::test]
async fn time_that_is_up_ends_the_session_and_what_it_started() {
    let session = open("lua5.4").await;
    let chunk = Chunk::new("os.execute('sleep 3600')").with_timeout(Duration::from_millis(100));
    let reply = session.eval(chunk).await.unwrap();
    assert_eq!(reply.answer, Answer::Ended(Status::TimedOut));
    assert_eq!(session.status(), SessionStatus::Ended);
}

#[tokio::test]
async fn what_is_no_lua_is_said_so() {
    let command = lua::session_command("/bin/false", &SessionOptions::default());
    let host = lua::RunnerHost::new(Arc::new(LocalRunner::new()), command);
    let error = Session::open("test", Arc::new(host)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let command = lua::session_command("no-such-lua", &SessionOptions::default());
    let host = lua::RunnerHost::new(Arc::new(LocalRunner::new()), command);
    let error = Session::open("test", Arc::new(host)).await.unwrap_err();
    assert!(error.to_string().contains("no-such-lua"), "{error}");
}
