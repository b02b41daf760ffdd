//! A request to a handler: who is asked, and how the answer begins.

use std::fmt;
use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::exchange::{Exchange, Head};
use super::own_task::OwnTask;
use super::refusal;
use crate::api::Host;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::http::MAX_HEAD;
use crate::reference::Ref;
use crate::session::Live;
use crate::transport::Transport;

/// How often a request is sent on to another host.
const MAX_REDIRECTS: usize = 3;
/// How long a transfer may stand still, unless the program says otherwise.
const STALL: Duration = Duration::from_secs(600);
/// How long an upload waits for the answer that tells the right host, unless the program says otherwise.
const ANSWER: Duration = Duration::from_secs(10);

/// How far a transfer is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// How many bytes were transferred.
    pub bytes: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
    /// The part that the server says is done, from 0 to 1. It may go on after the last byte.
    pub server: f64,
}

type Callback = Box<dyn FnMut(Progress) + Send>;

/// Progress, and whom to tell.
#[derive(Clone, Default)]
pub(super) struct Meter(Arc<Mutex<(Progress, Option<Callback>)>>);

impl Meter {
    pub(super) fn tell(&self, change: impl FnOnce(&mut Progress)) {
        let mut meter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (progress, callback) = &mut *meter;
        let before = *progress;
        change(progress);
        if let Some(callback) = callback.as_mut().filter(|_| *progress != before) {
            callback(*progress);
        }
    }
}

/// What is asked of a handler.
pub(super) struct HandlerRequest {
    pub(super) client: Client,
    /// `GET /export`, for messages.
    pub(super) method: String,
    verb: &'static str,
    path: String,
    query: String,
    host: Option<Ref<Host>>,
    pub(super) has_task: bool,
    /// What the task is called; by default as the request.
    pub(super) task_name: Option<String>,
    pub(super) stall: Duration,
    pub(super) answer: Duration,
    pub(super) meter: Meter,
}

/// An answer that has begun.
pub(super) struct Opened {
    pub(super) exchange: Exchange,
    /// `None`: the server reads before it answers.
    pub(super) head: Option<Head>,
    pub(super) host: String,
}

impl HandlerRequest {
    pub(super) fn new(client: &Client, verb: &'static str, path: &str) -> Self {
        Self {
            client: client.clone(),
            method: format!("{verb} {path}"),
            verb,
            path: path.to_owned(),
            query: String::new(),
            host: None,
            has_task: true,
            task_name: None,
            stall: STALL,
            answer: ANSWER,
            meter: Meter::default(),
        }
    }

    pub(super) fn add(&mut self, name: &str, value: &str) {
        let separator = if self.query.is_empty() { '?' } else { '&' };
        self.query.push(separator);
        encode(&mut self.query, name);
        self.query.push('=');
        encode(&mut self.query, value);
    }

    pub(super) fn at(&mut self, host: &Ref<Host>) {
        self.host = Some(host.clone());
    }

    pub(super) fn on_progress(&mut self, callback: Callback) {
        let mut meter = self.meter.0.lock().unwrap_or_else(PoisonError::into_inner);
        meter.1 = Some(callback);
    }

    /// The task that will tell how the transfer ended.
    pub(super) async fn task(&self) -> Result<Option<OwnTask>> {
        match self.has_task {
            true => OwnTask::create(&self.client, &self.method, self.task_name.as_deref())
                .await
                .map(Some),
            false => Ok(None),
        }
    }

    /// Sends the head of the request, to other hosts as servers tell, until one begins a good answer.
    pub(super) async fn open(&self, task: Option<&OwnTask>, length: Option<u64>) -> Result<Opened> {
        let mut live = self.client.live(&self.method)?;
        let mut transport = self.first_host(&live).await?;
        let (mut renewed, mut redirects) = (false, 0);
        loop {
            let head = self.head(&live, &*transport, task, length)?;
            let connection = transport.connect().await?;
            let host = transport.host().to_owned();
            let sent = Exchange::send(connection, &head, &self.method, &host);
            let mut exchange = self.in_time(&host, sent).await?;
            let head = match self.verb {
                "PUT" => match tokio::time::timeout(self.answer, exchange.head()).await {
                    Ok(head) => Some(head?),
                    Err(_) => None,
                },
                _ => Some(self.in_time(&host, exchange.head()).await?),
            };
            let Some(answer) = &head else {
                return Ok(Opened {
                    exchange,
                    head,
                    host,
                });
            };
            match (answer.status, &answer.location) {
                (200..=299, _) => {
                    return Ok(Opened {
                        exchange,
                        head,
                        host,
                    });
                }
                (301 | 302 | 307, Some(location)) if redirects < MAX_REDIRECTS => {
                    tracing::debug!(from = host, to = location, "another host has it");
                    transport = transport.redirect(authority(location)?)?;
                    redirects += 1;
                }
                (401, _) if !renewed => {
                    live = self.client.renew(&live, &self.method).await?;
                    renewed = true;
                }
                (status, _) => {
                    let text = exchange.refusal(answer).await;
                    return Err(self.refused(&host, status, &text, task).await);
                }
            }
        }
    }

    /// The host that is asked first.
    async fn first_host(&self, live: &Live) -> Result<Arc<dyn Transport>> {
        match &self.host {
            None => Ok(live.transport.clone()),
            Some(host) => {
                let address = self.client.host().get_address(host).await?;
                live.transport.redirect(&address)
            }
        }
    }

    /// The head of the request. The session goes as the only cookie, so that no log of addresses holds it,
    /// and no question arises of what separates cookies.
    fn head(
        &self,
        live: &Live,
        transport: &dyn Transport,
        task: Option<&OwnTask>,
        length: Option<u64>,
    ) -> Result<String> {
        check_path(&self.path)?;
        let mut query = self.query.clone();
        if let Some(task) = task {
            let separator = if query.is_empty() { '?' } else { '&' };
            query.push(separator);
            query.push_str("task_id=");
            encode(&mut query, task.reference().as_str());
        }
        let mut head = format!(
            "{} {}{query} HTTP/1.1\r\nhost: {}\r\ncookie: session_id={}\r\nconnection: close\r\n",
            self.verb,
            self.path,
            transport.host(),
            live.session()
        );
        if let Some(length) = length {
            // Writing to a string cannot fail.
            let _ = write!(head, "content-length: {length}\r\n");
        }
        head.push_str("\r\n");
        if head.len() > MAX_HEAD {
            return Err(Error::TooLarge {
                method: self.method.clone(),
                part: "head",
                size: head.len(),
                limit: MAX_HEAD,
            });
        }
        Ok(head)
    }

    /// The error of a refusal. A handler that had taken the task says there what its page may not.
    async fn refused(&self, host: &str, status: u16, html: &str, task: Option<&OwnTask>) -> Error {
        let error = refusal::error(&self.method, host, status, html);
        match (&error, task) {
            (Error::Refused { .. }, Some(task)) => task.failure().await.map_or(error, Error::Api),
            _ => error,
        }
    }

    /// Fails when nothing moves for too long.
    pub(super) async fn in_time<T>(
        &self,
        host: &str,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.stall, step).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.stalled(host)),
        }
    }

    pub(super) fn stalled(&self, host: &str) -> Error {
        Error::Timeout {
            method: self.method.clone(),
            host: host.to_owned(),
            after: self.stall,
        }
    }
}

impl fmt::Debug for HandlerRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerRequest")
            .field("method", &self.method)
            .field("query", &self.query)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The host in an absolute address. Servers put bare IPv6 addresses there too.
fn authority(location: &str) -> Result<&str> {
    let wrong = || {
        Error::Config(format!(
            "a host sent the client to `{location}`, which is no address"
        ))
    };
    let (_, rest) = location.split_once("://").ok_or_else(wrong)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let is_plausible = authority.parse::<Ipv6Addr>().is_ok()
        || !authority.is_empty() && !authority.contains(['@', ' ']);
    is_plausible.then_some(authority).ok_or_else(wrong)
}

fn check_path(path: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%');
    if path.starts_with('/') && path.bytes().all(is_plain) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "`{}` is no path of a handler; give one such as /host_backup, and parameters as a query",
        path.escape_debug()
    )))
}

/// Writes a text so that it is one part of a query. Colons stay: servers write references so.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => {
                out.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_name_hosts_in_many_ways() {
        for (location, expected) in [
            ("https://10.0.0.2/export?ref=x", "10.0.0.2"),
            ("https://[fd00::2]/import", "[fd00::2]"),
            ("https://fd00::2/import", "fd00::2"),
            ("https://xcp?x", "xcp"),
        ] {
            assert_eq!(authority(location).unwrap(), expected, "{location}");
        }
        for location in ["/export", "https:///export", "https://root:pw@xcp/", ""] {
            assert!(authority(location).is_err(), "{location}");
        }
    }

    #[test]
    fn nothing_in_a_query_or_path_can_become_a_header() {
        let mut out = String::new();
        encode(&mut out, "OpaqueRef:1 &x=\r\nü");
        assert_eq!(out, "OpaqueRef:1%20%26x%3D%0D%0A%C3%BC");
        check_path("/services/SM").unwrap();
        for path in ["", "export", "/a b", "/a\r\nx: y", "/a?b=c", "/ü"] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
    }
}
