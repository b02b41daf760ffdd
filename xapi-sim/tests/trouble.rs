//! What goes wrong on the way, and what a program leaves behind.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::time::Duration;

use common::wire::Wire;
use common::{Pool, login, pool, text};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use xapi_client::{Client, Error};
use xapi_sim::{FaultRule, Server, Value};

async fn served() -> (Pool, Server) {
    let pool = pool().await;
    let address = ([127, 0, 0, 1], 0).into();
    let server = pool.sim.serve_plain(address).await.unwrap();
    (pool, server)
}

/// Makes a network on a connection of its own and gives everything that comes back.
async fn create_network(pool: &Pool, server: &Server, name: &str) -> String {
    let session = &pool.session;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"network.create","params":["{session}",{{"name_label":"{name}","other_config":{{}}}}]}}"#
    );
    let length = body.len();
    let mut wire = Wire::over(TcpStream::connect(server.address()).await.unwrap());
    let head =
        format!("POST /jsonrpc HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    wire.send((head + &body).as_bytes()).await;
    let mut answer = Vec::new();
    wire.stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn exists(pool: &Pool, name: &str) -> bool {
    let found = pool
        .call("network.get_by_name_label", vec![name.into()])
        .await;
    !found.items().is_empty()
}

#[tokio::test]
async fn connections_break_before_and_after_the_work() {
    let (pool, server) = served().await;
    let rule = FaultRule::method("network.create").times(1);
    pool.sim.inject(rule.clone().disconnect());
    assert_eq!(create_network(&pool, &server, "before").await, "");
    assert!(!exists(&pool, "before").await);

    pool.sim.inject(rule.clone().disconnect().after_effect());
    assert_eq!(create_network(&pool, &server, "after").await, "");
    assert!(exists(&pool, "after").await);

    pool.sim.inject(rule.http_status(503));
    let answer = create_network(&pool, &server, "refused").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(!exists(&pool, "refused").await);

    // The rules are used up.
    let answer = create_network(&pool, &server, "well").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn answers_come_in_part_or_in_pieces() {
    let (pool, server) = served().await;
    let rule = FaultRule::method("network.create").times(1);
    pool.sim.inject(rule.clone().truncate(7));
    let answer = create_network(&pool, &server, "part").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, r#"{"jsonr"#);
    assert!(!head.contains("content-length: 7\r\n"), "{head}");
    assert!(exists(&pool, "part").await);

    pool.sim.inject(rule.slow_body(Duration::from_millis(1)));
    let answer = create_network(&pool, &server, "pieces").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    assert!(body.starts_with(r#"{"jsonrpc":"2.0","result":"OpaqueRef:"#));
}

#[tokio::test]
async fn the_transport_in_the_process_breaks_alike() {
    let pool = pool().await;
    let client = Client::over(pool.sim.transport())
        .credentials(
            pool.sim.credentials().user(),
            pool.sim.credentials().password().clone(),
        )
        .login()
        .await
        .unwrap();
    let template = pool.template().await;
    pool.sim.inject(
        FaultRule::method("VM.clone")
            .times(1)
            .disconnect()
            .after_effect(),
    );
    let clone = client.vm().clone(&template.as_str().into(), "lost").await;
    assert!(
        matches!(clone, Err(Error::UnknownOutcome { .. })),
        "{clone:?}"
    );
    assert!(!pool.named("VM", "lost").await.is_empty());
    pool.sim
        .inject(FaultRule::method("VM.destroy").times(1).http_status(502));
    let lost = pool.named("VM", "lost").await;
    let destroyed = client.vm().destroy(&lost.as_str().into()).await;
    assert!(
        matches!(destroyed, Err(Error::Http { status: 502, .. })),
        "{destroyed:?}"
    );
}

#[tokio::test]
async fn what_is_left_behind_is_found() {
    let pool = pool().await;
    // The session of the test itself.
    let own = pool.sim.leaks();
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].class, own[0].label.as_str()), ("session", "tests"));
    assert_ne!(own[0].reference, pool.session);

    let vm = pool.vm("forgotten").await;
    let other = login(&pool.sim).await;
    let leaks = pool.sim.leaks();
    let of = |class: &str| leaks.iter().filter(|leak| leak.class == class).count();
    assert_eq!((of("VM"), of("session"), of("VM_metrics")), (1, 2, 0));
    let found = leaks.iter().find(|leak| leak.class == "VM").unwrap();
    assert_eq!(
        (found.reference.as_str(), found.label.as_str()),
        (vm.as_str(), "forgotten")
    );

    let vbds = pool.get("VM", "VBDs", &vm).await;
    let mut vdis = Vec::new();
    for vbd in vbds.items() {
        if text(&pool.get("VBD", "type", &text(vbd)).await) == "Disk" {
            vdis.push(pool.get("VBD", "VDI", &text(vbd)).await);
        }
    }
    pool.call("VM.destroy", vec![vm.into()]).await;
    // As on a host, the disks do not go with their VM.
    assert!(pool.sim.leaks().iter().any(|leak| leak.class == "VDI"));
    for vdi in vdis {
        pool.call("VDI.destroy", vec![vdi]).await;
    }
    let logout = vec![Value::from(other.as_str())];
    pool.sim.call("session.logout", logout).await.unwrap();
    assert_eq!(pool.sim.leaks(), own);
}
