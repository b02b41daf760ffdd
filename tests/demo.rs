//! The whole job, as `make demo` runs it: right figures, and nothing left behind however it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// These tests look at all processes of this machine, so they take turns. The test runner's own
/// configuration keeps other tests away meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // Processes that lose their parent become children of this one, and so stay in sight.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn genome() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/data/lambda_virus.fa");
    assert!(
        path.exists(),
        "{} is missing; run `make data`",
        path.display()
    );
    path
}

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    command.arg("demo").arg(genome());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BIOXEN_") {
            command.env_remove(name);
        }
    }
    command
}

/// Starts the demo and waits until it has said this.
fn demo_until(said: &str) -> (Child, impl std::io::Read) {
    let mut child = demo()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with(said) {
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            let mut problem = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut problem)
                .unwrap();
            panic!("the demo ended before {said:?}: {problem}");
        }
    }
    (child, output)
}

/// What BioXen has on this machine: processes that descend from this one, and private directories.
fn inventory() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut family = BTreeSet::from([std::process::id()]);
    // Children have mostly higher numbers than their parents, but not always.
    loop {
        let known = family.len();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            let mut fields = stat.rsplit(") ").next().unwrap().split(' ');
            let (state, parent) = (fields.next().unwrap(), fields.next().unwrap());
            // A zombie has nothing any more; it waits for us to ask how it ended.
            if state != "Z" && family.contains(&parent.parse().unwrap()) && family.insert(pid) {
                found.insert(format!("process {stat}"));
            }
        }
        if family.len() == known {
            break;
        }
    }
    for parent in ["/tmp", "/var/tmp", "/dev/shm"] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let ours = entry.file_name().to_string_lossy().starts_with("bioxen-");
            if ours && !used_by_others(&entry.path(), &family) {
                found.insert(format!("directory {}", entry.path().display()));
            }
        }
    }
    found
}

/// Whether a process outside of the family works in a directory or has a file of it open, as the
/// owner of every directory of BioXen does.
fn used_by_others(dir: &Path, family: &BTreeSet<u32>) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse::<u32>().ok()?;
            (!family.contains(&pid)).then(|| entry.path())
        })
        .any(|process| {
            let files = fs::read_dir(process.join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            let links = files.map(|file| file.path()).chain([process.join("cwd")]);
            links
                .filter_map(|link| fs::read_link(link).ok())
                .any(|target| target.starts_with(dir))
        })
}

/// Waits until nothing is there that was not there before; the test's own time limit ends the wait.
fn assert_nothing_new(before: &BTreeSet<String>, wanted: impl Fn(&str) -> bool) {
    let mut left = BTreeSet::new();
    for _ in 0..500 {
        left = inventory()
            .difference(before)
            .filter(|found| wanted(found))
            .cloned()
            .collect();
        if left.is_empty() {
            return;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    panic!("left behind: {left:#?}");
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn it_ends_with_the_known_figures_of_phage_lambda_and_leaves_nothing() {
    let _turn = alone();
    let before = inventory();
    let output = demo().output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for figure in [
        "48,502 bp",
        "49.86 %",
        "67 (at least 300 nt, genetic code 11)",
        "46,289 unique, 47,379 distinct, 48,492 total, max count 3",
        "gives the same bytes",
        "Nothing is left behind.",
    ] {
        assert!(said.contains(figure), "{figure:?} is missing in:\n{said}");
    }
    assert_nothing_new(&before, |_| true);
}

#[test]
fn a_program_is_told_each_stage_in_an_object() {
    let _turn = alone();
    let output = demo().arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let told: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let stages = told.iter().filter(|line| line["event"] == "stage");
    let names: Vec<_> = stages
        .map(|stage| {
            assert!(stage["milliseconds"].is_u64(), "{stage}");
            stage["name"].as_str().unwrap()
        })
        .collect();
    assert!(names.contains(&"open the pool"), "{names:?}");
    assert!(
        names.contains(&"the same in a VM of type basic"),
        "{names:?}"
    );
    let note = told
        .iter()
        .find(|line| line["text"] == "gives the same bytes");
    assert_eq!(note.unwrap()["event"], "note");
    assert_eq!(told.last().unwrap()["event"], "finished");
}

#[test]
fn ctrl_c_half_way_leaves_nothing() {
    let _turn = alone();
    for stage in [
        "open the pool",
        "clone the template",
        "run Lua in it",
        "install",
    ] {
        let before = inventory();
        let (mut child, mut output) = demo_until(stage);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        assert_eq!(
            child.wait().unwrap().code(),
            Some(130),
            "after {stage:?}: {said}"
        );
        assert!(
            said.contains("Interrupted. Nothing is left behind."),
            "{said}"
        );
        assert_nothing_new(&before, |_| true);
    }
}

#[test]
fn kill_9_leaves_no_process_and_the_next_run_removes_the_files() {
    let _turn = alone();
    let before = inventory();
    let (mut child, _output) = demo_until("run Lua in it");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_nothing_new(&before, |found| found.starts_with("process"));
    assert!(demo().output().unwrap().status.success());
    assert_nothing_new(&before, |_| true);
}

#[test]
fn a_missing_genome_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["demo", "/no/such/genome.fa"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(
        text(&output),
        "bioxen: cannot read the genome /no/such/genome.fa: No such file or directory (os error 2)\n"
    );
}
