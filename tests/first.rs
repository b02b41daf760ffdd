//! The first program of a newcomer: the one in the README, as it is written there.

#![cfg(feature = "basic")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_program_of_the_readme_is_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let example = std::fs::read_to_string(root.join("examples/first.rs")).unwrap();
    let (_, program) = example.split_once("\n\n").unwrap();
    assert!(readme.contains(program), "README.md lacks:\n{program}");
}

#[test]
fn it_runs_where_there_is_nothing_else() {
    // Cargo builds examples with the tests, next to them.
    let own = std::env::current_exe().unwrap();
    let built = own.parent().unwrap().with_file_name("examples/first");
    let elsewhere = tempfile::tempdir().unwrap();
    let program = elsewhere.path().join("first");
    std::fs::copy(&built, &program).unwrap();
    let output = Command::new(&program)
        .env("PATH", "")
        .env("TMPDIR", elsewhere.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // The program itself is all that there was, and is.
    assert_eq!(elsewhere.path().read_dir().unwrap().count(), 1);
}
