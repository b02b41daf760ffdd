//! The numbers of a manager as a page that Prometheus asks for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bioxen_vm_core::VmManager;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

/// An address with its port, as the user writes it.
pub(super) fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("give an address and a port: 127.0.0.1:9464".to_owned()),
    }
}

/// Serves the page until it is dropped.
pub(super) struct Page {
    address: SocketAddr,
    serving: AbortHandle,
}

impl Page {
    /// Serves the numbers of a manager at `/metrics` of this address.
    pub(super) async fn serve(address: &str, manager: Arc<VmManager>) -> anyhow::Result<Self> {
        let cannot = || format!("cannot serve metrics at {address}");
        let listener = TcpListener::bind(address).await.with_context(cannot)?;
        let address = listener.local_addr().with_context(cannot)?;
        let serving = tokio::spawn(accept(listener, manager)).abort_handle();
        Ok(Self { address, serving })
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Takes connections until it is aborted, which ends them too.
async fn accept(listener: TcpListener, manager: Arc<VmManager>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics failed");
                // Out of descriptors: a connection that ends gives one back.
                connections.join_next().await;
                continue;
            }
        };
        let manager = Arc::clone(&manager);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&manager, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection for metrics broke");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(manager: &VmManager, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let is_asked = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_asked || request.uri().path() != "/metrics" {
        let mut response =
            Response::new(Full::new(Bytes::from_static(b"the page is GET /metrics\n")));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut response = Response::new(Full::new(manager.stats().to_prometheus().into()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
