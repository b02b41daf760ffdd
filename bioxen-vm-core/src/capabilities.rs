use serde::Serialize;

/// What a VM can do beyond running a program, so that callers and tests can ask instead of trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one independent ability"
)]
pub struct Capabilities {
    /// Output as it comes ([`execute_streaming`](crate::LuaVm::execute_streaming)), and input from
    /// a stream.
    pub streaming: bool,
    /// Returned values arrive as data.
    pub returned_values: bool,
    /// [`open_session`](crate::LuaVm::open_session).
    pub sessions: bool,
    /// A running chunk of a session can be interrupted, if the session was opened
    /// [so](crate::SessionOptions::interruptible).
    pub interrupts: bool,
    /// Each program has a process of its own, which ends with all that it started: exit codes,
    /// signals, environment and working directory are real ones.
    pub processes: bool,
    /// Programs may start other programs (`os.execute`, `io.popen`).
    pub commands: bool,
    /// Programs may open files.
    pub files: bool,
    /// The configuration key `memory` limits the memory of a program.
    pub memory_limit: bool,
    /// [`package_site`](crate::LuaVm::package_site).
    pub packages: bool,
    /// [`pause`](crate::LuaVm::pause) and [`unpause`](crate::LuaVm::unpause).
    pub pause: bool,
    /// [`suspend`](crate::LuaVm::suspend) and [`resume`](crate::LuaVm::resume).
    pub suspend: bool,
    /// [`snapshot`](crate::LuaVm::snapshot), [`revert`](crate::LuaVm::revert) and their like.
    pub snapshots: bool,
    /// [`clone_vm`](crate::LuaVm::clone_vm).
    pub clones: bool,
    /// [`migrate`](crate::LuaVm::migrate).
    pub migrate: bool,
    /// [`keep`](crate::LuaVm::keep), and [`adopt`](crate::Backend::adopt) of its backend.
    pub keep: bool,
}

/// What keeps the programs of a VM away from everything else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Isolation {
    /// Each wall that the VM's type knows, those that do not stand here included.
    pub walls: Vec<Wall>,
}

/// One of the things that keep programs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Wall {
    /// Its name: `process`, `network`, `files`.
    pub name: &'static str,
    /// Whether it stands.
    pub stands: bool,
    /// What it is made of, or why it does not stand.
    pub detail: String,
}

impl Isolation {
    /// Adds a wall.
    #[must_use]
    pub fn with(mut self, name: &'static str, stands: bool, detail: impl Into<String>) -> Self {
        self.walls.push(Wall {
            name,
            stands,
            detail: detail.into(),
        });
        self
    }

    /// The wall of this name.
    #[must_use]
    pub fn wall(&self, name: &str) -> Option<&Wall> {
        self.walls.iter().find(|wall| wall.name == name)
    }
}
