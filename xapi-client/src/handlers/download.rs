//! Downloads.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::exchange::{broke, is_end};
use super::own_task::OwnTask;
use super::refusal::{self, MAX_LATE};
use super::request::{HandlerRequest, Progress};
use super::{CHUNK, GRACE};
use crate::api::Host;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::reference::Ref;
use crate::transport::Connection;

/// A download that is ready to begin: [`to`](Self::to) writes it somewhere, [`open`](Self::open) reads it.
#[derive(Debug)]
#[must_use = "a download does nothing until it is opened or written somewhere"]
pub struct Download {
    request: HandlerRequest,
}

impl Download {
    pub(super) fn new(client: &Client, path: &str) -> Self {
        Self {
            request: HandlerRequest::new(client, "GET", path),
        }
    }

    /// Adds a parameter, written as servers want it; what separates parameters is escaped.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.request.add(name, value);
        self
    }

    /// Asks this host of the pool first. Default: the coordinator, which knows who has what, except for
    /// what each host keeps for itself (logs, performance data).
    pub fn at(mut self, host: &Ref<Host>) -> Self {
        self.request.at(host);
        self
    }

    /// Lets the server make a task of its own, whose end is not awaited: for handlers that end none. Whether
    /// all came is then known only from the length, where the server tells it.
    pub fn without_task(mut self) -> Self {
        self.request.has_task = false;
        self
    }

    /// How long the transfer may stand still. Default: 10 minutes.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.request.stall = timeout;
        self
    }

    /// Calls `progress` whenever there is some.
    pub fn progress(mut self, progress: impl FnMut(Progress) + Send + 'static) -> Self {
        self.request.on_progress(Box::new(progress));
        self
    }

    /// Asks for the data, and returns when it begins to come.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] and [`Error::Refused`] when the server refuses; [`Error::Untrusted`] when it sends the
    /// client to a host whose certificate is not trusted; and those of any call.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the transfer on both sides.
    pub async fn open(self) -> Result<Incoming> {
        let request = self.request;
        let task = request.task().await?;
        let opened = match request.open(task.as_ref(), None).await {
            Ok(opened) => opened,
            Err(error) => {
                return Err(match task {
                    Some(task) => task.explain(error).await,
                    None => error,
                });
            }
        };
        let length = opened.head.and_then(|head| head.length);
        request.meter.tell(|progress| progress.total = length);
        let end = task.as_ref().map(|task| -> End {
            let end = task.end::<IgnoredAny>(request.meter.clone());
            Box::pin(async move { end.await.map(|_| ()) })
        });
        Ok(Incoming {
            host: opened.host,
            connection: opened.exchange.connection,
            unread: opened.exchange.unread,
            length,
            received: 0,
            tail: Vec::new(),
            state: State::Body,
            task,
            outcome: end.is_none().then_some(()),
            end,
            moved: Instant::now(),
            timer: Box::pin(tokio::time::sleep(request.stall)),
            request,
        })
    }

    /// Writes the data to `target`, and returns how many bytes came, once the server has said that all went
    /// well. What was written before an error is not to be used.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`Incoming`]; [`Error::Data`] when the target cannot be written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the transfer on both sides; `target` then holds a part.
    pub async fn to(self, target: &mut (impl AsyncWrite + Unpin + Send + ?Sized)) -> Result<u64> {
        let mut incoming = self.open().await?;
        let outcome = incoming.copy(target).await;
        if outcome.is_err()
            && let Some(task) = incoming.task.take()
        {
            task.abandon().await;
        }
        outcome
    }
}

type End = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Data as it comes.
///
/// Its end is told only once the server has said that all went well: whoever reads to the end has all of it.
/// Every other end is an [`io::Error`] that holds an [`Error`], which [`into_error`](Self::into_error) takes
/// out. Dropping it ends the transfer on both sides.
pub struct Incoming {
    request: HandlerRequest,
    host: String,
    connection: Box<dyn Connection>,
    /// What came together with the head.
    unread: Vec<u8>,
    length: Option<u64>,
    received: u64,
    /// The last bytes: a server that fails late says so there.
    tail: Vec<u8>,
    state: State,
    task: Option<OwnTask>,
    /// Waits for the end of the task.
    end: Option<End>,
    /// Whether that end was good.
    outcome: Option<()>,
    /// When something came last.
    moved: Instant,
    timer: Pin<Box<Sleep>>,
}

enum State {
    /// More data may come.
    Body,
    /// No more data comes, and perhaps this is why.
    Ending(Option<Error>),
    /// The reader knows how it ended.
    Told,
}

impl Incoming {
    /// How many bytes there are, where the server tells.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The error that a read failed with.
    #[must_use]
    pub fn into_error(error: io::Error) -> Error {
        error
            .downcast::<Error>()
            .unwrap_or_else(|error| Error::Config(format!("it is no error of a transfer: {error}")))
    }

    async fn copy(&mut self, target: &mut (impl AsyncWrite + Unpin + ?Sized)) -> Result<u64> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match self.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(Self::into_error(error)),
            };
            let written = target.write_all(&buffer[..count]).await;
            written.map_err(|source| self.cannot_write(source))?;
        }
        let flushed = target.flush().await;
        flushed.map_err(|source| self.cannot_write(source))?;
        Ok(self.received)
    }

    fn cannot_write(&self, source: io::Error) -> Error {
        Error::Data {
            method: self.request.method.clone(),
            action: "write",
            source,
        }
    }

    /// Takes note of data that came.
    fn note(&mut self, data: &[u8]) {
        self.received += data.len() as u64;
        self.moved = Instant::now();
        let data = &data[data.len().saturating_sub(MAX_LATE)..];
        if self.tail.len() + data.len() > 2 * MAX_LATE {
            let excess = (self.tail.len() + data.len()).saturating_sub(MAX_LATE);
            self.tail.drain(..excess.min(self.tail.len()));
        }
        self.tail.extend_from_slice(data);
        let received = self.received;
        self.request.meter.tell(|told| told.bytes = received);
    }

    /// The next data, or how the body ended.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Option<State>> {
        let left = self.length.map(|length| length - self.received.min(length));
        let left = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        if left == 0 {
            return Poll::Ready(Some(State::Ending(None)));
        }
        let room = buf.remaining().min(left);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        let outcome = if self.unread.is_empty() {
            match Pin::new(&mut self.connection).poll_read(cx, &mut part) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => {
                    ready!(self.poll_stall(cx, self.request.stall));
                    let error = self.request.stalled(&self.host);
                    return Poll::Ready(Some(State::Ending(Some(error))));
                }
            }
        } else {
            let count = self.unread.len().min(part.remaining());
            part.put_slice(&self.unread[..count]);
            self.unread.drain(..count);
            Ok(())
        };
        let count = part.filled().len();
        match outcome {
            Ok(()) if count > 0 => {
                buf.advance(count);
                self.note(&buf.filled()[buf.filled().len() - count..]);
                Poll::Ready(None)
            }
            Err(error) if !is_end(&error) => {
                let error = broke(&self.request.method, &self.host, error);
                Poll::Ready(Some(State::Ending(Some(error))))
            }
            _ => {
                let short = self.length.map(|length| {
                    let text = format!("the data ended after {} of {length} bytes", self.received);
                    broke(&self.request.method, &self.host, text)
                });
                let late = refusal::late(&self.request.method, &self.host, &self.tail);
                Poll::Ready(Some(State::Ending(late.or(short))))
            }
        }
    }

    /// Ready when nothing has moved for this long.
    fn poll_stall(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        loop {
            let deadline = self.moved + limit;
            if self.timer.deadline() != deadline {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.moved + limit {
                return Poll::Ready(());
            }
        }
    }

    /// The verdict of the task: good, bad, or not yet.
    fn poll_task(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(end) = &mut self.end {
            let outcome = ready!(end.as_mut().poll(cx));
            self.end = None;
            if let Err(error) = outcome {
                return Poll::Ready(Err(error));
            }
            self.outcome = Some(());
        }
        match self.outcome {
            Some(()) => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    fn fail(&mut self, error: Error) -> Poll<io::Result<()>> {
        self.state = State::Told;
        Poll::Ready(Err(io::Error::other(error)))
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.state, State::Told) || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // A failed task is the end, whatever still comes.
        let verdict = match this.poll_task(cx) {
            Poll::Ready(Err(error)) => return this.fail(error),
            Poll::Ready(Ok(())) => Some(()),
            Poll::Pending => None,
        };
        if matches!(this.state, State::Body) {
            match ready!(this.poll_body(cx, buf)) {
                None => return Poll::Ready(Ok(())),
                Some(ending) => {
                    this.state = ending;
                    this.moved = Instant::now();
                }
            }
        }
        let is_good = matches!(this.state, State::Ending(None));
        match (is_good, verdict) {
            (true, Some(())) => {
                this.state = State::Told;
                Poll::Ready(Ok(()))
            }
            // The server may still be tidying up.
            (true, None) => Poll::Pending,
            // The task says why better than a broken connection does, if it says so soon.
            (false, verdict) => {
                if verdict.is_none() {
                    ready!(this.poll_stall(cx, GRACE));
                }
                match std::mem::replace(&mut this.state, State::Told) {
                    State::Ending(Some(error)) => this.fail(error),
                    _ => Poll::Ready(Ok(())),
                }
            }
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("request", &self.request)
            .field("host", &self.host)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}
