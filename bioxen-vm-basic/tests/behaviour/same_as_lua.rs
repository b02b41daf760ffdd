//! The same program gives the same bytes and the same exit code, whatever runs it.

use std::fmt::Write as _;

use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{Outcome, Runner, Script, lua};

use crate::support::Lab;

/// What a thread does not do as a process does: it starts no others, its finalizers run also after
/// `os.exit`, its `print` is a function in Lua, a handler of errors sees who calls it, and there is a
/// little less room for frames.
const BEYOND_A_THREAD: [&str; 6] = [
    "return f() + 1 end f()",
    "xpcall(error, debug.traceback",
    "os.execute(",
    "io.popen(",
    "not finalized",
    "getinfo(print)",
];

/// Runs programs everywhere and shows all that differs.
async fn compare(programs: &[&str]) {
    let [built_in, interpreter] = Lab::both_with_processes().await;
    let labs = [built_in, interpreter, Lab::in_process().await];
    let mut differences = String::new();
    for code in programs {
        let script = Script::new((*code).to_owned())
            .arg("ACGT")
            .with_stdin("one\ntwo\n");
        let bare = LocalRunner::new()
            .run(lua::command("lua5.4", &script, None))
            .await
            .unwrap();
        for lab in &labs {
            let in_process = !lab.vm.capabilities().processes;
            if in_process && BEYOND_A_THREAD.iter().any(|part| code.contains(part)) {
                continue;
            }
            let ours = lab.vm.execute(script.clone()).await.unwrap();
            if (&ours.status, &ours.stdout, &ours.stderr)
                != (&bare.status, &bare.stdout, &bare.stderr)
            {
                let program = &lab.vm.info().await.unwrap().details["program"];
                let _ = writeln!(differences, "{code}\nlua5.4: {}", shown(&bare));
                let _ = writeln!(differences, "{program}: {}\n", shown(&ours));
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn shown(outcome: &Outcome) -> String {
    let (out, errors) = (outcome.stdout_text(), outcome.stderr_text());
    format!("{}\n{out}{errors}", outcome.status)
}

#[tokio::test]
async fn output_and_ends() {
    compare(&[
        "print('hi')",
        "io.write('  >seq1  \\n')",
        "return 4",
        "-- just a comment",
        "#!/usr/bin/lua\nprint(1)",
        "io.write('\\255\\254\\0')",
        "print(#arg, arg[0], ..., io.read('a'))",
        "for line in io.lines() do print(line) end",
        "os.exit(7)",
        "os.exit(true)",
        "os.exit(false)",
        "os.exit(256 + 3)",
        "os.exit('7')",
        "os.exit(7.0)",
        "os.exit(nil, true)",
        "coroutine.wrap(function() os.exit(4) end)()",
        "for _, code in ipairs{1.5, 'x', {}, '2.5'} do \
         print(pcall(function() os.exit(code) end)) end",
        "local x <close> = setmetatable({}, {__close = function() print('closed') end}) \
         setmetatable({}, {__gc = function() print('finalized') end}) os.exit(2, true)",
        "io.write('kept') os.exit(0, true)",
        "io.write('kept') os.exit(5)",
        "io.stderr:write('e') os.exit(true)",
        "io.stdout:setvbuf('full') io.write('kept')",
        "setmetatable({}, {__gc = function() print('finalized') end})",
        "collectgarbage('stop') local function made(n) return setmetatable({}, {__gc = function() print(n) end}) end \
         a = made(1) made(2) b = made(3) made(4)",
        "setmetatable({}, {__gc = function() print('not finalized') end}) os.exit(0)",
        "local x <close> = setmetatable({}, {__close = function() print('closed') end})",
        "warn('@on') warn('a', 'b') warn('@off') warn('c')",
        "warn('@on') setmetatable({}, {__gc = function() error('in gc') end})",
        "print(collectgarbage('incremental'))",
        "print(_VERSION, math.maxinteger, 2^53, 1e15, 0x7fffffffffffffff + 1)",
        "print(os.getenv('PATH'), os.getenv('LANG'), os.getenv('USER'))",
        "print(os.execute('exit 3'))",
        "local p = io.popen('echo out; exit 4') print(p:read('a')) print(p:close())",
        "io.popen('yes | head -n 1', 'r'):close() print(io.popen('yes | head -n 1'):read('a'))",
        "local p = io.popen('exec <&-; sleep 0.1', 'w') for _ = 1, 1e5 do p:write(('x'):rep(100)) end",
    ])
    .await;
}

#[tokio::test]
async fn errors_and_tracebacks() {
    compare(&[
        "error('boom')",
        "error('boom', 0)",
        "error('boom', 2)",
        "error({})",
        "error(nil)",
        "error()",
        "error('bytes \\255\\0 in it')",
        "error(setmetatable({}, {__tostring = function() return 'mine' end}))",
        "local function f() local x = nil; return x.y end\nlocal function g() f() end\ng()",
        "local t = setmetatable({}, {__index = function() error('deep') end})\nprint(t.x)",
        "x = = 1",
        "print(('x'):rep(3)\n",
        "goto nowhere",
        "string.rep()",
        "('x'):rep(1 << 62, 'y')",
        "coroutine.wrap(function() error('inside') end)()",
        "coroutine.yield()",
        "local function f() return f() + 1 end f()",
        "local function f(n) if n == 0 then error('deep') end f(n - 1) print() end f(100)",
        "local s = 'return ' .. ('('):rep(300) .. '1' .. (')'):rep(300) print((load(s)))",
        "string.gsub('x', 'x', function() error('in gsub') end)",
        "table.sort({3, 2, 1}, function() error('in sort') end)",
        "print(pcall(dofile, '/no/such/file'))",
        "setmetatable({}, {__gc = true}) assert(false, 'asserted')",
        "assert(nil)",
        "assert(false, {1})",
        "print(pcall(error, 'x')) print(xpcall(error, debug.traceback, 'y'))",
        "print(select(2, pcall(string.rep)))",
        "io.stdin:close() print(io.read())",
    ])
    .await;
}

#[tokio::test]
async fn the_debug_library() {
    compare(&[
        "print(debug.traceback())",
        "print(debug.traceback('m'))",
        "print(debug.traceback('m', 0))",
        "print(debug.traceback('m', 2), debug.traceback(7, 1))",
        "print(debug.traceback(nil, 1), debug.traceback({}) ~= nil)",
        "print(debug.traceback('bytes \\255\\0'))",
        "print(debug.traceback('far', 99))",
        "local t = debug.traceback(coroutine.running(), 'm') print(t)",
        "coroutine.wrap(function() print(debug.traceback('in')) end)()",
        "print(require('debug') == debug)",
        "local function f(a, b, ...) local x <const> = debug.getinfo(1) \
         for _, k in ipairs{'source', 'short_src', 'what', 'currentline', 'linedefined', \
         'lastlinedefined', 'nups', 'nparams', 'isvararg', 'name', 'namewhat', 'istailcall'} do \
         print(k, x[k]) end print(x.func == f) end f()",
        "local i = debug.getinfo(print) print(i.what, i.currentline, i.short_src, i.func == print)",
        "print(debug.getinfo(99), debug.getinfo(1, 'l').currentline, debug.getinfo(1, 'S').what)",
        "print(debug.getinfo(1, 'n').name, debug.getinfo(0, 'n').name)",
        "print(getmetatable(setmetatable({}, {__metatable = 1})))",
        "print(debug.getmetatable(setmetatable({}, {__metatable = 1})).__metatable)",
        "print(debug.getmetatable('').__index == string, debug.getmetatable({}))",
    ])
    .await;
}
