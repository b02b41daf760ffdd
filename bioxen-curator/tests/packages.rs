//! Plans, locks, bundles, environments, and the way back, with the real LuaRocks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use bioxen_curator::{
    Builds, Bundle, Catalogue, Curator, Error, Form, Lock, Progress, Rock, RockName, RockRequest,
    RocksServer,
};
use bioxen_vm_core::PackageSite;
use bioxen_vm_core::local::{DEFAULT_PATH, LocalRunner};
use support::{Source, Through, World, can_compile, without_network};

fn requests(texts: &[&str]) -> Vec<RockRequest> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn words<'r>(rocks: impl IntoIterator<Item = &'r Rock>) -> String {
    let rocks: Vec<_> = rocks.into_iter().map(Rock::to_string).collect();
    rocks.join(", ")
}

async fn listed(curator: &Curator) -> String {
    words(&curator.list().await.unwrap())
}

/// A world with rocks that need each other in several versions.
async fn family() -> World {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta >= 1.0\", \"gamma ~> 1.4\""),
            Source::lua("alpha", "2.0-1", "\"beta >= 2\", \"gamma\""),
            Source::lua("beta", "1.0-1", ""),
            Source::lua("beta", "1.5-1", "\"gamma < 2\""),
            Source::lua("beta", "2.0-1", ""),
            Source::lua("gamma", "1.4.2-1", ""),
            Source::lua("gamma", "1.5-1", ""),
            Source::lua("gamma", "2.0-1", ""),
        ])
        .await;
    world
}

#[tokio::test]
async fn a_plan_says_what_will_be_done_and_does_nothing() {
    let world = family().await;
    let curator = world.curator();
    let plan = curator.plan(&requests(&["alpha < 2"])).await.unwrap();
    let steps = words(plan.steps.iter().map(|step| &step.rock));
    assert_eq!(steps, "beta 2.0-1, gamma 1.4.2-1, alpha 1.0-1");
    let rocks = world.rocks().display().to_string();
    assert_eq!(
        plan.to_string().lines().last().unwrap(),
        format!("install alpha 1.0-1 from {rocks} (needs lua >= 5.1; beta >= 1.0; gamma ~> 1.4)")
    );
    assert!(!world.tree().exists());

    let report = curator.install(&requests(&["alpha < 2"])).await.unwrap();
    assert_eq!(report.installed.len(), 3);
    let plan = curator.plan(&requests(&["alpha", "beta"])).await.unwrap();
    assert!(plan.is_empty());
    assert_eq!(words(&plan.present), "alpha 1.0-1, beta 2.0-1");
    let plan = curator.plan(&requests(&["gamma > 1.4.2"])).await;
    let error = plan.unwrap_err();
    assert!(
        matches!(&error, Error::Conflict { by, need, .. }
            if by == "alpha 1.0-1" && need == "gamma ~> 1.4"),
        "{error}"
    );
}

#[tokio::test]
async fn the_newest_version_wins_and_of_one_version_the_first_server() {
    let world = World::new();
    let mut servers = Vec::new();
    for (name, newest) in [("one", "1.0-1"), ("two", "1.0-1"), ("three", "1.1-1")] {
        let says = format!("return {name:?}\n");
        let sources = [
            Source::lua("alpha", newest, "").with_content(says.clone()),
            Source::lua("beta", "1.0-1", "").with_content(says),
        ];
        let folders = sources.map(|source| source.write(&world.path(name)));
        let into = world.path(&format!("server-{name}"));
        bioxen_curator::publish(&folders, &into, &LocalRunner::new())
            .await
            .unwrap();
        servers.push(RocksServer::Directory(into));
    }
    let curator = world.curator().with_servers(servers);
    curator
        .install(&requests(&["alpha", "beta"]))
        .await
        .unwrap();
    let program = "print(require('alpha'), (require('beta')))";
    assert_eq!(world.run_lua("5.4", program), "three\tone\n");
}

#[tokio::test]
async fn the_plan_chooses_what_luarocks_itself_chooses() {
    let world = family().await;
    for (number, request) in ["alpha", "beta 1.5", "gamma 1.4.2", "alpha 2.0"]
        .into_iter()
        .enumerate()
    {
        let plan = world.curator().plan(&requests(&[request])).await.unwrap();
        let mut ours: Vec<_> = plan.steps.iter().map(|s| s.rock.to_string()).collect();
        ours.sort();
        let tree = world.path(&format!("theirs-{number}"));
        let install = std::process::Command::new("luarocks")
            .args(["--lua-version", "5.4", "--tree"])
            .arg(&tree)
            .arg("--only-server")
            .arg(world.rocks())
            .arg("install")
            .args(request.split(' '))
            .env("HOME", world.dir.path())
            .current_dir(world.dir.path())
            .output()
            .unwrap();
        assert!(install.status.success(), "{install:?}");
        let site = PackageSite::new(Arc::new(LocalRunner::new()), "5.4", tree.to_str().unwrap());
        assert_eq!(
            listed(&Curator::new(site)).await,
            ours.join(", "),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_lock_gives_the_same_rocks_without_any_index_and_refuses_changed_ones() {
    let world = family().await;
    let curator = world.curator();
    let lock = curator.lock(&requests(&["alpha < 2"])).await.unwrap();
    let path = world.path("bioxen.lock");
    lock.write(&path).unwrap();
    assert!(!world.tree().exists(), "locking changes no tree");

    world.publish(&[Source::lua("gamma", "1.4.9-1", "")]).await;
    for version in ["5.1", "5.2", "5.3", "5.4"] {
        std::fs::remove_file(world.rocks().join(format!("manifest-{version}"))).unwrap();
    }
    let lock = Lock::read(&path).unwrap();
    let locked = "alpha 1.0-1, beta 2.0-1, gamma 1.4.2-1";
    curator.install_locked(&lock).await.unwrap();
    assert_eq!(listed(&curator).await, locked);
    assert!(curator.install_locked(&lock).await.unwrap().unchanged());
    assert!(curator.verify(Some(&lock)).await.unwrap().is_good());
    assert_eq!(
        curator.export().await.unwrap(),
        "alpha == 1.0-1\nbeta == 2.0-1\ngamma == 1.4.2-1\n"
    );

    // Another tree, after somebody has changed a rock under its name.
    let rock = world.rocks().join("beta-2.0-1.all.rock");
    std::fs::copy(world.rocks().join("beta-1.0-1.all.rock"), rock).unwrap();
    let site = PackageSite::new(
        Arc::new(LocalRunner::new()),
        "5.4",
        world.path("other").to_str().unwrap(),
    );
    let other = Curator::new(site).with_servers([RocksServer::Directory(world.rocks())]);
    let error = other.install_locked(&lock).await.unwrap_err();
    assert!(
        matches!(&error, Error::Changed { file, .. } if file == "beta-2.0-1.all.rock"),
        "{error}"
    );
    assert!(error.to_string().contains("nothing was installed"));
    assert!(!world.path("other").exists());

    let error = world.curator_for("5.3").install_locked(&lock).await;
    assert!(matches!(error.unwrap_err(), Error::Invalid(_)));
}

#[tokio::test]
async fn undo_returns_to_the_previous_rocks_and_back_again() {
    let world = family().await;
    let curator = world.curator();
    let error = curator.undo().await.unwrap_err();
    assert!(matches!(error, Error::NothingToUndo { .. }), "{error}");
    curator.install_package("gamma 1.5").await.unwrap();
    let before = world.snapshot();
    curator.install_package("gamma 2.0").await.unwrap();
    let after = world.snapshot();
    let report = curator.undo().await.unwrap();
    assert_eq!(words(&report.removed), "gamma 2.0-1");
    assert_eq!(words(&report.restored), "gamma 1.5-1");
    assert_eq!(world.snapshot(), before);
    curator.undo().await.unwrap();
    assert_eq!(world.snapshot(), after);
    assert!(curator.verify(None).await.unwrap().is_good());
}

#[tokio::test]
async fn upgrade_takes_the_newest_that_the_other_rocks_allow() {
    let world = family().await;
    let curator = world.curator();
    curator
        .install(&requests(&["beta 1.5", "gamma 1.4.2"]))
        .await
        .unwrap();
    let gamma = RockName::new("gamma").unwrap();
    curator.upgrade(&[gamma]).await.unwrap();
    assert_eq!(listed(&curator).await, "beta 1.5-1, gamma 1.5-1");
    curator.upgrade(&[]).await.unwrap();
    assert_eq!(listed(&curator).await, "beta 2.0-1, gamma 2.0-1");
    assert!(curator.upgrade(&[]).await.unwrap().unchanged());
    let gone = RockName::new("gone").unwrap();
    let error = curator.upgrade(&[gone]).await.unwrap_err();
    assert!(matches!(error, Error::NotInstalled { .. }), "{error}");
}

#[tokio::test]
async fn verify_finds_every_file_that_is_not_as_it_was() {
    let world = family().await;
    let curator = world.curator();
    curator
        .install(&requests(&["gamma", "beta"]))
        .await
        .unwrap();
    let share = world.tree().join("share/lua/5.4");
    std::fs::write(share.join("gamma.lua"), "return 'forged'").unwrap();
    std::fs::remove_file(share.join("beta.lua")).unwrap();
    std::fs::write(share.join("own.lua"), "return 1").unwrap();
    let found = curator.verify(None).await.unwrap();
    assert!(!found.is_good());
    assert_eq!(found.changed, ["share/lua/5.4/gamma.lua"]);
    assert_eq!(found.missing, ["share/lua/5.4/beta.lua"]);
    assert_eq!(found.foreign, ["share/lua/5.4/own.lua"]);
    let lock = curator.lock(&requests(&["alpha"])).await.unwrap();
    let found = curator.verify(Some(&lock)).await.unwrap();
    assert_eq!(words(&found.unlocked), "alpha 2.0-1");

    // A later change, and the way back, make none of it pass for installed.
    curator.install_package("alpha").await.unwrap();
    curator.undo().await.unwrap();
    curator.undo().await.unwrap();
    let later = curator.verify(None).await.unwrap();
    assert_eq!(later.changed, found.changed);
    assert_eq!(later.missing, found.missing);
    assert_eq!(later.foreign, found.foreign);

    // What belonged to a rock is missed no longer than the rock is there, and a rock that is installed
    // again is as it should be.
    let names = ["alpha", "beta", "gamma"].map(|name| RockName::new(name).unwrap());
    curator.remove(&names, true).await.unwrap();
    curator.install_package("gamma").await.unwrap();
    let mended = curator.verify(None).await.unwrap();
    assert_eq!(mended.foreign, found.foreign);
    assert!(mended.changed.is_empty() && mended.missing.is_empty());
}

#[tokio::test]
async fn a_damaged_rock_and_a_manifest_cut_short_are_told_and_change_nothing() {
    let world = family().await;
    let curator = world.curator();
    curator.install_package("gamma").await.unwrap();
    let before = world.snapshot();

    let rock = world.rocks().join("beta-2.0-1.all.rock");
    let whole = std::fs::read(&rock).unwrap();
    std::fs::write(&rock, &whole[..whole.len() / 2]).unwrap();
    let error = curator.install_package("beta").await.unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { file, .. } if file == "beta-2.0-1.all.rock"),
        "{error}"
    );
    assert!(error.to_string().contains("cut short"), "{error}");
    std::fs::copy(world.rocks().join("beta-1.0-1.all.rock"), &rock).unwrap();
    let error = curator.install_package("beta").await.unwrap_err();
    assert!(matches!(&error, Error::Damaged { .. }), "{error}");

    let manifest = world.rocks().join("manifest-5.4");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    let error = curator.install_package("beta").await.unwrap_err();
    assert!(matches!(&error, Error::BadManifest { .. }), "{error}");
    assert!(error.to_string().contains("cut short"), "{error}");
    assert_eq!(world.snapshot(), before);
}

#[tokio::test]
async fn a_disk_that_is_full_is_told_and_the_tree_is_as_it_was() {
    let world = World::new();
    let mut large = Source::lua("large", "1.0-1", "");
    // Text that no packing makes small.
    let noise: String = (0_u64..60_000)
        .map(|n| format!("-- {:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    large = large.with_content(noise + "return 1\n");
    world
        .publish(&[Source::lua("small", "1.0-1", ""), large])
        .await;
    // A machine whose temporary files and trees are on a disk of 2 MiB.
    std::fs::create_dir(world.tree()).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "none"])
        .arg(world.tree())
        .output()
        .unwrap();
    if !mounted.status.success() {
        support::skipped("a full disk; for that, be root");
        return;
    }
    let _mount = Unmount(world.tree());
    let curator = world.curator();
    curator.install_package("small").await.unwrap();
    let before = world.snapshot();
    let error = curator.install_package("large").await.unwrap_err();
    assert!(matches!(&error, Error::DiskFull { .. }), "{error}");
    assert_eq!(listed(&curator).await, "small 1.0-1");
    assert_eq!(world.snapshot(), before);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[tokio::test]
async fn a_bundle_installs_where_there_is_no_network_at_all() {
    let world = family().await;
    let answer = Source::answer().write(&world.path("sources"));
    bioxen_curator::publish(&[answer], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    let bundle = world.path("bundle");
    let report = Bundle::new([RocksServer::Directory(world.rocks())])
        .for_lua(["5.1", "5.4"])
        .write(&requests(&["alpha < 2", "answer"]), &bundle)
        .await
        .unwrap();
    assert_eq!(report.rocks.len(), 4);
    let archive = world.path("bundle.tar.gz");
    Bundle::new([RocksServer::Directory(world.rocks())])
        .write_archive(&requests(&["beta"]), &archive)
        .await
        .unwrap();
    std::fs::remove_dir_all(world.rocks()).unwrap();

    let probe = std::process::Command::new("unshare")
        .args(["-rn", "--", "true"])
        .output()
        .unwrap();
    if !probe.status.success() {
        support::skipped("machines without network; for that, allow user namespaces");
        return;
    }
    let runner = Arc::new(Through::new(without_network));
    for lua in ["5.1", "5.4"] {
        let tree = world.path(&format!("tree-{lua}"));
        let site = PackageSite::new(runner.clone(), lua, tree.to_str().unwrap());
        let curator = Curator::new(site).with_servers([RocksServer::Directory(bundle.clone())]);
        let lock = Lock::read(bundle.join(format!("bioxen-{lua}.lock"))).unwrap();
        if can_compile(lua) {
            curator.install_locked(&lock).await.unwrap();
            assert!(curator.verify(Some(&lock)).await.unwrap().is_good());
        }
        curator.install_package("gamma").await.unwrap();
    }
    let site = PackageSite::new(runner, "5.4", world.tree().to_str().unwrap());
    let curator = Curator::new(site).with_servers([RocksServer::Archive(archive)]);
    curator.install_package("beta").await.unwrap();
    assert_eq!(listed(&curator).await, "beta 2.0-1");
}

#[tokio::test]
async fn environments_do_not_see_each_other() {
    let world = family().await;
    let curator = world.curator();
    curator.install_package("beta").await.unwrap();
    let (old, new) = (
        curator.environment("old").unwrap(),
        curator.environment("new").unwrap(),
    );
    old.curator().install_package("gamma < 2").await.unwrap();
    new.curator().install_package("gamma").await.unwrap();
    assert_eq!(curator.environments().await.unwrap(), ["new", "old"]);
    let gamma = "print(require('gamma'), pcall(require, 'beta'))";
    let said = |env: &bioxen_curator::Environment| world.run("lua5.4", env.variables(), gamma);
    assert!(
        said(&old).starts_with("gamma 1.5-1\tfalse"),
        "{}",
        said(&old)
    );
    assert!(
        said(&new).starts_with("gamma 2.0-1\tfalse"),
        "{}",
        said(&new)
    );
    assert_eq!(listed(&curator).await, "beta 2.0-1");
    old.remove().await.unwrap();
    assert_eq!(curator.environments().await.unwrap(), ["new"]);
    let error = old.remove().await.unwrap_err();
    assert!(matches!(error, Error::NoEnvironment { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("no environment \"old\"; there are new"),
        "{error}"
    );
    assert!(curator.environment("../x").is_err());
}

#[tokio::test]
async fn pure_and_c_rocks_install_for_every_lua() {
    let world = World::new();
    world
        .publish(&[Source::lua("alpha", "1.0-1", ""), Source::answer()])
        .await;
    for (interpreter, lua) in [
        ("lua5.1", "5.1"),
        ("lua5.3", "5.3"),
        ("lua5.4", "5.4"),
        ("luajit", "5.1"),
    ] {
        let tree = world.path(&format!("tree-{interpreter}"));
        let site = PackageSite::new(Arc::new(LocalRunner::new()), lua, tree.to_str().unwrap());
        let curator = Curator::new(site).with_servers([RocksServer::Directory(world.rocks())]);
        let report = curator.install_package("alpha").await.unwrap();
        assert_eq!(report.installed[0].form, Some(Form::Binary));
        let run = |program| {
            let variables = bioxen_vm_core::lua::search_path(lua, tree.to_str().unwrap());
            world.run(interpreter, variables, program)
        };
        assert_eq!(
            run("print((require('alpha')))"),
            "alpha 1.0-1\n",
            "{interpreter}"
        );
        if can_compile(lua) {
            let report = curator.install_package("answer").await.unwrap();
            assert!(report.installed[0].native);
            assert_eq!(run("print((require('answer')))"), "42\n", "{interpreter}");
        }
    }
}

#[tokio::test]
async fn what_a_build_needs_is_looked_for_before_it_begins() {
    let world = World::new();
    let dir = Source::answer().write(&world.path("sources"));
    let rockspec = dir.join("answer-1.0-1.rockspec");
    let spec = std::fs::read_to_string(&rockspec).unwrap();
    let library = "external_dependencies = { YAML = { header = \"no/such/yaml.h\" } }\n";
    std::fs::write(&rockspec, format!("{spec}{library}")).unwrap();
    bioxen_curator::publish(&[dir], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    if can_compile("5.4") {
        let error = world.curator().install_package("answer").await.unwrap_err();
        assert!(
            matches!(&error, Error::NoLibrary { library, .. } if library == "YAML"),
            "{error}"
        );
        assert!(
            error.to_string().contains("apt-get install libyaml-dev"),
            "{error}"
        );
    }
    // A machine without a compiler.
    let bin = world.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for entry in DEFAULT_PATH
        .split(':')
        .filter_map(|dir| std::fs::read_dir(dir).ok())
    {
        for program in entry.flatten() {
            let name = program.file_name().into_string().unwrap_or_default();
            let is_compiler = ["cc", "gcc", "c99", "c89", "clang"].contains(&name.as_str());
            if !is_compiler && !bin.join(&name).exists() {
                std::os::unix::fs::symlink(program.path(), bin.join(&name)).unwrap();
            }
        }
    }
    let runner = LocalRunner::new().with_env("PATH", bin.to_str().unwrap());
    let curator = Curator::new(world.site_with(runner, "5.4"))
        .with_servers([RocksServer::Directory(world.rocks())]);
    let error = curator.install_package("answer").await.unwrap_err();
    assert!(
        matches!(&error, Error::NoToolchain { missing, .. } if missing.contains("C compiler")),
        "{error}"
    );
    for package in [
        "liblua5.4-dev gcc",
        "lua5.4-dev build-base",
        "lua-devel gcc",
    ] {
        assert!(error.to_string().contains(package), "{error}");
    }
    assert!(!world.tree().exists());
}

#[tokio::test]
async fn a_lock_of_luarocks_in_the_working_directory_is_not_obeyed() {
    let world = family().await;
    let lock = "return { dependencies = { gamma = \"1.4.2-1\" } }\n";
    let folder = world.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("luarocks.lock"), lock).unwrap();
    let folder = folder.to_str().unwrap().to_owned();
    let site = PackageSite::new(
        Arc::new(Through::new(move |command| command.with_cwd(&folder))),
        "5.4",
        world.tree().to_str().unwrap(),
    );
    let curator = Curator::new(site).with_servers([RocksServer::Directory(world.rocks())]);
    curator.install_package("alpha").await.unwrap();
    assert!(listed(&curator).await.contains("gamma 2.0-1"));
}

#[tokio::test]
async fn what_was_built_once_is_given_to_trees_of_the_same_kind() {
    let world = family().await;
    let builds = Builds::new();
    let curator = world.curator().with_builds(builds.clone());
    let first = curator.install_package("alpha").await.unwrap();
    assert!(first.log.as_str().contains("is now installed"));
    let built = world.snapshot();
    std::fs::remove_dir_all(world.tree()).unwrap();
    let again = world.curator().with_builds(builds);
    let second = again.install_package("alpha").await.unwrap();
    assert_eq!(second.log.as_str(), "", "LuaRocks did not run");
    assert_eq!(second.installed.len(), first.installed.len());
    assert_eq!(world.snapshot(), built);
    assert!(again.verify(None).await.unwrap().is_good());
    // The tree is one like any other.
    again.install_package("gamma 1.5").await.unwrap();
    again.undo().await.unwrap();
    assert_eq!(world.snapshot(), built);
}

#[tokio::test]
async fn progress_tells_each_step_in_its_order() {
    let world = family().await;
    let curator = world.curator();
    let mut heard = curator.subscribe();
    curator.install_package("beta 1.5").await.unwrap();
    let mut steps = Vec::new();
    while let Ok(step) = heard.try_recv() {
        steps.push(match step {
            Progress::Finished { rock, .. } => format!("finished {rock}"),
            step => step.to_string(),
        });
    }
    let sent = steps
        .iter()
        .position(|step| step.starts_with("sending 2 files"));
    assert!(sent.is_some(), "{steps:?}");
    assert_eq!(steps[0], "2 to install");
    assert_eq!(
        steps[steps.len() - 4..],
        [
            "[1/2] gamma 1.5-1",
            "finished gamma 1.5-1",
            "[2/2] beta 1.5-1",
            "finished beta 1.5-1"
        ]
    );
}

#[tokio::test]
async fn a_profile_installs_what_there_is_and_tells_what_there_is_not() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("bio_compute", "1.0-1", ""),
            Source::lua("inspect", "1.0-1", ""),
        ])
        .await;
    let catalogue = Catalogue::built_in().unwrap();
    let curator = world.curator();
    let installed = curator
        .install_profile(&catalogue, "bioxen-minimal")
        .await
        .unwrap();
    assert_eq!(listed(&curator).await, "bio_compute 1.0-1");
    assert_eq!(installed.unavailable[0].0.as_str(), "bio-utils");
    let offered = curator.offered(&"inspect".parse().unwrap()).await.unwrap();
    assert_eq!(offered.info.summary, "A rock for tests");
    assert_eq!(offered.versions.len(), 1);
}
