//! Storage repositories as their drivers and the server guard them.

use super::{map, record, this};
use crate::common::{Pool, device, pool, pool_of, text};
use xapi_sim::{Model, NULL_REF, SimOptions, Value};

async fn first(pool: &Pool, class: &str) -> String {
    text(&pool.call(&format!("{class}.get_all"), vec![]).await.items()[0])
}

/// The arguments of `SR.create`.
fn new_sr(host: &str, kind: &str, config: &[(&str, &str)], shared: bool) -> Vec<Value> {
    vec![
        host.into(),
        map(config),
        0.into(),
        "new".into(),
        "".into(),
        kind.into(),
        "user".into(),
        shared.into(),
        map(&[]),
    ]
}

fn new_vdi(sr: &str, size: i64) -> Vec<Value> {
    record(&[
        ("SR", sr.into()),
        ("virtual_size", size.into()),
        ("type", "user".into()),
        ("sharable", false.into()),
        ("read_only", false.into()),
        ("other_config", map(&[])),
    ])
}

#[tokio::test]
async fn a_driver_refuses_a_device_config_that_lacks_what_it_needs() {
    let pool = pool().await;
    let host = first(&pool, "host").await;
    let count = || async { pool.call("SR.get_all", vec![]).await.items().len() };
    let before = count().await;
    let lacks = |what: &str| format!("The request is missing the {what} parameter");
    let iqn = "The request is missing or has an incorrect target IQN parameter".to_owned();
    let id = "The SCSIid parameter is missing or incorrect".to_owned();
    let target: &[_] = &[("target", "192.0.2.7")];
    let both: &[_] = &[
        ("target", "192.0.2.7"),
        ("targetIQN", "iqn.2001-05.com.x:y"),
    ];
    for (kind, config, code, reason) in [
        ("ext", &[][..], 90, lacks("device")),
        ("lvm", &[("device", "")], 90, lacks("device")),
        ("iso", &[], 94, lacks("location")),
        ("lvmoiscsi", &[], 95, lacks("target")),
        ("lvmoiscsi", target, 96, iqn),
        ("lvmoiscsi", both, 107, id.clone()),
        ("lvmohba", &[], 107, id),
        ("nfs", &[], 102, lacks("server")),
        ("nfs", &[("server", "192.0.2.7")], 101, lacks("serverpath")),
        ("smb", &[], 102, lacks("server")),
    ] {
        assert_eq!(
            pool.fails("SR.create", new_sr(&host, kind, config, false))
                .await,
            format!("SR_BACKEND_FAILURE_{code}||{reason}|")
        );
    }
    let internal = [("device", "/dev/sdb"), ("SRmaster", "true")];
    assert_eq!(
        pool.fails("SR.create", new_sr(&host, "ext", &internal, false))
            .await,
        "VALUE_NOT_SUPPORTED|SRmaster|true|This key is for internal use only"
    );
    assert_eq!(count().await, before);
}

#[tokio::test]
async fn a_pbd_that_cannot_be_plugged_stays_unplugged() {
    let pool = pool().await;
    let host = first(&pool, "host").await;
    let args = vec![
        "".into(),
        "there".into(),
        "".into(),
        "nfs".into(),
        "user".into(),
        true.into(),
        map(&[]),
    ];
    let sr = text(&pool.call("SR.introduce", args).await);
    for field in ["physical_size", "physical_utilisation"] {
        assert_eq!(pool.get("SR", field, &sr).await, Value::Int(-1), "{field}");
    }
    let pbd = |config: &[(&str, &str)]| {
        record(&[
            ("host", host.as_str().into()),
            ("SR", sr.as_str().into()),
            ("device_config", map(config)),
        ])
    };
    assert_eq!(
        pool.fails("PBD.create", pbd(&[("SRmaster", "true")])).await,
        "VALUE_NOT_SUPPORTED|SRmaster|true|This key is for internal use only"
    );
    let lame = text(&pool.call("PBD.create", pbd(&[("server", "x")])).await);
    assert_eq!(
        pool.fails("PBD.plug", this(&lame)).await,
        "SR_BACKEND_FAILURE_101||The request is missing the serverpath parameter|"
    );
    let attached = pool.get("PBD", "currently_attached", &lame).await;
    assert_eq!(attached, false.into());
    pool.call("PBD.destroy", this(&lame)).await;
    let whole = pbd(&[("server", "192.0.2.7"), ("serverpath", "/vms")]);
    let whole = text(&pool.call("PBD.create", whole).await);
    pool.call("PBD.plug", this(&whole)).await;
    // Now somebody has looked at it.
    let size = pool.get("SR", "physical_size", &sr).await;
    assert!(size.as_int() > Some(0), "{size:?}");
    pool.call("VDI.create", new_vdi(&sr, 1 << 30)).await;
}

#[tokio::test]
async fn an_sr_with_the_mark_is_not_destroyed() {
    let pool = pool().await;
    let host = first(&pool, "host").await;
    let args = new_sr(&host, "ext", &[("device", "/dev/sdb")], false);
    let sr = text(&pool.call("SR.create", args).await);
    let pbd = text(&pool.get("SR", "PBDs", &sr).await.items()[0]);
    pool.call("PBD.unplug", this(&pbd)).await;
    let mark = vec![sr.as_str().into(), map(&[("indestructible", "true")])];
    pool.call("SR.set_other_config", mark).await;
    assert_eq!(
        pool.fails("SR.destroy", this(&sr)).await,
        format!("SR_INDESTRUCTIBLE|{sr}")
    );
    pool.call("SR.set_other_config", vec![sr.as_str().into(), map(&[])])
        .await;
    pool.call("SR.destroy", this(&sr)).await;
}

#[tokio::test]
async fn an_sr_that_is_not_shared_is_for_one_host() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let shared = pool.named("SR", "Shared storage").await;
    let pbds = pool.get("SR", "PBDs", &shared).await;
    let all: Vec<String> = pbds.items().iter().map(text).collect();
    let unshare = vec![shared.as_str().into(), false.into()];
    assert_eq!(
        pool.fails("SR.set_shared", unshare).await,
        format!("SR_HAS_MULTIPLE_PBDS|{}", all.join("|"))
    );
    let hosts = pool.call("host.get_all", vec![]).await;
    let (one, two) = (text(&hosts.items()[0]), text(&hosts.items()[1]));
    let config = &[("device", "/dev/sdb")];
    let args = new_sr(&one, "ext", config, false);
    let sr = text(&pool.call("SR.create", args).await);
    let second = record(&[
        ("host", two.as_str().into()),
        ("SR", sr.as_str().into()),
        ("device_config", map(config)),
    ]);
    let second = text(&pool.call("PBD.create", second).await);
    assert_eq!(
        pool.fails("PBD.plug", this(&second)).await,
        format!("SR_NOT_SHARABLE|{sr}|{one}")
    );
}

#[tokio::test]
async fn a_detached_sr_keeps_its_disks() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let sr = pool.named("SR", "Shared storage").await;
    let other = pool.named("SR", "Local storage").await;
    let vdi = text(&pool.call("VDI.create", new_vdi(&sr, 1 << 30)).await);
    let elsewhere = text(&pool.call("VDI.create", new_vdi(&other, 1 << 30)).await);
    for pbd in pool.get("SR", "PBDs", &sr).await.items() {
        pool.call("PBD.unplug", vec![pbd.clone()]).await;
    }
    let copy = |from: &str, to: &str, into: &str| -> Vec<Value> {
        vec![from.into(), to.into(), NULL_REF.into(), into.into()]
    };
    for (method, args) in [
        ("VDI.destroy", this(&vdi)),
        ("VDI.clone", this(&vdi)),
        ("VDI.set_name_label", vec![vdi.as_str().into(), "x".into()]),
        ("SR.set_name_label", vec![sr.as_str().into(), "x".into()]),
        ("VDI.copy", copy(&elsewhere, &sr, NULL_REF)),
        ("VDI.copy", copy(&elsewhere, NULL_REF, &vdi)),
    ] {
        assert_eq!(
            pool.fails(method, args).await,
            format!("SR_HAS_NO_PBDS|{sr}"),
            "{method}"
        );
    }
    assert_eq!(
        pool.fails("VDI.copy", copy(&vdi, &other, NULL_REF)).await,
        "INTERNAL_ERROR|Not_found"
    );
    // A record goes without its SR.
    pool.call("VDI.forget", this(&vdi)).await;
}

#[tokio::test]
async fn disks_are_made_where_the_driver_makes_some() {
    let pool = pool().await;
    let sr = pool.named("SR", "Local storage").await;
    let vdi = text(&pool.call("VDI.create", new_vdi(&sr, 1 << 30)).await);
    for name in ["XCP-ng Tools", "DVD drives"] {
        let images = pool.named("SR", name).await;
        let copy = vec![vdi.as_str().into(), images.as_str().into()];
        for (method, args) in [
            ("VDI.copy", copy),
            ("VDI.create", new_vdi(&images, 1 << 30)),
        ] {
            assert_eq!(
                pool.fails(method, args).await,
                format!("SR_OPERATION_NOT_SUPPORTED|{images}"),
                "{method} on {name}"
            );
        }
    }
}

#[tokio::test]
async fn a_disk_is_at_least_as_large_as_asked() {
    let pool = pool().await;
    let sr = pool.named("SR", "Local storage").await;
    let mib = 1_i64 << 20;
    for (asked, made) in [
        (0, 2 * mib),
        (1, 2 * mib),
        (mib, 2 * mib),
        (2 * mib, 2 * mib),
        (2 * mib + 1, 4 * mib),
    ] {
        let vdi = text(&pool.call("VDI.create", new_vdi(&sr, asked)).await);
        let size = pool.get("VDI", "virtual_size", &vdi).await;
        assert_eq!(size, Value::Int(made), "{asked}");
    }
    let reason = "VDI Invalid size [opterr=VDI size must be between 1 MB and 2088960 MB]";
    for asked in [-1, 2_088_960 * mib + 1] {
        assert_eq!(
            pool.fails("VDI.create", new_vdi(&sr, asked)).await,
            format!("SR_BACKEND_FAILURE_79||{reason}|")
        );
    }
}

#[tokio::test]
async fn what_a_driver_knows_nobody_else_says() {
    let pool = pool().await;
    let sr = pool.named("SR", "Local storage").await;
    let vdi = text(&pool.call("VDI.create", new_vdi(&sr, 1 << 30)).await);
    let pbd = text(&pool.get("SR", "PBDs", &sr).await.items()[0]);
    let size: Value = (1_i64 << 31).into();
    let config = map(&[("device", "/dev/sdb")]);
    for (method, object, value) in [
        ("VDI.set_virtual_size", &vdi, size.clone()),
        ("VDI.set_managed", &vdi, false.into()),
        ("VDI.set_sharable", &vdi, true.into()),
        ("VDI.set_read_only", &vdi, true.into()),
        ("VDI.set_is_a_snapshot", &vdi, true.into()),
        ("SR.set_physical_size", &sr, size.clone()),
        ("PBD.set_device_config", &pbd, config),
    ] {
        let args = vec![object.as_str().into(), value];
        assert_eq!(
            pool.fails(method, args).await,
            "PERMISSION_DENIED|",
            "{method}"
        );
    }
    assert_eq!(
        pool.fails("VDI.db_forget", this(&vdi)).await,
        "PERMISSION_DENIED|"
    );
    // This is how a host marks the session that it gives a driver.
    let mark = [pool.session.as_str(), "_sm_session", sr.as_str()].map(Value::from);
    pool.call("session.add_to_other_config", mark.to_vec())
        .await;
    let args = vec![vdi.as_str().into(), size.clone()];
    pool.call("VDI.set_virtual_size", args).await;
    assert_eq!(pool.get("VDI", "virtual_size", &vdi).await, size);
}

#[tokio::test]
async fn how_a_disk_is_cached_is_for_when_its_vm_is_off() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let vbd = device(&pool, "VBD", &vm, "0").await;
    let vdi = text(&pool.get("VBD", "VDI", &vbd).await);
    pool.start(&vm).await;
    for (method, value) in [
        ("VDI.set_allow_caching", true.into()),
        ("VDI.set_on_boot", "reset".into()),
    ] {
        let args: Vec<Value> = vec![vdi.as_str().into(), value];
        assert_eq!(
            pool.fails(method, args.clone()).await,
            format!("VM_BAD_POWER_STATE|{vm}|halted|running")
        );
    }
    pool.call("VM.hard_shutdown", this(&vm)).await;
    let args = vec![vdi.as_str().into(), true.into()];
    pool.call("VDI.set_allow_caching", args).await;
}
