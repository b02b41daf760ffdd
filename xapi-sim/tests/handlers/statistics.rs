//! Statistics and consoles.

use super::*;

fn inner<'t>(text: &'t str, tag: &str) -> &'t str {
    let (_, rest) = text.split_once(&format!("<{tag}>")).unwrap();
    rest.split_once(&format!("</{tag}>")).unwrap().0
}

#[tokio::test]
async fn updates_have_the_rows_since_a_time_the_newest_first() {
    let served = served().await;
    let vm = served.pool.vm("busy").await;
    served.pool.start(&vm).await;
    served.pool.reported(&vm).await;
    let uuid = text(&served.pool.get("VM", "uuid", &vm).await);
    let answer = served.get("/rrd_updates?start=-60&host=true").await;
    assert_eq!(answer.status(), "HTTP/1.1 200 OK");
    assert_eq!(answer.header("content-type"), Some("text/xml"));
    let body = answer.text();
    let length = answer.header("content-length").unwrap();
    assert_eq!(length, body.len().to_string());
    assert_eq!(inner(&body, "step"), "5");
    let columns = body.matches("<entry>").count();
    assert_eq!(inner(&body, "columns"), columns.to_string());
    let rows: Vec<&str> = body.split("<row>").skip(1).collect();
    assert_eq!(inner(&body, "rows"), rows.len().to_string());
    let times: Vec<u64> = rows
        .iter()
        .map(|row| inner(row, "t").parse().unwrap())
        .collect();
    assert_eq!(times.len(), 13);
    assert!(times.windows(2).all(|pair| pair[0] == pair[1] + 5));
    assert!(rows.iter().all(|row| row.matches("<v>").count() == columns));
    assert!(body.contains("<entry>AVERAGE:host:"));
    assert!(body.contains(&format!("<entry>AVERAGE:vm:{uuid}:cpu0</entry>")));
    // The VM has not run for so long.
    assert!(rows[12].contains("<v>NaN</v>"));
}

#[tokio::test]
async fn json_has_numbers_that_are_none() {
    let served = served().await;
    let vm = served.pool.vm("busy").await;
    served.pool.start(&vm).await;
    let uuid = text(&served.pool.get("VM", "uuid", &vm).await);
    let path = format!("/rrd_updates?start=-600&interval=60&json=true&vm_uuid={uuid}");
    let body = served.get(&path).await.text();
    assert!(body.starts_with("{\"meta\":{\"start\":"), "{body}");
    assert!(body.contains("\"step\":60,"), "{body}");
    assert!(body.contains(",NaN"), "{body}");
    assert!(!body.contains(":host:"));
}

#[tokio::test]
async fn whole_histories() {
    let served = served().await;
    let vm = served.pool.vm("busy").await;
    let uuid = text(&served.pool.get("VM", "uuid", &vm).await);
    let path = format!("/vm_rrd?uuid={uuid}");
    assert_eq!(served.get(&path).await.status(), "HTTP/1.1 404 Not Found");
    served.pool.start(&vm).await;
    let sr = served.pool.named("SR", "Local storage").await;
    let sr = text(&served.pool.get("SR", "uuid", &sr).await);
    for path in [path, "/host_rrd".to_owned(), format!("/sr_rrd?uuid={sr}")] {
        let answer = served.get(&path).await;
        assert_eq!(answer.status(), "HTTP/1.0 200 OK", "{path}");
        let body = answer.text();
        assert_eq!(body.matches("<rra>").count(), 4);
        assert_eq!(body.matches("<row>").count(), 120 + 120 + 168 + 366);
        assert!(body.contains("<max>Infinity</max>"));
    }
    let body = served.get("/host_rrd?json=true").await.text();
    assert!(body.starts_with("{\"version\":\"0003\",\"step\":5,"));
}

#[tokio::test]
async fn what_is_missing_or_wrong() {
    let served = served().await;
    for (path, text) in [
        ("/rrd_updates", "Not_found"),
        ("/rrd_updates?start=soon", "Int64.of_string"),
        ("/rrd_updates?start=0&vm_uuid=none", "No_RRA_Available"),
        ("/sr_rrd?uuid=none", "No SR RRD available!"),
        ("/vm_rrd?uuid=none", "UUID_INVALID: [ VM; none ]"),
    ] {
        let answer = served.get(path).await;
        assert_eq!(answer.status(), "HTTP/1.1 500 Internal Error", "{path}");
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn consoles_are_found_and_show_nothing() {
    let served = served().await;
    let vm = served.pool.vm("screen").await;
    let connect = |query: String| format!("CONNECT /console?{query}");
    let served = &served;
    let status = |request: String| async move {
        let answer = served.ask(&request, "", b"").await;
        answer.status().to_owned()
    };
    let broken = "HTTP/1.1 500 Internal Error";
    for query in [String::new(), "ref=nope".to_owned(), format!("ref={vm}")] {
        assert_eq!(status(connect(query)).await, broken);
    }
    served.pool.start(&vm).await;
    let query = format!("ref={vm}");
    assert_eq!(
        status(connect(query.clone())).await,
        "HTTP/1.1 404 Not Found"
    );
    let browser = format!("GET /console?{query}");
    assert_eq!(status(browser).await, "HTTP/1.1 404 Not Found");
    let alone = served.ask_alone(&connect(query), "", b"").await;
    let realm = alone.header("www-authenticate");
    assert_eq!(realm, Some("Basic realm=\"connect_console\""));
}

#[tokio::test]
async fn handlers_that_are_not_simulated_say_so_and_are_listed() {
    let served = served().await;
    let answer = served.put("/messages", b"").await;
    assert!(answer.text().contains("NOT_IMPLEMENTED: [ put_messages ]"));
    assert_eq!(served.pool.sim.unimplemented(), ["PUT /messages"]);
    let task = served.task().await;
    served.put(&format!("/messages?task_id={task}"), b"").await;
    let (status, _, error) = served.outcome(&task).await;
    assert_eq!(
        (status.as_str(), error[0].as_str()),
        ("failure", "NOT_IMPLEMENTED")
    );
}

#[tokio::test]
async fn the_database_is_dumped_as_it_is_kept() {
    let served = served().await;
    let task = served.task().await;
    let answer = served.get(&format!("/pool/xmldbdump?task_id={task}")).await;
    assert_eq!(served.outcome(&task).await.0, "success");
    let text = answer.text();
    let table = |name: &str| {
        let (_, rest) = text.split_once(&format!("<table name=\"{name}\">"))?;
        Some(rest.split_once("</table>").unwrap().0)
    };
    let vms = served.pool.call("VM.get_all", vec![]).await;
    let rows = table("VM").unwrap();
    assert_eq!(rows.matches("<row ref=").count(), vms.items().len());
    assert!(rows.contains(" name__label=\"Control%.domain%.on%.host:%.xcp-ng\""));
    assert!(table("task").is_none() && table("session").is_none());
    assert!(text.contains("<pair key=\"schema_major_vsn\" value=\"5\"/>"));
}

#[tokio::test]
async fn the_audit_log_tells_who_has_changed_what() {
    let served = served().await;
    let pool = &served.pool;
    let vm = pool.vm("audited").await;
    let uuid = text(&pool.get("VM", "uuid", &vm).await);
    pool.fails("VM.unpause", vec![vm.as_str().into()]).await;
    let log = served.get("/audit_log").await;
    assert_eq!(log.header("content-type"), Some("text/plain"));
    let log = log.text();
    let of = |method: &str| {
        let mut lines = log
            .lines()
            .filter(|line| line.contains(&format!("'{method}'")));
        lines.next().unwrap_or_default().to_owned()
    };
    let made = of("VM.provision");
    let ending = format!("'API' 'VM.provision' (('vm' 'audited' '{uuid}' '{vm}')))");
    assert!(made.ends_with(&ending), "{made}");
    assert!(
        made.contains("'LOCAL_SUPERUSER' 'root' 'ALLOWED' 'OK'"),
        "{made}"
    );
    assert!(!log.contains(&pool.session), "sessions are secrets");
    let refused = of("VM.unpause");
    assert!(
        refused.contains("'ALLOWED' 'ERROR:VM_BAD_POWER_STATE: ["),
        "{refused}"
    );
    assert_eq!(of("VM.get_uuid"), "", "reading is not noted");
    // A time in any of its forms; nothing has happened yet in the next century.
    for (since, some) in [
        ("2020-01-01T00:00:00Z", true),
        ("20200101", true),
        ("2120", false),
    ] {
        let log = served.get(&format!("/audit_log?since={since}")).await;
        assert_eq!(log.text().contains("VM.provision"), some, "{since}");
    }
}

#[tokio::test]
async fn a_status_report_is_an_archive() {
    let served = served().await;
    served.pool.vm("reported").await;
    let answer = served.get("/system-status?entries=x&output=tar").await;
    let name = answer.header("content-disposition").unwrap();
    assert!(name.ends_with("filename=\"system_status.tgz\""));
    let mut archive = tar::Archive::new(&answer.body[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names[0].ends_with("/var/log/audit.log"), "{names:?}");
    let task = served.task().await;
    served
        .get(&format!("/system-status?output=zip&task_id={task}"))
        .await;
    assert_eq!(
        served.outcome(&task).await.2[0],
        "SYSTEM_STATUS_RETRIEVAL_FAILED"
    );
}
