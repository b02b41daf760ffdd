//! Guests in a ring, while their connections are lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen::net::message::{Endpoint, Hub};
use bioxen::{Command, LuaVm, Script};
use serde_json::json;
use tokio::sync::watch;

use crate::Guests;

const RING: &str = include_str!("ring.lua");
const WAIT: Option<Duration> = Some(Duration::from_secs(120));

/// Kills what connects a guest's programs with the hub, or removes what did, and tells how many processes
/// that were.
const LOSE: &str = r#"
    count=0
    for file in $(grep -ls 'BIOXEN_LIN[K]=bioxen-net-' /proc/[0-9]*/environ); do
      process=${file#/proc/}
      kill -s KILL "${process%/environ}" && count=$((count + 1))
    done 2>/dev/null
    echo "$count"
"#;

/// After so many messages the next connection is lost.
const BETWEEN: usize = 40;

/// Loses connections, one guest after the other, each some messages after the last. Returns how
/// often, once no more messages are told of.
async fn lose(guests: Vec<Arc<dyn LuaVm>>, mut passed: watch::Receiver<usize>) -> usize {
    let (mut lost, mut next) = (0, BETWEEN);
    for guest in guests.iter().cycle() {
        if passed.wait_for(|passed| *passed >= next).await.is_err() {
            break;
        }
        let command = Command::new("sh").args(["-c", LOSE]);
        let outcome = guest.runner().await.unwrap().run(command).await.unwrap();
        lost += usize::from(outcome.stdout_text().trim() != "0");
        next = *passed.borrow() + BETWEEN;
    }
    lost
}

/// Sends numbered messages of many sizes into a ring for some time, and insists that each comes
/// out of it once, in order. Returns how many.
async fn around(
    first: &str,
    (source, sink): (Endpoint, Endpoint),
    time: Duration,
    passed: watch::Sender<usize>,
) -> usize {
    let begun = Instant::now();
    let send = async {
        let mut number = 0;
        while begun.elapsed() < time {
            number += 1;
            source.send(first, message(number), WAIT).await.unwrap();
        }
        source.send(first, "end", WAIT).await.unwrap();
        number
    };
    let check = async {
        let mut number = 0;
        loop {
            let got = sink.receive(WAIT).await.unwrap().unwrap();
            if got.bytes == "end" {
                return number;
            }
            number += 1;
            assert!(
                got.bytes == message(number),
                "message {number} is another one"
            );
            passed.send_replace(number);
        }
    };
    let (sent, got) = tokio::join!(send, check);
    assert_eq!(sent, got);
    sent
}

/// A number and bytes of all kinds.
fn message(number: usize) -> Vec<u8> {
    let mut bytes = format!("{number} ").into_bytes();
    bytes.extend((0..number * 7919 % 30_000).map(|at| (at * 31 + number) as u8));
    bytes
}

/// A ring of so many guests, and of VMs on this machine between them if so wished.
async fn ring(guests: usize, with_local: bool, time: Duration) {
    let on_pool = Guests::of((0..guests).map(|number| format!("guest{number}"))).await;
    let in_guests = on_pool.vms.clone();
    let mut vms = in_guests.clone();
    if with_local {
        let local = on_pool.manager.create_vm("local", "basic", json!({}));
        vms.insert(1, local.await.unwrap());
    }
    let mut addresses = Vec::new();
    for guest in &in_guests {
        addresses.extend(guest.info().await.unwrap().address);
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), guests, "each has an address of its own");

    let hub = Hub::new();
    let ends = (
        hub.endpoint("source").unwrap(),
        hub.endpoint("sink").unwrap(),
    );
    let mut members = Vec::new();
    for vm in &vms {
        members.push(hub.join(Arc::clone(vm)).await.unwrap());
    }
    let names: Vec<_> = members
        .iter()
        .map(|member| member.name().to_string())
        .collect();
    let mut programs = Vec::new();
    for (number, member) in members.into_iter().enumerate() {
        let next = names
            .get(number + 1)
            .map_or("sink", String::as_str)
            .to_owned();
        programs.push(tokio::spawn(async move {
            let outcome = member.execute(Script::new(RING).arg(next)).await.unwrap();
            eprint!("{}", outcome.stderr_text());
            outcome
        }));
    }
    let (tell, told) = watch::channel(0);
    let losing = tokio::spawn(lose(in_guests, told));
    let passed = around(&names[0], ends, time, tell).await;
    let lost = losing.await.unwrap();
    for program in programs {
        let outcome = program.await.unwrap();
        assert!(outcome.success(), "{}", outcome.status);
        assert_eq!(outcome.stdout_text().trim(), passed.to_string());
    }
    eprintln!(
        "{passed} messages around {} VMs; {lost} connections lost",
        vms.len()
    );
    assert!(lost > 0, "no connection was lost");
    assert!(hub.peers().is_empty());
    for vm in &vms {
        let list = "for name in io.popen('ls -A ${TMPDIR:-/tmp}'):lines() do
            if name:find('^bioxen%-net%-') then print(name) end end";
        if vm.vm_type() == "xcpng" {
            assert_eq!(vm.execute(list.into()).await.unwrap().stdout_text(), "");
        }
    }
    on_pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_guests_and_a_local_vm_lose_connections_and_no_message() {
    ring(2, true, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-ring"]
async fn two_guests_lose_connections_and_no_message_for_a_minute() {
    ring(2, false, Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-ring"]
async fn eight_guests_lose_connections_and_no_message_for_a_minute() {
    ring(8, false, Duration::from_secs(60)).await;
}
