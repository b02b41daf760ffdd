//! A program behaves in a VM as it does on this machine.

use std::time::Duration;

use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{
    Answer, Backend, ErrorKind, LuaValue, Outcome, Returned, Runner, Script, SessionOptions,
    Status, channel, lua,
};

use crate::lab::Lab;

fn essence(outcome: &Outcome) -> (Status, String, String, bool, bool) {
    (
        outcome.status,
        outcome.stdout_text().into_owned(),
        outcome.stderr_text().into_owned(),
        outcome.stdout_truncated,
        outcome.stderr_truncated,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_the_same_here_and_there() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let scripts = [
        Script::new("print('hi')"),
        Script::new("io.write('no newline')"),
        Script::new("-- only a comment"),
        Script::new("error('boom')"),
        Script::new("error({})"),
        Script::new("x = = 1"),
        Script::new("local function f() local x = nil; return x.y end\nf()"),
        Script::new("os.exit(7)"),
        Script::new("os.exit(255)"),
        Script::new("os.exit(137)"),
        Script::new("io.stdout:write('\\255\\0') io.stderr:write('\\254')"),
        Script::new("os.execute('kill -9 $PPID')"),
        Script::new("os.execute('kill -TERM $PPID')"),
        Script::new("print(os.getenv('A'), os.getenv('HTTP_PROXY'))").with_env("A", "b c\n'"),
        Script::new("print(#arg, arg[0], ...)")
            .with_name("it's")
            .arg("$(id)")
            .arg("")
            .arg("a\nb"),
        Script::new("io.write(#io.read('a'))").with_stdin(vec![0xff; 300_000]),
        Script::new(format!("print(#'{}')", "ACGT".repeat(100_000))),
        Script::new("io.write(('x'):rep(1000)) io.stderr:write(('y'):rep(1000))")
            .with_max_output(10),
        Script::new("print('first') io.stdout:flush() while true do end")
            .with_timeout(Duration::from_secs(1)),
        Script::new("print(os.execute('exit 3'))"),
        Script::new("print(pcall(io.lines, '/no/such'))"),
        Script::new("print(os.getenv('PATH'))").with_env("PATH", "/nowhere"),
    ];
    for script in scripts {
        let there = vm.execute(script.clone()).await.unwrap();
        let mut command = lua::command("/usr/bin/lua5.4", &script, None);
        command.timeout = script.timeout;
        let here = LocalRunner::new().run(command).await.unwrap();
        assert_eq!(essence(&there), essence(&here), "{script:?}");
    }
    for wrong in ["", "  \n"] {
        let error = vm.execute(Script::new(wrong)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_script_exceeds_the_time_limit_of_the_configuration() {
    let lab = Lab::start().await;
    let config = lab.config(serde_json::json!({"execution_timeout": "500ms"}));
    let backend = bioxen_vm_xcpng::XcpngBackend::new(config).unwrap();
    let vm = lab.running(&backend, "vm1").await;
    let endless = Script::new("while true do end");
    for script in [
        endless.clone(),
        endless.with_timeout(Duration::from_secs(3600)),
    ] {
        assert_eq!(vm.execute(script).await.unwrap().status, Status::TimedOut);
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_everything_that_the_program_started() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let script = Script::new("os.execute('exec sleep 98765')").with_timeout(Duration::from_secs(1));
    assert_eq!(vm.execute(script).await.unwrap().status, Status::TimedOut);
    let site = vm.package_site().await.unwrap();
    // The pattern does not match the command that looks for it.
    let look = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; echo; done | grep -c '^[s]leep 98765'";
    loop {
        let command = bioxen_vm_core::Command::new("sh").args(["-c", look]);
        let outcome = site.runner.run(command).await.unwrap();
        if outcome.stdout_text().trim() == "0" {
            break;
        }
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_find_the_packages_of_the_vm() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let site = vm.package_site().await.unwrap();
    assert_eq!(site.lua_version, "5.4");
    let dir = format!("{}/share/lua/5.4", site.tree);
    let install = bioxen_vm_core::Command::new("sh")
        .args(["-c", "mkdir -p \"$1\" && cat >\"$1/greet.lua\"", "sh", &dir])
        .with_stdin("return {hello = function() return 'from a package' end}");
    assert!(site.runner.run(install).await.unwrap().success());
    let outcome = vm
        .execute(Script::new("print(require('greet').hello())"))
        .await
        .unwrap();
    assert_eq!(outcome.stdout_text(), "from a package\n", "{outcome:?}");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_and_sessions_keep_their_state() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let outcome = vm.execute("return {gc = 0.5}".into()).await.unwrap();
    assert_eq!(outcome.returned.first().unwrap().to_string(), "{gc = 0.5}");
    assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty());

    let (one, two) = tokio::join!(
        vm.open_session(SessionOptions::named("one")),
        vm.open_session(SessionOptions::named("two"))
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    one.eval("x = 1").await.unwrap();
    two.eval("x = 2").await.unwrap();
    let reply = one.eval("print('> kept\\n') return x").await.unwrap();
    assert_eq!(&reply.stdout[..], b"> kept\n\n");
    assert_eq!(
        reply.answer,
        Answer::Returned(Returned::Values(vec![LuaValue::Integer(1)]))
    );
    let reply = one.eval("os.exit(3)").await.unwrap();
    assert_eq!(reply.answer, Answer::Ended(Status::Exited(3)));
    let id = one.eval("id").await.unwrap_err();
    assert_eq!(id.kind(), ErrorKind::InvalidState, "{id}");

    let (mut sink, mut output) = channel(1);
    let running = two.clone();
    let endless = "print('on') io.stdout:flush() while true do end";
    let endless = tokio::spawn(async move { running.eval_streaming(endless, &mut sink).await });
    assert_eq!(output.recv().await.unwrap().1, "on\n");
    two.interrupt().await.unwrap();
    let answer = endless.await.unwrap().unwrap();
    assert!(
        matches!(&answer, Answer::Failed(why) if why.contains("interrupted!")),
        "{answer:?}"
    );
    let two_still = two.eval("x").await.unwrap().answer;
    assert_eq!(
        two_still,
        Answer::Returned(Returned::Values(vec![LuaValue::Integer(2)]))
    );
    two.close().await;
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}
