//! Programs of other people, and the rocks beside them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Lua programs and the packages they come from. Lua 5.2, which not every Debian has, is run
/// where it is installed.
pub(crate) const INTERPRETERS: [(&str, &str); 4] = [
    ("lua5.1", "lua5.1"),
    ("lua5.3", "lua5.3"),
    ("lua5.4", "lua5.4"),
    ("luajit", "luajit"),
];

pub(crate) const PACKED_LAMBDA: &str =
    "/usr/share/doc/bowtie2/examples/reference/lambda_virus.fa.gz";

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program of a Debian package; `None` when it is not installed.
pub(crate) fn output_of(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("cannot run {command:?}: {error}"),
    }
}

/// Runs a program of a Debian package and demands success.
pub(crate) fn run(command: &mut Command, package: &str) -> String {
    let program = command.get_program().to_owned();
    let Some(output) = output_of(command) else {
        panic!("{program:?} is not installed: apt-get install -y {package}");
    };
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A Lua program that finds the rocks in the source tree, and nothing of the machine's own.
pub(crate) fn lua(interpreter: &str) -> Command {
    let mut command = Command::new(interpreter);
    let rocks = root().join("rocks");
    let path = ["bio_compute", "bio_sequence_analysis"]
        .map(|rock| rocks.join(rock).join("src/?.lua").display().to_string())
        .join(";");
    // Lua prefers the variable that names its version, and reads LUA_INIT before all else.
    for version in ["", "_5_2", "_5_3", "_5_4"] {
        command.env_remove(format!("LUA_INIT{version}"));
        command.env(format!("LUA_PATH{version}"), &path);
    }
    command
}

pub(crate) fn lua_script(interpreter: (&str, &str), script: &str, arguments: &[&str]) -> String {
    let (program, package) = interpreter;
    let script = root().join("tests/rocks").join(script);
    run(lua(program).arg(script).args(arguments), package)
}

/// A file of Biopython's own tests.
pub(crate) fn biopython_file(path: &str) -> PathBuf {
    let path = root().join("target/biopython").join(path);
    assert!(
        path.exists(),
        "{} is missing: make test-tools",
        path.display()
    );
    path
}

/// Runs a program of ours with Biopython.
pub(crate) fn python(script: &str, arguments: &[&Path]) -> String {
    let python = root().join("target/venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: make test-tools",
        python.display()
    );
    let script = root().join("tests/rocks").join(script);
    run(Command::new(python).arg(script).args(arguments), "python3")
}

/// Reads of phage lambda: what `make data` took out of the Debian package bowtie2-examples.
pub(crate) fn reads(name: &str) -> PathBuf {
    let path = root().join("target/data").join(name);
    assert!(path.is_file(), "{} is missing: make data", path.display());
    path
}

/// Lambda's genome: what `make data` took out of the Debian package, or the package's own file.
pub(crate) fn lambda(scratch: &Path) -> PathBuf {
    let taken_out = root().join("target/data/lambda_virus.fa");
    if taken_out.is_file() {
        return taken_out;
    }
    assert!(
        Path::new(PACKED_LAMBDA).is_file(),
        "the genome of phage lambda is missing: make data (or apt-get install -y bowtie2-examples)",
    );
    let text = run(Command::new("gzip").args(["-dc", PACKED_LAMBDA]), "gzip");
    let path = scratch.join("lambda.fa");
    fs::write(&path, text).unwrap();
    path
}
