//! One execution in a worker, as its owner sees it.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;

use bioxen_vm_core::local::end_tree;
use bioxen_vm_core::{
    Error, ErrorKind, Input, InputStream, OutputSink, OutputStream, Result, Status,
};
use bytes::{Bytes, BytesMut};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::Child;

use crate::link::{self, REPORT};
use crate::supervisor::ending;

/// How long output is still awaited after a worker has been killed or has ended by itself. Only a
/// process that is out of its sight can hold the pipes open that long.
const DRAIN: Duration = Duration::from_millis(500);

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// What an empty pipe takes without waiting for somebody to read: a page, also where a user has so
/// many pipes that the kernel makes them small.
const ROOM: usize = 4 << 10;

/// A process that runs programs, one after the other. When it is dropped it ends, with all that
/// it has started.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    pid: Pid,
    socket: UnixStream,
    /// Whether it cannot have started another process.
    childless: bool,
    /// Whether it runs a program.
    busy: bool,
    ended: bool,
}

/// A program to run.
pub(crate) struct Job<'a> {
    pub(crate) cwd: &'a str,
    /// What its standard input brings: the frame with the program first.
    pub(crate) input: Input,
    pub(crate) timeout: Option<Duration>,
}

/// Why an execution is over.
enum End {
    /// The worker has said so, and whether it can run another program.
    Reported(i32, bool),
    /// The worker is gone, as a program that calls `os.exit` has it.
    Gone,
    TimedOut,
    /// Nobody wants more of its output.
    Unwanted,
    /// The end of its input was to be its own.
    Left,
}

impl Worker {
    pub(crate) fn new(child: Child, pid: Pid, socket: UnixStream, childless: bool) -> Self {
        Self {
            child,
            pid,
            socket,
            childless,
            busy: false,
            ended: false,
        }
    }

    /// Whether it can be given a program.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Runs a program. Returns how it ended, and whether this worker can run another.
    pub(crate) async fn run(
        &mut self,
        job: Job<'_>,
        sink: &mut dyn OutputSink,
    ) -> Result<(Status, bool)> {
        let stream = job.input.take_stream()?;
        let pipes = Pipes::new().map_err(no_pipes)?;
        self.busy = true;
        let Pipes {
            theirs,
            stdin,
            stdout,
            stderr,
        } = pipes;
        let stdin = fill(stdin, job.input.bytes(), stream.is_some()).map_err(no_pipes)?;
        self.send(job.cwd, &theirs).await.map_err(lost)?;
        drop(theirs);

        let mut unwanted = false;
        let end = {
            let mut report = [0; REPORT];
            let mut reported = pin!(self.socket.read_exact(&mut report));
            let mut feed = pin!(feed(stdin, job.input.bytes(), stream));
            let mut deadline = pin!(at_end_of(job.timeout));
            let mut pump = pin!(pump(stdout, stderr, sink));
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
                        Ok(_) => {
                            let (ending, reusable) = link::read_report(report);
                            End::Reported(ending, reusable)
                        }
                        Err(_) => End::Gone,
                    },
                    () = &mut feed, if !fed => {
                        fed = true;
                        if job.input.is_lifeline() {
                            break End::Left;
                        }
                    }
                    () = &mut deadline => break End::TimedOut,
                }
            };
            match end {
                End::Reported(..) => {}
                // It has ended what it had started.
                End::Gone => kill_worker(self.pid, true),
                End::TimedOut | End::Unwanted | End::Left => {
                    kill_worker(self.pid, self.childless);
                }
            }
            // Running out of this time is no failure: what was read so far is the output.
            if !pumped && let Ok(flow) = tokio::time::timeout(DRAIN, pump).await {
                unwanted = flow.is_break();
            }
            end
        };
        let (status, reusable) = self.over(end).await?;
        Ok(match status {
            Status::TimedOut => (status, false),
            _ if unwanted => (Status::OutputLimit, reusable),
            _ => (status, reusable),
        })
    }

    /// Notes how a program ended, whose worker has ended or been killed unless it has said so.
    async fn over(&mut self, end: End) -> Result<(Status, bool)> {
        if let End::Reported(ending, reusable) = end {
            self.busy = false;
            return Ok((status(ending), reusable));
        }
        let exit = self.child.wait().await.map_err(lost)?;
        self.ended = true;
        let status = match end {
            End::TimedOut => Status::TimedOut,
            End::Unwanted => Status::OutputLimit,
            End::Reported(..) | End::Gone | End::Left => status(ending(exit)),
        };
        Ok((status, false))
    }

    async fn send(&self, cwd: &str, files: &[OwnedFd; 3]) -> io::Result<()> {
        let request = link::request(cwd);
        let files = files.each_ref().map(AsFd::as_fd);
        let sent = loop {
            let send = || link::send(&self.socket, &request, &files);
            match self.socket.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.writable().await?;
                }
                sent => break sent?,
            }
        };
        let mut rest = &request[sent..];
        while !rest.is_empty() {
            self.socket.writable().await?;
            match self.socket.try_write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends it, and waits until it is gone.
    pub(crate) async fn end(mut self) {
        self.kill();
        // There is nothing to do about a process that cannot be waited for.
        self.ended = self.child.wait().await.is_ok();
    }

    /// Ends it in the background.
    pub(crate) fn retire(self) {
        if !self.ended {
            self.kill();
            tokio::spawn(self.end());
        }
    }

    fn kill(&self) {
        kill_worker(self.pid, self.childless || !self.busy);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}

/// Kills a worker that has not been waited for.
fn kill_worker(pid: Pid, alone: bool) {
    if alone {
        // It may have ended by itself.
        let _ = killpg(pid, Signal::SIGKILL).or_else(|_| kill(pid, Signal::SIGKILL));
    } else {
        end_tree(pid.as_raw());
    }
}

/// The pipes of one execution.
struct Pipes {
    theirs: [OwnedFd; 3],
    stdin: PipeWriter,
    stdout: Receiver,
    stderr: Receiver,
}

impl Pipes {
    fn new() -> io::Result<Self> {
        let (their_stdin, stdin) = io::pipe()?;
        let (stdout, their_stdout) = io::pipe()?;
        let (stderr, their_stderr) = io::pipe()?;
        let ours = |pipe: PipeReader| Receiver::from_owned_fd(pipe.into());
        Ok(Self {
            theirs: [their_stdin.into(), their_stdout.into(), their_stderr.into()],
            stdin,
            stdout: ours(stdout)?,
            stderr: ours(stderr)?,
        })
    }
}

/// Writes what fits at once. Returns the pipe if there is more to come.
fn fill(mut pipe: PipeWriter, bytes: &[u8], more: bool) -> io::Result<Option<Sender>> {
    if bytes.len() <= ROOM {
        pipe.write_all(bytes)?;
        if !more {
            return Ok(None);
        }
    }
    Sender::from_owned_fd(pipe.into()).map(Some)
}

/// Writes standard input. A program that does not read it all is no failure.
async fn feed(pipe: Option<Sender>, bytes: &[u8], stream: Option<InputStream>) {
    let Some(mut pipe) = pipe else { return };
    let rest = if bytes.len() <= ROOM { &[] } else { bytes };
    if pipe.write_all(rest).await.is_ok()
        && let Some(mut stream) = stream
    {
        let _ = tokio::io::copy(&mut stream, &mut pipe).await;
    }
}

/// Hands on both streams until they end.
async fn pump(
    mut stdout: Receiver,
    mut stderr: Receiver,
    sink: &mut dyn OutputSink,
) -> ControlFlow<()> {
    let (mut out, mut err) = (Some(BytesMut::new()), Some(BytesMut::new()));
    while out.is_some() || err.is_some() {
        let (stream, piece) = tokio::select! {
            biased;
            piece = next(&mut stdout, &mut out), if out.is_some() => (OutputStream::Stdout, piece),
            piece = next(&mut stderr, &mut err), if err.is_some() => (OutputStream::Stderr, piece),
        };
        if let Some(piece) = piece {
            sink.write(stream, piece).await?;
        }
    }
    ControlFlow::Continue(())
}

/// The next piece of a stream. Takes the buffer away at its end.
async fn next(stream: &mut Receiver, buffer: &mut Option<BytesMut>) -> Option<Bytes> {
    let some = buffer.as_mut()?;
    loop {
        // Nothing is set aside for a stream that says nothing.
        if stream.readable().await.is_err() {
            *buffer = None;
            return None;
        }
        if some.capacity() < PIECE / 4 {
            some.reserve(PIECE);
        }
        match stream.try_read_buf(some) {
            Ok(1..) => return Some(some.split().freeze()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A pipe that breaks has nothing more to give, as one that ends.
            Ok(0) | Err(_) => {
                *buffer = None;
                return None;
            }
        }
    }
}

async fn at_end_of(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// The status that an ending stands for.
fn status(ending: i32) -> Status {
    const OUT_OF_CPU_TIME: i32 = -(Signal::SIGXCPU as i32);
    match ending {
        OUT_OF_CPU_TIME => Status::CpuLimit,
        signal if signal < 0 => Status::Signaled(-signal),
        code => Status::Exited(code),
    }
}

fn no_pipes(error: io::Error) -> Error {
    Error::new(
        ErrorKind::Exhausted,
        "no pipes for a program could be made; raise the limit on open files",
    )
    .with_source(error)
}

fn lost(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "lost track of a worker").with_source(error)
}
