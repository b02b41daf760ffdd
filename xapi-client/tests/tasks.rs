//! Tasks and events against a scripted host.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::{Answer, Host, failure};
use xapi_client::api::{EventOperation, Vm, VmPowerState};
use xapi_client::{Client, Error, ErrorCode, Ref};

const LOGIN: &str = "session.login_with_password";

fn task(status: &str, progress: f64, result: &str, error_info: &[&str]) -> Value {
    json!({"uuid": "u", "status": status, "progress": progress, "result": result,
           "error_info": error_info, "created": "20261123T01:41:20Z", "type": "<none/>"})
}

fn batch(token: &str, snapshot: Option<Value>) -> Answer {
    let events = snapshot.map(|snapshot| {
        json!({"id": "9", "timestamp": "0.0", "class": "task", "operation": "mod", "ref": "t",
               "snapshot": snapshot})
    });
    let events: Vec<_> = events.into_iter().collect();
    Ok(json!({"events": events, "valid_ref_counts": {"task": 1}, "token": token}))
}

/// A host whose task goes through these states, which come as events.
async fn host(states: Vec<Value>) -> (Host, Client) {
    let next = AtomicUsize::new(0);
    let host = Host::start(move |method, _| match method {
        LOGIN => Ok(json!("s")),
        "event.from" => {
            let number = next.fetch_add(1, Ordering::SeqCst);
            batch(&(number + 1).to_string(), states.get(number).cloned())
        }
        "task.destroy" | "task.cancel" => Ok(json!("")),
        _ => Ok(json!("t")),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    (host, client)
}

#[tokio::test]
async fn a_task_gives_its_typed_result_and_is_cleared_away() {
    let (host, client) = host(vec![
        task("pending", 0.0, "", &[]),
        task("pending", 0.5, "", &[]),
        task("pending", 0.5, "", &[]),
        task("success", 1.0, "<value>OpaqueRef:new</value>", &[]),
    ])
    .await;
    let mut seen = Vec::new();
    let vm: Ref<Vm> = client
        .vm()
        .clone(&Ref::from("v"), "copy")
        .into_task()
        .wait_with_progress(|progress| seen.push(progress))
        .await
        .unwrap();
    assert_eq!(vm.as_str(), "OpaqueRef:new");
    assert_eq!(seen, [0.0, 0.5, 1.0]);
    assert_eq!(host.count("Async.VM.clone"), 1);
    assert_eq!(host.count("task.destroy"), 1);
    let calls = host.calls();
    let polls: Vec<_> = calls
        .iter()
        .filter(|(name, _)| name == "event.from")
        .collect();
    assert_eq!(polls[0].1[1..], [json!(["task/t"]), json!(""), json!(0.0)]);
    assert_eq!(
        polls[1].1[2..],
        [json!("1"), json!(30.0)],
        "the token goes on"
    );
}

#[tokio::test]
async fn a_task_that_is_done_needs_one_look() {
    let (host, client) = host(vec![task("success", 1.0, "<value></value>", &[])]).await;
    client
        .vm()
        .start(&Ref::from("v"), false, false)
        .into_task()
        .wait()
        .await
        .unwrap();
    assert_eq!(host.count("event.from"), 1);
    assert_eq!(host.count("task.get_record"), 0);
}

#[tokio::test]
async fn results_of_other_types() {
    let list = "<value><array><data><value>OpaqueRef:a</value><value>OpaqueRef:b</value></data></array></value>";
    let (_host, client) = host(vec![task("success", 1.0, list, &[])]).await;
    let hosts = client
        .vm()
        .get_possible_hosts(&Ref::from("v"))
        .into_task()
        .wait()
        .await
        .unwrap();
    assert_eq!(hosts, [Ref::from("OpaqueRef:a"), Ref::from("OpaqueRef:b")]);
    let (_host, client) = self::host(vec![task("success", 1.0, "<value>42</value>", &[])]).await;
    let task = client
        .vm()
        .maximise_memory(&Ref::from("v"), 1, true)
        .into_task();
    assert_eq!(task.wait().await.unwrap(), 42);
}

#[tokio::test]
async fn a_task_fails_with_its_own_failure() {
    let error_info = ["VM_BAD_POWER_STATE", "v", "halted", "running"];
    let (host, client) = host(vec![task("failure", 1.0, "", &error_info)]).await;
    let start = client.vm().start(&Ref::from("v"), false, false);
    let error = start.into_task().wait().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::VmBadPowerState));
    assert!(
        error.to_string().starts_with("VM.start: the VM is running"),
        "{error}"
    );
    assert_eq!(host.count("task.destroy"), 1);
}

#[tokio::test]
async fn a_cancelled_task_says_so_even_without_error_info() {
    let states = vec![
        task("cancelling", 0.3, "", &[]),
        task("cancelled", 0.3, "", &[]),
    ];
    let (host, client) = host(states).await;
    let handle = client
        .vm()
        .clean_shutdown(&Ref::from("v"))
        .into_task()
        .await
        .unwrap();
    handle.cancel().await.unwrap();
    let error = handle.wait().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::TaskCancelled));
    assert_eq!(host.count("task.cancel"), 1);
}

#[tokio::test]
async fn a_task_that_vanishes_leaves_the_outcome_open() {
    let reads = AtomicUsize::new(0);
    let host = Host::start(move |method, _| match method {
        LOGIN => Ok(json!("s")),
        "task.get_record" if reads.fetch_add(1, Ordering::SeqCst) == 0 => {
            Ok(task("pending", 0.0, "", &[]))
        }
        "task.get_record" => failure(&["HANDLE_INVALID", "task", "t"]),
        // The server has lost the task: nothing matches, nothing happens.
        "event.from" => batch("1", None),
        _ => Ok(json!("t")),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let start = client.vm().start(&Ref::from("v"), false, false);
    let error = start.into_task().wait().await.unwrap_err();
    assert!(
        matches!(&error, Error::TaskGone { task, .. } if task == "t"),
        "{error:?}"
    );
    assert!(!error.is_retryable());
    assert_eq!(host.count("task.destroy"), 0);
}

#[tokio::test]
async fn a_deleted_task_leaves_the_outcome_open() {
    let host = Host::start(|method, _| match method {
        LOGIN => Ok(json!("s")),
        "task.get_record" => Ok(task("pending", 0.0, "", &[])),
        "event.from" => Ok(json!({"token": "1", "valid_ref_counts": {}, "events": [
            {"id": "9", "timestamp": "0.0", "class": "task", "operation": "del", "ref": "t"}]})),
        _ => Ok(json!("t")),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let start = client.vm().start(&Ref::from("v"), false, false);
    let error = start.into_task().wait().await.unwrap_err();
    assert!(matches!(error, Error::TaskGone { .. }), "{error:?}");
}

#[tokio::test]
async fn a_watch_goes_from_batch_to_batch() {
    let host = Host::start(|method, params| match (method, params.get(2).and_then(Value::as_str)) {
        (LOGIN, _) => Ok(json!("s")),
        (_, Some("")) => Ok(json!({
            "token": "00000000000000000007,00000000000000000000",
            "valid_ref_counts": {"vm": 2, "task": 0},
            "events": [
                {"id": "7", "timestamp": "0.0", "class": "vm", "operation": "add", "ref": "a",
                 "snapshot": {"uuid": "u", "power_state": "Running", "HVM_shadow_multiplier": 1.0}},
                {"id": "8", "timestamp": "0.0", "class": "vm", "operation": "del", "ref": "b"},
                {"id": "0", "timestamp": "0.0", "class": "message", "operation": "add", "ref": "c",
                 "snapshot": {"name": "HA_HEARTBEAT"}},
            ],
        })),
        _ => Ok(json!({"token": "x", "valid_ref_counts": {}, "events": []})),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let mut watch = client.watch(&["vm", "message"]);
    let batch = watch.next().await.unwrap();
    assert_eq!(batch.valid_ref_counts["vm"], 2);
    let [added, deleted, message] = &batch.events[..] else {
        panic!("{:?}", batch.events)
    };
    assert_eq!(added.operation, EventOperation::Add);
    assert_eq!(added.reference_of::<Vm>(), Some(Ref::from("a")));
    let record = added.record::<Vm>().unwrap().unwrap();
    assert_eq!(record.power_state, VmPowerState::Running);
    assert_eq!(deleted.operation, EventOperation::Del);
    assert!(deleted.record::<Vm>().unwrap().is_none());
    assert_eq!(message.reference_of::<Vm>(), None);
    assert!(message.record::<Vm>().unwrap().is_none());
    assert!(watch.next().await.unwrap().events.is_empty());
    watch.restart();
    assert_eq!(watch.next().await.unwrap().events.len(), 3);
    let tokens: Vec<_> = host.calls()[1..]
        .iter()
        .map(|(_, params)| params[2].clone())
        .collect();
    assert_eq!(
        tokens,
        ["", "00000000000000000007,00000000000000000000", ""]
    );
}

#[tokio::test]
async fn a_watch_that_takes_up_an_object_hears_what_it_has_been_since_the_first_batch() {
    let host = Host::start(|method, params| {
        let token = params.get(2).and_then(Value::as_str);
        match (method, token) {
            (LOGIN, _) => Ok(json!("s")),
            (_, Some("")) => batch("first", None),
            (_, Some("first")) => batch("second", None),
            _ => batch("third", None),
        }
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let mut watch = client.watch(&["vm/v"]);
    for _ in 0..2 {
        watch.next().await.unwrap();
    }
    // What told of the report may be newer than the report.
    watch.also("vm_guest_metrics/g");
    watch.next().await.unwrap();
    watch.also("vm_guest_metrics/g");
    watch.next().await.unwrap();
    let calls = host.calls();
    let asked: Vec<_> = calls
        .iter()
        .filter(|(name, _)| name == "event.from")
        .map(|(_, params)| (params[1].as_array().unwrap().len(), params[2].clone()))
        .collect();
    let expected = [(1, ""), (1, "first"), (2, "first"), (2, "second")];
    assert_eq!(asked, expected.map(|(count, token)| (count, json!(token))));
}
