//! Ten rocks into ten guests of the embedded pool: the curator beside plain `luarocks install`.
//!
//! Both work guest by guest, in trees of their own within the same guests, taking turns, so that a
//! busy machine slows them alike. Plain LuaRocks installs each rock by its own command, as a user
//! does, from the same rocks over HTTP on loopback.
//!
//! ```sh
//! cargo bench -p bioxen --features full --bench packages
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bioxen::curator::{
    Builds, Curator, LuaVmPackages as _, Mirror, RockRequest, RocksServer, publish,
};
use bioxen::embedded::EmbeddedPool;
use bioxen::local::LocalRunner;
use bioxen::{Command, PackageSite, VmManager};

const GUESTS: usize = 10;
const ROCKS: usize = 10;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let rocks = folder.path().join("rocks");
    let names: Vec<String> = (0..ROCKS).map(|n| format!("rock{n}")).collect();
    let sources: Vec<_> = (0..ROCKS).map(|n| source(folder.path(), n)).collect();
    publish(&sources, &rocks, &LocalRunner::new())
        .await
        .unwrap();
    let mirror = Mirror::serve(&rocks).await.unwrap();

    let pool = EmbeddedPool::start().await.unwrap();
    let manager = VmManager::new(bioxen::factory());
    let requests: Vec<RockRequest> = names.iter().map(|name| name.parse().unwrap()).collect();
    let builds = Builds::new();
    let (mut plain, mut alone, mut shared) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut sent_alone, mut sent_shared) = (0, 0);
    for guest in 0..GUESTS {
        let id = format!("guest{guest}");
        let vm = manager
            .create_vm(&id, "xcpng", pool.config())
            .await
            .unwrap();
        let site = vm.curator().await.unwrap().site().clone();

        let begun = Instant::now();
        for name in &names {
            let tree = format!("{}-plain", site.tree);
            let install = Command::new("luarocks")
                .args(["--lua-version", "5.4", "--tree", &tree, "install"])
                .args(["--only-server", &mirror.url(), name]);
            let outcome = site.runner.run(install).await.unwrap();
            assert!(outcome.success(), "{}", outcome.stderr_text());
        }
        plain += begun.elapsed();

        let of = |name: &str| {
            let tree = format!("{}-{name}", site.tree);
            let site = PackageSite::new(site.runner.clone(), site.lua_version.clone(), tree);
            Curator::new(site).with_servers([RocksServer::Directory(rocks.clone())])
        };
        let begun = Instant::now();
        let report = of("alone").install(&requests).await.unwrap();
        alone += begun.elapsed();
        sent_alone += report.sent;
        assert_eq!(report.installed.len(), ROCKS);

        let begun = Instant::now();
        let curator = of("shared").with_builds(builds.clone());
        let report = curator.install(&requests).await.unwrap();
        shared += begun.elapsed();
        sent_shared += report.sent;
        assert_eq!(report.installed.len(), ROCKS);
    }
    manager.shutdown_all().await.unwrap();
    pool.shutdown().await;

    let files = std::fs::read_dir(&rocks).unwrap().flatten();
    let sizes = files.map(|file| (file.file_name(), file.metadata().unwrap().len()));
    let (mut manifest, mut all) = (0, 0);
    for (name, size) in sizes {
        match name.to_string_lossy().as_ref() {
            "manifest-5.4" => manifest = size,
            name if name.ends_with(".rock") => all += size,
            _ => {}
        }
    }
    // Each command reads the manifest anew, unless the cache of its home still has it.
    let moved = GUESTS as u64 * (all + manifest);
    println!("{ROCKS} rocks ({all} bytes) into {GUESTS} guests, one after the other:");
    let line = |name: &str, time: Duration, bytes: u64| {
        let ratio = plain.as_secs_f64() / time.as_secs_f64();
        println!(
            "{name:<34}{:>8.2} s {ratio:>6.1} x {bytes:>9} bytes",
            time.as_secs_f64()
        );
    };
    line("luarocks install, ten times each", plain, moved);
    line("curator", alone, sent_alone);
    line("curator, built once", shared, sent_shared);
}

/// Every fifth rock is of C code.
fn source(folder: &Path, number: usize) -> PathBuf {
    let name = format!("rock{number}");
    let dir = folder.join("sources").join(&name);
    std::fs::create_dir_all(&dir).unwrap();
    let file = if number % 5 == 4 {
        "module.c"
    } else {
        "module.lua"
    };
    let content = if number % 5 == 4 {
        format!(
            "#include <lua.h>\nint luaopen_{name}(lua_State *L) {{ lua_pushinteger(L, 42); return 1; }}\n"
        )
    } else {
        format!("-- {}\nreturn \"{name}\"\n", "a line of text ".repeat(500))
    };
    std::fs::write(dir.join(file), content).unwrap();
    let rockspec = format!(
        "package = \"{name}\"\nversion = \"1.0-1\"\nsource = {{ url = \"file://none\" }}\n\
         description = {{ summary = \"A rock for a bench\", license = \"MIT\" }}\n\
         dependencies = {{ \"lua >= 5.1\" }}\n\
         build = {{ type = \"builtin\", modules = {{ {name} = \"{file}\" }} }}\n"
    );
    std::fs::write(dir.join(format!("{name}-1.0-1.rockspec")), rockspec).unwrap();
    dir
}
