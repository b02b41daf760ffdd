//! High Availability.

use super::{map, this};
use crate::common::{Pool, pool_of, text};
use xapi_sim::{Model, SimOptions, SrSpec, Value};

async fn whole(pool: &Pool) -> String {
    text(&pool.call("pool.get_all", vec![]).await.items()[0])
}

fn enable(sr: &str) -> Vec<Value> {
    vec![Value::strings([sr]), map(&[])]
}

#[tokio::test]
async fn hosts_beat_their_hearts_into_a_file_on_shared_storage() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let shared = pool.named("SR", "Shared storage").await;
    let local = pool.named("SR", "Local storage").await;
    assert_eq!(
        pool.fails("pool.enable_ha", enable(&local)).await,
        format!("SR_HAS_NO_PBDS|{local}")
    );
    assert_eq!(
        pool.fails("pool.disable_ha", vec![]).await,
        "HA_NOT_ENABLED"
    );
    let all = whole(&pool).await;
    pool.call("pool.enable_ha", enable(&shared)).await;
    assert_eq!(
        pool.fails("pool.enable_ha", enable(&shared)).await,
        "HA_IS_ENABLED"
    );
    assert_eq!(
        pool.get("pool", "ha_enabled", &all).await,
        Value::Bool(true)
    );
    let files = pool.get("pool", "ha_statefiles", &all).await;
    let file = text(&files.items()[0]);
    assert_eq!(pool.get("VDI", "type", &file).await, "ha_statefile".into());
    assert_eq!(pool.get("VDI", "SR", &file).await, shared.as_str().into());
    assert_eq!(
        pool.fails("VDI.destroy", this(&file)).await,
        "HA_IS_ENABLED"
    );
    pool.call("pool.disable_ha", vec![]).await;
    assert_eq!(
        pool.get("pool", "ha_enabled", &all).await,
        Value::Bool(false)
    );
    assert_eq!(
        pool.fails("VDI.get_record", this(&file)).await,
        format!("HANDLE_INVALID|VDI|{file}")
    );
}

#[tokio::test]
async fn the_plan_counts_the_hosts_that_can_be_lost() {
    // Two VMs of 1 GiB fit on a host, three do not.
    let model = Model::pool_of_three().host_memory(5 << 30);
    let pool = pool_of(model, SimOptions::default()).await;
    let shared = pool.named("SR", "Shared storage").await;
    let all = whole(&pool).await;
    pool.call("pool.enable_ha", enable(&shared)).await;
    let most = || pool.call("pool.ha_compute_max_host_failures_to_tolerate", vec![]);
    assert_eq!(most().await, Value::Int(2));
    for number in 0..4 {
        let vm = pool.vm(&format!("protected-{number}")).await;
        let args = vec![vm.as_str().into(), "restart".into()];
        pool.call("VM.set_ha_restart_priority", args).await;
        pool.start(&vm).await;
        assert_eq!(
            pool.get("VM", "ha_always_run", &vm).await,
            Value::Bool(true)
        );
    }
    assert_eq!(most().await, Value::Int(1));
    let exists = |failures: i64| pool.call("pool.ha_failover_plan_exists", vec![failures.into()]);
    assert_eq!(exists(1).await, Value::Bool(true));
    assert_eq!(exists(2).await, Value::Bool(false));
    let tolerate = |count: i64| vec![all.as_str().into(), count.into()];
    assert_eq!(
        pool.fails("pool.set_ha_host_failures_to_tolerate", tolerate(2))
            .await,
        "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"
    );
    assert_eq!(
        pool.fails("pool.set_ha_host_failures_to_tolerate", tolerate(-1))
            .await,
        "INVALID_VALUE|ha_host_failures_to_tolerate|-1"
    );
    pool.call("pool.set_ha_host_failures_to_tolerate", tolerate(1))
        .await;
    assert_eq!(
        pool.get("pool", "ha_plan_exists_for", &all).await,
        Value::Int(1)
    );
}

#[tokio::test]
async fn a_local_sr_of_a_kind_without_raw_devices_is_no_place_for_the_file() {
    let model = Model::new().sr(SrSpec::local("Volumes").kind("lvm"));
    let pool = pool_of(model, SimOptions::default()).await;
    let args = vec![Value::Array(vec![]), map(&[])];
    assert_eq!(
        pool.fails("pool.enable_ha", args).await,
        "CANNOT_CREATE_STATE_FILE"
    );
    let sr = pool.named("SR", "Volumes").await;
    assert_eq!(
        pool.fails("SR.assert_can_host_ha_statefile", this(&sr))
            .await,
        format!("SR_OPERATION_NOT_SUPPORTED|{sr}")
    );
}

#[tokio::test]
async fn protected_vms_start_again_when_their_host_is_lost() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let shared = pool.named("SR", "Shared storage").await;
    pool.call("pool.enable_ha", enable(&shared)).await;
    let member = pool.named("host", "xcp-ng-2").await;
    let mut vms = Vec::new();
    for priority in ["restart", ""] {
        let vm = pool.vm("worker").await;
        let args = vec![vm.as_str().into(), priority.into()];
        pool.call("VM.set_ha_restart_priority", args).await;
        let args = vec![
            vm.as_str().into(),
            member.as_str().into(),
            false.into(),
            false.into(),
        ];
        pool.call("VM.start_on", args).await;
        vms.push(vm);
    }
    pool.sim.crash_host("xcp-ng-2").unwrap();
    assert_eq!(pool.state(&vms[1]).await, "Halted");
    let mut token = String::new();
    while pool.state(&vms[0]).await != "Running" {
        let classes = Value::strings([format!("VM/{}", vms[0])]);
        let batch = pool
            .call("event.from", vec![classes, token.into(), 30.0.into()])
            .await;
        token = text(batch.get("token").unwrap());
    }
    assert_ne!(pool.get("VM", "resident_on", &vms[0]).await, member.into());
}

#[tokio::test]
async fn another_host_takes_over_when_the_coordinator_is_lost() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let shared = pool.named("SR", "Shared storage").await;
    pool.call("pool.enable_ha", enable(&shared)).await;
    pool.sim.crash_host("xcp-ng").unwrap();
    // Sessions go with the coordinator that knew them.
    let session = crate::common::login(&pool.sim).await;
    let pool = Pool { session, ..pool };
    let all = whole(&pool).await;
    let master = text(&pool.get("pool", "master", &all).await);
    assert_ne!(
        pool.get("host", "name_label", &master).await,
        "xcp-ng".into()
    );
}
