//! Programs that are killed, and what is collected after them.

use std::ops::RangeBounds;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bioxen_vm_core::{Backend, BackendConfig};
use bioxen_vm_xcpng::{Leftover, XcpngConfig};
use nix::sys::signal::{Signal, raise};
use serde_json::Value;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use xapi_sim::FaultRule;

use crate::lab::{Inventory, Lab};

/// In which variable the killed program finds its configuration.
const CONFIG: &str = "BIOXEN_TEST_KILLED";

/// At which step on the way over SSH it ends itself.
const STEP: &str = "BIOXEN_TEST_STEP";

/// How often a program was killed, and how many things it had left in all.
pub(crate) struct Killed {
    pub(crate) steps: u64,
    pub(crate) left: usize,
}

/// For the program: its configuration, and what the key `more` has for it besides. Nothing when the
/// test was not started by another one.
pub(crate) fn given() -> Option<(XcpngConfig, String)> {
    let mut config: Value = serde_json::from_str(&std::env::var(CONFIG).ok()?).unwrap();
    let more = config.as_object_mut().unwrap().remove("more");
    if let Ok(step) = std::env::var(STEP) {
        let left = AtomicU64::new(step.parse().unwrap());
        tracing::subscriber::set_global_default(KillsItself { left }).unwrap();
    }
    let more = more.map(|more| more.as_str().unwrap().to_owned());
    Some((
        XcpngConfig::from_value(config).unwrap(),
        more.unwrap_or_default(),
    ))
}

/// Ends the process as `kill -9` does, at one of the steps that the way over SSH tells of.
struct KillsItself {
    left: AtomicU64,
}

impl Subscriber for KillsItself {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("bioxen_vm_xcpng::ssh")
    }

    fn event(&self, _: &Event<'_>) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            raise(Signal::SIGKILL).unwrap();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn start(program: &str, config: &Value, step: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", program, "--ignored"])
        .env(CONFIG, config.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(step) = step {
        command.env(STEP, step.to_string());
    }
    command.spawn().unwrap()
}

pub(crate) async fn collect(config: &Value, dry_run: bool) -> Vec<Leftover> {
    let config = XcpngConfig::from_value(config.clone()).unwrap();
    let backend = config.build_without_template().unwrap();
    let found = backend.collect(dry_run).await.unwrap();
    backend.close().await.unwrap();
    found
}

/// Kills a program after each of these of its calls, until it ends before that. `whole` removes what it
/// may rightly have left, and counts that.
pub(crate) async fn after_each_call(
    lab: &Lab,
    program: &str,
    config: Value,
    calls: impl RangeBounds<u64> + Iterator<Item = u64>,
    whole: impl AsyncFn(&Lab) -> usize,
) -> Killed {
    // The call does its work, and no answer comes.
    let unanswered = |rule: FaultRule| rule.slow_body(Duration::from_secs(3600));
    let after = After::new(lab, &config).await;
    at_each_call(after, program, config, calls, whole, unanswered).await
}

/// Kills a program during each of these of its calls, and cleans up while the pool still works on the call.
pub(crate) async fn during_each_call(
    lab: &Lab,
    program: &str,
    config: Value,
    calls: impl RangeBounds<u64> + Iterator<Item = u64>,
    whole: impl AsyncFn(&Lab) -> usize,
) -> Killed {
    let slow = |rule: FaultRule| rule.delay(Duration::from_millis(400));
    let mut after = After::new(lab, &config).await;
    after.waits = false;
    at_each_call(after, program, config, calls, whole, slow).await
}

async fn at_each_call(
    mut after: After<'_>,
    program: &str,
    config: Value,
    calls: impl RangeBounds<u64> + Iterator<Item = u64>,
    whole: impl AsyncFn(&Lab) -> usize,
    fault: impl Fn(FaultRule) -> FaultRule,
) -> Killed {
    let lab = after.lab;
    for number in calls {
        let begun = lab.sim.calls().len();
        let rule = FaultRule::method("*").after(number).times(1);
        lab.sim.inject(fault(rule));
        let mut program = start(program, &config, None);
        let ended = lab.until(begun + number as usize + 1, &mut program).await;
        program.kill().unwrap();
        program.wait().unwrap();
        lab.sim.clear_faults();
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            after.is_clean("to its end", &whole).await;
            break;
        }
        after
            .is_clean(&format!("until call {number}"), &whole)
            .await;
    }
    after.told("call")
}

/// Lets a program kill itself at each step of its way over SSH from this one on, until there is none.
pub(crate) async fn at_each_ssh_step(
    lab: &Lab,
    program: &str,
    config: Value,
    first: u64,
    whole: impl AsyncFn(&Lab) -> usize,
) -> Killed {
    let mut after = After::new(lab, &config).await;
    for step in first.. {
        let mut program = start(program, &config, Some(step));
        let status = tokio::task::spawn_blocking(move || program.wait().unwrap());
        let status = status.await.unwrap();
        if status.success() {
            after.is_clean("to its end", &whole).await;
            break;
        }
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(9), "step {step}: {status}");
        after.is_clean(&format!("until step {step}"), &whole).await;
    }
    after.told("SSH step")
}

/// What is looked at after each kill.
struct After<'l> {
    lab: &'l Lab,
    /// How it was before.
    before: Inventory,
    sessions: Option<usize>,
    /// What the program needs to know besides is not for those who clean up.
    cleaner: Value,
    /// Whether those who clean up come when the pool has ended what it was asked for.
    waits: bool,
    killed: Killed,
}

impl<'l> After<'l> {
    async fn new(lab: &'l Lab, config: &Value) -> Self {
        let mut cleaner = config.clone();
        cleaner.as_object_mut().unwrap().remove("more");
        Self {
            lab,
            before: lab.inventory().await,
            sessions: None,
            cleaner,
            waits: true,
            killed: Killed { steps: 0, left: 0 },
        }
    }

    /// Whatever a program has left that ran so far is collected, and then all is as it was before.
    async fn is_clean(&mut self, ran: &str, whole: &impl AsyncFn(&Lab) -> usize) {
        let lab = self.lab;
        if self.waits {
            lab.until_idle().await;
            let told = collect(&self.cleaner, true).await;
            let found = collect(&self.cleaner, false).await;
            assert_eq!(told.len(), found.len(), "ran {ran}");
            self.is_as_before(ran, found, whole).await;
        } else {
            let found = collect(&self.cleaner, false).await;
            lab.until_idle().await;
            self.is_as_before(ran, found, whole).await;
        }
    }

    async fn is_as_before(
        &mut self,
        ran: &str,
        found: Vec<Leftover>,
        whole: &impl AsyncFn(&Lab) -> usize,
    ) {
        let lab = self.lab;
        for one in &found {
            assert_eq!(one.problem, None, "ran {ran}: {one:?}");
        }
        self.killed.steps += 1;
        self.killed.left += found.len() + whole(lab).await;
        assert_eq!(lab.inventory().await, self.before, "ran {ran}");
        assert_eq!(collect(&self.cleaner, false).await.len(), 0);
        // The answer to the login is the only one that says which session it was.
        let now = lab.sessions().await;
        assert_eq!(*self.sessions.get_or_insert(now), now, "ran {ran}");
    }

    fn told(self, what: &str) -> Killed {
        let Killed { steps, left } = self.killed;
        println!("killed at each {what}, {steps} times; {left} things were left and collected");
        self.killed
    }
}
