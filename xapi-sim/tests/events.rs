//! `event.from`: what is told, when, and with which token.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::time::Duration;

use common::{Pool, pool, text};
use xapi_sim::Value;

struct Batch(Value);

impl Pool {
    async fn events(&self, classes: &[&str], token: &str, timeout: f64) -> Batch {
        let classes = Value::strings(classes.iter().copied());
        Batch(
            self.call("event.from", vec![classes, token.into(), timeout.into()])
                .await,
        )
    }

    async fn rename(&self, vm: &str, name: &str) {
        self.call("VM.set_name_label", vec![vm.into(), name.into()])
            .await;
    }
}

impl Batch {
    fn token(&self) -> String {
        text(self.0.get("token").unwrap())
    }

    /// `operation class reference` of each event.
    fn list(&self) -> Vec<String> {
        let field = |event: &Value, name: &str| text(event.get(name).unwrap());
        let events = self.0.get("events").unwrap().items();
        events
            .iter()
            .map(|event| {
                let (operation, class) = (field(event, "operation"), field(event, "class"));
                format!("{operation} {class} {}", field(event, "ref"))
            })
            .collect()
    }

    fn first(&self) -> &Value {
        &self.0.get("events").unwrap().items()[0]
    }

    fn count(&self, class: &str) -> i64 {
        let counts = self.0.get("valid_ref_counts").unwrap();
        counts.get(class).and_then(Value::as_int).unwrap()
    }
}

#[tokio::test]
async fn the_first_poll_tells_everything() {
    let pool = pool().await;
    let batch = pool.events(&["VM", "vm_metrics", "pool"], "", 10.0).await;
    let vms = pool.call("VM.get_all", vec![]).await.items().len();
    let adds = |class: &str| {
        batch
            .list()
            .iter()
            .filter(|event| event.starts_with(&format!("add {class} ")))
            .count()
    };
    assert_eq!((adds("vm"), adds("pool")), (vms, 1));
    assert_eq!(batch.count("vm"), i64::try_from(vms).unwrap());
    assert_eq!(batch.count("message"), 0);
    let first = batch.first();
    assert_eq!(first.get("timestamp"), Some(&Value::from("0.0")));
    assert!(matches!(first.get("id"), Some(Value::String(id)) if id.parse::<i64>().is_ok()));
    let reference = text(first.get("ref").unwrap());
    let record = pool.call("pool.get_record", vec![reference.into()]).await;
    assert_eq!(first.get("snapshot"), Some(&record));
    assert_eq!(batch.token().len(), 41);
}

#[tokio::test]
async fn changes_are_coalesced() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let token = pool.events(&["vm"], "", 0.0).await.token();
    assert_eq!(
        pool.events(&["vm"], &token, 0.0).await.list(),
        Vec::<String>::new()
    );
    pool.rename(&vm, "one").await;
    pool.rename(&vm, "two").await;
    let template = pool.template().await;
    let fresh = text(
        &pool
            .call("VM.clone", vec![template.as_str().into(), "x".into()])
            .await,
    );
    pool.rename(&fresh, "fresh").await;
    let brief = text(
        &pool
            .call("VM.clone", vec![template.into(), "y".into()])
            .await,
    );
    pool.call("VM.destroy", vec![brief.as_str().into()]).await;
    let batch = pool.events(&["vm"], &token, 0.0).await;
    let mut events = batch.list();
    assert!(
        !events.iter().any(|event| event.contains(&brief)),
        "never heard of"
    );
    events.retain(|event| !event.starts_with("mod") || event.contains(&vm));
    assert_eq!(events, [format!("add vm {fresh}"), format!("mod vm {vm}")]);
    // The same token gives the same events again.
    assert_eq!(pool.events(&["vm"], &token, 0.0).await.list(), batch.list());
    let token = batch.token();
    pool.call("VM.destroy", vec![fresh.as_str().into()]).await;
    let batch = pool.events(&["vm"], &token, 0.0).await;
    assert_eq!(batch.list()[0], format!("del vm {fresh}"));
    assert!(batch.first().get("snapshot").is_none());
}

/// What is made and deleted between two looks is not told, and not counted either. So where something
/// else has happened in between, the next look tells of a deletion that nobody can make anything of.
#[tokio::test]
async fn a_deletion_of_what_nobody_has_heard_of() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let token = pool.events(&["vm"], "", 0.0).await.token();
    let brief = vec![pool.template().await.into(), "brief".into()];
    let brief = text(&pool.call("VM.clone", brief).await);
    pool.rename(&vm, "renamed").await;
    pool.call("VM.destroy", vec![brief.as_str().into()]).await;
    let batch = pool.events(&["vm"], &token, 0.0).await;
    let told = batch.list();
    assert!(told.contains(&format!("mod vm {vm}")), "{told:?}");
    assert!(!told.iter().any(|event| event.contains(&brief)), "{told:?}");
    let batch = pool.events(&["vm"], &batch.token(), 0.0).await;
    assert_eq!(batch.list(), [format!("del vm {brief}")]);
    let batch = pool.events(&["vm"], &batch.token(), 0.0).await;
    assert_eq!(batch.list(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_token_belongs_to_its_subscription() {
    let pool = pool().await;
    let old = pool.events(&["pool"], "", 0.0).await.token();
    let vm = pool.vm("worker").await;
    // The token of the pool is old, and used for VMs it tells what came since.
    let events = pool.events(&["vm"], &old, 0.0).await.list();
    assert!(events.contains(&format!("add vm {vm}")));
    let object = format!("VM/{vm}");
    let batch = pool.events(&[&object], "", 0.0).await;
    assert_eq!(batch.list(), [format!("add vm {vm}")]);
    pool.call("VM.destroy", vec![vm.as_str().into()]).await;
    assert_eq!(
        pool.events(&[&object], &batch.token(), 0.0).await.list(),
        [format!("del vm {vm}")]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_token_is() {
    let pool = pool().await;
    for bad in ["garbage", "1", "1,2,3", " ", "9223372036854775808,0"] {
        let classes = Value::strings(["vm"]);
        let args = vec![classes, bad.into(), 0.0.into()];
        assert_eq!(
            pool.fails("event.from", args).await,
            format!("EVENT_FROM_TOKEN_PARSE_FAILURE|{bad}")
        );
    }
    // Two numbers of twenty digits; shorter ones are read as well.
    let batch = pool.events(&["vm"], "", 0.0).await;
    let token = batch.token();
    let parts: Vec<&str> = token.split(',').collect();
    assert!(
        parts.len() == 2 && parts.iter().all(|part| part.len() == 20),
        "{token}"
    );
    let all = pool.events(&["vm"], "0,0", 0.0).await;
    assert_eq!(all.list().len(), batch.list().len());
    assert_eq!(pool.events(&["vm"], "-1,-1", 0.0).await.list(), all.list());
    // Without events the reply has the token that was sent, and zeros for none.
    assert_eq!(pool.events(&["vm"], &token, 0.0).await.token(), token);
    let zeros = format!("{:020},{:020}", 0, 0);
    assert_eq!(pool.events(&["nothing"], "", 0.0).await.token(), zeros);
    let future = "00000009000000000000,00000000000000000000";
    let late = pool.events(&["vm"], future, 5.0).await;
    assert_eq!((late.list().len(), late.token()), (0, future.to_owned()));
    // A token can be used again, and tells the same.
    let vm = pool.vm("worker").await;
    let first = pool.events(&["vm"], &token, 0.0).await;
    let again = pool.events(&["vm"], &token, 0.0).await;
    assert_eq!(first.list()[0], format!("add vm {vm}"));
    assert_eq!((first.list(), first.token()), (again.list(), again.token()));
}

#[tokio::test]
async fn nonsense_matches_nothing() {
    let pool = pool().await;
    for classes in [
        vec![],
        vec![""],
        vec!["/"],
        vec!["VM/"],
        vec!["*/x"],
        vec!["nope"],
    ] {
        let batch = pool.events(&classes, "", 0.0).await;
        assert_eq!(batch.list(), Vec::<String>::new(), "{classes:?}");
        assert_eq!(batch.token(), "00000000000000000000,00000000000000000000");
    }
    let future = "00000000000000999999,00000000000000000000";
    assert_eq!(pool.events(&["vm"], future, 0.0).await.token(), future);
    let args = vec![Value::strings(["vm"]), "garbage".into(), 1.0.into()];
    assert_eq!(
        pool.fails("event.from", args).await,
        "EVENT_FROM_TOKEN_PARSE_FAILURE|garbage"
    );
    let args = vec![Value::strings(["vm"]), "".into(), true.into()];
    assert_eq!(
        pool.fails("event.from", args).await,
        "INTERNAL_ERROR|Failure(\"Expected float, got 'B(true)'\")"
    );
}

#[tokio::test]
async fn sessions_have_no_events() {
    let pool = pool().await;
    assert_eq!(
        pool.events(&["session"], "", 0.0).await.list(),
        Vec::<String>::new()
    );
    assert_eq!(pool.events(&["*"], "", 0.0).await.count("session"), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_change_and_not_by_polling() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let object = format!("VM/{vm}");
    let token = pool.events(&[&object], "", 0.0).await.token();
    let subscription = [object.as_str()];
    let waiting = pool.events(&subscription, &token, 3600.0);
    let changing = async {
        tokio::time::sleep(Duration::from_secs(1800)).await;
        pool.rename(&vm, "renamed").await;
    };
    let started = tokio::time::Instant::now();
    let (batch, ()) = tokio::join!(waiting, changing);
    assert_eq!(batch.list(), [format!("mod vm {vm}")]);
    // Time stands still but for what is waited for: the change and the gathering after it.
    assert_eq!(started.elapsed().as_secs(), 1800);
    let started = tokio::time::Instant::now();
    let batch = pool.events(&[&object], &batch.token(), 5.0).await;
    assert_eq!(batch.list(), Vec::<String>::new());
    assert_eq!(started.elapsed().as_secs(), 5);
    // What cannot be converted means a day.
    let started = tokio::time::Instant::now();
    pool.events(&[&object], &batch.token(), -1.0).await;
    assert_eq!(started.elapsed().as_secs(), 24 * 3600);
}

#[tokio::test]
async fn logging_out_wakes_those_who_wait() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let object = format!("VM/{vm}");
    let token = pool.events(&[&object], "", 0.0).await.token();
    let args = vec![Value::strings([object]), token.into(), 3600.0.into()];
    let waiting = pool.try_call("event.from", args);
    let (result, _) = tokio::join!(waiting, pool.call("session.logout", vec![]));
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.code.as_str(), &failure.params[..]),
        ("SESSION_INVALID", &[pool.session.clone()][..])
    );
}

#[tokio::test]
async fn injecting_gives_a_barrier() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let token = text(
        &pool
            .call("event.inject", vec!["VM".into(), vm.as_str().into()])
            .await,
    );
    assert_eq!(
        pool.events(&["vm"], &token, 0.0).await.list(),
        [format!("mod vm {vm}")]
    );
    assert_eq!(
        pool.fails("event.inject", vec!["vm".into(), vm.as_str().into()])
            .await,
        format!("HANDLE_INVALID|vm|{vm}")
    );
}

#[tokio::test]
async fn deletions_get_lost_and_counts_tell() {
    let pool = pool().await;
    let mut tasks = Vec::new();
    for _ in 0..600 {
        let args = vec!["task".into(), "".into()];
        tasks.push(pool.call("task.create", args).await);
    }
    let token = pool.events(&["task"], "", 0.0).await.token();
    for task in tasks {
        pool.call("task.set_status", vec![task.clone(), "success".into()])
            .await;
        pool.call("task.destroy", vec![task]).await;
    }
    let batch = pool.events(&["task"], &token, 0.0).await;
    let deletions = batch
        .list()
        .iter()
        .filter(|event| event.starts_with("del"))
        .count();
    assert!((257..512).contains(&deletions), "{deletions}");
    assert_eq!(batch.count("task"), 0);
}

#[tokio::test]
async fn messages_come_first_and_are_not_counted() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let uuid = pool.get("VM", "uuid", &vm).await;
    let args = vec![
        "ALARM".into(),
        Value::Int(3),
        "VM".into(),
        uuid,
        "text".into(),
    ];
    let message = text(&pool.call("message.create", args).await);
    let batch = pool.events(&["message", "pool"], "", 0.0).await;
    assert_eq!(batch.list()[0], format!("add message {message}"));
    assert_eq!(batch.first().get("id"), Some(&Value::from("0")));
    assert_eq!(batch.count("message"), 0);
    pool.call("message.destroy", vec![message.as_str().into()])
        .await;
    let batch = pool.events(&["message"], &batch.token(), 0.0).await;
    assert_eq!(batch.list(), [format!("del message {message}")]);
}

#[tokio::test]
async fn the_old_way_of_listening_tells_each_change_by_itself() {
    let pool = pool().await;
    let vm = pool.vm("one").await;
    let refused = pool.fails("event.next", vec![]).await;
    let (code, digest) = refused.split_once("|trackid=").unwrap();
    assert_eq!((code, digest.len()), ("SESSION_NOT_REGISTERED", 32));

    let classes = |names: &[&str]| vec![Value::strings(names.iter().copied())];
    let registration = pool.call("event.register", classes(&["VM", "bogus"])).await;
    assert_eq!(registration, Value::from(""));
    // Two changes of one object stay two, and an object that came and went is told of as well.
    pool.rename(&vm, "two").await;
    pool.rename(&vm, "three").await;
    let template = pool.template().await;
    let brief = text(
        &pool
            .call("VM.clone", vec![template.into(), "brief".into()])
            .await,
    );
    pool.call("VM.destroy", vec![brief.as_str().into()]).await;
    let news = pool.call("event.next", vec![]).await;
    let field = |event: &Value, name: &str| text(event.get(name).unwrap());
    let names: Vec<String> = news
        .items()
        .iter()
        .filter(|event| field(event, "ref") == vm)
        .map(|event| text(event.get("snapshot").unwrap().get("name_label").unwrap()))
        .collect();
    assert_eq!(names, ["two", "three"]);
    let operations: Vec<String> = news
        .items()
        .iter()
        .filter(|event| field(event, "ref") == brief)
        .map(|event| field(event, "operation"))
        .collect();
    assert_eq!(operations.first().map(String::as_str), Some("add"));
    assert_eq!(operations.last().map(String::as_str), Some("del"));
    assert!(
        news.items()
            .iter()
            .all(|event| field(event, "class") == "vm")
    );

    // Nobody is told of the same twice, nor of what is no longer wanted.
    pool.call("event.unregister", classes(&["VM"])).await;
    pool.call("event.register", classes(&["Pool"])).await;
    pool.rename(&vm, "four").await;
    let sim_pool = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let label = vec![sim_pool.as_str().into(), "renamed".into()];
    pool.call("pool.set_name_label", label).await;
    let news = pool.call("event.next", vec![]).await;
    assert_eq!(news.items().len(), 1);
    assert_eq!(field(&news.items()[0], "ref"), sim_pool);
}

#[tokio::test]
async fn a_listener_of_the_old_way_wakes_when_its_session_ends() {
    let pool = pool().await;
    let session = common::login(&pool.sim).await;
    let own = || vec![Value::from(session.as_str())];
    let none = Value::Array(Vec::new());
    pool.sim
        .call("event.unregister", vec![session.as_str().into(), none])
        .await
        .unwrap();
    let logout = async {
        tokio::task::yield_now().await;
        pool.sim.call("session.logout", own()).await.unwrap();
    };
    let (woken, ()) = tokio::join!(pool.sim.call("event.next", own()), logout);
    assert_eq!(woken.unwrap_err().code, "SESSION_INVALID");
}
