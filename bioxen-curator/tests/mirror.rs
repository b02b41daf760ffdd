//! The HTTP server of rocks, with LuaRocks and with a client of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "mirror")]

mod support;

use bioxen_curator::{Cache, Curator, Error, Mirror, RocksServer, Verdict};
use bioxen_vm_core::PackageSite;
use bioxen_vm_core::local::LocalRunner;
use support::{Source, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn rocks_install_over_http_and_a_new_one_is_seen_at_once() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta\""),
            Source::lua("beta", "1.0-1", ""),
        ])
        .await;
    let mirror = Mirror::serve(world.rocks()).await.unwrap();
    let curator = Curator::new(world.site("5.4")).with_servers([mirror.server()]);
    let report = curator.install_package("alpha").await.unwrap();
    assert_eq!(report.to_string(), "installed alpha 1.0-1, beta 1.0-1");
    assert_eq!(report.installed[0].server, Some(mirror.url()));
    world.publish(&[Source::lua("gamma", "1.0-1", "")]).await;
    curator.install_package("gamma").await.unwrap();
    assert!(curator.doctor().await.unwrap().is_good());
}

#[tokio::test]
async fn a_dead_server_is_told_from_a_missing_rock_and_does_not_hide_a_living_one() {
    let world = World::new();
    world.publish(&[Source::lua("alpha", "1.0-1", "")]).await;
    let mirror = Mirror::serve(world.rocks()).await.unwrap();
    let dead = mirror.server();
    let url = mirror.url();
    drop(mirror);
    // The port stays closed once the aborted task has let go of it.
    while TcpStream::connect(url.trim_start_matches("http://"))
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    let curator = Curator::new(world.site("5.4")).with_servers([dead.clone()]);
    for _ in 0..2 {
        let error = curator.install_package("alpha").await.unwrap_err();
        assert!(
            matches!(&error, Error::ServerUnreachable { unreachable, .. }
                if unreachable.iter().any(|(server, _)| server == url)),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("{url} could not be read")),
            "{error}"
        );
    }
    let health = curator.doctor().await.unwrap();
    let servers = health
        .checks
        .iter()
        .find(|check| check.name == "servers")
        .unwrap();
    assert_eq!(servers.verdict, Verdict::Failed, "{servers}");

    let living = RocksServer::Directory(world.rocks());
    let both = Curator::new(world.site("5.4")).with_servers([dead, living]);
    both.install_package("alpha").await.unwrap();
    let health = both.doctor().await.unwrap();
    assert!(health.is_good(), "what one server has can be installed");
    let mut checks = health.checks.iter();
    let servers = checks.find(|check| check.name == "servers").unwrap();
    assert_eq!(servers.verdict, Verdict::Warning, "{servers}");
    let error = both.install_package("nope").await.unwrap_err();
    assert!(matches!(error, Error::ServerUnreachable { .. }), "{error}");
}

#[tokio::test]
async fn of_mirrors_the_first_that_answers_is_asked_and_a_cache_outlives_all_of_them() {
    let world = World::new();
    world
        .publish(&[
            Source::lua("alpha", "1.0-1", "\"beta\""),
            Source::lua("beta", "1.0-1", ""),
        ])
        .await;
    let mirror = Mirror::serve(world.rocks()).await.unwrap();
    // Nobody listens on port 1.
    let mirrors = RocksServer::Mirrors(vec!["http://127.0.0.1:1".into(), mirror.url()]);
    let curator = Curator::new(world.site("5.4"))
        .with_servers([mirrors.clone()])
        .with_cache(Cache::new(world.path("cache")));
    let lock = curator.lock(&["alpha".parse().unwrap()]).await.unwrap();
    curator.install_package("alpha").await.unwrap();
    drop(mirror);

    let tree = world.path("second");
    let site = PackageSite::new(
        std::sync::Arc::new(LocalRunner::new()),
        "5.4",
        tree.to_str().unwrap(),
    );
    let second = Curator::new(site)
        .with_servers([mirrors])
        .with_cache(Cache::new(world.path("cache")));
    let report = second.install_locked(&lock).await.unwrap();
    assert_eq!(report.to_string(), "installed alpha 1.0-1, beta 1.0-1");
    let error = second.install_package("gamma").await.unwrap_err();
    assert!(matches!(error, Error::ServerUnreachable { .. }), "{error}");
}

/// Sends a request and gives the answer until the server closes.
async fn exchange(mirror: &Mirror, request: &str) -> String {
    let mut stream = TcpStream::connect(mirror.url().trim_start_matches("http://"))
        .await
        .unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn only_get_and_head_of_the_directorys_own_rocks_are_answered() {
    let world = World::new();
    let rocks = world.rocks();
    std::fs::create_dir(&rocks).unwrap();
    std::fs::write(rocks.join("manifest-5.4"), "repository = {}\n").unwrap();
    std::fs::write(rocks.join("secret.txt"), "secret").unwrap();
    std::fs::write(world.path("out-1-1.rock"), "secret").unwrap();
    std::os::unix::fs::symlink(world.path("out-1-1.rock"), rocks.join("link-1-1.rock")).unwrap();
    let mirror = Mirror::serve(&rocks).await.unwrap();

    let answer = exchange(&mirror, "GET /manifest-5.4").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nrepository = {}\n"), "{answer}");
    let answer = exchange(&mirror, "HEAD /manifest-5.4").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.to_lowercase().contains("content-length: 16\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    for path in [
        "/",
        "/secret.txt",
        "/../out-1-1.rock",
        "/%2e%2e%2fout-1-1.rock",
        "/link-1-1.rock",
        "/manifest-5.3",
        "//etc/passwd",
    ] {
        let answer = exchange(&mirror, &format!("GET {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(!answer.contains("secret"), "{answer}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = exchange(&mirror, &format!("{method} /manifest-5.4")).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
    let error = Mirror::serve(world.path("missing")).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}
