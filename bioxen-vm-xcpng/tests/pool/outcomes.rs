//! A program behaves in a VM as it does on this machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{
    Answer, Backend, ErrorKind, LuaVm, Outcome, Returned, Runner, Script, Session, SessionOptions,
    Status, channel, lua,
};
use bioxen_vm_xcpng::XcpngBackend;
use serde_json::json;

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

/// The interpreters that Debian has; guests have those of this machine.
const LUAS: [&str; 4] = ["lua5.4", "lua5.3", "lua5.1", "luajit"];

/// A VM for each interpreter that is there.
async fn vms(lab: &Lab) -> Vec<(&'static str, XcpngBackend, Arc<dyn LuaVm>)> {
    let mut vms = Vec::new();
    for lua in LUAS {
        if !Path::new("/usr/bin").join(lua).exists() {
            println!("left out: {lua} is not installed here");
            continue;
        }
        let backend = XcpngBackend::new(lab.config(json!({"lua": lua}))).unwrap();
        let vm = lab.running(&backend, &lua.replace('.', "")).await;
        vms.push((lua, backend, vm));
    }
    vms
}

async fn remove(vms: Vec<(&'static str, XcpngBackend, Arc<dyn LuaVm>)>) {
    for (_, backend, vm) in vms {
        vm.destroy().await.unwrap();
        backend.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_the_same_here_and_there() {
    let lab = Lab::start().await;
    let vms = vms(&lab).await;
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
    for (lua, _, vm) in &vms {
        for script in &scripts {
            let there = vm.execute(script.clone()).await.unwrap();
            let mut command = lua::command(&format!("/usr/bin/{lua}"), script, None);
            command.timeout = script.timeout;
            let here = LocalRunner::new().run(command).await.unwrap();
            assert_eq!(essence(&there), essence(&here), "{lua}: {script:?}");
        }
        for wrong in ["", "  \n"] {
            let error = vm.execute(Script::new(wrong)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
    remove(vms).await;
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
    let vms = vms(&lab).await;
    for (lua, _, vm) in &vms {
        values_come_back(&**vm).await;
        let two = sessions_keep_their_state(&**vm).await;
        // What LuaJIT has compiled looks for no signal.
        if *lua != "luajit" {
            a_session_survives_an_interrupt(two.clone()).await;
        }
        two.close().await;
    }
    remove(vms).await;
    lab.end().await;
}

async fn values_come_back(vm: &dyn LuaVm) {
    let outcome = vm.execute("return {gc = 0.5}".into()).await.unwrap();
    assert_eq!(outcome.returned.first().unwrap().to_string(), "{gc = 0.5}");
    assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty());
}

/// The one value that a chunk gave, in words.
fn value(answer: &Answer) -> String {
    match answer {
        Answer::Returned(Returned::Values(values)) if values.len() == 1 => values[0].to_string(),
        other => panic!("{other:?}"),
    }
}

/// Gives a session in which `x` is 2.
async fn sessions_keep_their_state(vm: &dyn LuaVm) -> Session {
    let (one, two) = tokio::join!(
        vm.open_session(SessionOptions::named("one")),
        vm.open_session(SessionOptions::named("two"))
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    one.eval("x = 1").await.unwrap();
    two.eval("x = 2").await.unwrap();
    let reply = one.eval("print('> kept\\n') return x").await.unwrap();
    assert_eq!(&reply.stdout[..], b"> kept\n\n");
    assert_eq!(value(&reply.answer), "1");
    let reply = one.eval("os.exit(3)").await.unwrap();
    assert_eq!(reply.answer, Answer::Ended(Status::Exited(3)));
    let ended = one.eval("x").await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::InvalidState, "{ended}");
    two
}

async fn a_session_survives_an_interrupt(session: Session) {
    let (mut sink, mut output) = channel(1);
    let running = session.clone();
    let endless = "print('on') io.stdout:flush() while true do end";
    let endless = tokio::spawn(async move { running.eval_streaming(endless, &mut sink).await });
    assert_eq!(output.recv().await.unwrap().1, "on\n");
    session.interrupt().await.unwrap();
    let answer = endless.await.unwrap().unwrap();
    assert!(
        matches!(&answer, Answer::Failed(why) if why.contains("interrupted!")),
        "{answer:?}"
    );
    let still = session.eval("return x").await.unwrap().answer;
    assert_eq!(value(&still), "2");
}
