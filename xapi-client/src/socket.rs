//! Connections of their own, for requests to HTTP handlers.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::transport::Connection;

/// Connects to a host, a name or an address without brackets, and agrees on keys where TLS is wanted.
pub(crate) async fn open(
    host: &str,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
) -> io::Result<Box<dyn Connection>> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let Some(config) = tls else {
        return Ok(Box::new(tcp));
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = TlsConnector::from(config).connect(name, tcp).await?;
    Ok(Box::new(stream))
}
