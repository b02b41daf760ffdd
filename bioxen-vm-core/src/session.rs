//! A living Lua state that chunks are run in.

mod chunk;
mod events;
mod input;
mod options;
mod sink;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedMutexGuard, broadcast, mpsc, oneshot, watch};

use crate::lua::Mark;
use crate::{Error, ErrorKind, Gather, Input, Outcome, OutputSink, OutputStream, Result, Status};
pub use chunk::{Answer, Chunk, Reply};
pub use events::{Attachment, SessionEvent, SessionStatus};
pub(crate) use input::Requests;
pub use options::SessionOptions;
use sink::SessionSink;

/// How many chunks a session remembers.
const HISTORY: usize = 1000;

/// How many events one who is attached may be behind before the oldest are lost.
const BEHIND: usize = 1024;

/// How many pieces of output wait for the one who evaluates before the chunk has to wait.
const PIECES: usize = 16;

/// A Lua state that lives on between chunks, in a process of its own in its VM.
///
/// Chunks run one at a time, in the order in which they are given. What they write, what they
/// return and how they fail come back apart, without prompts and without an echo. Handles are
/// cheap to clone; the session ends with the last one, with [`close`](Self::close), or by itself
/// (`os.exit`), and with it everything that its chunks have started.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    host: Arc<dyn SessionHost>,
    /// Closing it ends the session.
    requests: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    /// Held by the chunk that runs, until it is answered.
    turn: Arc<tokio::sync::Mutex<()>>,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<Result<Status>>>,
    history: Mutex<VecDeque<Bytes>>,
}

/// What the session and the task that watches its process have in common.
struct Shared {
    current: Mutex<Option<Current>>,
    process: watch::Sender<Option<u32>>,
    interrupted: Mutex<bool>,
    events: broadcast::Sender<SessionEvent>,
}

/// The chunk that runs.
struct Current {
    output: mpsc::Sender<(OutputStream, Bytes)>,
    answer: oneshot::Sender<Answer>,
    _turn: OwnedMutexGuard<()>,
}

/// Runs the process of a session, and reaches it while it runs.
#[async_trait]
pub trait SessionHost: fmt::Debug + Send + Sync + 'static {
    /// Runs the driver of sessions to its end. Its standard input is a lifeline.
    ///
    /// # Errors
    /// As [`Runner::run_streaming`](crate::Runner::run_streaming).
    async fn run(&self, input: Input, sink: &mut dyn OutputSink) -> Result<Outcome>;

    /// Interrupts the chunk that runs in the process of this id, as Ctrl-C does at a terminal.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Unsupported`] where that cannot be done.
    async fn interrupt(&self, process: u32) -> Result<()>;
}

impl Session {
    /// Starts a session and waits until it takes chunks.
    ///
    /// # Errors
    /// Fails when its process could not be started, or is none that speaks our protocol.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started.
    pub async fn open(name: impl Into<String>, host: Arc<dyn SessionHost>) -> Result<Self> {
        let mark = Mark::new();
        let (requests, receiver) = mpsc::unbounded_channel();
        let input = Input::lifeline(Requests::new(receiver))
            .with_bytes(format!("{}\n", mark.as_str()).into());
        let shared = Arc::new(Shared {
            current: Mutex::default(),
            process: watch::Sender::new(None),
            interrupted: Mutex::default(),
            events: broadcast::Sender::new(BEHIND),
        });
        let (tell, ended) = watch::channel(None);
        tokio::spawn({
            let (host, shared) = (Arc::clone(&host), Arc::clone(&shared));
            async move {
                let mut sink = SessionSink::new(&mark, Arc::clone(&shared));
                let result = host.run(input, &mut sink).await;
                let said = sink.before_hello();
                let result = match result {
                    Ok(_) if shared.process.borrow().is_none() => Err(no_driver(&said)),
                    Ok(outcome) => Ok(outcome.status),
                    Err(error) => Err(error),
                };
                tell.send_replace(Some(result));
                // Who waits for an answer looks at how it ended.
                lock(&shared.current).take();
                // Nobody may be attached.
                let _ = shared.events.send(SessionEvent::Ended);
            }
        });
        let session = Self {
            inner: Arc::new(Inner {
                name: name.into(),
                host,
                requests: Mutex::new(Some(requests)),
                turn: Arc::default(),
                shared,
                ended,
                history: Mutex::default(),
            }),
        };
        let mut process = session.inner.shared.process.subscribe();
        let mut ended = session.inner.ended.clone();
        tokio::select! {
            biased;
            _ = process.wait_for(Option::is_some) => Ok(session),
            _ = ended.wait_for(Option::is_some) => {
                session.inner.end_status()?;
                Err(no_driver(""))
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What it does at the moment.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        if self.inner.ended.borrow().is_some() {
            SessionStatus::Ended
        } else if lock(&self.inner.shared.current).is_some() {
            SessionStatus::Running
        } else {
            SessionStatus::Idle
        }
    }

    /// Runs a chunk and gathers what it writes.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::InvalidState`] when the session is over, and when what became of the
    /// chunk is unknown. A chunk that fails is an [`Answer`].
    ///
    /// # Cancel safety
    /// After a dropped future the chunk runs on, and later ones wait for it;
    /// [`interrupt`](Self::interrupt) and [`close`](Self::close) end it.
    pub async fn eval(&self, chunk: impl Into<Chunk>) -> Result<Reply> {
        let chunk = chunk.into();
        let started = Instant::now();
        let mut gather = Gather::new(chunk.max_output);
        let answer = self.eval_streaming(chunk, &mut gather).await?;
        let outcome = gather.into_outcome(Outcome::new(Status::Exited(0)));
        Ok(Reply {
            answer,
            truncated: outcome.stdout_truncated || outcome.stderr_truncated,
            stdout: outcome.stdout,
            stderr: outcome.stderr,
            duration: started.elapsed(),
        })
    }

    /// Runs a chunk and hands on what it writes as it comes. A sink that wants no more gets no
    /// more; the chunk runs on.
    ///
    /// # Errors
    /// As [`eval`](Self::eval).
    ///
    /// # Cancel safety
    /// As [`eval`](Self::eval).
    pub async fn eval_streaming(
        &self,
        chunk: impl Into<Chunk>,
        sink: &mut dyn OutputSink,
    ) -> Result<Answer> {
        let chunk = chunk.into();
        match chunk.timeout {
            None => self.eval_in_time(&chunk, sink).await,
            Some(limit) => {
                match tokio::time::timeout(limit, self.eval_in_time(&chunk, sink)).await {
                    Ok(result) => result,
                    Err(_) => {
                        self.close().await;
                        Ok(Answer::Ended(Status::TimedOut))
                    }
                }
            }
        }
    }

    async fn eval_in_time(&self, chunk: &Chunk, sink: &mut dyn OutputSink) -> Result<Answer> {
        let inner = &self.inner;
        let turn = Arc::clone(&inner.turn).lock_owned().await;
        let (output, mut pieces) = mpsc::channel(PIECES);
        let (answer, mut answered) = oneshot::channel();
        *lock(&inner.shared.current) = Some(Current {
            output,
            answer,
            _turn: turn,
        });
        if let Err(error) = inner.request(chunk) {
            lock(&inner.shared.current).take();
            return Err(error);
        }
        let mut wanted = true;
        let answer = loop {
            tokio::select! {
                biased;
                Some((stream, piece)) = pieces.recv() => {
                    wanted = wanted && sink.write(stream, piece).await.is_continue();
                }
                answer = &mut answered => break answer,
            }
        };
        // What was sent before the answer.
        while let Ok((stream, piece)) = pieces.try_recv() {
            wanted = wanted && sink.write(stream, piece).await.is_continue();
        }
        match answer {
            Ok(answer) => Ok(answer),
            Err(_) => inner.end_status().map(Answer::Ended),
        }
    }

    /// Interrupts the chunk that runs, as Ctrl-C does at a terminal: it fails with `interrupted!`.
    /// Does nothing when none runs.
    ///
    /// What Lua itself cannot be interrupted in, it finishes first: a call of C such as
    /// `string.find`, a program that it started and waits for, in an interpreter a coroutine, in
    /// LuaJIT a loop that it has compiled.
    ///
    /// # Errors
    /// Fails when the process cannot be reached, and with [`ErrorKind::Unsupported`] where only
    /// sessions can be interrupted that were opened [so](SessionOptions::interruptible).
    pub async fn interrupt(&self) -> Result<()> {
        let process = *self.inner.shared.process.borrow();
        match process {
            Some(process) if self.status() == SessionStatus::Running => {
                *lock(&self.inner.shared.interrupted) = true;
                self.inner.host.interrupt(process).await
            }
            _ => Ok(()),
        }
    }

    /// The chunks that were given, oldest first, at most a thousand.
    #[must_use]
    pub fn history(&self) -> Vec<Bytes> {
        lock(&self.inner.history).iter().cloned().collect()
    }

    /// Sees what happens in it from now on, whoever gives the chunks.
    #[must_use]
    pub fn attach(&self) -> Attachment {
        Attachment {
            events: self.inner.shared.events.subscribe(),
        }
    }

    /// How many are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.inner.shared.events.receiver_count()
    }

    /// Ends it with all that its chunks have started, and waits for that. Does nothing when it is
    /// over.
    pub async fn close(&self) {
        lock(&self.inner.requests).take();
        // An error means that the task is gone, and the process with it.
        let _ = self.inner.ended.clone().wait_for(Option::is_some).await;
    }
}

impl Inner {
    fn request(&self, chunk: &Chunk) -> Result<()> {
        let mut request = BytesMut::new();
        if std::mem::take(&mut *lock(&self.shared.interrupted)) {
            request.extend_from_slice(b"r 0\n");
        }
        let letter = if chunk.print { 'p' } else { 'e' };
        request.extend_from_slice(format!("{letter} {}\n", chunk.code.len()).as_bytes());
        request.extend_from_slice(&chunk.code);
        let sent = self.ended.borrow().is_none()
            && lock(&self.requests)
                .as_ref()
                .is_some_and(|requests| requests.send(request.freeze()).is_ok());
        if !sent {
            let how = match self.end_status() {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!(
                    "the session {:?} is over ({how}); open another one",
                    self.name
                ),
            ));
        }
        // Nobody may be attached.
        let _ = self
            .shared
            .events
            .send(SessionEvent::Chunk(chunk.code.clone()));
        let mut history = lock(&self.history);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(chunk.code.clone());
        Ok(())
    }

    /// How it ended.
    fn end_status(&self) -> Result<Status> {
        match &*self.ended.borrow() {
            Some(ended) => ended.clone(),
            // Only its own closing comes before its end.
            None => Ok(Status::Signaled(9)),
        }
    }
}

fn no_driver(said: &str) -> Error {
    let said = said.trim();
    let said = if said.is_empty() { "nothing" } else { said };
    Error::new(
        ErrorKind::Unsupported,
        format!("the interpreter did not become a session; it said: {said}"),
    )
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.inner.name)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Locks a mutex whose data stays valid wherever a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
