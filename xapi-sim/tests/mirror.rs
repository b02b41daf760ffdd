//! A client's mirror of a simulated pool: equal to what the pool has, whatever happens there.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Pool, pool};
use xapi_client::api::{Task, Vbd, Vdi, Vm, VmMetrics};
use xapi_client::{Client, Mirror, Recorded, Ref};
use xapi_sim::Value;

const ORIGINATOR: &str = "tests of mirrors";

async fn log_in(pool: &Pool) -> Client {
    let credentials = pool.sim.credentials();
    Client::over(pool.sim.transport())
        .credentials(credentials.user(), credentials.password().clone())
        .originator(ORIGINATOR)
        .login()
        .await
        .unwrap()
}

/// Waits until the mirror has what the pool has, to the last field.
async fn agrees<T: Recorded>(client: &Client, mirror: &Mirror) {
    let method = format!("{}.get_all_records", T::NAME);
    let agrees = async {
        loop {
            // Anew each time: guests that have started go on to change their records.
            let records = client.call(&method, vec![]).select();
            let records: BTreeMap<Ref<T>, T::Record> = records.await.unwrap();
            let held = mirror.all::<T>();
            if format!("{records:?}") == format!("{held:?}") {
                return;
            }
            let mut mirror = mirror.clone();
            drop(tokio::time::timeout(Duration::from_millis(50), mirror.changed()).await);
        }
    };
    // Not after so many looks: while guests start, records change at each.
    let agreed = tokio::time::timeout(Duration::from_secs(60), agrees).await;
    assert!(agreed.is_ok(), "{} differ: {:?}", T::NAME, mirror.trouble());
}

async fn all_agree(client: &Client, mirror: &Mirror) {
    agrees::<Vm>(client, mirror).await;
    agrees::<Vbd>(client, mirror).await;
    agrees::<Vdi>(client, mirror).await;
    agrees::<VmMetrics>(client, mirror).await;
}

async fn mirror(client: &Client) -> Mirror {
    let mirror = client.mirror().class::<Vm>().class::<Vbd>().class::<Vdi>();
    let mirror = mirror.class::<VmMetrics>().start();
    mirror.await.unwrap()
}

#[tokio::test]
async fn a_mirror_equals_the_pool_after_any_operations() {
    let pool = pool().await;
    let client = log_in(&pool).await;
    let mirror = mirror(&client).await;
    let template = pool.named("VM", xapi_sim::LUA_TEMPLATE).await;
    let mut vms: Vec<String> = Vec::new();
    // A fixed sequence of numbers without a pattern.
    let mut seed = 7_u64;
    for step in 0..60 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let choice = seed >> 33;
        let vm = vms.get(usize::try_from(choice).unwrap() % vms.len().max(1));
        let (method, params): (_, Vec<Value>) = match (choice % 7, vm) {
            (0 | 1, _) | (_, None) => {
                let name = format!("vm {step}");
                let params = vec![template.as_str().into(), name.as_str().into()];
                let vm = pool.call("VM.clone", params).await;
                vms.push(common::text(&vm));
                let params = vec![vm, Value::Bool(false)];
                ("VM.set_is_a_template", params)
            }
            (2, Some(vm)) => {
                let params = vec![vm.as_str().into(), Value::Bool(false), Value::Bool(false)];
                ("VM.start", params)
            }
            (3, Some(vm)) => ("VM.hard_shutdown", vec![vm.as_str().into()]),
            (4, Some(vm)) => {
                let params = vec![vm.as_str().into(), format!("named {step}").as_str().into()];
                ("VM.set_name_label", params)
            }
            (5, Some(vm)) => {
                let params = vec![vm.as_str().into(), format!("snap {step}").as_str().into()];
                ("VM.snapshot", params)
            }
            (_, Some(vm)) => ("VM.destroy", vec![vm.as_str().into()]),
        };
        // What is refused, a second start for example, changes nothing.
        drop(pool.try_call(method, params).await);
        if step % 20 == 0 {
            all_agree(&client, &mirror).await;
        }
    }
    all_agree(&client, &mirror).await;
    assert!(mirror.trouble().is_none());
    client.close().await.unwrap();
    pool.sim.shutdown().await;
}

/// Servers remember 512 deletions of a class at most, so of 600 at once some are never told.
#[tokio::test]
async fn deletions_that_the_pool_forgot_are_found() {
    let pool = pool().await;
    let client = log_in(&pool).await;
    for number in 0..600 {
        let params = vec![format!("task {number}").as_str().into(), "".into()];
        pool.call("task.create", params).await;
    }
    let mirror = client.mirror().class::<Task>().start().await.unwrap();
    let tasks: Vec<_> = mirror.all::<Task>().into_keys().collect();
    assert!(tasks.len() >= 600);
    // Within one poll of the simulator, which the mirror cannot get between.
    for task in &tasks {
        let params = vec![task.as_str().into(), "success".into()];
        pool.call("task.set_status", params).await;
        pool.call("task.destroy", vec![task.as_str().into()]).await;
    }
    let gone = mirror.wait_until(|objects| objects.iter::<Task>().next().is_none());
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap()
        .unwrap();
    client.close().await.unwrap();
    pool.sim.shutdown().await;
}

#[tokio::test]
async fn a_client_that_is_dropped_leaves_no_session() {
    let pool = pool().await;
    let client = log_in(&pool).await;
    let mirror = mirror(&client).await;
    let before = format!("{:?}", pool.sim.leaks());
    assert!(before.contains(ORIGINATOR), "{before}");
    drop((client, mirror));
    // The logout runs beside the test.
    let gone = async {
        while format!("{:?}", pool.sim.leaks()).contains(ORIGINATOR) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
    pool.sim.shutdown().await;
}
