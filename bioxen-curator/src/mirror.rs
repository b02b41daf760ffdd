//! A rocks server on this machine.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::server::is_served;
use crate::{Error, Result, RocksServer};

/// Serves a directory of rocks over HTTP to this machine alone, until it is dropped.
///
/// It answers GET and HEAD for manifests, rocks and rockspecs of the directory itself. For a VM,
/// give the directory: [`RocksServer::Directory`] needs no port.
#[derive(Debug)]
pub struct Mirror {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Mirror {
    /// Serves a directory on a free port of 127.0.0.1. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Fails with [`Error::Io`] when there is no such directory or no port.
    pub async fn serve(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let failed = |operation: &'static str| {
            let path = directory.to_owned();
            move |source| Error::Io {
                operation,
                path,
                source,
            }
        };
        let root = tokio::fs::canonicalize(directory)
            .await
            .map_err(failed("serve"))?;
        // Tells now, rather than with each request, that it is no directory or not ours to read.
        drop(tokio::fs::read_dir(&root).await.map_err(failed("serve"))?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(failed("open a port for"))?;
        let address = listener.local_addr().map_err(failed("open a port for"))?;
        let serving = tokio::spawn(accept(listener, root));
        Ok(Self { address, serving })
    }

    /// The address of the server: `http://127.0.0.1:34567`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// This mirror as a server of a [`Curator`](crate::Curator).
    #[must_use]
    pub fn server(&self) -> RocksServer {
        RocksServer::Url(self.url())
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Takes connections until it is aborted, which ends them too.
async fn accept(listener: TcpListener, root: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection to a mirror failed");
                // Out of descriptors: a connection that ends gives one back.
                connections.join_next().await;
                continue;
            }
        };
        let root = root.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let root = root.clone();
                async move { Ok::<_, Infallible>(answer(&root, &request).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to a mirror broke");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(root: &Path, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
        let allowed = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let Some(name) = file_name(request.uri().path()) else {
        return status(StatusCode::NOT_FOUND);
    };
    match read(root, &name).await {
        Ok(content) => {
            // No Last-Modified: LuaRocks would take a file that changed within the same second
            // for the one that it has.
            let length = header::HeaderValue::from(content.len());
            let body = if head { Bytes::new() } else { content };
            let mut response = Response::new(Full::new(body));
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            response
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => status(StatusCode::NOT_FOUND),
        Err(error) => {
            tracing::warn!(%error, name, "a mirror cannot read a file");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Reads a file of the directory, and none that a link leads to elsewhere.
async fn read(root: &Path, name: &str) -> io::Result<Bytes> {
    let path = tokio::fs::canonicalize(root.join(name)).await?;
    let is_file = tokio::fs::metadata(&path).await?.is_file();
    if !is_file || path.parent() != Some(root) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(tokio::fs::read(path).await?.into())
}

/// The file that a path names, if it is one that a rocks server has.
fn file_name(path: &str) -> Option<String> {
    let name = decoded(path.trim_start_matches('/'))?;
    let plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    (plain && is_served(&name)).then_some(name)
}

/// Replaces `%XX`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_rocks_server_are_named() {
        for (path, name) in [
            ("/manifest-5.4", "manifest-5.4"),
            ("//a-1.0-1.src.rock", "a-1.0-1.src.rock"),
            ("/a%2Db-1-1.rockspec", "a-b-1-1.rockspec"),
        ] {
            assert_eq!(file_name(path).as_deref(), Some(name));
        }
        for path in [
            "/",
            "/../a-1-1.rock",
            "/%2e%2e/a-1-1.rock",
            "/..%2fa-1-1.rock",
            "/sub/manifest",
            "/etc/passwd",
            "/.hidden.rock",
            "/a%00.rock",
            "/a%zz.rock",
            "/a%2",
        ] {
            assert_eq!(file_name(path), None, "{path}");
        }
    }
}
