//! `xapi-sim` as a program.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xapi-sim"));
    command
        .args(args)
        .env_remove("XAPI_SIM_CONTROL")
        .env_remove("RUST_LOG");
    command
}

/// A pool without guests that is being served.
struct Served {
    process: Child,
    /// What it has said of itself, by the first word of each line.
    said: Vec<(String, String)>,
}

impl Served {
    fn new(args: &[&str]) -> Self {
        let mut command = program(&["serve", "--no-guests", "--plain"]);
        let mut process = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.starts_with("ready") {
                break;
            }
            let (name, rest) = line.split_once(' ').unwrap();
            said.push((name.to_owned(), rest.trim().to_owned()));
        }
        Served { process, said }
    }

    fn said(&self, name: &str) -> &str {
        &self.said.iter().find(|(known, _)| known == name).unwrap().1
    }

    /// The file by which it is controlled.
    fn control(&self) -> PathBuf {
        PathBuf::from(self.said("control:").rsplit(' ').next().unwrap())
    }

    fn ctl(&self, args: &[&str]) -> Output {
        let control = self.control();
        let file = ["ctl", "--file", control.to_str().unwrap()];
        program(&[&file[..], args].concat()).output().unwrap()
    }

    /// Ends it by a signal, and tells how it ended and whether its folder is there still.
    fn end(mut self, signal: Signal) -> (Option<i32>, bool) {
        let folder = self.control().parent().map(Path::to_owned).unwrap();
        let process = Pid::from_raw(self.process.id().cast_signed());
        kill(process, signal).unwrap();
        let status = self.process.wait().unwrap();
        (status.code(), folder.exists())
    }
}

#[test]
fn a_closed_terminal_ends_it_as_any_signal_does() {
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
        assert_eq!(Served::new(&[]).end(signal), (Some(0), false), "{signal}");
    }
}

#[test]
fn options_count_before_the_model_and_presets_have_names() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.toml");
    std::fs::write(&model, "seed = 7\nhosts = 2\nrelease = \"8.2\"\n").unwrap();
    let hosts = |args: &[&str]| {
        let served = Served::new(args);
        // Nobody is called so, and the answer says who there is.
        let output = served.ctl(&["crash-host", "nobody"]);
        assert_eq!(served.end(Signal::SIGTERM), (Some(0), false));
        let said = String::from_utf8(output.stderr).unwrap();
        said.split("one of: ").nth(1).unwrap().trim().to_owned()
    };
    let model = ["--model", model.to_str().unwrap()];
    assert_eq!(hosts(&model), "xcp-ng, xcp-ng-2");
    let more = [
        &model[..],
        &["--hosts", "3", "--seed", "8", "--release", "8.3"],
    ]
    .concat();
    assert_eq!(hosts(&more), "xcp-ng, xcp-ng-2, xcp-ng-3");
    let three = ["--preset", "pool-of-three", "--login-delay", "0.5"];
    assert_eq!(hosts(&three), "xcp-ng, xcp-ng-2, xcp-ng-3");
    for (args, said) in [
        (
            &["--preset", "huge"][..],
            "there are single-host, pool-of-three, fleet, empty",
        ),
        (&["--login-delay", "soon"], "no number of seconds"),
        (&["--member", "127.0.0.2:0"], "add --hosts 2"),
    ] {
        let output = program(&[&["serve", "--no-guests"][..], args].concat())
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(said), "{told}");
    }
}

#[test]
fn what_ctl_is_told_is_understood_or_refused_by_name() {
    let served = Served::new(&[]);
    let output = served.ctl(&["calls-per-vm"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "{}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("no call so far is about a VM"), "{told}");
    for (rule, said) in [
        (&["method=VM.start", "delay=.2"][..], ""),
        (
            &["method=VM.start", "probability=1e-1", "disconnect=true"],
            "",
        ),
        (&["method=/export", "truncate=10"], ""),
        (
            &["method=VM.start", "delay=soon"],
            "delay in the request has to be a number of seconds",
        ),
        (
            &["method=VM.start", "fail="],
            "fail in the request begins with \"\"",
        ),
        (
            &["method=VM.start", "http_status=0"],
            "http_status in the request is 0",
        ),
    ] {
        let output = served.ctl(&[&["fault", "add"], rule].concat());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), said.is_empty(), "{rule:?}: {told}");
        assert!(told.contains(said), "{rule:?}: {told}");
    }
    let rules = String::from_utf8(served.ctl(&["fault", "list"]).stdout).unwrap();
    assert!(rules.contains("wait 200ms"), "{rules}");
    let output = served.ctl(&["emergency", "--host", "xcp-ng", "HOST_STILL_BOOTING"]);
    assert!(output.status.success(), "{output:?}");
    served.end(Signal::SIGTERM);
}
