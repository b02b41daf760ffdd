//! Executing a program: what users of the library before this one rely on, and what was wrong
//! with it.

use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{Command, ErrorKind, Outcome, Script, Status};
use tokio::task::JoinSet;

use crate::support::{Lab, ended};

async fn run(lab: &Lab, script: impl Into<Script>) -> Outcome {
    lab.vm.execute(script.into()).await.unwrap()
}

#[tokio::test]
async fn printed_text_comes_back_with_exit_code_0() {
    for lab in Lab::all().await {
        let outcome = run(&lab, "print('hi')").await;
        assert_eq!(outcome.stdout_text(), "hi\n");
        assert_eq!(outcome.stderr_text(), "");
        assert!(outcome.success());
    }
}

#[tokio::test]
async fn a_returned_value_is_not_printed() {
    for lab in Lab::all().await {
        let outcome = run(&lab, "return 4").await;
        assert_eq!(
            (outcome.stdout_text(), outcome.exit_code()),
            ("".into(), Some(0))
        );
    }
}

#[tokio::test]
async fn errors_are_exit_code_1_with_text_and_traceback() {
    for lab in Lab::all().await {
        let outcome = run(&lab, "local function f() error('boom') end\nf()").await;
        assert_eq!(outcome.exit_code(), Some(1));
        let text = outcome.stderr_text();
        assert!(
            text.starts_with("lua: script:1: boom\nstack traceback:\n"),
            "{text}"
        );
        assert!(text.contains("script:2: in main chunk"), "{text}");

        let outcome = run(&lab, "x = = 1").await;
        assert_eq!(outcome.exit_code(), Some(1));
        assert!(outcome.stderr_text().contains("unexpected symbol near '='"));
    }
}

#[tokio::test]
async fn the_program_chooses_its_exit_code() {
    for lab in Lab::all().await {
        let outcome = run(&lab, "os.exit(7)").await;
        assert_eq!((outcome.exit_code(), outcome.success()), (Some(7), false));
    }
}

#[tokio::test]
async fn blank_code_is_refused_before_it_runs() {
    for lab in Lab::all().await {
        let error = lab.vm.execute(" \n".into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error.to_string().contains("VM lab: cannot execute"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn each_execution_starts_fresh() {
    for lab in Lab::all().await {
        run(&lab, "x = 1; string.rep = nil; package.loaded.x = 1").await;
        let outcome = run(&lab, "print(x, string.rep ~= nil, package.loaded.x)").await;
        assert_eq!(outcome.stdout_text(), "nil\ttrue\tnil\n");
    }
}

#[tokio::test]
async fn input_is_what_the_script_says_and_otherwise_empty() {
    for lab in Lab::all().await {
        assert_eq!(run(&lab, "print(io.read())").await.stdout_text(), "nil\n");
        let script = Script::new("io.write(io.read('a'))").with_stdin(&b">a\r\n\0\xff"[..]);
        assert_eq!(&run(&lab, script).await.stdout[..], b">a\r\n\0\xff");
    }
}

#[tokio::test]
async fn a_program_that_begins_with_a_comment_runs() {
    for lab in Lab::all().await {
        let outcome = run(&lab, "-- just a comment\nprint(1)").await;
        assert_eq!(outcome.stdout_text(), "1\n", "{}", outcome.stderr_text());
    }
}

#[tokio::test]
async fn code_arguments_and_input_of_megabytes_arrive() {
    for lab in Lab::all().await {
        let code = format!(
            "local s = '{}' print(#s, #(...), #io.read('a'))",
            "ACGT".repeat(1 << 19)
        );
        let script = Script::new(code)
            .arg(vec![b'\''; 1 << 20])
            .with_stdin(vec![0; 3 << 20]);
        assert_eq!(
            run(&lab, script).await.stdout_text(),
            "2097152\t1048576\t3145728\n"
        );
    }
}

#[tokio::test]
async fn output_is_neither_decoded_nor_trimmed() {
    for lab in Lab::all().await {
        let outcome = run(&lab, "io.write('  >seq1 \\255\\254\\0 \\n\\n')").await;
        assert_eq!(&outcome.stdout[..], b"  >seq1 \xff\xfe\0 \n\n");
    }
}

#[tokio::test]
async fn a_timeout_ends_the_program_and_its_grandchildren() {
    for lab in Lab::both_with_processes().await {
        let code = "print('before') io.stdout:flush() os.execute('echo $$; exec sleep 3600')";
        let script = Script::new(code).with_timeout(Duration::from_millis(400));
        let outcome = run(&lab, script).await;
        assert_eq!(outcome.status, Status::TimedOut);
        let text = outcome.stdout_text();
        let grandchild = text
            .strip_prefix("before\n")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        ended(grandchild).await;
        assert!(run(&lab, "print(1)").await.success());
    }
}

#[tokio::test]
async fn no_program_outlives_the_time_that_the_vm_allows() {
    let config = BasicConfig::default().with_execution_timeout(Duration::from_millis(300));
    let lab = Lab::new(config).await;
    for code in [
        "while true do pcall(function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "string.find(('a'):rep(1e5), ('.-'):rep(50) .. 'b')",
        "setmetatable({}, {__gc = function() while true do end end}) collectgarbage()",
        "setmetatable({}, {__gc = function() while true do end end})",
        "local x <close> = setmetatable({}, {__close = function() while true do end end})",
    ] {
        let script = Script::new(code).with_timeout(Duration::from_secs(3600));
        assert_eq!(run(&lab, script).await.status, Status::TimedOut, "{code}");
    }
}

#[tokio::test]
async fn what_a_program_leaves_in_the_background_ends_with_it() {
    for lab in Lab::both_with_processes().await {
        let outcome = run(&lab, "os.execute('sleep 3600 & echo $!')").await;
        assert!(outcome.success());
        ended(outcome.stdout_text().trim().parse().unwrap()).await;
    }
}

#[tokio::test]
async fn a_script_may_have_a_path_of_its_own() {
    for lab in Lab::all().await {
        let script = Script::new("print(os.getenv('PATH'))").with_env("PATH", "/nowhere");
        let outcome = run(&lab, script).await;
        assert_eq!(
            outcome.stdout_text(),
            "/nowhere\n",
            "{}",
            outcome.stderr_text()
        );
    }
}

#[tokio::test]
async fn a_dropped_execution_ends_the_program() {
    for lab in Lab::both_with_processes().await {
        let flag = lab.home().join("pid");
        let status = std::process::Command::new("mkfifo").arg(&flag).status();
        assert!(status.unwrap().success());
        let code = format!(
            "os.execute('echo $$ > {}; exec sleep 3600')",
            flag.display()
        );
        let execution = lab.vm.execute(code.into());
        let started = tokio::fs::read_to_string(&flag);
        let pid: i32 = tokio::select! {
            _ = execution => panic!("the program ended by itself"),
            pid = started => pid.unwrap().trim().parse().unwrap(),
        };
        ended(pid).await;
    }
}

#[tokio::test]
async fn nothing_of_our_environment_reaches_a_program() {
    for lab in Lab::both_with_processes().await {
        let script = Script::new("os.execute('env')").with_env("GIVEN", "by the script");
        let outcome = run(&lab, script).await;
        let text = outcome.stdout_text();
        let mut names: Vec<_> = text
            .lines()
            .map(|line| line.split('=').next().unwrap())
            // Shells add these themselves.
            .filter(|name| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"))
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "GIVEN",
                "HOME",
                "LANG",
                "LUA_CPATH_5_4",
                "LUA_PATH_5_4",
                "PATH",
                "TMPDIR"
            ]
        );
        assert!(text.contains("GIVEN=by the script\n"), "{text}");
    }
}

#[tokio::test]
async fn a_program_starts_in_a_directory_of_the_vm_that_it_may_write() {
    for lab in Lab::both_with_processes().await {
        let code = "io.open('kept', 'w'):write('x'):close() print(os.getenv('HOME'), \
                    io.popen('pwd'):read()) os.execute('mkdir -p sub; touch $TMPDIR/t')";
        let outcome = run(&lab, code).await;
        let text = outcome.stdout_text();
        let (home, cwd) = text.trim_end().split_once('\t').unwrap();
        assert_eq!(home, cwd);
        assert!(home.starts_with(lab.base.path().to_str().unwrap()));
        let script = Script::new("print(io.open('../kept'):read())").with_cwd("sub");
        assert_eq!(run(&lab, script).await.stdout_text(), "x\n");
    }
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_to_the_program() {
    let config = BasicConfig::default().with_memory(32 << 20);
    for config in [config.clone(), config.with_lua_executable("lua5.4")] {
        let lab = Lab::new(config).await;
        for code in [
            "local s = ('x'):rep(64 << 20)",
            "local t = {} for i = 1, 1e9 do t[i] = i end",
            "local t = {} for i = 1, 1e9 do t[i] = 'text ' .. i end",
        ] {
            let outcome = run(&lab, code).await;
            assert_eq!(outcome.stderr_text(), "lua: not enough memory\n", "{code}");
            assert_eq!(outcome.status, Status::OutOfMemory, "{code}");
        }
        let survived =
            "print((pcall(string.rep, 'x', 64 << 20))) local s = ('x'):rep(1 << 20) print(#s)";
        assert_eq!(run(&lab, survived).await.stdout_text(), "false\n1048576\n");
    }
}

#[tokio::test]
async fn programs_that_a_program_starts_are_limited_too() {
    let config = BasicConfig::default()
        .with_processes(true)
        .with_memory(32 << 20);
    for config in [config.clone(), config.with_lua_executable("lua5.4")] {
        let lab = Lab::new(config).await;
        let code = "io.stderr:write(tostring(os.execute(\
                    'lua5.4 -e \"local s = (\\'x\\'):rep(200 << 20)\" 2>&1; ulimit -c')))";
        let outcome = run(&lab, code).await;
        assert_eq!(outcome.stdout_text(), "lua5.4: not enough memory\n0\n");
    }
}

#[tokio::test]
async fn too_much_output_is_cut_and_said_so() {
    for lab in Lab::all().await {
        let script =
            Script::new("for i = 1, 1000 do print(('x'):rep(99)) end").with_max_output(500);
        let outcome = run(&lab, script).await;
        assert_eq!(
            (outcome.stdout.len(), outcome.stdout_truncated),
            (500, true)
        );
        assert!(outcome.success());
    }
}

#[tokio::test]
async fn fifty_programs_run_at_once_and_stay_apart() {
    for lab in Lab::all().await {
        let mut running = JoinSet::new();
        for i in 0..50 {
            let script = Script::new("x = (x or 0) + tonumber(...) io.write(x, ' ', io.read('a'))")
                .arg(i.to_string())
                .with_stdin(format!("in {i}"));
            let vm = Arc::clone(&lab.vm);
            running.spawn(async move { (i, vm.execute(script).await.unwrap()) });
        }
        while let Some(ended) = running.join_next().await {
            let (i, outcome) = ended.unwrap();
            assert_eq!(outcome.stdout_text(), format!("{i} in {i}"));
        }
    }
}

#[tokio::test]
async fn packages_of_the_vm_are_found_by_its_programs() {
    for lab in Lab::all().await {
        let site = lab.vm.package_site().await.unwrap();
        assert_eq!(site.lua_version, "5.4");
        let install = Command::new("sh").args([
            "-c",
            "mkdir -p \"$1\" && echo \"return {tree = 'mine'}\" > \"$1/inner.lua\"",
            "sh",
            &format!("{}/share/lua/5.4/outer", site.tree),
        ]);
        let installed = site.runner.run(install).await.unwrap();
        assert!(installed.success(), "{}", installed.stderr_text());
        let outcome = run(&lab, "print(require('outer.inner').tree)").await;
        assert_eq!(outcome.stdout_text(), "mine\n", "{}", outcome.stderr_text());
    }
}

#[tokio::test]
async fn a_missing_package_says_where_it_was_looked_for() {
    for lab in Lab::all().await {
        let outcome = run(&lab, "require('no.such')").await;
        let text = outcome.stderr_text();
        assert!(text.contains("module 'no.such' not found"), "{text}");
        assert!(
            text.contains("/.luarocks/share/lua/5.4/no/such.lua'"),
            "{text}"
        );
    }
    let outcome = run(&Lab::built_in().await, "require('no.such')").await;
    assert!(outcome.stderr_text().contains("lua_executable"));
}

#[tokio::test]
async fn bytecode_is_refused() {
    for lab in Lab::all().await {
        let outcome = run(&lab, &b"\x1bLua"[..]).await;
        assert_eq!(outcome.exit_code(), Some(1));
        assert!(outcome.stderr_text().contains("bytecode"));
    }
}

#[tokio::test]
async fn other_interpreters_work_the_same_way() {
    for (program, version) in [
        ("lua5.1", "Lua 5.1"),
        ("lua5.3", "Lua 5.3"),
        ("luajit", "Lua 5.1"),
    ] {
        let lab = Lab::new(BasicConfig::default().with_lua_executable(program)).await;
        let outcome = run(&lab, Script::new("print(_VERSION, ...)").arg("a b")).await;
        assert_eq!(
            outcome.stdout_text(),
            format!("{version}\ta b\n"),
            "{program}"
        );
        let info = lab.vm.info().await.unwrap();
        assert_eq!(format!("Lua {}", info.details["lua_version"]), version);
        let outcome = run(&lab, "error('boom')").await;
        assert!(
            outcome.stderr_text().starts_with("lua: script:1: boom\n"),
            "{program}"
        );
    }
}
