//! The Lua module, in every Lua.

use std::time::Duration;

use bioxen::net::message::Hub;
use bioxen::{ErrorKind, Script};
use serde_json::json;

use crate::{basic, run};

const API: &str = include_str!("api.lua");

/// Sends back what it gets, or does what it is told, until the other one has left.
async fn serve(hub: Hub) {
    let rust = hub.endpoint("rust").unwrap();
    while let Some(message) = rust.receive(Some(Duration::from_secs(60))).await.unwrap() {
        match &message.bytes[..] {
            b"done" => return,
            b"ask me" => {
                let reply = rust.request("vm", "what?", None).await.unwrap();
                assert_eq!(reply, "that");
            }
            b"publish" => {
                let have = rust.publish("chr1", "variant", None).await.unwrap();
                assert_eq!(have, 1);
            }
            _ if message.wants_reply() => {
                let bytes = message.bytes.clone();
                message.reply(bytes).unwrap();
            }
            _ => rust.send("vm", message.bytes, None).await.unwrap(),
        }
    }
}

async fn in_lua(program: Option<&str>) {
    let config = match program {
        Some(program) => json!({"lua_executable": program}),
        None => json!({}),
    };
    let manager = basic(&["vm"], config).await;
    let hub = Hub::new();
    let rust = tokio::spawn(serve(hub.clone()));
    while hub.peers().is_empty() {
        tokio::task::yield_now().await;
    }
    let outcome = run(&hub, manager.vm("vm").unwrap(), Script::new(API)).await;
    assert!(outcome.stdout_text().ends_with("ok\n"));
    hub.endpoint("end")
        .unwrap()
        .send("rust", "done", None)
        .await
        .unwrap();
    rust.await.unwrap();
    assert!(hub.peers().is_empty());
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn programs_of_the_built_in_lua_talk() {
    in_lua(None).await;
}

#[tokio::test]
async fn programs_of_every_other_lua_talk() {
    for program in ["lua5.1", "lua5.2", "lua5.3", "lua5.4", "luajit"] {
        if std::path::Path::new("/usr/bin").join(program).exists() {
            in_lua(Some(program)).await;
        } else {
            eprintln!("{program} is not installed: not tried");
        }
    }
}

#[tokio::test]
async fn a_program_that_has_not_joined_has_no_messages() {
    let manager = basic(&["vm"], json!({})).await;
    let program = "print(pcall(require, 'bioxen.net'))";
    let outcome = manager.execute_vm("vm", program).await.unwrap();
    assert!(
        outcome.stdout_text().contains("'bioxen.net' not found"),
        "{}",
        outcome.stdout_text()
    );
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn a_session_talks_and_several_programs_of_a_vm_do() {
    let manager = basic(&["vm"], json!({})).await;
    let vm = manager.vm("vm").unwrap();
    let hub = Hub::new();
    let (one, two) = (
        hub.join_as(vm.clone(), "one").await.unwrap(),
        hub.join_as(vm.clone(), "two").await.unwrap(),
    );
    let taken = hub.join_as(vm.clone(), "two").await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let options = one.session(bioxen::SessionOptions::named("s"));
    let session = vm.open_session(options).await.unwrap();
    session.eval("net = require 'bioxen.net'").await.unwrap();
    session.eval("net.send('two', 'ACGT')").await.unwrap();
    let reverse = "local net = require 'bioxen.net'
        assert(net.send('one', net.receive().bytes:reverse()))";
    let outcome = two.execute(reverse).await.unwrap();
    assert!(outcome.success(), "{}", outcome.stderr_text());
    let reply = session.eval("net.receive().bytes").await.unwrap();
    assert!(format!("{:?}", reply.answer).contains("TGCA"), "{reply:?}");
    session.close().await;
    one.leave().await;
    manager.shutdown_all().await.unwrap();
}
