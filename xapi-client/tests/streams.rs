//! Records as a stream, over HTTP.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::{Host, failure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use xapi_client::{Client, Error, Ref, SecretString, api::Vm};

const LOGIN: &str = "session.login_with_password";

fn records(count: usize) -> Value {
    (0..count)
        .map(|number| {
            let record = json!({"name_label": format!("vm {number}"), "memory_target": number});
            (format!("OpaqueRef:{number:06}"), record)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test]
async fn a_stream_gives_what_the_call_gives() {
    let host = Host::start(|method, _| match method {
        LOGIN => Ok(json!("s")),
        _ => Ok(records(2000)),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let whole = client.vm().get_all_records().await.unwrap();
    let stream = client.vm().get_all_records().stream();
    let map = stream.into_map().await.unwrap();
    assert_eq!(map.len(), 2000);
    assert_eq!(format!("{map:?}"), format!("{whole:?}"));
}

#[tokio::test]
async fn a_stream_may_hold_a_few_fields() {
    #[derive(serde::Deserialize)]
    struct Name {
        name_label: String,
    }

    let host = Host::start(|method, _| match method {
        LOGIN => Ok(json!("s")),
        _ => Ok(records(3)),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let call = client.vm().get_all_records();
    let mut names = call.select::<BTreeMap<Ref<Vm>, Name>>().stream();
    let mut found = Vec::new();
    while let Some(entry) = names.next().await {
        found.push(entry.unwrap().1.name_label);
    }
    assert_eq!(found, ["vm 0", "vm 1", "vm 2"]);
    assert!(names.next().await.is_none(), "and stays at its end");
}

#[tokio::test]
async fn a_session_that_is_gone_is_replaced_before_the_first_record() {
    let calls = AtomicUsize::new(0);
    let host = Host::start(move |method, _| match method {
        LOGIN => Ok(json!("s")),
        _ if calls.fetch_add(1, Ordering::SeqCst) == 0 => failure(&["SESSION_INVALID", "s"]),
        _ => Ok(records(1)),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let map = client.vm().get_all_records().stream().into_map().await;
    assert_eq!(map.unwrap().len(), 1);
    assert_eq!(host.count(LOGIN), 2);
}

#[tokio::test]
async fn a_failure_is_the_first_and_only_thing_that_a_stream_gives() {
    let host = Host::start(|method, _| match method {
        LOGIN => Ok(json!("s")),
        _ => failure(&["RBAC_PERMISSION_DENIED", "vm.get_all_records", "no"]),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let mut stream = client.vm().get_all_records().stream();
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "RBAC_PERMISSION_DENIED");
    assert!(stream.next().await.is_none());
}

/// A host that answers a login, and then begins an answer, waits, and ends it in this way.
async fn halting(rest: Option<&'static str>) -> (Client, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (go, may_go) = oneshot::channel();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let login = r#"{"jsonrpc":"2.0","result":"s","id":0}"#;
        let begun =
            r#"{"jsonrpc":"2.0","result":{"OpaqueRef:1":{"name_label":"first"},"OpaqueRef:2":{"na"#;
        let length = begun.len() + rest.unwrap_or("more").len();
        for (length, body) in [(login.len(), login), (length, begun)] {
            assert!(socket.read(&mut request).await.unwrap() > 0);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        let _ = may_go.await;
        if let Some(rest) = rest {
            socket.write_all(rest.as_bytes()).await.unwrap();
            let _ = socket.read(&mut request).await;
        }
    });
    let client = Client::builder(format!("http://{address}"))
        .credentials("root", SecretString::from("p"))
        .login()
        .await
        .unwrap();
    (client, go)
}

#[tokio::test]
async fn a_record_is_there_before_the_next_has_arrived() {
    let (client, go) = halting(Some(r#"me_label":"second"}},"id":1}"#)).await;
    let mut stream = client.vm().get_all_records().stream();
    let (_, first) = stream.next().await.unwrap().unwrap();
    assert_eq!(first.name_label, "first");
    go.send(()).unwrap();
    let (_, second) = stream.next().await.unwrap().unwrap();
    assert_eq!(second.name_label, "second");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_end() {
    let (client, go) = halting(None).await;
    let mut stream = client.vm().get_all_records().stream();
    stream.next().await.unwrap().unwrap();
    go.send(()).unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error}");
    assert!(stream.next().await.is_none());
}
