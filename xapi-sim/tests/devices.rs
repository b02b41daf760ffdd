//! Disks, drives, interfaces and networks.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use common::{device, pool, text};
use xapi_sim::{NULL_REF, Value};

fn map(pairs: &[(&str, &str)]) -> Value {
    Value::map(pairs.iter().copied())
}

fn this(reference: &str) -> Vec<Value> {
    vec![reference.into()]
}

fn record(fields: &[(&str, Value)]) -> Vec<Value> {
    let fields = fields.iter();
    let fields = fields.map(|(name, value)| ((*name).to_owned(), value.clone()));
    vec![Value::Struct(fields.collect())]
}

#[tokio::test]
async fn block_devices() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let sr = pool.named("SR", "Local storage").await;
    let disk = |size: i64| {
        vec![Value::Struct(vec![
            ("name_label".to_owned(), "data".into()),
            ("SR".to_owned(), sr.as_str().into()),
            ("virtual_size".to_owned(), size.into()),
            ("type".to_owned(), "user".into()),
            ("sharable".to_owned(), false.into()),
            ("read_only".to_owned(), false.into()),
            ("other_config".to_owned(), map(&[])),
        ])]
    };
    let vdi = text(&pool.call("VDI.create", disk((1 << 30) + 1)).await);
    assert_eq!(
        pool.get("VDI", "virtual_size", &vdi).await,
        Value::Int((1 << 30) + (2 << 20)),
        "sizes are rounded up"
    );
    let device = |vdi: &str, device: &str, kind: &str, mode: &str, empty: bool| {
        vec![Value::Struct(vec![
            ("VM".to_owned(), vm.as_str().into()),
            ("VDI".to_owned(), vdi.into()),
            ("userdevice".to_owned(), device.into()),
            ("bootable".to_owned(), false.into()),
            ("mode".to_owned(), mode.into()),
            ("type".to_owned(), kind.into()),
            ("empty".to_owned(), empty.into()),
            ("other_config".to_owned(), map(&[])),
            ("qos_algorithm_type".to_owned(), "".into()),
            ("qos_algorithm_params".to_owned(), map(&[])),
        ])]
    };
    for (args, failure) in [
        (
            device(&vdi, "0", "Disk", "RW", false),
            "DEVICE_ALREADY_EXISTS|0",
        ),
        (
            device(&vdi, "xvda", "Disk", "RW", false),
            "DEVICE_ALREADY_EXISTS|xvda",
        ),
        (device(&vdi, "x", "Disk", "RW", false), "INVALID_DEVICE|x"),
        (
            device(NULL_REF, "5", "Disk", "RW", true),
            "VBD_NOT_REMOVABLE_MEDIA|in constructor",
        ),
        (
            device(NULL_REF, "5", "CD", "RW", true),
            "VBD_CDS_MUST_BE_READONLY",
        ),
        (
            device(NULL_REF, "5", "Disk", "RW", false),
            "HANDLE_INVALID|VDI|OpaqueRef:NULL",
        ),
    ] {
        assert_eq!(pool.fails("VBD.create", args).await, failure);
    }
    let vbd = text(
        &pool
            .call(
                "VBD.create",
                device(&vdi, "autodetect", "Disk", "RW", false),
            )
            .await,
    );
    assert_eq!(pool.get("VBD", "userdevice", &vbd).await, Value::from("1"));
    assert_eq!(
        pool.get("VBD", "allowed_operations", &vbd).await,
        Value::strings(["attach"])
    );
    pool.start(&vm).await;
    pool.reported(&vm).await;
    assert_eq!(
        pool.fails("VBD.plug", vec![vbd.as_str().into()]).await,
        format!("DEVICE_ALREADY_ATTACHED|{vbd}")
    );
    assert_eq!(
        pool.fails("VDI.destroy", vec![vdi.as_str().into()]).await,
        format!("VDI_IN_USE|{vdi}|destroy")
    );
    assert_eq!(
        pool.fails(
            "VDI.resize",
            vec![vdi.as_str().into(), (2_i64 << 30).into()]
        )
        .await,
        format!("VDI_IN_USE|{vdi}|resize")
    );
    pool.call("VBD.unplug", vec![vbd.as_str().into()]).await;
    pool.call(
        "VDI.resize",
        vec![vdi.as_str().into(), (2_i64 << 30).into()],
    )
    .await;
    pool.call("VDI.destroy", vec![vdi.as_str().into()]).await;
    assert_eq!(
        pool.fails("VBD.get_record", vec![vbd.as_str().into()])
            .await,
        format!("HANDLE_INVALID|VBD|{vbd}"),
        "the device went with its disk"
    );
}

#[tokio::test]
async fn a_disk_is_for_one_running_vm() {
    let pool = pool().await;
    let (one, two) = (pool.vm("one").await, pool.vm("two").await);
    let vbds = pool.get("VM", "VBDs", &one).await;
    let mut vdi = String::new();
    for vbd in vbds.items() {
        let candidate = text(&pool.get("VBD", "VDI", vbd.as_str().unwrap()).await);
        if candidate != NULL_REF {
            vdi = candidate;
        }
    }
    let device = Value::Struct(vec![
        ("VM".to_owned(), two.as_str().into()),
        ("VDI".to_owned(), vdi.as_str().into()),
        ("userdevice".to_owned(), "7".into()),
        ("bootable".to_owned(), false.into()),
        ("mode".to_owned(), "RW".into()),
        ("type".to_owned(), "Disk".into()),
        ("empty".to_owned(), false.into()),
        ("other_config".to_owned(), map(&[])),
        ("qos_algorithm_type".to_owned(), "".into()),
        ("qos_algorithm_params".to_owned(), map(&[])),
    ]);
    pool.call("VBD.create", vec![device]).await;
    pool.start(&one).await;
    assert_eq!(
        pool.fails(
            "VM.start",
            vec![two.as_str().into(), false.into(), false.into()]
        )
        .await,
        format!("VDI_IN_USE|{vdi}")
    );
}

#[tokio::test]
async fn network_interfaces() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let network = pool
        .named("network", "Pool-wide network associated with eth0")
        .await;
    let interface = |device: &str, mac: &str| {
        vec![Value::Struct(vec![
            ("device".to_owned(), device.into()),
            ("network".to_owned(), network.as_str().into()),
            ("VM".to_owned(), vm.as_str().into()),
            ("MAC".to_owned(), mac.into()),
            ("MTU".to_owned(), Value::Int(1500)),
            ("other_config".to_owned(), map(&[])),
            ("qos_algorithm_type".to_owned(), "".into()),
            ("qos_algorithm_params".to_owned(), map(&[])),
        ])]
    };
    for (device, mac, failure) in [
        ("0", "", "DEVICE_ALREADY_EXISTS|0"),
        ("autodetect", "", "INVALID_DEVICE|autodetect"),
        ("-1", "", "INVALID_DEVICE|-1"),
        ("1", "zz", "MAC_INVALID|zz"),
        ("1", "02:00", "MAC_INVALID|02:00"),
    ] {
        assert_eq!(
            pool.fails("VIF.create", interface(device, mac)).await,
            failure
        );
    }
    let devices = pool
        .call("VM.get_allowed_VIF_devices", vec![vm.as_str().into()])
        .await;
    assert_eq!(devices.items().len(), 15, "one of 16 is taken");
    let vif = text(
        &pool
            .call("VIF.create", interface("1", "02:00:00:00:00:01"))
            .await,
    );
    assert_eq!(
        pool.get("VIF", "MAC_autogenerated", &vif).await,
        Value::Bool(false)
    );
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("VIF.destroy", vec![vif.as_str().into()]).await,
        "OPERATION_NOT_ALLOWED|VIF currently attached to a running VM"
    );
    pool.reported(&vm).await;
    pool.call("VIF.unplug", vec![vif.as_str().into()]).await;
    assert_eq!(
        pool.fails("VIF.unplug", vec![vif.as_str().into()]).await,
        format!("DEVICE_ALREADY_DETACHED|{vif}")
    );
    pool.call("VIF.destroy", vec![vif.as_str().into()]).await;
    pool.call("VM.hard_shutdown", this(&vm)).await;
    let pif = text(&pool.get("network", "PIFs", &network).await.items()[0]);
    assert_eq!(
        pool.fails("network.destroy", vec![network.as_str().into()])
            .await,
        format!("NETWORK_CONTAINS_PIF|{pif}")
    );
}

#[tokio::test]
async fn what_devices_of_a_running_vm_allow() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let (disk, drive) = (
        device(&pool, "VBD", &vm, "0").await,
        device(&pool, "VBD", &vm, "3").await,
    );
    let vif = device(&pool, "VIF", &vm, "0").await;
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("VBD.unplug", this(&disk)).await,
        format!("VM_MISSING_PV_DRIVERS|{vm}"),
        "before the agent has reported"
    );
    pool.reported(&vm).await;
    for (class, device, allowed) in [
        (
            "VBD",
            &disk,
            &["attach", "unpause", "unplug", "unplug_force", "pause"][..],
        ),
        ("VBD", &drive, &["attach", "unpause", "insert", "pause"]),
        ("VIF", &vif, &["attach", "unplug"]),
    ] {
        assert_eq!(
            pool.get(class, "allowed_operations", device).await,
            Value::strings(allowed.iter().copied())
        );
    }
    let iso = pool.named("VDI", "guest-tools.iso").await;
    let insert = vec![drive.as_str().into(), iso.into()];
    pool.call("VBD.insert", insert.clone()).await;
    assert_eq!(
        pool.fails("VBD.insert", insert).await,
        format!("VBD_NOT_EMPTY|{drive}")
    );
    pool.call("VBD.eject", this(&drive)).await;
    assert_eq!(
        pool.fails("VBD.eject", this(&disk)).await,
        format!("VBD_NOT_REMOVABLE_MEDIA|{disk}")
    );
    let missing = vec![drive.as_str().into(), NULL_REF.into()];
    assert_eq!(
        pool.fails("VBD.insert", missing).await,
        "HANDLE_INVALID|VDI|OpaqueRef:NULL"
    );
    let mode = vec![disk.as_str().into(), "RO".into()];
    assert_eq!(
        pool.fails("VBD.set_mode", mode.clone()).await,
        format!("VM_BAD_POWER_STATE|{vm}|halted|running")
    );
    pool.call("VM.hard_shutdown", this(&vm)).await;
    pool.call("VBD.set_mode", mode).await;
}

#[tokio::test]
async fn the_vm_of_a_new_device_is_looked_at_first() {
    let pool = pool().await;
    let (nobody, nothing) = ("OpaqueRef:nobody", "OpaqueRef:nothing");
    let vbd = record(&[
        ("VM", nobody.into()),
        ("VDI", nothing.into()),
        ("userdevice", "x".into()),
        ("bootable", false.into()),
        ("mode", "RW".into()),
        ("type", "CD".into()),
        ("empty", false.into()),
        ("other_config", map(&[])),
        ("qos_algorithm_type", "".into()),
        ("qos_algorithm_params", map(&[])),
    ]);
    assert_eq!(
        pool.fails("VBD.create", vbd).await,
        format!("HANDLE_INVALID|VM|{nobody}")
    );
    let vm = pool.vm("worker").await;
    let vif = |vm: &str, device: &str| {
        record(&[
            ("device", device.into()),
            ("network", nothing.into()),
            ("VM", vm.into()),
            ("MAC", "zz".into()),
            ("MTU", 1500.into()),
            ("other_config", map(&[])),
            ("qos_algorithm_type", "".into()),
            ("qos_algorithm_params", map(&[])),
        ])
    };
    assert_eq!(
        pool.fails("VIF.create", vif(nobody, "x")).await,
        format!("HANDLE_INVALID|VM|{nobody}")
    );
    assert_eq!(
        pool.fails("VIF.create", vif(&vm, "x")).await,
        format!("HANDLE_INVALID|network|{nothing}")
    );
}

#[tokio::test]
async fn addresses_of_interfaces_are_checked() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let vif = device(&pool, "VIF", &vm, "0").await;
    let args = |value: Value| vec![vif.as_str().into(), value];
    let twice = Value::strings(["192.0.2.1", "192.0.2.1"]);
    pool.call("VIF.set_ipv4_allowed", args(twice)).await;
    assert_eq!(
        pool.get("VIF", "ipv4_allowed", &vif).await,
        Value::strings(["192.0.2.1"])
    );
    for (method, value, field) in [
        ("VIF.add_ipv4_allowed", "2001:db8::1", "ipv4_allowed"),
        ("VIF.add_ipv6_allowed", "192.0.2.1", "ipv6_allowed"),
    ] {
        assert_eq!(
            pool.fails(method, args(value.into())).await,
            format!("INVALID_IP_ADDRESS_SPECIFIED|{field}")
        );
    }
    let configure = |mode: &str, address: &str| {
        let vif = vif.as_str();
        vec![vif.into(), mode.into(), address.into(), "".into()]
    };
    assert_eq!(
        pool.fails("VIF.configure_ipv4", configure("Static", "192.0.2.1"))
            .await,
        "INVALID_CIDR_ADDRESS_SPECIFIED|address"
    );
    assert_eq!(
        pool.fails("VIF.configure_ipv4", configure("Static", "192.0.2.1/24"))
            .await,
        format!("VM_LACKS_FEATURE|{vm}")
    );
}
