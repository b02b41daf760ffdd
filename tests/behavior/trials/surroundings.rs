//! What a program is given, and what it leaves: variables, folders, files, streams.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bioxen::{ErrorKind, Input, Script, SessionOptions, Status};
use tokio::io::AsyncWriteExt as _;

use super::{ANY, COMMANDS, Entry, FILES, STREAMING, run};
use crate::target::Bench;

pub(super) const TRIALS: &[Entry] = trials![
    ANY d06_no_program_is_left_in_a_file,
    ANY d07_nothing_of_our_environment_is_seen,
    STREAMING output_over_any_buffer_is_handed_on_whole,
    STREAMING input_comes_as_it_is_written,
    ANY a_file_of_this_machine_is_run_by_its_path,
    FILES relative_names_are_meant_from_the_working_directory,
    COMMANDS variables_and_working_directories_are_bytes,
];

async fn d06_no_program_is_left_in_a_file(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    // A word that is nowhere else, and may be the name of a variable.
    let mark = folder.path().file_name().unwrap().to_str().unwrap();
    let mark = mark.replace('.', "mark");
    let file = folder.path().join("program.lua");
    let endless =
        format!("local {mark} = io.read() print({mark}) io.stdout:flush() while true do end");
    let large = format!("print(#'{mark}{}')", "x".repeat(1 << 20));
    std::fs::write(&file, &endless).unwrap();
    for script in [
        Script::new(endless).with_timeout(Duration::from_secs(1)),
        bioxen::local::read_script(&file)
            .await
            .unwrap()
            .with_timeout(Duration::from_secs(1)),
        Script::new(large),
        Script::new(format!("error('{mark}')")),
        Script::new(format!("os.exit(3, '{mark}')")),
    ] {
        let may_run_out = script.timeout.is_some();
        let script = script.arg(mark.clone()).with_stdin(format!("{mark}\n"));
        let outcome = run(bench, script).await;
        // Running out of time is told as that, and what was said before is there.
        if may_run_out {
            assert_eq!(outcome.status, Status::TimedOut);
            assert_eq!(outcome.stdout_text(), format!("{mark}\n"));
        }
    }
    drop(folder);
    let info = bench.manager.info("vm").await.unwrap();
    let left = match info.details.get("directory") {
        Some(directory) => files_below(Path::new(directory))
            .into_iter()
            .filter(|file| {
                std::fs::read(file)
                    .unwrap()
                    .windows(mark.len())
                    .any(|part| part == mark.as_bytes())
            })
            .map(|file| file.display().to_string())
            .collect::<Vec<_>>()
            .concat(),
        None => {
            // The program that looks is in no file either.
            let look = "os.execute([[find ~ /tmp /var/tmp -type f -size -4096k -mmin -10 \
                        -exec grep -l \"$E\" {} + 2>/dev/null]])";
            let look = Script::new(look).with_env("E", &mark);
            run(bench, look).await.stdout_text().into_owned()
        }
    };
    assert_eq!(left, "");
}

/// All files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

async fn d07_nothing_of_our_environment_is_seen(bench: &Bench) {
    // Cargo gives it to every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let script = Script::new("print(os.getenv('CARGO_MANIFEST_DIR'), os.getenv('MINE'))");
    let outcome = run(bench, script.with_env("MINE", "a 'b'\n$(id)")).await;
    assert_eq!(outcome.stdout_text(), "nil\ta 'b'\n$(id)\n");
}

async fn output_over_any_buffer_is_handed_on_whole(bench: &Bench) {
    // More than any buffer on the way holds.
    const SIZE: usize = 32 << 20;
    let code = format!(
        "local s = ('x'):rep(2^16) for _ = 1, {} do io.write(s) end",
        SIZE >> 16
    );
    let (execution, mut output) = bench.manager.spawn_streaming("vm", code).unwrap();
    let mut got = 0;
    while let Some((_, piece)) = output.recv().await {
        got += piece.len();
    }
    assert_eq!(got, SIZE);
    assert!(execution.wait().await.unwrap().success());
}

async fn input_comes_as_it_is_written(bench: &Bench) {
    // The second line is written when the first has been answered.
    let code = "io.stdout:setvbuf('no') for line in io.lines() do print('got ' .. line) end";
    let (mut ours, theirs) = tokio::io::duplex(64);
    let script = Script::new(code).with_stdin(Input::stream(theirs));
    let (execution, mut output) = bench.manager.spawn_streaming("vm", script).unwrap();
    let mut got = Vec::new();
    for (line, answer) in [("one\n", "got one\n"), ("two\n", "got one\ngot two\n")] {
        ours.write_all(line.as_bytes()).await.unwrap();
        while got.len() < answer.len() {
            let (_, piece) = output.recv().await.unwrap();
            got.extend_from_slice(&piece);
        }
        assert_eq!(String::from_utf8_lossy(&got), answer);
    }
    drop(ours);
    assert!(output.recv().await.is_none());
    assert!(execution.wait().await.unwrap().success());
}

async fn a_file_of_this_machine_is_run_by_its_path(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my program.lua");
    std::fs::write(&file, "#!/usr/bin/lua\nprint('ran') error('boom')").unwrap();
    let outcome = bench.manager.execute_file("vm", &file).await.unwrap();
    assert_eq!(outcome.status, Status::Exited(1));
    assert_eq!(outcome.stdout_text(), "ran\n");
    let named = "my program.lua:2: boom\n";
    assert!(
        outcome.stderr_text().contains(named),
        "{}",
        outcome.stderr_text()
    );
    let missing = folder.path().join("missing.lua");
    let error = bench.manager.execute_file("vm", &missing).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing.lua"), "{error}");
}

async fn relative_names_are_meant_from_the_working_directory(bench: &Bench) {
    let temporary = run(bench, "io.write(os.getenv('TMPDIR') or '/tmp')").await;
    let folder = temporary.stdout_text().into_owned();
    // The guests of one machine may share such a folder.
    let name = format!("here-{}-{}", bench.vm_type, std::process::id());
    let make = "local file = assert(io.open((...), 'w')) file:write('x') file:close()";
    let make = Script::new(make).arg(name.clone()).with_cwd(folder.clone());
    let made = run(bench, make).await;
    assert!(made.success(), "{}", made.stderr_text());
    let read = Script::new("local file = io.open((...)) io.write(file and file:read('*a') or '-')");
    // Without one programs start in another folder.
    let elsewhere = read.clone().arg(name.clone());
    assert_eq!(run(bench, elsewhere).await.stdout_text(), "-");
    let path = format!("{folder}/{name}");
    assert_eq!(run(bench, read.arg(path.clone())).await.stdout_text(), "x");
    let gone = run(bench, Script::new("assert(os.remove((...)))").arg(path)).await;
    assert!(gone.success(), "{}", gone.stderr_text());
    let nowhere = Script::new("print('ran')").with_cwd("/no/such/folder");
    match bench.manager.execute_vm("vm", nowhere).await {
        Ok(outcome) => assert!(
            !outcome.success() && outcome.stdout.is_empty(),
            "{outcome:?}"
        ),
        Err(error) => assert!(error.to_string().contains("/no/such/folder"), "{error}"),
    }
}

async fn variables_and_working_directories_are_bytes(bench: &Bench) {
    let temporary = run(bench, "io.write(os.getenv('TMPDIR') or '/tmp')").await;
    let above = temporary.stdout_text().into_owned();
    // What is no text in any encoding, and what a shell would take for its own.
    let mut bytes = format!("odd-{}-{}", bench.vm_type, std::process::id()).into_bytes();
    bytes.extend((1..=255).filter(|byte: &u8| *byte != b'/' && !byte.is_ascii_alphanumeric()));
    let odd = || OsString::from_vec(bytes.clone());
    let folder = Path::new(&above).join(odd());
    let script = Script::new("assert(os.execute('mkdir \"$E\"'))")
        .with_env("E", odd())
        .with_cwd(above.clone());
    let made = run(bench, script).await;
    assert!(made.success(), "{}", made.stderr_text());
    let script = Script::new("io.write(os.getenv('E')) io.stdout:flush() os.execute('pwd')");
    let seen = run(bench, script.with_env("E", odd()).with_cwd(&folder)).await;
    let mut expected = bytes.clone();
    expected.extend(folder.as_os_str().as_bytes());
    expected.push(b'\n');
    assert_eq!(&seen.stdout[..], &expected[..], "{}", seen.stderr_text());
    let options = SessionOptions::named("odd")
        .with_env("E", odd())
        .with_cwd(folder);
    let session = bench.manager.open_session("vm", options).await.unwrap();
    let code = "io.write(os.getenv('E')) io.stdout:flush() os.execute('pwd')";
    assert_eq!(&session.eval(code).await.unwrap().stdout[..], &expected[..]);
    session.close().await;
    let script = Script::new("assert(os.execute('rmdir \"$E\"'))").with_env("E", odd());
    let gone = run(bench, script.with_cwd(above)).await;
    assert!(gone.success(), "{}", gone.stderr_text());
}
