//! What guests take from the machine: its installed software.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::GuestError;

/// The directories in which programs are looked for, best known first.
const PROGRAM_DIRS: [&str; 6] = [
    "usr/sbin",
    "usr/bin",
    "usr/local/sbin",
    "usr/local/bin",
    "sbin",
    "bin",
];

/// The search path of the programs that run a guest.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin:/bin";

/// The directories of a root file system that hold software or describe it.
///
/// A list of what guests see, not of what is kept from them: whatever else the machine has,
/// its data above all, is none of theirs.
const LAYERS: [&str; 11] = [
    "usr",
    "etc",
    "opt",
    "var/lib/dpkg",
    "var/lib/apt",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
];

/// Directories inside the layers whose contents are the machine's secrets.
const SECRETS: [&str; 1] = ["etc/ssl/private"];

/// A root file system with the programs that every guest runs.
#[derive(Debug)]
pub(super) struct Software {
    root: PathBuf,
    sshd: PathBuf,
    pub(super) ssh: PathBuf,
    pub(super) ssh_keygen: PathBuf,
}

impl Software {
    /// Finds the programs in `rootfs`, by default the machine's own root.
    pub(super) fn find(rootfs: Option<&Path>) -> Result<Self, GuestError> {
        let root = rootfs.unwrap_or(Path::new("/"));
        let mut inside = Missing::from(root);
        let sshd = inside.find("sshd", "openssh-server");
        inside.find("lua5.4", "lua5.4");
        inside.find("luarocks", "luarocks");
        let mut machine = Missing::from(Path::new("/"));
        let ssh = machine.find("ssh", "openssh-client");
        let ssh_keygen = machine.find("ssh-keygen", "openssh-client");
        if rootfs.is_none() {
            inside.join(machine).none()?;
        } else {
            inside.none()?;
            machine.none()?;
        }
        Ok(Self {
            sshd: as_seen_inside(root, &sshd),
            root: root.to_owned(),
            ssh,
            ssh_keygen,
        })
    }

    /// Returns the path of a program of the machine that only some rungs need.
    pub(super) fn program(
        &self,
        name: &'static str,
        package: &'static str,
    ) -> Result<PathBuf, GuestError> {
        let mut missing = Missing::from(Path::new("/"));
        let path = missing.find(name, package);
        missing.none().map(|()| path)
    }

    /// Whether its sshd asks PAM who may come in, as that of a distribution does.
    pub(super) fn has_pam(&self) -> bool {
        self.root.join("etc/pam.d/sshd").is_file()
    }

    /// The directory whose software it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it is the machine's own.
    pub(super) fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The path of sshd inside a guest.
    pub(super) fn sshd(&self) -> &Path {
        &self.sshd
    }

    /// The layers that exist, relative to the root.
    pub(super) fn layers(&self) -> impl Iterator<Item = &'static str> {
        LAYERS.into_iter().filter(|layer| {
            fs::symlink_metadata(self.root.join(layer)).is_ok_and(|metadata| metadata.is_dir())
        })
    }

    /// The links at the top, such as `/bin` to `usr/bin`, with their targets.
    pub(super) fn links(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        LAYERS
            .into_iter()
            .filter_map(|layer| Some((layer, fs::read_link(self.root.join(layer)).ok()?)))
    }

    /// The directories to be hidden from guests, relative to the root.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &'static str> {
        SECRETS
            .into_iter()
            .filter(|path| self.root.join(path).is_dir())
    }

    /// Reads a file of the root, or nothing where there is none.
    pub(super) fn read(&self, path: &str) -> Result<String, GuestError> {
        let path = self.root.join(path);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other.map_err(GuestError::files("read", &path)),
        }
    }
}

/// Returns the path that a path below `root` has for whoever lives in there.
fn as_seen_inside(root: &Path, path: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(root).unwrap_or(path))
}

/// The programs that were looked for in vain.
#[derive(Debug)]
struct Missing {
    root: PathBuf,
    programs: Vec<&'static str>,
    packages: Vec<&'static str>,
}

impl Missing {
    fn from(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            programs: Vec::new(),
            packages: Vec::new(),
        }
    }

    fn find(&mut self, program: &'static str, package: &'static str) -> PathBuf {
        let found = PROGRAM_DIRS
            .iter()
            .map(|directory| self.root.join(directory).join(program))
            .find(|path| fs::symlink_metadata(path).is_ok());
        found.unwrap_or_else(|| {
            self.programs.push(program);
            if !self.packages.contains(&package) {
                self.packages.push(package);
            }
            PathBuf::new()
        })
    }

    fn join(mut self, other: Self) -> Self {
        self.programs.extend(other.programs);
        self.packages.extend(other.packages);
        self
    }

    fn none(self) -> Result<(), GuestError> {
        if self.programs.is_empty() {
            return Ok(());
        }
        let Self {
            root,
            programs,
            packages,
        } = self;
        Err(GuestError::MissingPrograms {
            programs,
            packages,
            root,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_the_command_that_installs_them() {
        let rootfs = tempfile::tempdir().unwrap();
        let bin = rootfs.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("lua5.4"), "").unwrap();
        let message = Software::find(Some(rootfs.path())).unwrap_err().to_string();
        let place = rootfs.path().display();
        assert!(
            message.contains(&format!("sshd and luarocks, which {place} does not")),
            "{message}"
        );
        assert!(
            message.contains("apt-get install --yes openssh-server luarocks"),
            "{message}"
        );
        assert!(!message.contains("lua5.4"), "{message}");
    }

    #[test]
    fn the_path_of_sshd_is_the_one_inside_the_guest() {
        let root = Path::new("/srv/rootfs");
        assert_eq!(
            as_seen_inside(root, &root.join("usr/sbin/sshd")),
            Path::new("/usr/sbin/sshd")
        );
        assert_eq!(
            as_seen_inside(Path::new("/"), Path::new("/usr/sbin/sshd")),
            Path::new("/usr/sbin/sshd")
        );
    }
}
