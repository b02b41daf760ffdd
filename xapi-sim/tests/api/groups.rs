//! What holds VMs together: appliances, schedules of snapshots, groups.

use super::{map, record, this};
use crate::common::{Pool, pool, text};
use xapi_sim::Value;

async fn appliance(pool: &Pool) -> String {
    let fields = map(&[("name_label", "both"), ("name_description", "")]);
    text(&pool.call("VM_appliance.create", vec![fields]).await)
}

async fn member(pool: &Pool, appliance: &str, name: &str, order: i64) -> String {
    let vm = pool.vm(name).await;
    let pair = vec![vm.as_str().into(), appliance.into()];
    pool.call("VM.set_appliance", pair).await;
    pool.call("VM.set_order", vec![vm.as_str().into(), order.into()])
        .await;
    vm
}

async fn allowed(pool: &Pool, appliance: &str) -> Vec<String> {
    let allowed = pool
        .get("VM_appliance", "allowed_operations", appliance)
        .await;
    allowed.items().iter().map(text).collect()
}

#[tokio::test]
async fn an_appliance_allows_what_one_of_its_vms_needs() {
    let pool = pool().await;
    let appliance = appliance(&pool).await;
    let start = || vec![appliance.as_str().into(), false.into()];
    assert_eq!(allowed(&pool, &appliance).await, [""; 0]);
    assert_eq!(
        pool.fails("VM_appliance.start", start()).await,
        "OPERATION_NOT_ALLOWED|Appliance has no VMs."
    );
    let one = member(&pool, &appliance, "one", 0).await;
    let two = member(&pool, &appliance, "two", 1).await;
    assert_eq!(allowed(&pool, &appliance).await, ["start"]);
    for (method, reason) in [
        (
            "clean_shutdown",
            "There are no running VMs in this appliance.",
        ),
        ("hard_shutdown", "All VMs in this appliance are halted."),
        ("shutdown", "All VMs in this appliance are halted."),
    ] {
        assert_eq!(
            pool.fails(&format!("VM_appliance.{method}"), this(&appliance))
                .await,
            format!("OPERATION_NOT_ALLOWED|{reason}")
        );
    }
    pool.call("VM_appliance.start", start()).await;
    for vm in [&one, &two] {
        assert_eq!(pool.state(vm).await, "Running");
    }
    let stops = ["clean_shutdown", "hard_shutdown", "shutdown"];
    assert_eq!(allowed(&pool, &appliance).await, stops);
    assert_eq!(
        pool.fails("VM_appliance.start", start()).await,
        "OPERATION_NOT_ALLOWED|There are no halted VMs in this appliance."
    );
    pool.call("VM.hard_shutdown", this(&one)).await;
    assert_eq!(
        allowed(&pool, &appliance).await,
        ["start", "clean_shutdown", "hard_shutdown", "shutdown"]
    );
    pool.call("VM_appliance.hard_shutdown", this(&appliance))
        .await;
    assert_eq!(pool.state(&two).await, "Halted");
    pool.call("VM.destroy", this(&one)).await;
    pool.call("VM.destroy", this(&two)).await;
    assert_eq!(allowed(&pool, &appliance).await, [""; 0]);
}

#[tokio::test]
async fn an_appliance_tells_which_vms_failed_when_the_others_are_done() {
    let pool = pool().await;
    let appliance = appliance(&pool).await;
    let broken = member(&pool, &appliance, "broken", 0).await;
    let whole = member(&pool, &appliance, "whole", 1).await;
    let firmware = vec![broken.as_str().into(), map(&[("firmware", "coreboot")])];
    pool.call("VM.set_HVM_boot_params", firmware).await;
    let start = vec![appliance.as_str().into(), false.into()];
    assert_eq!(
        pool.fails("VM_appliance.start", start).await,
        format!("OPERATION_PARTIALLY_FAILED|VM_appliance.start|{broken}")
    );
    assert_eq!(pool.state(&whole).await, "Running");
    let current = pool
        .get("VM_appliance", "current_operations", &appliance)
        .await;
    assert!(current.members().is_empty());
}

fn schedule_of(frequency: &str, schedule: &[(&str, &str)], retained: i64) -> Vec<Value> {
    record(&[
        ("name_label", "nightly".into()),
        ("name_description", "".into()),
        ("enabled", true.into()),
        ("type", "snapshot".into()),
        ("retained_snapshots", retained.into()),
        ("frequency", frequency.into()),
        ("schedule", map(schedule)),
    ])
}

#[tokio::test]
async fn a_schedule_has_the_keys_of_its_frequency() {
    let pool = pool().await;
    for (frequency, schedule, refused) in [
        ("hourly", ("hour", "1"), "hour|1"),
        ("daily", ("min", "20"), "min|20"),
        ("daily", ("hour", "24"), "hour|24"),
        ("weekly", ("days", "Someday"), "days|Someday"),
        ("weekly", ("days", "Monday,monday"), "days|Monday,monday"),
        ("weekly", ("when", "now"), "when|now"),
    ] {
        let args = schedule_of(frequency, &[schedule], 7);
        assert_eq!(
            pool.fails("VMSS.create", args).await,
            format!("INVALID_VALUE|schedule:{refused}")
        );
    }
    for retained in [0, 11] {
        assert_eq!(
            pool.fails("VMSS.create", schedule_of("daily", &[], retained))
                .await,
            format!("INVALID_VALUE|retained_snapshots|{retained}")
        );
    }
    let args = schedule_of("daily", &[("hour", "3")], 7);
    let vmss = text(&pool.call("VMSS.create", args).await);
    let schedule = || pool.get("VMSS", "schedule", &vmss);
    assert_eq!(schedule().await, map(&[("hour", "3"), ("min", "0")]));
    let with = |value: Value| vec![vmss.as_str().into(), value];
    assert_eq!(
        pool.fails("VMSS.set_retained_snapshots", with(12.into()))
            .await,
        "INVALID_VALUE|retained_snapshots|12"
    );
    assert_eq!(
        pool.fails("VMSS.set_schedule", with(map(&[("min", "7")])))
            .await,
        "INVALID_VALUE|schedule:min|7"
    );
    pool.call("VMSS.set_frequency", with("weekly".into())).await;
    let weekly = [("hour", "3"), ("min", "0"), ("days", "Monday")];
    assert_eq!(schedule().await, map(&weekly));
    let pair = |key: &str, value: &str| vec![vmss.as_str().into(), key.into(), value.into()];
    pool.call("VMSS.remove_from_schedule", with("days".into()))
        .await;
    assert_eq!(
        pool.fails("VMSS.add_to_schedule", pair("days", "x")).await,
        "INVALID_VALUE|schedule:days|x"
    );
    pool.call("VMSS.add_to_schedule", pair("days", "friday,Sunday"))
        .await;
    let days = schedule().await;
    assert_eq!(days.get("days"), Some(&"Friday,Sunday".into()));
    pool.call("VMSS.set_frequency", with("hourly".into())).await;
    assert_eq!(schedule().await, map(&[("min", "0")]));
}

#[tokio::test]
async fn a_schedule_with_vms_stays() {
    let pool = pool().await;
    let args = schedule_of("daily", &[], 7);
    let vmss = text(&pool.call("VMSS.create", args).await);
    let vm = pool.vm("worker").await;
    let assign = |to: &str| vec![vm.as_str().into(), to.into()];
    pool.call("VM.set_snapshot_schedule", assign(&vmss)).await;
    assert_eq!(pool.fails("VMSS.destroy", this(&vmss)).await, "VMSS_HAS_VM");
    pool.call("VM.set_snapshot_schedule", assign(xapi_sim::NULL_REF))
        .await;
    pool.call("VMSS.destroy", this(&vmss)).await;
}
