//! Storage repositories and disks.

use super::{map, record, this};
use crate::common::{device, pool, pool_of, text};
use xapi_sim::{Model, SimOptions, Value};

#[tokio::test]
async fn an_sr_that_is_detached() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let vdi = text(&pool.get("VBD", "VDI", &disk).await);
    let sr = text(&pool.get("VDI", "SR", &vdi).await);
    let pbd = text(&pool.get("SR", "PBDs", &sr).await.items()[0]);
    assert_eq!(
        pool.fails("SR.forget", this(&sr)).await,
        format!("SR_HAS_PBD|{sr}")
    );
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("PBD.unplug", this(&pbd)).await,
        format!("VDI_IN_USE|{vdi}")
    );
    pool.call("VM.hard_shutdown", this(&vm)).await;
    for _ in 0..2 {
        pool.call("PBD.unplug", this(&pbd)).await;
    }
    let allowed = pool.get("SR", "allowed_operations", &sr).await;
    assert!(allowed.items().contains(&"forget".into()));
    assert!(!allowed.items().contains(&"destroy".into()));
    let allowed = pool.get("VDI", "allowed_operations", &vdi).await;
    assert!(!allowed.items().contains(&"resize".into()));
    for (method, args) in [
        ("SR.scan", this(&sr)),
        ("VDI.snapshot", this(&vdi)),
        (
            "VDI.resize",
            vec![vdi.as_str().into(), (64_i64 << 30).into()],
        ),
    ] {
        assert_eq!(
            pool.fails(method, args).await,
            format!("SR_HAS_NO_PBDS|{sr}")
        );
    }
    let start = vec![vm.as_str().into(), false.into(), false.into()];
    assert_eq!(pool.fails("VM.start", start).await, "NO_HOSTS_AVAILABLE");
    pool.call("PBD.plug", this(&pbd)).await;
    pool.start(&vm).await;
}

#[tokio::test]
async fn srs_come_and_go() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let hosts = pool.call("host.get_all", vec![]).await;
    let host = text(&hosts.items()[0]);
    let create = |kind: &str, shared: bool| -> Vec<Value> {
        let config = match kind {
            "NFS" => map(&[("server", "192.0.2.7"), ("serverpath", "/vms")]),
            _ => map(&[("device", "/dev/sdb")]),
        };
        vec![
            host.as_str().into(),
            config,
            (0).into(),
            "new".into(),
            "".into(),
            kind.into(),
            "user".into(),
            shared.into(),
        ]
    };
    assert_eq!(
        pool.fails("SR.create", create("tape", false)).await,
        "SR_UNKNOWN_DRIVER|tape"
    );
    let shared = text(&pool.call("SR.create", create("NFS", true)).await);
    assert_eq!(pool.get("SR", "type", &shared).await, Value::from("nfs"));
    assert_eq!(pool.get("SR", "PBDs", &shared).await.items().len(), 3);
    let sr = text(&pool.call("SR.create", create("ext", false)).await);
    let pbd = text(&pool.get("SR", "PBDs", &sr).await.items()[0]);
    assert_eq!(
        pool.get("PBD", "device_config", &pbd).await,
        map(&[("device", "/dev/sdb")])
    );
    let disk = record(&[
        ("SR", sr.as_str().into()),
        ("virtual_size", (1_i64 << 30).into()),
        ("type", "user".into()),
        ("sharable", false.into()),
        ("read_only", false.into()),
        ("other_config", map(&[])),
    ]);
    let vdi = text(&pool.call("VDI.create", disk).await);
    assert_eq!(
        pool.fails("SR.destroy", this(&sr)).await,
        format!("SR_HAS_PBD|{sr}")
    );
    assert_eq!(
        pool.fails("PBD.destroy", this(&pbd)).await,
        "OPERATION_NOT_ALLOWED|PBD is currently attached"
    );
    pool.call("PBD.unplug", this(&pbd)).await;
    assert_eq!(pool.fails("SR.destroy", this(&sr)).await, "SR_NOT_EMPTY");
    pool.call("PBD.plug", this(&pbd)).await;
    pool.call("VDI.destroy", this(&vdi)).await;
    pool.call("PBD.unplug", this(&pbd)).await;
    let again = record(&[
        ("host", host.as_str().into()),
        ("SR", sr.as_str().into()),
        ("device_config", map(&[("device", "/dev/sdb")])),
    ]);
    assert_eq!(
        pool.fails("PBD.create", again.clone()).await,
        format!("PBD_EXISTS|{sr}|{host}|{pbd}")
    );
    pool.call("PBD.destroy", this(&pbd)).await;
    assert_eq!(
        pool.fails("SR.destroy", this(&sr)).await,
        format!("SR_HAS_NO_PBDS|{sr}")
    );
    pool.call("PBD.create", again).await;
    pool.call("SR.destroy", this(&sr)).await;
    let uuid = text(&pool.get("SR", "uuid", &shared).await);
    let known: Vec<Value> = vec![
        uuid.as_str().into(),
        "x".into(),
        "".into(),
        "nfs".into(),
        "user".into(),
        true.into(),
    ];
    assert_eq!(
        pool.fails("SR.introduce", known).await,
        format!("SR_UUID_EXISTS|{uuid}")
    );
}

#[tokio::test]
async fn a_forgotten_disk_is_found_again_by_a_scan() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let vdi = text(&pool.get("VBD", "VDI", &disk).await);
    let uuid = pool.get("VDI", "uuid", &vdi).await;
    let sr = text(&pool.get("VDI", "SR", &vdi).await);
    pool.call("VDI.forget", this(&vdi)).await;
    assert_eq!(
        pool.fails("VDI.get_by_uuid", vec![uuid.clone()]).await,
        format!("UUID_INVALID|VDI|{}", text(&uuid))
    );
    pool.call("SR.scan", this(&sr)).await;
    let found = text(&pool.call("VDI.get_by_uuid", vec![uuid]).await);
    assert_ne!(found, vdi);
    assert_eq!(pool.get("VDI", "SR", &found).await, sr.as_str().into());
}

#[tokio::test]
async fn an_sr_that_is_forgotten_and_introduced_has_its_disks_after_a_scan() {
    let pool = pool().await;
    let sr = pool.named("SR", "Shared storage").await;
    let args = record(&[
        ("name_label", "data".into()),
        ("SR", sr.as_str().into()),
        ("virtual_size", (1 << 30).into()),
        ("type", "user".into()),
        ("sharable", false.into()),
        ("read_only", false.into()),
        ("other_config", map(&[])),
    ]);
    let vdi = text(&pool.call("VDI.create", args).await);
    let disk = pool.get("VDI", "uuid", &vdi).await;
    let uuid = pool.get("SR", "uuid", &sr).await;
    let pbd = text(&pool.get("SR", "PBDs", &sr).await.items()[0]);
    let host = pool.get("PBD", "host", &pbd).await;
    let config = pool.get("PBD", "device_config", &pbd).await;
    assert_eq!(
        pool.fails("SR.forget", this(&sr)).await,
        format!("SR_HAS_PBD|{sr}")
    );
    // What is attached is what a probe finds.
    let probe = vec![host.clone(), config.clone(), "nfs".into(), map(&[])];
    let found = pool.call("SR.probe_ext", probe.clone()).await;
    let stat = found.items()[0].get("sr").cloned().unwrap();
    assert_eq!(stat.get("uuid"), Some(&uuid));
    assert!(text(&pool.call("SR.probe", probe).await).contains(&text(&uuid)));
    let short = vec![
        host.clone(),
        map(&[("server", "192.0.2.1")]),
        "nfs".into(),
        map(&[]),
    ];
    let text_of = "The request is missing the serverpath parameter";
    assert_eq!(
        pool.fails("SR.probe", short).await,
        format!("SR_BACKEND_FAILURE_101||{text_of}|")
    );
    pool.call("PBD.unplug", this(&pbd)).await;
    pool.call("SR.forget", this(&sr)).await;
    let args = vec![
        uuid.clone(),
        "Shared again".into(),
        "".into(),
        "nfs".into(),
        "user".into(),
        true.into(),
        map(&[]),
    ];
    let sr = text(&pool.call("SR.introduce", args).await);
    let args = record(&[
        ("host", host),
        ("SR", sr.as_str().into()),
        ("device_config", config),
    ]);
    let pbd = text(&pool.call("PBD.create", args).await);
    pool.call("PBD.plug", this(&pbd)).await;
    assert_eq!(
        pool.fails("VDI.get_by_uuid", vec![disk.clone()]).await,
        format!("UUID_INVALID|VDI|{}", text(&disk))
    );
    pool.call("SR.scan", this(&sr)).await;
    let found = text(&pool.call("VDI.get_by_uuid", vec![disk]).await);
    assert_eq!(pool.get("VDI", "name_label", &found).await, "data".into());
}

#[tokio::test]
async fn drivers_tell_what_they_can_do() {
    let pool = pool().await;
    let drivers = pool.call("SM.get_all_records", vec![]).await;
    let types: Vec<&Value> = drivers
        .members()
        .iter()
        .filter_map(|(_, r)| r.get("type"))
        .collect();
    let supported = pool.call("SR.get_supported_types", vec![]).await;
    assert_eq!(types.len(), supported.items().len());
    let drives = pool.named("SR", "DVD drives").await;
    let local = pool.named("SR", "Local storage").await;
    let lists = [
        (
            &drives,
            ["vdi_introduce", "update", "scan"].as_slice(),
            "vdi_create",
        ),
        (
            &local,
            ["vdi_create", "vdi_mirror", "vdi_enable_cbt"].as_slice(),
            "vdi_introduce",
        ),
    ];
    for (sr, can, cannot) in lists {
        let allowed = pool.get("SR", "allowed_operations", sr).await;
        for operation in can {
            assert!(
                allowed.items().contains(&(*operation).into()),
                "{operation}"
            );
        }
        assert!(!allowed.items().contains(&cannot.into()), "{cannot}");
    }
    let new = "11111111-2222-3333-4444-555555555555";
    let introduce = |uuid: &str, sr: &str, location: &str| {
        vec![
            uuid.into(),
            "disk".into(),
            "".into(),
            sr.into(),
            "user".into(),
            false.into(),
            false.into(),
            map(&[]),
            location.into(),
        ]
    };
    assert_eq!(
        pool.fails("VDI.introduce", introduce(new, &local, new))
            .await,
        format!("SR_OPERATION_NOT_SUPPORTED|{local}")
    );
    let vdi = pool
        .call("VDI.introduce", introduce(new, &drives, "/dev/sdb"))
        .await;
    assert_eq!(pool.get("VDI", "uuid", &text(&vdi)).await, new.into());
    assert_eq!(
        pool.fails("VDI.introduce", introduce(new, &drives, "/dev/sdb"))
            .await,
        format!("LOCATION_NOT_UNIQUE|{drives}|/dev/sdb")
    );
    assert_eq!(
        pool.fails("VDI.introduce", introduce("x", &drives, "/dev/sdc"))
            .await,
        "UUID_INVALID|VDI|x"
    );
}
