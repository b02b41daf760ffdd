//! Bodies of calls: what the server's parsers take, what they refuse, and in which words.

use super::{post, served, status};

#[tokio::test]
async fn what_cannot_be_read_is_told_with_the_servers_own_words() {
    let served = served().await;
    let call = r#""method":"pool.get_all","params":[]}"#;
    for (path, body, text) in [
        (
            "/jsonrpc",
            r#"{"jsonrpc":"2.0","#.to_owned(),
            "Yojson__Common.Json_error(&quot;Line 1, bytes 16-17:\\nUnexpected end of input&quot;)",
        ),
        (
            "/jsonrpc",
            format!(r#"[{{"jsonrpc":"2.0","id":1,{call}]"#),
            "Jsonrpc.Malformed_method_request(&quot;Invalid request body&quot;)",
        ),
        (
            "/jsonrpc",
            "[]".to_owned(),
            "Jsonrpc.Malformed_method_request(&quot;Invalid request body&quot;)",
        ),
        (
            "/jsonrpc",
            format!(r#"{{"jsonrpc":"2.0",{call}"#),
            "Jsonrpc.Malformed_method_request(&quot;Invalid field &apos;id&apos; in request body&quot;)",
        ),
        (
            "/jsonrpc",
            format!(r#"{{"jsonrpc":"2.0","id":null,{call}"#),
            "Jsonrpc.Malformed_method_request(&quot;Invalid field &apos;id&apos; in request body&quot;)",
        ),
        (
            "/nope",
            format!(r#"{{"jsonrpc":"2.0","id":1,{call}"#),
            "Xmlm.Error(1:1, &quot;expected root element&quot;)",
        ),
        (
            "/",
            "<methodCall><methodName>x".to_owned(),
            "Xmlm.Error(1:26, &quot;unexpected end of input&quot;)",
        ),
    ] {
        let answer = served.one(&post(path, "", &body)).await;
        assert_eq!(status(&answer), "HTTP/1.1 500 Internal Error", "{body}");
        let (_, page) = answer.split_once("\r\n\r\n").unwrap();
        let ending = format!("<h1> Additional information </h1>{text}</body></html>");
        assert!(page.ends_with(&ending), "{body}: {page}");
    }
}

#[tokio::test]
async fn lax_json_is_read_as_the_server_reads_it() {
    let served = served().await;
    let session = &served.pool.session;
    let params = format!(r#""params":["{session}"]"#);
    let head = r#""jsonrpc":"2.0","method":"pool.get_all""#;
    for body in [
        format!(r#"  {{"id":1,/* why */{head},{params}}}"#),
        format!("{{\"id\":\"a\u{1}\n\t\",{head},{params}}}"),
        format!(r#"{{"id":-7,{head},{params},"extra":{{"a":[1]}}}}"#),
        format!(r#"{{"id":"",{head},{params}}}"#),
    ] {
        let answer = served.one(&post("/jsonrpc", "", &body)).await;
        assert!(
            answer.contains("\"result\":[\"OpaqueRef:"),
            "{body}: {answer}"
        );
    }
    for body in [
        format!("\u{feff}{{\"id\":1,{head},{params}}}"),
        format!(r#"{{"id":1,{head},{params},}}"#),
        format!("{{'id':1,{head},{params}}}"),
        format!(r#"{{"id":1,{head},{params}}} {{}}"#),
        format!(r#"{{"id":NaN,{head},{params}}}"#),
        format!(r#"{{"id":1.5,{head},{params}}}"#),
        format!(r#"{{"id":true,{head},{params}}}"#),
        format!(r#"{{"id":{{}},{head},{params}}}"#),
        format!(r#"{{"id":18446744073709551616,{head},{params}}}"#),
        format!(r#"{{"id":1,"jsonrpc":2.0,"method":"pool.get_all",{params}}}"#),
        format!(r#"{{"id":1,"jsonrpc":"1.0","method":"pool.get_all",{params}}}"#),
        format!(r#"{{"id":1,{head},"params":"{session}"}}"#),
        format!(r#"{{"id":1,{head},"params":7}}"#),
    ] {
        let answer = served.one(&post("/jsonrpc", "", &body)).await;
        assert_eq!(status(&answer), "HTTP/1.1 500 Internal Error", "{body}");
    }
    // Without parameters there are none: the session is missing, and was counted.
    for params in ["", r#","params":null"#] {
        let body = format!(r#"{{"id":1,{head}{params}}}"#);
        let answer = served.one(&post("/jsonrpc", "", &body)).await;
        assert!(answer.contains(r#"["pool.get_all","0","-1"]"#), "{answer}");
    }
    // Of keys that come twice the last counts.
    let vm = served.pool.vm("maps").await;
    let body = format!(
        r#"{{"id":1,"jsonrpc":"2.0","method":"VM.set_other_config","params":["{session}","{vm}",{{"a":"1","a":"2"}}]}}"#
    );
    served.one(&post("/jsonrpc", "", &body)).await;
    let config = served.pool.get("VM", "other_config", &vm).await;
    assert_eq!(config, xapi_sim::Value::map([("a", "2")]));
}

#[tokio::test]
async fn lax_xml_is_read_as_the_server_reads_it() {
    let served = served().await;
    let session = &served.pool.session;
    let call = |name: &str, value: &str| {
        format!(
            "<!DOCTYPE methodCall>\n<!-- why --> <methodCall> <methodName>{name}</methodName>\n\
             <params> <param> <value>{value}</value> </param> </params> </methodCall> and more"
        )
    };
    for value in [
        session.clone(),
        format!("<string>{session}</string>"),
        format!("<![CDATA[{session}]]>"),
        session.replace("Opaque", "&#79;paque"),
    ] {
        let answer = served
            .one(&post("/", "", &call("pool.get_all", &value)))
            .await;
        assert!(answer.contains("<value>Success</value>"), "{answer}");
    }
    let bare = "<methodCall><methodName>system.listMethods</methodName></methodCall>";
    let answer = served.one(&post("/", "", bare)).await;
    assert_eq!(status(&answer), "HTTP/1.1 500 Internal Error");
    let answer = served
        .one(&post("/", "", &call("system.listMethods", session)))
        .await;
    let names = "<methodResponse><params><param><value><array><data><value>session.get_record\
                 </value><value>session.get_by_uuid</value>";
    assert!(answer.contains(names), "no Status, and the server's order");
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let served = served().await;
    let mut body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"VM.get_by_name_label","params":["{}","caf"#,
        served.pool.session
    )
    .into_bytes();
    body.extend(b"\xe9\"]}");
    let mut request = format!(
        "POST /jsonrpc HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(&body);
    let mut wire = served.connect().await;
    wire.send(&request).await;
    wire.stream.readable().await.unwrap();
    let answer = wire.answer().await;
    assert!(answer.contains("INVALID_VALUE"), "{answer}");
    assert!(
        answer.contains("S(caf\u{fffd})"),
        "the byte comes back as it was: {answer}"
    );
    let surrogate = r#"{"jsonrpc":"2.0","id":1,"method":"x","params":["\ud800"]}"#;
    let answer = served.one(&post("/jsonrpc", "", surrogate)).await;
    assert_eq!(status(&answer), "HTTP/1.1 500 Internal Error");
}
