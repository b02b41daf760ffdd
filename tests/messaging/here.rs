//! What happens when programs and VMs end.

use std::time::Duration;

use bioxen::net::message::Hub;
use bioxen::{ErrorKind, Script};
use serde_json::json;

use crate::{basic, run};

const WAIT: Option<Duration> = Some(Duration::from_secs(60));

#[tokio::test]
async fn two_vms_ask_and_answer() {
    let manager = basic(&["asks", "answers"], json!({})).await;
    let hub = Hub::new();
    let answers = hub.join(manager.vm("answers").unwrap()).await.unwrap();
    let serve = answers.execute(
        "local net = require 'bioxen.net'
         for _ = 1, 100 do
           local message = net.receive(60)
           message:reply(message.bytes:upper())
         end",
    );
    let ask = run(
        &hub,
        manager.vm("asks").unwrap(),
        Script::new(
            "local net = require 'bioxen.net'
             for i = 1, 100 do
               assert(assert(net.request('answers', 'gene' .. i, 60)) == 'GENE' .. i)
             end",
        ),
    );
    let (served, _) = tokio::join!(serve, ask);
    assert!(served.unwrap().success());
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn what_one_of_three_vms_broadcasts_or_publishes_reaches_both_others() {
    let manager = basic(&["crier", "east", "west"], json!({})).await;
    let hub = Hub::new();
    let join = async |name: &str| hub.join(manager.vm(name).unwrap()).await.unwrap();
    let (crier, east, west) = (join("crier").await, join("east").await, join("west").await);
    let listen = "local net = require 'bioxen.net'
         assert(net.subscribe('chr1'))
         assert(net.send('crier', 'I listen', 60))
         for _ = 1, 2 do
           local message = assert(net.receive(60))
           print(message.from, message.topic or 'all', message.bytes)
         end";
    let cry = "local net = require 'bioxen.net'
         for _ = 1, 2 do assert(assert(net.receive(60)).bytes == 'I listen') end
         print(net.broadcast('begin', 60), net.publish('chr1', 'variant', 60), net.publish('chr2', 'x', 60))";
    let (cried, in_east, in_west) = tokio::join!(
        crier.execute(cry),
        east.execute(listen),
        west.execute(listen)
    );
    assert_eq!(cried.unwrap().stdout_text(), "2\t2\t0\n");
    for heard in [in_east, in_west] {
        let heard = heard.unwrap();
        assert_eq!(
            heard.stdout_text(),
            "crier\tall\tbegin\ncrier\tchr1\tvariant\n",
            "{}",
            heard.stderr_text()
        );
    }
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn who_sends_to_a_vm_that_was_killed_is_told() {
    let manager = basic(&["victim"], json!({})).await;
    let hub = Hub::new();
    let rust = hub.endpoint("rust").unwrap();
    let never = rust.send("victim", "x", WAIT).await.unwrap_err();
    assert_eq!(
        never.to_string(),
        "cannot send: nobody has joined as \"victim\"; there are: rust"
    );
    let victim = hub.join(manager.vm("victim").unwrap()).await.unwrap();
    let run = tokio::spawn(victim.execute(
        "local net = require 'bioxen.net'
         net.send('rust', 'here')
         net.receive()
         while true do end",
    ));
    assert_eq!(rust.receive(WAIT).await.unwrap().unwrap().bytes, "here");
    // It has this one when it is killed, and will not answer.
    let asked = rust.request("victim", "anything", WAIT);
    let kill = async {
        tokio::task::yield_now().await;
        manager.remove_vm("victim").await.unwrap();
    };
    let (asked, ()) = tokio::join!(asked, kill);
    let asked = asked.unwrap_err();
    assert_eq!(asked.kind(), ErrorKind::Unavailable);
    assert_eq!(run.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    let sent = rust.send("victim", "x", WAIT).await.unwrap_err();
    assert_eq!(sent.kind(), ErrorKind::Unavailable);
    let text = sent.to_string();
    assert!(
        text.starts_with("cannot send: victim has left: its program could not go on")
            && text.contains("stopped"),
        "{text}"
    );
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn a_slow_receiver_holds_its_sender_up() {
    let manager = basic(&["fast", "slow"], json!({})).await;
    let hub = Hub::new().with_mailbox(10_000);
    let slow = hub.join(manager.vm("slow").unwrap()).await.unwrap();
    // It receives nothing, so that there is no room for the third.
    run(
        &hub,
        manager.vm("fast").unwrap(),
        Script::new(
            "local net = require 'bioxen.net'
             local part = ('A'):rep(4000)
             assert(net.send('slow', part, 5) and net.send('slow', part, 5))
             local sent, problem, kind = net.send('slow', part, 0.01)
             assert(not sent and kind == 'timeout' and problem:find('slow had no room', 1, true))",
        ),
    )
    .await;
    let outcome = slow
        .execute(
            "local net = require 'bioxen.net'
             print(#net.receive(5).bytes, #net.receive(5).bytes, net.receive(0))",
        )
        .await
        .unwrap();
    assert!(
        outcome.stdout_text().starts_with("4000\t4000\tnil"),
        "{}",
        outcome.stderr_text()
    );
    manager.shutdown_all().await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_in_a_vm() {
    let manager = basic(&["vm"], json!({"processes": true})).await;
    let hub = Hub::new();
    let vm = manager.vm("vm").unwrap();
    let list = "io.write(io.popen('ls -A $TMPDIR'):read('a'))";
    let outcome = run(&hub, vm.clone(), Script::new(list)).await;
    assert!(outcome.stdout_text().starts_with("bioxen-net-"));
    assert_eq!(vm.execute(list.into()).await.unwrap().stdout_text(), "");
    hub.join(vm.clone()).await.unwrap().leave().await;
    assert_eq!(vm.execute(list.into()).await.unwrap().stdout_text(), "");
    assert!(hub.peers().is_empty());
    // Who does not wait for it has it removed in the background.
    drop(hub.join(vm.clone()).await.unwrap());
    assert!(hub.peers().is_empty());
    while !vm.execute(list.into()).await.unwrap().stdout.is_empty() {}
    manager.shutdown_all().await.unwrap();
}
