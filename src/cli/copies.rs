//! What `bioxen run` and `exec` copy into their VM and out of it.

use std::path::Path;

use bioxen_vm_core::LuaVm;
use bioxen_vm_core::files::Files;

use super::run::Job;

/// The copies that were asked for.
pub(super) struct Copies<'a> {
    job: &'a Job,
    /// Only where there is something to copy.
    files: Option<Files>,
}

impl<'a> Copies<'a> {
    pub(super) async fn new(job: &'a Job, vm: &dyn LuaVm) -> anyhow::Result<Self> {
        let files = match job.put.is_empty() && job.get.is_empty() {
            true => None,
            false => Some(Files::of(vm).await?),
        };
        Ok(Self { job, files })
    }

    pub(super) async fn put(&self) -> anyhow::Result<()> {
        for (files, text) in self
            .files
            .iter()
            .flat_map(|f| self.job.put.iter().map(move |t| (f, t)))
        {
            let (local, remote) = ends(text);
            if local.is_dir() {
                files.push(local, &named(local, remote), false).await?;
            } else {
                files.put(local, remote.unwrap_or(Path::new("."))).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn get(&self) -> anyhow::Result<()> {
        for (files, text) in self
            .files
            .iter()
            .flat_map(|f| self.job.get.iter().map(move |t| (f, t)))
        {
            let (remote, local) = ends(text);
            if files.is_folder(remote).await? {
                files.pull(remote, &named(remote, local), false).await?;
            } else {
                files.get(remote, local.unwrap_or(Path::new("."))).await?;
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

/// Where a folder goes: where it is told to, else under its own name.
pub(super) fn named(from: &Path, to: Option<&Path>) -> std::path::PathBuf {
    match to {
        Some(to) => to.to_owned(),
        None => from.file_name().unwrap_or(from.as_os_str()).into(),
    }
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
}
