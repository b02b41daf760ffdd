//! A pool that is served on this machine, and the program that is to use it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test targets, each of which uses a part of it"
)]

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use xapi_client::SecretString;
use xapi_sim::guest::PORT;
use xapi_sim::{Model, Server, Sim, SimOptions};

/// No message may ever show it.
pub const PASSWORD: &str = "canary-of-the-pool";

pub struct Pool {
    pub sim: Sim,
    pub server: Server,
    /// Where the program keeps what it knows.
    pub state: tempfile::TempDir,
    /// What the program finds in its environment besides how to reach the pool.
    pub env: Vec<(&'static str, String)>,
}

impl Pool {
    pub async fn of(model: Model, options: SimOptions) -> Self {
        let options = options.with_password(SecretString::from(PASSWORD));
        let sim = Sim::start(model, options).await.unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = sim.serve(address).await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let env = Vec::new();
        Self {
            sim,
            server,
            state,
            env,
        }
    }

    /// The program with what it takes to reach this pool.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
        let pin = self.server.fingerprint().unwrap().to_string();
        let user = self.sim.guest_user().unwrap_or("root");
        command
            .args(args)
            .env("BIOXEN_XCPNG_HOST", self.server.address().to_string())
            .env("BIOXEN_XCPNG_PASSWORD", PASSWORD)
            .env("BIOXEN_XCPNG_TLS__FINGERPRINT", pin)
            .env("BIOXEN_XCPNG_SSH__USER", user)
            .env("BIOXEN_XCPNG_SSH__PORT", PORT.to_string())
            .env("XDG_STATE_HOME", self.state.path())
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub async fn bioxen(&self, args: &[&str]) -> Output {
        self.talk(args, "").await
    }

    /// The same with something on its standard input.
    pub async fn talk(&self, args: &[&str], input: &'static str) -> Output {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // What is refused reads nothing.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        });
        output.await.unwrap()
    }

    /// The same for what succeeds: what it prints.
    pub async fn says(&self, args: &[&str]) -> String {
        let output = self.bioxen(args).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same as JSON, one value to a line.
    pub async fn json(&self, args: &[&str]) -> Vec<Value> {
        let text = self.says(&[args, &["--json"]].concat()).await;
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    /// The same for what is refused: the one line that it says.
    pub async fn refused(&self, args: &[&str]) -> String {
        let output = self.bioxen(args).await;
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        assert_eq!(output.stdout, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "more than one line:\n{said}");
        assert!(!said.contains(PASSWORD), "the password shows: {said}");
        said
    }
}
