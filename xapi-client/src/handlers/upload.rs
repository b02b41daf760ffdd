//! Uploads.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf};

use super::exchange::{self, Head, is_end};
use super::own_task::OwnTask;
use super::refusal::{self, MAX_LATE};
use super::request::{HandlerRequest, Opened, Progress};
use super::{CHUNK, GRACE};
use crate::api::Host;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::reference::Ref;
use crate::reply::Reply;
use crate::transport::Connection;

/// An upload that is ready to begin: [`send`](Self::send) does it. `R` is what the server makes of the data.
#[must_use = "an upload does nothing until it is sent"]
pub struct Upload<R> {
    request: HandlerRequest,
    /// Whether the server must be told the length; else it finds the end in the data.
    needs_length: bool,
    result: PhantomData<fn() -> R>,
}

impl<R> Upload<R> {
    pub(super) fn new(client: &Client, path: &str) -> Self {
        Self {
            request: HandlerRequest::new(client, "PUT", path),
            needs_length: true,
            result: PhantomData,
        }
    }

    pub(super) fn of_any_length(mut self) -> Self {
        self.needs_length = false;
        self
    }

    /// Adds a parameter, written as servers want it; what separates parameters is escaped.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.request.add(name, value);
        self
    }

    /// Asks this host of the pool first. Default: the coordinator, which knows who can take what.
    pub fn at(mut self, host: &Ref<Host>) -> Self {
        self.request.at(host);
        self
    }

    /// Calls the task of the upload by this name, so that a program that was killed meanwhile can find it
    /// again. Default: the request.
    pub fn task_name(mut self, name: impl Into<String>) -> Self {
        self.request.task_name = Some(name.into());
        self
    }

    /// Lets the server make a task of its own, whose end is not awaited: for handlers that end none. Then
    /// only what the server says before it closes the connection can tell of a failure.
    pub fn without_task(mut self) -> Upload<()> {
        self.request.has_task = false;
        Upload {
            request: self.request,
            needs_length: self.needs_length,
            result: PhantomData,
        }
    }

    /// How long the transfer may stand still because the server takes no data. Default: 10 minutes. How long
    /// the source takes, and the server after the last byte, does not count.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.request.stall = timeout;
        self
    }

    /// How long the server may take to begin its answer before it gets the data without one. Default: 10
    /// seconds. Handlers of the API answer first, and tell so which host can take the data; for any that
    /// reads first, this only delays the transfer.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.request.answer = timeout;
        self
    }

    /// Calls `progress` whenever there is some.
    pub fn progress(mut self, progress: impl FnMut(Progress) + Send + 'static) -> Self {
        self.request.on_progress(Box::new(progress));
        self
    }
}

impl<R: DeserializeOwned> Upload<R> {
    /// Sends `length` bytes of the source, and waits for the server to say that all went well. `None`, for
    /// data that tells its own end (virtual machines, not disks): up to the end of the source.
    ///
    /// No byte is sent before the server has told, by beginning to answer, that this host can take them: a
    /// source needs no second reading where another host has the storage.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] and [`Error::Refused`] when the server refuses or fails; [`Error::Data`] when the
    /// source fails or ends early; [`Error::Untrusted`] when the server sends the client to a host whose
    /// certificate is not trusted; [`Error::Config`] when a length is missing; and those of any call.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the transfer on both sides. What the server had written by then stays: a
    /// disk holds a part of the data.
    pub async fn send(
        self,
        source: impl AsyncRead + Unpin + Send,
        length: impl Into<Option<u64>> + Send,
    ) -> Result<R> {
        let length = length.into();
        let request = self.request;
        if length.is_none() && self.needs_length {
            return Err(Error::Config(format!(
                "{} takes no data of unknown length; give the length in bytes",
                request.method
            )));
        }
        request.meter.tell(|progress| progress.total = length);
        let task = request.task().await?;
        let outcome = transfer(&request, task.as_ref(), source, length).await;
        if outcome.is_err()
            && let Some(task) = task
        {
            task.abandon().await;
        }
        outcome
    }
}

async fn transfer<R: DeserializeOwned>(
    request: &HandlerRequest,
    task: Option<&OwnTask>,
    source: impl AsyncRead + Unpin + Send,
    length: Option<u64>,
) -> Result<R> {
    let mut end = task.map(|task| Box::pin(task.end::<R>(request.meter.clone())));
    let mut sent = 0;
    let moving = async {
        let opened = request.open(task, length).await?;
        pour(request, opened, source, length, &mut sent).await
    };
    let first = {
        let mut moving = pin!(moving);
        poll_fn(|cx| {
            if let Some(end) = &mut end
                && let Poll::Ready(outcome) = end.as_mut().poll(cx)
            {
                return Poll::Ready(First::Ended(outcome));
            }
            moving.as_mut().poll(cx).map(First::Moved)
        })
        .await
    };
    match (first, end) {
        // Nothing can have come of no data: whoever ended the task was not the handler.
        (First::Ended(Ok(_)), _) if sent == 0 && length != Some(0) => {
            let host = request.client.host_name()?;
            let reason = "its task ended before any data was sent";
            Err(exchange::broke(&request.method, &host, reason))
        }
        // The server needs no more, or wants none.
        (First::Ended(outcome), _) => outcome,
        (First::Moved(Ok(())), Some(end)) => end.await,
        (First::Moved(Ok(())), None) => Reply::void(&request.method).decode(),
        // The task says why better than a broken connection does, if it says so soon.
        (First::Moved(Err(error @ Error::Transport { .. })), Some(end)) => {
            match tokio::time::timeout(GRACE, end).await {
                Ok(outcome) => outcome,
                Err(_) => Err(error),
            }
        }
        (First::Moved(Err(error)), _) => Err(error),
    }
}

/// What happened first.
enum First<R> {
    /// The task ended.
    Ended(Result<R>),
    /// The data was sent and the server closed the connection, or it broke.
    Moved(Result<()>),
}

/// Sends the data, and reads what the server says meanwhile and thereafter.
async fn pour(
    request: &HandlerRequest,
    opened: Opened,
    source: impl AsyncRead + Unpin + Send,
    length: Option<u64>,
    sent: &mut u64,
) -> Result<()> {
    let host = opened.host;
    let broke = |source: crate::error::Cause| exchange::broke(&request.method, &host, source);
    let (reader, writer) = tokio::io::split(opened.exchange.connection);
    let mut answer = Answer {
        reader,
        head: opened.head,
        received: opened.exchange.unread.len() as u64,
        text: opened.exchange.unread,
    };
    let written = {
        let mut writing = pin!(write(request, &host, writer, source, length, sent));
        loop {
            let event = poll_fn(|cx| match writing.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(Event::Written(outcome)),
                Poll::Pending => answer.poll_more(cx).map(Event::Heard),
            });
            match event.await {
                Event::Written(outcome) => break outcome,
                Event::Heard(Ok(true)) => {}
                Event::Heard(Ok(false)) => {
                    let reason = "the host closed it before all data was sent";
                    break Err(broke(reason.into()));
                }
                Event::Heard(Err(error)) => break Err(broke(error.into())),
            }
        }
    };
    // What the host has said, or is about to say, about a failure is worth more than that writing failed.
    match &written {
        Err(Error::Transport { .. }) => {
            let _ = tokio::time::timeout(GRACE, answer.rest()).await;
        }
        Err(_) => return written,
        Ok(()) => {
            let rest = async { answer.rest().await.map_err(|error| broke(error.into())) };
            // With a task, its end says when the server is done.
            if request.has_task {
                rest.await?;
            } else {
                request.in_time(&host, rest).await?;
            }
        }
    }
    match answer.refusal(&request.method, &host) {
        Some(error) => Err(error),
        None => written,
    }
}

enum Event {
    Written(Result<()>),
    /// Whether the server goes on.
    Heard(io::Result<bool>),
}

async fn write(
    request: &HandlerRequest,
    host: &str,
    mut writer: impl AsyncWrite + Unpin,
    mut source: impl AsyncRead + Unpin,
    length: Option<u64>,
    sent: &mut u64,
) -> Result<()> {
    let broke = |error: io::Error| exchange::broke(&request.method, host, error);
    let cannot_read = |source| Error::Data {
        method: request.method.clone(),
        action: "read",
        source,
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let left = length.map_or(u64::MAX, |length| length - *sent);
        let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        if most == 0 {
            break;
        }
        let count = source
            .read(&mut buffer[..most])
            .await
            .map_err(cannot_read)?;
        if count == 0 {
            let Some(length) = length else { break };
            let text = format!("it ended after {sent} of {length} bytes");
            return Err(cannot_read(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                text,
            )));
        }
        let step = async { writer.write_all(&buffer[..count]).await.map_err(broke) };
        request.in_time(host, step).await?;
        *sent += count as u64;
        let told = *sent;
        request.meter.tell(|progress| progress.bytes = told);
    }
    let flushing = async { writer.flush().await.map_err(broke) };
    request.in_time(host, flushing).await
}

/// What the server says while and after it takes the data.
struct Answer {
    reader: ReadHalf<Box<dyn Connection>>,
    /// `None`: the answer has not begun.
    head: Option<Head>,
    /// How many bytes of the body, or of all where the head is not known, were read.
    received: u64,
    /// The last of them.
    text: Vec<u8>,
}

impl Answer {
    /// Reads more; `false` at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; 2048];
        let mut buf = ReadBuf::new(&mut bytes);
        let outcome = std::task::ready!(Pin::new(&mut self.reader).poll_read(cx, &mut buf));
        Poll::Ready(match outcome {
            Err(error) if !is_end(&error) => Err(error),
            _ if buf.filled().is_empty() => Ok(false),
            _ => {
                self.received += buf.filled().len() as u64;
                self.text.extend_from_slice(buf.filled());
                let excess = self.text.len().saturating_sub(2 * MAX_LATE);
                self.text.drain(..excess);
                Ok(true)
            }
        })
    }

    /// Reads to the end: of the connection, or of an answer that tells its length.
    async fn rest(&mut self) -> io::Result<()> {
        while !self.is_complete() && poll_fn(|cx| self.poll_more(cx)).await? {}
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let complete = |head: &Head, received| head.length.is_some_and(|length| received >= length);
        match &self.head {
            Some(head) => complete(head, self.received),
            None => match exchange::parse(&self.text) {
                Ok(Some((head, end))) => complete(&head, self.received - end as u64),
                _ => false,
            },
        }
    }

    /// The failure that it tells, if it does.
    fn refusal(&self, method: &str, host: &str) -> Option<Error> {
        if self.head.is_some() {
            return refusal::late(method, host, &self.text);
        }
        match exchange::parse(&self.text) {
            Ok(Some((head, end))) if !(200..=299).contains(&head.status) => {
                let body = String::from_utf8_lossy(&self.text[end..]);
                Some(refusal::error(method, host, head.status, &body))
            }
            Ok(Some(_)) => refusal::late(method, host, &self.text),
            Ok(None) => Some(exchange::broke(
                method,
                host,
                "the host closed it without an answer",
            )),
            Err(error) => Some(exchange::broke(method, host, error)),
        }
    }
}

impl<R> fmt::Debug for Upload<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}
