//! Programs: their bytes, arguments, streams, limits and files.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use super::{bioxen, stderr, stdout};

#[test]
fn a_program_speaks_for_itself() {
    let output = bioxen(&[
        "run",
        "-e",
        "io.write('\\255 ', ...) io.stderr:write('e') os.exit(7)",
        "a b",
    ]);
    assert_eq!(output.stdout, b"\xff a b");
    assert_eq!(output.stderr, b"e");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_program_in_a_file_gets_arguments_and_standard_input() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"print(arg[1], arg[2], io.read('a'))")
        .unwrap();
    let path = file.path().to_str().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["run", "--stdin", "-", path, "-n", "--flag"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b">seq\nACGT")
        .unwrap();
    assert_eq!(
        stdout(&child.wait_with_output().unwrap()),
        "-n\t--flag\t>seq\nACGT\n"
    );
}

#[test]
fn a_program_may_come_over_standard_input_and_then_reads_nothing() {
    let mut data = tempfile::NamedTempFile::new().unwrap();
    data.write_all(b"ACGT").unwrap();
    let data = data.path().to_str().unwrap();
    for (options, read) in [(&[][..], ""), (&["--stdin", data][..], "ACGT")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
            .arg("run")
            .args(options)
            .args(["-", "first"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let program = b"print(arg[0], arg[1], io.read('a'))\nerror('here')";
        child.stdin.take().unwrap().write_all(program).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(stdout(&output), format!("stdin\tfirst\t{read}\n"));
        assert!(stderr(&output).contains("stdin:2: here"), "{output:?}");
    }
}

#[test]
fn a_program_that_lacks_a_rock_or_a_file_is_followed_by_what_gives_it() {
    let error = stderr(&bioxen(&["run", "-e", "require 'no_such.module'"]));
    assert!(error.contains("`--package ROCK`"), "{error}");
    assert!(error.contains("bioxen pkg search no_such`"), "{error}");
    let error = stderr(&bioxen(&["run", "-e", "require 'bio-compute'"]));
    let last = error.lines().last().unwrap();
    assert!(last.contains("did you mean bio_compute"), "{error}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let counts = "print(#io.open((...)):read('a'))";
    let output = bioxen(&["run", "-e", counts, path]);
    let error = stderr(&output);
    for remedy in ["--put", "--stdin"] {
        assert!(error.contains(&format!("`{remedy} {path}`")), "{error}");
    }
    assert_eq!(output.status.code(), Some(1));
    // The hint works.
    let read = format!("read=[\"{path}\"]");
    assert!(
        error.contains(&format!("--set 'read=[\"{path}\"]'")),
        "{error}"
    );
    assert_eq!(
        stdout(&bioxen(&["run", "--set", &read, "-e", counts, path])),
        "0\n"
    );

    // One that fails for something else, or has dealt with it, is left alone.
    for code in ["error('mine')", "print(pcall(require, 'no_such'))"] {
        let error = stderr(&bioxen(&["run", "-e", code, "no-such-file"]));
        assert!(!error.contains("hint"), "{error}");
    }
}

#[test]
fn arguments_that_begin_with_a_dash_go_behind_two_after_a_text() {
    let error = stderr(&bioxen(&["run", "-e", "print(...)", "-x"]));
    assert!(error.contains("'-- -x'"), "{error}");
    let output = bioxen(&["run", "-e", "print(...)", "--", "-x", "y"]);
    assert_eq!(stdout(&output), "-x\ty\n");
}

#[test]
fn a_text_may_begin_with_a_comment_or_anything_else() {
    for (code, printed) in [
        ("-- just a comment", ""),
        ("-- c\nprint(1)", "1\n"),
        ("--[[x]] print(1)", "1\n"),
        ("--timeout", ""),
        ("--", ""),
    ] {
        for option in ["-e", "--execute"] {
            let output = bioxen(&["run", option, code]);
            assert_eq!(output.status.code(), Some(0), "{code}: {}", stderr(&output));
            assert_eq!(stdout(&output), printed, "{code}");
        }
    }
    // Lua itself says what is wrong with a text, not the command line.
    let output = bioxen(&["run", "-e", "-1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("lua: "), "{}", stderr(&output));
}

#[test]
fn arguments_and_texts_are_any_bytes() {
    let bytes = OsStr::from_bytes(b"a\xff\xfe");
    let text = OsStr::from_bytes(b"io.write((...)) return '\xff'");
    for rest in [[OsStr::new("io.write((...))"), bytes], [text, bytes]] {
        let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
            .args(["run", "-e"])
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"a\xff\xfe", "{}", stderr(&output));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(OsStr::from_bytes(b"\xff.lua"));
    std::fs::write(&file, "print(#arg[1])").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .arg("run")
        .args([file.as_os_str(), bytes])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "3\n", "{}", stderr(&output));
}

#[test]
fn output_and_input_pass_while_the_program_runs() {
    let code = "io.write('ready\\n') io.flush() print(io.read('l')) os.exit(3)";
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["run", "-e", code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    input.write_all(b"ACGT\n").unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ACGT\n");
    // The input is still open: a program that has ended waits for no more of it.
    assert_eq!(child.wait().unwrap().code(), Some(3));
    drop(input);
}

#[test]
fn output_of_any_length_comes_whole() {
    let code = "local s = ('x'):rep(1024 * 1024) for _ = 1, 40 do io.write(s) end";
    let output = bioxen(&["run", "-e", code]);
    assert_eq!(output.stdout.len(), 40 * 1024 * 1024);
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn a_reader_that_goes_ends_an_endless_program_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["run", "-e", "while true do print('x') end"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut first).unwrap();
    drop(output);
    let output = child.wait_with_output().unwrap();
    assert_eq!(&first, b"x\n");
    // As of a program that SIGPIPE ended.
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(141), String::new())
    );
}

#[test]
fn a_folder_is_no_standard_input() {
    let output = bioxen(&["run", "--stdin", "/", "-e", "print(1)"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(
        stderr(&output),
        "bioxen: cannot read /: it is a directory\n"
    );
}

#[test]
fn a_program_that_runs_out_of_time_ends_like_timeout_does() {
    for limit in ["0.2", "200ms"] {
        let output = bioxen(&["run", "--timeout", limit, "-e", "while true do end"]);
        assert_eq!(output.status.code(), Some(124));
        assert_eq!(
            stderr(&output),
            "bioxen: warning: the program ran out of time and was ended\n"
        );
    }
    let output = bioxen(&["run", "--timeout", "soon", "-e", "print(1)"]);
    assert!(stderr(&output).contains("write for example 500ms"));
}

#[test]
fn a_program_that_runs_out_of_memory_ends_with_a_code_of_its_own() {
    let code = "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1024) .. i end";
    for lua in [&[][..], &["--set", "lua_executable=lua5.4"]] {
        let args = [&["run", "--set", "memory=32MB"], lua, &["-e", code]].concat();
        let output = bioxen(&args);
        assert_eq!(output.status.code(), Some(123), "{output:?}");
        assert_eq!(
            stderr(&output),
            "lua: not enough memory\nbioxen: warning: the program ran out of memory\n"
        );
    }
    let help = stdout(&bioxen(&["run", "--help"]));
    assert!(help.contains("123 when it was out of memory"), "{help}");
}

#[test]
fn a_trusted_program_runs_in_a_thread_and_its_exit_is_not_ours() {
    let code = "print(...) pcall(os.exit, 7) print('not this')";
    let output = bioxen(&["run", "--set", "in_process=true", "-e", code, "x"]);
    assert_eq!(
        (stdout(&output), output.status.code()),
        ("x\n".into(), Some(7))
    );
}

#[test]
fn a_program_that_runs_out_of_processor_time_ends_as_by_its_signal() {
    let output = bioxen(&["run", "--set", "cpu_time=1s", "-e", "while true do end"]);
    assert_eq!(output.status.code(), Some(152), "{output:?}");
}

#[test]
fn files_and_folders_go_into_the_vm_and_come_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("genome.fa"), ">x\nACGT\n").unwrap();
    std::fs::create_dir(at("data")).unwrap();
    std::fs::write(at("data/k"), "21").unwrap();
    let code = "local f = io.open('out/result', 'w') or os.exit(9) \
                f:write(io.open('genome.fa'):read('a'), io.open('data/k'):read('a'))";
    let output = bioxen(&[
        "run",
        "--put",
        &at("genome.fa"),
        "--put",
        &at("data"),
        "--put",
        &format!("{}:out", at("data")),
        "--get",
        &format!("out:{}", at("back")),
        "-e",
        code,
    ]);
    assert!(output.status.success(), "{output:?}");
    let result = std::fs::read_to_string(at("back/result")).unwrap();
    assert_eq!(result, ">x\nACGT\n21");
}
