//! Packages of VMs of both types, and `bioxen pkg`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it leaves out")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bioxen::curator::{
    Bundle, Curator, Error, LuaVmPackages as _, RockRequest, RocksServer, publish,
};
use bioxen::embedded::EmbeddedPool;
use bioxen::local::LocalRunner;
use bioxen::{LuaVm, Outcome, OutputSink, PackageSite, Runner, Script, Value, VmManager};
use serde_json::json;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn own_rocks() -> [PathBuf; 2] {
    ["bio_compute", "bio_sequence_analysis"].map(|name| Path::new(ROOT).join("rocks").join(name))
}

/// Writes the sources of a rock that is built like this of one file.
fn rock(folder: &Path, stem: &str, build: &str, file: (&str, &str)) -> PathBuf {
    let (name, version) = stem.split_once('-').unwrap();
    let dir = folder.join(stem);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(file.0), file.1).unwrap();
    let rockspec = format!(
        "package = \"{name}\"\nversion = \"{version}\"\n\
         source = {{ url = \"file://none\" }}\n\
         description = {{ summary = \"A rock for tests\", license = \"MIT\" }}\n\
         dependencies = {{ \"lua >= 5.1\" }}\nbuild = {{ {build} }}\n"
    );
    std::fs::write(dir.join(format!("{stem}.rockspec")), rockspec).unwrap();
    dir
}

/// A rock of Lua that gives its version.
fn gamma(folder: &Path, version: &str) -> PathBuf {
    let build = "type = \"builtin\", modules = { gamma = \"gamma.lua\" }";
    let code = format!("return {version:?}\n");
    rock(
        folder,
        &format!("gamma-{version}"),
        build,
        ("gamma.lua", &code),
    )
}

/// A rock of C code that gives 42.
fn answer(folder: &Path) -> PathBuf {
    let build = "type = \"builtin\", modules = { answer = \"answer.c\" }";
    let code = "#include <lua.h>\n\
                int luaopen_answer(lua_State *L) { lua_pushinteger(L, 42); return 1; }\n";
    rock(folder, "answer-1.0-1", build, ("answer.c", code))
}

/// A rock whose build kills the sshd that it runs below, which cuts the connection, and goes on.
fn cutter(folder: &Path) -> PathBuf {
    let build = "type = \"command\", build_command = \"sh cut.sh\"";
    let cut = "up=$$\n\
               until read -r name </proc/$up/comm && [ \"${name#sshd}\" != \"$name\" ]; do\n\
                 up=$(sed -n 's/^PPid:[[:blank:]]*//p' /proc/$up/status)\n\
               done\n\
               kill -9 \"$up\"\n\
               exec sleep 3600\n";
    rock(folder, "cutter-1.0-1", build, ("cut.sh", cut))
}

async fn said_by(vm: &dyn LuaVm, program: &'static str) -> String {
    said(vm, Script::new(program)).await
}

async fn said(vm: &dyn LuaVm, script: Script) -> String {
    let outcome = vm.execute(script).await.unwrap();
    format!("{}{}", outcome.stdout_text(), outcome.stderr_text())
}

/// Runs commands on a machine without any network, not even loopback.
#[derive(Debug)]
struct Offline(Arc<dyn Runner>);

impl Offline {
    fn cut(mut command: bioxen::Command) -> bioxen::Command {
        let program = std::mem::replace(&mut command.program, "unshare".into());
        let before = ["-rn", "--", &program].map(str::to_owned);
        command.args.splice(0..0, before);
        command
    }
}

#[async_trait]
impl Runner for Offline {
    async fn run(&self, command: bioxen::Command) -> bioxen::Result<Outcome> {
        self.0.run(Self::cut(command)).await
    }

    async fn run_streaming(
        &self,
        command: bioxen::Command,
        sink: &mut dyn OutputSink,
    ) -> bioxen::Result<Outcome> {
        self.0.run_streaming(Self::cut(command), sink).await
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// What holds for the packages of a guest, also where it has no network.
async fn packages_of(vm: &dyn LuaVm, bundle: &Path) {
    let mut site = vm.curator().await.unwrap().site().clone();
    let offline = Offline(site.runner.clone());
    let count = bioxen::Command::new("grep").args(["-c", ":", "/proc/net/dev"]);
    let interfaces = offline.run(count).await.unwrap();
    if interfaces.success() {
        assert_eq!(interfaces.stdout_text(), "1\n", "loopback, which is down");
        site.runner = Arc::new(offline);
    } else {
        println!("NOT TESTED: guests without network; for that, allow user namespaces");
    }
    let curator = Curator::new(site).with_servers([RocksServer::Archive(bundle.to_owned())]);
    let requests: Vec<RockRequest> = ["bio_sequence_analysis", "answer"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let lock = curator.lock(&requests).await.unwrap();
    let report = curator.install_locked(&lock).await.unwrap();
    assert_eq!(report.installed.len(), 3);
    let program = "print(require('bio_compute').reverse_complement('AACG'), (require('answer')))";
    assert_eq!(said(vm, Script::new(program)).await, "CGTT\t42\n");
    assert!(curator.verify(Some(&lock)).await.unwrap().is_good());

    // An environment beside it sees its own rocks only, and is not seen.
    let env = curator.environment("other").unwrap();
    env.curator().install_package("bio_compute").await.unwrap();
    let program = "print((pcall(require, 'bio_compute')), (pcall(require, 'answer')))";
    let heard = said(vm, env.activate(Script::new(program))).await;
    assert_eq!(heard, "true\tfalse\n");

    curator.undo().await.unwrap();
    assert!(curator.list().await.unwrap().is_empty());
    let heard = said(vm, Script::new("print((pcall(require, 'bio_compute')))")).await;
    assert_eq!(heard, "false\n");
}

#[tokio::test]
async fn vms_of_both_types_install_lock_and_undo_from_a_bundle_without_any_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = own_rocks().to_vec();
    sources.push(answer(folder.path()));
    let rocks = folder.path().join("rocks");
    publish(&sources, &rocks, &LocalRunner::new())
        .await
        .unwrap();
    let bundle = folder.path().join("bundle.tar.gz");
    let requests: Vec<RockRequest> = ["bio_sequence_analysis", "answer"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    Bundle::new([RocksServer::Directory(rocks.clone())])
        .write_archive(&requests, &bundle)
        .await
        .unwrap();
    std::fs::remove_dir_all(&rocks).unwrap();

    let pool = EmbeddedPool::start().await.unwrap();
    let manager = VmManager::new(bioxen::factory());
    let guest = manager
        .create_vm("guest", "xcpng", pool.config())
        .await
        .unwrap();
    packages_of(&*guest, &bundle).await;
    let config = json!({"worker": env!("CARGO_BIN_EXE_bioxen")});
    let local = manager.create_vm("local", "basic", config).await.unwrap();
    pure_packages_of(&*local, &bundle).await;
    manager.shutdown_all().await.unwrap();
    pool.shutdown().await;
}

#[tokio::test]
async fn pure_and_c_rocks_install_in_a_guest_for_every_lua() {
    let folder = tempfile::tempdir().unwrap();
    let rocks = folder.path().join("rocks");
    let sources = [gamma(folder.path(), "1.0-1"), answer(folder.path())];
    publish(&sources, &rocks, &LocalRunner::new())
        .await
        .unwrap();
    let pool = EmbeddedPool::start().await.unwrap();
    let manager = VmManager::new(bioxen::factory());
    let guest = manager
        .create_vm("guest", "xcpng", pool.config())
        .await
        .unwrap();
    let site = guest.curator().await.unwrap().site().clone();
    for (interpreter, lua) in [
        ("lua5.1", "5.1"),
        ("lua5.3", "5.3"),
        ("lua5.4", "5.4"),
        ("luajit", "5.1"),
    ] {
        let tree = format!("{}-{interpreter}", site.tree);
        let own = PackageSite::new(site.runner.clone(), lua, tree.clone());
        let servers = [RocksServer::Directory(rocks.clone())];
        let curator = Curator::new(own).with_servers(servers);
        curator.install_package("gamma").await.unwrap();
        curator.install_package("answer").await.unwrap();
        let program = "print(require('gamma'), (require('answer')))";
        let mut run = bioxen::Command::new(interpreter).args(["-e", program]);
        for (name, value) in bioxen::lua::search_path(lua, &tree) {
            run = run.with_env(name, value);
        }
        let outcome = site.runner.run(run).await.unwrap();
        assert_eq!(
            outcome.stdout_text(),
            "1.0-1\t42\n",
            "{interpreter}: {outcome:?}"
        );
    }
    manager.shutdown_all().await.unwrap();
    pool.shutdown().await;
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_is_repaired_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let rocks = folder.path().join("rocks");
    let sources = [
        gamma(folder.path(), "1.0-1"),
        gamma(folder.path(), "2.0-1"),
        cutter(folder.path()),
    ];
    publish(&sources, &rocks, &LocalRunner::new())
        .await
        .unwrap();
    let pool = EmbeddedPool::start().await.unwrap();
    let manager = VmManager::new(bioxen::factory());
    let guest = manager
        .create_vm("guest", "xcpng", pool.config())
        .await
        .unwrap();
    let curator = guest.curator().await.unwrap();
    let curator = curator.with_servers([RocksServer::Directory(rocks)]);
    curator.install_package("gamma 1.0").await.unwrap();
    let site = curator.site().clone();
    let sums = async || {
        let sum = "cd \"$1\" && find bin lib share -type f -exec sha256sum {} + 2>/dev/null | sort";
        let sum = bioxen::Command::new("sh").args(["-c", sum, "sh", &site.tree]);
        site.runner
            .run(sum)
            .await
            .unwrap()
            .stdout_text()
            .into_owned()
    };
    let before = sums().await;
    assert!(before.contains("gamma.lua"), "{before}");

    let requests = ["gamma 2.0", "cutter"].map(|text| text.parse::<RockRequest>().unwrap());
    let error = curator.install(&requests).await.unwrap_err();
    assert!(matches!(error, Error::Machine { .. }), "{error}");
    assert_ne!(sums().await, before, "it is half done now");
    let said = curator.list().await.unwrap();
    assert_eq!(said[0].to_string(), "gamma 1.0-1");
    assert_eq!(said.len(), 1);
    assert_eq!(sums().await, before);

    let error = curator.install(&requests).await.unwrap_err();
    assert!(matches!(error, Error::Machine { .. }), "{error}");
    let report = curator.install(&requests[..1]).await.unwrap();
    assert!(report.repaired);
    assert_eq!(
        report.to_string(),
        "installed gamma 2.0-1; replaced gamma 1.0-1"
    );
    assert_eq!(
        said_by(&*guest, "print((require('gamma')))").await,
        "2.0-1\n"
    );
    manager.shutdown_all().await.unwrap();
    pool.shutdown().await;
}

#[tokio::test]
async fn the_rocks_of_this_project_come_along_and_install_in_every_vm() {
    let pool = EmbeddedPool::start().await.unwrap();
    let manager = VmManager::new(bioxen::factory());
    let config = json!({"worker": env!("CARGO_BIN_EXE_bioxen")});
    for (vm_type, config) in [("xcpng", pool.config()), ("basic", config)] {
        let vm = manager.create_vm(vm_type, vm_type, config).await.unwrap();
        let curator = vm.curator().await.unwrap();
        let curator = curator.with_servers([bioxen::rocks::server().unwrap()]);
        let report = curator
            .install_package("bio_sequence_analysis")
            .await
            .unwrap();
        assert_eq!(report.installed.len(), 2);
        let program = "print(require('bio_compute').reverse_complement('AACG'))";
        assert_eq!(said_by(&*vm, program).await, "CGTT\n");
    }
    manager.shutdown_all().await.unwrap();
    pool.shutdown().await;
}

/// What holds for local VMs, whose Lua is not that of the machine.
async fn pure_packages_of(vm: &dyn LuaVm, bundle: &Path) {
    let curator: Curator = vm.curator().await.unwrap();
    let curator = curator.with_servers([RocksServer::Archive(bundle.to_owned())]);
    let env = curator.environment("bio").unwrap();
    env.curator().install_package("bio_compute").await.unwrap();
    let program = "print((pcall(require, 'bio_compute')))";
    assert_eq!(said(vm, Script::new(program)).await, "false\n");
    assert_eq!(said(vm, env.activate(Script::new(program))).await, "true\n");
}

/// `bioxen pkg` with homes of its own.
fn pkg_command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    command
        .arg("pkg")
        .args(args)
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_CACHE_HOME")
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

fn pkg(home: &Path, args: &[&str]) -> Output {
    pkg_command(home, args).output().unwrap()
}

fn stdout(home: &Path, args: &[&str]) -> String {
    let output = pkg(home, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_program_publishes_plans_locks_installs_verifies_and_undoes() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let said = stdout(home, &["search", "bio_c", "--server", "bioxen"]);
    assert!(said.ends_with(" bioxen\n"), "{said}");
    let [compute, analysis] = own_rocks().map(|path| path.to_str().unwrap().to_owned());
    let said = stdout(home, &["publish", &compute, &analysis, "--into", "rocks"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    let from = ["--server", "rocks"];
    let with = |args: &[&str]| stdout(home, &[args, &from].concat());

    let said = with(&["install", "--dry-run", "bio_sequence_analysis"]);
    assert!(said.starts_with("install bio_compute "), "{said}");
    assert_eq!(with(&["list"]), "");
    assert!(with(&["lock", "bio_sequence_analysis"]).starts_with("2 rocks in bioxen.lock"));
    let said = with(&["install", "--locked"]);
    assert!(said.starts_with("installed bio_compute "), "{said}");
    let exported = with(&["export"]);
    assert_eq!(exported.lines().count(), 2, "{exported}");
    assert!(with(&["verify", "--lock", "bioxen.lock"]).contains("as they were installed"));
    let json: Value = serde_json::from_str(&with(&["list", "--json"])).unwrap();
    assert_eq!(json[0]["name"], "bio_compute");
    assert!(with(&["info", "bio_compute"]).contains("state: installed"));
    assert!(with(&["search", "bio"]).contains("bio_sequence_analysis"));
    assert!(with(&["doctor"]).contains("luarocks: good"));
    assert!(
        with(&["upgrade"]).starts_with("bio_compute"),
        "nothing is newer"
    );
    let path = with(&["path"]);
    assert!(path.starts_with("export LUA_PATH_5_4='"), "{path}");
    let lua = Command::new("sh")
        .args([
            "-c",
            &format!("{path} exec lua5.4 -e \"print(require('bio_compute').gc_content('GC'))\""),
        ])
        .output()
        .unwrap();
    assert!(lua.status.success(), "{lua:?}");
    // What the shell had stays behind it, and a second time nothing is added.
    let mut path = "/mine/?.lua;;".to_owned();
    for _ in 0..2 {
        let mut again = pkg_command(home, &["path", "--json"]);
        let output = again.env("LUA_PATH_5_4", &path).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        path = json[0][1].as_str().unwrap().to_owned();
        assert!(path.ends_with("init.lua;/mine/?.lua;;"), "{path}");
        assert_eq!(path.matches("/mine").count(), 1);
    }

    assert!(with(&["bundle", "bio_compute", "--into", "b.tar.gz"]).starts_with("1 rocks"));
    let said = stdout(
        home,
        &[
            "install",
            "bio_compute",
            "--env",
            "e",
            "--server",
            "b.tar.gz",
        ],
    );
    assert!(said.starts_with("installed bio_compute"), "{said}");
    assert_eq!(with(&["env"]), "e\n");
    assert_eq!(with(&["env", "--remove", "e"]), "removed e\n");
    assert_eq!(with(&["env"]), "");
    let gone = pkg(home, &["env", "--remove", "e"]);
    assert_eq!(gone.status.code(), Some(125), "{gone:?}");

    let share = home.join(".local/share/bioxen/rocks-5.4/share/lua/5.4");
    std::fs::remove_file(share.join("bio_compute.lua"))
        .or_else(|_| std::fs::remove_file(share.join("bio_compute/init.lua")))
        .unwrap();
    let broken = pkg(home, &["verify"]);
    assert_eq!(broken.status.code(), Some(1));
    with(&["remove", "bio_sequence_analysis"]);
    assert!(with(&["undo"]).starts_with("restored bio_sequence_analysis"));
}

#[test]
fn what_is_wrong_with_a_tree_is_told_with_what_puts_it_right() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let own = ["--tree", "t", "--server", "bioxen"];
    let with = |args: &[&str]| pkg(home, &[args, &own].concat());
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    let none = with(&["install", "bio_sequence_analysis"]);
    assert!(none.status.success(), "{none:?}");
    for change in ["remove", "upgrade"] {
        let output = with(&[change, "bio_computer"]);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let names = "it has \"bio_compute\", \"bio_sequence_analysis\"\n";
        assert!(said(&output).ends_with(names), "{output:?}");
    }
    let info = with(&["info", "bio_compute", "--json"]);
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(
        (&info["installed"], &info["server"]),
        (&true.into(), &"bioxen".into())
    );

    let module = home.join("t/share/lua/5.4/bio_compute/align.lua");
    std::fs::write(&module, "return nil").unwrap();
    let broken = with(&["verify"]);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    let hint = said(&broken);
    let exact = "bio_compute == 0.1.0-1";
    for command in [
        "pkg --tree t remove --force bio_compute`",
        &format!("pkg --tree t install '{exact}'`"),
    ] {
        assert!(hint.contains(command), "{hint}");
    }
    assert_eq!(hint.lines().count(), 1, "{hint}");
    // It does.
    assert!(with(&["remove", "--force", "bio_compute"]).status.success());
    assert!(with(&["install", exact]).status.success());
    let good = with(&["verify"]);
    assert!(good.status.success() && good.stderr.is_empty(), "{good:?}");
}

#[test]
fn a_program_that_is_killed_in_a_build_is_cleaned_up_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let started = home.join("started");
    let fifo = Command::new("mkfifo").arg(&started).status().unwrap();
    assert!(fifo.success());
    let build = "type = \"command\", build_command = \"sh build.sh\"";
    let script = format!("echo $$ >{}\nexec sleep 3600\n", started.display());
    let endless = rock(home, "endless-1.0-1", build, ("build.sh", &script));
    let sources = [gamma(home, "1.0-1"), gamma(home, "2.0-1"), endless];
    let sources = sources.map(|source| source.to_str().unwrap().to_owned());
    let publish: Vec<_> = sources.iter().map(String::as_str).collect();
    stdout(
        home,
        &[&["publish"], &publish[..], &["--into", "rocks"]].concat(),
    );
    let from = ["--server", "rocks"];
    stdout(home, &[&["install", "gamma 1.0"], &from[..]].concat());

    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["pkg", "install", "gamma 2.0", "endless"])
        .args(from)
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_CACHE_HOME")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = std::fs::read_to_string(&started).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(stdout(home, &["list"]), "gamma 1.0-1\n");
    assert!(stdout(home, &["verify"]).contains("as they were installed"));
    let process = Path::new("/proc").join(pid.trim()).join("cmdline");
    let left = std::fs::read_to_string(process).unwrap_or_default();
    assert!(!left.contains("sleep"), "{left}");
}

/// Runs `bioxen run` with the homes of `pkg`.
fn run(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .arg("run")
        .args(args)
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .env("XDG_CONFIG_HOME", home)
        .env("XDG_STATE_HOME", home)
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_program_finds_the_rocks_of_the_tree_or_environment_that_it_is_run_with() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let install = ["install", "bio_compute", "--server", "bioxen"];
    stdout(home, &[&install[..], &["--env", "old"]].concat());
    stdout(home, &[&install[..], &["--tree", "tree"]].concat());
    let program = ["-e", "print((pcall(require, 'bio_compute')))"];
    for (options, finds) in [
        (&["--env", "old"][..], "true\n"),
        (&["--tree", "tree"], "true\n"),
        (&[], "false\n"),
    ] {
        let output = run(home, &[options, &program[..]].concat());
        assert_eq!(output.stdout, finds.as_bytes(), "{options:?}: {output:?}");
    }
    // A session does, too, and so do programs over records.
    std::fs::write(home.join("p.lua"), "print((pcall(require, 'bio_compute')))").unwrap();
    std::fs::write(home.join("records"), "1\n").unwrap();
    let mapped = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args([
            "map", "--by", "lines", "--vms", "1", "--env", "old", "p.lua", "records",
        ])
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .env("XDG_CONFIG_HOME", home)
        .current_dir(home)
        .output()
        .unwrap();
    assert_eq!(mapped.stdout, b"true\n", "{mapped:?}");
    let mut shell = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["shell", "--env", "old"])
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = b"print(type(require('bio_compute')))\n";
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), line).unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"table\n");
    // What is recorded finds them again.
    let recorded = [&["--env", "old", "--record", "run.json"][..], &program].concat();
    assert!(run(home, &recorded).status.success());
    let replayed = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["replay", "run.json", "--json"])
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .env("XDG_CONFIG_HOME", home)
        .current_dir(home)
        .output()
        .unwrap();
    let told: serde_json::Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert_eq!(told["same"], true, "{replayed:?}");
    // The rocks of a VM are not where its programs look.
    let both = ["--env", "old", "-p", "bio_compute", "--server", "bioxen"];
    let refused = run(home, &[&both[..], &program].concat());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("--package installs rocks in the VM"),
        "{said}"
    );
}

#[test]
fn an_environment_that_is_not_there_is_named_with_how_to_make_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let install = ["install", "bio_compute", "--server", "bioxen"];
    stdout(home, &[&install[..], &["--env", "old"]].concat());
    let made = "`bioxen pkg --env odl install ROCK` makes it";
    for args in [
        &["list"][..],
        &["verify"],
        &["undo"],
        &["export"],
        &["path"],
        &["remove", "x"],
        &["upgrade"],
        &["info", "bio_compute"],
    ] {
        let output = pkg(home, &[args, &["--env", "odl"]].concat());
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("no environment \"odl\"; there are old"),
            "{said}"
        );
        assert!(said.contains(made), "{said}");
    }
    let output = run(home, &["--env", "odl", "-e", "print(1)"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(made), "{said}");
    assert_eq!(stdout(home, &["list", "--env", "old"]).lines().count(), 1);
}

#[test]
fn wrong_input_is_one_line_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    std::fs::create_dir(home.join("rocks")).unwrap();
    for (args, said) in [
        (
            vec!["install", "x", "--server", "rocks"],
            "make one with `bioxen pkg publish`",
        ),
        (vec!["install"], "name a rock"),
        (
            vec!["install", "--locked", "gone.lock"],
            "cannot read the lock gone.lock",
        ),
        (
            vec!["profiles", "nope"],
            "there is no profile \"nope\"; there are ",
        ),
        (vec!["undo"], "has no previous set of rocks"),
    ] {
        let output = pkg(home, &args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let output = pkg(home, &["install", "x; reboot"]);
    assert_eq!(output.status.code(), Some(125));
    let profiles = stdout(home, &["profiles", "bioxen-ai"]);
    assert!(
        profiles.contains("# gabby-lua is unavailable"),
        "{profiles}"
    );
    std::fs::write(
        home.join("manifest.json"),
        r#"{"packages": {"lpeg": {}, "packages": {}}}"#,
    )
    .unwrap();
    let imported = stdout(home, &["import", "manifest.json"]);
    assert!(imported.ends_with("\nlpeg\n"), "{imported}");
}

#[test]
fn the_rockspecs_of_this_project_pass_luarocks_lint() {
    for dir in own_rocks() {
        let rockspec = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|end| end == "rockspec"))
            .unwrap();
        let lint = Command::new("luarocks")
            .args(["--lua-version", "5.4", "lint"])
            .arg(&rockspec)
            .env("HOME", env!("CARGO_TARGET_TMPDIR"))
            .output()
            .unwrap();
        assert!(lint.status.success(), "{lint:?}");
    }
}
