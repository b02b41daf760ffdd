//! What rules do to transfers.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use xapi_sim::FaultRule;

use super::*;

fn export() -> FaultRule {
    FaultRule::method("/export_raw_vdi").times(1)
}

/// A pool with a disk and what is on it.
async fn with_disk() -> (Served, String, Vec<u8>) {
    let served = served().await;
    let content = bytes(2 * MIB);
    let vdi = served.vdi(content.len()).await;
    let answer = served
        .put(&format!("/import_raw_vdi?vdi={vdi}"), &content)
        .await;
    assert_eq!(answer.status(), "HTTP/1.1 200 OK");
    (served, vdi, content)
}

/// Everything that comes back for a request that may get no answer.
async fn all_of(served: &Served, request: &str) -> Vec<u8> {
    let mut wire = Wire::over(TcpStream::connect(served.server.address()).await.unwrap());
    let session = &served.pool.session;
    let head = format!("{request} HTTP/1.1\r\nCookie: session_id={session}\r\n\r\n");
    wire.send(head.as_bytes()).await;
    let mut all = Vec::new();
    wire.stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn handlers_answer_with_a_status_or_not_at_all() {
    let (served, vdi, _) = with_disk().await;
    let path = format!("/export_raw_vdi?vdi={vdi}");
    served
        .pool
        .sim
        .inject(FaultRule::method("*").http_status(503));
    for (path, credentials) in [(path.as_str(), true), ("/export_metadata?all=true", false)] {
        let answer = match credentials {
            true => served.get(path).await,
            false => served.ask_alone(&format!("GET {path}"), "", b"").await,
        };
        assert_eq!(answer.status(), "HTTP/1.1 503 Injected", "{path}");
    }
    served.pool.sim.clear_faults();
    served.pool.sim.inject(export().disconnect());
    assert_eq!(all_of(&served, &format!("GET {path}")).await, b"");
    served.pool.sim.inject(export().expire_session());
    let answer = served.get(&path).await;
    assert_eq!(answer.status(), "HTTP/1.1 401 Unauthorised");
}

#[tokio::test]
async fn an_upload_whose_answer_is_lost_has_been_carried_out() {
    let (served, vdi, mut content) = with_disk().await;
    content.reverse();
    let rule = FaultRule::method("PUT /import_raw_vdi").object(vdi.clone());
    served.pool.sim.inject(rule.disconnect().after_effect());
    let stream = TcpStream::connect(served.server.address()).await.unwrap();
    let mut wire = Wire::over(stream);
    let head = format!(
        "PUT /import_raw_vdi?vdi={vdi}&session_id={} HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        served.pool.session,
        content.len()
    );
    wire.send(head.as_bytes()).await;
    assert_eq!(wire.send_and_read_to_end(&content).await, b"");
    served.pool.sim.clear_faults();
    let answer = served.get(&format!("/export_raw_vdi?vdi={vdi}")).await;
    assert!(answer.body == content);
}

#[tokio::test]
async fn a_failure_comes_before_the_transfer_or_behind_its_200() {
    let (served, vdi, content) = with_disk().await;
    let fails = || export().fail("VDI_IO_ERROR", ["Device I/O errors"]);
    let failure = ["VDI_IO_ERROR", "Device I/O errors"];
    for (rule, status, sent) in [
        (fails(), "HTTP/1.1 500 Internal Error", 0),
        (fails().after_effect(), "HTTP/1.1 200 OK", content.len()),
        (fails().truncate(MIB), "HTTP/1.1 200 OK", MIB),
    ] {
        served.pool.sim.inject(rule);
        let task = served.task().await;
        let path = format!("/export_raw_vdi?vdi={vdi}&task_id={task}");
        let answer = served.get(&path).await;
        assert_eq!(answer.status(), status);
        assert!(answer.body[..sent] == content[..sent]);
        let rest = String::from_utf8_lossy(&answer.body[sent..]).into_owned();
        assert!(
            rest.contains("VDI_IO_ERROR: [ Device I/O errors ]"),
            "{rest}"
        );
        // A whole answer stands inside of the other.
        assert_eq!(rest.starts_with("HTTP/1.1 500 "), sent > 0, "{rest}");
        let (state, _, error) = served.outcome(&task).await;
        assert_eq!(
            (state.as_str(), error),
            ("failure", failure.map(str::to_owned).to_vec())
        );
    }
}

#[tokio::test]
async fn transfers_are_cut_off_in_both_directions() {
    let (served, vdi, content) = with_disk().await;
    served.pool.sim.inject(export().truncate(MIB + 1));
    let task = served.task().await;
    let path = format!("/export_raw_vdi?vdi={vdi}&task_id={task}");
    let answer = served.get(&path).await;
    assert!(answer.body == content[..=MIB]);
    assert_eq!(served.outcome(&task).await.0, "failure");

    let rule = FaultRule::method("/import_raw_vdi").times(1);
    served.pool.sim.inject(rule.truncate(MIB));
    let task = served.task().await;
    let answer = served
        .put(
            &format!("/import_raw_vdi?vdi={vdi}&task_id={task}"),
            &content,
        )
        .await;
    // That came before the first byte.
    assert_eq!(answer.status(), "HTTP/1.1 200 OK");
    let (state, _, error) = served.outcome(&task).await;
    assert_eq!(
        (state.as_str(), error[0].as_str()),
        ("failure", "VDI_IO_ERROR")
    );
}

#[tokio::test]
async fn transfers_wait_at_their_beginning_or_in_their_middle() {
    let (served, vdi, content) = with_disk().await;
    let pause = Duration::from_millis(300);
    for rule in [export().delay(pause), export().slow_body(pause)] {
        served.pool.sim.inject(rule);
        let began = Instant::now();
        let answer = served.get(&format!("/export_raw_vdi?vdi={vdi}")).await;
        assert!(answer.body == content);
        assert!(began.elapsed() >= pause);
    }
}

#[tokio::test]
async fn a_host_crashes_in_the_middle_of_a_transfer() {
    let (served, vdi, _) = with_disk().await;
    let crash = export()
        .slow_body(Duration::from_secs(600))
        .delay(Duration::from_millis(100));
    served
        .pool
        .sim
        .inject(crash.crash_host(Duration::from_millis(1)));
    let all = all_of(&served, &format!("GET /export_raw_vdi?vdi={vdi}")).await;
    assert!(all.len() < 2 * MIB, "it ends in the middle");
}

#[tokio::test]
async fn transfers_are_in_the_log_of_calls() {
    let (served, vdi, _) = with_disk().await;
    let vm = served.pool.vm("worker").await;
    let uuid = text(&served.pool.get("VM", "uuid", &vm).await);
    served.get(&format!("/export_metadata?uuid={uuid}")).await;
    served.get("/export_raw_vdi?vdi=nowhere").await;
    served.ask_alone("GET /audit_log", "", b"").await;
    let calls = served.pool.sim.calls();
    let transfers = calls.iter().filter(|call| call.method.contains('/'));
    let transfers: Vec<_> = transfers
        .map(|call| {
            (
                call.method.as_str(),
                call.vm.clone(),
                call.failure.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        transfers,
        [
            ("PUT /import_raw_vdi", None, None),
            ("GET /export_metadata", Some(vm), None),
            ("GET /export_raw_vdi", None, Some("UUID_INVALID")),
            ("GET /audit_log", None, Some("HTTP 401")),
        ]
    );
    let log = format!("{calls:?}");
    assert!(log.contains(&vdi) && !log.contains(&served.pool.session));
}
