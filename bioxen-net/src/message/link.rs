//! What connects a program in a VM with its hub.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bioxen_vm_core::lua::Mark;
use bioxen_vm_core::{
    Command, Error, ErrorKind, Input, LuaVm, OutputSink, OutputStream, Result, Runner, VmId,
    VmState,
};
use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::hub::Endpoint;
use super::serve::Served;
use super::wire::{self, Lines, RESUME};

const JOIN: &str = include_str!("join.sh");
const MODULE: &str = include_str!("net.lua");

/// How much passes through a connection before the writer has to wait, in bytes.
const BUFFER: usize = 256 << 10;

/// How long a VM that cannot be reached is tried again before the program is taken out of its hub, or its
/// folder left to whoever joins next.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pauses between attempts: there is no event for "can be reached again".
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long something in a VM may take that takes a moment.
const LIMIT: Duration = Duration::from_secs(60);

/// A task that makes the folder by which a program reaches its hub, connects both, and removes the
/// folder in the end.
///
/// It does one thing after the other, and is never broken off: what it has begun in the VM has ended
/// before it removes the folder, and makes nothing in there afterwards. It ends in the background when
/// this is dropped; [`end`](Self::end) waits for that. Both leave the hub at once.
#[derive(Debug)]
pub(super) struct Link {
    endpoint: Arc<Endpoint>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Link {
    /// Begins to connect a program. The future tells the folder once the program can use it.
    pub(super) fn new(
        vm: Arc<dyn LuaVm>,
        runner: Arc<dyn Runner>,
        endpoint: Arc<Endpoint>,
    ) -> (Self, impl Future<Output = Result<String>>) {
        let served = Served::new(Arc::clone(&endpoint));
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = oneshot::channel();
        let place = Place {
            vm,
            runner,
            name: format!("bioxen-net-{}", Mark::new().as_str()),
            number: 0,
        };
        let task = tokio::spawn(connect(place, served, tell, Stop(stopped)));
        let link = Self {
            endpoint,
            stop,
            task,
        };
        let lost = || Error::new(ErrorKind::Internal, "the connection has no task");
        (link, async move { told.await.map_err(|_| lost())? })
    }

    pub(super) async fn end(mut self) {
        self.endpoint.leave(UNUSED);
        self.stop.send_replace(true);
        // It fails only with its runtime.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The task has the endpoint for a moment longer.
        self.endpoint.leave(UNUSED);
    }
}

const UNUSED: &str = "it is no longer in use";

/// Hears that a [`Link`] is to end.
struct Stop(watch::Receiver<bool>);

impl Stop {
    async fn asked(&mut self) {
        // An error: it was dropped.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Tells the folder, or why there is none.
type Tell = oneshot::Sender<Result<String>>;

async fn connect(mut place: Place, served: Served, tell: Tell, mut stop: Stop) {
    if place.runner.shares_files() {
        connect_here(&mut place, served, tell, &mut stop).await;
    } else {
        connect_there(&mut place, served, tell, &mut stop).await;
    }
    stop.asked().await;
    place.remove().await;
}

/// A folder in a VM by which a program reaches its hub.
#[derive(Debug)]
struct Place {
    vm: Arc<dyn LuaVm>,
    runner: Arc<dyn Runner>,
    name: String,
    /// That of the last command for it.
    number: u64,
}

impl Place {
    fn command(&mut self, what: &str) -> Command {
        self.number += 1;
        let command = Command::new("sh").args(["-c", JOIN, "sh", what, &self.name, MODULE]);
        if self.runner.shares_files() {
            return command;
        }
        command.with_env("BIOXEN_LINK", format!("{}.{}.", self.name, self.number))
    }

    async fn remove(mut self) {
        if timeout(PATIENCE, self.try_to_remove()).await.is_err() {
            let (vm, folder) = (self.vm.id(), &self.name);
            tracing::warn!(%vm, folder, "a folder stays in the TMPDIR of a VM that cannot be reached");
        }
    }

    /// Removes it, over and over for as long as something comes between and the VM runs.
    async fn try_to_remove(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let command = self.command("remove").with_timeout(LIMIT);
            let why = match self.runner.run(command).await {
                Ok(outcome) if outcome.success() => return,
                Ok(outcome) => format!("{}: {}", outcome.status, outcome.stderr_text()),
                Err(error) => error.to_string(),
            };
            tracing::debug!(folder = self.name, why, "a folder in a VM is not removed");
            // Otherwise its end is that of the folder, or whoever joins there next removes it.
            let info = self.vm.info().await;
            if !info.is_ok_and(|info| info.state == VmState::Running) {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Connects a program whose files are those of this machine: through its FIFOs.
async fn connect_here(place: &mut Place, mut served: Served, tell: Tell, stop: &mut Stop) {
    let (folder, questions, mut answers) = match open_here(place).await {
        Ok(opened) => opened,
        Err(why) => {
            let _ = tell.send(Err(why));
            return;
        }
    };
    // Who is not told any more has dropped it.
    let _ = tell.send(Ok(folder));
    let mut lines = Lines::new(questions);
    tokio::select! {
        Err(error) = served.serve(&mut lines, &mut answers) => {
            served.lost(format!("its FIFO failed ({error})"));
        }
        () = stop.asked() => {}
    }
}

async fn open_here(place: &mut Place) -> Result<(String, pipe::Receiver, pipe::Sender)> {
    let command = place.command("make").with_timeout(LIMIT);
    let outcome = place.runner.run(command).await?;
    let said = outcome.stdout_text();
    let Some(folder) = said.lines().find_map(ready).map(str::to_owned) else {
        return Err(unusable(&outcome.stderr_text()));
    };
    let open = || -> io::Result<_> {
        let mut both = pipe::OpenOptions::new();
        // For both, so that they do not end with a program.
        both.read_write(true);
        let questions = both.open_receiver(Path::new(&folder).join("questions"))?;
        let answers = both.open_sender(Path::new(&folder).join("answers"))?;
        Ok((questions, answers))
    };
    let (questions, answers) =
        open().map_err(|error| unusable("its FIFOs cannot be opened").with_source(error))?;
    Ok((folder, questions, answers))
}

/// Connects a program on another machine: through a command there, and another one when that was
/// lost.
async fn connect_there(place: &mut Place, mut served: Served, tell: Tell, stop: &mut Stop) {
    let mut tell = Some(tell);
    let mut pause = FIRST_PAUSE;
    let mut lost = Instant::now();
    loop {
        let mut connected = |folder: &str| {
            pause = FIRST_PAUSE;
            // Who is not told any more has dropped it.
            tell.take().map(|tell| tell.send(Ok(folder.to_owned())));
        };
        let once = connect_once(place, &mut served, &mut connected, stop);
        let Some((was_connected, why)) = once.await else {
            return;
        };
        if let Some(tell) = tell.take() {
            let _ = tell.send(Err(why));
            return;
        }
        if was_connected {
            lost = Instant::now();
        }
        tracing::debug!(member = %served.name(), error = %why, "a connection was lost");
        if lost.elapsed() > PATIENCE || why.kind() == ErrorKind::InvalidState {
            served.lost(format!("the connection to its VM was lost ({why})"));
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.asked() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Serves over one connection to its end, and not longer than asked to. Tells whether there was one, and
/// why it ended, unless it was asked to. The command that was the connection has ended by then.
async fn connect_once(
    place: &mut Place,
    served: &mut Served,
    connected: &mut (impl FnMut(&str) + Send),
    stop: &mut Stop,
) -> Option<(bool, Error)> {
    let (mut answers, theirs) = duplex(BUFFER);
    let (sink, questions) = duplex(BUFFER);
    let mut lines = Lines::new(questions);
    let command = place.command("link").with_stdin(Input::lifeline(theirs));
    let first = place.number == 1;
    let mut sink = Sink {
        stdout: sink,
        stderr: Vec::new(),
    };
    let mut was_connected = false;
    let talk = async {
        while let Some(line) = lines.next().await? {
            if let Some(folder) = std::str::from_utf8(&line).ok().and_then(ready) {
                was_connected = true;
                connected(folder);
                break;
            }
        }
        if was_connected {
            // What the program was writing when the last connection was lost ends in a newline.
            let resume = [b"\n", &wire::frame(RESUME, b"")[..]].concat();
            if !first {
                answers.write_all(&resume).await?;
            }
            served.serve(&mut lines, &mut answers).await?;
        }
        Ok::<(), io::Error>(())
    };
    let mut run = place.runner.run_streaming(command, &mut sink);
    let (ended, runs) = tokio::select! {
        ended = &mut run => (Some(ended.map(drop)), false),
        talked = talk => match talked {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let text = "its program sends what cannot be";
                let why = Error::new(ErrorKind::InvalidState, text).with_source(error);
                (Some(Err(why)), true)
            }
            // Either stream ends, or breaks, with its connection.
            _ => (Some(Ok(())), true),
        },
        () = stop.asked() => (None, true),
    };
    if runs {
        // The end of its input is its own.
        drop(answers);
        // It may have to write something until then; nobody wants it.
        let drain = async move { while let Ok(Some(_)) = lines.next().await {} };
        let ended = async {
            tokio::select! {
                _ = &mut run => {}
                () = async { drain.await; std::future::pending().await } => {}
            }
        };
        if timeout(LIMIT, ended).await.is_err() {
            tracing::debug!(folder = place.name, "a connection does not end");
        }
    }
    drop(run);
    let why = match ended? {
        Err(error) => error,
        Ok(()) if was_connected => Error::new(ErrorKind::Unavailable, "the connection ended"),
        Ok(()) => unusable(&String::from_utf8_lossy(&sink.stderr)),
    };
    Some((was_connected, why))
}

/// The folder, in the line that tells it.
fn ready(line: &str) -> Option<&str> {
    line.strip_prefix("ready ")
}

fn unusable(said: &str) -> Error {
    let said: Vec<_> = said.split_whitespace().collect();
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the VM cannot make FIFOs below its TMPDIR or /tmp: {}",
            said.join(" ")
        ),
    )
}

impl Served {
    fn name(&self) -> &VmId {
        self.endpoint().name()
    }

    /// Takes the program out of its hub.
    fn lost(&self, why: String) {
        tracing::warn!(member = %self.name(), why, "left its hub");
        self.endpoint().leave(why);
    }
}

/// Passes on what a command writes, and keeps a little of what it complains about.
struct Sink {
    stdout: DuplexStream,
    stderr: Vec<u8>,
}

#[async_trait]
impl OutputSink for Sink {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        match stream {
            OutputStream::Stdout if self.stdout.write_all(&piece).await.is_err() => {
                ControlFlow::Break(())
            }
            OutputStream::Stdout => ControlFlow::Continue(()),
            OutputStream::Stderr => {
                let room = 4096_usize.saturating_sub(self.stderr.len());
                self.stderr
                    .extend_from_slice(&piece[..piece.len().min(room)]);
                ControlFlow::Continue(())
            }
        }
    }
}
