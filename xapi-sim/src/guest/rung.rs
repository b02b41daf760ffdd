//! The ways to run a guest, best first.

use std::fmt;

/// How well guests are kept apart from the machine and from each other.
///
/// On every rung the guests share the machine's network: each has an address of its own for its
/// sshd, and all can reach each other and whatever listens on the machine's loopback interface.
/// None limits processor time or memory. A guest is a place to run trusted programs as if on
/// another machine, not a defence against hostile ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rung {
    /// The guest has a root directory of its own, in which everything is writable.
    ///
    /// The software of the machine (`/usr`, `/etc`, `/opt`) shows through from below; what the
    /// guest changes of it lies on its own disk. Nothing else of the machine is there: no home
    /// directories, no data, no processes, no devices but the harmless ones. `root` in the guest
    /// has the capabilities of root in a usual container. There is no user namespace, so that
    /// root is the machine's root to the kernel, less those capabilities.
    ///
    /// Needs root with `CAP_SYS_ADMIN`.
    Overlay,

    /// The guest has a root directory of its own; the machine's software in it is read-only.
    ///
    /// Home, `/tmp`, `/run` and `/var` are private and writable, processes of the machine are out
    /// of sight, and the only user is one without privileges. Made by bubblewrap.
    ///
    /// Needs user namespaces, and no privileges.
    Bubblewrap,

    /// The guest is an sshd on an address of its own, with a private home directory.
    ///
    /// A login has the rights of the user who runs the simulator, sees all files and processes of
    /// the machine and can change what that user can. At the end of the guest, all processes that
    /// descend from its sshd end, and so do those that left that line but kept their environment;
    /// one that has done neither, or runs as another user, is not found. Without root, a login with
    /// a terminal works only where the machine gives terminals to the group `tty`, as Debian does.
    ///
    /// Needs nothing.
    Plain,
}

impl Rung {
    /// All rungs, best first.
    pub const ALL: [Self; 3] = [Self::Overlay, Self::Bubblewrap, Self::Plain];

    /// Returns the name in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Bubblewrap => "bubblewrap",
            Self::Plain => "plain",
        }
    }

    /// Returns one line that says what the rung isolates and what it does not.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Overlay => {
                "own writable root file system, own processes and users; shared network and kernel"
            }
            Self::Bubblewrap => {
                "own home, /tmp and /var over the machine's read-only software, own processes; \
                 shared network and kernel"
            }
            Self::Plain => {
                "own home directory only: files, processes and network of the machine are in reach"
            }
        }
    }

    /// Whether the guest's processes live in namespaces that end with their first process.
    pub(super) fn is_namespaced(self) -> bool {
        !matches!(self, Self::Plain)
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
