//! The programs of the library before this one, over LuaSocket.

use std::net::TcpListener;
use std::time::Duration;

use bioxen::net::message::socket;
use bioxen::{OutputStream, Script, VmManager};
use serde_json::json;

use crate::basic;

/// A manager with two VMs that may use the network, and two free ports.
async fn networked() -> (VmManager, [u16; 2]) {
    let config = json!({"network": true, "lua_executable": "lua5.4"});
    let manager = basic(&["a", "b"], config).await;
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = free.map(|listener| listener.local_addr().unwrap().port());
    (manager, ports)
}

/// Starts a program, waits for its first line, and gives what is to become of it.
async fn listening(manager: &VmManager, vm: &str, script: Script) -> bioxen::Execution {
    let (execution, mut output) = manager.spawn_streaming(vm, script).unwrap();
    let (stream, line) = output.recv().await.unwrap();
    assert_eq!(stream, OutputStream::Stdout, "{line:?}");
    assert!(line.starts_with(b"Listening on port "), "{line:?}");
    tokio::spawn(async move { while output.recv().await.is_some() {} });
    execution
}

#[tokio::test]
async fn a_server_serves_one_client_and_both_end() {
    let (manager, [port, _]) = networked().await;
    let server = listening(&manager, "a", socket::server(port).unwrap()).await;
    let message = "') print('INJECTED') --";
    let client = socket::client("127.0.0.1", port, message).unwrap();
    let outcome = manager.execute_vm("b", client).await.unwrap();
    assert_eq!(
        outcome.stdout_text(),
        "Received: Hello from Lua Server!\n",
        "{}",
        outcome.stderr_text()
    );
    assert!(server.wait().await.unwrap().success());
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn peers_outlive_a_time_in_which_nothing_comes() {
    let (manager, [one, two]) = networked().await;
    let peer = |own, other| {
        let (duration, interval) = (Duration::from_secs(2), Duration::from_millis(500));
        socket::peer(own, ("127.0.0.1", other), duration, interval).unwrap()
    };
    let (a, b) = tokio::join!(
        manager.execute_vm("a", peer(one, two)),
        manager.execute_vm("b", peer(two, one)),
    );
    for (outcome, other) in [(a.unwrap(), two), (b.unwrap(), one)] {
        let text = outcome.stdout_text();
        assert!(outcome.success(), "{}", outcome.stderr_text());
        assert!(
            text.contains(&format!("Received: Heartbeat 1 from port {other}")),
            "{text}"
        );
        assert!(text.contains("\nSent "), "{text}");
    }
    manager.shutdown_all().await.unwrap();
}
