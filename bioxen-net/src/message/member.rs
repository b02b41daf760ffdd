//! Programs in VMs that have joined a hub.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bioxen_vm_core::lua::{self, Mark};
use bioxen_vm_core::{
    Command, Error, ErrorKind, Input, LuaVm, Outcome, OutputSink, OutputStream, PackageSite,
    Result, Runner, Script, SessionOptions, VmId,
};
use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::hub::{Endpoint, Hub};
use super::serve::Served;
use super::wire::{self, Lines, RESUME};

const JOIN: &str = include_str!("join.sh");
const MODULE: &str = include_str!("net.lua");

/// How much passes through a connection before the writer has to wait, in bytes.
const BUFFER: usize = 256 << 10;

/// How long a connection to a VM that was lost is tried again before the program is taken out.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pauses between attempts: there is no event for "can be reached again".
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long something in a VM may take that takes a moment.
const LIMIT: Duration = Duration::from_secs(60);

impl Hub {
    /// Lets a program in a VM join, under the id of the VM.
    ///
    /// # Errors
    /// As [`join_as`](Self::join_as).
    ///
    /// # Cancel safety
    /// As of [`join_as`](Self::join_as).
    pub async fn join(&self, vm: Arc<dyn LuaVm>) -> Result<Member> {
        let name = vm.id().clone();
        self.join_as(vm, name.as_str()).await
    }

    /// Lets a program in a VM join under a name of its own; so several programs of a VM can join.
    /// Messages can be sent to it from then on, before it runs.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint) and [`LuaVm::package_site`], and when the VM cannot give the
    /// program what it needs.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the hub; what was made in the VM is removed in the background.
    pub async fn join_as(&self, vm: Arc<dyn LuaVm>, name: &str) -> Result<Member> {
        let told = |error: Error| error.with_operation("join").with_vm(vm.id());
        let endpoint = Arc::new(self.endpoint(name).map_err(told)?);
        let PackageSite {
            runner,
            lua_version,
            tree,
            ..
        } = vm.package_site().await.map_err(told)?;
        let place = Place {
            name: format!("bioxen-net-{}", Mark::new().as_str()),
            runner,
        };
        let made = Made(Some(place.clone()));
        let served = Served::new(Arc::clone(&endpoint));
        let (link, folder) = if place.runner.shares_files() {
            connect_here(&place, served).await
        } else {
            connect_there(&place, served).await
        }
        .map_err(told)?;
        Ok(Member {
            vm: Arc::clone(&vm),
            endpoint,
            search: lua::search_path(&lua_version, &tree)[0].clone(),
            folder,
            programs: AtomicU64::new(0),
            _link: link,
            made,
        })
    }
}

/// A place at a hub for a program in a VM. Dropping it leaves the hub.
///
/// One program at a time: [`execute`](Self::execute) runs it to its end, and
/// [`script`](Self::script) and [`session`](Self::session) prepare one that is run in another way. A
/// second one takes the place over.
///
/// What was made for it in the VM is removed in the background when it is dropped;
/// [`leave`](Self::leave) waits for that.
#[derive(Debug)]
pub struct Member {
    vm: Arc<dyn LuaVm>,
    endpoint: Arc<Endpoint>,
    /// The variable by which Lua finds modules, and what the VM has in it.
    search: (String, String),
    folder: String,
    programs: AtomicU64,
    _link: Link,
    made: Made,
}

impl Member {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VmId {
        self.endpoint.name()
    }

    /// Runs a program that can `require "bioxen.net"` in the VM to its end, and leaves the hub.
    ///
    /// # Errors
    /// As [`LuaVm::execute`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the program and leaves the hub.
    pub async fn execute(self, script: impl Into<Script>) -> Result<Outcome> {
        let result = self.vm.execute(self.script(script)).await;
        let why = match &result {
            Ok(outcome) => format!("its program has ended ({})", outcome.status),
            Err(error) => format!("its program could not go on ({error})"),
        };
        self.endpoint.leave(why);
        self.leave().await;
        result
    }

    /// The same program, which can `require "bioxen.net"` in the VM of this member.
    #[must_use]
    pub fn script(&self, script: impl Into<Script>) -> Script {
        let mut script = script.into();
        self.add_to(&mut script.env);
        script
    }

    /// The same session, whose chunks can `require "bioxen.net"` in the VM of this member.
    #[must_use]
    pub fn session(&self, mut options: SessionOptions) -> SessionOptions {
        self.add_to(&mut options.env);
        options
    }

    /// Leaves the hub, and waits until nothing of it is left in the VM. Those who wait for replies
    /// are told.
    pub async fn leave(mut self) {
        let place = self.made.0.take();
        drop(self);
        if let Some(place) = place {
            place.remove().await;
        }
    }

    fn add_to(&self, env: &mut Vec<(String, OsString)>) {
        let program = self.programs.fetch_add(1, Ordering::Relaxed) + 1;
        let (name, own) = &self.search;
        let given = env.iter().rev().find(|(given, _)| given == name);
        let mut path = OsString::from(format!("{}/?.lua;", self.folder));
        path.push(given.map_or(own.as_ref(), |(_, value)| value.as_os_str()));
        env.retain(|(given, _)| given != name);
        env.push((name.clone(), path));
        let place = format!("{program} {} {}", self.name(), self.folder);
        env.push(("BIOXEN_NET".to_owned(), place.into()));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The task that serves it has the endpoint for a moment longer.
        self.endpoint.leave("it is no longer in use");
    }
}

/// The task that connects a program with its hub; it ends when this is dropped.
#[derive(Debug)]
struct Link(AbortHandle);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is removed in the background when this is dropped.
#[derive(Debug)]
struct Made(Option<Place>);

impl Drop for Made {
    fn drop(&mut self) {
        if let (Some(place), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(place.remove());
        }
    }
}

/// A folder in a VM by which a program reaches its hub.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    runner: Arc<dyn Runner>,
}

impl Place {
    fn command(&self, what: &str) -> Command {
        Command::new("sh").args(["-c", JOIN, "sh", what, &self.name, MODULE])
    }

    async fn remove(self) {
        // Twice: the first time may have been lost with its connection.
        for _ in 0..2 {
            let command = self.command("remove").with_timeout(LIMIT);
            match self.runner.run(command).await {
                Ok(outcome) if outcome.success() => return,
                Ok(outcome) => {
                    let said = outcome.stderr_text();
                    tracing::debug!(folder = self.name, %said, "a folder stays in a VM");
                }
                // A VM that cannot be reached any more has its own end, and the folder with it.
                Err(error) => {
                    tracing::debug!(folder = self.name, %error, "a folder stays in a VM");
                }
            }
        }
    }
}

/// Connects a program whose files are those of this machine: through its FIFOs.
async fn connect_here(place: &Place, mut served: Served) -> Result<(Link, String)> {
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
    let (questions, mut answers) =
        open().map_err(|error| unusable("its FIFOs cannot be opened").with_source(error))?;
    let task = tokio::spawn(async move {
        let mut lines = Lines::new(questions);
        if let Err(error) = served.serve(&mut lines, &mut answers).await {
            served.lost(format!("its FIFO failed ({error})"));
        }
    });
    Ok((Link(task.abort_handle()), folder))
}

/// Connects a program on another machine: through a command there, and another one when that was
/// lost.
async fn connect_there(place: &Place, served: Served) -> Result<(Link, String)> {
    let (tell, told) = oneshot::channel();
    let task = tokio::spawn(stay_connected(place.clone(), served, tell));
    let link = Link(task.abort_handle());
    match told.await {
        Ok(folder) => Ok((link, folder?)),
        Err(_) => Err(Error::new(
            ErrorKind::Internal,
            "the connection has no task",
        )),
    }
}

async fn stay_connected(place: Place, mut served: Served, tell: oneshot::Sender<Result<String>>) {
    let mut tell = Some(tell);
    let mut number = 0_u64;
    let mut what = "link";
    let mut pause = FIRST_PAUSE;
    let mut lost = Instant::now();
    loop {
        number += 1;
        let mut connected = |folder: &str| {
            pause = FIRST_PAUSE;
            // Who is not told any more is being dropped, and this with it.
            tell.take().map(|tell| tell.send(Ok(folder.to_owned())));
        };
        let once = connect_once(&place, &mut served, number, &mut what, &mut connected);
        let (was_connected, why) = once.await;
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
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Serves over one connection to its end. Tells whether there was one, and why it ended. Only the first
/// makes the folder, and one after it was found gone, as when the VM has booted anew: one that comes late
/// would leave it in a VM whose program has left.
async fn connect_once(
    place: &Place,
    served: &mut Served,
    number: u64,
    what: &mut &'static str,
    connected: &mut (impl FnMut(&str) + Send),
) -> (bool, Error) {
    let (mut answers, theirs) = duplex(BUFFER);
    let (sink, questions) = duplex(BUFFER);
    let command = place
        .command(what)
        .with_env("BIOXEN_LINK", format!("{}.{number}.", place.name))
        .with_stdin(Input::lifeline(theirs));
    let mut sink = Sink {
        stdout: sink,
        stderr: Vec::new(),
    };
    let mut was_connected = false;
    let talk = async {
        let mut lines = Lines::new(questions);
        while let Some(line) = lines.next().await? {
            if line == "gone" {
                *what = "link";
            }
            if let Some(folder) = std::str::from_utf8(&line).ok().and_then(ready) {
                was_connected = true;
                *what = "relink";
                connected(folder);
                break;
            }
        }
        if was_connected {
            // What the program was writing when the last connection was lost ends in a newline.
            let resume = [b"\n", &wire::frame(RESUME, b"")[..]].concat();
            if number > 1 {
                answers.write_all(&resume).await?;
            }
            served.serve(&mut lines, &mut answers).await?;
        }
        Ok::<(), io::Error>(())
    };
    let run = place.runner.run_streaming(command, &mut sink);
    let ended = tokio::select! {
        ended = run => ended.map(drop),
        talked = talk => match talked {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let text = "its program sends what cannot be";
                Err(Error::new(ErrorKind::InvalidState, text).with_source(error))
            }
            // Either stream ends, or breaks, with its connection.
            _ => Ok(()),
        },
    };
    let why = match ended {
        Err(error) => error,
        Ok(()) if was_connected => Error::new(ErrorKind::Unavailable, "the connection ended"),
        Ok(()) => unusable(&String::from_utf8_lossy(&sink.stderr)),
    };
    (was_connected, why)
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
