//! Disks as bytes.

use super::*;

#[tokio::test]
async fn what_goes_in_comes_out() {
    let served = served().await;
    let vdi = served.vdi(4 * MIB).await;
    assert_eq!(served.files(), 0, "a disk of zeros needs no file");
    let task = served.task().await;
    let content = bytes(3 * MIB + 5);
    let path = format!("/import_raw_vdi?vdi={vdi}&task_id={task}");
    let answer = served.put(&path, &content).await;
    assert_eq!(
        answer.head,
        format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\
             task-id: {task}\r\ncontent-type: application/octet-stream"
        )
    );
    assert_eq!(answer.text(), "");
    let result = format!("<value>{vdi}</value>");
    assert_eq!(
        served.outcome(&task).await,
        ("success".to_owned(), result, vec![])
    );

    let uuid = text(&served.pool.get("VDI", "uuid", &vdi).await);
    let answer = served
        .get(&format!("/export_raw_vdi?vdi={uuid}&format=raw"))
        .await;
    assert_eq!(answer.status(), "HTTP/1.1 200 OK");
    assert_eq!(
        answer.header("content-disposition").unwrap(),
        format!("attachment; filename=\"{uuid}.raw\"")
    );
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.body.len(), 4 * MIB);
    assert!(answer.body[..content.len()] == content);
    assert!(answer.body[content.len()..].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn copies_have_the_bytes_and_files_go_with_their_disks() {
    let served = served().await;
    let vdi = served.vdi(2 * MIB).await;
    let content = bytes(2 * MIB);
    served
        .put(&format!("/import_raw_vdi?vdi={vdi}"), &content)
        .await;
    assert_eq!(served.files(), 1);
    let copies = [
        text(
            &served
                .pool
                .call("VDI.clone", vec![vdi.as_str().into()])
                .await,
        ),
        text(
            &served
                .pool
                .call("VDI.snapshot", vec![vdi.as_str().into()])
                .await,
        ),
    ];
    assert_eq!(served.files(), 3);
    served
        .put(&format!("/import_raw_vdi?vdi={vdi}"), &vec![0; 2 * MIB])
        .await;
    for copy in copies {
        let answer = served.get(&format!("/export_raw_vdi?vdi={copy}")).await;
        assert!(answer.body == content);
        served
            .pool
            .call("VDI.destroy", vec![copy.as_str().into()])
            .await;
    }
    assert_eq!(served.files(), 1);
    let Served {
        pool,
        server,
        folder,
    } = served;
    server.shutdown().await;
    pool.sim.shutdown().await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn pieces_in_the_servers_own_framing() {
    let served = served().await;
    let vdi = served.vdi(4 * MIB).await;
    let content = bytes(MIB);
    let mut framed = Vec::new();
    for (offset, piece) in [(3 * MIB, &content[..]), (5, b"five"), (0, b"")] {
        framed.extend((offset as u64).to_le_bytes());
        framed.extend((piece.len() as u32).to_le_bytes());
        framed.extend(piece);
    }
    let task = served.task().await;
    let path = format!("/import_raw_vdi?vdi={vdi}&chunked=true&task_id={task}");
    let answer = served.ask(&format!("PUT {path}"), "", &framed).await;
    assert_eq!(answer.status(), "HTTP/1.1 200 OK");
    assert_eq!(served.outcome(&task).await.0, "success");
    let answer = served.get(&format!("/export_raw_vdi?vdi={vdi}")).await;
    assert_eq!(&answer.body[5..9], b"five");
    assert!(answer.body[3 * MIB..] == content);
}

#[tokio::test]
async fn an_sr_and_a_length_make_a_disk() {
    let served = served().await;
    let sr = served.pool.named("SR", "Local storage").await;
    let task = served.task().await;
    let path = format!("/import_raw_vdi?sr_id={sr}&raw=1&task_id={task}");
    served.put(&path, &bytes(2 * MIB)).await;
    let vdi = served.pool.named("VDI", "Imported VDI").await;
    let result = format!("<value>{vdi}</value>");
    assert_eq!(
        served.outcome(&task).await,
        ("success".to_owned(), result, vec![])
    );
}

#[tokio::test]
async fn a_transfer_that_ends_early_or_late_fails_behind_its_200() {
    let served = served().await;
    let vdi = served.vdi(2 * MIB).await;
    for (length, sent) in [(2 * MIB, MIB), (3 * MIB, 3 * MIB)] {
        let task = served.task().await;
        let request = format!("PUT /import_raw_vdi?vdi={vdi}&task_id={task}");
        let length = format!("Content-Length: {length}\r\n");
        let answer = served.ask(&request, &length, &bytes(sent)).await;
        assert_eq!(answer.status(), "HTTP/1.1 200 OK");
        let body = answer.text();
        assert!(
            body.starts_with("HTTP/1.1 500 Internal Error\r\n"),
            "{body}"
        );
        assert!(
            body.contains("VDI_IO_ERROR: [ Device I/O errors ]"),
            "{body}"
        );
        let (status, _, error) = served.outcome(&task).await;
        assert_eq!(status, "failure");
        assert_eq!(error, ["VDI_IO_ERROR", "Device I/O errors"]);
    }
    // What has arrived is there all the same.
    let answer = served.get(&format!("/export_raw_vdi?vdi={vdi}")).await;
    assert!(answer.body == bytes(2 * MIB));
}

#[tokio::test]
async fn a_disk_in_use_is_refused_behind_the_200() {
    let served = served().await;
    let vm = served.pool.vm("busy").await;
    served.pool.start(&vm).await;
    let vbds = served.pool.get("VM", "VBDs", &vm).await;
    let mut vdis = Vec::new();
    for vbd in vbds.items() {
        vdis.push(text(&served.pool.get("VBD", "VDI", &text(vbd)).await));
    }
    let vdi = vdis.iter().find(|vdi| !vdi.ends_with("NULL")).unwrap();
    let task = served.task().await;
    let answer = served
        .put(
            &format!("/import_raw_vdi?vdi={vdi}&task_id={task}"),
            &bytes(MIB),
        )
        .await;
    assert_eq!(answer.status(), "HTTP/1.1 200 OK");
    assert_eq!(served.outcome(&task).await.2, ["VDI_IN_USE", vdi]);
}

#[tokio::test]
async fn refusals() {
    let served = served().await;
    let vdi = served.vdi(2 * MIB).await;
    let request = |query: &str| format!("PUT /import_raw_vdi?{query}");
    let of_vdi = format!("vdi={vdi}");
    for (query, headers, status, error) in [
        (
            of_vdi.as_str(),
            "Transfer-Encoding: chunked\r\n",
            "HTTP/1.0 404 Not Found",
            vec!["INTERNAL_ERROR", "Cannot handle encoding: chunked"],
        ),
        (
            &format!("{of_vdi}&format=vmdk"),
            "",
            "HTTP/1.0 404 Not Found",
            vec!["INTERNAL_ERROR", "Unknown format vmdk"],
        ),
        (
            &format!("{of_vdi}&format=vhd&chunked"),
            "",
            "HTTP/1.0 404 Not Found",
            vec!["INTERNAL_ERROR", "Cannot handle chunked VHD"],
        ),
        (
            "format=raw",
            "",
            "HTTP/1.1 400 Bad Request",
            vec!["VDI_MISSING"],
        ),
        (
            "sr_id=OpaqueRef:nope",
            "Content-Length: 1\r\n",
            "HTTP/1.1 400 Bad Request",
            vec!["HANDLE_INVALID", "SR", "OpaqueRef:nope"],
        ),
    ] {
        let task = served.task().await;
        let request = request(&format!("{query}&task_id={task}"));
        let answer = served.ask(&request, headers, b"").await;
        assert_eq!(answer.status(), status, "{query}");
        assert_eq!(served.outcome(&task).await.2, error, "{query}");
    }
    // Nobody owns the task yet when the disk is not found.
    let task = served.task().await;
    let answer = served
        .put(&format!("/import_raw_vdi?vdi=nope&task_id={task}"), b"")
        .await;
    assert_eq!(answer.status(), "HTTP/1.1 500 Internal Error");
    assert!(answer.text().contains("UUID_INVALID: [ VDI; nope ]"));
    assert_eq!(served.outcome(&task).await.0, "pending");
}

#[tokio::test]
async fn a_task_that_nobody_made_goes_with_the_request() {
    let served = served().await;
    let vdi = served.vdi(2 * MIB).await;
    let answer = served
        .put(&format!("/import_raw_vdi?vdi={vdi}"), &bytes(MIB))
        .await;
    let task = answer.header("task-id").unwrap();
    let gone = served
        .pool
        .fails("task.get_status", vec![task.into()])
        .await;
    assert_eq!(gone, format!("HANDLE_INVALID|task|{task}"));
}

#[tokio::test]
async fn who_may() {
    let options = SimOptions::default()
        .with_password("secret".to_owned().into())
        .with_user("eve", "eve".to_owned().into(), "read-only");
    let served = served_with(Model::single_host(), options).await;
    let vdi = served.vdi(2 * MIB).await;
    let request = format!("GET /export_raw_vdi?vdi={vdi}");
    // A session counts before a password.
    let basic = "Authorization: Basic cm9vdDpzZWNyZXQ=\r\n";
    let dead = format!("Cookie: session_id=OpaqueRef:dead\r\n{basic}");
    for headers in ["", dead.as_str(), "Cookie: pool_secret=x\r\n"] {
        let answer = served.ask_alone(&request, headers, b"").await;
        assert_eq!(answer.status(), "HTTP/1.1 401 Unauthorised", "{headers}");
        let realm = answer.header("WWW-Authenticate").unwrap();
        assert_eq!(realm, "Basic realm=\"get_export_raw_vdi\"");
    }
    let answer = served.ask_alone(&request, basic, b"").await;
    assert_eq!(answer.status(), "HTTP/1.1 200 OK");
    // Neither Basic with a colon in it nor text: what cannot be read is no wrong password.
    for unknown in ["Bearer x", "Basic ?", "Basic cm9vdA=="] {
        let header = format!("Authorization: {unknown}\r\n");
        let answer = served.ask_alone(&request, &header, b"").await;
        let text = format!("Unknown authorization header: {unknown}");
        assert!(answer.text().contains(&text), "{}", answer.text());
    }
    // A role that does not reach: the task learns of it.
    let task = served.task().await;
    let request = format!("{request}&task_id={task}");
    let eve = "Authorization: Basic ZXZlOmV2ZQ==\r\n";
    let answer = served.ask_alone(&request, eve, b"").await;
    assert_eq!(answer.status(), "HTTP/1.1 403 Forbidden");
    let error = served.outcome(&task).await.2;
    assert_eq!(
        error[..2],
        ["RBAC_PERMISSION_DENIED", "http/get_export_raw_vdi"]
    );
    // The sessions of these requests ended with them.
    let sessions = served.pool.sim.leaks();
    assert_eq!(
        sessions
            .iter()
            .filter(|leak| leak.class == "session")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_disk_travels_as_vhd() {
    let served = served().await;
    let (from, to) = (served.vdi(8 * MIB).await, served.vdi(8 * MIB).await);
    // The first block, and the last but one; two are not there.
    let mut content = vec![0; 6 * MIB];
    content[..3].copy_from_slice(b"one");
    content[4 * MIB + 7..].copy_from_slice(&bytes(2 * MIB - 7));
    served
        .put(&format!("/import_raw_vdi?vdi={from}"), &content)
        .await;
    let answer = served
        .get(&format!("/export_raw_vdi?vdi={from}&format=vhd"))
        .await;
    assert_eq!(answer.header("content-type"), Some("application/vhd"));
    let file = answer.body;
    let blocks = 2 * (2 * MIB + 512);
    assert_eq!(file.len(), 512 + 1024 + 512 + blocks + 512);
    assert_eq!(&file[..8], b"conectix");
    assert_eq!(&file[512..520], b"cxsparse");
    assert_eq!(file[..512], file[file.len() - 512..]);

    let task = served.task().await;
    let path = format!("/import_raw_vdi?vdi={to}&format=vhd&task_id={task}");
    served.put(&path, &file).await;
    let (status, _, error) = served.outcome(&task).await;
    assert_eq!(status, "success", "{error:?}");
    content.resize(8 * MIB, 0);
    let copy = served.get(&format!("/export_raw_vdi?vdi={to}")).await;
    assert!(copy.body == content);

    // Sectors that are marked as never written leave what is there.
    let mut partial = file.clone();
    let bitmap = 512 + 1024 + 512;
    partial[bitmap] = 0x7f;
    partial[bitmap + 512..bitmap + 515].copy_from_slice(b"two");
    served
        .put(&path.replace(&task, &served.task().await), &partial)
        .await;
    let copy = served.get(&format!("/export_raw_vdi?vdi={to}")).await;
    assert_eq!(&copy.body[..3], b"one");

    for broken in [&file[..file.len() / 2], b"no disk", &content[..]] {
        let task = served.task().await;
        let path = format!("/import_raw_vdi?vdi={to}&format=vhd&task_id={task}");
        served.put(&path, broken).await;
        let error = served.outcome(&task).await.2;
        assert_eq!(error, ["VDI_IO_ERROR", "Device I/O errors"]);
    }
}

#[tokio::test]
async fn what_a_disk_differs_in_travels_alone() {
    let served = served().await;
    let pool = &served.pool;
    let vdi = served.vdi(8 * MIB).await;
    let path = format!("/import_raw_vdi?vdi={vdi}");
    let mut content = bytes(6 * MIB);
    served.put(&path, &content).await;
    let snapshot = text(&pool.call("VDI.snapshot", vec![vdi.as_str().into()]).await);
    let clone = pool.call("VDI.clone", vec![snapshot.as_str().into()]);
    let copy = text(&clone.await);
    // A sector of the second block, and the fourth, which was not there.
    content[3 * MIB] ^= 1;
    content.resize(6 * MIB + 512, 9);
    served.put(&path, &content).await;

    let uuid = text(&pool.get("VDI", "uuid", &snapshot).await);
    let path = format!("/export_raw_vdi?vdi={vdi}&format=vhd&base={uuid}");
    let file = served.get(&path).await.body;
    assert_eq!(file.len(), 512 + 1024 + 512 + 2 * (2 * MIB + 512) + 512);
    assert_eq!(file[63], 4, "it is a differencing disk");
    let parent = file[512 + 40..512 + 56].iter();
    let parent: String = parent.map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(parent, uuid.replace('-', ""));
    let bitmap = file[2048..2048 + 512].iter();
    let set: u32 = bitmap.map(|byte| byte.count_ones()).sum();
    assert_eq!(set, 1, "of a block only what changed is there");

    let path = format!("/import_raw_vdi?vdi={copy}&format=vhd");
    served.put(&path, &file).await;
    content.resize(8 * MIB, 0);
    let copied = served.get(&format!("/export_raw_vdi?vdi={copy}")).await;
    assert!(copied.body == content);

    let same = format!("/export_raw_vdi?vdi={snapshot}&format=vhd&base={snapshot}");
    let nothing = served.get(&same).await.body;
    assert_eq!(nothing.len(), 512 + 1024 + 512 + 512);
    let task = served.task().await;
    let unknown = format!("/export_raw_vdi?vdi={vdi}&format=vhd&base=none&task_id={task}");
    served.get(&unknown).await;
    assert_eq!(served.outcome(&task).await.2[0], "UUID_INVALID");
}

#[tokio::test]
async fn a_disk_travels_as_qcow2() {
    let served = served().await;
    let (from, to) = (served.vdi(8 * MIB).await, served.vdi(8 * MIB).await);
    let mut content = vec![0; 6 * MIB];
    content[..3].copy_from_slice(b"one");
    content[4 * MIB + 7..].copy_from_slice(&bytes(2 * MIB - 7));
    let upload = format!("/import_raw_vdi?vdi={from}");
    served.put(&upload, &content).await;
    let path = format!("/export_raw_vdi?vdi={from}&format=qcow2");
    let answer = served.get(&path).await;
    let name = answer.header("content-disposition").unwrap().to_owned();
    assert!(name.ends_with(".qcow2\""), "{name}");
    let file = answer.body;
    assert_eq!(&file[..8], b"QFI\xfb\0\0\0\x03");
    // Head, two tables, the counts and their table, and 1 + 32 clusters.
    assert_eq!(file.len(), (5 + 33) * 65536);

    let path = format!("/import_raw_vdi?vdi={to}&format=qcow2");
    let task = served.task().await;
    served.put(&format!("{path}&task_id={task}"), &file).await;
    let (status, _, error) = served.outcome(&task).await;
    assert_eq!(status, "success", "{error:?}");
    content.resize(8 * MIB, 0);
    let copy = served.get(&format!("/export_raw_vdi?vdi={to}")).await;
    assert!(copy.body == content);

    // Against a base only clusters that differ are in the file, and others leave what is there.
    content[5 * MIB] ^= 1;
    served.put(&upload, &content).await;
    let delta = format!("/export_raw_vdi?vdi={from}&format=qcow2&base={to}");
    let delta = served.get(&delta).await.body;
    assert_eq!(delta.len(), (5 + 1) * 65536);
    served.put(&path, &delta).await;
    let copy = served.get(&format!("/export_raw_vdi?vdi={to}")).await;
    assert!(copy.body == content);

    let mut unknown = file.clone();
    unknown[79] = 0x10;
    for broken in [&file[..file.len() / 2], b"no disk", &unknown[..]] {
        let task = served.task().await;
        served.put(&format!("{path}&task_id={task}"), broken).await;
        let error = served.outcome(&task).await.2;
        assert_eq!(error, ["VDI_IO_ERROR", "Device I/O errors"]);
    }
}

#[tokio::test]
async fn a_disk_travels_as_an_archive_of_its_blocks() {
    let served = served().await;
    let (from, to) = (served.vdi(8 * MIB).await, served.vdi(8 * MIB).await);
    let mut content = vec![0; 8 * MIB];
    content[3 * MIB + 5..4 * MIB].copy_from_slice(&bytes(MIB - 5));
    served
        .put(&format!("/import_raw_vdi?vdi={from}"), &content)
        .await;
    let answer = served
        .get(&format!("/export_raw_vdi?vdi={from}&format=tar"))
        .await;
    assert_eq!(answer.header("content-type"), Some("application/x-tar"));
    let mut archive = tar::Archive::new(&answer.body[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    // The first and the last block are always there, of the others those with something in them.
    assert_eq!(
        names,
        ["00000000", "00000003", "00000007"]
            .map(|name| [name.to_owned(), format!("{name}.xxhash")])
            .concat()
    );
    let path = format!("/import_raw_vdi?vdi={to}&format=tar");
    served.put(&path, &answer.body).await;
    let copy = served.get(&format!("/export_raw_vdi?vdi={to}")).await;
    assert!(copy.body == content);
    let mut spoilt = answer.body;
    spoilt[4 * MIB / 2] ^= 1;
    for broken in [&spoilt[..], &spoilt[..MIB], b"no archive"] {
        let task = served.task().await;
        served.put(&format!("{path}&task_id={task}"), broken).await;
        assert_eq!(served.outcome(&task).await.0, "failure");
    }
}
