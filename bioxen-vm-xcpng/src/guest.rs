//! Lua in a VM that can be logged in to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::lua::{self, Mark, RunnerHost, WarmInterpreters};
use bioxen_vm_core::{
    Command, ErrorKind, Gather, Outcome, OutputSink, PackageSite, Runner, Script, Session,
    SessionOptions, Status,
};

use crate::cloud_init;
use crate::error::{Error, Result};
use crate::first_contact::FirstContact;
use crate::settings::Handover;
use crate::ssh::{SshRunner, SshSession};

/// Finds the interpreter `$1`, so that a program's own `PATH` does not change which one runs it,
/// and lets it run `$2`.
const FIND: &str =
    r#"lua=$(command -v "$1") || exit 127; printf '%s\n' "$lua"; exec "$lua" -e "$2""#;

/// How [`FIND`] ends, having said nothing, when there is no such program.
const NOT_FOUND: i32 = 127;

/// Prints the language version and the home directory.
const PROBE: &str = "io.write(_VERSION, '\\n', os.getenv('HOME') or '', '\\n')";

/// Any shell answers this, and one that only refuses does not.
const SHELL: &str = "echo a-shell";
const SHELL_ANSWER: &str = "a-shell";
const SHELL_LIMIT: Duration = Duration::from_secs(10);

/// How long the interpreter may take to say who it is.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// A login to a running VM, whatever there is in it.
#[derive(Debug)]
pub(crate) struct Reached {
    session: Arc<SshSession>,
    pub(crate) runner: Arc<SshRunner>,
}

impl Reached {
    /// Waits for a login and, where cloud-init gives the VM its keys, for the end of that.
    pub(crate) async fn log_in(
        contact: &FirstContact,
        address: IpAddr,
        limit: Duration,
    ) -> Result<Self> {
        let session = Arc::new(SshSession::new(contact.target(address)));
        session.ready(limit).await.map_err(|source| {
            let target = session.target();
            Error::Ssh {
                machine: format!("{}@{address}", target.user),
                port: target.port,
                remedy: contact.remedy(&source),
                source: Box::new(source),
            }
        })?;
        let runner = Arc::new(SshRunner::new(Arc::clone(&session)));
        if contact.handover() == Some(Handover::Drive) {
            cloud_init::wait(&*runner, limit).await?;
        }
        Ok(Self { session, runner })
    }

    /// Ends the connections.
    pub(crate) async fn close(&self) {
        self.session.close().await;
    }
}

/// A running VM with a Lua interpreter.
#[derive(Debug)]
pub(crate) struct Guest {
    session: Arc<SshSession>,
    runner: Arc<SshRunner>,
    /// Its absolute path.
    interpreter: String,
    /// `5.4`
    version: String,
    /// The LuaRocks tree of the user who logs in.
    tree: String,
    warm: WarmInterpreters,
}

impl Guest {
    /// Waits for a login and, where cloud-init gives the VM its keys, for the end of that: it may
    /// install the interpreter. Then asks the interpreter who it is.
    pub(crate) async fn log_in(
        contact: &FirstContact,
        address: IpAddr,
        interpreter: &str,
        limit: Duration,
    ) -> Result<Self> {
        let Reached { session, runner } = Reached::log_in(contact, address, limit).await?;
        let probe = Command::new("sh")
            .args(["-c", FIND, "sh", interpreter, PROBE])
            .with_timeout(PROBE_LIMIT);
        let outcome = match runner.run(probe).await {
            Ok(outcome) => outcome,
            Err(error) => return Err(unless_no_shell(&session, error).await),
        };
        let Some([interpreter, version, home]) = parse(&outcome) else {
            if outcome.status == Status::Exited(NOT_FOUND) && outcome.stdout.is_empty() {
                let lua = interpreter.to_owned();
                return Err(Error::NoProgram { lua });
            }
            return Err(Error::NoLua {
                lua: interpreter.to_owned(),
                said: said(&outcome),
            });
        };
        let tree = format!("{home}/.luarocks");
        let packages = lua::search_path(&version, &tree).into();
        let keeper: Arc<dyn Runner> = Arc::<SshRunner>::clone(&runner);
        let warm = WarmInterpreters::new(keeper, &interpreter, packages);
        warm.prepare();
        Ok(Self {
            session,
            runner,
            interpreter,
            version,
            tree,
            warm,
        })
    }

    /// Runs a program that was validated, and gathers its output.
    pub(crate) async fn execute(
        &self,
        script: Script,
        limit: Option<Duration>,
    ) -> bioxen_vm_core::Result<Outcome> {
        let mut gather = Gather::new(script.max_output);
        let outcome = self.execute_streaming(script, limit, &mut gather).await?;
        Ok(gather.into_outcome(outcome))
    }

    /// Runs a program that was validated, and hands on its output as it comes.
    pub(crate) async fn execute_streaming(
        &self,
        mut script: Script,
        limit: Option<Duration>,
        sink: &mut dyn OutputSink,
    ) -> bioxen_vm_core::Result<Outcome> {
        script.timeout = script.time_limit(limit);
        if let Some(outcome) = self.warm.run(&script, sink).await? {
            return Ok(outcome);
        }
        let mark = Mark::new();
        let mut command = lua::command(&self.interpreter, &script, Some(&mark));
        self.let_find_packages(&mut command);
        let outcome = lua::run(&*self.runner, command, &mark, sink).await;
        if matches!(&outcome, Err(error) if error.kind() == ErrorKind::Unavailable) {
            // A lost connection takes those that wait along.
            self.warm.doubt();
        }
        outcome
    }

    /// Starts a Lua state that lives on.
    pub(crate) async fn open_session(
        &self,
        options: SessionOptions,
    ) -> bioxen_vm_core::Result<Session> {
        let mut command = lua::session_command(&self.interpreter, &options);
        self.let_find_packages(&mut command);
        let runner: Arc<dyn Runner> = Arc::<SshRunner>::clone(&self.runner);
        Session::open(options.name, Arc::new(RunnerHost::new(runner, command))).await
    }

    fn let_find_packages(&self, command: &mut Command) {
        for (name, value) in lua::search_path(&self.version, &self.tree) {
            // What the caller says itself counts.
            if !command.env.iter().any(|(given, _)| *given == name) {
                command.env.push((name, value.into()));
            }
        }
    }

    pub(crate) fn package_site(&self) -> PackageSite {
        let runner: Arc<dyn Runner> = Arc::<SshRunner>::clone(&self.runner);
        PackageSite::new(runner, self.version.clone(), self.tree.clone())
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.session.target().address
    }

    /// Ends the connections.
    pub(crate) async fn close(&self) {
        // Programs that run end with their connection.
        tokio::join!(self.warm.close(), self.session.close());
        // What was being opened just then.
        self.session.close().await;
    }
}

/// Why a command could not be run: tells a login shell that runs none from all the rest.
async fn unless_no_shell(session: &SshSession, error: bioxen_vm_core::Error) -> Error {
    match session.shell_says(SHELL, SHELL_LIMIT).await {
        Ok(said) if said.trim() != SHELL_ANSWER => Error::NoShell {
            user: session.target().user.clone(),
            said: said.split_whitespace().collect::<Vec<_>>().join(" "),
        },
        _ => Error::Guest(Box::new(error)),
    }
}

/// The interpreter's path, its language version, and the home directory.
fn parse(outcome: &Outcome) -> Option<[String; 3]> {
    let text = outcome.stdout_text();
    let mut lines = text.lines();
    let path = lines.next().filter(|path| path.starts_with('/'))?;
    let version = lines.next()?.strip_prefix("Lua ")?;
    let home = lines.next().filter(|home| home.starts_with('/'))?;
    let home = home.trim_end_matches('/');
    outcome
        .success()
        .then(|| [path, version, home].map(str::to_owned))
}

fn said(outcome: &Outcome) -> String {
    let text = format!("{} {}", outcome.stdout_text(), outcome.stderr_text());
    let text: Vec<_> = text.split_whitespace().collect();
    if text.is_empty() {
        outcome.status.to_string()
    } else {
        text.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: i32, stdout: &'static str) -> Outcome {
        let mut outcome = Outcome::new(Status::Exited(code));
        outcome.stdout = stdout.into();
        outcome
    }

    #[test]
    fn only_a_lua_with_a_home_will_do() {
        assert_eq!(
            parse(&outcome(0, "/bin/lua\nLua 5.4\n/home/bio/\n")),
            Some(["/bin/lua", "5.4", "/home/bio"].map(String::from))
        );
        for (code, stdout) in [
            (0, "/bin/lua\nLua 5.4\n\n"),
            (0, "/bin/python\nPython 3\n/root\n"),
            (0, "lua\nLua 5.4\n/root\n"),
            (1, "/bin/lua\nLua 5.4\n/root\n"),
            (127, ""),
        ] {
            assert_eq!(parse(&outcome(code, stdout)), None, "{stdout}");
        }
    }
}
