//! Our own standard streams, handed on to what runs in a VM.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bioxen_vm_core::{OutputSink, OutputStream, Status};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::waiting::{make_way, wrote};
use super::{FAILED, warn};
use crate::sums::Sum;

/// The exit code of a program that met a limit which has no code of its own.
const OTHER_LIMIT: u8 = 122;

/// The exit code of a program that ran out of memory: below those of timeout(1) and of shells, none
/// of which stands for it.
const OUT_OF_MEMORY: u8 = 123;

/// The exit code of a program that ran out of time, as of timeout(1).
const TIMED_OUT: u8 = 124;

/// The exit code by which a shell knows that the processor time was up: 128 and SIGXCPU.
const OUT_OF_CPU_TIME: u8 = 128 + 24;

/// The exit code by which a shell knows that nobody read on: 128 and SIGPIPE.
pub(super) const NO_READER: u8 = 128 + 13;

/// How much of standard error is remembered: a message and its traceback.
const KEPT: usize = 16 * 1024;

/// How much input is read ahead of the program.
const AHEAD: usize = 64 * 1024;

/// Writes to our standard output and standard error. The program waits while their readers do.
#[derive(Debug)]
pub(super) struct Streams {
    stdout: Arc<File>,
    stderr: Arc<File>,
    at_line_start: bool,
    /// The last that went to standard error.
    last_errors: Vec<u8>,
    failed: Option<(OutputStream, io::Error)>,
    broken: Arc<Notify>,
    /// What passed on each stream, where somebody wants to know.
    sums: Option<Sums>,
}

/// What passed on the two streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    pub(super) stdout: Sum,
    pub(super) stderr: Sum,
}

impl Streams {
    pub(super) fn new() -> anyhow::Result<Self> {
        // Without the buffers of the standard library: what a program writes is passed on at once.
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        Ok(Self {
            stdout: Arc::new(stdout.context("cannot use standard output")?.into()),
            stderr: Arc::new(stderr.context("cannot use standard error")?.into()),
            at_line_start: true,
            last_errors: Vec::new(),
            failed: None,
            broken: Arc::default(),
            sums: None,
        })
    }

    /// Lets nobody see standard output, which is for something else.
    pub(super) fn without_stdout(mut self) -> anyhow::Result<Self> {
        let nowhere = File::options().write(true).open("/dev/null");
        self.stdout = Arc::new(nowhere.context("cannot use /dev/null")?);
        Ok(self)
    }

    /// Sums up what passes.
    pub(super) fn summed(mut self) -> Self {
        self.sums = Some(Sums::default());
        self
    }

    /// What passed so far; nothing unless it is summed up.
    pub(super) fn sums(&self) -> Sums {
        self.sums.clone().unwrap_or_default()
    }

    /// Whether the last thing written ended its line.
    pub(super) fn is_at_line_start(&self) -> bool {
        self.at_line_start
    }

    /// The last that was written to standard error: at least as much as is kept of it, if there was.
    pub(super) fn last_errors(&self) -> &[u8] {
        &self.last_errors
    }

    fn remember(&mut self, piece: &[u8]) {
        self.last_errors.extend_from_slice(piece);
        if self.last_errors.len() > 2 * KEPT {
            self.last_errors.drain(..self.last_errors.len() - KEPT);
        }
    }

    /// Told when a stream takes no more.
    pub(super) fn broken(&self) -> Arc<Notify> {
        Arc::clone(&self.broken)
    }

    /// How we are to end when a stream took no more: quietly where its reader has gone, as `head`
    /// does, and with an error otherwise.
    pub(super) fn failure(&mut self) -> Option<anyhow::Result<ExitCode>> {
        let (stream, error) = self.failed.take()?;
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Some(Ok(ExitCode::from(NO_READER)));
        }
        let name = match stream {
            OutputStream::Stdout => "standard output",
            OutputStream::Stderr => "standard error",
        };
        Some(Err(
            anyhow::Error::new(error).context(format!("cannot write to {name}"))
        ))
    }
}

#[async_trait::async_trait]
impl OutputSink for Streams {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        if self.failed.is_some() {
            return ControlFlow::Break(());
        }
        if let Some(last) = piece.last() {
            self.at_line_start = *last == b'\n';
        }
        if stream == OutputStream::Stderr {
            self.remember(&piece);
        }
        if let Some(sums) = &mut self.sums {
            match stream {
                OutputStream::Stdout => sums.stdout.add(&piece),
                OutputStream::Stderr => sums.stderr.add(&piece),
            }
        }
        let file = Arc::clone(match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        });
        if file.is_terminal() {
            make_way();
            wrote(&piece);
        }
        // On a thread of its own, so that signals are heard while the reader takes its time.
        let written = tokio::task::spawn_blocking(move || (&*file).write_all(&piece)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some((stream, error));
                self.broken.notify_one();
                ControlFlow::Break(())
            }
        }
    }
}

/// Reads a file or stream on a thread of its own, which nobody waits for: a read may never end.
pub(super) fn read_ahead(mut source: impl Read + Send + 'static) -> impl AsyncRead + Unpin + Send {
    let (reader, mut writer) = tokio::io::duplex(AHEAD);
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let mut buffer = vec![0; AHEAD];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if runtime
                        .block_on(writer.write_all(&buffer[..count]))
                        .is_err()
                    {
                        // The program has ended.
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    warn(&format!("the input ends early: {error}"));
                    return;
                }
            }
        }
    });
    reader
}

/// The exit code that tells how a program ended; what a code cannot tell is said in words.
pub(super) fn exit_code(status: Status) -> ExitCode {
    ExitCode::from(match status {
        Status::Exited(code) => u8::try_from(code).unwrap_or(FAILED),
        Status::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(FAILED),
        Status::TimedOut => {
            warn("the program ran out of time and was ended");
            TIMED_OUT
        }
        Status::OutOfMemory => {
            warn("the program ran out of memory");
            OUT_OF_MEMORY
        }
        Status::CpuLimit => {
            warn("the program ran out of processor time and was ended");
            OUT_OF_CPU_TIME
        }
        other => {
            warn(&format!("the program was {other}"));
            OTHER_LIMIT
        }
    })
}
