//! A program on its way to a worker, and what it reads.

use std::io::{self, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bioxen_vm_core::{Error, ErrorKind, Input, InputStream, Result};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;

use crate::link;

/// What an empty pipe takes without waiting for somebody to read: a page, also where a user has so
/// many pipes that the kernel makes them small.
const ROOM: usize = 4 << 10;

/// A program to run.
pub(crate) struct Job {
    pub(crate) request: Vec<u8>,
    pub(crate) timeout: Option<Duration>,
    /// What the program reads; `None` for nothing.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) feed: Feed,
}

/// What of standard input is still to be written.
pub(crate) struct Feed {
    pipe: Option<Sender>,
    bytes: Bytes,
    stream: Option<InputStream>,
    pub(crate) is_lifeline: bool,
}

impl Job {
    /// Prepares a program that comes in the request, or else on standard input.
    pub(crate) fn new(
        cwd: &Path,
        program: &[u8],
        input: &Input,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let stream = input.take_stream()?;
        let mut job = Self {
            request: link::request(cwd, program),
            timeout,
            stdin: None,
            feed: Feed {
                pipe: None,
                bytes: input.bytes().clone(),
                stream,
                is_lifeline: input.is_lifeline(),
            },
        };
        if program.is_empty() || !job.feed.bytes.is_empty() || job.feed.stream.is_some() {
            let (theirs, ours) = io::pipe().map_err(no_pipes)?;
            job.stdin = Some(theirs.into());
            job.feed.fill(ours).map_err(no_pipes)?;
        }
        Ok(job)
    }
}

impl Feed {
    /// Whether there is more to write than a pipe takes at once.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.pipe.is_some()
    }

    /// Writes what fits at once, and keeps the pipe if there is more to come.
    fn fill(&mut self, mut pipe: PipeWriter) -> io::Result<()> {
        if self.bytes.len() <= ROOM {
            pipe.write_all(&std::mem::take(&mut self.bytes))?;
            if self.stream.is_none() {
                return Ok(());
            }
        }
        self.pipe = Some(Sender::from_owned_fd(pipe.into())?);
        Ok(())
    }

    /// Writes the rest. A program that does not read it all is no failure.
    pub(crate) async fn run(self) {
        let Some(mut pipe) = self.pipe else { return };
        if pipe.write_all(&self.bytes).await.is_ok()
            && let Some(mut stream) = self.stream
        {
            let _ = tokio::io::copy(&mut stream, &mut pipe).await;
        }
    }
}

fn no_pipes(error: io::Error) -> Error {
    Error::new(
        ErrorKind::Exhausted,
        "no pipes for a program could be made; raise the limit on open files",
    )
    .with_source(error)
}
