//! Pools whose coordinator cannot be reached any more.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use support::{Answer, Host, failure};
use xapi_client::{Client, Error, Ref, SecretString, Trust};

const LOGIN: &str = "session.login_with_password";

/// What the coordinator of a pool answers.
fn coordinator(pool: &'static str) -> impl Fn(&str, &[serde_json::Value]) -> Answer {
    move |method, _| match method {
        LOGIN => Ok(json!("s")),
        "pool.get_all_records" => Ok(json!({"p": {"uuid": pool}})),
        "VM.get_all" => Ok(json!([])),
        "event.from" => Ok(json!({"token": pool, "valid_ref_counts": {}, "events": []})),
        _ => Ok(json!("OpaqueRef:new")),
    }
}

fn builder(address: SocketAddr) -> xapi_client::ClientBuilder {
    Client::builder(format!("http://{address}")).credentials("root", SecretString::from("hunter2"))
}

/// Stops a host, and waits until nobody listens at its address.
async fn kill(host: Host) {
    let address = *host.server.address();
    drop(host);
    while TcpStream::connect(address).is_ok() {
        tokio::task::yield_now().await;
    }
}

/// An address where nobody listens.
fn nobody(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_member_that_is_up_leads_to_the_coordinator() {
    let new = Host::on("127.0.0.2:0", coordinator("one")).await;
    let port = new.server.address().port();
    let member = Host::on(&format!("127.0.0.3:{port}"), |_, _| {
        failure(&["HOST_IS_SLAVE", "127.0.0.2"])
    })
    .await;
    let client = builder(nobody("127.0.0.1"))
        .members([member.server.uri()])
        .login()
        .await
        .unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.2");
    assert_eq!((member.count(LOGIN), new.count(LOGIN)), (1, 1));
}

#[tokio::test]
async fn one_session_is_made_where_all_are_asked() {
    let first = Host::on("127.0.0.2:0", coordinator("one")).await;
    let port = first.server.address().port();
    let member = Host::on(&format!("127.0.0.3:{port}"), |_, _| {
        failure(&["HOST_IS_SLAVE", "127.0.0.2"])
    })
    .await;
    let client = builder(*first.server.address())
        .members([member.server.uri(), first.server.uri()])
        .login()
        .await
        .unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.2");
    assert_eq!(first.count(LOGIN), 1);
}

#[tokio::test]
async fn calls_go_on_at_the_new_coordinator() {
    let old = Host::closing("127.0.0.2:0", coordinator("one")).await;
    let port = old.server.address().port();
    let promoted = Arc::new(AtomicBool::new(false));
    let state = promoted.clone();
    let serve = coordinator("one");
    let new = Host::on(&format!("127.0.0.3:{port}"), move |method, params| {
        if state.load(Ordering::SeqCst) {
            serve(method, params)
        } else {
            failure(&["HOST_IS_SLAVE", "127.0.0.2"])
        }
    })
    .await;
    let client = builder(*old.server.address())
        .members([new.server.uri()])
        .login()
        .await
        .unwrap();
    let mut watch = client.watch(&["vm"]);
    assert!(watch.next().await.unwrap().is_complete);
    assert!(!watch.next().await.unwrap().is_complete);
    kill(old).await;
    promoted.store(true, Ordering::SeqCst);
    // A call that must not be executed twice was executed by nobody: it can be sent to the other.
    let vm = client.vm().clone(&Ref::from("v"), "copy").await.unwrap();
    assert_eq!(vm.as_str(), "OpaqueRef:new");
    assert_eq!(client.host_name().unwrap(), "127.0.0.3");
    assert_eq!(new.count("VM.clone"), 1);
    // The token of the old coordinator means nothing to the new one.
    assert!(watch.next().await.unwrap().is_complete);
    let polls: Vec<_> = new
        .calls()
        .into_iter()
        .filter(|(method, _)| method == "event.from")
        .collect();
    assert_eq!(polls[0].1[2], json!(""));
}

#[tokio::test]
async fn many_calls_look_for_the_coordinator_once() {
    let old = Host::on("127.0.0.2:0", coordinator("one")).await;
    let port = old.server.address().port();
    let new = Host::on(&format!("127.0.0.3:{port}"), coordinator("one")).await;
    // Both say that they are the coordinator; the first that answers is used.
    let client = builder(*old.server.address()).members([new.server.uri()]);
    let client = client.login().await.unwrap();
    let survivor = if client.host_name().unwrap() == "127.0.0.2" {
        kill(old).await;
        new
    } else {
        kill(new).await;
        old
    };
    let before = survivor.count(LOGIN);
    let calls = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.vm().get_all().await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(survivor.count(LOGIN), before + 1);
    assert_eq!(survivor.count("VM.get_all"), 20);
}

#[tokio::test]
async fn a_host_of_another_pool_is_left_alone() {
    let ours = Host::closing("127.0.0.2:0", coordinator("one")).await;
    let ejected = Arc::new(AtomicBool::new(false));
    let state = ejected.clone();
    let serve = coordinator("two");
    let port = ours.server.address().port();
    let other = Host::on(&format!("127.0.0.3:{port}"), move |method, params| {
        if state.load(Ordering::SeqCst) {
            serve(method, params)
        } else {
            failure(&["HOST_IS_SLAVE", "127.0.0.2"])
        }
    })
    .await;
    let client = builder(*ours.server.address())
        .members([other.server.uri()])
        .login()
        .await
        .unwrap();
    kill(ours).await;
    ejected.store(true, Ordering::SeqCst);
    let error = client.vm().get_all().await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::Config(_)) && text.contains("127.0.0.3 is in another pool (two)"),
        "{text}"
    );
    assert_eq!(other.count("session.logout"), 1);
    assert_eq!(other.count("VM.get_all"), 0);
}

#[tokio::test]
async fn members_that_make_no_sense_are_told_before_anything_is_sent() {
    let error = builder(nobody("127.0.0.1"))
        .members(["http://xcp.example.org"])
        .login()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("in the clear"), "{error}");
    let error = Client::builder("xcp.example.org")
        .trust(Trust::PinnedAny(Vec::new()))
        .login()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
}
