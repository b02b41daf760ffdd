//! Control groups of the kernel, in which it counts the processes of a worker.
//!
//! The limit on the processes of a user does not hold for root, and counting them from outside is
//! slower than a program that doubles them. A control group holds for everybody, but making one
//! takes the rights of root, or of somebody whom root has given a part of the tree of groups.
//!
//! Each worker makes a group and goes into it, and first removes those of its VM that are not in use
//! any more; those that are left go with the VM. The kernel removes none that is in use: so what
//! killed owners have left can be told from what others use.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bioxen_vm_core::lua::Mark;
use nix::unistd::getuid;

use crate::orders::Finding;
use crate::place::PREFIX;
use crate::walls::COUNT;

/// How many processes more a group may have each time that one is to be ended from within.
const MORE: u64 = 32;

/// What holds the count of processes where a worker could go into a group.
const ENTERED: &str = "control group";

/// Where this process may make groups.
///
/// # Errors
/// Fails when the kernel counts no processes here, and tells why.
pub(crate) fn base() -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    find_base(&groups, &mounts).ok_or_else(|| {
        io::Error::new(
            ErrorKind::Unsupported,
            "no control group here counts processes",
        )
    })
}

/// Makes a group for this process, goes into it with all that this process will start, and lets it
/// have so many processes and threads. Its name is this one with a number.
pub(crate) fn enter(stem: &Path, limit: u64) -> io::Result<()> {
    remove(stem);
    let group = own(stem);
    // Others that remove what is not in use may come between.
    for _ in 0..16 {
        match fs::create_dir(&group) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let entered = fs::write(group.join("pids.max"), limit.to_string())
            .and_then(|()| fs::write(group.join("cgroup.procs"), "0"));
        match entered {
            Err(error) if is_gone(&error) => {}
            entered => return entered,
        }
    }
    Err(io::Error::new(
        ErrorKind::ResourceBusy,
        "control groups vanish as soon as they are made",
    ))
}

/// The group of this process.
fn own(stem: &Path) -> PathBuf {
    stem.with_extension(std::process::id().to_string())
}

/// Whether a group is gone, or is about to.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// Lets the group of this process have some more, so that the one that ends it can start.
pub(crate) fn make_room(stem: &Path) {
    let path = own(stem).join("pids.max");
    let limit = fs::read_to_string(&path).ok();
    if let Some(limit) = limit.and_then(|limit| limit.trim().parse::<u64>().ok()) {
        // Without it, it is tried again.
        let _ = fs::write(path, limit.saturating_add(MORE).to_string());
    }
}

/// The name of a group in which a worker tries whether it can.
pub(crate) fn trial(base: &Path) -> PathBuf {
    base.join(format!("{PREFIX}trial-{}", Mark::new().as_str()))
}

/// What became of the count of processes.
pub(crate) fn finding(entered: io::Result<()>) -> Finding {
    let (stands, detail) = match entered {
        Ok(()) => (true, ENTERED.to_owned()),
        Err(_) if !getuid().is_root() => (true, "the count of this user".to_owned()),
        Err(error) => (
            false,
            format!(
                "the kernel does not count those of root, and there is no control group: {error}"
            ),
        ),
    };
    Finding {
        name: COUNT.to_owned(),
        stands,
        detail,
        opened: false,
    }
}

/// Whether a worker could go into a group.
pub(crate) fn is_entered(finding: &Finding) -> bool {
    finding.name == COUNT && finding.detail == ENTERED
}

/// Removes the groups of a name that nobody is in. Tells whether none is left.
pub(crate) fn remove(stem: &Path) -> bool {
    let (Some(base), Some(name)) = (stem.parent(), stem.file_name()) else {
        return true;
    };
    remove_those(base, &name.to_string_lossy())
}

/// Removes the groups that nobody is in, which ended owners have left.
pub(crate) fn sweep(base: &Path) {
    remove_those(base, PREFIX);
}

/// Removes the groups whose names begin so and that nobody is in. Tells whether none is left.
fn remove_those(base: &Path, prefix: &str) -> bool {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| fs::remove_dir(entry.path()))
        .filter(|removed| removed.as_ref().is_err_and(|error| !is_gone(error)))
        .count()
        == 0
}

/// The folder of the group that this process is in, or the nearest above it whose groups count
/// processes.
fn find_base(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(number, controllers).then(|| path.to_owned())
        })
    };
    // The first version has a tree for each controller, and all groups in it count.
    let counts = |_: &str, controllers: &str| controllers.split(',').any(|name| name == "pids");
    if let Some(path) = own(&counts) {
        let is_counting = |options: &str| options.split(',').any(|option| option == "pids");
        return place(&path, mounts, "cgroup", &is_counting).map(|(_, own)| own);
    }
    // The second has one tree, in which a group says what those in it count.
    let path = own(&|number, controllers| number == "0" && controllers.is_empty())?;
    let (top, own) = place(&path, mounts, "cgroup2", &|_| true)?;
    own.ancestors()
        .take_while(|folder| folder.starts_with(&top))
        .find(|folder| {
            let given = fs::read_to_string(folder.join("cgroup.subtree_control"));
            given.is_ok_and(|given| given.split_whitespace().any(|name| name == "pids"))
        })
        .map(Path::to_owned)
}

/// Where a tree of groups is mounted, and where a group of it is; of the file systems of a kind one
/// whose options are these.
fn place(
    group: &str,
    mounts: &str,
    kind: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, top) = (mount.next()?, PathBuf::from(mount.next()?));
        let mut system = system.split(' ');
        let (found, options) = (system.next()?, system.nth(1)?);
        if found != kind || !wanted(options) {
            return None;
        }
        let below = Path::new(group).strip_prefix(root).ok()?;
        let own = match below.as_os_str().is_empty() {
            true => top.clone(),
            false => top.join(below),
        };
        Some((top, own))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_first_version_the_own_group_of_the_counting_tree_is_found() {
        let groups = "9:name=systemd:/\n8:pids:/job/7\n4:memory:/other\n0::/\n";
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            36 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            39 31 0:36 /job /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n";
        let base = find_base(groups, mounts).unwrap();
        assert_eq!(base, Path::new("/sys/fs/cgroup/pids/7"));
        // One that is outside of what is mounted here cannot be reached.
        assert_eq!(find_base("8:pids:/elsewhere\n", mounts), None);
    }

    #[test]
    fn in_the_second_version_the_nearest_group_that_counts_is_found() {
        let top = tempfile::tempdir().unwrap();
        let user = top.path().join("user.slice");
        let own = user.join("session.scope");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cgroup.subtree_control"), "\n").unwrap();
        fs::write(user.join("cgroup.subtree_control"), "memory pids\n").unwrap();
        let mounts = format!(
            "35 24 0:30 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            top.path().display()
        );
        let groups = "0::/user.slice/session.scope\n";
        assert_eq!(find_base(groups, &mounts), Some(user.clone()));
        fs::write(user.join("cgroup.subtree_control"), "memory\n").unwrap();
        assert_eq!(find_base(groups, &mounts), None);
    }
}
