//! `bioxen run --record` and `bioxen replay`: what was run can be run again, and whether the same came
//! of it is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const CANARY: &str = "canary-of-the-record";

/// Runs bioxen in a folder, with this on its standard input.
fn bioxen(folder: &TempDir, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(args)
        .current_dir(folder)
        .env("XDG_STATE_HOME", folder.path().join("state"))
        .env("XDG_CONFIG_HOME", folder.path().join("config"))
        .env("BIOXEN_XCPNG_PASSWORD", CANARY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn record(folder: &TempDir) -> Value {
    serde_json::from_slice(&fs::read(folder.path().join("run.json")).unwrap()).unwrap()
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Counts what it reads with a rock, and leaves a file.
const COUNT: &str = r#"
local bio = require("bio_compute")
local text = io.read("a"):gsub("^>[^\n]*\n", ""):gsub("%s", "")
local out = io.open("gc.txt", "w")
out:write(#text, " letters\n")
out:close()
print(arg[1], #text, io.open("more/b.txt"):read("a"), type(bio))
return {letters = #text}
"#;

#[test]
fn a_run_is_recorded_and_the_same_comes_of_it_again() {
    let folder = folder(&[
        ("count.lua", COUNT),
        ("my.fa", ">one\nGATTACA\n"),
        ("more/b.txt", "B"),
    ]);
    let args = [
        "run",
        "--record",
        "run.json",
        "-p",
        "bio_compute",
        "--server",
        "bioxen",
        "--stdin",
        "my.fa",
        "--put",
        "more",
        "--get",
        "gc.txt:kept.txt",
        "--timeout",
        "60",
        "count.lua",
        "first",
    ];
    let ran = bioxen(&folder, &args, b"");
    assert_eq!(ran.status.code(), Some(0), "{}", said(&ran));

    let record = record(&folder);
    assert_eq!(record["format"], 1);
    assert_eq!(record["arguments"], serde_json::json!(["first"]));
    assert_eq!(record["program"]["text"], COUNT);
    assert_eq!(record["stdin"]["bytes"], 13);
    assert_eq!(record["stdin"]["complete"], true);
    assert_eq!(record["put"][0]["files"]["b.txt"]["bytes"], 1);
    assert_eq!(record["get"][0]["files"][""]["bytes"], 10);
    assert!(record["lock"].as_str().unwrap().contains("bio_compute"));
    assert_eq!(record["vm"]["type"], "basic");
    assert_eq!(record["outcome"]["ended"]["status"], "exit code 0");
    assert_eq!(
        record["outcome"]["ended"]["returned"],
        serde_json::json!([{"letters": 7}])
    );
    assert_eq!(
        record["outcome"]["ended"]["stdout"]["bytes"],
        ran.stdout.len()
    );
    assert!(record["seconds"]["program"].as_f64().unwrap() > 0.0);

    // The program is in the record, so it may be gone.
    fs::remove_file(folder.path().join("count.lua")).unwrap();
    let again = bioxen(&folder, &["replay", "run.json"], b"");
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert_eq!(again.stdout, ran.stdout);
    assert!(
        said(&again).contains("the same as in run.json: exit code 0"),
        "{}",
        said(&again)
    );
}

#[test]
fn what_came_otherwise_is_told() {
    let folder = folder(&[]);
    let args = [
        "run",
        "--record",
        "run.json",
        "-e",
        "print(math.random(1 << 60)) return math.random(1 << 60)",
    ];
    assert_eq!(bioxen(&folder, &args, b"").status.code(), Some(0));
    let again = bioxen(&folder, &["replay", "run.json"], b"");
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(
        said(&again).contains("standard output differs")
            && said(&again).contains("returned otherwise"),
        "{}",
        said(&again)
    );
    assert!(
        !said(&again).contains("ended otherwise"),
        "{}",
        said(&again)
    );
    // The same for a program, of which standard output has nothing else.
    let again = bioxen(&folder, &["replay", "run.json", "--json"], b"");
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    let told: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(told["same"], false);
    assert_eq!(told["status"], "exit code 0");
    let differences = told["differences"].as_array().unwrap();
    let what: Vec<_> = differences.iter().map(|other| &other["what"]).collect();
    assert_eq!(what, ["returned", "stdout"]);
    assert_eq!(differences[0]["then"].as_array().unwrap().len(), 1);
    assert!(differences[1]["now"]["sha256"].is_string());
}

#[test]
fn a_record_of_a_newer_form_names_the_program_to_take() {
    let newer = r#"{"format": 2, "bioxen": "7.1.0", "unheard": "of"}"#;
    let folder = folder(&[("run.json", newer), ("other.json", "{}")]);
    let replayed = bioxen(&folder, &["replay", "run.json"], b"");
    assert_eq!(replayed.status.code(), Some(125));
    let told = said(&replayed);
    assert!(
        told.contains("run.json has the form 2 of records"),
        "{told}"
    );
    assert!(
        told.contains("replay it with BioXen 7.1.0, which wrote it"),
        "{told}"
    );
    let other = said(&bioxen(&folder, &["replay", "other.json"], b""));
    assert!(other.contains("is no record that"), "{other}");
}

#[test]
fn inputs_that_have_changed_are_named_and_nothing_is_run() {
    let folder = folder(&[("my.fa", "ACGT"), ("more/b.txt", "B")]);
    let args = [
        "run",
        "--record",
        "run.json",
        "--stdin",
        "my.fa",
        "--put",
        "more",
        "-e",
        "print(io.read('a'))",
    ];
    assert_eq!(bioxen(&folder, &args, b"").status.code(), Some(0));
    let changes = [
        ("more/b.txt", "B", Some("C")),
        ("more/b.txt", "B", None),
        ("my.fa", "ACGT", Some("ACGTA")),
    ];
    for (name, was, becomes) in changes {
        let file = folder.path().join(name);
        match becomes {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let again = bioxen(&folder, &["replay", "run.json"], b"");
        fs::write(&file, was).unwrap();
        assert_eq!(again.status.code(), Some(125), "{}", said(&again));
        assert!(said(&again).contains(name), "{}", said(&again));
        assert!(again.stdout.is_empty());
    }
    assert_eq!(
        bioxen(&folder, &["replay", "run.json"], b"").status.code(),
        Some(0)
    );
}

#[test]
fn what_came_over_a_pipe_is_asked_for() {
    let folder = folder(&[("same", "one\ntwo\n"), ("other", "one\ntwo, too\n")]);
    let args = ["run", "--record", "run.json", "-e", "print(io.read('a'))"];
    assert_eq!(bioxen(&folder, &args, b"one\ntwo\n").status.code(), Some(0));
    let without = bioxen(&folder, &["replay", "run.json"], b"");
    assert!(said(&without).contains("--stdin"), "{}", said(&without));
    for (file, code) in [("same", 0), ("other", 125)] {
        let again = bioxen(&folder, &["replay", "run.json", "--stdin", file], b"");
        assert_eq!(again.status.code(), Some(code), "{}", said(&again));
        let bytes = fs::read(folder.path().join(file)).unwrap();
        let piped = bioxen(&folder, &["replay", "run.json", "--stdin", "-"], &bytes);
        assert_eq!(piped.status.code(), Some(code), "{}", said(&piped));
    }
}

#[test]
fn a_record_never_replaces_a_file_and_has_a_folder() {
    let folder = folder(&[("run.json", "mine")]);
    for (file, part) in [
        ("run.json", "is there already"),
        ("no/run.json", "no folder no"),
    ] {
        let ran = bioxen(&folder, &["run", "--record", file, "-e", "print(1)"], b"");
        assert_eq!(ran.status.code(), Some(125));
        assert!(said(&ran).contains(part), "{}", said(&ran));
        assert!(ran.stdout.is_empty(), "the program ran");
    }
    assert_eq!(
        fs::read_to_string(folder.path().join("run.json")).unwrap(),
        "mine"
    );
    let no_record = bioxen(&folder, &["replay", "run.json"], b"");
    assert!(
        said(&no_record).contains("run.json is no record"),
        "{}",
        said(&no_record)
    );
}

#[test]
fn what_no_record_can_hold_is_refused_before_anything_runs() {
    let folder = folder(&[]);
    let bytes = OsStr::from_bytes(b"a\xff");
    let text = OsStr::from_bytes(b"print(1) --\xff");
    for (rest, part) in [
        (&[OsStr::new("print(1)"), bytes][..], r"'a\xff'"),
        (&[text], "the text of -e"),
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_bioxen"))
            .args(["run", "--record", "run.json", "-e"])
            .args(rest)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(125), "{}", said(&ran));
        assert!(said(&ran).contains(part), "{}", said(&ran));
        assert!(said(&ran).contains("--record"), "{}", said(&ran));
        assert!(ran.stdout.is_empty(), "the program ran");
        assert!(!folder.path().join("run.json").exists());
    }
}

#[test]
fn a_run_that_fails_is_recorded_without_secrets() {
    let folder = folder(&[]);
    let args = [
        "run",
        "--record",
        "run.json",
        "-t",
        "xcpng",
        "-s",
        "xcpng_host=127.0.0.1:9",
        "-s",
        "template=lua",
        "-s",
        "tls.insecure=true",
        "-e",
        "print(1)",
    ];
    let ran = bioxen(&folder, &args, b"");
    assert_eq!(ran.status.code(), Some(125), "{}", said(&ran));
    let record = record(&folder);
    assert!(
        record["outcome"]["failed"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1"),
        "{record}"
    );
    assert_eq!(record["vm"]["configuration"]["template"], "lua");
    assert!(!record.to_string().contains(CANARY));
    let again = bioxen(&folder, &["replay", "run.json"], b"");
    assert!(
        said(&again).contains("did not come to an end"),
        "{}",
        said(&again)
    );
}

#[test]
fn a_run_that_is_interrupted_is_recorded_with_how_long_its_program_ran() {
    let folder = folder(&[]);
    let args = [
        "run",
        "--record",
        "run.json",
        "-e",
        "io.write('runs') io.flush() while true do end",
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(args)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut runs = [0; 4];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut runs).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let record = record(&folder);
    assert_eq!(record["outcome"], "interrupted");
    assert!(record["seconds"]["program"].as_f64().unwrap() > 0.0);
}
