use std::fmt;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::lua::{Frames, Mark, Part, Returning};
use crate::session::Requests;
use crate::{
    Command, Error, ErrorKind, Input, Outcome, OutputSink, OutputStream, Result, Runner, Status,
};

/// How many pieces of output wait for their taker before the program has to wait.
const PIECES: usize = 16;

/// One that has not been heard of for this long is asked whether it is still there.
const TRUST: Duration = Duration::from_secs(1);

/// Up to this size a program is copied to go with its size.
const SMALL: usize = 16 * 1024;

/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// A command that keeps an interpreter waiting. Dropping it ends the command and what it started.
///
/// Whoever waits for something to be told drives the command meanwhile: a task of its own would have to
/// be woken for each piece that goes either way. Between programs nobody does.
pub(super) struct Lane {
    /// Drives the command, until it is over.
    work: Option<Work>,
    /// The command ends when these do.
    requests: Option<mpsc::UnboundedSender<Bytes>>,
    events: mpsc::Receiver<Event>,
    /// Whether the next interpreter waits already. It may be told before the output of the last one
    /// is complete, which comes on two streams.
    waits: bool,
    /// How many of both streams of the last program are complete.
    complete: usize,
    heard: Instant,
    /// How often earlier ones had been given up when this one was started.
    pub(super) doubts: usize,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the command tells.
#[derive(Debug)]
enum Event {
    Waits,
    Lives,
    Output(OutputStream, Bytes),
    Ended(Option<i32>),
    /// All output on one of the streams has come.
    Complete,
    /// The command itself is over.
    Over(Result<Outcome>),
}

/// How it went with a program.
#[derive(Debug)]
pub(super) enum Run {
    /// It ended.
    Ended(Lane, Status),
    /// It was ended, and the command with it.
    Stopped(Status),
}

impl Lane {
    /// Starts the command, and calls back when it is over.
    pub(super) fn start(
        runner: Arc<dyn Runner>,
        command: Command,
        doubts: usize,
        over: impl FnOnce() + Send + 'static,
    ) -> Self {
        let mark = Mark::new();
        let (requests, receiver) = mpsc::unbounded_channel();
        let (tell, events) = mpsc::channel(PIECES);
        let input = Input::lifeline(Requests::new(receiver))
            .with_bytes(format!("{}\n", mark.as_str()).into());
        let mut sink = LaneSink {
            out: Frames::new(&mark),
            err: Frames::new(&mark),
            events: tell,
        };
        let over = Over(Some(over));
        let work = async move {
            let result = runner
                .run_streaming(command.with_stdin(input), &mut sink)
                .await;
            drop(over);
            // Nobody may be interested.
            let _ = sink.events.send(Event::Over(result)).await;
        };
        Self {
            work: Some(Box::pin(work)),
            requests: Some(requests),
            events,
            waits: false,
            complete: 2,
            heard: Instant::now(),
            doubts,
        }
    }

    /// Drives the command until it tells something; `None` once it has told that it is over.
    async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| {
            if let Poll::Ready(event) = self.events.poll_recv(cx) {
                return Poll::Ready(event);
            }
            if let Some(work) = &mut self.work
                && work.as_mut().poll(cx).is_ready()
            {
                self.work = None;
            }
            self.events.poll_recv(cx)
        })
        .await
    }

    fn ask(&self, request: Bytes) {
        if let Some(requests) = &self.requests {
            // A command that has ended meanwhile tells so.
            let _ = requests.send(request);
        }
    }

    /// Waits until an interpreter waits, and nothing of the last one can come any more; else tells how
    /// the command ended.
    pub(super) async fn waits(&mut self) -> Result<(), Result<Outcome>> {
        while !self.waits || self.complete < 2 {
            match self.next().await {
                Some(Event::Waits) => self.waits = true,
                Some(Event::Complete) => self.complete += 1,
                Some(Event::Over(result)) => return Err(result),
                // What a command that is no keeper of interpreters writes.
                Some(_) => {}
                None => return Err(Err(lost())),
            }
        }
        self.heard = Instant::now();
        Ok(())
    }

    /// Whether an interpreter still waits, and has been silent.
    pub(super) async fn is_there(&mut self) -> bool {
        let said = poll_fn(|cx| Poll::Ready(pin!(self.next()).poll(cx))).await;
        if said.is_ready() {
            return false;
        }
        if self.heard.elapsed() < TRUST {
            return true;
        }
        self.ask(Bytes::from_static(b"0\n"));
        matches!(timeout(ANSWER, self.next()).await, Ok(Some(Event::Lives)))
    }

    /// Has the interpreter run a program, which is in this input.
    pub(super) async fn run(
        mut self,
        input: &Bytes,
        deadline: Option<Instant>,
        sink: &mut Returning<'_>,
    ) -> Result<Run> {
        self.waits = false;
        self.complete = 0;
        // In one piece, unless that costs more than another write.
        let size = format!("{}\n", input.len());
        let pieces = match input.len() <= SMALL {
            true => [Some([size.as_bytes(), input].concat().into()), None],
            false => [Some(size.into()), Some(input.clone())],
        };
        for piece in pieces.into_iter().flatten() {
            self.ask(piece);
        }
        let in_time = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            end = self.pass_on(sink) => Some(end),
            () = in_time => None,
        };
        match end {
            Some(ControlFlow::Continue(Some(status))) => {
                self.heard = Instant::now();
                Ok(Run::Ended(self, status))
            }
            Some(ControlFlow::Continue(None)) => Err(Error::new(
                ErrorKind::Unsupported,
                "how the program ended is unknown; Lua 5.1 and LuaJIT need the program awk for that",
            )),
            Some(ControlFlow::Break(End::Unwanted)) => {
                self.stop(None).await;
                Ok(Run::Stopped(Status::OutputLimit))
            }
            Some(ControlFlow::Break(End::Over(Ok(outcome)))) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the program was ended from outside together with what watched it ({})",
                    outcome.status
                ),
            )),
            Some(ControlFlow::Break(End::Over(Err(error)))) => Err(error),
            None => {
                self.stop(Some(sink as &mut dyn OutputSink)).await;
                Ok(Run::Stopped(Status::TimedOut))
            }
        }
    }

    /// Hands on the output of a program until it has ended.
    async fn pass_on(&mut self, sink: &mut Returning<'_>) -> ControlFlow<End, Option<Status>> {
        let mut status = None;
        while self.complete < 2 {
            match self.next().await {
                Some(Event::Output(stream, piece)) => {
                    if sink.write(stream, piece).await.is_break() {
                        return ControlFlow::Break(End::Unwanted);
                    }
                    // It has told so itself; the command is still to.
                    if let Some(code) = sink.ended() {
                        return ControlFlow::Continue(Some(Status::Exited(code)));
                    }
                }
                Some(Event::Ended(number)) => {
                    status = number.map(|number| match number {
                        0..=255 => Status::Exited(number),
                        signal => Status::Signaled(signal % 256),
                    });
                }
                Some(Event::Complete) => self.complete += 1,
                Some(Event::Waits) => self.waits = true,
                Some(Event::Lives) => {}
                Some(Event::Over(result)) => return ControlFlow::Break(End::Over(result)),
                None => return ControlFlow::Break(End::Over(Err(lost()))),
            }
        }
        ControlFlow::Continue(status)
    }

    /// Ends the command and waits for that. What comes until then is handed on.
    async fn stop(mut self, mut sink: Option<&mut dyn OutputSink>) {
        self.requests = None;
        loop {
            match (self.next().await, &mut sink) {
                (Some(Event::Output(stream, piece)), Some(taker)) => {
                    let flow = taker.write(stream, piece).await;
                    sink = sink.filter(|_| flow.is_continue());
                }
                (None | Some(Event::Over(_)), _) => return,
                _ => {}
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.requests = None;
        // The command is seen to its end, unless everything ends.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

/// Calls back when it is dropped.
struct Over<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Over<F> {
    fn drop(&mut self) {
        if let Some(over) = self.0.take() {
            over();
        }
    }
}

/// Why a program could not be seen to its end.
enum End {
    /// Nobody wants more of its output.
    Unwanted,
    /// The command ended.
    Over(Result<Outcome>),
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the task that watched the interpreter failed",
    )
}

/// Takes the output of the command apart.
struct LaneSink {
    out: Frames,
    err: Frames,
    events: mpsc::Sender<Event>,
}

#[async_trait]
impl OutputSink for LaneSink {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        let frames = match stream {
            OutputStream::Stdout => &mut self.out,
            OutputStream::Stderr => &mut self.err,
        };
        for part in frames.take(piece) {
            let event = match part {
                Part::Raw(piece) => Event::Output(stream, piece),
                Part::Frame(b'H', _) => Event::Waits,
                Part::Frame(b'A', _) => Event::Lives,
                Part::Frame(b'E', _) => Event::Complete,
                Part::Frame(_, text) => Event::Ended(
                    std::str::from_utf8(&text)
                        .ok()
                        .and_then(|text| text.parse().ok()),
                ),
            };
            // Who takes no more wants it to end.
            if self.events.send(event).await.is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}
