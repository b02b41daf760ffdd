//! The official Python client of XAPI against the simulator: what foreign clients see.
//!
//! The Python that has the package `XenAPI` is `target/venv/bin/python`, which `make test-tools`
//! makes, or the one that `BIOXEN_TEST_PYTHON` names.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use xapi_sim::{GuestMode, LUA_TEMPLATE, Model, SecretString, Sim, SimOptions};

const PASSWORD: &str = "it's a \"secret\" & <more>";

fn python() -> PathBuf {
    let named = std::env::var_os("BIOXEN_TEST_PYTHON").map(PathBuf::from);
    let python = named
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"));
    assert!(
        python.exists(),
        "{} is missing: run `make test-tools`, or name a Python with the package XenAPI in \
         BIOXEN_TEST_PYTHON",
        python.display()
    );
    python
}

/// Runs a script of `tests/xenapi` against a pool, and gives what it prints.
async fn run(script: &str, options: SimOptions) -> String {
    let python = python();
    let options = options.with_password(SecretString::from(PASSWORD));
    let sim = Sim::start(Model::single_host(), options).await.unwrap();
    let server = sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("certificate.pem");
    std::fs::write(&certificate, server.certificate_pem().unwrap()).unwrap();
    let given = serde_json::json!({
        "url": server.url(),
        "user": sim.credentials().user(),
        "password": PASSWORD,
        "cafile": certificate,
        "template": LUA_TEMPLATE,
    });
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xenapi");
    let mut child = Command::new(python)
        // No compiled files beside the scripts.
        .arg("-B")
        .arg(scripts.join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(given.to_string().as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.ends_with("done\n"), "{out}");
    assert_eq!(sim.unimplemented(), Vec::<String>::new());
    server.shutdown().await;
    sim.shutdown().await;
    out.into_owned()
}

#[tokio::test]
async fn the_python_client_takes_a_vm_from_template_to_end() {
    let out = run("lifecycle.py", SimOptions::default()).await;
    assert!(out.contains("address 127.77."), "{out}");
}

#[tokio::test]
async fn the_python_client_walks_through_the_classes() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let out = run("tour.py", options).await;
    let counts: Vec<u32> = out
        .lines()
        .find(|line| line.starts_with("messages "))
        .map(|line| line.split(' ').filter_map(|word| word.parse().ok()))
        .unwrap()
        .collect();
    // Different messages, of different classes.
    assert!(counts[0] >= 130 && counts[1] >= 25, "{out}");
}
