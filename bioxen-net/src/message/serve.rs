//! What a hub does for a program: answers its requests, one at a time, over connections that may be
//! lost and come again.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bioxen_vm_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::hub::Endpoint;
use super::wire::{self, Id, Lines, RESUME, Request};

/// A program as the hub knows it, over all its connections.
pub(super) struct Served {
    endpoint: Arc<Endpoint>,
    /// The request that came last.
    last: Id,
    state: State,
    owed: Arc<Mutex<Owed>>,
}

enum State {
    /// It is being done.
    Working(Pin<Box<dyn Future<Output = Vec<u8>> + Send>>),
    /// This is the answer, as a frame. The program may not have seen it.
    Answered(Vec<u8>),
}

/// The replies that the program owes to others, by the number that it knows each by.
#[derive(Debug, Default)]
struct Owed {
    count: u64,
    replies: HashMap<u64, oneshot::Sender<Bytes>>,
}

impl Served {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            last: RESUME,
            state: State::Answered(Vec::new()),
            owed: Arc::default(),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves over a connection until that ends. What is being done meanwhile goes on with the next
    /// one.
    ///
    /// # Errors
    /// Fails when the connection does.
    pub(super) async fn serve<R, W>(
        &mut self,
        lines: &mut Lines<R>,
        writer: &mut W,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            let send = tokio::select! {
                line = lines.next() => match line? {
                    None => return Ok(()),
                    Some(line) => self.take(&line),
                },
                () = self.work() => true,
            };
            if let (true, State::Answered(frame)) = (send, &self.state) {
                writer.write_all(frame).await?;
                writer.flush().await?;
            }
        }
    }

    /// Does what was asked for last, until there is an answer. Never ends when there is one.
    async fn work(&mut self) {
        match &mut self.state {
            State::Working(work) => {
                let body = work.await;
                self.state = State::Answered(wire::frame(self.last, &body));
            }
            State::Answered(_) => std::future::pending().await,
        }
    }

    /// Takes a line. Tells whether an answer is to be sent.
    fn take(&mut self, line: &Bytes) -> bool {
        // What is no frame is what a lost connection has left.
        let Some((id, body)) = wire::unframe(line) else {
            return false;
        };
        if id > self.last {
            self.last = id;
            self.state = State::Working(self.begin(&body));
            return false;
        }
        // The program has not seen the answer, or it asks twice; then it leaves out the second one.
        id == self.last
    }

    fn begin(&self, body: &Bytes) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> {
        let endpoint = Arc::clone(&self.endpoint);
        let owed = Arc::clone(&self.owed);
        let request = Request::read(body);
        Box::pin(async move {
            let done = match request {
                Some(request) => carry_out(&endpoint, &owed, request).await,
                None => Err(unknown()),
            };
            done.unwrap_or_else(|error| {
                let kind = match error.kind() {
                    ErrorKind::Timeout => "timeout",
                    _ => "failed",
                };
                wire::answer(kind, 0, &error.to_string(), b"", b"")
            })
        })
    }
}

/// Does one thing for a program; the body of the answer.
async fn carry_out(endpoint: &Endpoint, owed: &Mutex<Owed>, request: Request) -> Result<Vec<u8>> {
    let Request {
        operation,
        number,
        name,
        bytes,
    } = request;
    let limit = u64::try_from(number).ok().map(Duration::from_millis);
    let peer = String::from_utf8_lossy(&name);
    let done = |count: usize| wire::answer("done", count as u64, "", b"", b"");
    Ok(match &operation[..] {
        b"send" => {
            endpoint.send(&peer, bytes, limit).await?;
            done(1)
        }
        b"request" => {
            let reply = endpoint.request(&peer, bytes, limit).await?;
            wire::answer("bytes", 0, "", b"", &reply)
        }
        b"receive" => match endpoint.receive(limit).await? {
            Some(message) => {
                let token = message.reply.map_or(0, |reply| lock(owed).keep(reply));
                let topic = message.topic.unwrap_or_default();
                let from = message.from.as_str();
                wire::answer("message", token, from, &topic, &message.bytes)
            }
            None => wire::answer("timeout", 0, "no message came in time", b"", b""),
        },
        b"reply" => {
            lock(owed).pay(number, bytes)?;
            done(1)
        }
        b"publish" => done(endpoint.publish(name, bytes, limit).await?),
        b"broadcast" => done(endpoint.broadcast(bytes, limit).await?),
        b"subscribe" => {
            endpoint.subscribe(name);
            done(1)
        }
        b"unsubscribe" => {
            endpoint.unsubscribe(&name);
            done(1)
        }
        b"peers" => {
            let peers = endpoint.hub().peers();
            let names: Vec<_> = peers.iter().map(|name| name.as_str()).collect();
            wire::answer("bytes", 0, "", b"", names.join("\n").as_bytes())
        }
        _ => return Err(unknown()),
    })
}

fn unknown() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the hub does not know what the program asks for; let it use bioxen.net",
    )
}

fn lock(owed: &Mutex<Owed>) -> MutexGuard<'_, Owed> {
    owed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owed {
    /// Keeps the way back to who waits for a reply, and gives it a number.
    fn keep(&mut self, reply: oneshot::Sender<Bytes>) -> u64 {
        self.replies.retain(|_, reply| !reply.is_closed());
        self.count += 1;
        self.replies.insert(self.count, reply);
        self.count
    }

    fn pay(&mut self, number: i64, bytes: Bytes) -> Result<()> {
        let number = u64::try_from(number).unwrap_or_default();
        let reply = self.replies.remove(&number);
        let sent = reply.is_some_and(|reply| reply.send(bytes).is_ok());
        if sent {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "nobody waits for this reply: it has been given, or the sender waits no longer",
        )
        .with_operation("reply"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Hub;
    use super::*;
    use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream, duplex};

    /// A program and its connections.
    struct Program {
        served: Served,
    }

    impl Program {
        /// Writes to a connection that ends once this many answers have come, and gives them.
        async fn over_a_connection(&mut self, text: &[u8], answers: usize) -> Vec<String> {
            let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 16);
            let (reader, mut writer) = tokio::io::split(theirs);
            let mut lines = Lines::new(reader);
            let (ours_reader, mut ours_writer) = tokio::io::split(ours);
            ours_writer.write_all(text).await.unwrap();
            if answers == 0 {
                ours_writer.shutdown().await.unwrap();
            }
            let mut got = Vec::new();
            let mut answered = BufReader::new(ours_reader).lines();
            tokio::select! {
                served = self.served.serve(&mut lines, &mut writer) => served.unwrap(),
                () = async {
                    while got.len() < answers {
                        got.push(answered.next_line().await.unwrap().unwrap());
                    }
                }, if answers > 0 => {}
            }
            got
        }
    }

    #[tokio::test]
    async fn a_request_that_is_repeated_over_another_connection_is_done_once() {
        let hub = Hub::new();
        let receiver = hub.endpoint("b").unwrap();
        let served = Served::new(Arc::new(hub.endpoint("a").unwrap()));
        let mut program = Program { served };
        let first = wire::frame((1, 1), b"send 0 1:bone");
        let second = wire::frame((1, 2), b"send 0 1:btwo");
        // The first arrives, and its answer does not. The second is torn, and comes again.
        program.over_a_connection(&first, 1).await;
        let torn = [&first[..], &second[..10], b"\n", &second[..]].concat();
        let answers = program.over_a_connection(&torn, 2).await;
        assert!(answers[0].starts_with("\u{1}1 1 "), "{answers:?}");
        assert!(answers[1].starts_with("\u{1}1 2 "), "{answers:?}");
        for wanted in ["one", "two"] {
            let message = receiver.receive(None).await.unwrap().unwrap();
            assert_eq!(message.bytes, wanted);
        }
        let more = receiver.receive(Some(Duration::ZERO)).await.unwrap();
        assert!(more.is_none());
    }

    #[tokio::test]
    async fn what_is_being_done_goes_on_over_the_next_connection() {
        let hub = Hub::new();
        let sender = hub.endpoint("b").unwrap();
        let served = Served::new(Arc::new(hub.endpoint("a").unwrap()));
        let mut program = Program { served };
        let receive = wire::frame((1, 1), b"receive -1 0:");
        // Both connections end before there is a message.
        program.over_a_connection(&receive, 0).await;
        program.over_a_connection(b"", 0).await;
        sender.send("a", "late", None).await.unwrap();
        let answers = program.over_a_connection(b"", 1).await;
        assert!(answers[0].ends_with("message 0 1 0:blate"), "{answers:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_is_told_and_does_not_hang() {
        let hub = Hub::new();
        let served = Served::new(Arc::new(hub.endpoint("a").unwrap()));
        let mut program = Program { served };
        for (number, body, told) in [
            (
                1,
                &b"send 0 1:cx"[..],
                "nobody has joined as \"c\"; there are: a",
            ),
            (2, b"reply 7 0:x", "nobody waits for this reply"),
            (3, b"fly 0 0:", "does not know what the program asks for"),
            (4, b"", "does not know what the program asks for"),
            (5, b"receive 0 0:", "timeout 0"),
        ] {
            let answers = program
                .over_a_connection(&wire::frame((1, number), body), 1)
                .await;
            assert!(answers[0].contains(told), "{answers:?}");
        }
    }
}
