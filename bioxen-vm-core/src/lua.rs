//! How a Lua program is handed to a Lua interpreter, the same on every machine.
//!
//! The interpreter runs a constant driver. The program, its name and its arguments come to the
//! driver in one frame on standard input, so that they may have any size and any bytes and pass
//! through no shell and no Lua source. What follows the frame is the program's own input.
//!
//! The frame is a line, `<mark> <code> <name> <argument>...`, with the mark for the returned value
//! (`-`: it is not wanted) and decimal lengths, and then the bytes in the same order.
//!
//! What the program returns comes back on standard error, in a frame that starts with the mark
//! and that [`Returning`] takes out: there is no third stream over SSH.

mod frames;
mod returned;
mod warm;

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::{
    Command, Error, ErrorKind, Input, Outcome, OutputSink, OutputStream, Result, Returned, Runner,
    Script, SessionHost, SessionOptions,
};

pub use frames::{Frames, Mark, Part};
pub(crate) use returned::read as read_returned;
pub use returned::{decode, encode};
pub use warm::WarmInterpreters;

/// The driver: reads the frame, runs the program, and ends as the `lua` program would.
///
/// It must be loaded under the chunk name `=(command line)`, which is what `lua -e` gives it. The
/// empty first line is there because `lua -e` takes text that starts with `-` for an option.
pub const DRIVER: &str = concat!(
    "\n",
    include_str!("lua/common.lua"),
    include_str!("lua/values.lua"),
    "local ending\n",
    include_str!("lua/driver.lua")
);

/// The driver in an interpreter that waits: it also tells the end of a program.
const TELLING_DRIVER: &str = concat!(
    "\n",
    include_str!("lua/common.lua"),
    include_str!("lua/values.lua"),
    include_str!("lua/ending.lua"),
    include_str!("lua/driver.lua")
);

/// The part of [`DRIVER`] that makes data of values, which most programs do not return: it declares
/// the local `value_data`. It uses the functions of its environment, which must be those of before
/// the program.
pub const VALUES: &str = include_str!("lua/values.lua");

/// The frame for a script, followed by its standard input. With a mark, what it returns is sent.
#[must_use]
pub fn frame(script: &Script, mark: Option<&Mark>) -> Input {
    let input = script.stdin.bytes();
    let mut frame = program_with_room(script, mark, input.len());
    frame.extend_from_slice(input);
    script.stdin.clone().with_bytes(frame.freeze())
}

/// The frame for a script, without its standard input.
#[must_use]
pub fn program(script: &Script, mark: Option<&Mark>) -> Bytes {
    program_with_room(script, mark, 0).freeze()
}

fn program_with_room(script: &Script, mark: Option<&Mark>, room: usize) -> BytesMut {
    let mark = mark.map_or("-", Mark::as_str);
    let mut header = format!("{mark} {} {}", script.code.len(), script.name.len());
    for arg in &script.args {
        // Writing to a String cannot fail.
        let _ = write!(header, " {}", arg.len());
    }
    header.push('\n');
    let size = header.len()
        + script.code.len()
        + script.name.len()
        + script.args.iter().map(Bytes::len).sum::<usize>();
    let mut frame = BytesMut::with_capacity(size + room);
    frame.extend_from_slice(header.as_bytes());
    frame.extend_from_slice(&script.code);
    frame.extend_from_slice(script.name.as_bytes());
    for arg in &script.args {
        frame.extend_from_slice(arg);
    }
    frame
}

/// The command that runs a script with a Lua interpreter, `lua5.4` for example.
#[must_use]
pub fn command(interpreter: &str, script: &Script, mark: Option<&Mark>) -> Command {
    let mut command = Command::new(interpreter).args(["-e", DRIVER]);
    command.env.clone_from(&script.env);
    command.cwd.clone_from(&script.cwd);
    command.stdin = frame(script, mark);
    command.timeout = script.timeout;
    command.max_output = script.max_output;
    command
}

/// Runs a command that drives a script which was given this mark, and puts what it returned into
/// the outcome.
///
/// # Errors
/// As [`Runner::run_streaming`].
///
/// # Cancel safety
/// Dropping the future ends the program and what it started.
pub async fn run(
    runner: &dyn Runner,
    command: Command,
    mark: &Mark,
    sink: &mut dyn OutputSink,
) -> Result<Outcome> {
    let mut returning = Returning::new(mark, sink);
    let mut outcome = runner.run_streaming(command, &mut returning).await?;
    outcome.returned = returning.finish().await;
    Ok(outcome)
}

/// The driver of a session. It reads requests from the file descriptor 3.
pub const SESSION_DRIVER: &str = concat!(
    "\n",
    include_str!("lua/common.lua"),
    include_str!("lua/values.lua"),
    include_str!("lua/session.lua")
);

/// Serves until it is interrupted. Each chunk of the command line minds one interrupt.
const SERVE: &str = "package.loaded['bioxen.session']()";

/// Lets the requests come on descriptor 3, and standard input be empty. Serves 256 times, and so
/// survives as many interrupts.
const START: &str = r#"
lua=$1 driver=$2
set -- -e "$3"
for _ in 1 2 3 4 5 6 7 8; do set -- "$@" "$@"; done
exec "$lua" -e "$driver" "$@" 3<&0 </dev/null
"#;

/// The command that keeps a session with a Lua interpreter, `lua5.4` for example. Its standard
/// input is for the requests of a [`Session`](crate::Session).
#[must_use]
pub fn session_command(interpreter: &str, options: &SessionOptions) -> Command {
    let mut command =
        Command::new("sh").args(["-c", START, "sh", interpreter, SESSION_DRIVER, SERVE]);
    command.env.clone_from(&options.env);
    command.cwd.clone_from(&options.cwd);
    command
}

/// Keeps sessions by a command of a machine.
#[derive(Debug)]
pub struct RunnerHost {
    runner: Arc<dyn Runner>,
    command: Command,
}

impl RunnerHost {
    /// Runs this command, one of [`session_command`], for each session.
    #[must_use]
    pub fn new(runner: Arc<dyn Runner>, command: Command) -> Self {
        Self { runner, command }
    }
}

#[async_trait]
impl SessionHost for RunnerHost {
    async fn run(&self, input: Input, sink: &mut dyn OutputSink) -> Result<Outcome> {
        let command = self.command.clone().with_stdin(input);
        self.runner.run_streaming(command, sink).await
    }

    async fn interrupt(&self, process: u32) -> Result<()> {
        if process < 2 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the process of the session is not known; only Linux tells it",
            ));
        }
        let kill = r#"kill -s INT "$1""#;
        let command = Command::new("sh").args(["-c", kill, "sh", &process.to_string()]);
        // One that has ended meanwhile needs no interrupt.
        self.runner.run(command).await.map(drop)
    }
}

/// Takes what a program returns out of its standard error, and hands on the rest.
pub struct Returning<'s> {
    frames: Frames,
    sink: &'s mut dyn OutputSink,
    returned: Returned,
    end: Option<End>,
}

/// What a driver tells of a program's end.
struct End {
    /// Looks for that in standard output.
    frames: Frames,
    /// How many of both streams are complete.
    complete: usize,
    code: Option<i32>,
}

impl<'s> Returning<'s> {
    /// Looks for a returned value with this mark.
    pub fn new(mark: &Mark, sink: &'s mut dyn OutputSink) -> Self {
        Self {
            frames: Frames::new(mark),
            sink,
            returned: Returned::Nothing,
            end: None,
        }
    }

    /// Looks for the end of the program too, which [`TELLING_DRIVER`] tells.
    fn with_end(mut self, mark: &Mark) -> Self {
        self.end = Some(End {
            frames: Frames::new(mark),
            complete: 0,
            code: None,
        });
        self
    }

    /// With which code the program ended, once all that it wrote has been handed on.
    fn ended(&self) -> Option<i32> {
        let end = self.end.as_ref().filter(|end| end.complete == 2)?;
        end.code
    }

    /// What was returned, once the program has ended.
    pub async fn finish(mut self) -> Returned {
        // There is nothing left to end.
        if let Some(rest) = self.end.and_then(|mut end| end.frames.rest()) {
            let _ = self.sink.write(OutputStream::Stdout, rest).await;
        }
        if let Some(rest) = self.frames.rest() {
            let _ = self.sink.write(OutputStream::Stderr, rest).await;
        }
        self.returned
    }
}

#[async_trait]
impl OutputSink for Returning<'_> {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        let parts = match (stream, &mut self.end) {
            (OutputStream::Stdout, None) => return self.sink.write(stream, piece).await,
            (OutputStream::Stdout, Some(end)) => end.frames.take(piece),
            (OutputStream::Stderr, _) => self.frames.take(piece),
        };
        for part in parts {
            match (part, &mut self.end) {
                (Part::Raw(piece), _) => self.sink.write(stream, piece).await?,
                (Part::Frame(b'E', _), Some(end)) => end.complete += 1,
                (Part::Frame(b'R', code), Some(end)) => {
                    end.code = std::str::from_utf8(&code)
                        .ok()
                        .and_then(|code| code.parse().ok());
                }
                (Part::Frame(kind, data), _) => self.returned = returned::read(kind, &data),
            }
        }
        ControlFlow::Continue(())
    }
}

impl std::fmt::Debug for Returning<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Returning").finish_non_exhaustive()
    }
}

/// The environment variables that let Lua of this version (`5.4`) find the packages of a LuaRocks
/// tree, before the default places.
///
/// Lua 5.1 reads `LUA_PATH`, later versions read the variable with their version first.
#[must_use]
pub fn search_path(lua_version: &str, tree: &str) -> [(String, String); 2] {
    let suffix = match lua_version {
        "5.1" => String::new(),
        version => format!("_{}", version.replace('.', "_")),
    };
    let share = format!("{tree}/share/lua/{lua_version}");
    [
        (
            format!("LUA_PATH{suffix}"),
            format!("{share}/?.lua;{share}/?/init.lua;;"),
        ),
        (
            format!("LUA_CPATH{suffix}"),
            format!("{tree}/lib/lua/{lua_version}/?.so;;"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_gives_lengths_then_bytes_then_input() {
        let script = Script::new("x=1")
            .with_name("n")
            .arg("a b")
            .arg("")
            .with_stdin("rest");
        let frame = frame(&script, None);
        assert_eq!(&frame.bytes()[..], b"- 3 1 3 0\nx=1na brest");
    }

    #[test]
    fn packages_are_found_by_the_variables_of_the_version() {
        let [path, cpath] = search_path("5.4", "/t");
        assert_eq!(path.0, "LUA_PATH_5_4");
        assert_eq!(
            path.1,
            "/t/share/lua/5.4/?.lua;/t/share/lua/5.4/?/init.lua;;"
        );
        assert_eq!(
            cpath,
            ("LUA_CPATH_5_4".into(), "/t/lib/lua/5.4/?.so;;".into())
        );
        assert_eq!(search_path("5.1", "/t")[0].0, "LUA_PATH");
    }
}
