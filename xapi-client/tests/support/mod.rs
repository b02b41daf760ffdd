//! A scripted XAPI host: real HTTP, answers from a function.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};
use xapi_client::{Client, ClientBuilder, SecretString};

/// What a host answers: a result, or a code and its parameters.
pub(crate) type Answer = Result<Value, Vec<String>>;

/// A failure with these parameters.
pub(crate) fn failure(description: &[&str]) -> Answer {
    Err(description.iter().map(|&part| part.to_owned()).collect())
}

/// The methods that were called, with their parameters.
type Log = Arc<Mutex<Vec<(String, Vec<Value>)>>>;

type Script = dyn Fn(&str, &[Value]) -> Answer + Send + Sync;

/// A host and a log of the methods that were called, with their parameters.
pub(crate) struct Host {
    pub(crate) server: MockServer,
    log: Log,
}

struct Scripted {
    script: Box<Script>,
    log: Log,
    /// Whether every connection is closed after its first answer.
    closes: bool,
}

impl Respond for Scripted {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let call: Value = request.body_json().unwrap();
        assert_eq!(call["jsonrpc"], "2.0");
        let method = call["method"].as_str().unwrap();
        let params = call["params"].as_array().unwrap();
        self.log
            .lock()
            .unwrap()
            .push((method.to_owned(), params.clone()));
        let body = match (self.script)(method, params) {
            Ok(result) => json!({"jsonrpc": "2.0", "result": result, "id": call["id"]}),
            Err(parts) => json!({"jsonrpc": "2.0", "id": call["id"], "error":
                {"code": 1, "message": parts[0], "data": parts[1..]}}),
        };
        let answer = ResponseTemplate::new(200).set_body_raw(body.to_string(), "application/json");
        if self.closes {
            answer.insert_header("connection", "close")
        } else {
            answer
        }
    }
}

impl Host {
    pub(crate) async fn start(
        script: impl Fn(&str, &[Value]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::on("127.0.0.1:0", script).await
    }

    /// A host at this address.
    pub(crate) async fn on(
        address: &str,
        script: impl Fn(&str, &[Value]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(address, false, script).await
    }

    /// A host at this address that closes every connection after its first answer.
    pub(crate) async fn closing(
        address: &str,
        script: impl Fn(&str, &[Value]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(address, true, script).await
    }

    async fn serve(
        address: &str,
        closes: bool,
        script: impl Fn(&str, &[Value]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let server = MockServer::builder().listener(listener).start().await;
        let log = Arc::new(Mutex::new(Vec::new()));
        let scripted = Scripted {
            script: Box::new(script),
            log: log.clone(),
            closes,
        };
        Mock::given(method("POST"))
            .and(path("/jsonrpc"))
            .respond_with(scripted)
            .mount(&server)
            .await;
        Self { server, log }
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder(self.server.uri()).credentials("root", SecretString::from("hunter2"))
    }

    pub(crate) fn calls(&self) -> Vec<(String, Vec<Value>)> {
        self.log.lock().unwrap().clone()
    }

    /// How often a method was called.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|(name, _)| name == method)
            .count()
    }
}
