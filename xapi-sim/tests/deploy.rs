//! The first example of xapi-client's documentation, against a simulated pool.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

#[allow(dead_code, reason = "the program around it is not run")]
#[path = "../../xapi-client/examples/deploy.rs"]
mod example;

use xapi_client::Client;
use xapi_client::api::VmPowerState;

#[tokio::test]
async fn the_documented_deployment_gives_a_running_vm() {
    let pool = common::pool().await;
    let credentials = pool.sim.credentials();
    let client = Client::over(pool.sim.transport())
        .credentials(credentials.user(), credentials.password().clone())
        .login()
        .await
        .unwrap();
    let address = example::deploy(&client, xapi_sim::LUA_TEMPLATE, "web")
        .await
        .unwrap();
    assert!(address.parse::<std::net::IpAddr>().is_ok(), "{address}");
    let vm = &client.vm().get_by_name_label("web").await.unwrap()[0];
    let record = client.vm().get_record(vm).await.unwrap();
    assert_eq!(record.power_state, VmPowerState::Running);
    assert!(!record.is_a_template);
    client.close().await.unwrap();
    pool.sim.shutdown().await;
}

#[tokio::test]
async fn a_documented_deployment_that_fails_leaves_nothing() {
    let pool = common::pool().await;
    let credentials = pool.sim.credentials();
    let client = Client::over(pool.sim.transport())
        .credentials(credentials.user(), credentials.password().clone())
        .login()
        .await
        .unwrap();
    for method in ["VM.provision", "VM.start"] {
        let rule = xapi_sim::FaultRule::method(method);
        pool.sim.inject(rule.fail("INTERNAL_ERROR", ["no"]));
        let deployed = example::deploy(&client, xapi_sim::LUA_TEMPLATE, "web").await;
        assert!(deployed.is_err(), "{method}");
        pool.sim.clear_faults();
        let left = client.vm().get_by_name_label("web").await.unwrap();
        assert!(left.is_empty(), "{method}");
        let leaks = pool.sim.leaks();
        let ours = leaks.iter().filter(|leak| leak.class != "session");
        assert_eq!(ours.count(), 0, "{method}: {leaks:?}");
    }
    client.close().await.unwrap();
    pool.sim.shutdown().await;
}

#[test]
fn the_readme_shows_what_is_run() {
    let function = |text: &str| {
        let (_, rest) = text.split_once("async fn deploy").unwrap();
        rest.split_once("\n}\n").unwrap().0.to_owned()
    };
    let readme = include_str!("../../xapi-client/README.md");
    let example = include_str!("../../xapi-client/examples/deploy.rs");
    assert_eq!(function(readme), function(example));
}
