//! Packs rocks from their sources into a directory that LuaRocks can install from.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bioxen_vm_core::local::PrivateDir;
use bioxen_vm_core::{Command, Runner};
use bytes::Bytes;

use crate::diagnose::{missing_program, reason};
use crate::error::Log;
use crate::lua_table::{self, Value};
use crate::{Error, Result, Rock, RockName, RockVersion, remedy};

/// The versions of Lua that a manifest is made for is up to LuaRocks; this one only has to be one
/// that it knows.
const LUA_VERSION: &str = "5.4";

/// How long one program may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Packs the rock of each source directory into a directory, and writes the manifests that make it
/// a [`RocksServer::Directory`](crate::RocksServer::Directory).
///
/// A source directory holds one rockspec, `<name>-<version>.rockspec`, and the files that it names.
/// A rock of Lua alone is packed ready for use (`.all.rock`), which installs without headers and
/// compiler on every machine. Any other is packed as its sources (`.src.rock`), whatever
/// `source.url` says. Rocks that are in the directory already stay.
///
/// The runner has to be one of this machine, which needs `luarocks`, `tar` and `zip`.
///
/// # Errors
/// Fails with [`Error::Publish`] when a rock cannot be packed, with [`Error::Io`] when a file cannot
/// be read or written, and with [`Error::Machine`] when a program is missing.
///
/// # Cancel safety
/// After a dropped future the directory may hold new rocks that its manifest does not name.
pub async fn publish(sources: &[PathBuf], into: &Path, runner: &dyn Runner) -> Result<Vec<Rock>> {
    let scratch = PrivateDir::temporary("bioxen-publish-")
        .map_err(io("make a folder in", &std::env::temp_dir()))?;
    std::fs::create_dir_all(into).map_err(io("make", into))?;
    let into = into.canonicalize().map_err(io("find", into))?;
    let mut rocks = Vec::with_capacity(sources.len());
    for (index, source) in sources.iter().enumerate() {
        let scratch = scratch.path().join(index.to_string());
        std::fs::create_dir(&scratch).map_err(io("make", &scratch))?;
        let packing = Packing {
            source,
            scratch: &scratch,
            runner,
        };
        let rock = packing.find_rock()?;
        let file = packing.pack(&rock).await?;
        let target = into.join(file.file_name().unwrap_or_default());
        std::fs::copy(&file, &target).map_err(io("write", &target))?;
        rocks.push(rock);
    }
    make_manifests(&into, scratch.path(), runner).await?;
    Ok(rocks)
}

/// Packs a rockspec together with its sources, which are fetched from where it says.
pub(crate) async fn pack_rockspec(
    file: &str,
    rockspec: &[u8],
    scratch: &Path,
    runner: &dyn Runner,
) -> Result<Bytes> {
    let path = scratch.join(file);
    std::fs::write(&path, rockspec).map_err(io("write", &path))?;
    let packing = Packing {
        source: &path,
        scratch,
        runner,
    };
    let command = Command::new("luarocks")
        .args(["--lua-version", LUA_VERSION, "pack", file])
        .with_cwd(text(scratch)?);
    packing.run(command).await?;
    let packed = scratch.join(format!("{}.src.rock", file.trim_end_matches(".rockspec")));
    let content = std::fs::read(&packed).map_err(io("read", &packed))?;
    Ok(content.into())
}

async fn make_manifests(into: &Path, scratch: &Path, runner: &dyn Runner) -> Result<()> {
    let manifests = Packing {
        source: into,
        scratch,
        runner,
    };
    let command = Command::new("luarocks-admin")
        .args(["--lua-version", LUA_VERSION, "make_manifest"])
        .arg(text(into)?);
    manifests.run(command).await?;
    // Pages for people, which nobody has asked for.
    let index = into.join("index.html");
    match std::fs::remove_file(&index) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io("remove", &index)(error))
        }
        _ => Ok(()),
    }
}

/// One rock on its way from its sources to a packed file.
struct Packing<'a> {
    source: &'a Path,
    /// A folder for this rock alone.
    scratch: &'a Path,
    runner: &'a dyn Runner,
}

impl Packing<'_> {
    fn find_rock(&self) -> Result<Rock> {
        let mut rocks = Vec::new();
        for entry in std::fs::read_dir(self.source).map_err(io("read", self.source))? {
            let name = entry.map_err(io("read", self.source))?.file_name();
            let stem = name
                .to_str()
                .and_then(|name| name.strip_suffix(".rockspec"));
            if let Some(stem) = stem {
                rocks.push(rock_of(stem).ok_or_else(|| {
                    self.failed(format!(
                        "{stem:?} is no <name>-<version>-<revision> of a rockspec"
                    ))
                })?);
            }
        }
        match (rocks.pop(), rocks.pop()) {
            (Some(rock), None) => Ok(rock),
            (None, _) => Err(self.failed("it has no rockspec".into())),
            (Some(a), Some(b)) => Err(self.failed(format!(
                "it has several rockspecs, of {a} and {b}; leave one"
            ))),
        }
    }

    async fn pack(&self, rock: &Rock) -> Result<PathBuf> {
        let stem = format!("{}-{}", rock.name, rock.version);
        let rockspec = self.source.join(format!("{stem}.rockspec"));
        let spec = std::fs::read_to_string(&rockspec).map_err(io("read", &rockspec))?;
        let copy = self.scratch.join(&stem);
        self.copy_sources(&copy).await?;
        if is_pure(&spec) {
            self.pack_binary(&stem, &copy).await
        } else {
            self.pack_source(&stem, &copy, &spec).await
        }
    }

    /// Copies the sources, so that a build leaves nothing behind in them.
    async fn copy_sources(&self, copy: &Path) -> Result<()> {
        let from = self
            .source
            .canonicalize()
            .map_err(io("find", self.source))?;
        let cp = Command::new("cp").args(["-RP", "--", text(&from)?, text(copy)?]);
        self.run(cp).await?;
        let git = copy.join(".git");
        if git.exists() {
            let rm = Command::new("rm").args(["-rf", "--", text(&git)?]);
            self.run(rm).await?;
        }
        Ok(())
    }

    /// Builds a rock of Lua alone and packs what would be installed.
    async fn pack_binary(&self, stem: &str, copy: &Path) -> Result<PathBuf> {
        // LuaRocks wants the headers of Lua before it builds anything. Nothing is compiled here.
        let include = self.scratch.join("include");
        let header = include.join("lua.h");
        std::fs::create_dir(&include).map_err(io("make", &include))?;
        std::fs::write(&header, "#define LUA_VERSION_NUM 504\n").map_err(io("write", &header))?;
        let make = Command::new("luarocks")
            .args(["--lua-version", LUA_VERSION, "make"])
            .args(["--pack-binary-rock", "--deps-mode", "none"])
            .arg(format!("{stem}.rockspec"))
            .arg(format!("LUA_INCDIR={}", text(&include)?))
            .with_cwd(text(copy)?);
        let log = self.run(make).await?;
        let rock = copy.join(format!("{stem}.all.rock"));
        if rock.is_file() {
            return Ok(rock);
        }
        Err(Error::Publish {
            path: self.source.to_owned(),
            reason: format!("LuaRocks made no {stem}.all.rock"),
            log,
        })
    }

    /// Packs the sources together with a rockspec that takes them from the rock.
    async fn pack_source(&self, stem: &str, copy: &Path, spec: &str) -> Result<PathBuf> {
        let rockspec = format!("{stem}.rockspec");
        let archive = format!("{stem}.tar.gz");
        let rock = self.scratch.join(format!("{stem}.src.rock"));
        let inner = copy.join(&rockspec);
        std::fs::remove_file(&inner).map_err(io("replace", &inner))?;
        let tar = Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .args(["--mtime=@0", "-czf", &archive, "--", stem])
            .with_cwd(text(self.scratch)?);
        self.run(tar).await?;
        let spec = format!(
            "{spec}\n-- The sources are in this rock.\n\
             source = {{ url = \"file://{archive}\", dir = \"{stem}\" }}\n"
        );
        let outer = self.scratch.join(&rockspec);
        std::fs::write(&outer, spec).map_err(io("write", &outer))?;
        let lint = Command::new("luarocks")
            .args(["--lua-version", LUA_VERSION, "lint", &rockspec])
            .with_cwd(text(self.scratch)?);
        self.run(lint).await?;
        // The same sources give the same rock, byte for byte. A zip knows no time before 1980.
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(10 * 366 * 86_400);
        for file in [&rockspec, &archive] {
            let path = self.scratch.join(file);
            std::fs::File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(time))
                .map_err(io("date", &path))?;
        }
        let zip = Command::new("zip")
            .args(["-q", "-X", "-j", text(&rock)?, &rockspec, &archive])
            .with_env("TZ", "UTC")
            .with_cwd(text(self.scratch)?);
        self.run(zip).await?;
        Ok(rock)
    }

    /// Runs a program with a home of its own and gives what it said.
    async fn run(&self, command: Command) -> Result<Log> {
        let program = command.program.clone();
        let home = text(self.scratch)?;
        let cwd = command.cwd.clone().unwrap_or_else(|| home.into());
        let command = command
            .with_env("HOME", home)
            .with_env("TMPDIR", home)
            .with_env("LC_ALL", "C")
            .with_env("GIT_TERMINAL_PROMPT", "0")
            .with_cwd(cwd)
            .with_timeout(TIMEOUT);
        let outcome = self.runner.run(command).await.map_err(|source| {
            if source.kind() == bioxen_vm_core::ErrorKind::NotFound {
                return Error::MissingProgram {
                    machine: self.runner.describe(),
                    remedy: remedy::program(&program),
                    program: program.clone(),
                };
            }
            Error::Machine {
                operation: "publish rocks",
                machine: self.runner.describe(),
                source: Box::new(source),
            }
        })?;
        let log = Log::new(format!(
            "{}{}",
            outcome.stderr_text(),
            outcome.stdout_text()
        ));
        if outcome.success() {
            return Ok(log);
        }
        if let Some(missing) = missing_program(log.as_str()) {
            return Err(Error::MissingProgram {
                machine: self.runner.describe(),
                remedy: remedy::program(missing),
                program: missing.to_owned(),
            });
        }
        Err(Error::Publish {
            path: self.source.to_owned(),
            reason: format!("{program}: {}", reason(log.as_str())),
            log,
        })
    }

    fn failed(&self, reason: String) -> Error {
        Error::Publish {
            path: self.source.to_owned(),
            reason,
            log: Log::default(),
        }
    }
}

/// The rock of `<name>-<version>-<revision>`.
fn rock_of(stem: &str) -> Option<Rock> {
    let (rest, revision) = stem.rsplit_once('-')?;
    let (name, version) = rest.rsplit_once('-')?;
    let name_is_plain = RockName::new(name).ok()?;
    Some(Rock {
        // LuaRocks looks for a file in lower case.
        name: (name_is_plain.as_str() == name).then_some(name_is_plain)?,
        version: RockVersion::new(format!("{version}-{revision}")).ok()?,
    })
}

/// Whether a rockspec says that the rock is of Lua alone. A rockspec that computes something, or
/// that leaves its modules to be searched for, does not.
fn is_pure(rockspec: &str) -> bool {
    let Ok(spec) = lua_table::parse(rockspec) else {
        return false;
    };
    let Some(build) = spec.get("build").and_then(Value::fields) else {
        return false;
    };
    let builds_itself = match build.get("type") {
        None => true,
        Some(kind) => *kind == Value::String("builtin".into()),
    };
    let is_lua = |value: &Value| matches!(value, Value::String(file) if file.ends_with(".lua"));
    let modules = build.get("modules").and_then(Value::fields);
    let libraries = build
        .get("install")
        .and_then(Value::fields)
        .is_some_and(|install| install.contains_key("lib"));
    builds_itself && !libraries && modules.is_some_and(|modules| modules.values().all(is_lua))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::Invalid(format!("{} is no UTF-8; rename it", path.display())))
}

fn io(operation: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rock_of_lua_alone_is_told_by_its_rockspec() {
        for pure in [
            "build = { type = \"builtin\", modules = { a = \"a.lua\", [\"a.b\"] = 'src/b.lua' } }",
            "build = { modules = { a = \"a.lua\" }, install = { bin = { \"x\" } } }",
        ] {
            assert!(is_pure(pure), "{pure}");
        }
        for other in [
            "",
            "build = { type = \"builtin\" }",
            "build = { type = \"make\", modules = { a = \"a.lua\" } }",
            "build = { modules = { a = \"a.c\" } }",
            "build = { modules = { a = { sources = { \"a.c\" } } } }",
            "build = { modules = { a = \"a.lua\" }, install = { lib = { \"x.so\" } } }",
            "local v = 1\nbuild = { modules = { a = \"a.lua\" } }",
        ] {
            assert!(!is_pure(other), "{other}");
        }
    }

    #[test]
    fn the_name_of_a_rockspec_gives_the_rock() {
        assert_eq!(
            rock_of("lua-cjson-2.1.0-3").unwrap().to_string(),
            "lua-cjson 2.1.0-3"
        );
        assert_eq!(rock_of("x-scm-1").unwrap().to_string(), "x scm-1");
        for bad in ["x", "x-1", "X-1.0-1", "-1-1", "x--1"] {
            assert!(rock_of(bad).is_none(), "{bad}");
        }
    }
}
