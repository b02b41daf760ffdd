//! A small set of rocks, made and packed by each test for itself.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test targets, each of which uses a part of it"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use async_trait::async_trait;
use bioxen_curator::{Curator, RocksServer, publish};
use bioxen_vm_core::local::LocalRunner;
use bioxen_vm_core::{Command, Outcome, OutputSink, PackageSite, Result, Runner};
use tempfile::TempDir;

/// A temporary folder with a tree and a directory of rocks.
pub struct World {
    pub dir: TempDir,
}

impl World {
    pub fn new() -> Self {
        for (program, package) in [
            ("luarocks", "luarocks"),
            ("lua5.4", "lua5.4"),
            ("zip", "zip"),
        ] {
            let found = process::Command::new("sh")
                .args(["-c", "command -v \"$1\"", "sh", program])
                .output()
                .unwrap();
            assert!(
                found.status.success(),
                "this test needs {program}: apt-get install {package}"
            );
        }
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    pub fn rocks(&self) -> PathBuf {
        self.path("rocks")
    }

    pub fn site(&self, lua_version: &str) -> PackageSite {
        self.site_with(LocalRunner::new(), lua_version)
    }

    pub fn site_with(&self, runner: LocalRunner, lua_version: &str) -> PackageSite {
        PackageSite::new(Arc::new(runner), lua_version, self.tree().to_str().unwrap())
    }

    /// A curator for Lua 5.4 that installs from the directory of rocks.
    pub fn curator(&self) -> Curator {
        self.curator_for("5.4")
    }

    pub fn curator_for(&self, lua_version: &str) -> Curator {
        Curator::new(self.site(lua_version)).with_servers([RocksServer::Directory(self.rocks())])
    }

    /// Packs rocks into the directory.
    pub async fn publish(&self, rocks: &[Source]) {
        let sources: Vec<_> = rocks
            .iter()
            .map(|rock| rock.write(&self.path("sources")))
            .collect();
        publish(&sources, &self.rocks(), &LocalRunner::new())
            .await
            .unwrap();
    }

    /// What an interpreter prints that looks for modules in the tree only.
    pub fn run_lua(&self, lua_version: &str, program: &str) -> String {
        let tree = self.tree();
        let variables = bioxen_vm_core::lua::search_path(lua_version, tree.to_str().unwrap());
        self.run(&format!("lua{lua_version}"), variables, program)
    }

    /// What an interpreter prints with these variables and no others.
    pub fn run(
        &self,
        interpreter: &str,
        variables: [(String, String); 2],
        program: &str,
    ) -> String {
        let output = process::Command::new(interpreter)
            .args(["-e", program])
            .env_clear()
            .env("PATH", bioxen_vm_core::local::DEFAULT_PATH)
            .envs(variables)
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// All files of the tree with their contents, without the curator's own.
    pub fn snapshot(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        walk(&self.tree(), &mut files);
        let root = self.tree();
        let mut files: Vec<_> = files
            .into_iter()
            .map(|path| {
                let name = path.strip_prefix(&root).unwrap();
                (name.display().to_string(), fs::read(&path).unwrap())
            })
            .filter(|(name, _)| !name.starts_with(".bioxen"))
            .collect();
        files.sort();
        files
    }
}

fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// Writes the sources of a rock whose build is this command.
pub fn rock_with_command(sources: &Path, name: &str, command: &str) -> PathBuf {
    let dir = sources.join(name);
    fs::create_dir_all(&dir).unwrap();
    let rockspec = format!(
        "package = \"{name}\"\nversion = \"1.0-1\"\nsource = {{ url = \"file://none\" }}\n\
         description = {{ summary = \"A rock for tests\", license = \"MIT\" }}\n\
         build = {{ type = \"command\", build_command = \"{command}\" }}\n"
    );
    fs::write(dir.join(format!("{name}-1.0-1.rockspec")), rockspec).unwrap();
    dir
}

/// The sources of a rock.
pub struct Source {
    name: &'static str,
    version: &'static str,
    dependencies: &'static str,
    file: &'static str,
    content: String,
}

impl Source {
    /// A rock of Lua alone, whose module gives its name and version.
    pub fn lua(name: &'static str, version: &'static str, dependencies: &'static str) -> Self {
        Self {
            name,
            version,
            dependencies,
            file: "module.lua",
            content: format!("return \"{name} {version}\"\n"),
        }
    }

    /// A rock of C code.
    pub fn c(name: &'static str, content: &str) -> Self {
        Self {
            name,
            version: "1.0-1",
            dependencies: "",
            file: "module.c",
            content: content.into(),
        }
    }

    /// A rock of C code that gives 42.
    pub fn answer() -> Self {
        Self::c(
            "answer",
            "#include <lua.h>\n\
             int luaopen_answer(lua_State *L) { lua_pushinteger(L, 42); return 1; }\n",
        )
    }

    pub fn with_content(mut self, content: String) -> Self {
        self.content = content;
        self
    }

    pub fn with_dependencies(mut self, dependencies: &'static str) -> Self {
        self.dependencies = dependencies;
        self
    }

    /// Writes the sources and gives their directory.
    pub fn write(&self, into: &Path) -> PathBuf {
        let Self {
            name,
            version,
            dependencies,
            file,
            content,
        } = self;
        let dir = into.join(format!("{name}-{version}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(file), content).unwrap();
        let rockspec = format!(
            "package = \"{name}\"\nversion = \"{version}\"\n\
             source = {{ url = \"git+https://nowhere.invalid/{name}.git\" }}\n\
             description = {{ summary = \"A rock for tests\", license = \"MIT\" }}\n\
             dependencies = {{ \"lua >= 5.1\", {dependencies} }}\n\
             build = {{ type = \"builtin\", modules = {{ {name} = \"{file}\" }} }}\n"
        );
        fs::write(dir.join(format!("{name}-{version}.rockspec")), rockspec).unwrap();
        dir
    }
}

/// Runs commands on this machine after changing them.
pub struct Through {
    runner: LocalRunner,
    change: Box<dyn Fn(Command) -> Command + Send + Sync>,
}

impl Through {
    pub fn new(change: impl Fn(Command) -> Command + Send + Sync + 'static) -> Self {
        Self {
            runner: LocalRunner::new(),
            change: Box::new(change),
        }
    }
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Through").finish_non_exhaustive()
    }
}

#[async_trait]
impl Runner for Through {
    async fn run(&self, command: Command) -> Result<Outcome> {
        self.runner.run((self.change)(command)).await
    }

    async fn run_streaming(&self, command: Command, sink: &mut dyn OutputSink) -> Result<Outcome> {
        self.runner
            .run_streaming((self.change)(command), sink)
            .await
    }

    fn describe(&self) -> String {
        "a machine of its own".into()
    }
}

/// Runs a command where there is no network, not even loopback.
pub fn without_network(mut command: Command) -> Command {
    let program = std::mem::replace(&mut command.program, "unshare".into());
    let mut args = vec!["-rn".to_owned(), "--".to_owned(), program];
    args.append(&mut command.args);
    command.args = args;
    command
}

/// Says aloud what is not tested here, and what it takes.
#[allow(clippy::print_stderr, reason = "the only way for a test to be heard")]
pub fn skipped(what: &str) {
    eprintln!("NOT TESTED: {what}");
}

/// Whether rocks of C code can be built for this Lua. Says so aloud where not.
pub fn can_compile(lua_version: &str) -> bool {
    let header = format!("/usr/include/lua{lua_version}/lua.h");
    let compiler = ["/usr/bin/cc", "/usr/bin/gcc"];
    if Path::new(&header).is_file() && compiler.iter().any(|path| Path::new(path).exists()) {
        return true;
    }
    skipped(&format!(
        "rocks of C code; for that apt-get install liblua{lua_version}-dev gcc"
    ));
    false
}
