//! Sessions, and output as it comes.

use std::time::Duration;

use bioxen_vm_basic::{BasicConfig, Walls};
use bioxen_vm_core::{
    Answer, Chunk, ErrorKind, LuaValue, OutputStream, Returned, Script, Session, SessionEvent,
    SessionOptions, Status, channel,
};

use crate::support::Lab;

fn integer(number: i64) -> Answer {
    Answer::Returned(Returned::Values(vec![LuaValue::Integer(number)]))
}

#[tokio::test]
async fn a_session_keeps_its_state_within_the_walls_of_its_vm() {
    for lab in Lab::all().await {
        let session = lab
            .vm
            .open_session(SessionOptions::default())
            .await
            .unwrap();
        let other = lab
            .vm
            .open_session(SessionOptions::default())
            .await
            .unwrap();
        session.eval("x = 41").await.unwrap();
        assert_eq!(session.eval("x + 1").await.unwrap().answer, integer(42));
        assert_eq!(
            other.eval("x").await.unwrap().answer,
            Answer::Returned(Returned::Values(vec![LuaValue::Nil]))
        );
        let reply = session
            .eval("print((io.open('/etc/passwd')))")
            .await
            .unwrap();
        assert_eq!(reply.stdout, "nil\n");
        let reply = session
            .eval("io.stderr:write('e') print(1) error('boom')")
            .await
            .unwrap();
        assert_eq!(
            (&reply.stdout[..], &reply.stderr[..]),
            (&b"1\n"[..], &b"e"[..])
        );
        let Answer::Failed(message) = reply.answer else {
            panic!("{reply:?}")
        };
        assert!(message.starts_with("stdin:1: boom"), "{message}");
        session.close().await;
        assert_eq!(other.eval("1").await.unwrap().answer, integer(1));
        lab.vm.stop().await.unwrap();
        assert!(other.eval("1").await.is_err());
        let error = lab
            .vm
            .open_session(SessionOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState);
    }
}

#[tokio::test]
async fn a_chunk_that_runs_can_be_interrupted_and_the_state_stays() {
    let foreign = BasicConfig::default().with_lua_executable("lua5.4");
    let bare = foreign.clone().with_walls(Walls::Off);
    let thread = BasicConfig::default().with_in_process(true);
    for config in [BasicConfig::default(), thread, foreign, bare] {
        let in_lua = config.lua_executable.is_none();
        let lab = Lab::new(config).await;
        assert!(lab.vm.capabilities().interrupts);
        let options = SessionOptions::default().interruptible();
        let session = lab.vm.open_session(options).await.unwrap();
        session.eval("x = 7").await.unwrap();
        let mut chunks = vec!["while true do end"];
        if in_lua {
            // No `pcall` and no coroutine keeps it.
            chunks.extend([
                "while true do pcall(function() while true do end end) end",
                "coroutine.wrap(function() while true do end end)()",
                "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
                "xpcall(function() while true do end end, function() while true do end end)",
                "table.sort({1, 2, 3}, function() while true do end end)",
            ]);
        }
        for chunk in chunks {
            interrupt(&session, chunk).await;
            assert_eq!(session.eval("x").await.unwrap().answer, integer(7));
        }
        // There is nothing to interrupt, and nothing is kept for later.
        session.interrupt().await.unwrap();
        let chunk = "local n = 0 for i = 1, 1e6 do n = n + 1 end return n";
        assert_eq!(
            session.eval(chunk).await.unwrap().answer,
            integer(1_000_000)
        );
        let reply = session.eval("os.exit(3)").await.unwrap();
        assert_eq!(reply.answer, Answer::Ended(Status::Exited(3)));
    }
}

/// Runs a chunk that does not end, and interrupts it.
async fn interrupt(session: &Session, chunk: &str) {
    let chunk = format!("print('on') io.stdout:flush() {chunk}");
    let mut events = session.attach();
    let running = session.eval(chunk.clone());
    let (reply, ()) = tokio::join!(running, async {
        while !matches!(events.next().await.unwrap(), SessionEvent::Output(..)) {}
        session.interrupt().await.unwrap();
    });
    let Answer::Failed(why) = reply.unwrap().answer else {
        panic!("{chunk} did not fail")
    };
    assert!(why.contains("interrupted!"), "{chunk}: {why}");
}

#[tokio::test]
async fn a_finalizer_that_does_not_end_ends_with_the_time_of_its_chunk() {
    let lab = Lab::built_in().await;
    let plain = SessionOptions::default();
    for options in [plain.clone(), plain.interruptible()] {
        for code in [
            "setmetatable({}, {__gc = function() while true do end end}) collectgarbage()",
            "local x <close> = setmetatable({}, {__close = function() while true do end end})",
        ] {
            let session = lab.vm.open_session(options.clone()).await.unwrap();
            let chunk = Chunk::new(code).with_timeout(Duration::from_millis(300));
            let reply = session.eval(chunk).await.unwrap();
            assert_eq!(reply.answer, Answer::Ended(Status::TimedOut), "{code}");
        }
    }
}

#[tokio::test]
async fn a_session_at_full_speed_says_that_it_cannot_be_interrupted() {
    let lab = Lab::built_in().await;
    let options = SessionOptions::default();
    let session = lab.vm.open_session(options).await.unwrap();
    let mut events = session.attach();
    let running = session.eval("print('on') io.stdout:flush() io.read() while true do end");
    let (_, ()) = tokio::join!(running, async {
        while !matches!(events.next().await.unwrap(), SessionEvent::Output(..)) {}
        let error = session.interrupt().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("interruptible"), "{error}");
        session.close().await;
    });
}

#[tokio::test]
async fn returned_values_arrive_as_data() {
    for lab in Lab::all().await {
        let outcome = lab
            .vm
            .execute("return {gc = 0.5, n = 3}".into())
            .await
            .unwrap();
        let value = outcome.returned.first().unwrap();
        assert_eq!(value.get("gc"), Some(&LuaValue::Float(0.5)));
        assert_eq!(value.get("n"), Some(&LuaValue::Integer(3)));
        assert_eq!(
            (outcome.stdout_text(), outcome.stderr_text()),
            ("".into(), "".into())
        );
    }
}

#[tokio::test]
async fn output_comes_while_the_program_runs_and_input_goes_to_it() {
    for lab in Lab::all().await {
        let (mut sink, mut pieces) = channel(1);
        let (ours, theirs) = tokio::io::duplex(64);
        let code = "print('ready') io.stdout:flush() print(io.read('a'))";
        let script = Script::new(code).with_stdin(bioxen_vm_core::Input::stream(theirs));
        let talk = async move {
            use tokio::io::AsyncWriteExt;
            let mut ours = ours;
            let first = pieces.recv().await.unwrap();
            assert_eq!(first, (OutputStream::Stdout, "ready\n".into()));
            ours.write_all(b"late").await.unwrap();
            drop(ours);
            assert_eq!(pieces.recv().await.unwrap().1, "late\n");
        };
        let (outcome, ()) = tokio::join!(lab.vm.execute_streaming(script, &mut sink), talk);
        assert!(outcome.unwrap().success());
    }
}

#[tokio::test]
async fn a_program_ends_when_nobody_takes_its_output() {
    for lab in Lab::both_with(BasicConfig::default()).await {
        let (mut sink, pieces) = channel(1);
        drop(pieces);
        let code = "while true do print('x') end";
        let outcome = lab
            .vm
            .execute_streaming(code.into(), &mut sink)
            .await
            .unwrap();
        assert_eq!(outcome.status, Status::OutputLimit);
        assert!(lab.vm.execute("print(1)".into()).await.unwrap().success());
    }
}
