//! Messages beside the life of VMs.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use common::{Pool, pool, pool_of, text};
use xapi_sim::{Model, Release, SimOptions, Value};

async fn host(pool: &Pool) -> Value {
    pool.call("host.get_all", vec![]).await.items()[0].clone()
}

fn empty() -> Value {
    Value::Struct(Vec::new())
}

#[tokio::test]
async fn an_sr_is_made_used_and_destroyed() {
    let pool = pool().await;
    let make = |kind: &str| {
        vec![
            Value::map([("device", "/dev/sdb")]),
            Value::Int(0),
            "new".into(),
            "".into(),
            kind.into(),
            "user".into(),
            false.into(),
            empty(),
        ]
    };
    let host = host(&pool).await;
    let create = |kind: &str| std::iter::once(host.clone()).chain(make(kind)).collect();
    assert_eq!(
        pool.fails("SR.create", create("floppy")).await,
        "SR_UNKNOWN_DRIVER|floppy"
    );
    let sr = text(&pool.call("SR.create", create("ext")).await);
    let disk = Value::Struct(vec![
        ("name_label".to_owned(), "disk".into()),
        ("SR".to_owned(), sr.as_str().into()),
        ("virtual_size".to_owned(), Value::Int(1 << 30)),
        ("type".to_owned(), "user".into()),
        ("sharable".to_owned(), false.into()),
        ("read_only".to_owned(), false.into()),
        ("other_config".to_owned(), empty()),
    ]);
    let disk = pool.call("VDI.create", vec![disk]).await;
    let this = || vec![Value::from(sr.as_str())];
    assert_eq!(
        pool.fails("SR.destroy", this()).await,
        format!("SR_HAS_PBD|{sr}")
    );
    let pbds = pool.get("SR", "PBDs", &sr).await;
    let pbd = pbds.items()[0].clone();
    pool.call("PBD.unplug", vec![pbd.clone()]).await;
    assert_eq!(pool.fails("SR.destroy", this()).await, "SR_NOT_EMPTY");
    pool.call("PBD.plug", vec![pbd.clone()]).await;
    pool.call("VDI.destroy", vec![disk]).await;
    pool.call("PBD.unplug", vec![pbd]).await;
    pool.call("SR.destroy", this()).await;
    assert_eq!(
        pool.fails("SR.get_record", this()).await,
        format!("HANDLE_INVALID|SR|{sr}")
    );
}

#[tokio::test]
async fn blobs_hang_on_objects_by_name() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let args = || vec![vm.as_str().into(), "icon".into(), "".into(), false.into()];
    let blob = pool.call("VM.create_new_blob", args()).await;
    let blobs = pool.get("VM", "blobs", &vm).await;
    assert_eq!(blobs.members(), [("icon".to_owned(), blob.clone())]);
    let kind = pool.get("blob", "mime_type", &text(&blob)).await;
    assert_eq!(text(&kind), "application/octet-stream");
    assert_eq!(
        pool.fails("VM.create_new_blob", args()).await,
        format!("MAP_DUPLICATE_KEY|VM|blobs|{vm}|icon")
    );
    pool.call("blob.destroy", vec![blob]).await;
}

#[tokio::test]
async fn a_host_is_renamed_within_reason() {
    let pool = pool().await;
    let host = host(&pool).await;
    let rename = |name: &str| vec![host.clone(), name.into()];
    pool.call("host.set_hostname_live", rename("lab-1")).await;
    let name = pool.get("host", "hostname", &text(&host)).await;
    assert_eq!(text(&name), "lab-1");
    let refused = pool.fails("host.set_hostname_live", rename("lab 1")).await;
    assert!(refused.starts_with("HOST_NAME_INVALID|"));
}

#[tokio::test]
async fn a_halted_vm_takes_one_vtpm() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let args = || vec![vm.as_str().into(), false.into()];
    let vtpm = pool.call("VTPM.create", args()).await;
    assert_eq!(
        pool.fails("VTPM.create", args()).await,
        "VTPM_MAX_AMOUNT_REACHED|1"
    );
    pool.call("VTPM.destroy", vec![vtpm]).await;
    pool.call("VTPM.create", args()).await;
}

#[tokio::test]
async fn a_fresh_host_has_the_srs_of_its_installation() {
    let pool = pool().await;
    for (name, kind, content) in [
        ("Local storage", "ext", "user"),
        ("DVD drives", "udev", "iso"),
        ("Removable storage", "udev", "disk"),
        ("XCP-ng Tools", "iso", "iso"),
    ] {
        let sr = pool.named("SR", name).await;
        let record = pool.call("SR.get_record", vec![sr.into()]).await;
        assert_eq!(record.get("type"), Some(&kind.into()), "{name}");
        assert_eq!(record.get("content_type"), Some(&content.into()), "{name}");
    }
    let tools = pool.named("SR", "XCP-ng Tools").await;
    assert_eq!(pool.get("SR", "is_tools_sr", &tools).await, true.into());
    let windows = pool.named("VM", "Windows 11").await;
    let platform = pool.get("VM", "platform", &windows).await;
    assert_eq!(platform.get("viridian"), Some(&"true".into()));
}

#[tokio::test]
async fn messages_are_destroyed_by_what_they_are() {
    let model = Model::single_host().release(Release::Newest);
    let pool = pool_of(model, SimOptions::default()).await;
    let host = host(&pool).await;
    let uuid = pool.get("host", "uuid", &text(&host)).await;
    let tell = async |priority: i64| {
        let args = vec![
            "TOLD".into(),
            priority.into(),
            "Host".into(),
            uuid.clone(),
            "body".into(),
        ];
        text(&pool.call("message.create", args).await)
    };
    let left = async || pool.call("message.get_all", vec![]).await.items().len();
    let destroy = |filters: Vec<(&str, &str)>| vec![Value::map(filters)];
    tell(3).await;
    tell(5).await;
    assert_eq!(
        pool.fails("message.destroy_all", destroy(vec![("colour", "red")]))
            .await,
        "INVALID_VALUE|colour|red"
    );
    pool.call(
        "message.destroy_all",
        destroy(vec![("before", "20200101T00:00:00Z")]),
    )
    .await;
    assert_eq!(left().await, 2);
    let filters = vec![("priority", "3"), ("after", "20200101T00:00:00Z")];
    pool.call("message.destroy_all", destroy(filters)).await;
    assert_eq!(left().await, 1);
    pool.call("message.destroy_all", destroy(vec![])).await;
    assert_eq!(left().await, 0);
    // Those of an object are newer than a time, and the object has to be there.
    let unknown = vec![
        "Host".into(),
        "none".into(),
        Value::DateTime("20200101T00:00:00Z".into()),
    ];
    assert_eq!(pool.fails("message.get", unknown).await, "UUID_INVALID");
}
