//! Mirrors and watches: equal to the server's database, whatever the server forgets or the network loses.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream as _;
use serde_json::{Value, json};
use tokio::sync::Notify;
use xapi_client::api::{Host, Session, Vm};
use xapi_client::{Client, Error, Mirror, Ref, Request, Result, Transport};

/// A server with a database of VMs that tells events as real ones do, and loses some when told to.
#[derive(Debug, Default)]
struct Server {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    /// Name, and the generations in which it was created and changed last.
    vms: BTreeMap<String, (String, u64, u64)>,
    deletions: Vec<(String, u64)>,
    /// By how many the count of VMs is wrong.
    miscount: usize,
    sessions: usize,
    /// How each of the next polls fails: as a lost connection, or with a code.
    faults: Vec<Option<&'static str>>,
    /// The tokens of all polls.
    polls: Vec<String>,
    logouts: usize,
}

impl Server {
    fn change(&self, change: impl FnOnce(&mut State)) {
        {
            let mut state = self.state.lock().unwrap();
            state.generation += 1;
            change(&mut state);
        }
        self.changed.notify_waiters();
    }

    fn put(&self, vm: &str, name: &str) {
        self.change(|state| {
            let now = state.generation;
            let entry = (name.to_owned(), now, now);
            let entry = state.vms.entry(vm.to_owned()).or_insert(entry);
            entry.0 = name.to_owned();
            entry.2 = now;
        });
    }

    fn delete(&self, vm: &str) {
        self.change(|state| {
            state.vms.remove(vm).unwrap();
            state.deletions.push((vm.to_owned(), state.generation));
        });
    }

    fn delete_and_forget(&self, vm: &str) {
        self.change(|state| drop(state.vms.remove(vm).unwrap()));
    }

    fn fail(&self, faults: &[Option<&'static str>]) {
        self.change(|state| state.faults = faults.to_vec());
    }

    fn polls(&self) -> Vec<String> {
        self.state.lock().unwrap().polls.clone()
    }

    fn complete_reads(&self) -> usize {
        self.polls().iter().filter(|token| token.is_empty()).count()
    }

    fn poll(&self, since: u64) -> Option<Value> {
        let state = self.state.lock().unwrap();
        let mut events = Vec::new();
        for (vm, (name, created, changed)) in &state.vms {
            if *changed > since {
                let operation = if *created > since { "add" } else { "mod" };
                events.push(
                    json!({"id": changed.to_string(), "timestamp": "0.0", "class": "vm", "ref": vm,
                    "operation": operation, "snapshot": {"name_label": name}}),
                );
            }
        }
        for (vm, deleted) in &state.deletions {
            if *deleted > since && since > 0 {
                events.push(
                    json!({"id": deleted.to_string(), "class": "vm", "ref": vm, "operation": "del"}),
                );
            }
        }
        let count = state.vms.len() + state.miscount;
        (!events.is_empty()).then(|| {
            json!({"events": events, "valid_ref_counts": {"vm": count, "host": 0},
                   "token": format!("{:020}", state.generation)})
        })
    }

    async fn event_from(
        &self,
        token: &str,
        timeout: f64,
    ) -> std::result::Result<Value, Vec<String>> {
        let since = token.parse().unwrap_or(0);
        self.state.lock().unwrap().polls.push(token.to_owned());
        let end = tokio::time::Instant::now() + Duration::from_secs_f64(timeout);
        loop {
            let changed = self.changed.notified();
            if let Some(Some(code)) = self.fault() {
                return Err(vec![code.to_owned(), "x".to_owned()]);
            }
            if let Some(batch) = self.poll(since) {
                return Ok(batch);
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                let state = self.state.lock().unwrap();
                return Ok(json!({"events": [], "token": format!("{since:020}"),
                    "valid_ref_counts": {"vm": state.vms.len() + state.miscount}}));
            }
        }
    }

    fn fault(&self) -> Option<Option<&'static str>> {
        self.state.lock().unwrap().faults.pop()
    }
}

/// Carries calls to it.
#[derive(Debug)]
struct Line(Arc<Server>);

#[async_trait]
impl Transport for Line {
    async fn send(&self, request: Request) -> Result<Bytes> {
        let call: Value = serde_json::from_slice(&request.body).unwrap();
        let params = call["params"].as_array().unwrap();
        let answer = match request.method.as_str() {
            "session.login_with_password" => {
                let mut state = self.0.state.lock().unwrap();
                state.sessions += 1;
                Ok(json!(format!("OpaqueRef:session-{}", state.sessions)))
            }
            "session.logout" => {
                self.0.state.lock().unwrap().logouts += 1;
                Ok(json!(""))
            }
            "event.from" => {
                let broken = {
                    let mut state = self.0.state.lock().unwrap();
                    let broken = state.faults.last() == Some(&None);
                    if broken {
                        state.faults.pop();
                    }
                    broken
                };
                if broken {
                    return Err(Error::Transport {
                        method: request.method,
                        host: "line".into(),
                        source: "broken".into(),
                    });
                }
                let (token, timeout) = (params[2].as_str().unwrap(), params[3].as_f64().unwrap());
                self.0.event_from(token, timeout).await
            }
            other => panic!("nobody calls {other}"),
        };
        let body = match answer {
            Ok(result) => json!({"jsonrpc": "2.0", "id": 1, "result": result}),
            Err(parts) => json!({"jsonrpc": "2.0", "id": 1,
                "error": {"code": 1, "message": parts[0], "data": parts[1..]}}),
        };
        Ok(body.to_string().into())
    }

    fn host(&self) -> &str {
        "line"
    }
}

async fn client(server: &Arc<Server>) -> Client {
    let line = Arc::new(Line(server.clone()));
    Client::over(line).login().await.unwrap()
}

async fn mirror(server: &Arc<Server>) -> Mirror {
    let client = client(server).await;
    let mirror = client.mirror().class::<Vm>().class::<Host>().start();
    mirror.await.unwrap()
}

/// `reference name` of each VM.
fn names(mirror: &Mirror) -> Vec<String> {
    let all = mirror.all::<Vm>();
    all.iter()
        .map(|(vm, record)| format!("{} {}", vm.as_str(), record.name_label))
        .collect()
}

async fn until(mirror: &Mirror, expected: &[&str]) {
    mirror
        .wait_until(|objects| {
            objects
                .iter::<Vm>()
                .map(|(vm, record)| format!("{} {}", vm.as_str(), record.name_label))
                .eq(expected.iter().copied())
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mirror_follows_additions_changes_and_deletions() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    let mut mirror = mirror(&server).await;
    assert_eq!(names(&mirror), ["a one"]);
    server.put("b", "two");
    mirror.changed().await.unwrap();
    assert_eq!(names(&mirror), ["a one", "b two"]);
    server.put("a", "uno");
    server.delete("b");
    mirror.changed().await.unwrap();
    assert_eq!(names(&mirror), ["a uno"]);
    assert_eq!(mirror.get(&Ref::<Vm>::new("a")).unwrap().name_label, "uno");
    assert!(mirror.get(&Ref::<Vm>::new("b")).is_none());
    assert!(mirror.get(&Ref::<xapi_client::api::Sr>::new("a")).is_none());
    assert_eq!(server.complete_reads(), 1);
    assert!(mirror.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_mirror_of_nothing_is_there_at_once() {
    let server = Arc::new(Server::default());
    let start = tokio::time::Instant::now();
    let mirror = mirror(&server).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(mirror.all::<Vm>().is_empty());
    server.put("a", "one");
    until(&mirror, &["a one"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_the_server_forgot_is_found_by_the_counts() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    server.put("b", "two");
    let mirror = mirror(&server).await;
    // With a change that is told, and without one: the answer to a poll that nothing happens in counts too.
    server.delete_and_forget("a");
    server.put("b", "dos");
    until(&mirror, &["b dos"]).await;
    server.delete_and_forget("b");
    until(&mirror, &[]).await;
    assert_eq!(server.complete_reads(), 3);
}

#[tokio::test(start_paused = true)]
async fn counts_that_never_agree_do_not_make_it_read_everything_each_time() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    server.change(|state| state.miscount = 1);
    let mirror = mirror(&server).await;
    for change in 0..50 {
        let name = format!("name {change}");
        server.put("a", &name);
        until(&mirror, &[&format!("a {name}")]).await;
    }
    assert_eq!(server.complete_reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_goes_on_after_errors_and_tells_that_it_may_be_behind() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    let mut mirror = mirror(&server).await;
    // More than the call itself tries again.
    server.fail(&[None; 6]);
    while mirror.trouble().is_none() {
        mirror.changed().await.unwrap();
    }
    let trouble = mirror.trouble().unwrap();
    assert!(matches!(*trouble, Error::Transport { .. }), "{trouble}");
    assert_eq!(names(&mirror), ["a one"], "what was last known");
    server.put("a", "uno");
    until(&mirror, &["a uno"]).await;
    assert!(mirror.trouble().is_none());
    assert_eq!(server.complete_reads(), 1, "it goes on where it stood");
}

#[tokio::test(start_paused = true)]
async fn with_a_new_session_a_mirror_begins_anew() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    server.put("b", "two");
    server.change(|state| state.generation = 1_000_000);
    let mirror = mirror(&server).await;
    // Another coordinator, or a backup: what it knows is older, and it counts from there.
    server.change(|state| {
        state.generation = 1;
        state.vms.clear();
        state.vms.insert("c".into(), ("three".into(), 1, 1));
        state.faults = vec![Some("SESSION_INVALID")];
    });
    until(&mirror, &["c three"]).await;
    assert_eq!(server.state.lock().unwrap().sessions, 2);
    server.put("c", "tres");
    until(&mirror, &["c tres"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_server_does_not_take_is_given_up() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    let mirror = mirror(&server).await;
    server.fail(&[Some("EVENT_FROM_TOKEN_PARSE_FAILURE")]);
    server.put("a", "uno");
    until(&mirror, &["a uno"]).await;
    assert_eq!(server.complete_reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_servers_do_not_tell_cannot_be_mirrored() {
    let server = Arc::new(Server::default());
    let client = client(&server).await;
    for builder in [
        client.mirror(),
        client.mirror().class::<Vm>().class::<Session>(),
        client.mirror().class::<xapi_client::api::Message>(),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error}");
    }
    assert!(server.polls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_closed_client_ends_its_mirrors() {
    let server = Arc::new(Server::default());
    let client = client(&server).await;
    let mirror = client.mirror().class::<Vm>().start().await.unwrap();
    client.close().await.unwrap();
    server.fail(&[Some("SESSION_INVALID")]);
    let error = mirror.wait_until(|_| false).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_last_mirror_that_is_dropped_leaves_no_session() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    let mirror = mirror(&server).await;
    let other = mirror.clone();
    drop(mirror);
    server.put("a", "uno");
    until(&other, &["a uno"]).await;
    assert_eq!(server.state.lock().unwrap().logouts, 0);
    drop(other);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.state.lock().unwrap().logouts, 1);
    let polls = server.polls().len();
    server.put("a", "eins");
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(server.polls().len(), polls);
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_a_stream_that_ends_with_the_client() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    let client = client(&server).await;
    let mut watch = client.watch(&["vm"]);
    let mut next = async || poll_fn(|context| Pin::new(&mut watch).poll_next(context)).await;
    let first = next().await.unwrap().unwrap();
    assert!(first.is_complete && first.events.len() == 1);
    server.put("a", "uno");
    let second = next().await.unwrap().unwrap();
    assert!(!second.is_complete);
    let record = second.events[0].record::<Vm>().unwrap().unwrap();
    assert_eq!(record.name_label, "uno");
    client.close().await.unwrap();
    assert!(next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_pauses_longer_after_each_failure() {
    let server = Arc::new(Server::default());
    server.put("a", "one");
    let client = client(&server).await;
    let mut watch = client.watch(&["vm"]);
    server.fail(&[Some("INTERNAL_ERROR"); 12]);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let start = tokio::time::Instant::now();
        watch.next().await.unwrap_err();
        pauses.push(start.elapsed().as_millis());
    }
    assert_eq!(pauses[..4], [0, 250, 500, 1000]);
    assert!(pauses[10] > 20_000 && pauses[11] < 31_000, "{pauses:?}");
    assert!(watch.next().await.unwrap().is_complete);
}
