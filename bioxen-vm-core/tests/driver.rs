//! The driver makes any Lua behave as the `lua` program does with a script file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "local")]

use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::lua::{self, Mark};
use bioxen_vm_core::{Gather, LuaValue, Outcome, Returned, Runner, Script, Status};

async fn run(script: Script) -> Outcome {
    run_in("lua5.4", script).await
}

async fn run_in(interpreter: &str, script: Script) -> Outcome {
    let mark = Mark::new();
    let command = lua::command(interpreter, &script, Some(&mark));
    let mut gather = Gather::new(script.max_output);
    let outcome = lua::run(&LocalRunner::new(), command, &mark, &mut gather)
        .await
        .unwrap();
    gather.into_outcome(outcome)
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

const INTERPRETERS: [&str; 4] = ["lua5.1", "lua5.3", "lua5.4", "luajit"];

/// What a program returned, as Lua source; what is no data as `not data: ...`.
fn text(returned: &Returned) -> String {
    match returned {
        Returned::Nothing => String::new(),
        Returned::Values(values) => {
            let values: Vec<_> = values.iter().map(LuaValue::to_string).collect();
            values.join(" | ")
        }
        Returned::NotData(why) => format!("not data: {why}"),
        _ => unreachable!("there are no other kinds"),
    }
}

#[tokio::test]
async fn what_a_program_returns_arrives_as_data_and_nothing_of_it_is_printed() {
    for interpreter in INTERPRETERS {
        for (code, expected) in [
            ("x = 1", ""),
            ("return", ""),
            ("return 4", "4"),
            ("return nil", "nil"),
            ("return nil, 'x', nil", r#"nil | "x" | nil"#),
            ("return {gc = 0.5}", "{gc = 0.5}"),
            (
                "return {1, 2, 3, n = 3, [10] = true}",
                "{1, 2, 3, [10] = true, n = 3}",
            ),
            ("return {{}, {{'deep'}}}", r#"{{}, {{"deep"}}}"#),
            (r"return '\255\0\r\n'", r#""\255\000\013\n""#),
            (
                "return 9007199254740991, -7, 0.1, 1/0, -1/0",
                "9007199254740991 | -7 | 0.1 | 1/0 | -1/0",
            ),
            ("return 0/0", "0/0"),
            ("return true, false", "true | false"),
            ("local t = {} return {t, t}", "{{}, {}}"),
            (
                "return setmetatable({1}, {__index = error, __len = error, __pairs = error})",
                "{1}",
            ),
            ("return print", "not data: a function at [1]"),
            (
                "return 1, {a = {[5] = print}}",
                "not data: a function at [2].a[5]",
            ),
            (
                "local t = {} t.t = t return t",
                "not data: a table inside itself at [1].t",
            ),
            (
                "return {[print] = 1}",
                "not data: a function as a key at [1]",
            ),
            (
                "local t = {} for _ = 1, 200 do t = {t} end return t",
                "nested deeper",
            ),
            (
                "return ('x'):rep(2^24 + 1)",
                "not data: more than 16 MiB at [1]",
            ),
            ("return io.stdout", "not data: a userdata at [1]"),
            (
                "for _, l in ipairs{string, table, math} do for k in pairs(l) do l[k] = nil end end \
              next, type, rawget, pcall = nil return {0.5, a = 'b'}",
                r#"{0.5, a = "b"}"#,
            ),
        ] {
            let outcome = run_in(interpreter, Script::new(code)).await;
            let (status, errors) = (outcome.status, outcome.stderr_text());
            assert_eq!(status, Status::Exited(0), "{interpreter}: {code}: {errors}");
            assert!(
                outcome.stdout.is_empty() && errors.is_empty(),
                "{interpreter}: {code}: {errors}"
            );
            let returned = text(&outcome.returned);
            let same =
                returned == expected || expected == "nested deeper" && returned.contains(expected);
            assert!(same, "{interpreter}: {code}: {returned}");
        }
    }
}

#[tokio::test]
async fn integers_beyond_doubles_stay_exact_where_the_language_has_them() {
    for interpreter in ["lua5.3", "lua5.4"] {
        let script = Script::new("return math.maxinteger, math.mininteger, 3.0");
        let returned = run_in(interpreter, script).await.returned;
        let expected = format!("{} | {} | 3.0", i64::MAX, i64::MIN);
        assert_eq!(text(&returned), expected);
    }
}

#[tokio::test]
async fn a_program_that_fails_or_exits_returns_nothing_and_its_errors_stay_whole() {
    for interpreter in INTERPRETERS {
        let script = Script::new("io.stderr:write('\\1one\\1\\n') error('boom', 0)");
        let outcome = run_in(interpreter, script).await;
        assert_eq!(outcome.returned, Returned::Nothing);
        let errors = outcome.stderr_text();
        assert!(errors.starts_with("\x01one\x01\nlua: boom\n"), "{errors:?}");
        let outcome = run_in(interpreter, Script::new("os.exit(3)")).await;
        assert_eq!(
            (outcome.returned, outcome.status),
            (Returned::Nothing, Status::Exited(3))
        );
    }
}
