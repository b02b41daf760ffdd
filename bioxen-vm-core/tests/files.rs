//! Files and folders arrive whole or not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "local")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bioxen_vm_core::files::Files;
use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{
    Command, Error, ErrorKind, Gather, Input, Outcome, OutputSink, OutputStream, Result, Runner,
};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

/// A machine whose connection breaks now and then: after so many bytes of input or output.
#[derive(Debug)]
struct Breaking {
    after: u64,
    breaks: AtomicUsize,
}

struct Cut<'s> {
    sink: &'s mut dyn OutputSink,
    left: usize,
}

#[async_trait]
impl OutputSink for Cut<'_> {
    async fn write(&mut self, stream: OutputStream, mut piece: Bytes) -> ControlFlow<()> {
        let piece = piece.split_to(piece.len().min(self.left));
        self.left -= piece.len();
        self.sink.write(stream, piece).await?;
        match self.left {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[async_trait]
impl Runner for Breaking {
    async fn run(&self, command: Command) -> Result<Outcome> {
        let mut gather = Gather::new(command.max_output);
        let outcome = self.run_streaming(command, &mut gather).await?;
        Ok(gather.into_outcome(outcome))
    }

    async fn run_streaming(
        &self,
        mut command: Command,
        sink: &mut dyn OutputSink,
    ) -> Result<Outcome> {
        let here = LocalRunner::new();
        if self.breaks.load(Ordering::Relaxed) == 0 {
            return here.run_streaming(command, sink).await;
        }
        let mut sink = Cut {
            sink,
            left: usize::try_from(self.after).unwrap(),
        };
        if let Some(stream) = command.stdin.take_stream().unwrap() {
            // What it got it keeps, and then it ends: the leash of a guest.
            let stream = stream.take(self.after);
            command.stdin = Input::lifeline(stream);
            sink.left = usize::MAX;
        }
        let outcome = here.run_streaming(command, &mut sink).await?;
        if outcome.success() {
            return Ok(outcome);
        }
        self.breaks.fetch_sub(1, Ordering::Relaxed);
        Err(Error::new(ErrorKind::Unavailable, "the connection broke"))
    }

    fn describe(&self) -> String {
        "a machine far away".into()
    }
}

fn files() -> Files {
    Files::new(Arc::new(LocalRunner::new()))
}

/// Two folders: of this machine, and of the other one.
fn folders() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&there).unwrap();
    (dir, here, there)
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn odd_name() -> &'static OsStr {
    OsStr::from_bytes(b"-n a'b\"$(id)\\n\n\t\xff ")
}

#[tokio::test]
async fn a_file_travels_both_ways_with_any_name_content_and_permissions() {
    let (_dir, here, there) = folders();
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for (number, content) in [&content[..], b"", b"\n"].iter().enumerate() {
        let file = here.join(odd_name());
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o751)).unwrap();
        let to = there.join(odd_name());
        let copied = files().put(&file, &to).await.unwrap();
        assert_eq!((copied.bytes, copied.resumed), (content.len() as u64, 0));
        assert_eq!(&fs::read(&to).unwrap(), content);
        assert_eq!(mode(&to), 0o751);
        let back = here.join(format!("back-{number}"));
        files().get(&to, &back).await.unwrap();
        assert_eq!(&fs::read(&back).unwrap(), content);
        assert_eq!(mode(&back), 0o751);
    }
    assert_eq!(names(&there), [Path::new(odd_name())]);
    assert_eq!(names(&here).len(), 4);
}

#[tokio::test]
async fn how_far_copies_are_is_told_in_bytes_and_files() {
    let (_dir, here, there) = folders();
    fs::write(here.join("a"), [b'a'; 1000]).unwrap();
    fs::create_dir(here.join("folder")).unwrap();
    fs::write(here.join("folder/b"), [b'b'; 500]).unwrap();
    fs::write(here.join("folder/c"), [b'c'; 24]).unwrap();
    let files = files();
    let progress = files.progress();
    let told = || {
        let moved = *progress.borrow();
        let bytes = (moved.bytes, moved.total);
        (bytes, (moved.files, moved.total_files))
    };
    assert_eq!(told(), ((0, 0), (0, 0)));
    files.put(&here.join("a"), &there).await.unwrap();
    assert_eq!(told(), ((1000, 1000), (1, 1)));
    let (from, to) = (here.join("folder"), there.join("folder"));
    files.push(&from, &to, false).await.unwrap();
    assert_eq!(told(), ((1524, 1524), (3, 3)));
    // What is as it should be does not move.
    files.push(&from, &to, false).await.unwrap();
    files
        .get(&there.join("a"), &here.join("back"))
        .await
        .unwrap();
    assert_eq!(told(), ((2524, 2524), (4, 4)));
}

#[tokio::test]
async fn a_folder_gets_a_file_under_its_own_name_and_what_was_there_is_replaced() {
    let (_dir, here, there) = folders();
    let file = here.join("x.fa");
    for content in ["old", "newer"] {
        fs::write(&file, content).unwrap();
        files().put(&file, &there).await.unwrap();
        assert_eq!(fs::read_to_string(there.join("x.fa")).unwrap(), content);
    }
    fs::remove_file(&file).unwrap();
    files().get(&there.join("x.fa"), &here).await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
}

#[tokio::test]
async fn what_broke_off_goes_on_where_it_stopped_and_is_never_seen_half() {
    let (_dir, here, there) = folders();
    let file = here.join("genome");
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&file, &content).unwrap();
    let runner = Arc::new(Breaking {
        after: 5_000_000,
        breaks: AtomicUsize::new(2),
    });
    let files = Files::new(Arc::<Breaking>::clone(&runner));
    for broken in 1..=2 {
        let error = files.put(&file, &there.join("g")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(!there.join("g").exists(), "break {broken}");
    }
    let copied = files.put(&file, &there.join("g")).await.unwrap();
    assert!(copied.resumed > 5_000_000, "{copied:?}");
    assert_eq!(fs::read(there.join("g")).unwrap(), content);
    assert_eq!(names(&there), [Path::new("g")], "no part is left");

    fs::remove_file(&file).unwrap();
    runner.breaks.store(2, Ordering::Relaxed);
    for _ in 1..=2 {
        files.get(&there.join("g"), &file).await.unwrap_err();
        assert!(!file.exists());
    }
    let copied = files.get(&there.join("g"), &file).await.unwrap();
    assert!(copied.resumed >= 10_000_000, "{copied:?}");
    assert_eq!(fs::read(&file).unwrap(), content);
    assert_eq!(names(&here), [Path::new("genome")], "no part is left");
}

#[tokio::test]
async fn a_part_that_is_none_of_this_file_is_found_out() {
    let (_dir, here, there) = folders();
    let file = here.join("x");
    fs::write(&file, vec![b'x'; 2_000_000]).unwrap();
    let runner = Arc::new(Breaking {
        after: 1_500_000,
        breaks: AtomicUsize::new(1),
    });
    let files = Files::new(runner);
    files.put(&file, &there.join("x")).await.unwrap_err();
    let part = there.join(&names(&there)[0]);
    fs::write(&part, vec![b'y'; 1_000_000]).unwrap();
    files.put(&file, &there.join("x")).await.unwrap();
    assert_eq!(fs::read(there.join("x")).unwrap(), vec![b'x'; 2_000_000]);
}

#[tokio::test]
async fn errors_name_the_file_the_reason_and_the_remedy() {
    let (_dir, here, there) = folders();
    let file = here.join("x");
    fs::write(&file, "x").unwrap();
    let put = |from: PathBuf, to: PathBuf| async move { files().put(&from, &to).await };
    let get = |from: PathBuf, to: PathBuf| async move { files().get(&from, &to).await };
    let table = [
        (
            put(file.clone(), there.join("no/such")).await,
            ErrorKind::NotFound,
            "its folder does not exist; make it first",
        ),
        (
            put(here.join("none"), there.clone()).await,
            ErrorKind::NotFound,
            "on this machine",
        ),
        (
            put(here.clone(), there.clone()).await,
            ErrorKind::Config,
            "use push or pull",
        ),
        (
            get(there.join("none"), here.clone()).await,
            ErrorKind::NotFound,
            "there is no such file",
        ),
        (
            get(there.clone(), here.join("y")).await,
            ErrorKind::Config,
            "it is a folder",
        ),
        (
            get(file.clone(), here.join("no/such")).await,
            ErrorKind::NotFound,
            "on this machine",
        ),
        // A device that is always full.
        (
            get("/dev/null".into(), here.join("y")).await,
            ErrorKind::Config,
            "it is no file",
        ),
    ];
    for (result, kind, text) in table {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    assert!(names(&there).is_empty());
}

#[tokio::test]
async fn only_what_differs_is_copied_and_what_is_too_many_goes_on_request() {
    let (_dir, here, there) = folders();
    let write = |path: &str, content: &str| {
        let path = here.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("a", "same");
    write("deep/er/b", "old");
    fs::write(here.join(odd_name()), "odd").unwrap();
    fs::create_dir(here.join("empty")).unwrap();
    fs::set_permissions(here.join("empty"), Permissions::from_mode(0o750)).unwrap();
    symlink("a", here.join("link")).unwrap();
    fs::set_permissions(&here, Permissions::from_mode(0o751)).unwrap();
    let target = there.join("copy");

    let synced = files().push(&here, &target, false).await.unwrap();
    assert_eq!(mode(&target), 0o751);
    assert_eq!((synced.copied, synced.bytes, synced.unchanged), (3, 10, 0));
    assert_eq!(synced.skipped, [Path::new("link")]);
    // What is there keeps its own.
    fs::set_permissions(&target, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::read(target.join(odd_name())).unwrap(), b"odd");
    assert_eq!(mode(&target.join("empty")), 0o750);

    let synced = files().push(&here, &target, true).await.unwrap();
    assert_eq!((synced.copied, synced.unchanged, synced.removed), (0, 3, 0));
    assert_eq!(mode(&target), 0o700);

    write("deep/er/b", "new");
    fs::set_permissions(here.join("a"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(target.join("more")).unwrap();
    fs::write(target.join("more/c"), "more").unwrap();
    let synced = files().push(&here, &target, false).await.unwrap();
    assert_eq!((synced.copied, synced.unchanged, synced.removed), (1, 2, 0));
    assert_eq!(fs::read(target.join("deep/er/b")).unwrap(), b"new");
    assert_eq!(mode(&target.join("a")), 0o600);
    assert!(target.join("more/c").exists());
    let synced = files().push(&here, &target, true).await.unwrap();
    assert_eq!((synced.copied, synced.removed), (0, 2));
    assert!(!target.join("more").exists());

    // And back.
    let back = here.join("back");
    let synced = files().pull(&target, &back, true).await.unwrap();
    assert_eq!(synced.copied, 3);
    fs::write(back.join("a"), "SAME").unwrap();
    fs::write(back.join("too many"), "x").unwrap();
    let synced = files().pull(&target, &back, true).await.unwrap();
    assert_eq!((synced.copied, synced.unchanged, synced.removed), (1, 2, 1));
    assert_eq!(fs::read(back.join("a")).unwrap(), b"same");
    assert_eq!(mode(&back.join("empty")), 0o750);
    let error = files().pull(&there.join("none"), &back, true).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(back.join("a").exists(), "nothing goes because of an error");
}
