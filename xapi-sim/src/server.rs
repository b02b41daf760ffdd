//! The simulator behind a socket.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use xapi_client::Fingerprint;

use crate::http;
use crate::rpc::Face;
use crate::sim::Error;
use crate::tls::Identity;

/// How many connections are served at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 800;

/// How long to wait where the system refuses what it may grant later.
const RETRY: Duration = Duration::from_millis(100);

/// A simulator that answers on a socket. Dropping it ends the serving, not the simulator.
pub struct Server {
    address: SocketAddr,
    identity: Option<Identity>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(crate) async fn start(
        face: Face,
        address: SocketAddr,
        encrypted: bool,
    ) -> Result<Server, Error> {
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let identity = if encrypted {
            let shared = &face.shared;
            let identity = Identity::new(&shared.certificate, &shared.host_key, address.ip()).await;
            Some(identity.map_err(|source| Error::Certificate {
                source: Box::new(source),
            })?)
        } else {
            None
        };
        face.shared.serve_at(&face.host(), address);
        if let Some(identity) = &identity {
            face.shared.show(&face.host(), &identity.pem);
        }
        let (stop, stopped) = watch::channel(false);
        let tls = identity
            .as_ref()
            .map(|identity| Arc::clone(&identity.config));
        let task = tokio::spawn(accept(face, listener, address, tls, stopped));
        Ok(Server {
            address,
            identity,
            stop,
            task: Some(task),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the server, `https://127.0.0.1:12345`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate with which it has begun, for clients to trust; `None` without TLS.
    #[must_use]
    pub fn certificate_pem(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| identity.pem.as_str())
    }

    /// The fingerprint of that certificate, for clients to pin; `None` without TLS.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.identity.as_ref().map(|identity| identity.fingerprint)
    }

    /// Closes the socket and all connections.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does the same without waiting for it.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // It ends by itself; a panic in it has been reported where it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(
    face: Face,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    mut stopped: watch::Receiver<bool>,
) {
    // An error means that the server was dropped, which ends the serving as well.
    let stopped = async move { stopped.wait_for(|stopped| *stopped).await.map(drop) };
    tokio::pin!(stopped);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    // Closed while the host is down, so that connections are refused.
    let mut listener = Some(listener);
    loop {
        let ended = face.shared.end_of_life(&face.host());
        if face.is_down() {
            listener = None;
        }
        let next = async {
            let Some(listener) = &listener else {
                return std::future::pending().await;
            };
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            _ = &mut stopped => break,
            () = face.shared.closed() => break,
            Some(_) = connections.join_next() => {}
            () = ended => {}
            reopened = reopened(&face, address), if listener.is_none() => {
                listener = Some(reopened);
            }
            (place, accepted) = next => match accepted {
                // Nobody is there to accept it.
                Ok(_) if face.is_down() => {}
                Ok((stream, _)) => {
                    let face = face.clone();
                    let acceptor = tls.as_ref().map(|first| {
                        let replaced = face.shared.replaced_tls(&face.host());
                        TlsAcceptor::from(replaced.unwrap_or_else(|| Arc::clone(first)))
                    });
                    connections.spawn(async move {
                        let _place = place;
                        let ended = face.shared.end_of_life(&face.host());
                        tokio::select! {
                            biased;
                            () = ended => {}
                            () = connection(face, acceptor, stream) => {}
                        }
                    });
                }
                // Most likely too many open files: those in use have to end first.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(RETRY).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// Listens again, once the host is no longer down.
async fn reopened(face: &Face, address: SocketAddr) -> TcpListener {
    let mut changes = face.shared.changes();
    loop {
        changes.borrow_and_update();
        if !face.is_down() {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                // Somebody has taken the port meanwhile, and may give it back.
                Err(error) => {
                    tracing::warn!(%error, %address, "cannot listen again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        // The sender lives as long as the simulator.
        let _ = changes.changed().await;
    }
}

async fn connection(face: Face, acceptor: Option<TlsAcceptor>, stream: TcpStream) {
    // Replies are written whole, so waiting for more only costs time.
    let _ = stream.set_nodelay(true);
    match acceptor {
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => http::serve(face, stream).await,
            Err(error) => tracing::debug!(%error, "TLS handshake failed"),
        },
        None => http::serve(face, stream).await,
    }
}
