//! The endpoint through which other programs control a simulator.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::time::Duration;

use common::wire::Wire;
use common::{Pool, login, pool, pool_of, text};
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use xapi_client::Client;
use xapi_sim::{Control, Error, FaultRule, GuestMode, Model, Scenario, Server, SimOptions, Value};

async fn controlled(pool: &Pool) -> Control {
    let address = ([127, 0, 0, 1], 0).into();
    pool.sim.serve_control(address).await.unwrap()
}

/// The status and the body of an answer.
async fn ask(control: &Control, request: &str, body: &str, token: &str) -> (u16, String) {
    let url = control.url();
    let address = url.strip_prefix("http://").unwrap();
    let mut wire = Wire::over(TcpStream::connect(address).await.unwrap());
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    wire.send((head + body).as_bytes()).await;
    let answer = wire.answer().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.trim_end().to_owned())
}

async fn well(control: &Control, request: &str, body: &str) -> String {
    let token = control.token().expose_secret();
    let (status, body) = ask(control, request, body, token).await;
    assert_eq!(status, 200, "{request}: {body}");
    body
}

async fn badly(control: &Control, request: &str, body: &str) -> (u16, String) {
    ask(control, request, body, control.token().expose_secret()).await
}

#[tokio::test]
async fn nothing_is_done_without_the_token() {
    let pool = pool().await;
    let control = controlled(&pool).await;
    let (status, _) = ask(&control, "POST /restart-toolstack", "", "guessed").await;
    assert_eq!(status, 401);
    pool.call("VM.get_all", vec![]).await;
    assert!(!format!("{control:?}").contains(control.token().expose_secret()));
}

#[tokio::test]
async fn it_is_for_this_machine_alone() {
    let pool = pool().await;
    let refused = pool.sim.serve_control(([0, 0, 0, 0], 0).into()).await;
    assert!(matches!(refused, Err(Error::NotLoopback { .. })));
}

#[tokio::test]
async fn faults_come_and_go() {
    let pool = pool().await;
    let control = controlled(&pool).await;
    let rule = r#"{"method":"VM.clone","object":"lua-bio-template","times":2,"fail":["NO","1"]}"#;
    assert_eq!(well(&control, "POST /faults", rule).await, "{}");
    let template = pool.template().await;
    let args = || vec![template.as_str().into(), "copy".into()];
    assert_eq!(pool.fails("VM.clone", args()).await, "NO|1");
    assert_eq!(
        well(&control, "GET /faults", "").await,
        r#"[{"rule":"VM.clone of lua-bio-template, 1 times more: fail with NO [1] (acted 1 times)"}]"#
    );
    well(&control, "DELETE /faults", "").await;
    pool.call("VM.clone", args()).await;
    let (status, body) = badly(&control, "POST /faults", r#"{"methd":"VM.clone"}"#).await;
    assert_eq!(status, 400);
    assert!(body.contains("methd in the request is unknown"), "{body}");
    assert!(body.contains("the request has no method"), "{body}");
}

#[tokio::test]
async fn plugins_come_and_go() {
    let pool = pool().await;
    let control = controlled(&pool).await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let args = || {
        vec![
            host.as_str().into(),
            "zfs.py".into(),
            "list".into(),
            Value::Struct(vec![]),
        ]
    };
    let plugin = r#"{"name":"zfs.py","function":"list","host":"xcp-ng","result":"{}"}"#;
    assert_eq!(well(&control, "POST /plugins", plugin).await, "{}");
    assert_eq!(pool.call("host.call_plugin", args()).await, "{}".into());
    assert_eq!(
        well(&control, "GET /plugins", "").await,
        r#"[{"plugin":"zfs.py list on xcp-ng: return \"{}\""}]"#
    );
    well(&control, "DELETE /plugins", "").await;
    assert_eq!(
        pool.fails("host.call_plugin", args()).await,
        "XENAPI_MISSING_PLUGIN|zfs.py"
    );
    let (status, body) = badly(&control, "POST /plugins", r#"{"name":"x","args":["y"]}"#).await;
    assert_eq!(status, 400);
    assert!(
        body.contains("args in the request has to be a table of texts"),
        "{body}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_answered_with_what_is() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let control = controlled(&pool).await;
    for (request, body, remedy) in [
        (
            "POST /crash-host",
            r#"{"host":"attic"}"#,
            "one of: xcp-ng, xcp-ng-2, xcp-ng-3",
        ),
        (
            "POST /skew-clock",
            r#"{"host":"attic"}"#,
            "one of: xcp-ng, xcp-ng-2, xcp-ng-3",
        ),
        ("POST /fill-sr", r#"{"sr":"attic"}"#, "Shared storage"),
    ] {
        let (status, body) = badly(&control, request, body).await;
        assert_eq!(status, 422);
        assert!(
            body.contains("HANDLE_INVALID") && body.contains(remedy),
            "{body}"
        );
    }
    well(&control, "POST /crash-host", r#"{"host":"xcp-ng-2"}"#).await;
    let (_, body) = badly(&control, "POST /fail-over", r#"{"host":"xcp-ng-2"}"#).await;
    assert!(body.contains("boot it first"), "{body}");
}

#[tokio::test]
async fn hosts_crash_and_the_toolstack_restarts() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let control = controlled(&pool).await;
    well(&control, "POST /crash-host", r#"{"host":"xcp-ng-2"}"#).await;
    let host = pool.named("host", "xcp-ng-2").await;
    let metrics = text(&pool.get("host", "metrics", &host).await);
    let live = pool.get("host_metrics", "live", &metrics).await;
    assert_eq!(live, false.into());
    let (status, body) = badly(&control, "POST /fail-over", r#"{"host":"xcp-ng-2"}"#).await;
    assert_eq!(status, 422);
    assert!(body.contains("CANNOT_CONTACT_HOST"), "{body}");
    well(&control, "POST /boot-host", r#"{"host":"xcp-ng-2"}"#).await;
    well(&control, "POST /fail-over", r#"{"host":"xcp-ng-2"}"#).await;
    well(
        &control,
        "POST /skew-clock",
        r#"{"host":"xcp-ng-2","seconds":60}"#,
    )
    .await;
    let (status, body) = badly(&control, "POST /skew-clock", r#"{"host":"attic"}"#).await;
    assert_eq!(status, 422);
    assert!(body.contains("attic"), "{body}");
    let lost = pool.fails("VM.get_all", vec![]).await;
    assert!(lost.starts_with("SESSION_INVALID|"));
    well(&control, "POST /restart-toolstack", "").await;
    well(&control, "POST /shift-clock", r#"{"seconds":-60}"#).await;
    well(&control, "POST /fill-sr", r#"{"sr":"Shared storage"}"#).await;
    well(
        &control,
        "POST /emergency",
        r#"{"fail":["HOST_STILL_BOOTING"]}"#,
    )
    .await;
    well(&control, "POST /emergency", "").await;
    // A client would go to nowhere.
    let nowhere = r#"{"fail":["HOST_IS_SLAVE"]}"#;
    let (status, body) = badly(&control, "POST /emergency", nowhere).await;
    assert_eq!(status, 400);
    assert!(body.contains("the address of the coordinator"), "{body}");
    let (status, _) = badly(&control, "POST /nowhere", "").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_name_that_several_have_is_refused_with_those_who_have_it() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let control = controlled(&pool).await;
    let (status, body) = badly(&control, "POST /fill-sr", r#"{"sr":"Local storage"}"#).await;
    assert_eq!(status, 422);
    let found = pool
        .call("SR.get_by_name_label", vec!["Local storage".into()])
        .await;
    let mut uuids = Vec::new();
    for sr in found.items() {
        uuids.push(text(&pool.get("SR", "uuid", &text(sr)).await));
    }
    assert_eq!(uuids.len(), 3);
    for uuid in &uuids {
        assert!(body.contains(uuid), "{body}");
    }
    assert!(body.contains(" (of xcp-ng-2)"), "{body}");
    let refused = pool.sim.fill_sr("Local storage", true).unwrap_err();
    assert_eq!(refused.code, "INVALID_VALUE");
    well(
        &control,
        "POST /fill-sr",
        &format!(r#"{{"sr":"{}"}}"#, uuids[1]),
    )
    .await;
}

#[tokio::test]
async fn what_has_been_done_already_is_told() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let control = controlled(&pool).await;
    for (request, said) in [
        ("POST /boot-host", "the host is up already"),
        ("POST /fail-over", "the host is the coordinator already"),
    ] {
        let (status, body) = badly(&control, request, r#"{"host":"xcp-ng"}"#).await;
        assert_eq!(status, 422);
        assert!(body.contains(said), "{body}");
    }
}

/// How a host answers to a call for which nobody has to log in.
async fn asked(server: &Server, method: &str) -> String {
    let password = r#""root","guessed""#;
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":[{password}]}}"#);
    let mut wire = Wire::over(TcpStream::connect(server.address()).await.unwrap());
    let length = body.len();
    let head = format!("POST /jsonrpc HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    wire.send((head + &body).as_bytes()).await;
    wire.answer().await
}

#[tokio::test]
async fn one_host_is_in_an_emergency_and_the_others_are_not() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let control = controlled(&pool).await;
    // The first host is served without TLS, and is a member from here on.
    let server = pool.sim.serve_plain(([127, 0, 0, 1], 0).into()).await;
    let server = server.unwrap();
    pool.sim.fail_over("xcp-ng-2").unwrap();
    let member = async || asked(&server, "session.login_with_password").await;
    let coordinator = async || {
        let client = Client::over(pool.sim.transport()).credentials("root", "guessed".into());
        client.login().await.unwrap_err().to_string()
    };
    let (still, slave, refused) = (
        "HOST_STILL_BOOTING",
        "HOST_IS_SLAVE",
        "SESSION_AUTHENTICATION_FAILED",
    );
    let alone = "HOST_MASTER_CANNOT_TALK_BACK";
    for (body, of_coordinator, of_member) in [
        (r#"{"fail":["HOST_STILL_BOOTING"]}"#, still, slave),
        (r#"{"fail":[]}"#, refused, slave),
        (
            r#"{"host":"xcp-ng","fail":["HOST_MASTER_CANNOT_TALK_BACK","192.0.2.1"]}"#,
            refused,
            alone,
        ),
        (r#"{"host":"xcp-ng"}"#, refused, slave),
    ] {
        well(&control, "POST /emergency", body).await;
        let (said_by_coordinator, said_by_member) = (coordinator().await, member().await);
        assert!(
            said_by_coordinator.contains(of_coordinator),
            "{body}: {said_by_coordinator}"
        );
        assert!(
            said_by_member.contains(of_member),
            "{body}: {said_by_member}"
        );
    }
}

/// Each kind of rule: as Rust makes it, the keys of a TOML file, and the JSON of this endpoint.
#[tokio::test]
async fn every_kind_of_fault_is_the_same_in_rust_toml_and_json() {
    let pool = pool().await;
    let control = controlled(&pool).await;
    let start = || FaultRule::method("VM.start");
    let second = Duration::from_secs(1);
    for (rule, toml) in [
        (start().fail("NO", ["1", ""]), r#"fail = ["NO", "1", ""]"#),
        (
            start().delay(second).fail("NO", ["1"]),
            "delay = 1.0\nfail = [\"NO\", \"1\"]",
        ),
        (start().delay(second), "delay = 1"),
        (
            start().object("web").times(2).after(3).disconnect(),
            "object = \"web\"\ntimes = 2\nafter = 3\ndisconnect = true",
        ),
        (
            start().disconnect().after_effect(),
            "disconnect = true\nafter_effect = true",
        ),
        (
            start().fail("NO", ["1"]).after_effect(),
            "fail = [\"NO\", \"1\"]\nafter_effect = true",
        ),
        (
            start().probability(0.25).http_status(503),
            "probability = 0.25\nhttp_status = 503",
        ),
        (start().truncate(10), "truncate = 10"),
        (start().slow_body(second), "slow_body = 1"),
        (start().expire_session(), "expire_session = true"),
        (start().crash_host(second), "crash_host = 1"),
    ] {
        let wanted = rule.to_string();
        let text = format!("[[fault]]\nmethod = \"VM.start\"\n{toml}\n");
        let scenario = Scenario::from_toml(&text).unwrap();
        assert_eq!(scenario.faults[0].to_string(), wanted);
        let pairs = toml.lines().map(|line| {
            let (key, value) = line.split_once(" = ").unwrap();
            format!("\"{key}\":{value}")
        });
        let pairs: Vec<String> = pairs.collect();
        let json = format!("{{\"method\":\"VM.start\",{}}}", pairs.join(","));
        well(&control, "POST /faults", &json).await;
        let rules = pool.sim.faults();
        assert_eq!(rules.last().unwrap().to_string(), wanted);
    }
    assert_eq!(
        Scenario::from_toml("[[fault]]\nclass = \"VM\"\ndelay = 1\n")
            .unwrap()
            .faults[0]
            .to_string(),
        FaultRule::class("VM").delay(second).to_string()
    );
}

#[tokio::test]
async fn it_tells_what_happened() {
    let pool = pool().await;
    let control = controlled(&pool).await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.fails(
        "VM.start",
        vec![vm.as_str().into(), false.into(), false.into()],
    )
    .await;
    let import = vec!["https://x".into(), "".into(), false.into(), false.into()];
    pool.fails("VM.import", import).await;
    assert_eq!(
        well(&control, "GET /unimplemented", "").await,
        r#"["VM.import"]"#
    );
    let counts = well(&control, "GET /calls-per-vm", "").await;
    // Provisioned, started, and started in vain.
    assert!(counts.contains(&format!(r#""{vm}":3"#)), "{counts}");
    assert_eq!(pool.sim.calls_per_vm()[&vm], 3);
    let calls = well(&control, "GET /calls", "").await;
    assert!(
        calls.contains(r#""failure":"VM_BAD_POWER_STATE""#),
        "{calls}"
    );
    assert!(!calls.contains(&pool.session));
    assert!(calls.contains(r#""took":"#), "{calls}");
    let leaks = well(&control, "GET /leaks", "").await;
    assert!(leaks.contains(r#""label":"worker""#), "{leaks}");
    let about = well(&control, "GET /about", "").await;
    assert!(about.contains(r#""messages_missing":["#));
}

#[tokio::test]
async fn a_reset_pool_is_as_new() {
    let pool = pool().await;
    let control = controlled(&pool).await;
    let before = pool.call("VM.get_all", vec![]).await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    well(&control, "POST /reset", "").await;
    assert!(pool.sim.leaks().is_empty());
    assert!(pool.sim.calls().is_empty());
    let session = login(&pool.sim).await;
    let pool = Pool { session, ..pool };
    assert_eq!(pool.call("VM.get_all", vec![]).await, before);
    pool.vm("another").await;
}

#[tokio::test]
async fn a_reset_pool_has_the_faults_of_its_file() {
    let toml = r#"
        [[fault]]
        method = "VM.get_all"
        times = 1
        fail = ["NO"]
        [behaviour]
        guests = "simulated"
    "#;
    let scenario = Scenario::from_toml(toml).unwrap();
    assert!(matches!(scenario.options.guests, GuestMode::Simulated));
    let sim = scenario.start().await.unwrap();
    for _ in 0..2 {
        let session = login(&sim).await;
        let all = || vec![Value::from(session.as_str())];
        assert_eq!(sim.call("VM.get_all", all()).await.unwrap_err().code, "NO");
        sim.call("VM.get_all", all()).await.unwrap();
        sim.reset().await.unwrap();
    }
}
