//! What somebody sees who sets up a pool: the decision whom to trust, and what the doctor says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use xapi_sim::{GuestMode, Model, SimOptions};

use support::{PASSWORD, Pool};

mod support;

/// A pool whose VMs are records only, and nothing in the environment that tells of it.
async fn pool() -> Pool {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    Pool::of(Model::single_host(), options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_this_machine_trusts_needs_no_fingerprint() {
    let mut pool = pool().await;
    let folder = pool.state.path().to_owned();
    fs::write(folder.join("secret"), PASSWORD).unwrap();
    let (file, secret) = (folder.join("pool.toml"), folder.join("secret"));
    let host = pool.server.address().to_string();
    let init = [
        "config",
        "init",
        "--no-test",
        "--config",
        file.to_str().unwrap(),
        "--password-file",
        secret.to_str().unwrap(),
        "--host",
        &host,
    ];
    let said = pool.refused(&init).await;
    let pin = pool.server.fingerprint().unwrap().to_string();
    assert!(
        said.contains(&format!("--fingerprint {pin}; nothing was written")),
        "{said}"
    );
    assert!(!file.exists());

    let authority = folder.join("authority.pem");
    fs::write(&authority, pool.server.certificate_pem().unwrap()).unwrap();
    pool.env = vec![("SSL_CERT_FILE", authority.to_str().unwrap().to_owned())];
    let said = pool.says(&init).await;
    assert!(said.contains("vouches for"), "{said}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(!written.contains("fingerprint"), "{written}");
}
