//! The rules of the server's HTTP, by raw sockets.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

#[path = "../common/mod.rs"]
mod common;
mod texts;

use common::wire::Wire;
use common::{Pool, pool, pool_of};
use tokio::net::TcpStream;
use xapi_sim::{Model, Release, Server, SimOptions};

/// A pool that is served without TLS, and its session.
struct Served {
    pool: Pool,
    server: Server,
}

async fn served() -> Served {
    let pool = pool().await;
    let server = pool
        .sim
        .serve_plain(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    Served { pool, server }
}

impl Served {
    async fn connect(&self) -> Wire {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        Wire::over(stream)
    }

    /// Sends one request on a connection of its own and gives the whole answer.
    async fn one(&self, request: &[u8]) -> String {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.answer().await
    }

    fn get_all(&self) -> String {
        let session = &self.pool.session;
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"pool.get_all","params":["{session}"]}}"#)
    }
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn status(answer: &str) -> &str {
    answer.lines().next().unwrap()
}

#[tokio::test]
async fn an_answer_byte_by_byte() {
    let served = served().await;
    let pool = served.pool.call("pool.get_all", vec![]).await;
    let reference = pool.items()[0].as_str().unwrap();
    let answer = served.one(&post("/jsonrpc", "", &served.get_all())).await;
    assert_eq!(
        answer,
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 84\r\nconnection: keep-alive\r\n\
             cache-control: no-cache, no-store\r\ncontent-type: application/json\r\n\
             Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: X-Requested-With\r\n\
             \r\n{{\"jsonrpc\":\"2.0\",\"result\":[\"{reference}\"],\"id\":1}}"
        )
    );
    let xml = format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>pool.get_all</methodName><params>\
         <param><value><string>{}</string></value></param></params></methodCall>",
        served.pool.session
    );
    for path in ["/", "/RPC2", "/json", "/xmlrpc", "/nope/nope", "/JSONRPC"] {
        let answer = served
            .one(&post(path, "Content-Type: application/json\r\n", &xml))
            .await;
        assert!(
            answer.contains("content-type: text/xml\r\n"),
            "{path}: {answer}"
        );
        assert!(
            answer.ends_with(&format!(
                "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member>\
                 <name>Status</name><value>Success</value></member><member><name>Value</name>\
                 <value><array><data><value>{reference}</value></data></array></value></member>\
                 </struct></value></param></params></methodResponse>"
            )),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn paths() {
    let served = served().await;
    let body = served.get_all();
    for path in [
        "/jsonrpc",
        "/jsonrpc/",
        "/jsonrpcx",
        "/jsonrpc?a=b",
        "/jsonrpc;x",
        "/%6asonrpc",
        "http://host:80/jsonrpc",
    ] {
        let answer = served.one(&post(path, "", &body)).await;
        assert!(
            answer.contains("\"result\":[\"OpaqueRef:"),
            "{path}: {answer}"
        );
    }
    for path in ["/", "/json", "/nope", "/JSONRPC"] {
        let answer = served.one(&post(path, "", &body)).await;
        assert_eq!(status(&answer), "HTTP/1.1 500 Internal Error", "{path}");
        assert!(answer.contains("expected root element"), "{answer}");
    }
    for path in ["//jsonrpc", "jsonrpc"] {
        let answer = served.one(&post(path, "", &body)).await;
        assert_eq!(status(&answer), "HTTP/1.1 403 Forbidden", "{path}");
    }
}

#[tokio::test]
async fn heads_have_a_limit() {
    let served = served().await;
    let body = served.get_all();
    let padded = |length: usize| {
        let bare = post("/jsonrpc", "X-Pad: \r\n", &body).len() - body.len();
        post(
            "/jsonrpc",
            &format!("X-Pad: {}\r\n", "a".repeat(length - bare)),
            &body,
        )
    };
    let mut wire = served.connect().await;
    // It holds for every request of a connection, not only for the first.
    for _ in 0..2 {
        wire.send(&padded(1006)).await;
        assert_eq!(status(&wire.answer().await), "HTTP/1.1 200 OK");
    }
    wire.send(&padded(1007)).await;
    let answer = wire.answer().await;
    assert_eq!(
        answer,
        "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 108\r\n\
         content-type: text/html\r\nconnection: close\r\ncache-control: no-cache, no-store\r\n\r\n\
         <html><body><h1>HTTP 431 request header fields too large</h1>Exceeded the maximum header \
         size.</body></html>"
    );
    assert!(wire.is_closed().await);
}

#[tokio::test]
async fn bodies_need_a_length_and_have_a_limit() {
    let served = served().await;
    let body = served.get_all();
    let page = |text: &str| {
        let body = format!(
            "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error occurred; \
             please wait a while and try again. If the problem persists, please contact your \
             support representative.<h1> Additional information </h1>{text}</body></html>"
        );
        format!(
            "HTTP/1.1 500 Internal Error\r\ncontent-length: {}\r\ncontent-type: text/html\r\n\
             connection: close\r\ncache-control: no-cache, no-store\r\n\r\n{body}",
            body.len()
        )
    };
    let missing = page("Failure(&quot;We require a content-length: HTTP header&quot;)");
    for headers in ["", "Transfer-Encoding: chunked\r\n"] {
        let request = format!("POST /jsonrpc HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
        assert_eq!(served.one(request.as_bytes()).await, missing);
    }
    for length in ["0", "-1", "many", ""] {
        let request = format!("POST /jsonrpc HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let mut wire = served.connect().await;
        wire.send(request.as_bytes()).await;
        assert_eq!(
            status(&wire.answer().await),
            "HTTP/1.1 500 Internal Error",
            "{length:?}"
        );
        assert!(wire.is_closed().await);
    }
    // With both headers the length wins.
    let both = post("/jsonrpc", "Transfer-Encoding: chunked\r\n", &body);
    assert_eq!(status(&served.one(&both).await), "HTTP/1.1 200 OK");
    let large = |length: usize| {
        let blanks = " ".repeat(length - body.len());
        post("/jsonrpc", "", &format!("{body}{blanks}"))
    };
    assert_eq!(
        status(&served.one(&large(307_200)).await),
        "HTTP/1.1 200 OK"
    );
    // The answer comes before the body is read.
    let head = "POST /jsonrpc HTTP/1.1\r\nContent-Length: 307201\r\n\r\n";
    let answer = served.one(head.as_bytes()).await;
    assert_eq!(status(&answer), "HTTP/1.1 500 Internal Error");
    assert!(answer.contains("Client_requested_size_over_limit"));
    let malformed = served
        .one(&post("/jsonrpc", "", "{\"jsonrpc\":\"2.0\","))
        .await;
    assert_eq!(
        malformed,
        page(
            "Yojson__Common.Json_error(&quot;Line 1, bytes 16-17:\\nUnexpected end of input&quot;)"
        )
    );
}

#[tokio::test]
async fn methods() {
    let served = served().await;
    let mut wire = served.connect().await;
    let forbidden = "HTTP/1.1 403 Forbidden\r\ncontent-length: 99\r\ncontent-type: text/html\r\n\
                     connection: close\r\ncache-control: no-cache, no-store\r\n\r\n<html><body>\
                     <h1>HTTP 403 forbidden</h1>Access to the requested resource is forbidden.\
                     </body></html>";
    for request in ["GET /jsonrpc HTTP/1.1", "GET / HTTP/1.1"] {
        wire.send(format!("{request}\r\nHost: x\r\n\r\n").as_bytes())
            .await;
        // It says close, and stays open.
        assert_eq!(wire.answer().await, forbidden);
    }
    for request in ["PUT /jsonrpc HTTP/1.1", "CONNECT / HTTP/1.1"] {
        let mut wire = served.connect().await;
        wire.send(format!("{request}\r\n\r\n").as_bytes()).await;
        assert_eq!(wire.answer().await, forbidden);
        assert!(wire.is_closed().await, "{request}");
    }
    wire.send(b"OPTIONS /jsonrpc HTTP/1.1\r\nAccess-Control-Request-Headers: X-A\r\n\r\n")
        .await;
    assert_eq!(
        wire.answer().await,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\
         cache-control: no-cache, no-store\r\nAccess-Control-Allow-Origin: *\r\n\
         Access-Control-Allow-Headers: X-A, X-Requested-With\r\nAccess-Control-Allow-Methods: PUT\r\n\r\n"
    );
    for method in ["HEAD", "DELETE", "PATCH", "TRACE", "FROB", "post"] {
        let answer = served
            .one(format!("{method} /jsonrpc HTTP/1.1\r\n\r\n").as_bytes())
            .await;
        assert_eq!(
            status(&answer),
            "HTTP/1.1 501 Method not implemented",
            "{method}"
        );
        let text = format!("<p>Unknown {method} not supported.<br /></p>");
        assert!(answer.contains(&text), "{answer}");
    }
    let answer = served
        .one(b"GET /export_metadata?all=true HTTP/1.1\r\n\r\n")
        .await;
    assert!(answer.contains("401 Unauthorised"), "{answer}");
    assert!(answer.contains("WWW-Authenticate: Basic realm=\"get_export_metadata\"\r\n"));
    let about = served.one(b"GET /about HTTP/1.1\r\n\r\n").await;
    assert!(about.contains("\"VM.clone\""));
}

#[tokio::test]
async fn connections() {
    let served = served().await;
    let body = served.get_all();
    // Requests in a row are answered in order.
    let mut wire = served.connect().await;
    let mut both = post("/jsonrpc", "", &body);
    both.extend(post(
        "/jsonrpc",
        "",
        &body.replace("\"id\":1", "\"id\":\"two\""),
    ));
    wire.send(&both).await;
    assert!(wire.answer().await.ends_with("\"id\":1}"));
    assert!(wire.answer().await.ends_with("\"id\":\"two\"}"));
    // A failure loses what comes after it.
    both = post("/jsonrpc", "", "[]");
    both.extend(post("/jsonrpc", "", &body));
    wire.send(&both).await;
    assert_eq!(status(&wire.answer().await), "HTTP/1.1 500 Internal Error");
    assert!(wire.is_closed().await);

    let mut wire = served.connect().await;
    wire.send(&post("/jsonrpc", "CONNECTION:Close\r\n", &body))
        .await;
    assert!(wire.answer().await.contains("connection: close\r\n"));
    assert!(wire.is_closed().await);

    let old = |headers: &str| {
        let length = body.len();
        format!("POST /jsonrpc HTTP/1.0\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    };
    let mut wire = served.connect().await;
    wire.send(old("Connection: keep-alive\r\n").as_bytes())
        .await;
    assert_eq!(status(&wire.answer().await), "HTTP/1.0 200 OK");
    wire.send(old("").as_bytes()).await;
    assert!(wire.answer().await.contains("connection: close\r\n"));
    assert!(wire.is_closed().await);
    // The text of the version is hardly looked at, and a line without a colon is skipped.
    let odd = String::from_utf8(post("/jsonrpc", "no colon here\r\n", &body)).unwrap();
    let odd = odd.replace("HTTP/1.1", "HTTP/2.0");
    assert_eq!(status(&served.one(odd.as_bytes()).await), "HTTP/1.1 200 OK");
    let short = odd.replace("HTTP/2.0", "1.1");
    let answer = served.one(short.as_bytes()).await;
    assert!(answer.contains("Invalid_argument(&quot;String.sub / Bytes.sub&quot;)"));
    // A blank line in front is not.
    let answer = served
        .one(&[b"\r\n", post("/jsonrpc", "", &body).as_slice()].concat())
        .await;
    assert_eq!(status(&answer), "HTTP/1.1 500 Internal Error");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come() {
    let served = served().await;
    let mut wire = served.connect().await;
    // Lines have to end in CR LF; these never end the head.
    wire.send(b"POST /jsonrpc HTTP/1.1\nHost: x\n\n").await;
    assert_eq!(status(&wire.answer().await), "HTTP/1.1 408 Request Timeout");
    assert!(wire.is_closed().await);
}

#[tokio::test]
async fn tags_of_tasks() {
    let served = served().await;
    let template = served.pool.template().await;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":11,"method":"Async.VM.clone","params":["{}","{template}","tagged"]}}"#,
        served.pool.session
    );
    let answer = served
        .one(&post(
            "/jsonrpc",
            "x-http-other-config-request-id: 6f1c\r\n",
            &body,
        ))
        .await;
    let task = answer
        .split('"')
        .find(|part| part.starts_with("OpaqueRef:"))
        .unwrap();
    let config = served.pool.get("task", "other_config", task).await;
    assert_eq!(config, xapi_sim::Value::map([("http:request-id", "6f1c")]));
}

/// Who is sent to the coordinator can learn first what certificate to expect there.
#[tokio::test]
async fn a_member_names_the_certificate_of_the_coordinator_to_who_asks() {
    let model = |release| Model::pool_of_three().release(release);
    let asking = |kind: &str| format!("x-xenapi-request-host-certificate-thumbprint: {kind}\r\n");
    let login = r#"{"id":1,"method":"session.login_with_password","params":["root","","",""]}"#;
    let answered = "x-xenapi-response-host-certificate-thumbprint: ";
    for release in [Release::Newest, Release::Xcpng83, Release::Xcpng82] {
        let pool = pool_of(model(release), SimOptions::default()).await;
        let server = pool.sim.serve_plain(([127, 0, 0, 1], 0).into()).await;
        let served = Served {
            pool,
            server: server.unwrap(),
        };
        let sha256 = asking("sha-256:master");
        let as_coordinator = served.one(&post("/jsonrpc", &sha256, login)).await;
        assert!(!as_coordinator.contains(answered), "{as_coordinator}");
        served.pool.sim.fail_over("xcp-ng-2").unwrap();
        let of_member = async |path: &str, headers: &str, body: &str| {
            let answer = served.one(&post(path, headers, body)).await;
            assert!(answer.contains("HOST_IS_SLAVE"), "{answer}");
            let found = answer.lines().find_map(|line| line.strip_prefix(answered));
            found.map(|text| text.split(':').count())
        };
        assert_eq!(of_member("/jsonrpc", "", login).await, None);
        assert_eq!(
            of_member("/jsonrpc", &asking("md5:master"), login).await,
            None
        );
        let known = release != Release::Xcpng82;
        let length = |octets: usize| known.then_some(octets);
        let sha1 = asking("sha-1:master");
        assert_eq!(of_member("/jsonrpc", &sha1, login).await, length(20));
        let xml = "<methodCall><methodName>pool.get_all</methodName><params></params></methodCall>";
        let json = login.replace("{\"id\"", "{\"jsonrpc\":\"2.0\",\"id\"");
        for (path, body) in [("/jsonrpc", login), ("/jsonrpc", &json), ("/", xml)] {
            assert_eq!(of_member(path, &sha256, body).await, length(32), "{body}");
        }
    }
}
