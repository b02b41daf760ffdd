//! The client against a scripted host.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{Host, failure};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};
use xapi_client::api::{
    SrCreate, VbdCreate, VdiCreate, VifCreate, Vm, VmMigrateSend, VmPowerState,
};
use xapi_client::{Client, Error, ErrorCode, Ref, SecretString, Trust};

const LOGIN: &str = "session.login_with_password";

#[tokio::test]
async fn login_calls_and_close() {
    let host = Host::start(|method, _| match method {
        LOGIN => Ok(json!("OpaqueRef:s1")),
        "VM.get_power_state" => Ok(json!("Halted")),
        _ => Ok(json!("")),
    })
    .await;
    let client = host.builder().originator("test").login().await.unwrap();
    let vm = Ref::from("OpaqueRef:v");
    assert_eq!(
        client.vm().get_power_state(&vm).await.unwrap(),
        VmPowerState::Halted
    );
    client.vm().start(&vm, false, true).await.unwrap();
    let clone = client.clone();
    client.close().await.unwrap();
    client.close().await.unwrap();
    let error = clone.vm().start(&vm, false, true).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    assert_eq!(
        host.calls(),
        [
            (
                LOGIN.to_owned(),
                vec![json!("root"), json!("hunter2"), json!("1.0"), json!("test")]
            ),
            (
                "VM.get_power_state".to_owned(),
                vec![json!("OpaqueRef:s1"), json!("OpaqueRef:v")]
            ),
            (
                "VM.start".to_owned(),
                vec![
                    json!("OpaqueRef:s1"),
                    json!("OpaqueRef:v"),
                    json!(false),
                    json!(true)
                ]
            ),
            ("session.logout".to_owned(), vec![json!("OpaqueRef:s1")]),
        ]
    );
}

#[tokio::test]
async fn requests_fit_the_server() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:s1"))).await;
    host.builder().login().await.unwrap();
    let request = &host.server.received_requests().await.unwrap()[0];
    let header = |name: &str| {
        request
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap())
    };
    assert_eq!(
        header("content-length"),
        Some(request.body.len().to_string().as_str())
    );
    assert_eq!(header("transfer-encoding"), None);
    assert_eq!(header("cookie"), None);
    // A server would take the call for a forwarded one, and leave the end of its task to somebody else.
    assert_eq!(header("task-id"), None);
    assert!(
        header("user-agent")
            .unwrap()
            .starts_with("rust-xapi-client/")
    );
}

#[tokio::test]
async fn a_wrong_password_is_said_in_words() {
    let host = Host::start(|_, _| {
        failure(&[
            "SESSION_AUTHENTICATION_FAILED",
            "root",
            "Authentication failure",
        ])
    })
    .await;
    let error = host.builder().login().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::SessionAuthenticationFailed));
    let text = error.to_string();
    assert!(
        text.contains("the user name or the password is wrong"),
        "{text}"
    );
    assert!(!text.contains("hunter2"));
}

#[tokio::test]
async fn secrets_stay_out_of_debug() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:topsecret"))).await;
    let builder = host.builder();
    let mut seen = format!("{builder:?}");
    let client = builder.login().await.unwrap();
    let password = SecretString::from("hunter2");
    seen += &format!(
        "{client:?} {:?}",
        client.session().change_password(&password, &password)
    );
    seen += &format!("{:?}", client.session_ref().unwrap());
    assert!(
        !seen.contains("hunter2") && !seen.contains("topsecret"),
        "{seen}"
    );
}

#[tokio::test]
async fn many_calls_with_a_dead_session_log_in_once() {
    let logins = Arc::new(AtomicUsize::new(0));
    let counted = logins.clone();
    let host = Host::start(move |method, params| match method {
        LOGIN => Ok(json!(format!(
            "s{}",
            counted.fetch_add(1, Ordering::SeqCst)
        ))),
        // The first session is dead for whatever comes after the login.
        _ if params[0] == "s0" => failure(&["SESSION_INVALID", "s0"]),
        _ => Ok(json!("Running")),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let calls = (0..20).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            client
                .vm()
                .get_power_state(&Ref::new(&format!("OpaqueRef:{number}")))
                .await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap(), VmPowerState::Running);
    }
    assert_eq!(logins.load(Ordering::SeqCst), 2);
    let dead = host
        .calls()
        .iter()
        .filter(|(_, params)| params[0] == "s0")
        .count();
    let alive = host
        .calls()
        .iter()
        .filter(|(_, params)| params[0] == "s1")
        .count();
    assert!(dead <= 20, "a call was sent twice with the dead session");
    assert_eq!(alive, 20);
}

#[tokio::test]
async fn a_call_is_replayed_once_only() {
    let host = Host::start(|method, _| match method {
        LOGIN => Ok(json!("s")),
        _ => failure(&["SESSION_INVALID", "s"]),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let error = client.vm().get_all().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::SessionInvalid));
    assert_eq!((host.count(LOGIN), host.count("VM.get_all")), (2, 2));
}

#[tokio::test]
async fn a_password_that_was_changed_is_tried_once() {
    let first = AtomicBool::new(true);
    let host = Host::start(move |method, _| match method {
        LOGIN if first.swap(false, Ordering::SeqCst) => Ok(json!("s")),
        LOGIN => failure(&["SESSION_AUTHENTICATION_FAILED", "root", "no"]),
        _ => failure(&["SESSION_INVALID", "s"]),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    for _ in 0..3 {
        let error = client.vm().get_all().await.unwrap_err();
        assert_eq!(error.code(), Some(&ErrorCode::SessionAuthenticationFailed));
    }
    assert_eq!(host.count(LOGIN), 2);
}

#[tokio::test]
async fn a_member_leads_to_its_coordinator() {
    let coordinator = Host::on("127.0.0.2:0", |method, _| match method {
        LOGIN => Ok(json!("s")),
        _ => Ok(json!([])),
    })
    .await;
    // A redirect names no port: that of the pool is kept, so both listen on the same.
    let port = coordinator.server.address().port();
    let member = Host::on(&format!("127.0.0.1:{port}"), |_, _| {
        failure(&["HOST_IS_SLAVE", "127.0.0.2"])
    })
    .await;
    let client = member.builder().login().await.unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.2");
    assert!(client.vm().get_all().await.unwrap().is_empty());
    assert_eq!((member.calls().len(), coordinator.calls().len()), (1, 2));
}

#[tokio::test]
async fn hosts_that_name_each_other_do_not_loop() {
    let host = Host::start(|_, _| failure(&["HOST_IS_SLAVE", "127.0.0.1"])).await;
    let error = host.builder().login().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::HostIsSlave));
    assert_eq!(host.count(LOGIN), 2);
}

#[tokio::test]
async fn a_coordinator_that_became_a_member_is_left() {
    let demoted = Arc::new(AtomicBool::new(false));
    let state = demoted.clone();
    let new = Host::on("127.0.0.3:0", |method, _| match method {
        LOGIN => Ok(json!("s2")),
        _ => Ok(json!([])),
    })
    .await;
    let port = new.server.address().port();
    let old = Host::on(
        &format!("127.0.0.1:{port}"),
        move |method, _| match method {
            LOGIN if !state.load(Ordering::SeqCst) => Ok(json!("s1")),
            _ => failure(&["HOST_IS_SLAVE", "127.0.0.3"]),
        },
    )
    .await;
    let client = old.builder().login().await.unwrap();
    demoted.store(true, Ordering::SeqCst);
    client.vm().get_all().await.unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.3");
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_sent() {
    let host = Host::start(|_, _| Ok(json!("s"))).await;
    let client = host.builder().login().await.unwrap();
    let text = "x".repeat(300 * 1024);
    let error = client
        .vm()
        .set_name_description(&Ref::from("v"), &text)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                part: "body",
                limit: 307_200,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(host.calls().len(), 1);
}

#[tokio::test]
async fn a_head_over_the_limit_is_not_sent() {
    let host = Host::start(|_, _| Ok(json!("s"))).await;
    let error = host
        .builder()
        .user_agent("x".repeat(900))
        .login()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                part: "head",
                limit: 1006,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(host.calls().is_empty());
}

#[tokio::test]
async fn answers_that_are_none_say_so() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(500))
        .mount(&server)
        .await;
    let builder = || Client::builder(server.uri()).credentials("root", SecretString::from("p"));
    let error = builder().login().await.unwrap_err();
    assert!(
        matches!(error, Error::Http { status: 500, .. }),
        "{error:?}"
    );
    server.reset().await;
    let html = ResponseTemplate::new(200).set_body_string("<html>");
    Mock::given(method("POST"))
        .respond_with(html)
        .mount(&server)
        .await;
    let error = builder().login().await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error:?}");
}

#[tokio::test]
async fn a_host_that_is_not_there_is_named() {
    // The port is free again as soon as the listener is gone.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let builder = Client::builder(address.to_string()).trust(Trust::Insecure);
    let error = builder.login().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert!(
        text.contains("127.0.0.1") && text.contains(&address.port().to_string()),
        "{text}"
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(!text.contains(&source), "{text} / {source}");
    assert!(source.contains("refused"), "{source}");
}

#[tokio::test]
async fn no_answer_in_time_leaves_the_outcome_open() {
    let server = MockServer::start().await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(60));
    Mock::given(method("POST"))
        .respond_with(slow)
        .mount(&server)
        .await;
    let builder = Client::builder(server.uri()).timeout(Duration::from_millis(50));
    let error = builder.login().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn optional_parameters_are_left_out() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:x"))).await;
    let client = host.builder().login().await.unwrap();
    let vm = Ref::from("v");
    client.vm().snapshot(&vm, "before", None).await.unwrap();
    client
        .vm()
        .snapshot(&vm, "after", Some(&[Ref::from("d")]))
        .await
        .unwrap();
    let calls = host.calls();
    assert_eq!(calls[1].1[1..], [json!("v"), json!("before")]);
    assert_eq!(calls[2].1[1..], [json!("v"), json!("after"), json!(["d"])]);
}

#[tokio::test]
async fn constructors_send_the_keys_that_the_server_reads() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:x"))).await;
    let client = host.builder().login().await.unwrap();
    let mut vdi = VdiCreate::new(Ref::from("sr"), 1 << 30);
    vdi.name_label = Some("disk".to_owned());
    client.vdi().create(&vdi).await.unwrap();
    client
        .vbd()
        .create(&VbdCreate::new(Ref::from("vm"), Ref::from("vdi")))
        .await
        .unwrap();
    client
        .vif()
        .create(&VifCreate::new(Ref::from("vm"), Ref::from("net"), "0"))
        .await
        .unwrap();
    let calls = host.calls();
    assert_eq!(
        calls[1].1[1..],
        [
            json!({"SR": "sr", "virtual_size": 1 << 30, "type": "user", "sharable": false,
                "read_only": false, "other_config": {}, "name_label": "disk"})
        ]
    );
    assert_eq!(
        calls[2].1[1..],
        [
            json!({"VM": "vm", "VDI": "vdi", "userdevice": "autodetect", "bootable": false, "mode": "RW",
                "type": "Disk", "empty": false, "other_config": {}, "qos_algorithm_type": "",
                "qos_algorithm_params": {}})
        ]
    );
    assert_eq!(
        calls[3].1[1..],
        [
            json!({"VM": "vm", "network": "net", "device": "0", "MAC": "", "MTU": 1500,
                "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
        ]
    );
}

#[tokio::test]
async fn long_argument_lists_keep_their_order() {
    let host = Host::start(|_, _| Ok(json!("OpaqueRef:x"))).await;
    let client = host.builder().login().await.unwrap();
    let device_config = [("location".to_owned(), "/srv".to_owned())].into();
    let mut sr = SrCreate::new(Ref::from("h"), "isos", "iso", device_config);
    sr.content_type = "iso".to_owned();
    client.sr().create(&sr).await.unwrap();
    let mut send = VmMigrateSend::new(Ref::from("v"), Default::default(), true);
    client.vm().migrate_send(&send).await.unwrap();
    send.vdi_format_map = Some([(Ref::from("d"), "qcow2".to_owned())].into());
    client.vm().migrate_send(&send).await.unwrap();
    let calls = host.calls();
    assert_eq!(
        calls[1].1[1..],
        [
            json!("h"),
            json!({"location": "/srv"}),
            json!(0),
            json!("isos"),
            json!(""),
            json!("iso"),
            json!("iso"),
            json!(false)
        ]
    );
    assert_eq!(
        calls[2].1[1..],
        [
            json!("v"),
            json!({}),
            json!(true),
            json!({}),
            json!({}),
            json!({})
        ]
    );
    assert_eq!(calls[3].1[7..], [json!({}), json!({"d": "qcow2"})]);
}

#[tokio::test]
async fn any_method_can_be_called_by_name() {
    let host = Host::start(|_, params| Ok(json!(params))).await;
    // The login gets its parameters back, which are no session.
    assert!(matches!(
        host.builder().login().await.unwrap_err(),
        Error::Decode { .. }
    ));
    let host = Host::start(|method, params| match method {
        LOGIN => Ok(json!("s")),
        _ => Ok(json!({"got": params[1..]})),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let result = client
        .call("VM.levitate", vec![json!("v"), json!(3)])
        .await
        .unwrap();
    assert_eq!(result, json!({"got": ["v", 3]}));
    let raw = client
        .vm()
        .get_power_state(&Ref::from("v"))
        .raw()
        .await
        .unwrap();
    assert_eq!(raw, json!({"got": ["v"]}));
}

#[tokio::test]
async fn a_filter_is_sent_as_an_expression_or_not_at_all() {
    let host = Host::start(|method, _| match method {
        LOGIN => Ok(json!("s")),
        _ => Ok(json!({"OpaqueRef:v": {"name_label": "web", "power_state": "Halted"}})),
    })
    .await;
    let client = host.builder().login().await.unwrap();
    let filter = Vm::NAME_LABEL.is("web").and(!Vm::IS_A_TEMPLATE.is(true));
    let found = client.find(&filter).await.unwrap();
    assert_eq!(
        found[&Ref::from("OpaqueRef:v")].power_state,
        VmPowerState::Halted
    );
    let refused = client.find(&Vm::NAME_LABEL.is("\"")).await.unwrap_err();
    assert!(matches!(refused, Error::Config(_)), "{refused:?}");
    assert_eq!(
        host.calls()[1..],
        [(
            "VM.get_all_records_where".to_owned(),
            vec![
                json!("s"),
                json!(
                    r#"((field "name__label" = "web") and (not (field "is_a_template" = "true")))"#
                )
            ]
        )]
    );
}
