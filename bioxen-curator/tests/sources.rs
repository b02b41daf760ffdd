//! Rocks of which a server has only the rockspec, rockspecs that compute, and rocks of a program.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bioxen_curator::{
    Bundle, Cache, Curator, EmbeddedRocks, Error, Lock, RockRequest, RocksServer, publish,
};
use bioxen_vm_core::PackageSite;
use bioxen_vm_core::local::LocalRunner;
use support::{Source, Through, World, without_network};

fn request(text: &str) -> [RockRequest; 1] {
    [text.parse().unwrap()]
}

fn run(folder: &Path, program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env("HOME", folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// Answers each connection on a port of loopback, and gives the port. Lives as long as the test.
fn answering(answer: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    port
}

/// Serves the files of a folder over HTTP.
fn files_of(folder: PathBuf) -> u16 {
    answering(move |mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let found = std::fs::read(folder.join(path.trim_start_matches('/')));
        let status = if found.is_ok() {
            "200 OK"
        } else {
            "404 Not Found"
        };
        let content = found.unwrap_or_default();
        let length = content.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.write_all(&content);
    })
}

/// Serves the repositories of a folder as `git://` does.
fn repositories_of(folder: PathBuf) -> u16 {
    answering(move |stream| {
        let base = format!("--base-path={}", folder.display());
        let daemon = Command::new("git")
            .args(["daemon", "--inetd", "--export-all", &base])
            .stdin(OwnedFd::from(stream.try_clone().unwrap()))
            .stdout(OwnedFd::from(stream))
            .stderr(Stdio::null())
            .status();
        assert!(daemon.unwrap().success());
    })
}

/// A server that has only the rockspec of `far`.
fn rockspec_only(world: &World, source: &str) -> RocksServer {
    let folder = world.path("elsewhere");
    std::fs::create_dir_all(&folder).unwrap();
    let rockspec = format!(
        "package = \"far\"\nversion = \"1.0-1\"\nsource = {{ {source} }}\n\
         description = {{ summary = \"A rock for tests\", license = \"MIT\" }}\n\
         dependencies = {{ \"lua >= 5.1\" }}\n\
         build = {{ type = \"builtin\", modules = {{ far = \"far.lua\" }} }}\n"
    );
    std::fs::write(folder.join("far-1.0-1.rockspec"), rockspec).unwrap();
    let manifest = "repository = { far = { [\"1.0-1\"] = { { arch = \"rockspec\" } } } }\n";
    for lua in ["5.1", "5.4"] {
        std::fs::write(folder.join(format!("manifest-{lua}")), manifest).unwrap();
    }
    RocksServer::Directory(folder)
}

/// Packs the sources of `far` into an archive.
fn archive(world: &World, folder: &Path, says: &str) {
    let sources = world.path("work/far-1.0");
    std::fs::create_dir_all(&sources).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(sources.join("far.lua"), format!("return {says:?}\n")).unwrap();
    let into = folder.join("far-1.0.tar.gz");
    let into = into.to_str().unwrap();
    run(&world.path("work"), "tar", &["-czf", into, "far-1.0"]);
}

/// A curator of another tree.
fn other(world: &World, name: &str, runner: Arc<dyn bioxen_vm_core::Runner>) -> Curator {
    let tree = world.path(name);
    Curator::new(PackageSite::new(runner, "5.4", tree.to_str().unwrap()))
}

#[tokio::test]
async fn sources_are_locked_with_their_sha_256_and_refused_when_they_changed() {
    let world = World::new();
    let web = world.path("web");
    archive(&world, &web, "near");
    let port = files_of(web.clone());
    let server = rockspec_only(
        &world,
        &format!("url = \"http://127.0.0.1:{port}/far-1.0.tar.gz\""),
    );
    let curator = world.curator().with_servers([server.clone()]);
    let lock = curator.lock(&request("far")).await.unwrap();
    let locked = &lock.rocks[0];
    assert_eq!(locked.file, "far-1.0-1.src.rock");
    assert!(locked.source.ends_with("/elsewhere/far-1.0-1.rockspec"));
    assert!(
        locked
            .sources
            .as_ref()
            .unwrap()
            .ends_with("/far-1.0.tar.gz")
    );
    let again = curator.lock(&request("far")).await.unwrap();
    assert_eq!(again, lock, "the same sources are the same rock");
    let lock: Lock = lock.to_string().parse().unwrap();

    let report = curator.install_locked(&lock).await.unwrap();
    assert_eq!(report.installed[0].sha256.as_ref(), Some(&locked.sha256));
    assert_eq!(world.run_lua("5.4", "print((require('far')))"), "near\n");
    assert!(curator.verify(Some(&lock)).await.unwrap().is_good());

    archive(&world, &web, "forged");
    let second = other(&world, "second", Arc::new(LocalRunner::new()));
    let second = second.with_servers([server]);
    let error = second.install_locked(&lock).await.unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert!(!world.path("second").exists());
}

#[tokio::test]
async fn a_cache_keeps_packed_sources_for_trees_that_have_no_network() {
    let world = World::new();
    let repositories = world.path("git");
    let work = world.path("git/far");
    std::fs::create_dir_all(&work).unwrap();
    std::fs::write(work.join("far.lua"), "return 'near'\n").unwrap();
    run(&work, "git", &["init", "-q"]);
    run(&work, "git", &["add", "far.lua"]);
    let by = ["-c", "user.name=a", "-c", "user.email=a@b"];
    run(
        &work,
        "git",
        &[&by[..], &["commit", "-q", "-m", "x"]].concat(),
    );
    run(&work, "git", &["tag", "v1.0"]);
    let port = repositories_of(repositories.clone());
    let source = format!("url = \"git://127.0.0.1:{port}/far\", tag = \"v1.0\"");
    let server = rockspec_only(&world, &source);

    let cache = Cache::new(world.path("cache"));
    let curator = world
        .curator()
        .with_servers([server.clone()])
        .with_cache(cache.clone());
    let lock = curator.lock(&request("far")).await.unwrap();
    let sources = lock.rocks[0].sources.as_deref().unwrap();
    assert!(sources.ends_with("/far at v1.0"), "{sources}");
    let bundle = world.path("bundle.tar.gz");
    let report = Bundle::new([server.clone()])
        .for_lua(["5.1", "5.4"])
        .write_archive(&request("far"), &bundle)
        .await
        .unwrap();
    assert!(report.files.contains_key("far-1.0-1.src.rock"));
    curator.install(&request("far")).await.unwrap();
    assert_eq!(world.run_lua("5.4", "print((require('far')))"), "near\n");

    // Nobody has the sources any more.
    std::fs::remove_dir_all(&repositories).unwrap();
    let probe = Command::new("unshare").args(["-rn", "--", "true"]).status();
    if !probe.unwrap().success() {
        support::skipped("machines without network; for that, allow user namespaces");
        return;
    }
    let offline = || Arc::new(Through::new(without_network));
    let second = other(&world, "second", offline())
        .with_servers([server])
        .with_cache(cache);
    second.install(&request("far")).await.unwrap();
    let third = other(&world, "third", offline()).with_servers([RocksServer::Archive(bundle)]);
    third.install_locked(&lock).await.unwrap();
    let trees = [second, third];
    for tree in &trees {
        assert!(tree.verify(Some(&lock)).await.unwrap().is_good());
    }
}

#[tokio::test]
async fn sources_that_may_not_be_fetched_are_told() {
    let world = World::new();
    let secret = world.path("secret.tar.gz");
    std::fs::write(&secret, "secret").unwrap();
    for (source, reason) in [
        (
            format!("url = \"file://{}\"", secret.display()),
            "nothing that can be fetched",
        ),
        (
            "url = \"git+file:///etc\"".into(),
            "nothing that can be fetched",
        ),
        (
            "url = \"http://127.0.0.1:1/a.tar.gz\", file = \"../../x\"".into(),
            "is no name of a file",
        ),
    ] {
        let curator = world
            .curator()
            .with_servers([rockspec_only(&world, &source)]);
        let error = curator.lock(&request("far")).await.unwrap_err();
        assert!(matches!(error, Error::NoSources { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let gone = rockspec_only(&world, "url = \"http://127.0.0.1:1/far-1.0.tar.gz\"");
    let curator = world.curator().with_servers([gone]);
    let error = curator.lock(&request("far")).await.unwrap_err();
    assert!(matches!(error, Error::Publish { .. }), "{error}");
    assert!(error.to_string().contains("http://127.0.0.1:1/"), "{error}");
    assert!(!world.tree().exists());
}

/// Writes the sources of a rock whose rockspec begins with this.
fn with_rockspec(world: &World, source: &Source, begins: &str) -> PathBuf {
    let dir = source.write(&world.path("sources"));
    let mut files = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let rockspec = files.find(|path| path.extension().is_some_and(|end| end == "rockspec"));
    let rockspec = rockspec.unwrap();
    let text = std::fs::read_to_string(&rockspec).unwrap();
    std::fs::write(rockspec, format!("{begins}\n{text}")).unwrap();
    dir
}

#[tokio::test]
async fn a_rockspec_that_computes_is_planned_installed_and_respected() {
    let world = World::new();
    let alpha = Source::lua("alpha", "1.0-1", "needed .. (\" >= %d\"):format(1 + 1)");
    let alpha = with_rockspec(&world, &alpha, "local unused, needed = 1, \"beta\"");
    let old = Source::lua("beta", "1.0-1", "").write(&world.path("sources"));
    let beta = Source::lua("beta", "2.0-1", "").write(&world.path("sources"));
    publish(&[alpha, old, beta], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    let curator = world.curator();
    let plan = curator.plan(&request("alpha")).await.unwrap();
    assert_eq!(plan.steps[1].needs, ["lua >= 5.1", "beta >= 2"]);
    curator.install(&request("alpha")).await.unwrap();
    // What an installed rock needs is known by running its rockspec, too.
    let error = curator.install(&request("beta < 2")).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn a_malicious_rockspec_is_told_and_the_tree_is_as_it_was() {
    let world = World::new();
    let witness = world.path("witness");
    let touch = format!("os.execute(\"touch {}\")", witness.display());
    let good = Source::lua("good", "1.0-1", "").write(&world.path("sources"));
    publish(&[good], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    let curator = world.curator();
    curator.install(&request("good")).await.unwrap();
    let before = world.snapshot();
    for (begins, reason) in [
        ("while true do end", "takes more than 10000000 steps"),
        (touch.as_str(), "a rockspec has no libraries of Lua"),
        (
            "local t = {} while true do t[#t + 1] = (\"x\"):rep(2 ^ 20) end",
            "memory",
        ),
    ] {
        // No tool packs such a rock, so it is made by hand.
        let dir = with_rockspec(&world, &Source::lua("evil", "1.0-1", ""), begins);
        run(
            &dir,
            "zip",
            &[
                "-q",
                "evil-1.0-1.src.rock",
                "evil-1.0-1.rockspec",
                "module.lua",
            ],
        );
        let folder = world.path("evil");
        std::fs::create_dir_all(&folder).unwrap();
        let rock = "evil-1.0-1.src.rock";
        std::fs::rename(dir.join(rock), folder.join(rock)).unwrap();
        let manifest = "repository = { evil = { [\"1.0-1\"] = { { arch = \"src\" } } } }\n";
        std::fs::write(folder.join("manifest-5.4"), manifest).unwrap();
        let curator = world
            .curator()
            .with_servers([RocksServer::Directory(folder)]);
        let error = curator.install(&request("evil")).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }
    assert!(!witness.exists());
    assert_eq!(world.snapshot(), before);
}

#[tokio::test]
async fn rocks_of_a_program_install_as_published_ones_do() {
    let world = World::new();
    let sources = [
        Source::lua("alpha", "1.0-1", "\"beta\""),
        Source::lua("beta", "1.0-1", ""),
    ];
    let folders = sources.map(|source| source.write(&world.path("sources")));
    std::fs::write(folders[0].join("README.md"), "A rock.\n").unwrap();
    publish(&folders, &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    world.curator().install(&request("alpha")).await.unwrap();
    let published = world.snapshot();
    std::fs::remove_dir_all(world.tree()).unwrap();
    std::fs::remove_dir_all(world.rocks()).unwrap();

    let mut files = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            files.push((format!("{name}/{file}"), std::fs::read(&path).unwrap()));
        }
    }
    let files = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()));
    let rocks = EmbeddedRocks::new("mine", files).unwrap();
    let curator = world
        .curator()
        .with_servers([RocksServer::Embedded(rocks.clone())]);
    let report = curator.install(&request("alpha")).await.unwrap();
    assert_eq!(report.installed[0].server.as_deref(), Some("mine"));
    assert_eq!(world.snapshot(), published);
    assert!(curator.doctor().await.unwrap().is_good());

    let lock = curator.lock(&request("alpha")).await.unwrap();
    assert_eq!(lock.rocks[0].source, "mine:beta-1.0-1.all.rock");
    let second = other(&world, "second", Arc::new(LocalRunner::new()));
    let error = second.install_locked(&lock).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchRock { .. }), "{error}");
    let second = second.with_servers([RocksServer::Embedded(rocks)]);
    second.install_locked(&lock).await.unwrap();
}
