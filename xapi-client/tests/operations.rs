//! What a program that runs for long needs: logs without secrets, limits, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use support::{Host, failure};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};
use xapi_client::api::Vm;
use xapi_client::{Client, Error, Ref, SecretString};

/// What was logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Logs everything, of all crates, on this thread.
fn record() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn each_call_has_a_span_that_tells_method_host_duration_and_outcome() {
    let (log, _guard) = record();
    let host = Host::start(|method, _| match method {
        "VM.start" => failure(&["VM_BAD_POWER_STATE", "v", "halted", "running"]),
        _ => Ok(json!([])),
    })
    .await;
    let client = host.builder().protocol(xapi_client::Protocol::JsonRpc);
    // The session is no text, which is an answer that makes no sense.
    client.login().await.unwrap_err();
    let host = Host::start(|method, _| match method {
        "session.login_with_password" => Ok(json!("OpaqueRef:s")),
        "VM.start" => failure(&["VM_BAD_POWER_STATE", "v", "halted", "running"]),
        _ => Ok(json!([])),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    client.vm().get_all().await.unwrap();
    let vm = Ref::<Vm>::new("v");
    client.vm().start(&vm, false, false).await.unwrap_err();
    let text = log.text();
    for (method, outcome) in [("VM.get_all", "ok"), ("VM.start", "VM_BAD_POWER_STATE")] {
        let spans: Vec<_> = text
            .lines()
            .filter(|line| {
                line.contains("close") && line.contains(&format!("xapi{{method=\"{method}\""))
            })
            .collect();
        assert_eq!(spans.len(), 1, "{text}");
        assert!(
            spans[0].contains("host=\"127.0.0.1\" duration_ms="),
            "{}",
            spans[0]
        );
        assert!(
            spans[0].contains(&format!("outcome=\"{outcome}\"")),
            "{}",
            spans[0]
        );
    }
}

/// In whatever way calls end.
#[tokio::test]
async fn secrets_are_in_no_log_and_no_error() {
    let (log, _guard) = record();
    let mut seen = String::new();
    let mut note = |error: Error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        seen.push_str(&format!("{error:?}"));
        while let Some(error) = cause {
            seen.push_str(&format!(" {error}"));
            cause = error.source();
        }
    };
    for answer in [
        json!("OpaqueRef:topsecret"),
        json!({"topsecret": ["OpaqueRef:topsecret"]}),
    ] {
        let host = Host::start(move |method, params| match (method, params) {
            ("session.login_with_password", _) => Ok(answer.clone()),
            ("session.change_password", _) => failure(&["SESSION_INVALID", "OpaqueRef:topsecret"]),
            _ => failure(&["INTERNAL_ERROR", "no"]),
        })
        .await;
        let client = match host.builder().login().await {
            Ok(client) => client,
            Err(error) => {
                note(error);
                continue;
            }
        };
        let (old, new) = (SecretString::from("hunter2"), SecretString::from("hunter3"));
        note(
            client
                .session()
                .change_password(&old, &new)
                .await
                .unwrap_err(),
        );
        note(client.vm().get_all().await.unwrap_err());
        note(client.secret().get_all_records().await.unwrap_err());
        host.server.reset().await;
        note(
            client
                .session()
                .change_password(&old, &new)
                .await
                .unwrap_err(),
        );
    }
    let refused = Host::start(|_, params| {
        let user = params[0].as_str().unwrap();
        failure(&[
            "SESSION_AUTHENTICATION_FAILED",
            user,
            "Authentication failure",
        ])
    })
    .await;
    note(refused.builder().login().await.unwrap_err());
    let unknown = SecretString::from("hunter2\u{1}");
    let xml = refused.builder().protocol(xapi_client::Protocol::XmlRpc);
    note(xml.credentials("root", unknown).login().await.unwrap_err());
    let all = seen + &log.text();
    assert!(all.contains("SESSION_AUTHENTICATION_FAILED"), "{all}");
    for secret in ["hunter2", "hunter3", "topsecret"] {
        let at = all
            .find(secret)
            .map(|at| &all[at.saturating_sub(300)..at + 9]);
        assert!(at.is_none(), "{at:?}");
    }
}

#[tokio::test]
async fn a_call_may_have_a_limit_of_its_own() {
    let server = MockServer::start().await;
    let login =
        ResponseTemplate::new(200).set_body_raw(r#"{"result":"s","id":0}"#, "application/json");
    Mock::given(method("POST"))
        .respond_with(login)
        .up_to_n_times(1)
        .mount(&server)
        .await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(60));
    Mock::given(method("POST"))
        .respond_with(slow)
        .mount(&server)
        .await;
    let client = Client::builder(server.uri()).login().await.unwrap();
    let limit = Duration::from_millis(50);
    let error = client.vm().get_all().timeout(limit).await.unwrap_err();
    assert!(
        matches!(error, Error::Timeout { after, .. } if after == limit),
        "{error:?}"
    );
    let vm = Ref::<Vm>::new("v");
    let start = client
        .vm()
        .start(&vm, false, false)
        .timeout(limit)
        .into_task();
    let error = start.wait().await.unwrap_err();
    assert!(
        matches!(error, Error::UnknownOutcome { tag: Some(_), .. }),
        "{error:?}"
    );
}

async fn eventually(host: &Host, method: &str, count: usize) {
    let told = async {
        while host.count(method) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    assert!(told.is_ok(), "{:?}", host.calls());
}

#[tokio::test]
async fn the_last_clone_that_is_dropped_logs_out() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:s"))).await;
    let client = host.builder().login().await.unwrap();
    let clone = client.clone();
    drop(client);
    clone.call("VM.get_all", vec![]).await.unwrap();
    assert_eq!(host.count("session.logout"), 0);
    drop(clone);
    eventually(&host, "session.logout", 1).await;
    let calls = host.calls();
    assert_eq!(calls.last().unwrap().1, [json!("OpaqueRef:s")]);
}

#[tokio::test]
async fn a_closed_client_that_is_dropped_does_not_log_out_again() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:s"))).await;
    for _ in 0..2 {
        let client = host.builder().login().await.unwrap();
        client.close().await.unwrap();
    }
    drop(host.builder().login().await.unwrap());
    eventually(&host, "session.logout", 3).await;
    assert_eq!(host.count("session.logout"), 3);
}

#[test]
fn a_client_may_be_dropped_where_there_is_no_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let servers = runtime();
    let host = servers.block_on(Host::start(|_, _| Ok(json!("OpaqueRef:s"))));
    let client = runtime().block_on(host.builder().login()).unwrap();
    drop(client);
    assert_eq!(host.count("session.logout"), 0);
}

#[tokio::test]
async fn the_originator_is_the_programs_own() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:s"))).await;
    drop(host.builder().login().await.unwrap());
    drop(host.builder().originator("mine").login().await.unwrap());
    let logins: Vec<_> = host
        .calls()
        .into_iter()
        .filter(|(method, _)| method == "session.login_with_password")
        .map(|(_, params)| params[3].as_str().unwrap().to_owned())
        .collect();
    let (program, client) = logins[0].split_once(' ').unwrap();
    assert!(program.starts_with("operations-"), "{program}");
    assert_eq!(
        client,
        concat!("(rust-xapi-client/", env!("CARGO_PKG_VERSION"), ")")
    );
    assert_eq!(logins[1], "mine");
}
