use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bioxen_vm_core::{Command, Error, ErrorKind, Outcome, Result, Runner, Status};
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::capture::Capture;
use super::session::Channel;
use super::{SshError, SshSession};

const RUN: &str = include_str!("run.sh");

/// How long output is still awaited once the command has ended, counted from the last of it. Only
/// a process that left the command's process group can hold the streams open that long.
const DRAIN: Duration = Duration::from_secs(1);

/// How much longer than we the guest waits before it ends a command that ran out of time: it does
/// so only when the connection is gone.
const GUEST_SLACK: Duration = Duration::from_secs(10);

/// The longest argument or variable of a Linux process, less room for the name it travels under.
const LONGEST_ARGUMENT: usize = 128 * 1024 - 64;
const LONGEST_ARGUMENTS: usize = 1024 * 1024;

/// Runs commands on a guest.
///
/// Program, arguments, variables and input travel over the connection's stream, never as shell
/// text, and never in an argument list where other users of the guest could read them. When a
/// command ends, is cancelled or runs out of time, and when the connection breaks, its process
/// group on the guest is killed. A process that moves itself into another session escapes that.
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
        let started = Instant::now();
        let request = Request::new(&command)?;
        let shell = format!("exec sh -c '{}' sh {}", quoted(RUN), request.header.len());
        let mut channel = self.session.spawn(&shell).await.map_err(|error| {
            Error::new(error.kind(), format!("cannot reach {}", self.describe())).with_source(error)
        })?;
        let gathered = gather(&mut channel, &command, &request, started).await?;
        let broken = if gathered.report.is_none() && !gathered.timed_out {
            channel.master.broken().await
        } else {
            None
        };
        let ended = self.interpret(&command, &gathered, broken);
        settle(channel).await;
        let mut outcome = Outcome::new(ended?);
        (outcome.stdout, outcome.stdout_truncated) = gathered.stdout.finish();
        (outcome.stderr, outcome.stderr_truncated) = gathered.stderr.finish();
        outcome.duration = started.elapsed();
        Ok(outcome)
    }

    fn describe(&self) -> String {
        let target = self.session.target();
        format!("{}@{}", target.user, target.address)
    }
}

impl SshRunner {
    fn interpret(
        &self,
        command: &Command,
        run: &Gathered,
        broken: Option<SshError>,
    ) -> Result<Status> {
        let machine = self.describe();
        let (kind, message) = match run.report.as_deref() {
            _ if run.timed_out => return Ok(Status::TimedOut),
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
                    command.cwd.as_deref().unwrap_or_default()
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
                         head and sleep"
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

/// What goes over the stream before the leash.
struct Request {
    word: String,
    header: String,
    input: Bytes,
}

impl Request {
    fn new(command: &Command) -> Result<Self> {
        let word = random_word()?;
        let variables = command
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let arguments = std::iter::once(&command.program).chain(&command.args);
        let data: Vec<String> = variables.chain(arguments.cloned()).collect();
        check(command, &data)?;
        let limit = command
            .timeout
            .map_or(0, |limit| (limit + GUEST_SLACK).as_secs());
        let mut header = format!("{word}\n{}\n{limit}\n", command.stdin.bytes().len());
        push_line(&mut header, command.cwd.as_deref().unwrap_or_default());
        // Writing to a String cannot fail.
        let _ = writeln!(header, "{}", command.env.len());
        for item in &data {
            push_line(&mut header, item);
        }
        Ok(Self {
            word,
            header,
            input: command.stdin.bytes().clone(),
        })
    }
}

/// Appends data in the form that `run.sh` reads.
fn push_line(header: &mut String, data: &str) {
    header.push('=');
    header.push_str(&data.replace('\\', r"\\").replace('\n', r"\n"));
    header.push('\n');
}

fn check(command: &Command, data: &[String]) -> Result<()> {
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
    let cwd = command.cwd.as_deref().unwrap_or_default();
    if cwd.contains('\0') || data.iter().any(|item| item.contains('\0')) {
        return refuse(format!(
            "an argument, variable or the directory of {program:?} holds a NUL byte; pass the data \
             on standard input"
        ));
    }
    if data.iter().any(|item| item.len() > LONGEST_ARGUMENT)
        || data.iter().map(String::len).sum::<usize>() > LONGEST_ARGUMENTS
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

/// A word that no command can guess, so that none can forge a report.
fn random_word() -> Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::from(SshError::NoRandomness))?;
    Ok(bytes.iter().fold(String::new(), |mut word, byte| {
        let _ = write!(word, "{byte:02x}");
        word
    }))
}

/// Constant shell text as the inside of single quotes.
fn quoted(text: &str) -> String {
    text.replace('\'', r"'\''")
}

struct Gathered {
    stdout: Capture,
    stderr: Capture,
    report: Option<String>,
    timed_out: bool,
}

/// Feeds the command and reads its output until it has ended, or its time is up.
async fn gather(
    channel: &mut Channel,
    command: &Command,
    request: &Request,
    started: Instant,
) -> Result<Gathered> {
    let child = &mut channel.child;
    let (Some(mut stdin), Some(mut output), Some(mut errors)) = (
        child.stdin().take(),
        child.stdout().take(),
        child.stderr().take(),
    ) else {
        return Err(Error::new(ErrorKind::Internal, "the command has no pipes"));
    };
    // A command that ends before it has read all its input is no failure.
    let feed = async move {
        let _ = stdin.write_all(request.header.as_bytes()).await;
        let _ = stdin.write_all(&request.input).await;
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
    let mut run = Gathered {
        stdout: Capture::new(command.max_output),
        stderr: Capture::new(command.max_output),
        report: None,
        timed_out: false,
    };
    let (mut out_open, mut err_open, mut over) = (true, true, false);
    while out_open || err_open {
        tokio::select! {
            more = run.stdout.read(&mut output), if out_open => out_open = more,
            more = run.stderr.read(&mut errors), if err_open => {
                err_open = more;
                over |= run.stderr.has_report(&request.word);
            }
            stdin = async { feed.as_mut()?.await.into() }, if feed.is_some() => {
                feed = None;
                leash = stdin;
            }
            () = &mut deadline, if !over => {
                over = true;
                run.timed_out = true;
                feed = None;
                leash = None;
            }
            () = sleep(DRAIN), if over => break,
        }
    }
    drop(leash);
    run.report = run.stderr.take_report(&request.word);
    Ok(run)
}

/// Waits, but not for long, until the server has freed the channel, so that the next command finds
/// room.
async fn settle(channel: Channel) {
    let Channel { child, .. } = channel;
    // The exit status says nothing: the report did.
    let _ = tokio::time::timeout(DRAIN, child.wait()).await;
}
