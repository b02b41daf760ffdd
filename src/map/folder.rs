//! The folder of a run: what it was begun with, and what of it is done. A run that was ended goes on
//! from there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bioxen_vm_core::local::PrivateDir;
use bioxen_vm_core::lua::{decode, encode};
use bioxen_vm_core::{Error, ErrorKind, LuaValue, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::LOCK;
use super::records::Format;
use super::split::{Shards, sum_of, unreadable};
use crate::sums::Sum;

/// The form of the files of a folder.
const FORMAT: u32 = 1;

/// What results depend on. Not the VMs: these may be others when a run goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    format: u32,
    pub(super) program: Summed,
    /// As Rust writes byte strings.
    pub(super) arguments: Vec<String>,
    pub(super) inputs: Vec<Summed>,
    pub(super) records: Format,
    pub(super) paired: bool,
    pub(super) shards: Shards,
    /// Files that are put into the VMs.
    pub(super) files: Vec<Summed>,
    /// What was asked for, or the SHA-256 of the lock.
    pub(super) rocks: Vec<String>,
}

/// What every form of a plan has.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

/// Something with a name and its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summed {
    pub(super) name: String,
    pub(super) sha256: String,
}

impl Plan {
    pub(super) fn new(program: Summed, records: Format, paired: bool, shards: Shards) -> Self {
        Self {
            format: FORMAT,
            program,
            arguments: Vec::new(),
            inputs: Vec::new(),
            records,
            paired,
            shards,
            files: Vec::new(),
            rocks: Vec::new(),
        }
    }

    /// In what this differs from what was there before.
    fn difference(&self, before: &Self) -> Option<String> {
        let other = |kind: &str, now: &[Summed], then: &[Summed]| {
            if now.len() != then.len() {
                return Some(format!("{} {kind}s in place of {}", now.len(), then.len()));
            }
            let mut both = now.iter().zip(then);
            let (now, then) = both.find(|(now, then)| now.sha256 != then.sha256)?;
            Some(match now.name == then.name {
                true => format!("the {kind} {}, which has changed", now.name),
                false => format!("the {kind} {} in place of {}", now.name, then.name),
            })
        };
        let (program, inputs) = (std::slice::from_ref, &self.inputs);
        other("program", program(&self.program), program(&before.program))
            .or_else(|| other("input", inputs, &before.inputs))
            .or_else(|| other("file", &self.files, &before.files))
            .or_else(|| {
                let same = self.arguments == before.arguments;
                (!same).then(|| "other arguments of the program".to_owned())
            })
            .or_else(|| {
                let (now, then) = (rocks(&self.rocks), rocks(&before.rocks));
                (self.rocks != before.rocks).then(|| format!("{now} in place of {then}"))
            })
            .or_else(|| {
                (self != before).then(|| "records or shards of another kind or size".to_owned())
            })
    }
}

/// The rocks of a plan, in words and as an option of `bioxen map`.
fn rocks(requests: &[String]) -> String {
    match requests {
        [] => "no rock".to_owned(),
        // What is asked for is never so long.
        [sum] if sum.len() == 64 && sum.bytes().all(|c| c.is_ascii_hexdigit()) => {
            format!("the lock of SHA-256 {sum} (--locked)")
        }
        _ => {
            let options = requests.iter().map(|rock| match rock.contains(' ') {
                true => format!("--package '{rock}'"),
                false => format!("--package {rock}"),
            });
            let options: Vec<_> = options.collect();
            format!("{} ({})", requests.join(", "), options.join(" "))
        }
    }
}

/// What is known of a shard that is done.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    output_sha256: String,
    value_sha256: String,
    vm: String,
}

/// The folder of a run. No other run uses it at the same time.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: Option<InUse>,
    /// Goes with the run, when the user wants no folder.
    _temporary: Option<PrivateDir>,
}

/// That a run uses a folder. When it ends, however it does, what only the run needs is removed, and then
/// others may use the folder.
#[derive(Debug)]
pub(super) struct InUse {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for InUse {
    /// Removes unpacked inputs, and what was not finished.
    fn drop(&mut self) {
        let remove = |folder: &Path, is_ours: fn(&str) -> bool| {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name().to_str().is_some_and(is_ours) {
                    // What stays is overwritten by the next run.
                    let _ = fs::remove_file(entry.path());
                }
            }
        };
        remove(&self.path, |name| is_unpacked(name) || is_temporary(name));
        remove(&self.path.join("shards"), |name| {
            name.ends_with(".part") || is_temporary(name)
        });
    }
}

/// Whether a file of the folder has this name because an input was unpacked into it. The folder may be one
/// in which the user has other files.
fn is_unpacked(name: &str) -> bool {
    let number = name.strip_prefix("input-");
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether it was being written: the crate tempfile calls such files so.
fn is_temporary(name: &str) -> bool {
    let rest = name.strip_prefix(".tmp");
    rest.is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

impl Folder {
    /// Opens this folder, which is made where there is none, or a temporary one.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let (path, temporary) = match path {
            Some(path) => (path.to_owned(), None),
            None => {
                let made = PrivateDir::temporary("bioxen-map-");
                let made = made.map_err(|error| unusable(&std::env::temp_dir(), error))?;
                (made.path().join("run"), Some(made))
            }
        };
        let opened = fs::create_dir_all(path.join("shards"))
            .and_then(|()| File::create(path.join("lock")))
            .map_err(|error| unusable(&path, error))?;
        let lock = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => {
                return Err(Error::new(
                    ErrorKind::InvalidState,
                    format!(
                        "{} is in use by another run; wait for it, or take another folder",
                        path.display()
                    ),
                ));
            }
            Err((_, errno)) => return Err(unusable(&path, errno.into())),
        };
        let in_use = InUse {
            path: path.clone(),
            _lock: lock,
        };
        Ok(Self {
            path,
            lock: Some(in_use),
            _temporary: temporary,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What keeps other runs away, for whoever lives as long as the run: the folder itself lives until
    /// the last task of a run that was dropped has ended.
    pub(super) fn take_lock(&mut self) -> Option<InUse> {
        self.lock.take()
    }

    /// What a run in this folder was begun with.
    pub(super) fn plan(&self) -> Result<Option<Plan>> {
        let path = self.path.join("plan.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| unreadable(&path, error))?,
        };
        if let Ok(Form { format }) = serde_json::from_slice(&text)
            && format > FORMAT
        {
            let message = format!(
                "{} has what a newer bioxen has begun (form {format}, this one knows {FORMAT}); go on with \
                 that one, or take another folder",
                self.path.display()
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let message = format!(
                "{} is no plan of this version of bioxen; take another folder",
                path.display()
            );
            Error::new(ErrorKind::Config, message).with_source(error)
        })
    }

    /// How many shards are done.
    pub(super) fn done(&self) -> Result<usize> {
        let shards = self.path.join("shards");
        let mut done = 0;
        for entry in fs::read_dir(&shards).map_err(|error| unreadable(&shards, error))? {
            let path = entry.map_err(|error| unreadable(&shards, error))?.path();
            done += usize::from(path.extension().is_some_and(|kind| kind == "json"));
        }
        Ok(done)
    }

    /// Forgets what a run was begun with that has come to nothing.
    pub(super) fn forget(&self) -> Result<()> {
        for name in ["plan.json", LOCK] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unusable(&path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins with a plan, or goes on when it is the one that there is.
    pub(super) fn begin(&self, plan: &Plan) -> Result<()> {
        let Some(before) = self.plan()? else {
            let text = serde_json::to_vec_pretty(plan).unwrap_or_default();
            return self.write("plan.json", &text);
        };
        match plan.difference(&before) {
            None => Ok(()),
            Some(difference) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} was begun with something else: now it is {difference}; go on with what it \
                     was begun with, or take another folder",
                    self.path.display()
                ),
            )),
        }
    }

    /// Whether a shard is done, and its results are as they were written.
    pub(super) fn is_done(&self, shard: usize) -> bool {
        let entry = fs::read(self.of(shard, "json")).ok();
        let entry = entry.and_then(|text| serde_json::from_slice::<Entry>(&text).ok());
        entry.is_some_and(|entry| {
            let is = |kind, sum| sum_of(&self.of(shard, kind)).is_ok_and(|is| is == sum);
            is("out", entry.output_sha256) && is("value", entry.value_sha256)
        })
    }

    /// Where the output of a shard is written before it is known to be whole.
    pub(super) fn part(&self, shard: usize) -> PathBuf {
        self.of(shard, "part")
    }

    /// Keeps the results of a shard whose output was written to [`part`](Self::part).
    pub(super) fn keep(
        &self,
        shard: usize,
        output_sha256: String,
        value: &LuaValue,
        vm: &str,
    ) -> Result<()> {
        let value = encode(value);
        let out = self.of(shard, "out");
        fs::rename(self.part(shard), &out).map_err(|error| unusable(&out, error))?;
        self.write(&self.named(shard, "value"), &value)?;
        let entry = Entry {
            output_sha256,
            value_sha256: Sum::of(&value).sha256(),
            vm: vm.to_owned(),
        };
        // The last of all, so that it speaks for the rest.
        let text = serde_json::to_vec(&entry).unwrap_or_default();
        self.write(&self.named(shard, "json"), &text)
    }

    /// The output of a shard that is done.
    pub(super) fn output(&self, shard: usize) -> PathBuf {
        self.of(shard, "out")
    }

    /// The encoded value of a shard that is done.
    pub(super) fn encoded(&self, shard: usize) -> Result<bytes::Bytes> {
        let path = self.of(shard, "value");
        let value = fs::read(&path).map_err(|error| unreadable(&path, error))?;
        Ok(value.into())
    }

    /// What a shard that is done returned; `Nil` for nothing.
    pub(super) fn value(&self, shard: usize) -> Result<LuaValue> {
        decode(&self.encoded(shard)?).ok_or_else(|| {
            let path = self.of(shard, "value");
            Error::new(
                ErrorKind::Internal,
                format!("{} is damaged; remove it and go on", path.display()),
            )
        })
    }

    /// Writes where the time of a run went. What former runs in this folder wrote of theirs stays, the
    /// oldest as `times-1.json`.
    pub(super) fn write_times(&self, content: &[u8]) -> Result<()> {
        let last = self.path.join("times.json");
        if last.exists() {
            let former = |number| self.path.join(format!("times-{number}.json"));
            let free = (1..).map(former).find(|path| !path.exists());
            let kept = free.map_or(Ok(()), |free| fs::rename(&last, free));
            kept.map_err(|error| unusable(&last, error))?;
        }
        self.write("times.json", content)
    }

    /// Writes a file, replacing what was there only once all of it is on disk.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.write_with(name, |file| file.write_all(content))
    }

    /// The same with what is written.
    pub(super) fn write_with(
        &self,
        name: &str,
        write: impl FnOnce(&mut NamedTempFile) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.path.join(name);
        let written = (|| {
            let mut file = NamedTempFile::new_in(path.parent().unwrap_or(&self.path))?;
            write(&mut file)?;
            // Like any other file of a project; temporary files are their owner's alone.
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(0o644))?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        })();
        written.map_err(|error| unusable(&path, error))
    }

    fn of(&self, shard: usize, kind: &str) -> PathBuf {
        self.path.join(self.named(shard, kind))
    }

    fn named(&self, shard: usize, kind: &str) -> String {
        format!("shards/{:06}.{kind}", shard + 1)
    }
}

pub(super) fn unusable(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => ErrorKind::Exhausted,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("cannot write {}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(name: &str, sha256: &str) -> Summed {
        Summed {
            name: name.into(),
            sha256: sha256.into(),
        }
    }

    fn plan() -> Plan {
        let mut plan = Plan::new(
            summed("qc.lua", "1"),
            Format::Fastq,
            false,
            Shards::Count(4),
        );
        plan.inputs = vec![summed("a.fq", "2"), summed("b.fq", "3")];
        plan
    }

    #[test]
    fn what_has_changed_is_refused_by_name() {
        let lab = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(lab.path())).unwrap();
        folder.begin(&plan()).unwrap();
        folder.begin(&plan()).unwrap();
        let mut moved = plan();
        moved.inputs[0].name = "elsewhere/a.fq".into();
        moved.inputs[0].sha256 = "9".into();
        for (change, reason) in [
            (
                &(|plan: &mut Plan| plan.program.sha256 = "9".into()) as &dyn Fn(&mut Plan),
                "the program qc.lua, which has changed",
            ),
            (
                &|plan| plan.inputs[1].sha256 = "9".into(),
                "the input b.fq, which has changed",
            ),
            (
                &|plan| plan.inputs[1] = summed("c.fq", "9"),
                "the input c.fq in place of b.fq",
            ),
            (&|plan| drop(plan.inputs.pop()), "1 inputs in place of 2"),
            (
                &|plan| plan.files = vec![summed("x", "1")],
                "1 files in place of 0",
            ),
            (&|plan| plan.arguments = vec!["x".into()], "other arguments"),
            (
                &|plan| plan.rocks = vec!["lpeg".into(), "lfs >= 1".into()],
                "now it is lpeg, lfs >= 1 (--package lpeg --package 'lfs >= 1') in place of no rock;",
            ),
            (
                &|plan| plan.rocks = vec!["0a".repeat(32)],
                "0a0a (--locked) in place of no rock",
            ),
            (&|plan| plan.shards = Shards::Count(5), "shards of another"),
        ] {
            let mut changed = plan();
            change(&mut changed);
            let error = folder.begin(&changed).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_folder_is_used_by_one_run_at_a_time() {
        let lab = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(lab.path())).unwrap();
        let error = Folder::open(Some(lab.path())).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        drop(folder);
        Folder::open(Some(lab.path())).unwrap();
    }

    #[test]
    fn the_times_of_former_runs_stay() {
        let lab = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(lab.path())).unwrap();
        for times in ["first", "second", "third"] {
            folder.write_times(times.as_bytes()).unwrap();
        }
        for (name, times) in [
            ("times-1", "first"),
            ("times-2", "second"),
            ("times", "third"),
        ] {
            let file = lab.path().join(format!("{name}.json"));
            assert_eq!(fs::read_to_string(file).unwrap(), times);
        }
    }

    #[test]
    fn a_shard_is_done_only_when_all_of_it_is_there_unchanged() {
        let lab = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(lab.path())).unwrap();
        assert!(!folder.is_done(0));
        fs::write(folder.part(0), "AC").unwrap();
        let sum = sum_of(&folder.part(0)).unwrap();
        folder.keep(0, sum, &LuaValue::Float(0.1), "map-1").unwrap();
        assert!(folder.is_done(0) && !folder.is_done(1));
        assert_eq!(folder.value(0).unwrap(), LuaValue::Float(0.1));
        fs::write(folder.output(0), "AG").unwrap();
        assert!(!folder.is_done(0));
    }
}
