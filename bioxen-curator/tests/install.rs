//! Installing, removing and describing rocks with the real LuaRocks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bioxen_curator::{Curator, Error, Form, RockName, RockRequest, RocksServer, publish};
use bioxen_vm_core::PackageSite;
use bioxen_vm_core::local::{DEFAULT_PATH, LocalRunner};
use support::{Source, World, can_compile, rock_with_command};

fn name(text: &str) -> RockName {
    RockName::new(text).unwrap()
}

fn requests(texts: &[&str]) -> Vec<RockRequest> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn listed(curator: &Curator) -> Vec<String> {
    let rocks = curator.list().await.unwrap();
    rocks.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_rock_comes_with_what_it_needs_and_lua_finds_it() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta >= 1.0\""),
            Source::lua("beta", "1.2-1", ""),
        ])
        .await;
    let curator = world.curator();
    let report = curator.install_package("Alpha").await.unwrap();
    let installed: Vec<_> = report
        .installed
        .iter()
        .map(|i| (i.rock.to_string(), i.requested, i.form, i.native, i.modules))
        .collect();
    assert_eq!(
        installed,
        [
            ("alpha 1.0-1".into(), true, Some(Form::Binary), false, 1),
            ("beta 1.2-1".into(), false, Some(Form::Binary), false, 1),
        ]
    );
    let server = report.installed[0].server.as_deref();
    assert_eq!(server, world.rocks().to_str());
    assert!(report.log.as_str().contains("alpha 1.0-1 is now installed"));
    assert_eq!(report.to_string(), "installed alpha 1.0-1, beta 1.2-1");
    assert_eq!(
        world.run_lua("5.4", "print(require('alpha'), (require('beta')))"),
        "alpha 1.0-1\tbeta 1.2-1\n"
    );

    let again = curator.install_package("alpha").await.unwrap();
    assert!(again.unchanged());
    assert_eq!(again.to_string(), "alpha 1.0-1 was there already");

    let info = curator.info(&name("alpha")).await.unwrap();
    assert_eq!(info.summary, "A rock for tests");
    assert_eq!(info.modules, ["alpha"]);
    assert_eq!(info.dependencies, ["lua >= 5.1", "beta >= 1.0"]);
}

#[tokio::test]
async fn the_list_is_that_of_luarocks() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta\""),
            Source::lua("beta", "1.2-1", ""),
        ])
        .await;
    let curator = world.curator();
    assert!(listed(&curator).await.is_empty());
    assert!(!world.tree().exists(), "looking at a tree does not make it");
    curator.install_package("alpha").await.unwrap();
    let output = Command::new("luarocks")
        .args(["--lua-version", "5.4", "--tree"])
        .arg(world.tree())
        .args(["list", "--porcelain"])
        .env("HOME", world.dir.path())
        .output()
        .unwrap();
    let theirs: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split('\t').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(listed(&curator).await, theirs);
    assert_eq!(theirs, ["alpha 1.0-1", "beta 1.2-1"]);
}

#[tokio::test]
async fn constraints_choose_among_the_versions_of_the_servers() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", ""),
            Source::lua("alpha", "1.9-1", ""),
            Source::lua("alpha", "1.10-1", ""),
            Source::lua("alpha", "2.0-1", ""),
            Source::lua("alphabet", "1.11-1", ""),
        ])
        .await;
    let curator = world.curator();
    let found = curator.search(&name("alpha")).await.unwrap();
    let found: Vec<_> = found.iter().map(|found| found.rock.to_string()).collect();
    assert_eq!(
        found,
        [
            "alpha 1.0-1",
            "alpha 1.9-1",
            "alpha 1.10-1",
            "alpha 2.0-1",
            "alphabet 1.11-1"
        ]
    );
    for (request, version) in [
        ("alpha >= 1.1, < 2", "1.10-1"),
        ("alpha 1.0", "1.0-1"),
        ("alpha > 1.10", "2.0-1"),
    ] {
        let report = curator.install_package(request).await.unwrap();
        assert_eq!(
            report.installed[0].rock.version.as_str(),
            version,
            "{request}"
        );
        assert_eq!(listed(&curator).await, [format!("alpha {version}")]);
    }
    let report = curator.install_package("alpha >= 1").await.unwrap();
    assert!(report.unchanged());
    let report = curator.install_package("alpha ~> 1.9").await.unwrap();
    assert_eq!(
        report.to_string(),
        "installed alpha 1.9-1; replaced alpha 2.0-1"
    );

    let error = curator.install_package("alpha > 3").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchRock { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("no rock alpha > 3 for Lua 5.4 on "),
        "{error}"
    );
}

#[tokio::test]
async fn a_failure_leaves_the_tree_as_it_was() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta\", \"nothere >= 2\""),
            Source::lua("beta", "1.2-1", ""),
            Source::lua("gamma", "1.0-1", ""),
            Source::lua("gamma", "2.0-1", ""),
            Source::c("broken", "int x = ;\n").with_dependencies("\"beta\""),
        ])
        .await;
    let curator = world.curator();
    curator.install_package("gamma 1.0").await.unwrap();
    let before = world.snapshot();

    let error = curator
        .install(&requests(&["gamma 2.0", "alpha"]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::MissingDependency { request, dependency, .. }
            if request == "alpha 1.0-1" && dependency == "nothere >= 2"),
        "{error}"
    );
    assert_eq!(world.snapshot(), before);

    let error = curator.install_package("nope").await.unwrap_err();
    let servers = world.rocks().display().to_string();
    assert_eq!(
        error.to_string(),
        format!(
            "no rock nope for Lua 5.4 on {servers}; check the name and version, or add a server \
             that has it"
        )
    );
    assert_eq!(world.snapshot(), before);

    if can_compile("5.4") {
        let error = curator.install_package("broken").await.unwrap_err();
        assert!(matches!(error, Error::Failed { .. }), "{error}");
        assert!(
            error.to_string().contains("module.c:1:9: error: "),
            "{error}"
        );
        assert_eq!(world.snapshot(), before);
    }
    assert_eq!(listed(&curator).await, ["gamma 1.0-1"]);
}

#[tokio::test]
async fn a_change_that_was_killed_half_way_is_undone_by_the_next_operation() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("gamma", "1.0-1", ""),
            Source::lua("gamma", "2.0-1", ""),
        ])
        .await;
    let curator = world.curator();
    curator.install_package("gamma 1.0").await.unwrap();
    let before = world.snapshot();

    // As a killed change leaves it: the journal is complete, the tree is not.
    let own = world.tree().join(".bioxen");
    let journal = own.join("before");
    std::fs::create_dir(&journal).unwrap();
    for (number, part) in [
        "bin",
        "lib/lua/5.4",
        "lib/luarocks/rocks-5.4",
        "share/lua/5.4",
    ]
    .iter()
    .enumerate()
    {
        let part = world.tree().join(part);
        if part.exists() {
            let copied = Command::new("cp")
                .arg("-R")
                .args([part, journal.join((number + 1).to_string())])
                .status()
                .unwrap();
            assert!(copied.success());
        }
    }
    std::fs::remove_dir_all(world.tree().join("share/lua/5.4")).unwrap();
    std::fs::create_dir_all(world.tree().join("lib/luarocks/rocks-5.4/half/1-1")).unwrap();
    std::fs::write(
        world
            .tree()
            .join("lib/luarocks/rocks-5.4/half/1-1/rock_manifest"),
        "",
    )
    .unwrap();

    assert_eq!(listed(&curator).await, ["gamma 1.0-1"]);
    assert_eq!(world.snapshot(), before);
    assert!(!journal.exists());
    assert!(curator.install_package("gamma 2.0").await.is_ok());
}

#[tokio::test]
async fn a_cancelled_installation_ends_and_is_undone_by_the_next_operation() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("gamma", "1.0-1", ""),
            Source::lua("gamma", "2.0-1", ""),
        ])
        .await;
    let started = world.path("started");
    let fifo = Command::new("mkfifo").arg(&started).status().unwrap();
    assert!(fifo.success());
    let command = format!("echo $$ > {}; exec sleep 3600", started.display());
    let endless = rock_with_command(&world.path("sources"), "endless", &command);
    publish(&[endless], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    let curator = world.curator();
    curator.install_package("gamma 1.0").await.unwrap();
    let before = world.snapshot();

    let installing = tokio::spawn({
        let curator = curator.clone();
        async move { curator.install(&requests(&["gamma 2.0", "endless"])).await }
    });
    let pid = tokio::fs::read_to_string(&started).await.unwrap();
    assert_ne!(world.snapshot(), before, "it is half done now");
    installing.abort();
    assert!(installing.await.unwrap_err().is_cancelled());

    assert_eq!(listed(&curator).await, ["gamma 1.0-1"]);
    assert_eq!(world.snapshot(), before);
    let process = Path::new("/proc").join(pid.trim()).join("cmdline");
    let left = std::fs::read_to_string(process).unwrap_or_default();
    assert!(!left.contains("sleep"), "{left}");
}

#[tokio::test]
async fn a_change_that_takes_too_long_is_ended_and_undone() {
    let world = World::new();
    let slow = rock_with_command(&world.path("sources"), "slow", "echo begun; sleep 3600");
    publish(&[slow], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    let curator = world.curator().with_timeout(Duration::from_secs(3));
    let error = curator.install_package("slow").await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(
        error.to_string().contains("took longer than 3 s"),
        "{error}"
    );
    assert!(error.log().unwrap().contains("begun"), "{:?}", error.log());
    assert!(!world.tree().join(".bioxen/before").exists());
    assert!(world.snapshot().is_empty());
}

#[tokio::test]
async fn rocks_of_c_code_are_built_and_loaded() {
    let world = World::new();
    world.publish(&[Source::answer()]).await;
    if !can_compile("5.4") {
        return;
    }
    let report = world.curator().install_package("answer").await.unwrap();
    let installed = &report.installed[0];
    assert_eq!(
        (installed.form, installed.native),
        (Some(Form::Source), true)
    );
    assert_eq!(world.run_lua("5.4", "print((require('answer')))"), "42\n");
}

#[tokio::test]
async fn without_headers_rocks_of_lua_install_and_rocks_of_c_name_the_remedy() {
    let world = World::new();
    // A rockspec that computes something is packed as its sources, so that it is built here.
    let dir = Source::lua("alpha", "1.0-1", "").write(&world.path("sources"));
    let rockspec = dir.join("alpha-1.0-1.rockspec");
    let spec = std::fs::read_to_string(&rockspec).unwrap();
    std::fs::write(&rockspec, format!("local unused = 1\n{spec}")).unwrap();
    let answer = Source::answer().write(&world.path("sources"));
    publish(&[dir, answer], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();

    // A machine that has everything but headers: its interpreter is in another place.
    let bin = world.path("machine/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink("/usr/bin/lua5.4", bin.join("lua5.4")).unwrap();
    let path = format!("{}:{}", bin.display(), bioxen_vm_core::local::DEFAULT_PATH);
    let site = world.site_with(LocalRunner::new().with_env("PATH", path), "5.4");
    let curator = Curator::new(site).with_servers([RocksServer::Directory(world.rocks())]);

    let report = curator.install_package("alpha").await.unwrap();
    assert_eq!(report.installed[0].form, Some(Form::Source));
    assert_eq!(
        world.run_lua("5.4", "print((require('alpha')))"),
        "alpha 1.0-1\n"
    );
    if can_compile("5.4") {
        let error = curator.install_package("answer").await.unwrap_err();
        assert!(
            matches!(&error, Error::NoToolchain { missing, .. } if missing == "headers of Lua 5.4"),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("apt-get install liblua5.4-dev gcc"),
            "{error}"
        );
    }
    assert_eq!(listed(&curator).await, ["alpha 1.0-1"]);
}

#[tokio::test]
async fn each_lua_version_has_its_own_rocks() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", ""),
            Source::lua("old", "1.0-1", "\"lua < 5.2\""),
        ])
        .await;
    let for_51 = world.curator_for("5.1");
    for_51.install_package("alpha").await.unwrap();
    assert!(listed(&world.curator_for("5.4")).await.is_empty());
    assert!(
        world
            .run_lua("5.4", "require('alpha')")
            .contains("module 'alpha' not found")
    );
    for_51.install_package("old").await.unwrap();
    assert_eq!(listed(&for_51).await, ["alpha 1.0-1", "old 1.0-1"]);

    let error = world.curator().install_package("old").await.unwrap_err();
    assert!(
        matches!(error, Error::WrongLua { .. } | Error::NoSuchRock { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("Lua 5.4"), "{error}");
}

#[tokio::test]
async fn rocks_that_land_in_the_tree_of_another_lua_are_no_success() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    // A LuaRocks that goes by its own default, as Debian's does when it is not told the version.
    let bin = world.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("luarocks");
    let text = "#!/bin/sh\nshift 2\nexec /usr/bin/luarocks --lua-version 5.1 \"$@\"\n";
    std::fs::write(&program, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let path = format!("{}:{DEFAULT_PATH}", bin.display());
    let site = world.site_with(LocalRunner::new().with_env("PATH", path), "5.4");
    let curator = Curator::new(site).with_servers([RocksServer::Directory(world.rocks())]);
    let error = curator.install_package("alpha").await.unwrap_err();
    assert!(matches!(error, Error::Misplaced { .. }), "{error}");
    assert!(
        error.to_string().contains("Lua 5.4 does not find it"),
        "{error}"
    );
    assert!(listed(&curator).await.is_empty());
}

#[tokio::test]
async fn a_lock_file_in_the_working_directory_and_variables_change_nothing() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta\""),
            Source::lua("beta", "1.0-1", ""),
            Source::lua("beta", "2.0-1", ""),
        ])
        .await;
    // LuaRocks would obey the lock of its working directory and the variables of its user.
    let runner = LocalRunner::new()
        .with_env("HOME", world.path("home").to_str().unwrap())
        .with_env("USER", "root")
        .with_env("LUAROCKS_CONFIG_5_4", "/nonexistent")
        .with_env("LUA_PATH", "/nonexistent/?.lua")
        .with_env("LUA_INIT", "error('no')");
    let curator = Curator::new(world.site_with(runner, "5.4"))
        .with_servers([RocksServer::Directory(world.rocks())]);
    let report = curator.install_package("alpha").await.unwrap();
    assert_eq!(report.to_string(), "installed alpha 1.0-1, beta 2.0-1");
    assert!(!world.path("home").exists());
}

#[tokio::test]
async fn two_installations_at_once_in_one_tree_both_succeed() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"shared\""),
            Source::lua("beta", "1.0-1", "\"shared\""),
            Source::lua("gamma", "1.0-1", "\"shared\""),
            Source::lua("shared", "1.0-1", ""),
        ])
        .await;
    // Separate curators, as of separate processes: only the machine's lock keeps them apart.
    let (alpha, beta, gamma) = (world.curator(), world.curator(), world.curator());
    let (alpha, beta, gamma) = tokio::join!(
        alpha.install_package("alpha"),
        beta.install_package("beta"),
        gamma.install_package("gamma")
    );
    for report in [alpha, beta, gamma] {
        report.unwrap();
    }
    assert_eq!(
        listed(&world.curator()).await,
        ["alpha 1.0-1", "beta 1.0-1", "gamma 1.0-1", "shared 1.0-1"]
    );
    let program = "print(require('alpha'), require('beta'), (require('gamma')))";
    assert_eq!(
        world.run_lua("5.4", program),
        "alpha 1.0-1\tbeta 1.0-1\tgamma 1.0-1\n"
    );
}

#[tokio::test]
async fn a_rock_is_removed_unless_others_need_it() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta\""),
            Source::lua("beta", "1.2-1", ""),
        ])
        .await;
    let curator = world.curator();
    curator.install_package("alpha").await.unwrap();
    let before = world.snapshot();

    let error = curator.remove(&[name("beta")], false).await.unwrap_err();
    assert!(
        matches!(&error, Error::StillNeeded { by, .. } if by == "alpha 1.0-1"),
        "{error}"
    );
    assert_eq!(world.snapshot(), before);
    let error = curator
        .remove(&[name("alpha"), name("gone")], false)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::NotInstalled { rock, .. } if rock == "gone"),
        "{error}"
    );
    assert_eq!(world.snapshot(), before);
    let error = curator.info(&name("gone")).await.unwrap_err();
    assert!(matches!(error, Error::NotInstalled { .. }), "{error}");

    let report = curator.remove(&[name("beta")], true).await.unwrap();
    assert_eq!(report.removed.len(), 1);
    assert_eq!(listed(&curator).await, ["alpha 1.0-1"]);
    curator.remove(&[name("alpha")], false).await.unwrap();
    assert!(listed(&curator).await.is_empty());
    assert!(
        world
            .run_lua("5.4", "require('alpha')")
            .contains("not found")
    );
}

#[tokio::test]
async fn each_rock_is_sent_once_and_kept_as_long_as_it_is_installed() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    let curator = world.curator();
    curator.install_package("alpha").await.unwrap();
    let sent = || {
        std::fs::read_dir(world.tree().join(".bioxen/rocks"))
            .unwrap()
            .count()
    };
    assert_eq!(sent(), 1);
    world
        .publish(&[
            Source::lua("alpha", "1.1-1", ""),
            Source::lua("beta", "1.0-1", ""),
        ])
        .await;
    let report = curator
        .install(&requests(&["alpha > 1.0", "beta"]))
        .await
        .unwrap();
    assert_eq!(
        report.to_string(),
        "installed alpha 1.1-1, beta 1.0-1; replaced alpha 1.0-1"
    );
    assert!(report.sent > 0);
    assert_eq!(sent(), 2);
    curator.undo().await.unwrap();
    let report = curator.install(&requests(&["alpha > 1.0"])).await.unwrap();
    assert_eq!(report.sent, 0, "the machine still has its file");
}

#[tokio::test]
async fn names_and_servers_are_never_run() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    let witness = world.path("witness");
    let touch = format!("touch {}", witness.display());
    let curator = world.curator();
    for evil in [
        format!("alpha; {touch}"),
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("alpha' {touch} '"),
        format!("alpha \"; os.execute(\"{touch}\") --"),
        format!("alpha\n{touch}"),
        "--tree=/".into(),
        "../../etc".into(),
    ] {
        let error = curator.install_package(&evil).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{evil}: {error}");
    }
    for evil in [
        format!("http://127.0.0.1:1/\"..os.execute(\"{touch}\")..\""),
        format!("http://127.0.0.1:1/$({touch})"),
    ] {
        let curator = world.curator().with_servers([RocksServer::Url(evil)]);
        let error = curator.install_package("alpha").await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    for (lua, tree) in [
        ("5.4; x", "/t"),
        ("5.4", "relative"),
        ("5.4", "/a\nb"),
        ("", "/t"),
    ] {
        let site = PackageSite::new(Arc::new(LocalRunner::new()), lua, tree);
        let error = Curator::new(site).list().await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }

    // A tree may have any name that a path can have, and none of it is run.
    let tree = world.path(&format!("a tree $(touch {}) *", "witness"));
    let site = PackageSite::new(Arc::new(LocalRunner::new()), "5.4", tree.to_str().unwrap());
    let curator = Curator::new(site).with_servers([RocksServer::Directory(world.rocks())]);
    curator.install_package("alpha").await.unwrap();
    assert_eq!(listed(&curator).await, ["alpha 1.0-1"]);
    assert!(!witness.exists());
    assert!(!Path::new("witness").exists());
}

#[tokio::test]
async fn a_machine_that_lacks_something_says_so() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    // A machine with a shell and the small programs, but without LuaRocks.
    let bin = world.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in [
        "sh",
        "mkdir",
        "rm",
        "rmdir",
        "mv",
        "cp",
        "cat",
        "tar",
        "uname",
        "sha256sum",
        "flock",
        "env",
        "find",
        "dirname",
        "head",
        "sed",
        "df",
        "awk",
    ] {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$1\"", "sh", program])
            .output()
            .unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        std::os::unix::fs::symlink(found.trim(), bin.join(program)).unwrap();
    }
    let runner = LocalRunner::new().with_env("PATH", bin.to_str().unwrap());
    let curator = Curator::new(world.site_with(runner, "5.4"))
        .with_servers([RocksServer::Directory(world.rocks())]);
    let error = curator.install_package("alpha").await.unwrap_err();
    assert!(
        matches!(&error, Error::MissingProgram { program, .. } if program == "luarocks"),
        "{error}"
    );
    assert!(
        error.to_string().contains("apt-get install luarocks"),
        "{error}"
    );
    let health = curator.doctor().await.unwrap();
    assert!(!health.is_good());
    let check = |name: &str| {
        health
            .checks
            .iter()
            .find(|check| check.name == name)
            .unwrap()
    };
    assert_eq!(check("luarocks").verdict.to_string(), "failed");
    assert!(
        check("luarocks")
            .remedy
            .as_ref()
            .unwrap()
            .contains("apt-get install luarocks")
    );
    assert_eq!(check("unzip").verdict.to_string(), "failed");
    assert_eq!(check("headers").verdict.to_string(), "warning");
    assert_eq!(check("flock").verdict.to_string(), "good");

    let health = world.curator().doctor().await.unwrap();
    assert!(health.is_good(), "{health:?}");
    assert!(health.checks.iter().any(|check| check.name == "servers"));

    let missing = world.path("missing");
    let error = world
        .curator()
        .with_servers([RocksServer::Directory(missing)])
        .install_package("alpha")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_tree_that_cannot_be_written_is_named() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    std::fs::write(world.tree(), "a file where the tree should be").unwrap();
    let error = world.curator().install_package("alpha").await.unwrap_err();
    assert!(matches!(&error, Error::NotWritable { .. }), "{error}");
    assert!(
        error.to_string().contains(world.tree().to_str().unwrap()),
        "{error}"
    );
}
