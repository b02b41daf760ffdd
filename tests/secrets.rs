//! A password, a key and the token of a session appear nowhere but where they are kept: in no log, not
//! even the most talkative one, no error, no list of processes, no record of a run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use xapi_sim::{LUA_TEMPLATE, Model, SimOptions};

use support::{PASSWORD, Pool};

mod support;

/// A password that the pool refuses.
const WRONG: &str = "canary-of-nobody";

/// What is seen meanwhile of the processes of this machine, and of the sessions on record.
#[derive(Debug, Default)]
struct Seen {
    arguments: BTreeSet<Vec<u8>>,
    sessions: BTreeSet<String>,
}

/// Looks at all processes and at the records of runs, again and again.
struct Watcher {
    seen: Arc<Mutex<Seen>>,
    ends: Arc<AtomicBool>,
    looking: JoinHandle<()>,
}

impl Watcher {
    fn start(state: &Path) -> Self {
        let (seen, ends) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (noted, told, state) = (Arc::clone(&seen), Arc::clone(&ends), state.to_owned());
        let looking = tokio::spawn(async move {
            while !told.load(Ordering::Relaxed) {
                look(&state, &mut noted.lock().unwrap());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self {
            seen,
            ends,
            looking,
        }
    }

    async fn end(self) -> Seen {
        self.ends.store(true, Ordering::Relaxed);
        self.looking.await.unwrap();
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn look(state: &Path, seen: &mut Seen) {
    for process in fs::read_dir("/proc").unwrap() {
        // It may be gone by now.
        if let Ok(arguments) = fs::read(process.unwrap().path().join("cmdline"))
            && !arguments.is_empty()
        {
            seen.arguments.insert(arguments);
        }
    }
    for file in files(state) {
        if file.extension().is_some_and(|kind| kind == "run") {
            let lines = fs::read_to_string(file).unwrap_or_default();
            let entries = lines
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            let sessions =
                entries.filter_map(|entry: Value| Some(entry["session"].as_str()?.to_owned()));
            seen.sessions.extend(sessions);
        }
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let nested = paths.map(|path| match path.is_dir() && !path.is_symlink() {
        true => files(&path),
        false => vec![path],
    });
    nested.flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_appear_nowhere_but_where_they_are_kept() {
    let mut pool = Pool::of(Model::single_host(), SimOptions::default()).await;
    pool.env = vec![
        ("BIOXEN_LOG", "trace".to_owned()),
        ("BIOXEN_XCPNG_TEMPLATE", LUA_TEMPLATE.to_owned()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, text) in [
        ("reads.fa", ">a\nACGT\n>b\nGATTACA\n"),
        (
            "count.lua",
            "local n = 0 for _ in io.lines() do n = n + 1 end return n",
        ),
    ] {
        fs::write(path(name), text).unwrap();
    }
    let (reads, count, out) = (path("reads.fa"), path("count.lua"), path("out"));
    let copied = format!("lab:{}", "/tmp/canary.fa");

    let watcher = Watcher::start(pool.state.path());
    let mut told: Vec<(String, Output)> = Vec::new();
    let mut run = async |pool: &Pool, args: &[&str], succeeds: bool| {
        let output = pool.bioxen(args).await;
        let shown = args.join(" ");
        assert_eq!(output.status.success(), succeeds, "{shown}: {output:?}");
        told.push((shown, output));
    };
    run(&pool, &["create", "lab"], true).await;
    let key = private_key(pool.state.path());
    for args in [
        &["run", "--vm", "lab", "-e", "print(1)"][..],
        &["--log", "json", "exec", "lab", "-e", "return 1"],
        &["-vv", "info", "lab", "--json"],
        &["cp", &reads, &copied],
        &["pkg", "list", "--vm", "lab"],
        &["net", "create", "canaries"],
        &["net", "ls", "--json"],
        &["net", "rm", "canaries"],
        &["config", "show"],
        &[
            "map", "--type", "xcpng", "--by", "fasta", "--vms", "1", "--out", &out, &count, &reads,
        ],
    ] {
        run(&pool, args, true).await;
    }
    for args in [
        &[
            "run",
            "--type",
            "xcpng",
            "--set",
            "template=none",
            "-e",
            "print(1)",
        ][..],
        &["info", "nobody"],
        &["run", "--vm", "lab", "-e", "error('no')"],
        &["ls", "--set", "tls.fingerprint=00:11"],
    ] {
        run(&pool, args, false).await;
    }
    pool.env.push(("BIOXEN_XCPNG_PASSWORD", WRONG.to_owned()));
    run(&pool, &["ls"], false).await;
    pool.env.pop();
    run(&pool, &["destroy", "lab"], true).await;
    let seen = watcher.end().await;

    // That there was something to see.
    let said: usize = told.iter().map(|(_, output)| output.stderr.len()).sum();
    assert!(said > 10_000, "the logs have {said} bytes");
    let all_said: Vec<_> = told
        .iter()
        .flat_map(|(_, output)| output.stderr.clone())
        .collect();
    for word in ["VM.start", "TRACE"] {
        assert!(has(&all_said, word), "no log has {word}");
    }
    let ran = |word: &str| seen.arguments.iter().any(|arguments| has(arguments, word));
    assert!(ran("create\0lab") && ran("ssh"), "too little was seen");
    assert!(!seen.sessions.is_empty(), "no session was on record");
    let records = files(&folder.path().join("out"));
    assert!(!records.is_empty(), "the run left no record");

    let mut secrets = vec![PASSWORD.to_owned(), WRONG.to_owned(), key];
    secrets.extend(seen.sessions);
    for secret in &secrets {
        for (args, output) in &told {
            for stream in [&output.stdout, &output.stderr] {
                assert!(!has(stream, secret), "{args}: {secret} shows");
            }
        }
        for arguments in &seen.arguments {
            let shown = String::from_utf8_lossy(arguments);
            assert!(!has(arguments, secret), "{secret} is an argument: {shown}");
        }
        for file in records.iter().chain(&files(pool.state.path())) {
            let text = fs::read(file).unwrap_or_default();
            assert!(!has(&text, secret), "{secret} is in {}", file.display());
        }
    }
    pool.server.shutdown().await;
    pool.sim.shutdown().await;
}

/// A line of the only private key that is kept, which is its own: the first ones are the same in all.
fn private_key(state: &Path) -> String {
    let kept: Vec<_> = files(state)
        .into_iter()
        .filter(|file| file.parent().is_some_and(|folder| folder.ends_with("keys")))
        .collect();
    let [file] = kept.as_slice() else {
        panic!("{kept:?}");
    };
    let kept: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let lines: Vec<_> = kept["identity"].as_str().unwrap().lines().collect();
    lines[lines.len() / 2].to_owned()
}

fn has(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|part| part == word.as_bytes())
}
