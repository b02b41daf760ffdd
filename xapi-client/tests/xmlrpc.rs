//! The client against hosts that speak XML-RPC.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde_json::json;
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};
use xapi_client::api::{Vm, VmPowerState};
use xapi_client::{Client, ClientBuilder, Error, ErrorCode, Protocol, Ref, SecretString};

fn success(value: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>\
         <value>Success</value></member><member><name>Value</name><value>{value}</value></member></struct>\
         </value></param></params></methodResponse>"
    )
}

fn failure(parts: &[&str]) -> String {
    let parts: String = parts
        .iter()
        .map(|part| format!("<value>{part}</value>"))
        .collect();
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>\
         <value>Failure</value></member><member><name>ErrorDescription</name><value><array><data>{parts}</data>\
         </array></value></member></struct></value></param></params></methodResponse>"
    )
}

/// A host that answers each method with a body, at `/` and in XML only.
async fn host(answers: &[(&str, String)]) -> MockServer {
    let server = MockServer::start().await;
    for (name, body) in answers {
        Mock::given(method("POST"))
            .and(path("/"))
            .and(header("content-type", "text/xml"))
            .and(body_string_contains(format!(
                "<methodName>{name}</methodName>"
            )))
            .respond_with(ResponseTemplate::new(200).set_body_raw(body.clone(), "text/xml"))
            .mount(&server)
            .await;
    }
    server
}

fn builder(server: &MockServer) -> ClientBuilder {
    Client::builder(server.uri()).credentials("root", SecretString::from("hunter2"))
}

/// The paths that were asked for.
async fn paths(server: &MockServer) -> Vec<String> {
    let requests = server.received_requests().await.unwrap();
    requests
        .iter()
        .map(|request| request.url.path().to_owned())
        .collect()
}

const LOGIN: &str = "session.login_with_password";

#[tokio::test]
async fn the_chosen_protocol_is_spoken_from_login_to_logout() {
    let server = host(&[
        (LOGIN, success("OpaqueRef:s")),
        ("VM.get_power_state", success("Running")),
        ("VM.get_memory_target", success("1073741824")),
        ("VM.add_tags", success("")),
        ("session.logout", success("")),
    ])
    .await;
    let client = builder(&server)
        .protocol(Protocol::XmlRpc)
        .login()
        .await
        .unwrap();
    let vm = Ref::<Vm>::from("OpaqueRef:v");
    let state = client.vm().get_power_state(&vm).await.unwrap();
    assert_eq!(state, VmPowerState::Running);
    let raw = client.vm().get_power_state(&vm).raw().await.unwrap();
    assert_eq!(raw, json!("Running"));
    client.vm().add_tags(&vm, "a<b>").await.unwrap();
    client.close().await.unwrap();
    assert_eq!(paths(&server).await, ["/"; 5]);
    let requests = server.received_requests().await.unwrap();
    let body = String::from_utf8(requests[3].body.clone()).unwrap();
    assert!(
        body.contains("<string>OpaqueRef:s</string>")
            && body.contains("<string>a&lt;b&gt;</string>"),
        "{body}"
    );
}

#[tokio::test]
async fn a_server_without_json_is_spoken_to_in_xml() {
    // A real one takes the path for `/`, and fails to parse JSON as XML.
    for (status, body) in [(500, "<html>"), (404, ""), (200, "<html>")] {
        let server = host(&[
            (LOGIN, success("OpaqueRef:s")),
            (
                "VM.get_all",
                success("<array><data><value>OpaqueRef:v</value></data></array>"),
            ),
        ])
        .await;
        Mock::given(path("/jsonrpc"))
            .respond_with(ResponseTemplate::new(status).set_body_raw(body, "text/html"))
            .mount(&server)
            .await;
        let client = builder(&server).login().await.unwrap();
        let all = client.vm().get_all().await.unwrap();
        assert_eq!(all, [Ref::from("OpaqueRef:v")]);
        assert_eq!(paths(&server).await, ["/jsonrpc", "/", "/"]);
        // Servers are used again: a later one must not see the logout.
        drop(client.close().await);
    }
}

#[tokio::test]
async fn the_password_is_refused_in_either_protocol() {
    let refusal = failure(&["SESSION_AUTHENTICATION_FAILED", "root", "no"]);
    let server = host(&[(LOGIN, refusal)]).await;
    let error = builder(&server).login().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::SessionAuthenticationFailed));
}

#[tokio::test]
async fn the_protocol_that_was_chosen_is_the_only_one() {
    let server = host(&[(LOGIN, success("OpaqueRef:s"))]).await;
    let error = builder(&server)
        .protocol(Protocol::JsonRpc)
        .login()
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Http { status: 404, .. }),
        "{error:?}"
    );
    assert_eq!(paths(&server).await, ["/jsonrpc"]);
}

#[tokio::test]
async fn what_xml_cannot_express_is_not_sent() {
    let server = host(&[(LOGIN, success("OpaqueRef:s"))]).await;
    let client = builder(&server)
        .protocol(Protocol::XmlRpc)
        .login()
        .await
        .unwrap();
    let error = client
        .vm()
        .set_name_label(&Ref::from("v"), "a\u{7}")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("U+0007"), "{error}");
    assert_eq!(paths(&server).await.len(), 1);
}
