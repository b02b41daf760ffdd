//! What a hostile program tries with memory, time, output and the Lua state itself.

use std::time::Duration;

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{Script, Status};

use super::neighbours::Neighbours;
use super::run;
use crate::support::Lab;

#[tokio::test]
async fn ten_gigabytes_of_memory_are_refused() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default().with_memory(64 << 20);
    for lab in neighbours.both_with(config).await {
        for code in [
            "local t = {} for i = 1, 10240 do t[i] = ('x'):rep(1 << 20) .. i end",
            "local t = {} for i = 1, 10 do t[i] = ('x'):rep(1 << 30) end",
            "local t = {} for i = 1, 1e10 do t[i] = {} end",
        ] {
            let outcome = run(&lab, code).await;
            let text = outcome.stderr_text();
            assert_eq!(outcome.status, Status::OutOfMemory, "{code}: {text}");
        }
        neighbours.unharmed().await;
    }
}

#[tokio::test]
async fn ten_gigabytes_of_output_take_no_memory_of_ours() {
    let mut neighbours = Neighbours::new().await;
    let lab = neighbours.built_in().await;
    let code = "local s = ('x'):rep(1 << 20) for _ = 1, 10240 do io.write(s) end";
    let script = Script::new(code)
        .with_max_output(1 << 20)
        .with_timeout(Duration::from_secs(1));
    let outcome = run(&lab, script).await;
    assert!(outcome.stdout_truncated);
    assert_eq!(outcome.stdout.len(), 1 << 20);
    neighbours.unharmed().await;
}

#[tokio::test]
async fn endless_loops_end_with_their_time_wherever_they_are() {
    let mut neighbours = Neighbours::new().await;
    for lab in neighbours.both().await {
        for code in [
            "while true do pcall(function() while true do end end) end",
            "coroutine.wrap(function() while true do end end)()",
            "string.find(('a'):rep(1e5), ('.-'):rep(50) .. 'b')",
            "while true do pcall(string.rep, 'x', -1) end",
            "setmetatable({}, {__gc = function() while true do end end})",
            "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) \
             while true do pcall(function() return t[1] end) end",
        ] {
            let script = Script::new(code).with_timeout(Duration::from_millis(300));
            assert_eq!(run(&lab, script).await.status, Status::TimedOut, "{code}");
        }
        neighbours.unharmed().await;
    }
}

#[tokio::test]
async fn processor_time_that_is_used_up_is_told_apart() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default().with_cpu_time(Duration::from_secs(1));
    for lab in neighbours.both_with(config).await {
        assert!(run(&lab, "print(1)").await.success());
        let outcome = run(&lab, "while true do end").await;
        assert_eq!(outcome.status, Status::CpuLimit);
        assert!(run(&lab, "print(1)").await.success());
    }
    neighbours.unharmed().await;
}

#[tokio::test]
async fn bytecode_is_refused_by_every_way_in() {
    let mut neighbours = Neighbours::new().await;
    let lab = neighbours.built_in().await;
    let code = r"
        local bytecode = string.dump(function() return 'ran' end)
        io.open('b.lua', 'wb'):write(bytecode):close()
        package.path = './?.lua'
        for _, way in ipairs{
          function() return assert(load(bytecode))() end,
          function() return assert(load(bytecode, 'b', 'b'))() end,
          function() return assert(load(bytecode, 'b', 'bt'))() end,
          function() local done return assert(load(function()
            if not done then done = true return bytecode end end))() end,
          function() return assert(loadfile('b.lua', 'b'))() end,
          function() return dofile('b.lua') end,
          function() return require('b') end,
          function() return package.searchers[2]('b')() end,
        } do
          local ok, problem = pcall(way)
          print(ok, tostring(problem):match('binary chunk'))
        end
        print(load('return 1', 'text', 'bt')())";
    let outcome = run(&lab, code).await;
    assert_eq!(
        outcome.stdout_text(),
        "false\tbinary chunk\n".repeat(8) + "1\n",
        "{}",
        outcome.stderr_text()
    );
    neighbours.unharmed().await;
}

#[tokio::test]
async fn nothing_of_a_program_stays_for_the_next_one() {
    let lab = Lab::built_in().await;
    for code in [
        "x = 1; string.rep = nil; getmetatable('').__index = nil",
        "io.stdout:setvbuf('no') io.write('unflushed')",
        "os.setlocale('C.UTF-8')",
        "io.read(1)",
        "io.output('file') io.input('file')",
        "debug.getmetatable('').__index.upper = nil",
        "collectgarbage('stop') warn('@on')",
        "package.loaded.string = 1 package.path = ''",
        "error('boom')",
        "os.exit(3)",
        "setmetatable({}, {__gc = function() io.write('late') end})",
    ] {
        run(&lab, Script::new(code).with_stdin("abc\n".repeat(10_000))).await;
        let check = "warn('no') print(x, string.rep ~= nil, #('x'):upper(), os.setlocale(), \
                     package.path ~= '', io.read())";
        let outcome = run(&lab, Script::new(check).with_stdin("own\n")).await;
        assert_eq!(
            outcome.stdout_text(),
            "nil\ttrue\t1\tC\ttrue\town\n",
            "after {code}"
        );
        assert_eq!(outcome.stderr_text(), "", "after {code}");
    }
}

#[tokio::test]
async fn random_numbers_differ_from_one_program_to_the_next() {
    let lab = Lab::built_in().await;
    let code = "print(math.random(0))";
    let first = run(&lab, code).await.stdout;
    assert_ne!(run(&lab, code).await.stdout, first);
}

#[tokio::test]
async fn with_fresh_process_no_process_runs_two_programs() {
    let config = BasicConfig::default()
        .with_fresh_process(true)
        .with_processes(true);
    for lab in Lab::both_with(config).await {
        let code = "print(io.popen('echo $PPID'):read())";
        let first = run(&lab, code).await.stdout;
        assert_ne!(run(&lab, code).await.stdout, first);
    }
}
