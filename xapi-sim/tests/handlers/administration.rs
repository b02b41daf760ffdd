//! What administrators take from hosts and put back: backups, databases, logs, blobs.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;

use super::common::login;
use super::*;

/// The names of the files in a compressed archive, and the text of one.
fn unpack(body: &[u8], wanted: &str) -> (Vec<String>, String) {
    let mut archive = tar::Archive::new(MultiGzDecoder::new(body));
    let (mut names, mut found) = (Vec::new(), String::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        if name == wanted {
            entry.read_to_string(&mut found).unwrap();
        }
        names.push(name);
    }
    (names, found)
}

#[tokio::test]
async fn a_host_is_backed_up_and_takes_its_backup_back() {
    let served = served().await;
    served.pool.vm("kept").await;
    let task = served.task().await;
    let backup = served.get(&format!("/host_backup?task_id={task}")).await;
    assert_eq!(backup.status(), "HTTP/1.1 200 OK");
    assert_eq!(served.outcome(&task).await.0, "success");
    let (names, database) = unpack(&backup.body, "var/xapi/state.db");
    assert_eq!(names, ["etc/xensource-inventory", "var/xapi/state.db"]);
    assert!(database.contains(" name__label=\"kept\""));
    for (body, error) in [
        (backup.body, ""),
        (b"no backup".to_vec(), "RESTORE_SCRIPT_FAILED"),
    ] {
        let task = served.task().await;
        served
            .put(&format!("/host_restore?task_id={task}"), &body)
            .await;
        let failure = served.outcome(&task).await.2;
        assert_eq!(failure.first().map_or("", String::as_str), error);
    }
}

#[tokio::test]
async fn logs_come_as_an_archive() {
    let served = served().await;
    served.pool.vm("logged").await;
    let logs = served.get("/host_logs_download").await;
    let (names, audit) = unpack(&logs.body, "var/log/audit.log");
    assert_eq!(names, ["var/log/audit.log"]);
    assert!(audit.contains("'VM.provision'"), "{audit}");
}

#[tokio::test]
async fn a_database_is_tried_and_then_put_back() {
    let served = served().await;
    let pool = &served.pool;
    let kept = pool.vm("kept").await;
    let dump = served.get("/pool/xmldbdump").await.body;
    pool.call(
        "VM.set_name_label",
        vec![kept.as_str().into(), "renamed".into()],
    )
    .await;
    let late = pool.vm("late").await;
    let try_out = async |dump: &[u8]| {
        let task = served.task().await;
        let path = format!("/pool/xmldbdump?dry_run=true&task_id={task}");
        let answer = served.put(&path, dump).await;
        // It comes before the dump is looked at.
        assert_eq!(answer.status(), "HTTP/1.1 200 OK");
        served.outcome(&task).await.2
    };
    assert!(try_out(&dump).await.is_empty());
    let text = String::from_utf8(dump.clone()).unwrap();
    let newer = text.replace(
        "key=\"schema_minor_vsn\" value=\"",
        "key=\"schema_minor_vsn\" value=\"9",
    );
    assert_eq!(
        try_out(newer.as_bytes()).await,
        ["RESTORE_INCOMPATIBLE_VERSION"]
    );
    let other = text.replace(" device=\"eth0\"", " device=\"eth7\"");
    assert_eq!(
        try_out(other.as_bytes()).await,
        ["RESTORE_TARGET_MISSING_DEVICE", "eth7"]
    );
    assert_eq!(try_out(b"<no dump").await[0], "INTERNAL_ERROR");
    let label = pool.get("VM", "name_label", &late).await;
    assert_eq!(label, "late".into(), "nothing has happened so far");

    served.put("/pool/xmldbdump", &dump).await;
    // The host starts anew, which ends whatever waits for it.
    let nothing = vec![Value::strings(["nothing"]), "".into(), 60.0.into()];
    pool.fails("event.from", nothing).await;
    let session = Value::from(login(&pool.sim).await);
    let name = vec![session.clone(), kept.as_str().into()];
    let label = pool.sim.call("VM.get_name_label", name).await.unwrap();
    assert_eq!(label, "kept".into());
    let gone = vec![session.clone(), late.as_str().into()];
    assert!(pool.sim.call("VM.get_name_label", gone).await.is_err());
    // It works as before.
    let start = vec![session, kept.as_str().into(), false.into(), false.into()];
    pool.sim.call("VM.start", start).await.unwrap();
}

#[tokio::test]
async fn blobs_hold_bytes_and_may_be_read_by_all() {
    let served = served().await;
    let pool = &served.pool;
    let content = bytes(2 * MIB + 5);
    let create = |public: bool| pool.call("blob.create", vec!["image/png".into(), public.into()]);
    let (private, public) = (text(&create(false).await), text(&create(true).await));
    let path = format!("/blob?ref={private}");
    assert_eq!(served.get(&path).await.status(), "HTTP/1.1 404 Not Found");
    for blob in [&private, &public] {
        served.put(&format!("/blob?ref={blob}"), &content).await;
    }
    let answer = served.get(&path).await;
    assert!(answer.body == content);
    assert_eq!(answer.header("content-type"), Some("image/png"));
    let size = pool.get("blob", "size", &private).await;
    assert_eq!(size, (content.len() as i64).into());
    let alone = async |blob: &str| {
        let uuid = text(&pool.get("blob", "uuid", blob).await);
        let request = format!("GET /blob?uuid={uuid}");
        served
            .ask_alone(&request, "", b"")
            .await
            .status()
            .to_owned()
    };
    assert_eq!(alone(&public).await, "HTTP/1.1 200 OK");
    assert_eq!(alone(&private).await, "HTTP/1.1 401 Unauthorised");
    assert_eq!(
        served.get("/blob").await.status(),
        "HTTP/1.1 400 Bad Request"
    );
    pool.call("blob.destroy", vec![private.as_str().into()])
        .await;
    assert_eq!(served.get(&path).await.status(), "HTTP/1.1 404 Not Found");
}

#[tokio::test]
async fn services_are_listed_as_they_describe_themselves() {
    let served = served().await;
    let all = served.get("/services").await;
    assert_eq!(all.status(), "HTTP/1.0 200 OK");
    assert!(all.text().contains("\"driver\":\"mux\""), "{}", all.text());
    let drivers = served.get("/services/SM").await.text();
    assert!(drivers.starts_with("[{\"driver\":\""), "{drivers}");
    let one = served.get("/services/SM/nfs").await.text();
    assert!(one.starts_with("{\"driver\":\"nfs\",") && drivers.contains(&one));
    for path in ["/services/SM/floppy", "/services/attic", "/services/xenops"] {
        let answer = served.get(path).await;
        assert_eq!(answer.status(), "HTTP/1.0 404 Not Found", "{path}");
    }
    let alone = served.ask_alone("GET /services", "", b"").await;
    assert_eq!(alone.status(), "HTTP/1.1 401 Unauthorised");
}

#[tokio::test]
async fn what_no_model_has_is_refused_as_by_a_host_without_it() {
    let served = served().await;
    for (request, error) in [
        ("GET /wlb_report?report=x&", "WLB_NOT_INITIALIZED"),
        ("GET /wlb_diagnostics?", "WLB_NOT_INITIALIZED"),
        ("GET /updates?", "NO_REPOSITORY_ENABLED"),
        ("GET /host_updates?", "NO_REPOSITORY_ENABLED"),
        ("PUT /bundle?", "BUNDLE_REPO_NOT_ENABLED"),
    ] {
        let task = served.task().await;
        let answer = served
            .ask(&format!("{request}task_id={task}"), "", b"")
            .await;
        assert_eq!(answer.status(), "HTTP/1.1 500 Internal Error", "{request}");
        assert!(answer.text().contains(error), "{request}");
        assert_eq!(served.outcome(&task).await.2, [error], "{request}");
    }
    let bare = served.get("/wlb_report").await.text();
    assert!(bare.contains("Failure(&quot;Bad request&quot;)"), "{bare}");
    assert!(served.pool.sim.unimplemented().is_empty());
}

#[tokio::test]
async fn no_console_shows_anything_to_take_a_picture_of() {
    let served = served().await;
    let vm = served.pool.vm("shown").await;
    let path = format!("/vncsnapshot?ref={vm}");
    let halted = served.get(&path).await.text();
    assert!(halted.contains("Console.Failure"), "{halted}");
    served.pool.start(&vm).await;
    let running = served.get(&path).await;
    assert_eq!(running.status(), "HTTP/1.1 500 Internal Error");
    assert!(running.text().contains("Subprocess_failed"));
}
