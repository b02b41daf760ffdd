use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::lua::{Frames, Mark, Part};
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
#[derive(Debug)]
pub(super) struct Lane {
    requests: mpsc::UnboundedSender<Bytes>,
    events: mpsc::Receiver<Event>,
    /// Whether the next interpreter waits already. It may be told before the output of the last one
    /// is complete, which comes on two streams.
    waits: bool,
    heard: Instant,
    /// How often earlier ones had been given up when this one was started.
    pub(super) doubts: usize,
}

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
        tokio::spawn(async move {
            let result = runner
                .run_streaming(command.with_stdin(input), &mut sink)
                .await;
            over();
            // Nobody may be interested.
            let _ = sink.events.send(Event::Over(result)).await;
        });
        Self {
            requests,
            events,
            waits: false,
            heard: Instant::now(),
            doubts,
        }
    }

    /// Waits until an interpreter waits; else tells how the command ended.
    pub(super) async fn waits(&mut self) -> Result<(), Result<Outcome>> {
        while !self.waits {
            match self.events.recv().await {
                Some(Event::Waits) => self.waits = true,
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
        if !matches!(
            self.events.try_recv(),
            Err(mpsc::error::TryRecvError::Empty)
        ) {
            return false;
        }
        if self.heard.elapsed() < TRUST {
            return true;
        }
        let asked = self.requests.send(Bytes::from_static(b"0\n"));
        asked.is_ok()
            && matches!(
                timeout(ANSWER, self.events.recv()).await,
                Ok(Some(Event::Lives))
            )
    }

    /// Has the interpreter run a program, which is in this input.
    pub(super) async fn run(
        mut self,
        input: &Bytes,
        deadline: Option<Instant>,
        sink: &mut dyn OutputSink,
    ) -> Result<Run> {
        self.waits = false;
        // In one piece, unless that costs more than another write.
        let size = format!("{}\n", input.len());
        let pieces = match input.len() <= SMALL {
            true => [Some([size.as_bytes(), input].concat().into()), None],
            false => [Some(size.into()), Some(input.clone())],
        };
        for piece in pieces.into_iter().flatten() {
            // A command that has ended meanwhile tells so.
            let _ = self.requests.send(piece);
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
                self.stop(Some(sink)).await;
                Ok(Run::Stopped(Status::TimedOut))
            }
        }
    }

    /// Hands on the output of a program until it has ended.
    async fn pass_on(&mut self, sink: &mut dyn OutputSink) -> ControlFlow<End, Option<Status>> {
        let (mut status, mut complete) = (None, 0);
        while complete < 2 {
            match self.events.recv().await {
                Some(Event::Output(stream, piece)) => {
                    if sink.write(stream, piece).await.is_break() {
                        return ControlFlow::Break(End::Unwanted);
                    }
                }
                Some(Event::Ended(number)) => {
                    status = number.map(|number| match number {
                        0..=255 => Status::Exited(number),
                        signal => Status::Signaled(signal % 256),
                    });
                }
                Some(Event::Complete) => complete += 1,
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
        drop(self.requests);
        loop {
            match (self.events.recv().await, &mut sink) {
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
