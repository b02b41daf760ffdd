//! One execution in a worker, as its owner sees it.
//!
//! Most programs are over before it would pay to be told of their end by the runtime, which costs
//! as much as they do: it has to be asked to watch, and a thread of it to wake another. So a program
//! is first waited for in place, for as long as an await may block, if the last one of its worker
//! was over as soon.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::{Error, ErrorKind, OutputSink, OutputStream, Pieces, Result, Status};
use bytes::Bytes;
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

use crate::body::Body;
use crate::brake::Brake;
use crate::job::Job;
use crate::link::{self, REPORT};

/// How long a program is waited for in place. One that took longer is not the next time: on a busy
/// machine the usual ones take a good part of this.
const SOON: Duration = Duration::from_micros(500);

/// How long the taker of the output has for the last of it after a program was ended.
const DRAIN: Duration = Duration::from_millis(500);

/// What runs programs, one after the other, and our line to it.
#[derive(Debug)]
pub(crate) struct Worker {
    body: Body,
    line: Line,
    /// Whether its next program may be over soon.
    quick: bool,
}

/// Our ends of what connects us with a worker, for as long as it lives. None of them blocks.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) socket: UnixStream,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What a program that was soon over has left: how it ended, whether its worker can run another,
/// and its output.
pub(crate) struct Over {
    pub(crate) status: Status,
    pub(crate) reusable: bool,
    pub(crate) stdout: Bytes,
    pub(crate) stderr: Bytes,
}

/// Why an execution is over.
enum End {
    /// The worker has said so.
    Reported,
    /// The worker is gone, as a program that calls `os.exit` has it.
    Gone,
    TimedOut,
    /// Nobody wants more of its output.
    Unwanted,
    /// The end of its input was to be its own.
    Left,
}

impl Worker {
    pub(crate) fn new(body: Body, line: Line) -> Self {
        Self {
            body,
            line,
            quick: true,
        }
    }

    /// What stops it, where it is a thread.
    pub(crate) fn brake(&self) -> Option<&Arc<Brake>> {
        match &self.body {
            Body::Process(_) => None,
            Body::Thread(thread) => Some(thread.brake()),
        }
    }

    /// Gives it a program. Fails when it is gone.
    pub(crate) fn give(&mut self, job: &Job) -> io::Result<()> {
        let socket = &self.line.socket;
        let mut stdin = job.stdin.as_ref().map(AsFd::as_fd);
        let mut rest = &job.request[..];
        while !rest.is_empty() {
            match link::send(socket, rest, stdin) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    stdin = None;
                }
                // It reads all of it at once.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.body.set_busy(true);
        Ok(())
    }

    /// What has become of the program if it is over soon. Blocks for less than a millisecond.
    pub(crate) fn soon(&mut self, job: &Job) -> Option<Over> {
        if !self.quick || job.feed.is_unfinished() {
            return None;
        }
        self.quick = false;
        let report = PollFd::new(&self.line.socket, PollFlags::IN);
        let soon = Timespec {
            tv_sec: 0,
            tv_nsec: SOON.subsec_nanos().into(),
        };
        let Ok(1..) = poll(&mut [report], Some(&soon)) else {
            return None;
        };
        let mut report = [0; REPORT];
        // The end of a worker is for `watch`, and so is half of a report, which there is none of.
        let Ok(REPORT) = rustix::io::read(&self.line.socket, &mut report) else {
            return None;
        };
        self.quick = true;
        let (ending, reusable) = link::read_report(report);
        self.body.set_busy(still_runs(ending));
        // What it had to write it wrote before the report, and it waited where that was more than a
        // pipe holds.
        Some(Over {
            status: status(ending),
            reusable,
            stdout: all_there_is(&self.line.stdout),
            stderr: all_there_is(&self.line.stderr),
        })
    }

    /// Sees the program to its end. Returns how it ended, and the worker if it can run another.
    pub(crate) async fn watch(
        self,
        job: Job,
        sink: &mut dyn OutputSink,
    ) -> Result<(Status, Option<Self>)> {
        let started = tokio::time::Instant::now();
        let Self { mut body, line, .. } = self;
        let mut line = line.watched().map_err(lost)?;
        let is_lifeline = job.feed.is_lifeline;
        // The only hold of its input that is left is that of the worker.
        drop(job.stdin);
        let over = Notify::new();
        let mut unwanted = false;
        let end = {
            let mut report = [0; REPORT];
            let mut reported = pin!(line.socket.read_exact(&mut report));
            let mut feed = pin!(job.feed.run());
            let mut deadline = pin!(at_end_of(job.timeout));
            let mut pump = pin!(pump(&mut line.stdout, &mut line.stderr, sink, &over));
            let (mut fed, mut pumped) = (false, false);
            let end = loop {
                tokio::select! {
                    biased;
                    flow = &mut pump, if !pumped => {
                        pumped = true;
                        if flow.is_break() {
                            break End::Unwanted;
                        }
                    }
                    read = &mut reported => break match read {
                        Ok(_) => End::Reported,
                        Err(_) => End::Gone,
                    },
                    () = &mut feed, if !fed => {
                        fed = true;
                        if is_lifeline {
                            break End::Left;
                        }
                    }
                    () = &mut deadline => break End::TimedOut,
                }
            };
            let exit = match end {
                End::Reported if still_runs(link::read_report(report).0) => {
                    body.ended(false).await?;
                    None
                }
                End::Reported => None,
                _ => Some(body.ended(matches!(end, End::Gone)).await?),
            };
            // All that there is to read is there to be read.
            over.notify_one();
            if !pumped {
                unwanted = match end {
                    End::Reported | End::Gone => pump.await.is_break(),
                    // Running out of this time is no failure: what was taken so far is the output.
                    _ => matches!(
                        tokio::time::timeout(DRAIN, pump).await,
                        Ok(ControlFlow::Break(()))
                    ),
                };
            }
            match (end, exit) {
                (End::TimedOut, _) => Ended::Process(Status::TimedOut),
                (End::Unwanted, _) => Ended::Process(Status::OutputLimit),
                (_, Some(exit)) => Ended::Process(status(exit)),
                (_, None) => Ended::Program(report),
            }
        };
        let (status, reusable) = match end {
            Ended::Process(status) => (status, false),
            Ended::Program(report) => {
                body.set_busy(false);
                let (ending, reusable) = link::read_report(report);
                (status(ending), reusable)
            }
        };
        let status = match status {
            Status::TimedOut => status,
            _ if unwanted => Status::OutputLimit,
            _ => status,
        };
        if !reusable {
            body.retire();
            return Ok((status, None));
        }
        let worker = Self {
            body,
            line: line.unwatched().map_err(lost)?,
            quick: started.elapsed() < SOON,
        };
        Ok((status, Some(worker)))
    }

    /// Ends it, and waits until it is gone.
    pub(crate) async fn end(self) {
        // One that waits for a program takes the end of the line for its own.
        drop(self.line);
        self.body.end().await;
    }

    /// Ends it in the background.
    pub(crate) fn retire(self) {
        self.body.retire();
    }
}

/// What has ended: the process, or the program in it, which tells how.
enum Ended {
    Process(Status),
    Program([u8; REPORT]),
}

/// A [`Line`] that the runtime watches.
struct Watched {
    socket: tokio::net::UnixStream,
    stdout: Receiver,
    stderr: Receiver,
}

impl Line {
    fn watched(self) -> io::Result<Watched> {
        Ok(Watched {
            socket: tokio::net::UnixStream::from_std(self.socket)?,
            stdout: Receiver::from_owned_fd_unchecked(self.stdout)?,
            stderr: Receiver::from_owned_fd_unchecked(self.stderr)?,
        })
    }
}

impl Watched {
    fn unwatched(self) -> io::Result<Line> {
        Ok(Line {
            socket: self.socket.into_std()?,
            stdout: self.stdout.into_nonblocking_fd()?,
            stderr: self.stderr.into_nonblocking_fd()?,
        })
    }
}

/// Hands on both streams until they end, or until it is told that all has been written.
async fn pump(
    stdout: &mut Receiver,
    stderr: &mut Receiver,
    sink: &mut dyn OutputSink,
    over: &Notify,
) -> ControlFlow<()> {
    let (mut out, mut err) = (Pieces::new(&mut *stdout), Pieces::new(&mut *stderr));
    while !out.is_over() || !err.is_over() {
        let (stream, piece) = tokio::select! {
            biased;
            piece = out.next(), if !out.is_over() => (OutputStream::Stdout, piece),
            piece = err.next(), if !err.is_over() => (OutputStream::Stderr, piece),
            () = over.notified() => break,
        };
        if let Some(piece) = piece {
            sink.write(stream, piece).await?;
        }
    }
    for (stream, pipe) in [
        (OutputStream::Stdout, stdout),
        (OutputStream::Stderr, stderr),
    ] {
        let piece = all_there_is(pipe);
        if !piece.is_empty() {
            sink.write(stream, piece).await?;
        }
    }
    ControlFlow::Continue(())
}

/// All that a pipe holds now.
fn all_there_is(pipe: impl AsFd) -> Bytes {
    let there = rustix::io::ioctl_fionread(&pipe).unwrap_or(0);
    let mut all = vec![0; usize::try_from(there).unwrap_or(0)];
    let mut got = 0;
    while got < all.len() {
        match rustix::io::read(&pipe, &mut all[got..]) {
            Ok(more @ 1..) => got += more,
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    all.truncate(got);
    all.into()
}

async fn at_end_of(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Whether a program that was reported to have ended is to be ended by us.
fn still_runs(ending: i32) -> bool {
    matches!(ending, link::TOO_MANY_PROCESSES | link::TOO_MUCH_ON_DISK)
}

/// The status that an ending stands for.
fn status(ending: i32) -> Status {
    const OUT_OF_CPU_TIME: i32 = -(Signal::SIGXCPU as i32);
    match ending {
        OUT_OF_CPU_TIME => Status::CpuLimit,
        link::TOO_MANY_PROCESSES => Status::ProcessLimit,
        link::TOO_MUCH_ON_DISK => Status::DiskLimit,
        signal if signal < 0 => Status::Signaled(-signal),
        code => Status::Exited(code),
    }
}

pub(crate) fn lost(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "lost track of a worker").with_source(error)
}
