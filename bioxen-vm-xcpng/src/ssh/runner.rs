use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_vm_core::lua::{Frames, Mark, Part};
use bioxen_vm_core::{
    Command, Error, ErrorKind, Gather, Input, InputStream, Outcome, OutputSink, OutputStream,
    Pieces, Result, Runner, Status,
};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::session::Channel;
use super::{SshError, SshSession};

const RUN: &str = include_str!("run.sh");

/// How long output is still awaited once the command has ended, counted from the last of it. Only
/// a process that left the command's process group can hold the streams open that long.
const DRAIN: Duration = Duration::from_secs(1);

/// How much longer than we the guest waits before it ends a command that ran out of time: it does
/// so only when the connection is gone.
const GUEST_SLACK: Duration = Duration::from_secs(10);

/// How much input is sent as one piece at most: each costs a process on the guest, which holds it.
const INPUT_PIECE: usize = 1024 * 1024;

/// The longest argument or variable of a Linux process, less room for the name it travels under.
const LONGEST_ARGUMENT: usize = 128 * 1024 - 64;
const LONGEST_ARGUMENTS: usize = 1024 * 1024;

/// Runs commands on a guest.
///
/// Program, arguments, variables and input travel over the connection's stream, never as shell
/// text, and never in an argument list where other users of the guest could read them. When a
/// command ends, is cancelled or runs out of time, and when the connection breaks, its process
/// group on the guest is killed, and so is what has left the group: daemons, other sessions. Those
/// are known by the variable `BIOXEN_RUN` of their environment, so what escapes is a process that
/// leaves both the group and its environment behind.
#[derive(Debug, Clone)]
pub struct SshRunner {
    session: Arc<SshSession>,
}

impl SshRunner {
    /// Makes a runner over these connections.
    #[must_use]
    pub fn new(session: Arc<SshSession>) -> Self {
        Self { session }
    }
}

#[async_trait]
impl Runner for SshRunner {
    async fn run(&self, command: Command) -> Result<Outcome> {
        let mut gather = Gather::new(command.max_output);
        let outcome = self.run_streaming(command, &mut gather).await?;
        Ok(gather.into_outcome(outcome))
    }

    async fn run_streaming(&self, command: Command, sink: &mut dyn OutputSink) -> Result<Outcome> {
        let started = Instant::now();
        let stream = command.stdin.take_stream()?;
        let request = Request::new(&command)?;
        let shell = format!("exec sh -c '{}' sh {}", quoted(RUN), request.header.len());
        let mut channel = self.session.spawn(&shell).await.map_err(|error| {
            Error::new(error.kind(), format!("cannot reach {}", self.describe())).with_source(error)
        })?;
        let end = talk(&mut channel, &command, &request, stream, sink, started).await?;
        tracing::debug!(address = %self.session.target().address, "a command is over");
        let broken = match end {
            End::Silence => channel.master.broken().await,
            _ => None,
        };
        let status = self.interpret(&command, end, broken);
        settle(channel).await;
        let mut outcome = Outcome::new(status?);
        outcome.duration = started.elapsed();
        Ok(outcome)
    }

    fn describe(&self) -> String {
        let target = self.session.target();
        format!("{}@{}", target.user, target.address)
    }
}

impl SshRunner {
    fn interpret(&self, command: &Command, end: End, broken: Option<SshError>) -> Result<Status> {
        let machine = self.describe();
        let report = match end {
            End::TimedOut => return Ok(Status::TimedOut),
            End::Unwanted => return Ok(Status::OutputLimit),
            End::Left => return Ok(Status::Signaled(9)),
            End::Report(report) => Some(report),
            End::Silence => None,
        };
        let (kind, message) = match report.as_deref() {
            Some("program") => (
                ErrorKind::NotFound,
                format!(
                    "there is no program {:?} on {machine}; install it or give its path",
                    command.program
                ),
            ),
            Some("directory") => (
                ErrorKind::NotFound,
                format!(
                    "the working directory {:?} is no directory on {machine}",
                    command.cwd.clone().unwrap_or_default()
                ),
            ),
            Some("group") => (
                ErrorKind::Unsupported,
                format!(
                    "the SSH server of {machine} runs commands in its own process group, so they \
                     could not be ended safely; use OpenSSH"
                ),
            ),
            Some(report) => match report.parse::<i32>() {
                Ok(code @ 0..=255) => return Ok(Status::Exited(code)),
                Ok(signal) => return Ok(Status::Signaled(signal % 256)),
                Err(_) => (
                    ErrorKind::Unsupported,
                    format!(
                        "{machine} lacks a program that every command needs: it must have sh, awk, \
                         cat, dd, grep and sleep"
                    ),
                ),
            },
            None => match broken {
                Some(broken) => {
                    let program = &command.program;
                    let message = format!("what became of {program:?} on {machine} is unknown");
                    return Err(Error::new(broken.kind(), message).with_source(broken));
                }
                None => (
                    ErrorKind::Unavailable,
                    format!(
                        "{:?} on {machine} was killed from outside together with what watched it",
                        command.program
                    ),
                ),
            },
        };
        Err(Error::new(kind, message))
    }
}

/// What goes over the stream before the command's input.
struct Request {
    mark: Mark,
    header: Vec<u8>,
}

impl Request {
    fn new(command: &Command) -> Result<Self> {
        let mark = Mark::new();
        let variables = command
            .env
            .iter()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let arguments = std::iter::once(&command.program).chain(&command.args);
        let arguments = arguments.map(|text| text.clone().into_bytes());
        let data: Vec<Vec<u8>> = variables.chain(arguments).collect();
        check(command, &data)?;
        let limit = command
            .timeout
            .map_or(0, |limit| (limit + GUEST_SLACK).as_secs());
        // Not the mark: whatever the command starts can read this one.
        let run = Mark::new();
        let mut header = format!("{}\n{limit}\n", run.as_str()).into_bytes();
        push_line(&mut header, directory(command));
        header.extend(format!("{}\n", command.env.len()).bytes());
        for item in &data {
            push_line(&mut header, item);
        }
        Ok(Self { mark, header })
    }
}

/// Appends data in the form that `run.sh` reads.
fn push_line(header: &mut Vec<u8>, data: &[u8]) {
    header.push(b'=');
    for byte in data {
        match byte {
            b'\\' => header.extend(br"\\"),
            b'\n' => header.extend(br"\n"),
            byte => header.push(*byte),
        }
    }
    header.push(b'\n');
}

/// The working directory of a command; empty for none.
fn directory(command: &Command) -> &[u8] {
    let cwd = command.cwd.as_deref();
    cwd.map_or(&[], |cwd| cwd.as_os_str().as_bytes())
}

fn check(command: &Command, data: &[Vec<u8>]) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Config, message));
    let program = &command.program;
    if program.is_empty() {
        return refuse("the program has no name".into());
    }
    if let Some((name, _)) = command.env.iter().find(|(name, _)| !is_variable(name)) {
        return refuse(format!(
            "{name:?} cannot be the name of an environment variable; use letters, digits and _"
        ));
    }
    let has_nul = |data: &[u8]| data.contains(&0);
    if has_nul(directory(command)) || data.iter().any(|item| has_nul(item)) {
        return refuse(format!(
            "an argument, variable or the directory of {program:?} holds a NUL byte; pass the data \
             on standard input"
        ));
    }
    if data.iter().any(|item| item.len() > LONGEST_ARGUMENT)
        || data.iter().map(Vec::len).sum::<usize>() > LONGEST_ARGUMENTS
    {
        return refuse(format!(
            "the arguments of {program:?} are too long; pass the data on standard input"
        ));
    }
    Ok(())
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Constant shell text as the inside of single quotes.
fn quoted(text: &str) -> String {
    text.replace('\'', r"'\''")
}

/// Why a command is over.
enum End {
    /// It ended, or could not be started; this is how.
    Report(String),
    TimedOut,
    /// Nobody wants more of its output.
    Unwanted,
    /// The end of its input was to be its own.
    Left,
    /// Nobody told how it ended.
    Silence,
}

/// Feeds the command and hands on its output until it has ended, or its time is up.
async fn talk(
    channel: &mut Channel,
    command: &Command,
    request: &Request,
    stream: Option<InputStream>,
    sink: &mut dyn OutputSink,
    started: Instant,
) -> Result<End> {
    let child = &mut channel.child;
    let (Some(mut stdin), Some(output), Some(errors)) = (
        child.stdin().take(),
        child.stdout().take(),
        child.stderr().take(),
    ) else {
        return Err(Error::new(ErrorKind::Internal, "the command has no pipes"));
    };
    // A command that ends before it has read all its input is no failure.
    let feed = async move {
        let _ = feed(&mut stdin, request, &command.stdin, stream).await;
        stdin
    };
    let mut feed = Some(Box::pin(feed));
    let mut leash = None;
    let mut deadline = Box::pin(async {
        match command.timeout {
            Some(limit) => sleep(limit.saturating_sub(started.elapsed())).await,
            None => std::future::pending().await,
        }
    });
    let over = Notify::new();
    let mut pump = Box::pin(pump(output, errors, sink, &request.mark, &over));
    let mut end = End::Silence;
    let report = loop {
        tokio::select! {
            report = &mut pump => break report,
            stdin = async { feed.as_mut()?.await.into() }, if feed.is_some() => {
                feed = None;
                if command.stdin.is_lifeline() {
                    end = End::Left;
                    over.notify_one();
                } else {
                    leash = stdin;
                }
            }
            () = &mut deadline, if matches!(end, End::Silence) => {
                end = End::TimedOut;
                feed = None;
                leash = None;
                over.notify_one();
            }
        }
    };
    drop(leash);
    Ok(match report {
        ControlFlow::Break(()) => End::Unwanted,
        // What is ended from there on may be told as having ended, in no way.
        ControlFlow::Continue(Some(report))
            if report.is_empty() && !matches!(end, End::Silence) =>
        {
            end
        }
        ControlFlow::Continue(Some(report)) => End::Report(report),
        ControlFlow::Continue(None) => end,
    })
}

/// Sends the header and the command's input, in the form that `run.sh` reads.
async fn feed(
    stdin: &mut openssh::ChildStdin,
    request: &Request,
    input: &Input,
    stream: Option<InputStream>,
) -> std::io::Result<()> {
    let start = [request.mark.as_str().as_bytes(), b"\n", &request.header].concat();
    stdin.write_all(&start).await?;
    for piece in input.bytes().chunks(INPUT_PIECE) {
        send(stdin, piece).await?;
    }
    match stream {
        Some(mut stream) if input.is_lifeline() => {
            stdin.write_all(b"rest\n").await?;
            tokio::io::copy(&mut stream, stdin).await?;
        }
        Some(mut stream) => {
            let mut piece = BytesMut::with_capacity(INPUT_PIECE);
            while gather(&mut stream, &mut piece).await? {
                send(stdin, &piece).await?;
                piece.clear();
            }
            stdin.write_all(b"0\n").await?;
        }
        None => stdin.write_all(b"0\n").await?,
    }
    Ok(())
}

/// Sends one piece of the command's input.
async fn send(stdin: &mut openssh::ChildStdin, piece: &[u8]) -> std::io::Result<()> {
    let size = format!("{}\n", piece.len());
    stdin.write_all(size.as_bytes()).await?;
    stdin.write_all(piece).await
}

/// Reads what is there, at least one byte and at most as much as fits; `false` at the end.
async fn gather(stream: &mut InputStream, piece: &mut BytesMut) -> std::io::Result<bool> {
    if stream.read_buf(piece).await? == 0 {
        return Ok(false);
    }
    while piece.len() < INPUT_PIECE {
        let more = tokio::select! {
            biased;
            more = stream.read_buf(piece) => more?,
            () = std::future::ready(()) => 0,
        };
        if more == 0 {
            break;
        }
    }
    Ok(true)
}

/// Hands on both streams until they end, and takes the report out of them. Once the command has
/// ended it waits no longer than [`DRAIN`] for more.
async fn pump(
    output: openssh::ChildStdout,
    errors: openssh::ChildStderr,
    sink: &mut dyn OutputSink,
    mark: &Mark,
    ended: &Notify,
) -> ControlFlow<(), Option<String>> {
    let (mut out, mut err) = (Pieces::new(output), Pieces::new(errors));
    let mut frames = Frames::new(mark);
    let mut report = None;
    let mut over = false;
    while !out.is_over() || !err.is_over() {
        let piece = tokio::select! {
            piece = out.next(), if !out.is_over() => {
                if let Some(piece) = piece {
                    sink.write(OutputStream::Stdout, piece).await?;
                }
                continue;
            }
            piece = err.next(), if !err.is_over() => piece,
            () = ended.notified(), if !over => {
                over = true;
                continue;
            }
            () = sleep(DRAIN), if over => break,
        };
        for part in piece.map(|piece| frames.take(piece)).unwrap_or_default() {
            match part {
                Part::Raw(piece) => sink.write(OutputStream::Stderr, piece).await?,
                Part::Frame(_, data) => {
                    over = true;
                    report = Some(String::from_utf8_lossy(&data).into_owned());
                }
            }
        }
    }
    if let Some(rest) = frames.rest() {
        sink.write(OutputStream::Stderr, rest).await?;
    }
    ControlFlow::Continue(report)
}

/// Waits, but not for long, until the server has freed the channel, so that the next command finds
/// room.
async fn settle(channel: Channel) {
    let Channel { child, .. } = channel;
    // The exit status says nothing: the report did.
    let _ = tokio::time::timeout(DRAIN, child.wait()).await;
}
