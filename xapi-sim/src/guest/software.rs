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
        let machine = Path::new("/");
        let root = rootfs.unwrap_or(machine);
        let mut missing = Missing::default();
        let sshd = missing.find(root, "sshd", "openssh-server");
        missing.find(root, "lua5.4", "lua5.4");
        missing.find(root, "luarocks", "luarocks");
        let ssh = missing.find(machine, "ssh", "openssh-client");
        let ssh_keygen = missing.find(machine, "ssh-keygen", "openssh-client");
        missing.none()?;
        Ok(Self {
            sshd: inside(root, &sshd),
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
        let mut missing = Missing::default();
        let path = missing.find(Path::new("/"), name, package);
        missing.none().map(|()| path)
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

/// Returns the path as seen from inside `root`.
fn inside(root: &Path, path: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(root).unwrap_or(path))
}

#[derive(Debug, Default)]
struct Missing {
    programs: Vec<&'static str>,
    packages: Vec<&'static str>,
}

impl Missing {
    fn find(&mut self, root: &Path, program: &'static str, package: &'static str) -> PathBuf {
        let found = PROGRAM_DIRS
            .iter()
            .map(|directory| root.join(directory).join(program))
            .find(|path| fs::symlink_metadata(path).is_ok());
        found.unwrap_or_else(|| {
            self.programs.push(program);
            if !self.packages.contains(&package) {
                self.packages.push(package);
            }
            PathBuf::new()
        })
    }

    fn none(self) -> Result<(), GuestError> {
        if self.programs.is_empty() {
            return Ok(());
        }
        Err(GuestError::MissingPrograms {
            programs: self.programs,
            packages: self.packages,
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
        assert!(message.contains("sshd, luarocks"), "{message}");
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
            inside(root, &root.join("usr/sbin/sshd")),
            Path::new("/usr/sbin/sshd")
        );
        assert_eq!(
            inside(Path::new("/"), Path::new("/usr/sbin/sshd")),
            Path::new("/usr/sbin/sshd")
        );
    }
}
