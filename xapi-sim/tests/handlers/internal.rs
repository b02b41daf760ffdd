//! What hosts and `xe` ask for, and what others get who ask for it.

use tokio::io::AsyncReadExt as _;

use super::*;

const MAGIC: &[u8] = b"XenSource thin CLI protocol";

/// What the server says to a command line and a greeting, after its own greeting.
async fn cli(served: &Served, greeting: &[u8]) -> Vec<u8> {
    let mut wire = Wire::over(TcpStream::connect(served.server.address()).await.unwrap());
    let line = "vm-list\nusername=root\npassword=guessed";
    let head = format!(
        "POST /cli HTTP/1.0\r\ncontent-length: {}\r\n\r\n{line}",
        line.len()
    );
    wire.send(head.as_bytes()).await;
    let mut first = vec![0; MAGIC.len() + 8];
    wire.stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, [MAGIC, &[0, 0, 0, 0, 2, 0, 0, 0]].concat());
    wire.send_and_read_to_end(greeting).await
}

#[tokio::test]
async fn xe_is_told_in_its_own_protocol_that_it_has_no_commands() {
    let served = served().await;
    let told = cli(&served, &[MAGIC, &[0, 0, 0, 0, 2, 0, 0, 0]].concat()).await;
    let text = b"Error: xapi-sim has none of the commands of xe; use the API\n";
    let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let print = [number(9), number(16), number(text.len())].concat();
    let exit = [number(9), number(4), number(1)].concat();
    let length = number(print.len() + text.len());
    let expected = [&length[..], &print, text, &number(exit.len()), &exit].concat();
    assert_eq!(told, expected);
    assert_eq!(served.pool.sim.unimplemented(), ["POST /cli"]);
    for (greeting, said) in [
        (
            [MAGIC, &[1, 0, 0, 0, 2, 0, 0, 0]].concat(),
            "Version mismatch",
        ),
        (vec![b'x'; MAGIC.len() + 8], "Protocol mismatch"),
    ] {
        let told = String::from_utf8(cli(&served, &greeting).await).unwrap();
        assert!(
            told.starts_with("HTTP/1.0 500 ") && told.contains(said),
            "{told}"
        );
    }
}

#[tokio::test]
async fn what_hosts_do_for_each_other_is_not_done_for_others() {
    let served = served().await;
    let task = served.task().await;
    let answer = served
        .ask(
            &format!("CONNECT /remotecmd?cmd=rsync&task_id={task}"),
            "",
            b"",
        )
        .await;
    assert!(
        answer.text().contains("Not a pool session"),
        "{}",
        answer.text()
    );
    assert_eq!(served.outcome(&task).await.2[0], "INTERNAL_ERROR");

    let answer = served.get("/sync_config_files/2").await;
    assert_eq!(answer.text(), r#"{"password":"*"}"#);
    let answer = served.get("/sync_config_files").await;
    assert!(
        answer.text().starts_with("root:*:0:0:"),
        "{}",
        answer.text()
    );
    assert_eq!(
        served.get("/repository/x").await.status(),
        "HTTP/1.0 404 Not Found"
    );
    let answer = served.get("/repository/enabled").await;
    assert!(answer.text().contains("NO_REPOSITORY_ENABLED"));
}

#[tokio::test]
async fn statistics_are_taken_for_what_there_is() {
    let served = served().await;
    let pool = &served.pool;
    let vm = pool.vm("worker").await;
    let vm = text(&pool.get("VM", "uuid", &vm).await);
    let host = pool.named("host", "xcp-ng").await;
    let host = text(&pool.get("host", "uuid", &host).await);
    for (query, status) in [
        (String::new(), "400 Bad Request"),
        ("?uuid=nobody".to_owned(), "404 Not Found"),
        (format!("?uuid={host}"), "400 Bad Request"),
        (format!("?uuid={host}&archive="), "200 OK"),
        (format!("?uuid={vm}"), "200 OK"),
    ] {
        let answer = served.put(&format!("/rrd{query}"), b"numbers").await;
        assert_eq!(answer.status(), format!("HTTP/1.1 {status}"), "{query}");
    }
    // What is named by the datamodel alone leads to the handler whose path it begins with.
    let named = served.get(&format!("/host_rrds?uuid={host}")).await;
    assert_eq!(named.status(), "HTTP/1.0 200 OK");
    let alone = served.ask_alone("GET /vm_rrds?uuid=x", "", b"").await;
    let realm = alone.header("www-authenticate");
    assert_eq!(realm, Some("Basic realm=\"vm_rrd\""));
}
