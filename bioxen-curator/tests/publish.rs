//! Packing rocks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;

use bioxen_curator::{Error, publish};
use bioxen_vm_core::local::LocalRunner;
use support::{Source, World};

#[tokio::test]
async fn lua_is_packed_ready_for_use_and_c_as_its_sources() {
    let world = World::new();
    let sources = world.path("sources");
    let dirs = [
        Source::lua("alpha", "1.0-1", "").write(&sources),
        Source::answer().write(&sources),
    ];
    let rocks = publish(&dirs, &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    let rocks: Vec<_> = rocks.iter().map(ToString::to_string).collect();
    assert_eq!(rocks, ["alpha 1.0-1", "answer 1.0-1"]);
    let mut files: Vec<_> = fs::read_dir(world.rocks())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert!(
        files.contains(&"alpha-1.0-1.all.rock".to_owned()),
        "{files:?}"
    );
    assert!(
        files.contains(&"answer-1.0-1.src.rock".to_owned()),
        "{files:?}"
    );
    assert!(files.contains(&"manifest-5.4".to_owned()), "{files:?}");
    assert!(!files.contains(&"index.html".to_owned()), "{files:?}");
    // The sources are as they were.
    assert_eq!(fs::read_dir(&dirs[0]).unwrap().count(), 2);

    let first = fs::read(world.rocks().join("answer-1.0-1.src.rock")).unwrap();
    publish(&dirs[1..], &world.rocks(), &LocalRunner::new())
        .await
        .unwrap();
    let second = fs::read(world.rocks().join("answer-1.0-1.src.rock")).unwrap();
    assert!(first == second, "the same sources give the same rock");
}

#[tokio::test]
async fn what_is_no_rock_is_refused_with_the_reason() {
    let world = World::new();
    let sources = world.path("sources");
    let publish_one = async |dir: std::path::PathBuf| {
        publish(&[dir], &world.rocks(), &LocalRunner::new())
            .await
            .unwrap_err()
    };
    let error = publish_one(world.path("missing")).await;
    assert!(matches!(error, Error::Io { .. }), "{error}");

    let empty = world.path("empty");
    fs::create_dir(&empty).unwrap();
    let error = publish_one(empty).await;
    assert!(error.to_string().ends_with("it has no rockspec"), "{error}");

    let two = Source::lua("alpha", "1.0-1", "").write(&sources);
    fs::write(two.join("alpha-2.0-1.rockspec"), "").unwrap();
    let error = publish_one(two).await;
    assert!(error.to_string().contains("several rockspecs"), "{error}");

    let incomplete = Source::lua("beta", "1.0-1", "").write(&sources);
    fs::remove_file(incomplete.join("module.lua")).unwrap();
    let error = publish_one(incomplete).await;
    assert!(matches!(error, Error::Publish { .. }), "{error}");
    assert!(error.to_string().contains("module.lua"), "{error}");

    let wrong = Source::answer().write(&sources);
    fs::write(wrong.join("answer-1.0-1.rockspec"), "package = 7\n").unwrap();
    let error = publish_one(wrong).await;
    assert!(matches!(error, Error::Publish { .. }), "{error}");
}
