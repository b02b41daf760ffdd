//! The checks that precede every message, and the messages that every class has.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use secrecy::ExposeSecret as _;

use common::{Pool, login, pool, pool_of, text};
use xapi_sim::{FaultRule, Model, Release, SimOptions, Value};

async fn fails(pool: &Pool, method: &str, params: Vec<Value>) -> String {
    let failure = pool.sim.call(method, params).await.expect_err(method);
    std::iter::once(failure.code)
        .chain(failure.params)
        .collect::<Vec<_>>()
        .join("|")
}

#[tokio::test]
async fn the_order_of_checks() {
    let pool = pool().await;
    let session = || Value::from(pool.session.as_str());
    let dead = || Value::from("OpaqueRef:bogus");
    for (method, params, failure) in [
        (
            "VM.frobnicate",
            vec![session()],
            "MESSAGE_METHOD_UNKNOWN|VM.frobnicate",
        ),
        (
            "VM.frobnicate",
            vec![dead()],
            "SESSION_INVALID|OpaqueRef:bogus",
        ),
        (
            "VM.frobnicate",
            vec![],
            "MESSAGE_METHOD_UNKNOWN|VM.frobnicate",
        ),
        (
            "vm.get_all",
            vec![session()],
            "MESSAGE_METHOD_UNKNOWN|vm.get_all",
        ),
        (
            "session.get_all",
            vec![session()],
            "MESSAGE_METHOD_UNKNOWN|session.get_all",
        ),
        (
            "VM.get_all",
            vec![dead()],
            "SESSION_INVALID|OpaqueRef:bogus",
        ),
        ("VM.get_all", vec!["".into()], "SESSION_INVALID|"),
        (
            "VM.get_all",
            vec!["OpaqueRef:NULL".into()],
            "SESSION_INVALID|OpaqueRef:NULL",
        ),
        // The number of parameters comes before the session, without counting it.
        (
            "VM.start",
            vec![dead(), "x".into()],
            "MESSAGE_PARAMETER_COUNT_MISMATCH|VM.start|3|1",
        ),
        (
            "VM.start",
            vec![],
            "MESSAGE_PARAMETER_COUNT_MISMATCH|VM.start|3|-1",
        ),
        (
            "Async.VM.start",
            vec![session()],
            "MESSAGE_PARAMETER_COUNT_MISMATCH|VM.start|3|0",
        ),
        (
            "VM.get_all",
            vec![session(), "x".into()],
            "MESSAGE_PARAMETER_COUNT_MISMATCH|VM.get_all|0|1",
        ),
        (
            "session.login_with_password",
            vec!["root".into()],
            "MESSAGE_PARAMETER_COUNT_MISMATCH|session.login_with_password|2|1",
        ),
        (
            "VM.start",
            vec![session(), "x".into(), "false".into(), "false".into()],
            "INTERNAL_ERROR|Failure(\"Expected bool, got 'S(false)'\")",
        ),
        (
            "Async.VM.start",
            vec![session(), "x".into(), 0.into(), 0.into()],
            "INTERNAL_ERROR|Failure(\"Expected bool, got 'I(0)'\")",
        ),
        (
            "host.license_apply",
            vec![session(), "x".into(), "x".into()],
            "MESSAGE_REMOVED",
        ),
        (
            "host.license_apply",
            vec![dead(), "x".into(), "x".into()],
            "SESSION_INVALID|OpaqueRef:bogus",
        ),
        (
            "Async.VM.get_record",
            vec![session(), "x".into()],
            "Fault|No async mode for this operation (rpc: VM.get_record)",
        ),
        (
            "Async.VM.start",
            vec![dead(), "x".into(), false.into(), false.into()],
            "SESSION_INVALID|OpaqueRef:bogus",
        ),
        (
            "VM.get_record",
            vec![session(), "OpaqueRef:nope".into()],
            "HANDLE_INVALID|VM|OpaqueRef:nope",
        ),
        (
            "VM.get_by_uuid",
            vec![session(), "nope".into()],
            "UUID_INVALID|VM|nope",
        ),
        (
            "VM.set_actions_after_shutdown",
            vec![session(), "x".into(), "explode".into()],
            "INTERNAL_ERROR|Failure(\"Unknown tag/contents\")",
        ),
        (
            "VIF.create",
            vec![session(), "x".into()],
            "INTERNAL_ERROR|Failure(\"bad __structure\")",
        ),
    ] {
        assert_eq!(fails(&pool, method, params).await, failure, "{method}");
    }
    // The alias with an underscore, and further parameters where there are defaults.
    assert!(pool.try_call("VM_get_all", vec![]).await.is_ok());
    assert!(pool.try_call("Async.VM_get_all", vec![]).await.is_err());
    let vm = pool.vm("worker").await;
    let ignored = vec![vm.into(), "s".into(), Value::Array(vec![]), "more".into()];
    assert!(pool.try_call("VM.snapshot", ignored).await.is_ok());
    let methods = pool.sim.call("system.listMethods", vec![]).await.unwrap();
    assert!(methods.items().contains(&Value::from("VM.clone")));
    assert!(!methods.items().contains(&Value::from("Async.VM.clone")));
}

#[tokio::test]
async fn integers_come_in_many_forms() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    for value in [Value::Int(2), "2".into(), "0x2".into(), "+2".into()] {
        pool.call("VM.set_VCPUs_at_startup", vec![vm.as_str().into(), value])
            .await;
    }
    for value in [
        Value::Float(2.0),
        " 2".into(),
        Value::Bool(true),
        Value::Nil,
    ] {
        let args = vec![vm.as_str().into(), value];
        assert!(
            pool.fails("VM.set_VCPUs_at_startup", args)
                .await
                .starts_with("INTERNAL_ERROR")
        );
    }
}

#[tokio::test]
async fn sessions() {
    let pool = pool().await;
    let login = |password: &str| {
        vec![
            "root".into(),
            password.into(),
            "banana".into(),
            "myprog".into(),
            "ignored".into(),
        ]
    };
    assert_eq!(
        fails(&pool, "session.login_with_password", login("wrong")).await,
        "SESSION_AUTHENTICATION_FAILED|root|Authentication failure"
    );
    let record = pool
        .call("session.get_record", vec![pool.session.as_str().into()])
        .await;
    assert_eq!(record.get("originator"), Some(&Value::from("tests")));
    assert_eq!(record.get("auth_user_name"), Some(&Value::from("root")));
    assert_eq!(record.get("is_local_superuser"), Some(&Value::Bool(true)));
    let other = common::login(&pool.sim).await;
    pool.call("session.logout", vec![]).await;
    assert_eq!(
        pool.fails("session.logout", vec![]).await,
        format!("SESSION_INVALID|{}", pool.session)
    );
    assert!(
        pool.sim
            .call("VM.get_all", vec![other.into()])
            .await
            .is_ok()
    );
    let calls = pool.sim.calls();
    let login = calls
        .iter()
        .find(|call| call.method == "session.login_with_password")
        .unwrap();
    assert_eq!(login.params[1], Value::from("<hidden>"));
    assert!(
        !format!("{calls:?}").contains(&pool.session),
        "no session is recorded"
    );
}

#[tokio::test]
async fn too_many_sessions_of_a_program_end_the_oldest() {
    let pool = pool().await;
    for _ in 0..500 {
        login(&pool.sim).await;
    }
    assert_eq!(
        pool.fails("VM.get_all", vec![]).await,
        format!("SESSION_INVALID|{}", pool.session)
    );
}

#[tokio::test]
async fn a_disabled_host_may_go_down() {
    let pool = pool().await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let allowed = || pool.get("host", "allowed_operations", &host);
    let enabled = allowed().await;
    pool.call("host.disable", vec![host.as_str().into()]).await;
    assert_eq!(
        allowed().await,
        Value::strings([
            "vm_migrate",
            "provision",
            "vm_resume",
            "apply_updates",
            "enable",
            "reboot",
            "evacuate",
            "vm_start",
            "shutdown"
        ])
    );
    pool.call("host.enable", vec![host.as_str().into()]).await;
    assert_eq!(allowed().await, enabled);
}

#[tokio::test]
async fn a_reply_can_lie_about_what_was_done() {
    let pool = pool().await;
    let template = pool.template().await;
    let rule = FaultRule::method("VM.clone").after_effect().times(1);
    pool.sim
        .inject(rule.fail("INTERNAL_ERROR", ["the host went away"]));
    let args = vec![template.into(), "done all the same".into()];
    assert_eq!(
        pool.fails("VM.clone", args).await,
        "INTERNAL_ERROR|the host went away"
    );
    pool.named("VM", "done all the same").await;
}

#[tokio::test]
async fn unimplemented_messages_are_collected() {
    for release in [Release::Xcpng82, Release::Xcpng83, Release::Newest] {
        let model = Model::single_host().release(release);
        let pool = pool_of(model, SimOptions::default()).await;
        let import = vec!["https://x".into(), "".into(), false.into(), false.into()];
        assert_eq!(
            pool.fails("VM.import", import).await,
            "NOT_IMPLEMENTED|VM.import"
        );
        assert_eq!(pool.sim.unimplemented(), ["VM.import"]);
        let coverage = pool.sim.coverage();
        assert!(coverage.implemented.contains(&"VM.clone"));
        assert_eq!(coverage.missing, ["VM.import"], "{release}");
    }
}

#[tokio::test]
async fn releases_differ() {
    let newest = pool_of(Model::new().release(Release::Newest), SimOptions::default()).await;
    let older = pool_of(
        Model::new().release(Release::Xcpng83),
        SimOptions::default(),
    )
    .await;
    assert!(newest.try_call("Caller.get_all", vec![]).await.is_ok());
    assert_eq!(
        older.fails("Caller.get_all", vec![]).await,
        "MESSAGE_METHOD_UNKNOWN|Caller.get_all"
    );
    for (pool, minor) in [(&newest, 23), (&older, 21)] {
        let host = text(&pool.call("host.get_all", vec![]).await.items()[0].clone());
        assert_eq!(
            pool.get("host", "API_version_minor", &host).await,
            Value::Int(minor)
        );
    }
    // XCP-ng 8.2 does not know `ignore_vdis`.
    let oldest = pool_of(
        Model::single_host().release(Release::Xcpng82),
        SimOptions::default(),
    )
    .await;
    let vm = oldest.vm("worker").await;
    let args = vec![vm.into(), "s".into(), Value::Array(vec![])];
    assert_eq!(
        oldest.fails("VM.snapshot", args).await,
        "MESSAGE_PARAMETER_COUNT_MISMATCH|VM.snapshot|2|3"
    );
}

#[tokio::test]
async fn the_same_model_gives_the_same_pool() {
    let (one, two) = (pool().await, pool().await);
    let other = pool_of(Model::single_host().seed(2), SimOptions::default()).await;
    let vms = |pool: Pool| async move { pool.call("VM.get_all", vec![]).await };
    let one = vms(one).await;
    assert_eq!(one, vms(two).await);
    assert_ne!(one, vms(other).await);
}

#[tokio::test]
async fn emergency_mode_keeps_calls_out() {
    use xapi_sim::Failure;

    let pool = pool().await;
    pool.sim
        .set_emergency(Some(Failure::code("HOST_STILL_BOOTING")));
    let client = xapi_client::Client::over(pool.sim.transport());
    let error = client
        .credentials("root", pool.sim.credentials().password().clone())
        .login()
        .await
        .unwrap_err();
    assert!(format!("{error}").contains("HOST_STILL_BOOTING"), "{error}");
    pool.sim.set_emergency(None);
    assert!(pool.try_call("VM.get_all", vec![]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn sessions_expire() {
    let pool = pool().await;
    let hour = std::time::Duration::from_secs(3600);
    for _ in 0..3 {
        tokio::time::advance(23 * hour).await;
        pool.call("VM.get_all", vec![]).await;
    }
    tokio::time::advance(25 * hour).await;
    assert_eq!(
        pool.fails("VM.get_all", vec![]).await,
        format!("SESSION_INVALID|{}", pool.session)
    );
}

#[tokio::test]
async fn functions_can_answer() {
    let pool = pool().await;
    pool.sim.on("host.dmesg", |args| {
        let host = args[0].as_str().unwrap_or_default();
        Some(Ok(Value::String(format!("log of {host}"))))
    });
    pool.sim.on("VM.clone", |args| {
        (args[1] == Value::from("refused")).then(|| Err(xapi_sim::Failure::code("REFUSED")))
    });
    let args = vec!["somebody".into()];
    assert_eq!(
        pool.call("host.dmesg", args).await,
        Value::from("log of somebody")
    );
    let template = pool.template().await;
    let clone = |name: &str| vec![Value::from(template.as_str()), name.into()];
    assert_eq!(pool.fails("VM.clone", clone("refused")).await, "REFUSED");
    pool.call("VM.clone", clone("made")).await;
}

#[tokio::test]
async fn a_member_names_the_coordinator() {
    let pool = pool_of(Model::single_host().hosts(2), SimOptions::default()).await;
    let coordinator = pool.sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = coordinator.address().port();
    let member = pool
        .sim
        .serve_host(1, ([127, 0, 0, 2], port).into())
        .await
        .unwrap();
    // The client follows to the coordinator.
    let client = xapi_client::Client::builder(member.address().to_string())
        .credentials("root", pool.sim.credentials().password().clone())
        .trust(xapi_client::Trust::Insecure)
        .login()
        .await
        .unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.1");
    assert!(!client.vm().get_all().await.unwrap().is_empty());
    client.close().await.unwrap();
    member.shutdown().await;
    coordinator.shutdown().await;
}

#[tokio::test]
async fn secrets_are_records_like_others() {
    let pool = pool().await;
    let fields = Value::map([("value", "hush")]);
    let fields = match fields {
        Value::Struct(mut members) => {
            members.push(("other_config".to_owned(), Value::Struct(vec![])));
            Value::Struct(members)
        }
        other => other,
    };
    let secret = pool.call("secret.create", vec![fields]).await;
    let reference = text(&secret);
    assert_eq!(
        pool.get("secret", "value", &reference).await,
        Value::from("hush")
    );
    pool.call("secret.destroy", vec![secret]).await;
    assert!(!format!("{:?}", pool.sim.calls()).contains("hush"));
}

#[tokio::test]
async fn boot_data_are_not_recorded() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let data = Value::map([("vm-data/bioxen/host-key", "PRIVATE")]);
    pool.call("VM.set_xenstore_data", vec![vm.as_str().into(), data])
        .await;
    let calls = format!("{:?}", pool.sim.calls());
    assert!(calls.contains("vm-data/bioxen/host-key"));
    assert!(!calls.contains("PRIVATE"));
    // What is hidden is the value, not what it is called.
    let one = ["vm-data/bioxen/hostname", "NAME"].map(Value::from);
    let one = [Value::from(vm.as_str())].into_iter().chain(one).collect();
    pool.call("VM.add_to_xenstore_data", one).await;
    let all = vec![Value::strings(["pool"]), "".into(), 0.into()];
    pool.call("event.from", all).await;
    let calls = pool.sim.calls();
    let [.., added, watched] = &calls[..] else {
        panic!("{calls:?}")
    };
    assert_eq!(
        added.params[1..],
        ["vm-data/bioxen/hostname", "<hidden>"].map(Value::from)
    );
    assert_eq!(watched.params[1], Value::from(""));
}

#[tokio::test]
async fn only_a_session_with_the_host_ends_by_the_local_logout() {
    let pool = pool().await;
    pool.call("session.local_logout", vec![]).await;
    pool.call("VM.get_all", vec![]).await;
    let credentials = pool.sim.credentials();
    let params = vec![
        Value::from(credentials.user()),
        Value::from(credentials.password().expose_secret()),
    ];
    let login = "session.slave_local_login_with_password";
    let session = pool.sim.call(login, params).await.unwrap();
    let own = || vec![session.clone()];
    pool.sim.call("VM.get_all", own()).await.unwrap();
    pool.sim.call("session.local_logout", own()).await.unwrap();
    let refused = pool.sim.call("VM.get_all", own()).await.unwrap_err();
    assert_eq!(refused.code, "SESSION_INVALID");
}
