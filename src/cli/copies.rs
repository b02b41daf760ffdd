//! Files and folders between this machine and a VM: `bioxen cp`, and what `bioxen run` and `exec` copy.

use std::path::{Path, PathBuf};
#[cfg(feature = "xcpng")]
use std::process::ExitCode;

#[cfg(feature = "xcpng")]
use anyhow::bail;
use bioxen_vm_core::LuaVm;
use bioxen_vm_core::files::{Copied, Files, Synced};
use serde::Serialize;

use super::waiting::copying;
use super::warn;

#[cfg(feature = "xcpng")]
use crate::settings::Settings;

/// What was copied.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    /// How many files.
    files: usize,
    /// How many files were as they should be.
    unchanged: usize,
    /// How many bytes the copied files have.
    bytes: u64,
    /// How many of them were there from a copy that broke off.
    resumed: u64,
    /// What is neither file nor folder.
    left_out: Vec<PathBuf>,
}

impl From<Copied> for Done {
    fn from(copied: Copied) -> Self {
        Self {
            files: 1,
            unchanged: 0,
            bytes: copied.bytes,
            resumed: copied.resumed,
            left_out: Vec::new(),
        }
    }
}

impl From<Synced> for Done {
    fn from(synced: Synced) -> Self {
        Self {
            files: synced.copied,
            unchanged: synced.unchanged,
            bytes: synced.bytes,
            resumed: synced.resumed,
            left_out: synced.skipped,
        }
    }
}

/// Copies a file or folder into a VM. A folder is made equal, without removing what else is there.
pub(super) async fn put(
    files: &Files,
    local: &Path,
    remote: Option<&Path>,
) -> anyhow::Result<Done> {
    let copy = async {
        anyhow::Ok(match local.is_dir() {
            true => files
                .push(local, &named(local, remote), false)
                .await?
                .into(),
            false => {
                let remote = remote.unwrap_or(Path::new("."));
                Done::from(files.put(local, remote).await?)
            }
        })
    };
    let done = copying(files, &called(local), copy).await?;
    tell_left_out(local, &done);
    Ok(done)
}

/// Copies a file or folder out of a VM, in the same way.
pub(super) async fn get(
    files: &Files,
    remote: &Path,
    local: Option<&Path>,
) -> anyhow::Result<Done> {
    let copy = async {
        anyhow::Ok(match files.is_folder(remote).await? {
            true => files
                .pull(remote, &named(remote, local), false)
                .await?
                .into(),
            false => {
                let local = local.unwrap_or(Path::new("."));
                Done::from(files.get(remote, local).await?)
            }
        })
    };
    let done = copying(files, &called(remote), copy).await?;
    tell_left_out(remote, &done);
    Ok(done)
}

/// What a file or folder is called while it is copied.
fn called(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().replace(char::is_control, "?")
}

/// Warns of what is neither file nor folder, and so stayed where it was.
fn tell_left_out(folder: &Path, done: &Done) {
    const LISTED: usize = 5;
    let left_out = &done.left_out;
    if left_out.is_empty() {
        return;
    }
    let listed = left_out.iter().take(LISTED);
    let listed: Vec<_> = listed.map(|path| path.display().to_string()).collect();
    let more = match left_out.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    warn(&format!(
        "{}: left out {}{more}: only files and folders are copied, no symbolic links, devices and \
         sockets; copy what a link names under its own name",
        folder.display(),
        listed.join(", ")
    ));
}

/// Where a folder goes: where it is told to, else under its own name.
pub(super) fn named(from: &Path, to: Option<&Path>) -> PathBuf {
    match to {
        Some(to) => to.to_owned(),
        None => from.file_name().unwrap_or(from.as_os_str()).into(),
    }
}

/// The copies that `bioxen run` was asked for.
pub(super) struct Copies<'a> {
    put: &'a [String],
    get: &'a [String],
    /// Only where there is something to copy.
    files: Option<Files>,
}

impl<'a> Copies<'a> {
    pub(super) async fn new(
        put: &'a [String],
        get: &'a [String],
        vm: &dyn LuaVm,
    ) -> anyhow::Result<Self> {
        let files = match put.is_empty() && get.is_empty() {
            true => None,
            false => Some(Files::of(vm).await?),
        };
        Ok(Self { put, get, files })
    }

    pub(super) async fn put(&self) -> anyhow::Result<()> {
        if let Some(files) = &self.files {
            for (local, remote) in self.put.iter().map(|text| ends(text)) {
                put(files, local, remote).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn get(&self) -> anyhow::Result<()> {
        if let Some(files) = &self.files {
            for (remote, local) in self.get.iter().map(|text| ends(text)) {
                get(files, remote, local).await?;
            }
        }
        Ok(())
    }
}

/// Where from and where to, parted by the first colon.
pub(super) fn ends(text: &str) -> (&Path, Option<&Path>) {
    match text.split_once(':') {
        Some((from, to)) => (Path::new(from), Some(Path::new(to))),
        None => (Path::new(text), None),
    }
}

#[cfg(feature = "xcpng")]
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file or folder of this machine, or of a VM as `VM:PATH`
    #[arg(value_name = "FROM")]
    from: String,

    /// Where it goes: `VM:PATH`, or a path of this machine; a VM's relative paths start in the home
    /// folder of its user
    #[arg(value_name = "TO")]
    to: String,

    #[command(flatten)]
    common: super::vms::Common,
}

/// One end of a copy.
#[cfg(feature = "xcpng")]
#[derive(Debug, PartialEq)]
enum End<'a> {
    Here(&'a Path),
    There { vm: &'a str, path: Option<&'a Path> },
}

#[cfg(feature = "xcpng")]
impl<'a> End<'a> {
    /// As of `scp`: what has a colon before any slash names a VM, so a file of this machine with a
    /// colon in its name is written `./a:b`.
    fn of(text: &'a str) -> Self {
        let name = if text.starts_with("tag:") { 4 } else { 0 };
        match text[name..].find(':').map(|colon| name + colon) {
            Some(colon) if colon > name && !text[..colon].contains('/') => Self::There {
                vm: &text[..colon],
                path: Some(&text[colon + 1..])
                    .filter(|path| !path.is_empty())
                    .map(Path::new),
            },
            _ => Self::Here(Path::new(text)),
        }
    }
}

/// `bioxen cp`: copies between this machine and a VM of a pool, which is started if need be.
#[cfg(feature = "xcpng")]
pub(super) async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    use super::interrupt::Interrupts;
    use super::print;
    use super::vms::{adopt, on_pool, pool};

    let (from, to) = (End::of(&args.from), End::of(&args.to));
    let vm = match (&from, &to) {
        (End::There { vm, .. }, End::Here(_)) | (End::Here(_), End::There { vm, .. }) => *vm,
        (End::Here(_), End::Here(_)) => bail!(
            "neither {:?} nor {:?} names a VM; write VM:PATH for a file or folder of a VM",
            args.from,
            args.to
        ),
        _ => bail!("both ends are in VMs; copy to this machine first, and from there"),
    };
    let interrupts = Interrupts::listen()?;
    let pool = pool(&args.common, settings)?;
    let copied = on_pool(pool, async |pool| {
        let vm = adopt(pool, vm).await?;
        let copy = async {
            vm.start().await?;
            let files = Files::of(&*vm).await?;
            match (from, to) {
                (End::Here(local), End::There { path, .. }) => put(&files, local, path).await,
                (End::There { path, .. }, End::Here(local)) => {
                    let remote = path.unwrap_or(Path::new("."));
                    get(&files, remote, Some(local)).await
                }
                _ => bail!("neither end is in a VM"),
            }
        };
        match interrupts.unless(copy).await {
            Ok(done) => {
                let done = done?;
                if args.common.json() {
                    print(&format!("{}\n", serde_json::to_string(&done)?))?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(interrupted) => Ok(ExitCode::from(interrupted.exit_code())),
        }
    });
    copied.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_parts_where_from_and_where_to() {
        assert_eq!(ends("a"), (Path::new("a"), None));
        assert_eq!(ends("a:b/c"), (Path::new("a"), Some(Path::new("b/c"))));
        assert_eq!(named(Path::new("x/data"), None), Path::new("data"));
        assert_eq!(named(Path::new("x"), Some(Path::new("y"))), Path::new("y"));
    }

    #[cfg(feature = "xcpng")]
    #[test]
    fn a_vm_is_what_stands_before_a_colon_and_has_no_slash() {
        let there = |vm, path: Option<&'static str>| End::There {
            vm,
            path: path.map(Path::new),
        };
        assert_eq!(End::of("lab:genome.fa"), there("lab", Some("genome.fa")));
        assert_eq!(End::of("lab:/tmp/a:b"), there("lab", Some("/tmp/a:b")));
        assert_eq!(End::of("tag:lab:data"), there("tag:lab", Some("data")));
        assert_eq!(End::of("lab:"), there("lab", None));
        assert_eq!(End::of("./a:b"), End::Here(Path::new("./a:b")));
        assert_eq!(End::of("genome.fa"), End::Here(Path::new("genome.fa")));
    }
}
