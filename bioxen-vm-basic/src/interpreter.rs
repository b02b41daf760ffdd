//! Which programs run Lua, and what they are told.

use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use bioxen_vm_core::local::{DEFAULT_PATH, LocalRunner};
use bioxen_vm_core::{Command, Error, ErrorKind, Result, Runner, SessionOptions};

use crate::config::Walls;
use crate::orders::{Engine, Finding, Limits, Orders};
use crate::place::Place;
use crate::walls::{OWN_PROCESS, Plan, Start};
use crate::{BasicConfig, engine, group, thread, worker};

/// How long a program may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// What runs Lua: a worker, and in it the built-in Lua or an interpreter of this machine.
#[derive(Debug)]
pub(crate) struct Interpreter {
    /// The program of the workers; `None` where they are threads of this process.
    worker: Option<String>,
    foreign: Option<Foreign>,
    walls: Vec<Finding>,
    /// Where workers make control groups, if they are to.
    groups: Option<PathBuf>,
}

#[derive(Debug)]
struct Foreign {
    program: String,
    version: String,
}

impl Interpreter {
    /// Finds the programs that a configuration asks for, makes sure that they are what they must
    /// be, and sees which walls stand around them.
    pub(crate) async fn find(config: &BasicConfig) -> Result<Self> {
        let mut found = Self {
            foreign: match &config.lua_executable {
                Some(program) => Some(foreign(program).await?),
                None => None,
            },
            worker: match config.in_process {
                true => None,
                false => Some(find_worker(config.worker.as_deref()).await?),
            },
            walls: Vec::new(),
            groups: None,
        };
        let mut orders = found.orders(config, None);
        let base = match orders.limits.processes {
            Some(_) => group::base().ok(),
            None => None,
        };
        orders.limits.group = base.as_deref().map(group::trial);
        found.walls = match &found.worker {
            Some(worker) => walls_of(worker, &orders).await?,
            None => walls_here(orders.clone()).await?,
        };
        orders.limits.group.as_deref().map(group::remove);
        found.groups = base.filter(|_| found.walls.iter().any(group::is_entered));
        let own = match &found.worker {
            Some(_) => (true, "each program is in a process of its VM"),
            None => (false, "programs are threads of this process (in_process)"),
        };
        found.walls.insert(
            0,
            Finding {
                name: OWN_PROCESS.to_owned(),
                stands: own.0,
                detail: own.1.to_owned(),
                opened: !own.0,
            },
        );
        if config.walls == Walls::Required {
            found.insist()?;
        }
        Ok(found)
    }

    /// The version of its Lua, `5.4`.
    pub(crate) fn lua_version(&self) -> &str {
        self.foreign
            .as_ref()
            .map_or(engine::VERSION, |foreign| &foreign.version)
    }

    /// Whether its Lua is the built-in one.
    pub(crate) fn is_built_in(&self) -> bool {
        self.foreign.is_none()
    }

    /// The program that Lua is in.
    pub(crate) fn program(&self) -> &str {
        match (&self.foreign, &self.worker) {
            (Some(foreign), _) => &foreign.program,
            (None, Some(worker)) => worker,
            (None, None) => "this process",
        }
    }

    /// The program that runs workers; `None` where they are threads of this process.
    pub(crate) fn worker(&self) -> Option<&str> {
        self.worker.as_deref()
    }

    /// The walls, also those that do not stand.
    pub(crate) fn walls(&self) -> &[Finding] {
        &self.walls
    }

    /// Where workers make control groups; `None` where they make none.
    pub(crate) fn groups(&self) -> Option<&Path> {
        self.groups.as_deref()
    }

    /// Whether a worker cannot have started another process.
    pub(crate) fn is_childless(&self, config: &BasicConfig) -> bool {
        self.foreign.is_none()
            && !config.processes
            && self
                .walls
                .iter()
                .any(|wall| wall.name == "processes" && wall.stands)
    }

    /// What the workers of a place are told.
    pub(crate) fn orders(&self, config: &BasicConfig, place: Option<&Place>) -> Orders {
        let program = self.foreign.as_ref().map(|foreign| &foreign.program);
        let mut write = config.write.clone();
        let folders: Vec<_> = place.into_iter().flat_map(Place::writable).collect();
        write.extend(folders.iter().cloned());
        Orders {
            lock: place.map(Place::lock).unwrap_or_default(),
            engine: match program {
                Some(program) => Engine::Program(program.clone()),
                None => Engine::BuiltIn,
            },
            limits: Limits {
                memory: config.memory,
                cpu_time: config
                    .cpu_time
                    .map(|time| time.as_secs() + u64::from(time.subsec_nanos() > 0)),
                file_size: config.file_size,
                processes: config.max_processes.filter(|_| config.processes),
                group: place.and_then(Place::group).map(Path::to_owned),
                disk: config.disk,
            },
            folders,
            plan: Plan {
                walls: config.walls != Walls::Off,
                read: config.read.clone(),
                write,
                start: match program {
                    _ if config.processes => Start::Anything,
                    Some(program) => Start::Only(program.into()),
                    None => Start::Nothing,
                },
                network: config.network,
            },
            fresh: config.fresh_process,
        }
    }

    /// Has a worker run a command, without walls and limits, and end with it all that it started;
    /// where there is no program for that, all that stays in its process group.
    /// The program must be a path or be in the `PATH` of the command.
    pub(crate) fn supervised(&self, mut command: Command, place: &Place) -> Result<Command> {
        let Some(worker) = &self.worker else {
            return Ok(command);
        };
        let orders = Orders {
            lock: place.lock(),
            engine: Engine::Program(command.program.clone()),
            limits: Limits::default(),
            plan: Plan::default(),
            folders: Vec::new(),
            fresh: false,
        };
        let program = std::mem::replace(&mut command.program, worker.clone());
        let args = std::mem::take(&mut command.args);
        Ok(command
            .args([worker::ARGUMENT, &orders.to_argument()?, &program])
            .args(args))
    }

    /// The command that keeps a session in a place, in a process of this program.
    pub(crate) fn session(&self, worker: &str, orders: &str, options: &SessionOptions) -> Command {
        let mode = match (&self.foreign, options.interruptible) {
            (None, true) => worker::INTERRUPTIBLE,
            _ => worker::SESSION,
        };
        let mut command = Command::new(worker).args([worker::ARGUMENT, mode, orders]);
        command.env.clone_from(&options.env);
        command.cwd.clone_from(&options.cwd);
        match &self.foreign {
            Some(foreign) => command.arg(&foreign.program),
            None => command,
        }
    }

    fn insist(&self) -> Result<()> {
        let missing: Vec<_> = self
            .walls
            .iter()
            .filter(|wall| !wall.stands && !wall.opened)
            .map(|wall| format!("{}: {}", wall.name, wall.detail))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "not all walls stand ({}), and walls is \"required\"; use a kernel that has them, or \
                 set walls to \"available\"",
                missing.join("; ")
            ),
        ))
    }
}

/// Finds out which walls stand around a thread of this process.
async fn walls_here(orders: Orders) -> Result<Vec<Finding>> {
    let found = tokio::task::spawn_blocking(move || thread::walls(orders));
    let found = found.await.unwrap_or_else(|error| Err(error.into()));
    found.map_err(|error| unclear("in a thread").with_source(error))
}

fn unclear(detail: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!(
            "the kernel does not put up the walls of a VM ({detail}); set walls to \"off\" to go \
             without"
        ),
    )
}

/// Asks a worker which walls stand around it.
async fn walls_of(worker: &str, orders: &Orders) -> Result<Vec<Finding>> {
    let question = Command::new(worker)
        .args([worker::ARGUMENT, worker::WALLS, &orders.to_argument()?])
        .with_timeout(PATIENCE);
    let outcome = LocalRunner::new().run(question).await?;
    if !outcome.success() {
        return Err(unclear(outcome.stderr_text().trim()));
    }
    serde_json::from_slice(&outcome.stdout)
        .map_err(|error| unclear("its answer is no answer").with_source(error))
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

/// Where a worker may be, the best first: this program, if it can be one; next to it, one directory
/// up, where tests and examples of a Cargo workspace find it, and in the standard directories.
fn candidates() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok();
    let near = own.iter().flat_map(|own| own.ancestors().skip(1).take(2));
    let near = near.map(Path::to_owned);
    let standard = DEFAULT_PATH.split(':').map(PathBuf::from);
    let directories: Vec<PathBuf> = near.chain(standard).collect();
    let others = ["bioxen-lua-worker", "bioxen"].iter().flat_map(|name| {
        directories
            .iter()
            .map(move |directory| directory.join(name))
    });
    let own = own.iter().filter(|_| worker::can_be_asked()).cloned();
    own.chain(others).collect()
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
            "no program to run Lua in: begin main with bioxen_vm_basic::worker::run_if_asked(), or \
             set worker to the path of bioxen-lua-worker or bioxen, which is not in {}{refused}",
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
        for part in [
            "/usr/local/bin",
            "set worker to",
            "/usr/bin/bioxen",
            "run_if_asked()",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(text.matches("/usr/local/sbin").count(), 1, "{text}");
    }
}
