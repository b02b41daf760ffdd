//! What a hostile program tries with files and the disk.

use std::path::Path;

use bioxen_vm_basic::BasicConfig;
use bioxen_vm_core::{Answer, Script, SessionOptions, Status};

use super::neighbours::Neighbours;
use super::run;
use crate::support::{Lab, create};

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn files_outside_of_the_vm_can_neither_be_read_nor_written() {
    let mut neighbours = Neighbours::new().await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    for lab in neighbours.both().await {
        let own = neighbours.home().join("own");
        for path in [
            secret.path(),
            &own,
            "/proc/self/environ".as_ref(),
            "/etc/shadow".as_ref(),
        ] {
            for mode in ["r", "w", "a", "r+"] {
                let code = "local file, problem = io.open(...) print(file, problem)";
                let script = Script::new(code).arg(text(path)).arg(mode);
                let outcome = run(&lab, script).await;
                let text = outcome.stdout_text();
                assert!(
                    text.starts_with("nil\t"),
                    "{} {mode}: {text}",
                    path.display()
                );
            }
            let code = "print((os.remove(...))) print((os.rename(..., 'mine')))";
            let script = Script::new(code).arg(text(path));
            assert_eq!(run(&lab, script).await.stdout_text(), "nil\nnil\n");
        }
        let planted = lab.base.path().join("planted");
        let script = Script::new("print((io.open(..., 'w')))").arg(text(&planted));
        assert_eq!(run(&lab, script).await.stdout_text(), "nil\n");
        assert!(!planted.exists());
    }
    assert_eq!(std::fs::read(secret.path()).unwrap(), b"secret");
    neighbours.unharmed().await;
}

#[tokio::test]
async fn folders_that_are_named_are_open_and_no_wider_than_said() {
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("data"), "ACGT").unwrap();
    let given = tempfile::tempdir().unwrap();
    let config = BasicConfig::default()
        .with_read(shared.path())
        .with_write(given.path());
    for lab in Lab::both_with(config).await {
        let code = "local read, write = ... print(io.open(read .. '/data'):read('a')) \
                    print((io.open(read .. '/data', 'w'))) \
                    io.open(write .. '/out', 'w'):write('x'):close() \
                    print(os.rename(write .. '/out', write .. '/renamed'))";
        let script = Script::new(code)
            .arg(text(shared.path()))
            .arg(text(given.path()));
        let outcome = run(&lab, script).await;
        assert_eq!(
            outcome.stdout_text(),
            "ACGT\nnil\ntrue\n",
            "{}",
            outcome.stderr_text()
        );
        assert!(given.path().join("renamed").is_file());
    }
}

#[tokio::test]
async fn temporary_files_are_those_of_the_vm() {
    let lab = Lab::built_in().await;
    let code = "local name = os.tmpname() print(name:find(os.getenv('TMPDIR'), 1, true)) \
                local file = io.tmpfile() file:write('x') file:seek('set') print(file:read('a'))";
    let outcome = run(&lab, code).await;
    let text = outcome.stdout_text();
    assert!(
        text.starts_with("1\t") && text.ends_with("\nx\n"),
        "{text}{}",
        outcome.stderr_text()
    );
}

#[tokio::test]
async fn a_file_cannot_fill_the_disk() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default().with_file_size(1 << 20);
    for lab in neighbours.both_with(config).await {
        let code = "local file = io.open('large', 'w') file:setvbuf('no') \
                    local s, problem = ('x'):rep(1 << 16) \
                    for _ = 1, 1000 do local ok; ok, problem = file:write(s) \
                    if not ok then break end end print(problem) file:close()";
        let outcome = run(&lab, code).await;
        assert_eq!(
            outcome.stdout_text(),
            "File too large\n",
            "{}",
            outcome.stderr_text()
        );
        let size = lab.home().join("large").metadata().unwrap().len();
        assert_eq!(size, 1 << 20);
    }
    neighbours.unharmed().await;
}

#[tokio::test]
async fn many_files_cannot_fill_the_disk() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default().with_disk(8 << 20);
    for lab in neighbours.both_with(config).await {
        let code = "local i, s = 0, ('x'):rep(1 << 16) while true do i = i + 1 \
                    local file = assert(io.open((os.getenv('TMPDIR') .. '/' .. i), 'w')) \
                    file:write(s) file:close() end";
        let outcome = run(&lab, code).await;
        assert_eq!(outcome.status, Status::DiskLimit, "{outcome:?}");
        neighbours.unharmed().await;
        // What is there stays, and the next program can work, and make room.
        let room = "local t = os.clock() while os.clock() - t < 0.3 do end \
                    for i = 1, math.huge do if not os.remove(os.getenv('TMPDIR') .. '/' .. i) \
                    then break end end io.open('small', 'w'):write('x'):close()";
        let outcome = run(&lab, room).await;
        assert!(outcome.success(), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_session_that_fills_the_disk_ends() {
    let mut neighbours = Neighbours::new().await;
    let config = BasicConfig::default().with_disk(8 << 20);
    for lab in neighbours.both_with(config).await {
        let session = lab
            .vm
            .open_session(SessionOptions::default())
            .await
            .unwrap();
        let code =
            "local file = io.open('large', 'w') while true do file:write(('x'):rep(1 << 16)) end";
        let reply = session.eval(code).await.unwrap();
        assert!(matches!(reply.answer, Answer::Ended(_)), "{reply:?}");
        neighbours.unharmed().await;
        assert!(run(&lab, "os.remove('large')").await.success());
    }
}

#[tokio::test]
async fn a_relative_folder_is_refused() {
    let config = BasicConfig::default().with_read("data");
    let error = bioxen_vm_basic::BasicBackend::new(config).unwrap_err();
    assert!(error.to_string().contains("begin it with /"), "{error}");
    create(BasicConfig::default()).await;
}
