//! Which program runs Lua, and the command that it runs a script by.

use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use bioxen_vm_core::local::{DEFAULT_PATH, LocalRunner};
use bioxen_vm_core::{Command, Error, ErrorKind, Result, Runner, Script, lua};

use crate::place::Place;
use crate::{BasicConfig, engine, worker};

/// How long a program may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// What runs Lua: a worker, and in it the built-in Lua or an interpreter of this machine.
#[derive(Debug)]
pub(crate) struct Interpreter {
    worker: String,
    foreign: Option<Foreign>,
}

#[derive(Debug)]
struct Foreign {
    program: String,
    version: String,
}

impl Interpreter {
    /// Finds the programs that a configuration asks for, and makes sure that they are what they
    /// must be.
    pub(crate) async fn find(config: &BasicConfig) -> Result<Self> {
        Ok(Self {
            foreign: match &config.lua_executable {
                Some(program) => Some(foreign(program).await?),
                None => None,
            },
            worker: find_worker(config.worker.as_deref()).await?,
        })
    }

    /// The version of its Lua, `5.4`.
    pub(crate) fn lua_version(&self) -> &str {
        self.foreign
            .as_ref()
            .map_or(engine::VERSION, |foreign| &foreign.version)
    }

    /// The program that Lua is in.
    pub(crate) fn program(&self) -> &str {
        self.foreign
            .as_ref()
            .map_or(&self.worker, |foreign| &foreign.program)
    }

    /// The command that runs a script in a place.
    pub(crate) fn command(&self, script: &Script, place: &Place, memory: Option<u64>) -> Command {
        let mut command = lua::command(self.program(), script, None);
        if self.foreign.is_some() {
            return self.supervised(command, place, memory);
        }
        command.args = [worker::ARGUMENT, worker::LUA, &place.lock(), &words(memory)]
            .map(str::to_owned)
            .to_vec();
        command
    }

    /// Has a worker run a command, and end with it all that it started. The program must be a path
    /// or be in the `PATH` of the command.
    pub(crate) fn supervised(
        &self,
        mut command: Command,
        place: &Place,
        memory: Option<u64>,
    ) -> Command {
        let program = std::mem::replace(&mut command.program, self.worker.clone());
        let args = std::mem::take(&mut command.args);
        command
            .args([
                worker::ARGUMENT,
                worker::PROGRAM,
                &place.lock(),
                &words(memory),
                &program,
            ])
            .args(args)
    }
}

/// The limit on memory as an argument of a worker.
fn words(memory: Option<u64>) -> String {
    memory.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string())
}

async fn foreign(program: &str) -> Result<Foreign> {
    // Whatever directory and PATH a script has, it runs in this one program.
    let resolved = match program.contains('/') {
        true => absolute(program)
            .ok()
            .and_then(|path| path.to_str().map(str::to_owned)),
        false => find_program(program),
    };
    let program = resolved.unwrap_or_else(|| program.to_owned());
    let runner = LocalRunner::new();
    let question = Command::new(&program)
        .args(["-e", "io.write(_VERSION)"])
        .with_timeout(PATIENCE);
    let outcome = runner.run(question).await?;
    let answer = outcome.stdout_text();
    let version = answer
        .strip_prefix("Lua ")
        .filter(|version| matches!(*version, "5.1" | "5.2" | "5.3" | "5.4" | "5.5"))
        .filter(|_| outcome.success());
    let Some(version) = version else {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "{program:?} is no Lua interpreter of version 5.1 or later ({}); set \
                 lua_executable to one, lua5.4 for example",
                outcome.status
            ),
        ));
    };
    Ok(Foreign {
        version: version.to_owned(),
        program,
    })
}

async fn find_worker(configured: Option<&Path>) -> Result<String> {
    // Such a process was to be a worker, and looking for one would start it again, for ever.
    if worker::was_asked() {
        return Err(Error::new(
            ErrorKind::Config,
            "this program is set as its own worker, but its main does not begin with \
             bioxen_vm_basic::worker::run_if_asked()",
        ));
    }
    let candidates = match configured {
        Some(program) => vec![absolute(program).unwrap_or_else(|_| program.to_owned())],
        None => candidates(),
    };
    let mut refused = Vec::new();
    for path in &candidates {
        if let Some(program) = path.to_str().filter(|_| path.is_file()) {
            if is_worker(program).await {
                return Ok(program.to_owned());
            }
            refused.push(program);
        }
    }
    Err(match configured {
        Some(path) => not_a_worker(path, !refused.is_empty()),
        None => not_found(&candidates, &refused),
    })
}

/// Where a worker may be, the best first: next to this program, one directory up, where tests and
/// examples of a Cargo workspace find it, and in the standard directories.
fn candidates() -> Vec<PathBuf> {
    let near = std::env::current_exe().ok().into_iter().flat_map(|own| {
        own.ancestors()
            .skip(1)
            .take(2)
            .map(Path::to_owned)
            .collect::<Vec<_>>()
    });
    let standard = DEFAULT_PATH.split(':').map(PathBuf::from);
    let directories: Vec<PathBuf> = near.chain(standard).collect();
    ["bioxen-lua-worker", "bioxen"]
        .iter()
        .flat_map(|name| {
            directories
                .iter()
                .map(move |directory| directory.join(name))
        })
        .collect()
}

/// The path of a program in the standard directories.
fn find_program(name: &str) -> Option<String> {
    DEFAULT_PATH
        .split(':')
        .map(|directory| format!("{directory}/{name}"))
        .find(|path| Path::new(path).is_file())
}

async fn is_worker(program: &str) -> bool {
    let question = Command::new(program)
        .args([worker::ARGUMENT, worker::IDENTIFY])
        .with_timeout(PATIENCE)
        .with_max_output(1024);
    match LocalRunner::new().run(question).await {
        Ok(outcome) => outcome.success() && outcome.stdout == worker::IDENTITY,
        Err(error) => {
            tracing::debug!(program, %error, "no worker");
            false
        }
    }
}

fn not_a_worker(path: &Path, exists: bool) -> Error {
    let path = path.display();
    let version = env!("CARGO_PKG_VERSION");
    if exists {
        Error::new(
            ErrorKind::Config,
            format!(
                "the worker {path} does not run the built-in Lua of version {version}; give a \
                 bioxen-lua-worker of that version, or a program whose main begins with \
                 bioxen_vm_basic::worker::run_if_asked()"
            ),
        )
    } else {
        Error::new(
            ErrorKind::NotFound,
            format!("there is no worker {path}; give the path of bioxen-lua-worker"),
        )
    }
}

fn not_found(searched: &[PathBuf], refused: &[&str]) -> Error {
    let mut directories: Vec<_> = searched
        .iter()
        .filter_map(|path| path.parent())
        .map(|directory| directory.display().to_string())
        .collect();
    directories.truncate(directories.len() / 2);
    let refused = if refused.is_empty() {
        String::new()
    } else {
        format!(
            " (found, but not of version {}: {})",
            env!("CARGO_PKG_VERSION"),
            refused.join(", ")
        )
    };
    Error::new(
        ErrorKind::NotFound,
        format!(
            "no program to run Lua in: neither bioxen-lua-worker nor bioxen is in {}{refused}; set \
             worker to the path of one",
            directories.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_looked_for_near_this_program_first() {
        let own = std::env::current_exe().unwrap();
        let found = candidates();
        assert_eq!(found[0], own.with_file_name("bioxen-lua-worker"));
        assert_eq!(
            found[1],
            own.parent().unwrap().with_file_name("bioxen-lua-worker")
        );
        assert!(found.contains(&PathBuf::from("/usr/bin/bioxen")));
    }

    #[test]
    fn a_failed_search_tells_where_it_looked_and_what_to_do() {
        let searched = candidates();
        let text = not_found(&searched, &["/usr/bin/bioxen"]).to_string();
        for part in ["/usr/local/bin", "set worker to", "/usr/bin/bioxen"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(text.matches("/usr/local/sbin").count(), 1, "{text}");
    }
}
