//! Lost answers: what is sent again, what is not, and how the outcome is found.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use xapi_client::api::Vm;
use xapi_client::{Client, ClientBuilder, Error, ErrorCode, Ref, SecretString};

/// What the host does with a call.
enum Act {
    Answer(Value),
    Fail(&'static [&'static str]),
    /// Closes the connection without a word.
    HangUp,
    /// Never answers.
    Hang,
}

type Script = dyn Fn(&str, usize) -> Act + Send + Sync;

/// A call as the host saw it: method, parameters, and the header that tags its task.
type Seen = (String, Vec<Value>, Option<String>);

/// A host whose connections break.
struct Shaky {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Shaky {
    /// The script gets the method, and how often that was called before.
    async fn start(script: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let script: Arc<Script> = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), log.clone()));
            }
        });
        Self { address, seen }
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder(format!("http://{}", self.address))
            .credentials("root", SecretString::from("hunter2"))
    }

    fn count(&self, method: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(name, ..)| name == method).count()
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut tag) = (0, None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.split_once(": ") else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            match name {
                "content-length" => length = value.trim().parse().unwrap(),
                "x-http-other-config-xapi-client" => tag = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let call: Value = serde_json::from_slice(&body).unwrap();
        let method = call["method"].as_str().unwrap().to_owned();
        let params = call["params"].as_array().unwrap().clone();
        let before = {
            let mut seen = seen.lock().unwrap();
            let before = seen.iter().filter(|(name, ..)| *name == method).count();
            seen.push((method.clone(), params, tag));
            before
        };
        let answer = match script(&method, before) {
            Act::Answer(result) => json!({"jsonrpc": "2.0", "result": result, "id": call["id"]}),
            Act::Fail(parts) => json!({"jsonrpc": "2.0", "id": call["id"],
                "error": {"code": 1, "message": parts[0], "data": parts[1..]}}),
            Act::HangUp => return,
            Act::Hang => std::future::pending().await,
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).await.unwrap();
    }
}

const LOGIN: &str = "session.login_with_password";

fn answer(method: &str) -> Act {
    Act::Answer(match method {
        LOGIN => json!("s"),
        _ => json!(""),
    })
}

fn vm() -> Ref<Vm> {
    Ref::from("v")
}

#[tokio::test]
async fn calls_that_do_no_harm_are_sent_again() {
    let host = Shaky::start(|method, before| match (method, before) {
        ("VM.get_name_label", 0 | 1) => Act::HangUp,
        ("VM.get_name_label", _) => Act::Answer(json!("web")),
        ("VM.set_name_label" | "VM.remove_from_other_config", 0) => Act::HangUp,
        _ => answer(method),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let vm = vm();
    assert_eq!(client.vm().get_name_label(&vm).await.unwrap(), "web");
    client.vm().set_name_label(&vm, "db").await.unwrap();
    client
        .vm()
        .remove_from_other_config(&vm, "key")
        .await
        .unwrap();
    assert_eq!(host.count("VM.get_name_label"), 3);
    assert_eq!(host.count("VM.set_name_label"), 2);
}

#[tokio::test]
async fn a_host_that_never_answers_is_given_up() {
    let host = Shaky::start(|method, _| match method {
        "VM.get_all" => Act::HangUp,
        _ => answer(method),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let error = client.vm().get_all().await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    assert!(error.is_outcome_unknown() && !error.is_retryable());
    assert_eq!(host.count("VM.get_all"), 4);
}

#[tokio::test]
async fn a_creating_call_is_sent_once_and_its_outcome_is_unknown() {
    let host = Shaky::start(|method, _| match method {
        "VM.clone" => Act::HangUp,
        _ => answer(method),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let error = client.vm().clone(&vm(), "copy").await.unwrap_err();
    assert!(
        matches!(&error, Error::UnknownOutcome { method, tag: None, .. } if method == "VM.clone"),
        "{error:?}"
    );
    assert!(error.is_outcome_unknown() && !error.is_retryable());
    assert_eq!(host.count("VM.clone"), 1);
}

#[tokio::test]
async fn a_creating_call_without_an_answer_in_time_has_an_unknown_outcome() {
    let host = Shaky::start(|method, _| match method {
        "VM.clone" | "VM.get_all" => Act::Hang,
        _ => answer(method),
    })
    .await;
    let timeout = Duration::from_millis(300);
    let client = host.builder().timeout(timeout).login().await.unwrap();
    let error = client.vm().clone(&vm(), "copy").await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome { .. }), "{error:?}");
    let error = client.vm().get_all().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert_eq!(host.count("VM.get_all"), 1);
}

#[tokio::test]
async fn a_replay_that_finds_the_work_done_has_succeeded() {
    let host = Shaky::start(|method, before| match (method, before) {
        ("VM.start" | "VM.hard_shutdown" | "VM.destroy", 0) => Act::HangUp,
        ("VM.start", _) => Act::Fail(&["VM_BAD_POWER_STATE", "v", "halted", "Running"]),
        ("VM.hard_shutdown", _) => Act::Fail(&["VM_BAD_POWER_STATE", "v", "running", "halted"]),
        ("VM.destroy", _) => Act::Fail(&["HANDLE_INVALID", "VM", "v"]),
        _ => answer(method),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    client.vm().start(&vm(), false, false).await.unwrap();
    client.vm().hard_shutdown(&vm()).await.unwrap();
    client.vm().destroy(&vm()).await.unwrap();
}

#[tokio::test]
async fn the_same_failure_without_a_lost_answer_is_a_failure() {
    let host = Shaky::start(|method, before| match (method, before) {
        ("VM.start", 0) => Act::Fail(&["VM_BAD_POWER_STATE", "v", "halted", "Running"]),
        // Asked to start paused, and found running: somebody else did that.
        ("VM.start", 1) => Act::HangUp,
        ("VM.start", _) => Act::Fail(&["VM_BAD_POWER_STATE", "v", "halted", "Running"]),
        ("VM.destroy", _) => Act::Fail(&["HANDLE_INVALID", "VM", "v"]),
        _ => answer(method),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    for start_paused in [false, true] {
        let error = client
            .vm()
            .start(&vm(), start_paused, false)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(&ErrorCode::VmBadPowerState));
    }
    let error = client.vm().destroy(&vm()).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::HandleInvalid));
}

#[tokio::test]
async fn a_session_that_died_with_the_connection_is_replaced() {
    let host = Shaky::start(|method, before| match (method, before) {
        ("VM.set_name_label", 0) => Act::HangUp,
        ("VM.set_name_label", 1) => Act::Fail(&["SESSION_INVALID", "s"]),
        _ => answer(method),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    client.vm().set_name_label(&vm(), "db").await.unwrap();
    assert_eq!((host.count(LOGIN), host.count("VM.set_name_label")), (2, 3));
}

#[tokio::test]
async fn a_task_whose_answer_was_lost_is_found_by_its_tag() {
    let tag = Arc::new(Mutex::new(String::new()));
    let known = tag.clone();
    let host = Shaky::start(move |method, _| match method {
        "Async.VM.clone" => Act::HangUp,
        "task.get_all_records" => Act::Answer(json!({
            "t1": {"other_config": {"http:xapi-client": "VM.clone#other"}},
            "t2": {"other_config": {"http:xapi-client": *known.lock().unwrap()}},
        })),
        "task.get_record" => Act::Answer(json!({"status": "success", "progress": 1.0,
            "result": "<value>OpaqueRef:new</value>"})),
        "event.from" => Act::Answer(json!({"events": [], "valid_ref_counts": {}, "token": "1"})),
        _ => answer(method),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let source = vm();
    let call = client.vm().clone(&source, "copy").into_task();
    let announced = call.tag().clone();
    let error = call.await.unwrap_err();
    assert!(error.to_string().contains(announced.as_str()), "{error}");
    let Error::UnknownOutcome {
        tag: Some(found), ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(found, announced);
    let sent = host.seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!(sent.2.as_deref(), Some(found.as_str()));
    // The server never got it: no task has the tag.
    assert!(client.reconcile::<Ref<Vm>>(&found).await.unwrap().is_none());
    found.as_str().clone_into(&mut tag.lock().unwrap());
    let task = client.reconcile::<Ref<Vm>>(&found).await.unwrap().unwrap();
    assert_eq!(task.task_ref().as_str(), "t2");
    assert_eq!(task.wait().await.unwrap().as_str(), "OpaqueRef:new");
    assert_eq!(host.count("Async.VM.clone"), 1);
}

#[tokio::test]
async fn only_calls_sent_as_tasks_are_tagged() {
    let host = Shaky::start(|method, _| answer(method)).await;
    let client = host.builder().login().await.unwrap();
    client.vm().get_all_where("true").raw().await.unwrap();
    for _ in 0..2 {
        let start = client.vm().start(&vm(), false, false);
        start.into_task().await.unwrap();
    }
    let seen = host.seen.lock().unwrap();
    let tags: Vec<_> = seen.iter().map(|(_, _, tag)| tag.clone()).collect();
    assert_eq!(tags[..2], [None, None]);
    assert!(tags[2].is_some() && tags[2] != tags[3], "{tags:?}");
}

#[tokio::test]
async fn no_more_calls_are_under_way_than_allowed() {
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let transport = Counting {
        under_way: under_way.clone(),
        most: most.clone(),
    };
    let client = Client::over(Arc::new(transport))
        .max_concurrent_calls(3)
        .login()
        .await
        .unwrap();
    let mut calls = Vec::new();
    for _ in 0..40 {
        let client = client.clone();
        calls.push(tokio::spawn(async move { client.vm().get_all().await }));
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    let refused = Client::builder("h").max_concurrent_calls(0).login().await;
    assert!(matches!(refused, Err(Error::Config(_))));
}

/// Counts the calls that are under way at once.
#[derive(Debug)]
struct Counting {
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl xapi_client::Transport for Counting {
    async fn send(&self, request: xapi_client::Request) -> xapi_client::Result<bytes::Bytes> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // Every other call that can run does so before this one goes on.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        Ok(match request.method.as_str() {
            LOGIN => r#"{"result":"s"}"#.into(),
            _ => r#"{"result":[]}"#.into(),
        })
    }

    fn host(&self) -> &str {
        "counter"
    }
}
