use std::path::PathBuf;
use std::time::Duration;

use bioxen_vm_core::{BackendConfig, ConfigProblem, Result, words};
use serde::{Deserialize, Serialize};

use crate::BasicBackend;

/// What a Lua state needs before it has run anything, and a little more.
const LEAST_MEMORY: u64 = 1 << 20;

/// The configuration of VMs of type `basic`.
///
/// ```
/// use bioxen_vm_basic::BasicConfig;
/// use std::time::Duration;
///
/// let config: BasicConfig = serde_json::from_str(
///     r#"{"memory": "256MB", "execution_timeout": "30s"}"#,
/// )?;
/// assert_eq!(config.memory, Some(256 << 20));
/// assert_eq!(config.execution_timeout, Some(Duration::from_secs(30)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BasicConfig {
    /// The Lua interpreter that programs run in: a path, or a name that is looked up in the
    /// standard directories, `lua5.4` or `luajit` for example. `None`, the default: the Lua 5.4
    /// that is built in.
    pub lua_executable: Option<String>,
    /// Whether programs run in threads of this very process, for **trusted programs only**: a defect
    /// of Lua's, or too deep a recursion of C, takes this process along; a program that is in a
    /// function of C when its time is up stops only when that returns; Lua computes at less than half
    /// of its speed. Walls stand around each thread where the kernel has them, `memory` limits each
    /// Lua state; processor time, the size of files and the start of other programs cannot be
    /// limited or allowed. `false` by default.
    pub in_process: bool,
    /// The program that runs the built-in Lua, or supervises `lua_executable`: `bioxen-lua-worker`,
    /// `bioxen`, or any program that calls [`worker::run_if_asked`](crate::worker::run_if_asked).
    /// `None`, the default: it is looked for, see the crate's documentation. Not used with
    /// `in_process`.
    pub worker: Option<PathBuf>,
    /// Where each VM gets its private directory. `None`, the default: the system's directory for
    /// temporary files.
    pub directory: Option<PathBuf>,
    /// The longest time that one execution may take, in words (`30s`) or in seconds. A script may
    /// ask for less. `None`, the default: as long as it likes.
    #[serde(with = "words::duration")]
    pub execution_timeout: Option<Duration>,
    /// The memory that a Lua program may use, in bytes or in words: `256MB`. `2GB` by default;
    /// `None` (`null`): as much as the machine has.
    #[serde(with = "words::size")]
    pub memory: Option<u64>,
    /// The processor time that one execution may use, in words or in seconds, rounded up to whole
    /// seconds. `None`, the default: as much as it gets in its time.
    #[serde(with = "words::duration")]
    pub cpu_time: Option<Duration>,
    /// The size that a program may give to one file, in bytes or in words. `1GB` by default; `None`
    /// (`null`), and with `in_process`: as large as the disk allows.
    #[serde(with = "words::size")]
    pub file_size: Option<u64>,
    /// What the files of the VM may take on disk together, packages included, in bytes or in words.
    /// A program that adds to more is ended ([`DiskLimit`](bioxen_vm_core::Status::DiskLimit)); in a VM
    /// that is full others may run and make room. It is looked at ten times a second, so that for a
    /// moment more may be written. Files that have no name any more, and those below `write`, do not count.
    /// `10GB` by default; `None` (`null`), and with `in_process`: as much as the disk has.
    #[serde(with = "words::size")]
    pub disk: Option<u64>,
    /// Folders and files that programs may read, besides what is in the directory of their VM.
    pub read: Vec<PathBuf>,
    /// Folders and files that programs may read and write, besides the directory of their VM.
    pub write: Vec<PathBuf>,
    /// Whether programs may start other programs (`os.execute`, `io.popen`), which may then read
    /// the programs and libraries of this machine. `false` by default.
    pub processes: bool,
    /// How many processes a program may have at once, with `processes`. One that has more is ended with
    /// all of them ([`ProcessLimit`](bioxen_vm_core::Status::ProcessLimit)). It is looked at ten times a
    /// second. Processes that double as fast as they can are held by the kernel, which lets a worker have
    /// so many processes and threads and 1,000 more: in a control group, where one can be made, which takes
    /// root; else among all those of this user, which does not hold for root. The wall `process count`
    /// tells. 256 by default; `None` (`null`): as many as the machine allows this user.
    pub max_processes: Option<usize>,
    /// Whether programs may use the network. `false` by default. The built-in Lua has no means to;
    /// C modules and programs that are started have.
    pub network: bool,
    /// What to do about the walls that the kernel of this machine does not have.
    pub walls: Walls,
    /// Whether each execution gets a process that has run nothing before. `false` by default: a
    /// process runs the next program of the same VM, in a fresh Lua state, if nothing of the last
    /// one can have stayed in it.
    pub fresh_process: bool,
    /// How many idle processes a VM keeps for the next programs. One is started with the VM, a
    /// second when programs follow closely on each other, others stay when they have run one. 4 by
    /// default; 0: a process is started for each program.
    pub idle_workers: usize,
}

/// What to do about the walls that the kernel of this machine does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Walls {
    /// Put up those that it has; [`LuaVm::isolation`](bioxen_vm_core::LuaVm::isolation) tells which.
    #[default]
    Available,
    /// Make no VM unless all of them stand.
    Required,
    /// Put up none: programs may do to files and network what this user may.
    Off,
}

impl Default for BasicConfig {
    fn default() -> Self {
        Self {
            lua_executable: None,
            in_process: false,
            worker: None,
            directory: None,
            execution_timeout: None,
            memory: Some(2 << 30),
            cpu_time: None,
            file_size: Some(1 << 30),
            disk: Some(10 << 30),
            read: Vec::new(),
            write: Vec::new(),
            processes: false,
            max_processes: Some(256),
            network: false,
            walls: Walls::Available,
            fresh_process: false,
            idle_workers: 4,
        }
    }
}

impl BasicConfig {
    /// Runs programs in this interpreter, in place of the built-in Lua.
    #[must_use]
    pub fn with_lua_executable(mut self, program: impl Into<String>) -> Self {
        self.lua_executable = Some(program.into());
        self
    }

    /// Runs programs in threads of this process, which they are trusted with, or not.
    #[must_use]
    pub fn with_in_process(mut self, trusted: bool) -> Self {
        self.in_process = trusted;
        self
    }

    /// Makes this program the worker of the VMs.
    #[must_use]
    pub fn with_worker(mut self, program: impl Into<PathBuf>) -> Self {
        self.worker = Some(program.into());
        self
    }

    /// Makes the private directories of the VMs in this one.
    #[must_use]
    pub fn with_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Limits the time of each execution.
    #[must_use]
    pub fn with_execution_timeout(mut self, timeout: Duration) -> Self {
        self.execution_timeout = Some(timeout);
        self
    }

    /// Limits the memory of each execution to this many bytes.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Limits the processor time of each execution.
    #[must_use]
    pub fn with_cpu_time(mut self, time: Duration) -> Self {
        self.cpu_time = Some(time);
        self
    }

    /// Limits the size of each file that programs write to this many bytes.
    #[must_use]
    pub fn with_file_size(mut self, bytes: u64) -> Self {
        self.file_size = Some(bytes);
        self
    }

    /// Limits what the files of the VM take on disk to this many bytes.
    #[must_use]
    pub fn with_disk(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// Lets programs read this folder or file too.
    #[must_use]
    pub fn with_read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Lets programs read and write this folder or file too.
    #[must_use]
    pub fn with_write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Lets programs start other programs, or not.
    #[must_use]
    pub fn with_processes(mut self, allowed: bool) -> Self {
        self.processes = allowed;
        self
    }

    /// Limits how many processes a program may have at once.
    #[must_use]
    pub fn with_max_processes(mut self, count: usize) -> Self {
        self.max_processes = Some(count);
        self
    }

    /// Lets programs use the network, or not.
    #[must_use]
    pub fn with_network(mut self, allowed: bool) -> Self {
        self.network = allowed;
        self
    }

    /// Says what to do about missing walls.
    #[must_use]
    pub fn with_walls(mut self, walls: Walls) -> Self {
        self.walls = walls;
        self
    }

    /// Gives each execution a process that has run nothing before, or not.
    #[must_use]
    pub fn with_fresh_process(mut self, fresh: bool) -> Self {
        self.fresh_process = fresh;
        self
    }

    /// Keeps so many idle processes for the next programs of a VM.
    #[must_use]
    pub fn with_idle_workers(mut self, count: usize) -> Self {
        self.idle_workers = count;
        self
    }

    /// Checks what can be checked without looking at the machine.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`](bioxen_vm_core::ErrorKind::Config) and names all problems at once.
    pub fn validate(&self) -> Result<()> {
        let problems = self.contradictions();
        if problems.is_empty() {
            return Ok(());
        }
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Err(Self::wrong(&problems))
    }

    /// What is asked for that only a process of its own can give.
    fn beyond_a_thread(&self) -> Vec<ConfigProblem> {
        let asked = [
            ("lua_executable", self.lua_executable.is_some()),
            ("cpu_time", self.cpu_time.is_some()),
            ("processes", self.processes),
            ("fresh_process", self.fresh_process),
        ];
        let asked = asked.iter().filter(|(_, asked)| *asked);
        let mut problems: Vec<_> = asked
            .map(|(key, _)| {
                let message = format!(
                    "{key} needs processes of its own, which in_process rules out; leave one out"
                );
                ConfigProblem::new(*key, message)
            })
            .collect();
        if cfg!(panic = "abort") {
            problems.push(ConfigProblem::new(
                "in_process",
                "in_process needs panics that unwind, and this program is built with panic = \
                 \"abort\"; leave it out",
            ));
        }
        problems
    }
}

impl BackendConfig for BasicConfig {
    const VM_TYPE: &'static str = "basic";
    type Backend = BasicBackend;

    fn build(self) -> Result<BasicBackend> {
        BasicBackend::new(self)
    }

    fn contradictions(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut tell = |key: &str, message: String| problems.push(ConfigProblem::new(key, message));
        if let Some(program) = &self.lua_executable
            && (program.trim().is_empty() || program.contains('\0'))
        {
            tell(
                "lua_executable",
                format!(
                    "lua_executable {program:?} is no program; give a name or a path, lua5.4 for \
                     example"
                ),
            );
        }
        for (key, time) in [
            ("execution_timeout", self.execution_timeout),
            ("cpu_time", self.cpu_time),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                tell(
                    key,
                    format!("{key} is 0, which no program can meet; leave it out for no limit"),
                );
            }
        }
        for (key, paths) in [("read", &self.read), ("write", &self.write)] {
            for path in paths.iter().filter(|path| !path.is_absolute()) {
                tell(
                    key,
                    format!("{key} names {path:?}, which is no absolute path; begin it with /"),
                );
            }
        }
        if let Some(memory) = self.memory.filter(|memory| *memory < LEAST_MEMORY) {
            tell(
                "memory",
                format!("memory is {memory} bytes, which is too little for Lua; give at least 1MB"),
            );
        }
        if self.processes && self.max_processes == Some(0) {
            tell(
                "max_processes",
                "max_processes is 0, which no program can meet; leave processes = false to let none start"
                    .to_owned(),
            );
        }
        if self.in_process {
            problems.extend(self.beyond_a_thread());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use bioxen_vm_core::ErrorKind;

    use super::*;

    #[test]
    fn all_problems_are_named_at_once() {
        let config: BasicConfig = serde_json::from_str(
            r#"{"lua_executable": "", "execution_timeout": "0s", "memory": 12}"#,
        )
        .unwrap();
        let error = config.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        for part in ["lua_executable", "execution_timeout", "1MB"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn the_default_is_valid_and_survives_a_round_trip() {
        let config = BasicConfig::default().with_execution_timeout(Duration::from_millis(1500));
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<BasicConfig>(&text).unwrap(), config);
        assert_eq!(
            serde_json::from_str::<BasicConfig>("{}").unwrap(),
            BasicConfig::default()
        );
    }

    #[test]
    fn every_key_has_its_row_with_its_default() {
        let page = include_str!("../../docs/basic-configuration.md");
        let rows = page.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let (key, _kind, default) = (cells.next()?, cells.next()?, cells.next()?);
            let default = serde_json::from_str(default.trim_matches('`')).unwrap();
            Some((key.trim_end_matches('`').to_owned(), default))
        });
        let documented: serde_json::Map<_, _> = rows.collect();
        let all = serde_json::to_value(BasicConfig::default()).unwrap();
        let keys = |map: &serde_json::Map<String, serde_json::Value>| -> Vec<String> {
            map.keys().cloned().collect()
        };
        assert_eq!(keys(&documented), keys(all.as_object().unwrap()));
        let config = BasicConfig::from_value(documented.into()).unwrap();
        assert_eq!(config, BasicConfig::default());
    }

    #[test]
    fn a_typing_error_in_a_limit_is_refused() {
        for (text, part) in [
            (r#"{"memry": "1GB"}"#, "memory"),
            (r#"{"memory": "lots"}"#, "256MB"),
            (r#"{"memory": -1}"#, "a size must be"),
            (r#"{"execution_timeout": true}"#, "a duration must be"),
            (r#"{"execution_timeout": "30 parsecs"}"#, "30s"),
        ] {
            let error = serde_json::from_str::<BasicConfig>(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
