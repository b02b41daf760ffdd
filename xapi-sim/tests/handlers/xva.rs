//! VMs in files.

use std::io::Read as _;

use super::*;

/// A halted VM with a disk of so many bytes that has content, in front of an empty one.
async fn vm_with_disk(served: &Served, name: &str, content: &[u8]) -> (String, String) {
    let pool = &served.pool;
    let vm = pool.vm(name).await;
    let vdi = served.vdi(content.len().next_multiple_of(2 * MIB)).await;
    let fields = Value::Struct(
        [
            ("VM", Value::from(vm.as_str())),
            ("VDI", vdi.as_str().into()),
            ("userdevice", "autodetect".into()),
            ("bootable", false.into()),
            ("mode", "RW".into()),
            ("type", "Disk".into()),
            ("empty", false.into()),
            ("other_config", Value::Struct(vec![])),
            ("qos_algorithm_type", "".into()),
            ("qos_algorithm_params", Value::Struct(vec![])),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    );
    pool.call("VBD.create", vec![fields]).await;
    served
        .put(&format!("/import_raw_vdi?vdi={vdi}"), content)
        .await;
    (vm, vdi)
}

/// The names of the files in an archive, and the text of the first.
fn listing(archive: &[u8]) -> (Vec<String>, String) {
    let mut names = Vec::new();
    let mut first = String::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        if names.is_empty() {
            entry.read_to_string(&mut first).unwrap();
        }
        names.push(entry.path().unwrap().to_str().unwrap().to_owned());
    }
    (names, first)
}

/// Imports a file and gives the references of the VMs.
async fn import(served: &Served, query: &str, archive: &[u8]) -> Result<Vec<String>, Vec<String>> {
    let task = served.task().await;
    let answer = served
        .put(&format!("/import?task_id={task}&{query}"), archive)
        .await;
    assert_eq!(answer.status(), "HTTP/1.1 200 OK", "{}", answer.text());
    let (status, result, error) = served.outcome(&task).await;
    if status == "success" {
        let vms = result.split("<value>").filter_map(|part| {
            let (vm, _) = part.split_once('<')?;
            vm.starts_with("OpaqueRef:").then(|| vm.to_owned())
        });
        Ok(vms.collect())
    } else {
        let body = answer.text();
        assert!(body.contains(&error[0]), "{body}");
        Err(error)
    }
}

/// The disks of a VM, without those in drives.
async fn disks(served: &Served, vm: &str) -> Vec<String> {
    let mut disks = Vec::new();
    for vbd in served.pool.get("VM", "VBDs", vm).await.items() {
        let vdi = text(&served.pool.get("VBD", "VDI", &text(vbd)).await);
        if vdi != xapi_sim::NULL_REF {
            disks.push(vdi);
        }
    }
    disks
}

async fn mac(served: &Served, vm: &str) -> Value {
    let vifs = served.pool.get("VM", "VIFs", vm).await;
    served.pool.get("VIF", "MAC", &text(&vifs.items()[0])).await
}

#[tokio::test]
async fn an_archive_has_the_description_the_blocks_and_their_checksums() {
    let served = served().await;
    // Blocks 0, 1 and 4; the others are zeros.
    let mut content = vec![0; 6 * MIB];
    content[..MIB + 1].copy_from_slice(&bytes(MIB + 1));
    content[4 * MIB] = 1;
    let (vm, _) = vm_with_disk(&served, "file", &content).await;
    let task = served.task().await;
    let answer = served
        .get(&format!("/export?ref={vm}&task_id={task}"))
        .await;
    assert_eq!(answer.status(), "HTTP/1.0 200 OK");
    assert_eq!(answer.header("task-id"), Some(task.as_str()));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(
        answer.header("content-disposition"),
        Some("attachment; filename=\"export.xva\"")
    );
    assert_eq!(served.outcome(&task).await.0, "success");
    let (names, description) = listing(&answer.body);
    assert_eq!(names[0], "ova.xml");
    let blocks: Vec<&str> = names
        .iter()
        .filter_map(|name| name.split_once('/'))
        .map(|(_, block)| block)
        .filter(|block| !block.contains('.'))
        .collect();
    // The guest's disk of 8 GiB has its first and its last block, ours those that are no zeros.
    assert_eq!(
        blocks,
        [
            "00000000", "00000001", "00000004", "00000005", "00000000", "00008191"
        ]
    );
    for (at, name) in names.iter().enumerate() {
        if name.contains('/') && !name.contains('.') {
            assert_eq!(names[at + 1], format!("{name}.xxhash"));
        }
    }
    assert!(description.starts_with("<value><struct><member><name>version</name>"));
    assert!(description.contains("<name>export_vsn</name><value>2</value>"));
    assert!(description.contains("<name>id</name><value>Ref:0</value>"));
    let snapshot_of = "<name>snapshot_of</name><value>OpaqueRef:NULL</value>";
    assert!(description.contains(snapshot_of));
    assert!(!description.contains(&vm), "references have other names");
}

#[tokio::test]
async fn what_is_exported_can_be_imported() {
    let served = served().await;
    let content = bytes(3 * MIB);
    let (vm, vdi) = vm_with_disk(&served, "twin", &content).await;
    let exported = served.get(&format!("/export_raw_vdi?vdi={vdi}")).await.body;
    for compression in ["false", "true", "zstd"] {
        let path = format!("/export?ref={vm}&use_compression={compression}");
        let archive = served.get(&path).await.body;
        let vms = import(&served, "", &archive).await.unwrap();
        let [twin] = &vms[..] else { panic!("{vms:?}") };
        let get = |field: &'static str| served.pool.get("VM", field, twin);
        assert_eq!(get("name_label").await, Value::from("twin"));
        assert_eq!(get("power_state").await, Value::from("Halted"));
        assert_eq!(get("current_operations").await, Value::Struct(vec![]));
        let uuid = served.pool.get("VM", "uuid", &vm).await;
        assert_ne!(get("uuid").await, uuid);
        let disks = disks(&served, twin).await;
        assert_eq!(disks.len(), 2);
        let mut found = false;
        for disk in disks {
            if served.pool.get("VDI", "virtual_size", &disk).await != Value::Int(4 << 20) {
                continue;
            }
            let bytes = served
                .get(&format!("/export_raw_vdi?vdi={disk}"))
                .await
                .body;
            found |= bytes == exported;
        }
        assert!(found, "{compression}");
        assert_ne!(mac(&served, twin).await, mac(&served, &vm).await);
    }
}

#[tokio::test]
async fn a_system_comes_along() {
    let served = served().await;
    let vm = served.pool.vm("alive").await;
    let archive = served.get(&format!("/export?ref={vm}")).await.body;
    let vms = import(&served, "", &archive).await.unwrap();
    served.pool.start(&vms[0]).await;
    served.pool.reported(&vms[0]).await;
}

#[tokio::test]
async fn a_restored_vm_is_the_same_and_there_is_only_one() {
    let served = served().await;
    let vm = served.pool.vm("one").await;
    let uuid = served.pool.get("VM", "uuid", &vm).await;
    let archive = served.get(&format!("/export?ref={vm}")).await.body;
    let error = import(&served, "restore=true", &archive).await.unwrap_err();
    assert_eq!(error, ["VM_TO_IMPORT_IS_NOT_NEWER_VERSION", &vm, "0", "0"]);
    served
        .pool
        .call("VM.destroy", vec![vm.as_str().into()])
        .await;
    let vms = import(&served, "restore=true", &archive).await.unwrap();
    assert_eq!(served.pool.get("VM", "uuid", &vms[0]).await, uuid);
}

#[tokio::test]
async fn a_forced_restore_takes_the_place_of_a_vm_unless_it_is_in_use() {
    let served = served().await;
    let vm = served.pool.vm("one").await;
    let uuid = served.pool.get("VM", "uuid", &vm).await;
    let archive = served.get(&format!("/export?ref={vm}")).await.body;
    served.pool.start(&vm).await;
    let error = import(&served, "restore=true", &archive).await.unwrap_err();
    assert_eq!(error, ["VM_BAD_POWER_STATE", &vm, "Halted", "Running"]);
    let forced = "restore=true&force=true";
    let vms = import(&served, forced, &archive).await.unwrap();
    assert!(vms.is_empty(), "{vms:?}");
    assert_eq!(served.pool.state(&vm).await, "Running");
    let off = vec![vm.as_str().into()];
    served.pool.call("VM.hard_shutdown", off).await;
    let vms = import(&served, forced, &archive).await.unwrap();
    assert_ne!(vms[0], vm);
    assert_eq!(served.pool.get("VM", "uuid", &vms[0]).await, uuid);
    let this = vec![vm.as_str().into()];
    assert_eq!(
        served.pool.fails("VM.get_record", this).await,
        format!("HANDLE_INVALID|VM|{vm}")
    );
}

#[tokio::test]
async fn what_is_no_whole_archive_leaves_nothing() {
    let served = served().await;
    let (vm, _) = vm_with_disk(&served, "broken", &bytes(2 * MIB)).await;
    let archive = served.get(&format!("/export?ref={vm}")).await.body;
    let pool = &served.pool;
    let count = |class: &'static str| async move {
        let all = pool.call(&format!("{class}.get_all"), vec![]).await;
        all.items().len()
    };
    let before = (count("VM").await, count("VDI").await, count("VBD").await);
    let files = served.files();
    let mut flipped = archive.clone();
    let at = archive.len() - MIB;
    flipped[at] ^= 1;
    for (file, code) in [
        (
            &archive[..archive.len() - MIB],
            "IMPORT_ERROR_PREMATURE_EOF",
        ),
        (&archive[..100], "IMPORT_ERROR_PREMATURE_EOF"),
        (&flipped[..], "IMPORT_ERROR_SOME_CHECKSUMS_FAILED"),
    ] {
        let error = import(&served, "", file).await.unwrap_err();
        assert_eq!(error, [code]);
        let after = (count("VM").await, count("VDI").await, count("VBD").await);
        assert_eq!(after, before, "{code}");
        assert_eq!(served.files(), files, "{code}");
    }
    import(&served, "force=true", &flipped).await.unwrap();
}

/// An archive of an old server: other fields, other checksums.
fn old_archive() -> Vec<u8> {
    let member = |name: &str, value: &str| {
        format!("<member><name>{name}</name><value>{value}</value></member>")
    };
    let object = |class: &str, id: &str, fields: &str| {
        let record = format!(
            "<member><name>snapshot</name><value><struct>{fields}</struct></value></member>"
        );
        let (class, id) = (member("class", class), member("id", id));
        format!("<value><struct>{class}{id}{record}</struct></value>")
    };
    let vm = [
        ("name_label", "old"),
        ("memory_static_max", "1073741824"),
        ("memory_dynamic_max", "1073741824"),
        ("memory_dynamic_min", "1073741824"),
        ("VCPUs_max", "1"),
        ("VCPUs_at_startup", "1"),
        ("HVM_boot_policy", "BIOS order"),
        ("ancient", "field"),
    ]
    .map(|(name, value)| member(name, value))
    .concat();
    let sr = member("content_type", "user");
    let disk = [
        ("name_label", "old disk"),
        ("virtual_size", "2097152"),
        ("type", "system"),
        ("SR", "Ref:3"),
    ]
    .map(|(name, value)| member(name, value))
    .concat();
    let device = [
        ("VM", "Ref:0"),
        ("VDI", "Ref:2"),
        ("userdevice", "0"),
        ("type", "Disk"),
        ("mode", "RW"),
    ]
    .map(|(name, value)| member(name, value))
    .concat();
    let objects = [
        object("VM", "Ref:0", &vm),
        object("VBD", "Ref:1", &device),
        object("VDI", "Ref:2", &disk),
        object("SR", "Ref:3", &sr),
        object("console", "Ref:4", ""),
    ]
    .concat();
    let version = [
        ("xapi_major", "1"),
        ("xapi_minor", "3"),
        ("export_vsn", "2"),
    ];
    let version = version.map(|(name, value)| member(name, value)).concat();
    let text = format!(
        "<value><struct><member><name>version</name><value><struct>{version}</struct></value>\
         </member><member><name>objects</name><value><array><data>{objects}</data></array></value>\
         </member></struct></value>"
    );
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    add("ova.xml", text.as_bytes());
    let ones = vec![b'1'; MIB];
    for (number, block) in [(0, &ones[..]), (1, &vec![0; MIB][..])] {
        let name = format!("Ref:2/{number:08}");
        add(&name, block);
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, block);
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        add(&format!("{name}.checksum"), hex.as_bytes());
    }
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn files_of_older_servers_are_read() {
    let served = served().await;
    let vms = import(&served, "", &old_archive()).await.unwrap();
    let disks = disks(&served, &vms[0]).await;
    let bytes = served
        .get(&format!("/export_raw_vdi?vdi={}", disks[0]))
        .await
        .body;
    assert_eq!(bytes.len(), 2 * MIB);
    assert!(bytes[..MIB].iter().all(|byte| *byte == b'1'));
    assert!(bytes[MIB..].iter().all(|byte| *byte == 0));
    served.pool.start(&vms[0]).await;
}

#[tokio::test]
async fn refusals() {
    let served = served().await;
    let vm = served.pool.vm("busy").await;
    served.pool.start(&vm).await;
    let task = served.task().await;
    let answer = served
        .get(&format!("/export?ref={vm}&task_id={task}"))
        .await;
    assert_eq!(answer.status(), "HTTP/1.1 500 Internal Error");
    let failure = ["VM_BAD_POWER_STATE", &vm, "halted, suspended", "running"];
    assert_eq!(served.outcome(&task).await.2, failure);

    let task = served.task().await;
    let request = format!("PUT /import?task_id={task}");
    let answer = served
        .ask(&request, "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n")
        .await;
    assert_eq!(answer.status(), "HTTP/1.1 403 Forbidden");
    let failure = ["IMPORT_ERROR_CANNOT_HANDLE_CHUNKED"];
    assert_eq!(served.outcome(&task).await.2, failure);
}

#[tokio::test]
async fn metadata_alone() {
    let served = served().await;
    let (vm, vdi) = vm_with_disk(&served, "described", &bytes(2 * MIB)).await;
    let snapshot = served
        .pool
        .call("VM.snapshot", vec![vm.as_str().into(), "then".into()])
        .await;
    let path = format!("/export_metadata?ref={vm}&export_snapshots=true");
    let answer = served.get(&path).await;
    assert_eq!(answer.status(), "HTTP/1.0 200 OK");
    let length = answer.header("content-length").unwrap();
    assert_eq!(length, answer.body.len().to_string());
    let (names, description) = listing(&answer.body);
    assert_eq!(names, ["ova.xml"]);
    assert!(description.contains("<name>is_a_snapshot</name><value><boolean>1</boolean></value>"));
    let path = format!("/export_metadata?ref={}", text(&snapshot));
    assert!(
        served
            .get(&path)
            .await
            .text()
            .contains("OPERATION_NOT_ALLOWED")
    );

    let task = served.task().await;
    let path = format!("/import_metadata?task_id={task}");
    let imported = served.put(&path, &answer.body).await;
    assert_eq!(imported.status(), "HTTP/1.1 200 OK", "{}", imported.text());
    let (status, result, error) = served.outcome(&task).await;
    assert_eq!(status, "success", "{error:?}");
    let vms: Vec<&str> = result
        .split("<value>")
        .filter_map(|part| part.split('<').next())
        .filter(|part| part.starts_with("OpaqueRef:"))
        .collect();
    assert_eq!(vms.len(), 1, "snapshots are not in the result");
    assert!(disks(&served, vms[0]).await.contains(&vdi));

    let task = served.task().await;
    let path = format!("/import_metadata?task_id={task}&dry_run=true&restore=true");
    served.put(&path, &answer.body).await;
    let (.., error) = served.outcome(&task).await;
    assert_eq!(error[0], "VM_TO_IMPORT_IS_NOT_NEWER_VERSION");
    // Whichever comes first in the file is complained of.
    assert!([&vm, &text(&snapshot)].contains(&&error[1]), "{error:?}");

    // What a forced one would replace stays where it is.
    let task = served.task().await;
    let path = format!("/import_metadata?task_id={task}&dry_run=true&restore=true&force=true");
    served.put(&path, &answer.body).await;
    let (status, _, error) = served.outcome(&task).await;
    assert_eq!(status, "success", "{error:?}");
    assert!(disks(&served, &vm).await.contains(&vdi));
}

#[tokio::test]
async fn a_host_that_does_not_see_the_sr_sends_to_one_that_does() {
    let served = served_with(Model::pool_of_three(), SimOptions::default()).await;
    let pool = &served.pool;
    let member = pool
        .sim
        .serve_host(1, ([127, 0, 0, 2], 0).into())
        .await
        .unwrap();
    // Storage that only members have.
    let pool_ref = pool.call("pool.get_all", vec![]).await;
    let coordinator = pool
        .get("pool", "master", &text(&pool_ref.items()[0]))
        .await;
    let sr = pool.named("SR", "Shared storage").await;
    for pbd in pool.get("SR", "PBDs", &sr).await.items() {
        if pool.get("PBD", "host", &text(pbd)).await == coordinator {
            pool.call("PBD.unplug", vec![pbd.clone()]).await;
        }
    }
    let query = format!("sr_id={sr}&a=b%2Fc");
    let answer = served.put(&format!("/import?{query}"), b"").await;
    assert_eq!(answer.status(), "HTTP/1.1 302 Found");
    let expected = format!("https://{}/import?{query}", member.address());
    assert_eq!(answer.header("location"), Some(expected.as_str()));
}

#[tokio::test]
async fn metadata_may_leave_devices_out() {
    let served = served().await;
    let vm = served.pool.vm("worker").await;
    let path = format!("/export_metadata?ref={vm}");
    let all = served.get(&path).await.text();
    for class in ["VIF", "VBD"] {
        let of_class = format!("<value>{class}</value>");
        assert!(all.contains(&of_class), "{class}");
        let less = format!("{path}&excluded_device_types={class}");
        let less = served.get(&less).await.text();
        assert!(!less.contains(&of_class), "{class}");
        assert!(less.contains("<value>VM</value>"));
    }
    let neither = format!("{path}&excluded_device_types=VIF,VBD");
    assert!(
        !served
            .get(&neither)
            .await
            .text()
            .contains("<value>VDI</value>")
    );
}
