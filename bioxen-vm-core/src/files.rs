//! Files and folders between this machine and the machine of a [`Runner`].
//!
//! A file travels as a stream of any size, is checked against its SHA-256 sum, and gets its name
//! only when it is whole; what broke off goes on where it stopped. It needs a POSIX shell on the
//! other machine and the usual programs (`cat`, `chmod`, `find`, `mkdir`, `mv`, `rm`, `sha256sum`,
//! `stat`, `tail`, `wc`), of busybox for example, and no server of its own.
//!
//! Names may hold any bytes. They travel as arguments, never as shell text.

mod local;
mod moved;
mod there;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;

use crate::{Error, ErrorKind, LuaVm, Result, Runner};
use local::{Found, Part};
use moved::{Counted, Counter};
use there::{Codes, encoded, hex_of};

pub use moved::Moved;
pub use tree::Synced;

/// A file up to this size is sent without asking first what an earlier transfer has left.
const SMALL: u64 = 1 << 20;

/// How often a transfer begins again because the file changed meanwhile.
const ATTEMPTS: usize = 3;

/// Files of another machine.
///
/// Relative paths start where commands of that machine start, for VMs the home directory. Symbolic
/// links are followed when they are named, except that a file that arrives replaces a link.
///
/// ```no_run
/// # async fn example(vm: &dyn bioxen_vm_core::LuaVm) -> bioxen_vm_core::Result<()> {
/// use bioxen_vm_core::files::Files;
///
/// let files = Files::of(vm).await?;
/// files.put("genome.fa".as_ref(), "genome.fa".as_ref()).await?;
/// files.get("result.tsv".as_ref(), ".".as_ref()).await?;
/// let synced = files.push("data".as_ref(), "data".as_ref(), true).await?;
/// println!("{} copied, {} as they were", synced.copied, synced.unchanged);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Files {
    runner: Arc<dyn Runner>,
    counter: Counter,
}

/// What a transfer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// The size of the file in bytes.
    pub bytes: u64,
    /// How many of them were there already, from a transfer that broke off.
    pub resumed: u64,
}

impl Files {
    /// The files that the commands of a runner see.
    #[must_use]
    pub fn new(runner: Arc<dyn Runner>) -> Self {
        let counter = Counter::default();
        Self { runner, counter }
    }

    /// How far the copies are, of these files and of their clones, all together.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Moved> {
        self.counter.subscribe()
    }

    /// The files of a VM, which must run.
    ///
    /// # Errors
    /// As [`LuaVm::runner`].
    pub async fn of(vm: &dyn LuaVm) -> Result<Self> {
        vm.runner().await.map(Self::new)
    }

    /// Copies a file of this machine to the other one, with its permissions. A `remote` that is a
    /// folder gets the file under its own name.
    ///
    /// # Errors
    /// Fails when the file cannot be read here or written there, and says which and why:
    /// [`ErrorKind::NotFound`] for a missing file or folder, [`ErrorKind::Denied`] for missing
    /// rights, [`ErrorKind::Exhausted`] for a full disk.
    ///
    /// # Cancel safety
    /// After a dropped future, or a connection that broke, `remote` is as it was. A part is left
    /// next to it, under a name that begins with `.bioxen-`; the same call goes on with it, and any
    /// later one that succeeds for this `remote` removes it.
    pub async fn put(&self, local: &Path, remote: &Path) -> Result<Copied> {
        let mut attempt = 1;
        loop {
            let found = Found::at(local).await;
            let found = found.map_err(|error| error.with_operation("put"))?;
            match self.put_found(local, &found, remote).await {
                Err(Codes::Changed) if attempt < ATTEMPTS => attempt += 1,
                Err(Codes::Here(error)) => return Err(here("put", local, error)),
                result => return result.map_err(|code| self.explain("put", remote, code)),
            }
        }
    }

    async fn put_found(
        &self,
        local: &Path,
        found: &Found,
        remote: &Path,
    ) -> std::result::Result<Copied, Codes> {
        let name = local.file_name().unwrap_or(local.as_os_str());
        let id = format!(".bioxen-{}-", &hex_of(remote)[..16]);
        let part = format!("{id}{}.part", &found.sum[..16]);
        let command = |from: &str| {
            self.script(include_str!("files/put.sh")).args([
                encoded(remote),
                encoded(Path::new(name)),
                id.clone(),
                part.clone(),
                format!("{:o}", found.mode),
                found.size.to_string(),
                found.sum.clone(),
                from.to_owned(),
            ])
        };
        let mut resumed = 0;
        if found.size > SMALL {
            let said = self.ask(command("ask")).await?;
            resumed = said.trim().parse().map_err(|_| Codes::said(said))?;
        }
        self.counter.begin(found.size, resumed);
        let mut file = tokio::fs::File::open(local).await.map_err(Codes::here)?;
        let whence = std::io::SeekFrom::Start(resumed);
        file.seek(whence).await.map_err(Codes::here)?;
        let rest = Counted::new(file.take(found.size - resumed), self.counter.clone());
        let input = crate::Input::stream(rest);
        let command = command(&resumed.to_string()).with_stdin(input);
        self.ask(command).await?;
        self.counter.finish();
        Ok(Copied {
            bytes: found.size,
            resumed,
        })
    }

    /// Copies a file of the other machine to this one, with its permissions. A `local` that is a
    /// folder gets the file under its own name.
    ///
    /// # Errors
    /// As [`put`](Self::put), the other way round.
    ///
    /// # Cancel safety
    /// As of [`put`](Self::put).
    pub async fn get(&self, remote: &Path, local: &Path) -> Result<Copied> {
        let local = match (local.is_dir(), remote.file_name()) {
            (true, Some(name)) => local.join(name),
            _ => local.to_owned(),
        };
        let mut attempt = 1;
        loop {
            match self.get_once(remote, &local).await {
                Err(Codes::Changed) if attempt < ATTEMPTS => attempt += 1,
                Err(Codes::Here(error)) => return Err(here("get", &local, error)),
                result => return result.map_err(|code| self.explain("get", remote, code)),
            }
        }
    }

    /// Whether a path of the other machine is a folder.
    ///
    /// # Errors
    /// Fails when the machine is not reached.
    pub async fn is_folder(&self, remote: &Path) -> Result<bool> {
        let test = r#"decode "$1"; [ ! -d "$text" ] || echo folder"#;
        let said = self.ask(self.script(test).arg(encoded(remote))).await;
        let said = said.map_err(|code| self.explain("get", remote, code))?;
        Ok(!said.is_empty())
    }

    async fn get_once(&self, remote: &Path, local: &Path) -> std::result::Result<Copied, Codes> {
        let look = self.script(include_str!("files/look.sh"));
        let said = self.ask(look.arg(encoded(remote))).await?;
        let Some((size, mode, sum)) = there::parse_look(&said) else {
            return Err(Codes::said(said));
        };
        let counter = self.counter.clone();
        let mut part = Part::open(local, &sum, size, counter).map_err(Codes::here)?;
        let resumed = part.size();
        self.counter.begin(size, resumed);
        if resumed < size || size == 0 {
            let command = self
                .script(include_str!("files/get.sh"))
                .args([encoded(remote), resumed.to_string()]);
            let outcome = self.runner.run_streaming(command, &mut part).await;
            part.checked().map_err(Codes::here)?;
            there::checked(outcome.map_err(Codes::Runner)?, part.said())?;
        }
        if part.finish(&sum, mode).await.map_err(Codes::here)? {
            self.counter.finish();
            Ok(Copied {
                bytes: size,
                resumed,
            })
        } else {
            Err(Codes::Changed)
        }
    }
}

/// The error for a path of this machine.
fn here(what: &'static str, path: &Path, error: std::io::Error) -> Error {
    local::explain(path, error).with_operation(what)
}

/// The folder that a file is in.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn internal(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task failed").with_source(error)
}
