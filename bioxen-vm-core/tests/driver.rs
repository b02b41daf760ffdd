//! The driver makes any Lua behave as the `lua` program does with a script file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "local")]

use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{Outcome, Runner, Script, Status, lua};

async fn run(script: Script) -> Outcome {
    LocalRunner::new()
        .run(lua::command("lua5.4", &script))
        .await
        .unwrap()
}

/// What `lua5.4 FILE` prints for the same program, with its program name made ours.
async fn reference(code: &str) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("script"), code).unwrap();
    let command = bioxen_vm_core::Command::new("lua5.4")
        .arg("script")
        .with_cwd(dir.path().to_str().unwrap());
    let mut outcome = LocalRunner::new().run(command).await.unwrap();
    outcome.stderr = outcome.stderr_text().replace("lua5.4: ", "lua: ").into();
    outcome
}

#[tokio::test]
async fn programs_behave_as_files_that_lua_runs() {
    for code in [
        "print('hi')",
        "io.write('  >seq1  \\n')",
        "return 4",
        "-- just a comment",
        "#!/usr/bin/lua\nprint(1)",
        "error('boom')",
        "error('boom', 0)",
        "error({})",
        "error(nil)",
        "error(setmetatable({}, {__tostring = function() return 'mine' end}))",
        "local function f() local x = nil; return x.y end\nlocal function g() f() end\ng()",
        "local t = setmetatable({}, {__index = function() error('deep') end})\nprint(t.x)",
        "x = = 1",
        "print(('x'):rep(3)\n",
        "os.exit(7)",
        "io.stderr:write('e') os.exit(true)",
        "io.write('\\255\\254\\0')",
        "string.rep()",
        "coroutine.wrap(function() error('inside') end)()",
    ] {
        let ours = run(Script::new(code.to_owned())).await;
        let theirs = reference(code).await;
        assert_eq!(ours.status, theirs.status, "{code}\n{}", ours.stderr_text());
        assert_eq!(ours.stdout, theirs.stdout, "{code}");
        assert_eq!(ours.stderr_text(), theirs.stderr_text(), "{code}");
    }
}

#[tokio::test]
async fn arguments_and_input_arrive_byte_for_byte() {
    let outcome = run(Script::new("for i = 0, #arg do io.write(arg[i], '|') end io.write(select('#', ...), '|', io.read('*a'))")
        .with_name("name with 'quotes'")
        .arg("$(id)")
        .arg(&b"\xff\0"[..])
        .arg("")
        .with_stdin(&b"line\r\n\0\xfe"[..]))
    .await;
    assert_eq!(
        &outcome.stdout[..],
        &b"name with 'quotes'|$(id)|\xff\0||3|line\r\n\0\xfe"[..]
    );
}

#[tokio::test]
async fn code_may_be_larger_than_any_argument_list() {
    let code = format!("local s = '{}' print(#s)", "ACGT".repeat(500_000));
    assert_eq!(run(Script::new(code)).await.stdout_text(), "2000000\n");
}

#[tokio::test]
async fn bytecode_is_refused() {
    let outcome = run(Script::new(&b"\x1bLua"[..])).await;
    assert_eq!(outcome.status, Status::Exited(1));
    assert!(
        outcome.stderr_text().contains("bytecode"),
        "{}",
        outcome.stderr_text()
    );
}
