//! The simulator as a transport of the client, without a socket.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use xapi_client::{Error, Protocol, Request, Result, Transport};

use crate::fault::Spoil;
use crate::rpc::{self, Codec, Face};
use crate::world::Shared;

const HOST: &str = "simulator";

/// Carries calls to a simulator in the same process.
pub(crate) struct InProcess {
    face: Face,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}

impl InProcess {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        InProcess {
            face: Face::of_coordinator(shared),
        }
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn send(&self, request: Request) -> Result<Bytes> {
        let Request {
            method,
            protocol,
            body,
            task_tag,
            task_mark,
            timeout,
            ..
        } = request;
        if self.face.shared.is_closed() {
            let source = "the simulator has been shut down".into();
            return Err(Error::Transport {
                method,
                host: HOST.to_owned(),
                source,
            });
        }
        let codec = match protocol {
            Protocol::XmlRpc => Codec::Xml,
            _ => Codec::Json,
        };
        // What a header would have been to a server.
        let tags = task_tag.map(|tag| ("xapi-client".to_owned(), tag.to_string()));
        let tags = tags.into_iter().chain(task_mark).collect();
        let answer = rpc::answer(&self.face, codec, &body, tags);
        let broke = |method: String, reason: String| Error::Transport {
            method,
            host: HOST.to_owned(),
            source: reason.into(),
        };
        let timed_out = |method: String| Error::Timeout {
            method,
            host: HOST.to_owned(),
            after: timeout,
        };
        if self.face.is_down() {
            return Err(broke(method, "the host is down".to_owned()));
        }
        let begun = Instant::now();
        let ended = self.face.shared.end_of_life(&self.face.host());
        let answer = tokio::select! {
            biased;
            () = ended => {
                return Err(broke(method, "the connection was closed".to_owned()));
            }
            answer = tokio::time::timeout(timeout, answer) => answer,
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(exception)) => return Err(broke(method, exception)),
            Err(_) => return Err(timed_out(method)),
        };
        match answer.spoil {
            None | Some(Spoil::Expire) => {}
            Some(Spoil::Disconnect | Spoil::Truncate(_)) => {
                return Err(broke(method, "the connection was closed".to_owned()));
            }
            Some(Spoil::Status(status)) => {
                return Err(Error::Http {
                    method,
                    host: HOST.to_owned(),
                    status,
                });
            }
            Some(Spoil::Slow(pause)) => {
                tokio::time::sleep_until(begun + timeout.min(begun.elapsed() + pause)).await;
                if begun.elapsed() >= timeout {
                    return Err(timed_out(method));
                }
            }
        }
        Ok(Bytes::from(answer.body))
    }

    fn host(&self) -> &str {
        HOST
    }
}
