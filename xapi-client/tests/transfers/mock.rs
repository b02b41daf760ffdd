//! A host of raw sockets: answers the calls around a transfer, and does with a request to a handler exactly
//! what a test says.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use xapi_client::{Client, Fingerprint, SecretString, Trust};

pub(crate) const SESSION: &str = "OpaqueRef:session";
pub(crate) const TASK: &str = "OpaqueRef:task";
/// How handlers begin every good answer.
pub(crate) const EARLY: &str =
    "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\r\n";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The task of the client, as the pool knows it; hosts share it.
#[derive(Clone)]
pub(crate) struct Pool {
    task: Arc<watch::Sender<Value>>,
    calls: Arc<watch::Sender<Vec<String>>>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let pool = Self {
            task: Arc::new(watch::Sender::new(json!({"changes": 0}))),
            calls: Arc::default(),
        };
        pool.begins();
        pool
    }

    fn begins(&self) {
        self.change(&json!({"status": "pending", "progress": 0.0, "result": "", "error_info": []}));
    }

    fn change(&self, change: &Value) {
        self.task.send_modify(|task| {
            for (key, value) in change.as_object().unwrap() {
                task[key] = value.clone();
            }
            task["changes"] = json!(task["changes"].as_u64().unwrap() + 1);
        });
    }

    pub(crate) fn progresses(&self, progress: f64) {
        self.change(&json!({"progress": progress}));
    }

    pub(crate) fn succeeds(&self, result: &str) {
        self.change(&json!({"status": "success", "progress": 1.0, "result": result}));
    }

    pub(crate) fn fails(&self, error: &[&str]) {
        self.change(&json!({"status": "failure", "progress": 1.0, "error_info": error}));
    }

    /// The methods that were called, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.calls().iter().filter(|call| *call == method).count()
    }

    /// Waits until a method has been called.
    pub(crate) async fn called(&self, method: &str) {
        let mut calls = self.calls.subscribe();
        let is_in = |calls: &Vec<String>| calls.iter().any(|call| call == method);
        calls.wait_for(is_in).await.unwrap();
    }

    async fn answer(&self, method: &str, params: &Value) -> Result<Value, Value> {
        self.calls
            .send_modify(|calls| calls.push(method.to_owned()));
        Ok(match method {
            "session.login_with_password" => json!(SESSION),
            "task.create" => {
                self.begins();
                json!(TASK)
            }
            "task.get_record" => self.task.borrow().clone(),
            "task.set_status" => {
                self.change(&json!({"status": params[2]}));
                json!("")
            }
            "host.get_address" => json!("127.0.0.2"),
            "event.from" => {
                let mut task = self.task.subscribe();
                let is_news =
                    |task: &Value| params[2].as_str() != Some(&task["changes"].to_string());
                let news = task.wait_for(is_news);
                let _ = tokio::time::timeout(Duration::from_secs(20), news).await;
                let snapshot = task.borrow().clone();
                let event = json!({"class": "task", "operation": "mod", "ref": TASK, "id": "1",
                    "timestamp": "0.0", "snapshot": snapshot});
                json!({"events": [event], "valid_ref_counts": {"task": 1}, "token": snapshot["changes"].to_string()})
            }
            _ => json!(""),
        })
    }
}

/// A request to a handler, and the connection it came on.
pub(crate) struct Conversation {
    pub(crate) head: String,
    pub(crate) pool: Pool,
    stream: Box<dyn Stream>,
    /// Read together with the head.
    early: Vec<u8>,
}

impl Conversation {
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads this many bytes of the body, or as many as come.
    pub(crate) async fn hear(&mut self, count: usize) -> Vec<u8> {
        while self.early.len() < count {
            match self.stream.read_buf(&mut self.early).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let count = count.min(self.early.len());
        self.early.drain(..count).collect()
    }

    /// Waits until the client closes the connection.
    pub(crate) async fn until_closed(&mut self) {
        self.hear(usize::MAX).await;
    }
}

type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;
type Handler = Arc<dyn Fn(Conversation) -> Handling + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Mock {
    pub(crate) pool: Pool,
    pub(crate) port: u16,
    pub(crate) fingerprint: Option<Fingerprint>,
    ip: String,
    /// The heads of the requests to handlers.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Mock {
    /// A host of a pool of its own.
    pub(crate) async fn start<F>(
        handler: impl Fn(Conversation) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serve("127.0.0.1:0", Pool::new(), false, handler).await
    }

    pub(crate) async fn serve<F>(
        address: &str,
        pool: Pool,
        tls: bool,
        handler: impl Fn(Conversation) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |conversation| Box::pin(handler(conversation)));
        let listener = TcpListener::bind(address).await.unwrap();
        let (acceptor, fingerprint) = if tls {
            let (acceptor, fingerprint) = certified();
            (Some(acceptor), Some(fingerprint))
        } else {
            (None, None)
        };
        let mock = Self {
            pool,
            port: listener.local_addr().unwrap().port(),
            ip: listener.local_addr().unwrap().ip().to_string(),
            fingerprint,
            heads: Arc::default(),
        };
        let this = mock.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (this, handler, acceptor) = (this.clone(), handler.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => this.converse(Box::new(socket), handler).await,
                        // A client that refuses the certificate ends the handshake.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(socket).await {
                                this.converse(Box::new(stream), handler).await;
                            }
                        }
                    }
                });
            }
        });
        mock
    }

    async fn converse(self, mut stream: Box<dyn Stream>, handler: Handler) {
        let mut early = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = early.windows(4).position(|part| part == b"\r\n\r\n") {
                    break end + 4;
                }
                match stream.read_buf(&mut early).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            };
            let head = String::from_utf8(early.drain(..end).collect()).unwrap();
            if !head.starts_with("POST /jsonrpc ") {
                self.heads.lock().unwrap().push(head.clone());
                let pool = self.pool.clone();
                let conversation = Conversation {
                    head,
                    pool,
                    stream,
                    early,
                };
                return handler(conversation).await;
            }
            let lower = head.to_ascii_lowercase();
            let (_, length) = lower.split_once("content-length: ").unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            while early.len() < length {
                stream.read_buf(&mut early).await.unwrap();
            }
            let call: Value = serde_json::from_slice(&early[..length]).unwrap();
            early.drain(..length);
            let method = call["method"].as_str().unwrap();
            let body = match self.pool.answer(method, &call["params"]).await {
                Ok(result) => json!({"jsonrpc": "2.0", "result": result, "id": call["id"]}),
                Err(error) => json!({"jsonrpc": "2.0", "error": error, "id": call["id"]}),
            }
            .to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    pub(crate) async fn client(&self) -> Client {
        let trust = match self.fingerprint {
            Some(fingerprint) => Trust::Pinned(fingerprint),
            None => Trust::SystemRoots,
        };
        self.client_with(trust).await
    }

    pub(crate) async fn client_with(&self, trust: Trust) -> Client {
        let scheme = if self.fingerprint.is_some() {
            "https"
        } else {
            "http"
        };
        Client::builder(format!("{scheme}://{}:{}", self.ip, self.port))
            .credentials("root", SecretString::from("hunter2"))
            .trust(trust)
            .login()
            .await
            .unwrap()
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn certified() -> (TlsAcceptor, Fingerprint) {
    let CertifiedKey { cert, signing_key }: CertifiedKey<KeyPair> =
        generate_simple_self_signed(vec!["xcp".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let fingerprint = Fingerprint::of(cert.der());
    (TlsAcceptor::from(Arc::new(config)), fingerprint)
}
