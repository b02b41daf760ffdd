//! What is left in guests, and what becomes of those that talk to one that is killed.

use std::time::Duration;

use bioxen::ErrorKind;
use bioxen::net::message::Hub;

use crate::Guests;

const WAIT: Option<Duration> = Some(Duration::from_secs(60));

/// The folders of programs that there are, and one as a killed owner leaves it.
const LIST: &str = "
    local tmp = os.getenv('TMPDIR') or '/tmp'
    for name in io.popen('ls -A ' .. tmp):lines() do
      if name:find('^bioxen%-net%-') then print(name) end
    end
    os.execute('mkdir -p ' .. tmp .. '/bioxen-net-left/bioxen')";

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_a_guest_that_is_killed_is_told_and_what_was_left_is_swept() {
    let guests = Guests::of(["guest"]).await;
    let vm = &guests.vms[0];
    assert_eq!(vm.execute(LIST.into()).await.unwrap().stdout_text(), "");

    let hub = Hub::new();
    let rust = hub.endpoint("rust").unwrap();
    let guest = hub.join(vm.clone()).await.unwrap();
    let outcome = vm.execute(LIST.into()).await.unwrap();
    let listed = outcome.stdout_text();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(!listed.contains("left"), "{listed}");

    let program = tokio::spawn(guest.execute(
        "local net = require 'bioxen.net'
         net.send('rust', 'here')
         local message = net.receive()
         net.send('rust', 'got it')
         net.receive()",
    ));
    assert_eq!(rust.receive(WAIT).await.unwrap().unwrap().bytes, "here");
    let asked = rust.request("guest", "anything", WAIT);
    let kill = async {
        assert_eq!(rust.receive(WAIT).await.unwrap().unwrap().bytes, "got it");
        guests.manager.remove_vm("guest").await.unwrap();
    };
    let (asked, ()) = tokio::join!(asked, kill);
    let asked = asked.unwrap_err();
    assert_eq!(asked.kind(), ErrorKind::Unavailable, "{asked}");
    assert!(program.await.unwrap().is_err());
    let sent = rust.send("guest", "x", WAIT).await.unwrap_err();
    let text = sent.to_string();
    assert!(
        text.starts_with("cannot send: guest has left: its program could not go on"),
        "{text}"
    );
    guests.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_asks_subscribes_and_broadcasts() {
    let guests = Guests::of(["guest"]).await;
    let hub = Hub::new();
    let (rust, other) = (
        hub.endpoint("rust").unwrap(),
        hub.endpoint("other").unwrap(),
    );
    let guest = hub.join(guests.vms[0].clone()).await.unwrap();
    let program = guest.execute(
        "local net = require 'bioxen.net'
         assert(net.subscribe('chr1'))
         print(net.request('rust', 'publish, please', 60))
         local message = assert(net.receive(60))
         print(message.from, message.topic, message.bytes)
         assert(net.unsubscribe('chr1'))
         print(net.request('rust', 'publish again', 60))
         print(net.broadcast('done', 60))",
    );
    let serve = async {
        for has_it in [1, 0] {
            let asked = rust.receive(WAIT).await.unwrap().unwrap();
            assert!(asked.wants_reply());
            assert_eq!(rust.publish("chr1", "variant", WAIT).await.unwrap(), has_it);
            asked.reply(format!("{has_it} have it")).unwrap();
        }
        for end in [&rust, &other] {
            let heard = end.receive(WAIT).await.unwrap().unwrap();
            assert_eq!(
                (heard.from.as_str(), &heard.bytes[..]),
                ("guest", &b"done"[..])
            );
        }
    };
    let (outcome, ()) = tokio::join!(program, serve);
    let outcome = outcome.unwrap();
    assert_eq!(
        outcome.stdout_text(),
        "1 have it\nrust\tchr1\tvariant\n0 have it\n2\n",
        "{}",
        outcome.stderr_text()
    );
    guests.end().await;
}
