//! Interpreters that wait give the same outcomes as those that are started for a program.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "local")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::lua::{self, Mark, WarmInterpreters};
use bioxen_vm_core::{
    Command, Gather, Outcome, OutputSink, Result, Runner, Script, Status, channel,
};

fn warm(interpreter: &str) -> WarmInterpreters {
    WarmInterpreters::new(Arc::new(LocalRunner::new()), interpreter, Vec::new())
}

/// Runs a program in an interpreter that waits, once there is one.
async fn run(warm: &WarmInterpreters, script: &Script) -> Outcome {
    loop {
        let mut gather = Gather::new(script.max_output);
        if let Some(outcome) = warm.run(script, &mut gather).await.unwrap() {
            return gather.into_outcome(outcome);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run_cold(interpreter: &str, script: &Script) -> Outcome {
    let mark = Mark::new();
    let command = lua::command(interpreter, script, Some(&mark));
    let mut gather = Gather::new(script.max_output);
    let outcome = lua::run(&LocalRunner::new(), command, &mark, &mut gather).await;
    gather.into_outcome(outcome.unwrap())
}

#[tokio::test]
async fn programs_end_as_in_an_interpreter_of_their_own_in_every_lua() {
    for interpreter in ["lua5.1", "lua5.3", "lua5.4", "luajit"] {
        let warm = warm(interpreter);
        for script in [
            Script::new("print('hi') return {gc = 0.5}, 'x'"),
            Script::new("x = 1"),
            Script::new("print(x)"),
            Script::new("error('boom')"),
            Script::new("x = = 1"),
            Script::new("os.exit(7)"),
            Script::new("os.exit(137)"),
            Script::new("os.exit(255)"),
            Script::new("os.execute('kill -9 $PPID')"),
            Script::new("os.execute('kill -TERM $PPID')"),
            Script::new("os.execute('echo from a child')"),
            Script::new("print(io.read('*a') == '')"),
            Script::new("io.write(#io.read('*a'))").with_stdin(vec![0xff; 50_000]),
            Script::new("io.write('unread')").with_stdin(vec![0xff; 50_000]),
            Script::new("print(#arg, arg[0], ...)")
                .with_name("it's")
                .arg("$(id)")
                .arg("")
                .arg("a\nb"),
            Script::new(format!("print(#'{}')", "ACGT".repeat(100_000))),
            Script::new("io.stdout:write('\\255\\0\\1') io.stderr:write('\\254')"),
            Script::new("io.write(('x'):rep(1000)) io.stderr:write('y')").with_max_output(10),
            Script::new("for i = 1, 20000 do print(i) io.stderr:write(i, '\\n') end"),
            Script::new("print(os.getenv('_warm_lua'), os.getenv('_warm_driver'))"),
            Script::new("print(arg[-1], #package.path > 0)"),
            Script::new("os.exit(true, true)"),
            Script::new("io.write('out') io.stdout:close() return 1"),
            Script::new("print('out') io.stderr:close()"),
            Script::new("io.stdout:setvbuf('no') io.write('a') io.write('b')"),
            Script::new("io.write('\\1') return '\\1'"),
            // What is collected last still belongs to the program.
            Script::new(
                "local function last() print('collected') error('in vain') end \
                 if newproxy then kept = newproxy(true) getmetatable(kept).__gc = last \
                 else kept = setmetatable({}, {__gc = last}) end",
            ),
            Script::new("local pipe = io.popen('sleep 0.01; cat', 'w') pipe:write('to the end')"),
            Script::new("debug.getregistry()[1] = nil collectgarbage() collectgarbage()"),
        ] {
            let ours = run(&warm, &script).await;
            let theirs = run_cold(interpreter, &script).await;
            let essence = |mut outcome: Outcome| {
                outcome.duration = Duration::ZERO;
                outcome
            };
            assert_eq!(essence(ours), essence(theirs), "{interpreter}: {script:?}");
        }
        warm.close().await;
    }
}

/// Its end is told before its process is gone, but not before what it wrote.
#[tokio::test]
async fn files_that_a_program_leaves_open_are_written_when_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("left open");
    for interpreter in ["lua5.1", "lua5.3", "lua5.4", "luajit"] {
        let warm = warm(interpreter);
        for round in 0..20 {
            let text = format!("{interpreter} {round}");
            let script = Script::new("file = io.open(arg[1], 'w') file:write(arg[2])")
                .arg(path.as_os_str().as_encoded_bytes().to_vec())
                .arg(text.clone());
            assert!(run(&warm, &script).await.success());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        warm.close().await;
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_and_never_writes_into_the_next_one() {
    let warm = warm("lua5.4");
    for _ in 0..5 {
        let leaves = "os.execute('(sleep 0.02; echo late; sleep 3600) & echo $!')";
        let outcome = run(&warm, &Script::new(leaves)).await;
        let outcome_text = outcome.stdout_text().into_owned();
        for _ in 0..3 {
            let next = run(&warm, &Script::new("print('next')")).await;
            assert_eq!(next.stdout_text(), "next\n");
        }
        let pid = outcome_text.trim();
        while std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    warm.close().await;
}

#[tokio::test]
async fn time_that_is_up_and_a_taker_that_wants_no_more_end_the_program() {
    let warm = warm("lua5.4");
    let endless = Script::new("print('so far') io.stdout:flush() while true do end");
    let outcome = run(
        &warm,
        &endless.clone().with_timeout(Duration::from_millis(500)),
    )
    .await;
    assert_eq!(outcome.status, Status::TimedOut);
    assert_eq!(outcome.stdout_text(), "so far\n");

    let (mut sink, mut output) = channel(1);
    let leave = async {
        assert!(output.recv().await.is_some());
        drop(output);
    };
    let endless = Script::new("while true do print('more') end");
    let running = async {
        loop {
            if let Some(outcome) = warm.run(&endless, &mut sink).await.unwrap() {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (outcome, ()) = tokio::join!(running, leave);
    assert_eq!(outcome.status, Status::OutputLimit);
    assert_eq!(
        run(&warm, &Script::new("print(1)")).await.stdout_text(),
        "1\n"
    );
    warm.close().await;
}

#[tokio::test]
async fn programs_that_need_more_than_a_waiting_interpreter_are_not_begun() {
    let warm = warm("lua5.4");
    run(&warm, &Script::new("x = 1")).await;
    for script in [
        Script::new("x = 1").with_env("A", "b"),
        Script::new("x = 1").with_cwd("/"),
        Script::new("x = 1").with_stdin(bioxen_vm_core::Input::stream(&b"x"[..])),
        Script::new("x = 1").with_stdin(vec![0; 100_000]),
    ] {
        let mut gather = Gather::new(1);
        assert!(warm.run(&script, &mut gather).await.unwrap().is_none());
    }
    warm.close().await;
}

#[tokio::test]
async fn an_interpreter_that_cannot_wait_is_not_tried_for_ever() {
    let warm = warm("true");
    for _ in 0..200 {
        let mut gather = Gather::new(1);
        let script = Script::new("x = 1");
        assert!(warm.run(&script, &mut gather).await.unwrap().is_none());
    }
    warm.close().await;
}

/// Tells each command how many were started before it.
#[derive(Debug, Default)]
struct Numbering {
    runner: LocalRunner,
    started: AtomicUsize,
}

#[async_trait]
impl Runner for Numbering {
    async fn run(&self, command: Command) -> Result<Outcome> {
        self.runner.run(command).await
    }

    async fn run_streaming(&self, command: Command, sink: &mut dyn OutputSink) -> Result<Outcome> {
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        let command = command.with_env("NUMBER", number.to_string());
        self.runner.run_streaming(command, sink).await
    }

    fn describe(&self) -> String {
        self.runner.describe()
    }
}

#[tokio::test]
async fn in_doubt_those_that_wait_and_those_that_are_being_started_are_given_up() {
    let runner = Arc::new(Numbering::default());
    let warm = WarmInterpreters::new(Arc::<Numbering>::clone(&runner), "lua5.4", Vec::new());
    warm.prepare();
    for _ in 0..3 {
        while runner.started.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        let before = runner.started.load(Ordering::SeqCst);
        warm.doubt();
        let outcome = run(&warm, &Script::new("print(os.getenv('NUMBER'))")).await;
        let number: usize = outcome.stdout_text().trim().parse().unwrap();
        assert!(number >= before, "{number} of {before}");
    }
    warm.close().await;
}
