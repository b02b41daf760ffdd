//! Records as they arrive: the answer is taken apart while it comes, so that none of it is kept.

mod json;
mod xml;

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::call::Prepared;
use crate::client::{Answer, Client};
use crate::error::{Cause, Error, Result};
use crate::reply::Reply;
use crate::transport::{BodyStream, Protocol, Request, Transport};

/// The entries of a map that a call returns, one after another, decoded as their bytes arrive:
/// [`Call::stream`](crate::Call::stream) makes it. It is a [`Stream`]; without the combinators of another
/// crate, [`next`](Self::next) does.
///
/// The call is sent when the first entry is asked for. Its timeout ends with the last entry taken, so what is
/// done with each counts too. It counts as a call under way only until the answer begins.
///
/// # Errors
///
/// Those of any call, before the first entry; after it [`Error::Transport`], [`Error::Timeout`] and
/// [`Error::Decode`], which end the stream: entries are missing then.
#[must_use = "a stream does nothing until it is polled"]
pub struct Records<K, V> {
    method: String,
    /// The lock is never contended: it makes the stream `Sync`.
    state: Mutex<State>,
    entry: PhantomData<fn() -> (K, V)>,
}

enum State {
    /// The call is under way.
    Sent(Pin<Box<dyn Future<Output = Result<Arriving>> + Send>>),
    /// Entries arrive.
    Arriving(Arriving),
    Ended,
}

impl<K: DeserializeOwned, V: DeserializeOwned> Records<K, V> {
    pub(crate) fn new(client: &Client, prepared: Prepared) -> Self {
        Self {
            method: prepared.method.clone(),
            state: Mutex::new(State::Sent(Box::pin(client.execute_as(prepared)))),
            entry: PhantomData,
        }
    }

    /// The next entry; `None` when there are no more, and the answer was complete.
    ///
    /// # Errors
    ///
    /// See [`Records`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future: the next call goes on where it was.
    pub async fn next(&mut self) -> Option<Result<(K, V)>> {
        poll_fn(|context| self.poll(context)).await
    }

    /// All entries that are left, as a map. Only they are kept, and not the answer: of few fields of many
    /// records that is a small part.
    ///
    /// # Errors
    ///
    /// See [`Records`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops what has arrived.
    pub async fn into_map(mut self) -> Result<BTreeMap<K, V>>
    where
        K: Ord,
    {
        let mut map = BTreeMap::new();
        while let Some(entry) = self.next().await {
            let (key, value) = entry?;
            map.insert(key, value);
        }
        Ok(map)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(K, V)>>> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let outcome = loop {
            match state {
                State::Sent(call) => match ready!(call.as_mut().poll(context)) {
                    Ok(arriving) => *state = State::Arriving(arriving),
                    Err(error) => break Err(error),
                },
                State::Arriving(arriving) => {
                    let next = ready!(arriving.poll_next(context, &self.method));
                    break next;
                }
                State::Ended => return Poll::Ready(None),
            }
        };
        if !matches!(outcome, Ok(Some(_))) {
            *state = State::Ended;
        }
        Poll::Ready(outcome.transpose())
    }
}

impl<K: DeserializeOwned, V: DeserializeOwned> Stream for Records<K, V> {
    type Item = Result<(K, V)>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

impl<K, V> fmt::Debug for Records<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// An answer whose result is a map, and of which entries are still to come.
pub(crate) struct Arriving {
    body: BodyStream,
    unread: Unread,
    protocol: Protocol,
    ended: bool,
}

/// What has arrived and is not yet decoded.
#[derive(Default)]
struct Unread {
    bytes: Vec<u8>,
    /// Where the next thing begins.
    at: usize,
    /// Whether an entry came before.
    begun: bool,
    /// Whether the map has been closed.
    closed: bool,
    /// How much must be there before another look pays: each look at a part costs its length.
    enough: usize,
    /// Where a search for the end of an entry goes on, and how deep it is there.
    searched: (usize, usize),
}

impl Unread {
    fn push(&mut self, chunk: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(chunk);
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn take(&mut self, count: usize) {
        self.at += count;
        self.enough = 0;
        self.searched = (0, 0);
    }

    /// The entry is not complete.
    fn wait(&mut self) {
        self.enough = self.rest().len() * 2;
    }
}

/// What a look at the unread found.
enum Step<T> {
    Entry(T),
    /// More has to arrive first.
    More,
    /// The map ends here.
    End,
}

impl Answer for Arriving {
    fn void(method: &str) -> Result<Self> {
        Err(no_map(method))
    }

    async fn exchange(
        transport: &dyn Transport,
        protocol: Protocol,
        mut request: Request,
    ) -> Result<Self> {
        request.protocol = protocol;
        let method = request.method.clone();
        let mut arriving = Self {
            body: transport.stream(request).await?,
            unread: Unread::default(),
            protocol,
            ended: false,
        };
        loop {
            let unread = &mut arriving.unread;
            if arriving.ended || unread.bytes.len() >= unread.enough {
                let found = match protocol {
                    Protocol::JsonRpc => json::begin(&unread.bytes),
                    Protocol::XmlRpc => xml::begin(&unread.bytes),
                };
                if let Some(begin) = found {
                    unread.take(begin);
                    return Ok(arriving);
                }
                unread.wait();
            }
            if arriving.ended {
                let body = Bytes::from(std::mem::take(&mut unread.bytes));
                // A failure, most often.
                return Err(match protocol.open(&method, body) {
                    Ok(_) => no_map(&method),
                    Err(error) => error,
                });
            }
            poll_fn(|context| arriving.poll_more(context)).await?;
        }
    }
}

impl Arriving {
    fn poll_next<K: DeserializeOwned, V: DeserializeOwned>(
        &mut self,
        context: &mut Context<'_>,
        method: &str,
    ) -> Poll<Result<Option<(K, V)>>> {
        let wrong = |source| Error::Decode {
            method: method.to_owned(),
            source,
        };
        loop {
            if !self.unread.closed && (self.ended || self.unread.rest().len() >= self.unread.enough)
            {
                let step = match self.protocol {
                    Protocol::JsonRpc => json::next(&mut self.unread, self.ended),
                    Protocol::XmlRpc => xml::next(&mut self.unread, self.ended),
                };
                match step.map_err(wrong)? {
                    Step::Entry(entry) => return Poll::Ready(Ok(Some(entry))),
                    Step::End => self.unread.closed = true,
                    Step::More => self.unread.wait(),
                }
            }
            if self.ended {
                return Poll::Ready(self.finish(method).map(|()| None));
            }
            ready!(self.poll_more(context))?;
        }
    }

    /// Reads on.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        match ready!(self.body.as_mut().poll_next(context)).transpose()? {
            Some(chunk) => self.unread.push(&chunk),
            None => self.ended = true,
        }
        Poll::Ready(Ok(()))
    }

    /// Makes sure that the answer was complete, and did not end in an error.
    fn finish(&self, method: &str) -> Result<()> {
        if !self.unread.closed {
            return Err(Error::Decode {
                method: method.to_owned(),
                source: "the answer ends early".into(),
            });
        }
        match self.protocol {
            Protocol::JsonRpc => {
                let rest = [br#"{"result":{}"#.as_slice(), self.unread.rest()].concat();
                let reply: Reply = self.protocol.open(method, Bytes::from(rest))?;
                reply.decode::<IgnoredAny>().map(|_| ())
            }
            Protocol::XmlRpc => Ok(()),
        }
    }
}

fn no_map(method: &str) -> Error {
    let source: Cause = "the result is no map; await the call instead of streaming it".into();
    Error::Decode {
        method: method.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
