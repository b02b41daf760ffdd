//! Hosts that go away and come back.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::time::Duration;

use common::{Pool, login, pool, pool_of, text};
use tokio::net::TcpStream;
use xapi_client::{Client, Error, Trust};
use xapi_sim::{Failure, FaultRule, Model, Sim, SimOptions, Value};

async fn pool_of_three() -> Pool {
    pool_of(Model::pool_of_three(), SimOptions::default()).await
}

async fn client(sim: &Sim) -> Client {
    let credentials = sim.credentials();
    let password = credentials.password().clone();
    let client = Client::over(sim.transport()).credentials(credentials.user(), password);
    client.login().await.unwrap()
}

/// The session of a test whose own has been lost.
async fn again(pool: Pool) -> Pool {
    let session = login(&pool.sim).await;
    Pool { session, ..pool }
}

/// A running VM of a host.
async fn running_on(pool: &Pool, host: &str) -> String {
    let vm = pool.vm("worker").await;
    let host = pool.named("host", host).await;
    let args = vec![vm.as_str().into(), host.into(), false.into(), false.into()];
    pool.call("VM.start_on", args).await;
    vm
}

#[tokio::test]
async fn a_restarted_toolstack_has_lost_sessions_and_tasks_but_no_vms() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    let task = vec!["mine".into(), "".into()];
    pool.call("task.create", task).await;
    pool.sim.restart_toolstack();
    let lost = pool.fails("VM.get_all", vec![]).await;
    assert_eq!(lost, format!("SESSION_INVALID|{}", pool.session));
    let pool = again(pool).await;
    assert!(pool.call("task.get_all", vec![]).await.items().is_empty());
    assert_eq!(pool.state(&vm).await, "Running");
}

#[tokio::test(start_paused = true)]
async fn a_task_of_before_the_restart_is_gone_and_its_work_stops() {
    let latency = SimOptions::default().with_latency(Duration::from_secs(3600));
    let pool = pool_of(Model::single_host(), latency).await;
    let vm = pool.vm("worker").await;
    let start = vec![vm.as_str().into(), false.into(), false.into()];
    let task = pool.call("Async.VM.start", start).await;
    // Others see the operation, so it has begun.
    while pool
        .get("VM", "current_operations", &vm)
        .await
        .members()
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    pool.sim.restart_toolstack();
    let pool = again(pool).await;
    let lost = pool.fails("task.get_record", vec![task.clone()]).await;
    assert_eq!(lost, format!("HANDLE_INVALID|task|{}", text(&task)));
    while !pool
        .get("VM", "current_operations", &vm)
        .await
        .members()
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(pool.state(&vm).await, "Halted");
}

#[tokio::test]
async fn calls_that_wait_lose_their_connection() {
    let pool = pool().await;
    let waiting = pool.call(
        "event.from",
        vec![Value::strings(["pif_metrics"]), "".into(), 0.0.into()],
    );
    waiting.await;
    let args = vec![Value::strings(["nothing"]), "".into(), 600.0.into()];
    let (waited, ()) = tokio::join!(pool.try_call("event.from", args), async {
        tokio::task::yield_now().await;
        pool.sim.restart_toolstack();
    });
    assert_eq!(waited.unwrap_err().code, "CANNOT_CONTACT_HOST");
}

#[tokio::test]
async fn a_served_pool_that_restarts_closes_its_connections() {
    let pool = pool().await;
    let address = ([127, 0, 0, 1], 0).into();
    let server = pool.sim.serve_plain(address).await.unwrap();
    let mut idle = TcpStream::connect(server.address()).await.unwrap();
    // An answer shows that the connection is being served.
    let mut wire = common::wire::Wire::over(idle);
    wire.send(b"OPTIONS / HTTP/1.1\r\n\r\n").await;
    wire.answer().await;
    pool.sim.restart_toolstack();
    assert!(wire.is_closed().await);
    idle = TcpStream::connect(server.address()).await.unwrap();
    let mut wire = common::wire::Wire::over(idle);
    wire.send(b"OPTIONS / HTTP/1.1\r\n\r\n").await;
    assert!(wire.answer().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn vms_of_a_crashed_member_count_as_running_until_it_is_back() {
    let pool = pool_of_three().await;
    let vm = running_on(&pool, "xcp-ng-2").await;
    let host = pool.named("host", "xcp-ng-2").await;
    pool.sim.crash_host("xcp-ng-2").unwrap();
    assert_eq!(pool.state(&vm).await, "Running");
    let metrics = text(&pool.get("host", "metrics", &host).await);
    assert_eq!(
        pool.get("host_metrics", "live", &metrics).await,
        false.into()
    );
    assert_eq!(
        pool.fails("VM.clean_shutdown", vec![vm.as_str().into()])
            .await,
        format!("CANNOT_CONTACT_HOST|{host}")
    );
    let other = pool.vm("other").await;
    let check = vec![other.as_str().into(), host.as_str().into()];
    assert_eq!(
        pool.fails("VM.assert_can_boot_here", check).await,
        "HOST_NOT_LIVE"
    );

    pool.sim.boot_host("xcp-ng-2").unwrap();
    assert_eq!(pool.state(&vm).await, "Halted");
    assert_eq!(
        pool.get("host_metrics", "live", &metrics).await,
        true.into()
    );
    pool.start(&vm).await;
}

#[tokio::test]
async fn a_dead_host_gives_its_vms_back() {
    let pool = pool_of_three().await;
    let vm = running_on(&pool, "xcp-ng-3").await;
    let host = pool.named("host", "xcp-ng-3").await;
    let this = || vec![Value::from(host.as_str())];
    for method in ["host.declare_dead", "host.destroy"] {
        let refused = pool.fails(method, this()).await;
        assert_eq!(refused, format!("HOST_IS_LIVE|{host}"), "{method}");
    }
    pool.sim.crash_host("xcp-ng-3").unwrap();
    assert_eq!(
        pool.fails("host.destroy", this()).await,
        format!("HOST_HAS_RESIDENT_VMS|{host}")
    );
    pool.call("host.declare_dead", this()).await;
    assert_eq!(pool.get("host", "enabled", &host).await, false.into());
    assert_eq!(pool.state(&vm).await, "Halted");
    pool.start(&vm).await;
}

#[tokio::test]
async fn a_coordinator_that_is_down_answers_nobody() {
    let pool = pool_of_three().await;
    let client = client(&pool.sim).await;
    let address = ([127, 0, 0, 1], 0).into();
    let server = pool.sim.serve_plain(address).await.unwrap();
    let coordinator = text(
        &pool
            .call("host.get_by_name_label", vec!["xcp-ng".into()])
            .await
            .items()[0],
    );
    pool.sim.crash_host(&coordinator).unwrap();
    let down = pool.try_call("VM.get_all", vec![]).await;
    let refused = Failure::new("CANNOT_CONTACT_HOST", [coordinator.as_str()]);
    assert_eq!(down, Err(refused));
    assert!(matches!(
        client.vm().get_all().await,
        Err(Error::Transport { .. })
    ));
    // The socket closes a moment after the crash, and until then nobody answers at it.
    let refused = loop {
        match TcpStream::connect(server.address()).await {
            Ok(stream) => assert!(common::wire::Wire::over(stream).is_closed().await),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    pool.sim.boot_host(&coordinator).unwrap();
    while TcpStream::connect(server.address()).await.is_err() {
        tokio::task::yield_now().await;
    }
    // The client has the password, so it opens another session by itself.
    assert!(!client.vm().get_all().await.unwrap().is_empty());
}

#[tokio::test]
async fn another_host_becomes_the_coordinator() {
    let pool = pool_of_three().await;
    let first = pool.sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = first.address().port();
    let second = ([127, 0, 0, 2], port).into();
    let second = pool.sim.serve_host(1, second).await.unwrap();
    let log_in = |address: String| {
        let password = pool.sim.credentials().password().clone();
        let client = Client::builder(address).credentials("root", password);
        client.trust(Trust::Insecure).login()
    };
    let client = log_in(second.address().to_string()).await.unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.1");
    client.close().await.unwrap();

    pool.sim.fail_over("xcp-ng-2").unwrap();
    let client = log_in(first.address().to_string()).await.unwrap();
    assert_eq!(client.host_name().unwrap(), "127.0.0.2");
    let pool = again(pool).await;
    let pools = pool.call("pool.get_all_records", vec![]).await;
    let master = pools.members()[0].1.get("master").cloned();
    assert_eq!(master, Some(pool.named("host", "xcp-ng-2").await.into()));
}

#[tokio::test(start_paused = true)]
async fn a_host_crashes_in_the_middle_of_a_task() {
    let options = SimOptions::default().with_latency(Duration::from_secs(10));
    let pool = pool_of(Model::pool_of_three(), options).await;
    let vm = running_on(&pool, "xcp-ng-2").await;
    let rule = FaultRule::method("VM.clean_reboot").object("worker");
    let crash = rule.delay(Duration::from_secs(5));
    pool.sim.inject(crash.crash_host(Duration::from_secs(60)));
    let host = pool.named("host", "xcp-ng-2").await;
    assert_eq!(
        pool.fails("VM.clean_reboot", vec![vm.as_str().into()])
            .await,
        format!("CANNOT_CONTACT_HOST|{host}")
    );
    assert_eq!(pool.state(&vm).await, "Running");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(pool.state(&vm).await, "Halted");
}

/// What a task of a VM has come to after its host, or the one that it goes to, has crashed halfway.
async fn after_a_crash(method: &str, crashing: &str) -> (String, String) {
    let options = SimOptions::default().with_latency(Duration::from_secs(10));
    let pool = pool_of(Model::pool_of_three(), options).await;
    let starts = method == "VM.start_on";
    let vm = match starts {
        true => pool.vm("worker").await,
        false => running_on(&pool, "xcp-ng-2").await,
    };
    let third = pool.named("host", "xcp-ng-3").await;
    let mut args: Vec<Value> = vec![vm.as_str().into()];
    match method {
        "VM.start_on" => args.extend([third.into(), false.into(), false.into()]),
        "VM.pool_migrate" => args.extend([third.into(), Value::Struct(vec![])]),
        "VM.snapshot" => args.push("kept".into()),
        _ => {}
    }
    let before = pool.call("VM.get_record", vec![vm.as_str().into()]).await;
    let task = pool.call(&format!("Async.{method}"), args).await;
    while pool
        .get("VM", "current_operations", &vm)
        .await
        .members()
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    let host = pool.named("host", crashing).await;
    let crashed = tokio::time::Instant::now();
    pool.sim.crash_host(crashing).unwrap();
    let task = common::ended(&pool, &text(&task)).await;
    assert_eq!(
        crashed.elapsed(),
        Duration::ZERO,
        "{method} does not wait for it"
    );
    assert_eq!(text(task.get("status").unwrap()), "failure", "{method}");
    let after = pool.call("VM.get_record", vec![vm.as_str().into()]).await;
    for field in ["power_state", "domid", "resident_on", "snapshots"] {
        assert_eq!(
            after.get(field),
            before.get(field),
            "{field} after {method}"
        );
    }
    let error = task.get("error_info").unwrap().items();
    let error: Vec<String> = error.iter().map(text).collect();
    (error.join("|"), format!("CANNOT_CONTACT_HOST|{host}"))
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_on_a_host_fails_with_it() {
    for (method, crashing) in [
        ("VM.start_on", "xcp-ng-3"),
        ("VM.pool_migrate", "xcp-ng-3"),
        ("VM.pool_migrate", "xcp-ng-2"),
        ("VM.suspend", "xcp-ng-2"),
        ("VM.clean_reboot", "xcp-ng-2"),
        ("VM.clean_shutdown", "xcp-ng-2"),
        ("VM.snapshot", "xcp-ng-2"),
    ] {
        let (error, expected) = after_a_crash(method, crashing).await;
        assert_eq!(error, expected, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_crashes_takes_connection_and_session_with_it() {
    let pool = pool().await;
    let template = pool.template().await;
    let rule = FaultRule::method("VM.clone").times(1);
    pool.sim.inject(rule.crash_host(Duration::from_secs(60)));
    let args = vec![template.into(), "lost".into()];
    let lost = pool.try_call("VM.clone", args).await.unwrap_err();
    assert_eq!(lost.code, "CANNOT_CONTACT_HOST");
    tokio::time::sleep(Duration::from_secs(61)).await;
    let pool = again(pool).await;
    // The clone was made before anybody could be told.
    pool.named("VM", "lost").await;
}

#[tokio::test]
async fn sessions_can_expire_at_any_call() {
    let pool = pool().await;
    pool.sim
        .inject(FaultRule::method("VM.get_all").times(1).expire_session());
    let client = client(&pool.sim).await;
    // The client logs in again and repeats the call.
    assert!(!client.vm().get_all().await.unwrap().is_empty());
    let logins = pool.sim.calls();
    let logins = logins
        .iter()
        .filter(|call| call.method == "session.login_with_password");
    assert_eq!(logins.count(), 3);
    assert_eq!(pool.sim.faults()[0].hits(), 1);
}

#[tokio::test]
async fn a_full_sr_takes_no_more_disks() {
    let pool = pool().await;
    let template = pool.template().await;
    let args = || vec![template.as_str().into(), "copy".into()];
    let sr = pool.named("SR", "Local storage").await;
    let size = pool.get("SR", "physical_size", &sr).await;
    let used = pool.get("SR", "physical_utilisation", &sr).await;
    assert_ne!(used, size);
    pool.sim.fill_sr("Local storage", true).unwrap();
    assert_eq!(
        pool.fails("VM.clone", args()).await,
        "SR_BACKEND_FAILURE_44||There is insufficient space|"
    );
    assert_eq!(pool.get("SR", "physical_utilisation", &sr).await, size);
    pool.sim.fill_sr("Local storage", false).unwrap();
    assert_eq!(pool.get("SR", "physical_utilisation", &sr).await, used);
    pool.call("VM.clone", args()).await;
    let unknown = pool.sim.fill_sr("attic", true).unwrap_err();
    assert_eq!(unknown.to_string(), "HANDLE_INVALID [SR, attic]");
}

#[tokio::test]
async fn time_ends_sessions_and_tasks() {
    let pool = pool().await;
    let create = vec!["left behind".into(), "".into()];
    let pending = pool.call("task.create", create.clone()).await;
    let ended = pool.call("task.create", create).await;
    let status = vec![ended, "success".into()];
    pool.call("task.set_status", status).await;
    pool.sim.shift_clock(66 * 60);
    let left = pool.call("task.get_all", vec![]).await;
    assert_eq!(left.items(), [pending]);
    pool.sim.shift_clock(24 * 3600 + 1);
    assert!(
        pool.fails("task.get_all", vec![])
            .await
            .starts_with("SESSION_INVALID|"),
        "a session ends after a day without a call"
    );
    let pool = again(pool).await;
    assert!(pool.call("task.get_all", vec![]).await.items().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_emptied_host_reboots() {
    let pool = pool_of_three().await;
    let vm = running_on(&pool, "xcp-ng-2").await;
    let host = pool.named("host", "xcp-ng-2").await;
    let this = || vec![Value::from(host.as_str())];
    assert_eq!(pool.fails("host.reboot", this()).await, "HOST_NOT_DISABLED");
    pool.call("host.disable", this()).await;
    assert_eq!(
        pool.fails("host.reboot", this()).await,
        format!("HOST_IN_USE|{host}|vm|{vm}")
    );
    pool.reported(&vm).await;
    pool.call("host.evacuate", this()).await;
    let elsewhere = pool.get("VM", "resident_on", &vm).await;
    assert_ne!(text(&elsewhere), host);
    assert_eq!(pool.state(&vm).await, "Running");
    let metrics = text(&pool.get("host", "metrics", &host).await);
    pool.call("host.reboot", this()).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        pool.get("host_metrics", "live", &metrics).await,
        false.into()
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        pool.get("host_metrics", "live", &metrics).await,
        true.into()
    );
}

#[tokio::test]
async fn a_vm_that_is_bound_to_its_host_cannot_leave() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let host = pool.named("host", "xcp-ng").await;
    let why = pool
        .call(
            "host.get_vms_which_prevent_evacuation",
            vec![host.as_str().into()],
        )
        .await;
    let none = Value::strings(["NO_HOSTS_AVAILABLE"]);
    assert_eq!(why.members(), [(vm.clone(), none)]);
    assert_eq!(
        pool.fails("host.evacuate", vec![host.into()]).await,
        format!("CANNOT_EVACUATE_HOST|{vm}:NO_HOSTS_AVAILABLE")
    );
}

#[tokio::test(start_paused = true)]
async fn a_toolstack_that_is_told_to_stop_is_started_by_hand() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.call("host.shutdown_agent", vec![]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = pool.fails("VM.get_all", vec![]).await;
    assert!(lost.starts_with("CANNOT_CONTACT_HOST|"), "{lost}");
    pool.sim.boot_host("xcp-ng").unwrap();
    let pool = again(pool).await;
    assert_eq!(pool.state(&vm).await, "Running");
}

#[tokio::test(start_paused = true)]
async fn who_leads_is_said_in_an_emergency_only_without_high_availability() {
    let pool = pool_of_three().await;
    let named = |address: &str| vec![address.into()];
    pool.call("pool.emergency_reset_master", named("192.0.2.200"))
        .await;
    let srs = pool.named("SR", "Shared storage").await;
    let args = vec![Value::strings([srs]), Value::Struct(vec![])];
    pool.call("pool.enable_ha", args).await;
    for (method, params) in [
        ("pool.emergency_reset_master", named("192.0.2.200")),
        ("pool.emergency_transition_to_master", vec![]),
    ] {
        assert_eq!(pool.fails(method, params).await, "HA_IS_ENABLED");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_takes_over_when_told_so() {
    let pool = pool_of_three().await;
    let host = pool.named("host", "xcp-ng-3").await;
    pool.call("pool.designate_new_master", vec![host.as_str().into()])
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pool = again(pool).await;
    let coordinator = vec![Value::from(host.as_str())];
    assert_eq!(pool.call("pool.is_slave", coordinator).await, false.into());
}
