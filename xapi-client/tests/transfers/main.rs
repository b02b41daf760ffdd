//! Transfers through HTTP handlers, against hosts that do what real ones do to clients.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod mock;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mock::{Conversation, EARLY, Mock, Pool, SESSION, TASK};
use tokio::io::AsyncReadExt as _;
use xapi_client::{Client, Compression, DiskFormat, Error, Incoming, Progress, Ref, Result, Trust};

/// More than all buffers between two sockets of one machine hold.
const MUCH: usize = 24 << 20;

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31) >> 3) as u8).collect()
}

fn page(error: &str) -> String {
    let html = format!(
        "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while \
         and try again.<h1> Additional information </h1>{error}</body></html>"
    );
    format!(
        "HTTP/1.1 500 Internal Error\r\ncontent-length: {}\r\ncontent-type: text/html\r\nconnection: close\r\n\
         \r\n{html}",
        html.len()
    )
}

async fn export(client: &Client) -> Result<Vec<u8>> {
    let mut target = Vec::new();
    let disk = client.export_raw_vdi(&Ref::new("OpaqueRef:vdi"), DiskFormat::Raw);
    disk.to(&mut target).await?;
    Ok(target)
}

async fn import(client: &Client, data: &[u8]) -> Result<()> {
    let disk = client.import_raw_vdi(&Ref::new("OpaqueRef:vdi"), DiskFormat::Raw);
    disk.send(data, data.len() as u64).await
}

// Trap 1: the answer begins well whatever happens.

#[tokio::test]
async fn a_download_ends_with_the_connection_and_succeeds_when_the_task_says_so() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.say(data(MUCH)).await;
        talk.pool.succeeds("");
    })
    .await;
    assert!(export(&mock.client().await).await.unwrap() == data(MUCH));
    assert_eq!(mock.pool.count("task.destroy"), 1);
    assert_eq!(mock.pool.count("task.set_status"), 0);
}

#[tokio::test]
async fn a_failed_download_is_known_from_the_task_alone() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.say("part").await;
        talk.pool.fails(&["VDI_IO_ERROR", "Device I/O errors"]);
    })
    .await;
    let error = export(&mock.client().await).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "VDI_IO_ERROR");
    assert_eq!(error.failure().unwrap().method, "GET /export_raw_vdi");
}

#[tokio::test]
async fn an_upload_succeeds_with_the_result_of_the_task() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        assert!(talk.hear(MUCH).await == data(MUCH));
        let vms = "<value><array><data><value>OpaqueRef:vm</value></data></array></value>";
        talk.pool.succeeds(vms);
    })
    .await;
    let archive = data(MUCH);
    let client = mock.client().await;
    let import = client.import_vm(Some(&Ref::new("OpaqueRef:sr")));
    let vms = import.send(&archive[..], MUCH as u64).await.unwrap();
    assert_eq!(vms, [Ref::new("OpaqueRef:vm")]);
    assert_eq!(mock.pool.count("task.destroy"), 1);
}

#[tokio::test]
async fn a_failed_upload_is_known_from_the_task_alone() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.hear(MUCH).await;
        talk.pool.fails(&["IMPORT_ERROR_SOME_CHECKSUMS_FAILED"]);
    })
    .await;
    let error = import(&mock.client().await, &data(MUCH)).await.unwrap_err();
    let code = error.code().unwrap().as_str();
    assert_eq!(code, "IMPORT_ERROR_SOME_CHECKSUMS_FAILED");
}

// Trap 2: a late failure is a text within the data.

#[tokio::test]
async fn a_refusal_appended_to_the_data_is_no_data() {
    for is_task_wrong in [false, true] {
        let mock = Mock::start(move |mut talk| async move {
            talk.say(EARLY).await;
            talk.say(data(5000)).await;
            talk.say(page("VDI_IO_ERROR: [ Device I/O errors ]")).await;
            if is_task_wrong {
                talk.pool.succeeds("");
            } else {
                talk.pool.fails(&["VDI_IO_ERROR", "Device I/O errors"]);
            }
        })
        .await;
        let error = export(&mock.client().await).await.unwrap_err();
        assert_eq!(error.code().unwrap().as_str(), "VDI_IO_ERROR");
    }
}

#[tokio::test]
async fn a_disk_that_is_a_refusal_from_its_first_byte_is_none() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.say(page("INTERNAL_ERROR: [ vhd-tool ]")).await;
    })
    .await;
    let client = mock.client().await;
    let export = client.download("/export_raw_vdi").without_task();
    let error = export.to(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "INTERNAL_ERROR");
}

#[tokio::test]
async fn data_that_ends_before_its_length_is_a_broken_transfer() {
    let mock = Mock::start(|mut talk| async move {
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
    })
    .await;
    let client = mock.client().await;
    let download = client.download("/export_metadata").without_task();
    let error = download.to(&mut Vec::new()).await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error}");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the data ended after 4 of 10 bytes");
}

// Trap 3: another host has the storage.

/// Two hosts of a pool, of which the first sends to the second.
async fn two<F>(tls: bool, second: impl Fn(Conversation) -> F + Send + Sync + 'static) -> [Mock; 2]
where
    F: Future<Output = ()> + Send + 'static,
{
    let pool = Pool::new();
    let first = |mut talk: Conversation| async move {
        let address = talk.head.split(' ').nth(1).unwrap();
        let redirect = format!(
            "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: https://127.0.0.2{address}\r\n\r\n"
        );
        talk.say(redirect).await;
        let body = talk.hear(1).await;
        assert!(body.is_empty(), "the wrong host got data");
    };
    let first = Mock::serve("127.0.0.1:0", pool.clone(), tls, first).await;
    let address = format!("127.0.0.2:{}", first.port);
    let second = Mock::serve(&address, pool, tls, second).await;
    [first, second]
}

async fn take(mut talk: Conversation) {
    talk.say(EARLY).await;
    assert!(talk.hear(MUCH).await == data(MUCH));
    talk.pool.succeeds("");
}

#[tokio::test]
async fn an_upload_goes_to_the_right_host_before_any_data_is_sent() {
    let [first, second] = two(false, take).await;
    import(&first.client().await, &data(MUCH)).await.unwrap();
    assert_eq!(first.heads().len(), 1);
    let head = second.heads().remove(0);
    assert!(head.starts_with(&format!(
        "PUT /import_raw_vdi?vdi=OpaqueRef:vdi&format=raw&task_id={TASK} HTTP/1.1\r\n"
    )));
    assert_eq!(first.pool.count("task.create"), 1);
}

#[tokio::test]
async fn a_download_follows_to_the_right_host() {
    let [first, _second] = two(false, |mut talk: Conversation| async move {
        talk.say(EARLY).await;
        talk.say("data").await;
        talk.pool.succeeds("");
    })
    .await;
    assert_eq!(export(&first.client().await).await.unwrap(), b"data");
}

#[tokio::test]
async fn hosts_that_send_in_circles_are_left() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(
            "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
    })
    .await;
    let error = export(&mock.client().await).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 302, .. }),
        "{error}"
    );
    assert_eq!(mock.heads().len(), 4);
    assert_eq!(mock.pool.count("task.destroy"), 1);
}

#[tokio::test]
async fn the_right_host_is_trusted_only_if_it_is_pinned_too() {
    let [first, second] = two(true, take).await;
    let pins = [&first, &second].map(|mock| mock.fingerprint.unwrap());
    let client = first.client_with(Trust::PinnedAny(pins.to_vec())).await;
    import(&client, &data(MUCH)).await.unwrap();

    let error = import(&first.client().await, &data(MUCH))
        .await
        .unwrap_err();
    let Error::Untrusted {
        host, fingerprint, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(host, "127.0.0.2");
    assert_eq!(*fingerprint, pins[1]);
    assert_eq!(second.heads().len(), 1, "nothing was sent to it");
}

#[tokio::test]
async fn a_host_can_be_asked_first() {
    let [first, second] = two(false, |mut talk: Conversation| async move {
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlogs")
            .await;
    })
    .await;
    let client = first.client().await;
    let logs = client.download("/host_logs_download").without_task();
    let mut target = Vec::new();
    logs.at(&Ref::new("OpaqueRef:host"))
        .to(&mut target)
        .await
        .unwrap();
    assert_eq!(target, b"logs");
    assert!(first.heads().is_empty());
    assert_eq!(second.heads().len(), 1);
}

// Trap 4: lengths are told, and nothing is chunked.

#[tokio::test]
async fn lengths_are_told_and_nothing_is_chunked() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.hear(3).await;
        talk.pool.succeeds("");
    })
    .await;
    import(&mock.client().await, b"abc").await.unwrap();
    let head = mock.heads().remove(0).to_ascii_lowercase();
    assert!(head.contains("\r\ncontent-length: 3\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
}

#[tokio::test]
async fn an_archive_may_leave_its_length_open_and_a_disk_may_not() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        assert_eq!(talk.hear(7).await, b"archive");
        talk.pool
            .succeeds("<value><array><data></data></array></value>");
    })
    .await;
    let client = mock.client().await;
    let source = b"archive".as_slice();
    let vms = client.import_vm(None).send(source, None).await.unwrap();
    assert!(vms.is_empty());
    let head = mock.heads().remove(0).to_ascii_lowercase();
    assert!(!head.contains("content-length"), "{head}");

    let disk = client.import_raw_vdi(&Ref::new("OpaqueRef:vdi"), DiskFormat::Vhd);
    let error = disk.send(source, None).await.unwrap_err();
    assert!(error.to_string().contains("give the length"), "{error}");
    assert_eq!(
        mock.pool.count("task.create"),
        1,
        "no task was made in vain"
    );
}

// Traps 5 and 7: the upload goes on after the answer, whatever the answer says of itself.

#[tokio::test]
async fn an_upload_goes_on_after_an_answer_that_is_complete_already() {
    let mock = Mock::start(|mut talk| async move {
        talk.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert!(talk.hear(MUCH).await == data(MUCH));
        talk.pool.succeeds("");
    })
    .await;
    import(&mock.client().await, &data(MUCH)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_reads_before_it_answers_gets_the_data() {
    let mock = Mock::start(|mut talk| async move {
        assert!(talk.hear(MUCH).await == data(MUCH));
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        talk.until_closed().await;
    })
    .await;
    let client = mock.client().await;
    let upload = client.upload::<()>("/blob").without_task();
    let upload = upload.answer_timeout(Duration::ZERO);
    upload.send(&data(MUCH)[..], MUCH as u64).await.unwrap();
}

#[tokio::test]
async fn what_such_a_server_answers_late_counts() {
    let mock = Mock::start(|mut talk| async move {
        talk.hear(4).await;
        talk.say(page("XENAPI_MISSING_PLUGIN: [ x ]")).await;
    })
    .await;
    let client = mock.client().await;
    let upload = client.upload::<()>("/blob").without_task();
    let upload = upload.answer_timeout(Duration::ZERO);
    let error = upload.send(b"data".as_slice(), 4).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "XENAPI_MISSING_PLUGIN");
}

#[tokio::test]
async fn tls_that_ends_without_a_farewell_is_the_end_of_the_data() {
    // The server of this test never says one.
    let answer = |mut talk: Conversation| async move {
        talk.say(EARLY).await;
        talk.say("data").await;
        talk.pool.succeeds("");
    };
    let mock = Mock::serve("127.0.0.1:0", Pool::new(), true, answer).await;
    assert_eq!(export(&mock.client().await).await.unwrap(), b"data");
}

#[tokio::test]
async fn data_that_the_disk_has_no_room_for_fails_with_what_the_server_says() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.hear(1024).await;
        talk.pool
            .fails(&["INTERNAL_ERROR", "No space left on device"]);
        // The rest of the data is not read: the connection is reset.
    })
    .await;
    let error = import(&mock.client().await, &data(MUCH)).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "INTERNAL_ERROR");
}

#[tokio::test]
async fn an_archive_whose_padding_is_not_read_is_imported() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.hear(1024).await;
        talk.pool
            .succeeds("<value><array><data></data></array></value>");
    })
    .await;
    let archive = data(MUCH);
    let client = mock.client().await;
    let import = client.import_vm(None);
    import.send(&archive[..], MUCH as u64).await.unwrap();
}

#[tokio::test]
async fn a_task_that_ends_before_any_data_is_no_success() {
    let mock = Mock::start(|mut talk| async move {
        talk.pool.succeeds("");
        talk.until_closed().await;
    })
    .await;
    let error = import(&mock.client().await, b"data").await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error}");
}

// Trap 6: refusals are pages.

#[tokio::test]
async fn a_refusal_gives_the_error_that_its_page_holds() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(page("HANDLE_INVALID: [ VDI; OpaqueRef:vdi ]"))
            .await;
    })
    .await;
    let client = mock.client().await;
    for error in [
        export(&client).await.unwrap_err(),
        import(&client, b"data").await.unwrap_err(),
    ] {
        let failure = error.failure().unwrap();
        assert!(failure.is_gone());
        assert_eq!(failure.params, ["VDI", "OpaqueRef:vdi"]);
    }
}

#[tokio::test]
async fn a_refusal_without_a_reason_gives_that_of_the_task() {
    let mock = Mock::start(|mut talk| async move {
        talk.pool.fails(&["INTERNAL_ERROR", "Unknown format qcow2"]);
        talk.say("HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\n")
            .await;
    })
    .await;
    let error = export(&mock.client().await).await.unwrap_err();
    assert_eq!(error.failure().unwrap().params, ["Unknown format qcow2"]);
}

#[tokio::test]
async fn a_session_that_is_gone_is_replaced_once() {
    let refusal = "HTTP/1.1 401 Unauthorised\r\nContent-Length: 0\r\n\r\n";
    let mock = Mock::start(move |mut talk| async move { talk.say(refusal).await }).await;
    let error = export(&mock.client().await).await.unwrap_err();
    assert!(
        error.to_string().contains("the session is not accepted"),
        "{error}"
    );
    assert_eq!(mock.pool.count("session.login_with_password"), 2);
    assert_eq!(mock.heads().len(), 2);
}

// Trap 8: tasks that nobody awaits stay.

#[tokio::test]
async fn a_refused_transfer_leaves_no_task() {
    let mock = Mock::start(|mut talk| async move {
        talk.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            .await;
    })
    .await;
    let error = export(&mock.client().await).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 403, .. }),
        "{error}"
    );
    let calls = mock.pool.calls();
    assert!(
        calls.ends_with(&["task.cancel", "task.set_status", "task.destroy"].map(str::to_owned))
    );
}

#[tokio::test]
async fn a_dropped_download_ends_on_both_sides_and_leaves_no_task() {
    let (closed, saw) = tokio::sync::oneshot::channel();
    let closed = Arc::new(Mutex::new(Some(closed)));
    let mock = Mock::start(move |mut talk| {
        let closed = closed.clone();
        async move {
            talk.say(EARLY).await;
            talk.say("data").await;
            talk.until_closed().await;
            closed.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    })
    .await;
    let client = mock.client().await;
    let download = client.export_vm(&Ref::new("OpaqueRef:vm"), Compression::Zstd);
    let mut incoming = download.open().await.unwrap();
    let mut bytes = [0; 4];
    incoming.read_exact(&mut bytes).await.unwrap();
    drop(incoming);
    saw.await.unwrap();
    mock.pool.called("task.destroy").await;
    assert_eq!(mock.pool.count("task.set_status"), 1);
}

#[tokio::test]
async fn a_dropped_upload_ends_on_both_sides_and_leaves_no_task() {
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let begun = Arc::new(Mutex::new(Some(begun)));
    let mock = Mock::start(move |mut talk| {
        let begun = begun.clone();
        async move {
            talk.say(EARLY).await;
            talk.hear(4).await;
            begun.lock().unwrap().take().unwrap().send(()).unwrap();
            talk.until_closed().await;
        }
    })
    .await;
    let client = mock.client().await;
    let (source, mut feed) = tokio::io::duplex(1024);
    let upload = tokio::spawn(async move {
        let disk = client.import_raw_vdi(&Ref::new("OpaqueRef:vdi"), DiskFormat::Raw);
        disk.send(source, 1 << 20).await
    });
    tokio::io::AsyncWriteExt::write_all(&mut feed, b"data")
        .await
        .unwrap();
    has_begun.await.unwrap();
    upload.abort();
    mock.pool.called("task.destroy").await;
    assert_eq!(mock.pool.count("task.set_status"), 1);
}

#[tokio::test]
async fn a_source_that_ends_early_is_named_and_leaves_no_task() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.until_closed().await;
    })
    .await;
    let client = mock.client().await;
    let disk = client.import_raw_vdi(&Ref::new("OpaqueRef:vdi"), DiskFormat::Raw);
    let error = disk.send(b"half".as_slice(), 8).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the data of PUT /import_raw_vdi"
    );
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "it ended after 4 of 8 bytes");
    assert_eq!(mock.pool.count("task.destroy"), 1);
}

// What holds for all of them.

#[tokio::test]
async fn the_session_is_in_a_cookie_and_in_no_address() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.pool.succeeds("");
    })
    .await;
    export(&mock.client().await).await.unwrap();
    let head = mock.heads().remove(0);
    let (address, rest) = head.split_once("\r\n").unwrap();
    assert!(!address.contains(SESSION), "{address}");
    assert!(
        rest.contains(&format!("cookie: session_id={SESSION}\r\n")),
        "{rest}"
    );
}

#[tokio::test]
async fn a_head_that_servers_do_not_read_is_not_sent() {
    let mock = Mock::start(|_| async {}).await;
    let client = mock.client().await;
    let update = client.download("/services/SM").query("x", &"y".repeat(900));
    let error = update.to(&mut Vec::new()).await.unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { part: "head", .. }),
        "{error}"
    );
    assert!(mock.heads().is_empty());
    assert_eq!(mock.pool.count("task.destroy"), 1);
}

#[tokio::test]
async fn progress_tells_bytes_and_what_the_server_says() {
    let mock = Mock::start(|mut talk| async move {
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nda")
            .await;
        talk.pool.progresses(0.5);
        talk.say("ta").await;
        talk.pool.succeeds("");
    })
    .await;
    let told = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let client = mock.client().await;
    let telling = told.clone();
    let download = client.download("/export_metadata");
    let download = download.progress(move |progress| telling.lock().unwrap().push(progress));
    download.to(&mut Vec::new()).await.unwrap();
    let told = told.lock().unwrap();
    assert!(told.iter().all(|progress| progress.total == Some(4)));
    let last = told.last().unwrap();
    assert_eq!((last.bytes, last.server), (4, 1.0));
    assert!(told.is_sorted_by_key(|progress| progress.bytes));
}

#[tokio::test]
async fn a_reader_sees_no_end_but_a_good_one() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.say("part").await;
        talk.pool.fails(&["VDI_IO_ERROR", "Device I/O errors"]);
    })
    .await;
    let client = mock.client().await;
    let download = client.export_raw_vdi(&Ref::new("OpaqueRef:vdi"), DiskFormat::Vhd);
    let mut incoming = download.open().await.unwrap();
    let error = incoming.read_to_end(&mut Vec::new()).await.unwrap_err();
    let error = Incoming::into_error(error);
    assert_eq!(error.code().unwrap().as_str(), "VDI_IO_ERROR");
}

#[tokio::test]
async fn a_transfer_that_stands_still_is_given_up() {
    let mock = Mock::start(|mut talk| async move {
        talk.say(EARLY).await;
        talk.until_closed().await;
    })
    .await;
    let client = mock.client().await;
    let download = client.download("/export").without_task();
    let download = download.stall_timeout(Duration::from_millis(200));
    let error = download.to(&mut Vec::new()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}
