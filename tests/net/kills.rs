//! Programs that are killed after each of their calls, and what becomes of what they had begun.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bioxen::group::{GroupSpec, VmGroup};
use bioxen::net::{Networks, NicInfo, Wanted};
use bioxen::xcpng::{Leftover, XcpngConfig};
use bioxen::{Backend as _, BackendConfig as _};
use serde_json::Value;
use xapi_sim::{FaultRule, GuestMode};

use crate::{Pool, ids};

/// Starts a program and kills it when so many of its calls have been answered and one more has been
/// carried out. Gives how it ended before that, if it did.
async fn kill_after(
    pool: &Pool,
    calls: usize,
    start: impl FnOnce() -> Child,
) -> Option<ExitStatus> {
    let before = pool.sim.calls().len();
    // The call does its work, and no answer comes.
    let rule = FaultRule::method("*").after(calls as u64).times(1);
    pool.sim.inject(rule.slow_body(Duration::from_secs(3600)));
    let mut program = start();
    let ended = loop {
        if pool.sim.calls().len() > before + calls {
            break None;
        }
        if let Some(status) = program.try_wait().unwrap() {
            break Some(status);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    program.kill().unwrap();
    program.wait().unwrap();
    pool.sim.clear_faults();
    ended
}

/// A command of the program, which says nothing.
fn command(pool: &Pool, args: &[&str]) -> Child {
    let mut command = pool.command(args);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet.stderr(Stdio::null()).spawn().unwrap()
}

/// What killed programs have left of what they made, which is removed with all else that they left.
async fn collect(pool: &Pool) -> Vec<Leftover> {
    let backend = XcpngConfig::from_value(pool.config()).unwrap();
    let backend = backend.build().unwrap();
    let told = backend.collect(true).await.unwrap();
    let found = backend.collect(false).await.unwrap();
    assert_eq!(told.len(), found.len(), "{told:?} {found:?}");
    for one in &found {
        assert_eq!(one.problem, None, "{one:?}");
    }
    let rest = backend.collect(false).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    backend.close().await.unwrap();
    let made = found.into_iter().filter(|one| {
        let kind = one.kind.to_string();
        kind != "session" && kind != "task"
    });
    made.collect()
}

/// Two networks and an interface.
const FILE: &str = "[[network]]\nname = \"lab\"\nsubnet = \"10.9.0.0/24\"\n\
                    [[network]]\nname = \"cluster\"\nvlan = { device = \"eth1\", tag = 42 }\n\
                    [[nic]]\nvm = \"reader\"\nnetwork = \"lab\"\n";
/// The same, and another interface that is changed.
const MORE: &str = "[[nic]]\nvm = \"reader\"\ndevice = 0\nnetwork = \"storage\"\nrate = 500\n";

fn write(pool: &Pool, text: &str) -> (String, Wanted) {
    (pool.file("lab.toml", text), toml::from_str(text).unwrap())
}

/// Removes what is there of the file, and says that nothing else is there.
async fn remove(pool: &Pool, networks: &Networks) {
    let vm = networks.find_vm("reader").await.unwrap();
    for nic in networks.nics(&vm).await.unwrap() {
        match nic.device.as_str() {
            "0" => drop(networks.move_nic(&nic, "LAN").await.unwrap()),
            _ => networks.detach(&nic).await.unwrap(),
        }
    }
    for network in networks.list().await.unwrap() {
        if network.ours {
            networks.remove(network.name.as_str()).await.unwrap();
        }
    }
    assert_eq!(collect(pool).await.len(), 0);
}

async fn a_change_is_completed_by_the_next(hosts: usize) {
    let pool = Pool::with_reader(hosts).await;
    let networks = Networks::new(&pool.client);
    let before = pool.inventory().await;
    let (path, wanted) = write(&pool, &format!("{FILE}{MORE}"));
    let mut complete = None;
    for calls in 0.. {
        let start = || command(&pool, &["net", "apply", &path]);
        if let Some(status) = kill_after(&pool, calls, start).await {
            assert!(status.success(), "{status}");
            println!("killed after each of {calls} calls");
            assert!(calls > 12, "{calls}");
            break;
        }
        pool.says(&["apply", &path]).await;
        assert!(networks.plan(&wanted).await.unwrap().is_empty());
        let all = pool.inventory().await.into_iter();
        let now: Vec<_> = all.map(|(class, all)| (class, all.len())).collect();
        let complete = complete.get_or_insert_with(|| now.clone());
        assert_eq!(*complete, now, "killed after {calls} calls");
        assert_eq!(
            collect(&pool).await.len(),
            0,
            "what is complete is nobody's"
        );
        remove(&pool, &networks).await;
        assert_eq!(pool.inventory().await, before, "killed after {calls} calls");
    }
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_killed_after_any_call_is_completed_by_the_next_on_one_host() {
    a_change_is_completed_by_the_next(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_killed_after_any_call_is_completed_by_the_next_on_three_hosts() {
    a_change_is_completed_by_the_next(3).await;
}

/// Kills a command after each of its calls. What it has made is there as a whole, or is collected.
async fn whole_or_collected(pool: &Pool, args: &[&str], hosts: usize) -> usize {
    let networks = Networks::new(&pool.client);
    let before = pool.inventory().await;
    let mut collected = 0;
    for calls in 0.. {
        let ended = kill_after(pool, calls, || command(pool, args)).await;
        let found = collect(pool).await;
        collected += found.len();
        let listed = networks.list().await.unwrap();
        for network in listed.iter().filter(|network| network.ours) {
            assert_eq!(network.run, None, "killed after {calls} calls");
            if network.name == "cluster" {
                assert_eq!(
                    network.interfaces.len(),
                    hosts,
                    "killed after {calls} calls"
                );
            }
        }
        let vm = networks.find_vm("reader").await.unwrap();
        let nics: Vec<NicInfo> = networks.nics(&vm).await.unwrap();
        assert!(nics.iter().all(|nic| nic.run.is_none()), "{nics:?}");
        remove(pool, &networks).await;
        assert_eq!(pool.inventory().await, before, "killed after {calls} calls");
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            println!("{args:?} killed after each of {calls} calls; {collected} things collected");
            break;
        }
    }
    collected
}

async fn a_change_is_whole_or_collected(hosts: usize) {
    let pool = Pool::with_reader(hosts).await;
    let (path, _) = write(&pool, FILE);
    let apply = ["net", "apply", &path];
    assert!(whole_or_collected(&pool, &apply, hosts).await > 10);
    let create = ["net", "create", "cluster", "--vlan", "eth1:42"];
    assert!(whole_or_collected(&pool, &create, hosts).await > 1);
    let attach = ["net", "attach", "reader", "storage"];
    assert!(whole_or_collected(&pool, &attach, hosts).await > 1);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_killed_after_any_call_is_whole_or_collected_on_one_host() {
    a_change_is_whole_or_collected(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_killed_after_any_call_is_whole_or_collected_on_three_hosts() {
    a_change_is_whole_or_collected(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_fails_and_is_killed_while_it_is_undone_is_collected() {
    for hosts in [1, 3] {
        let pool = Pool::with_reader(hosts).await;
        let before = pool.inventory().await;
        let (path, _) = write(&pool, FILE);
        for calls in 0.. {
            let last = FaultRule::method("VIF.create").fail("INTERNAL_ERROR", ["broken"]);
            pool.sim.inject(last);
            let start = || command(&pool, &["net", "apply", &path]);
            let ended = kill_after(&pool, calls, start).await;
            let found = collect(&pool).await;
            assert_eq!(pool.inventory().await, before, "killed after {calls} calls");
            if let Some(status) = ended {
                assert_eq!(status.code(), Some(125));
                assert!(found.is_empty(), "{found:?}");
                println!("killed after each of {calls} calls, with {hosts} hosts");
                break;
            }
        }
        pool.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_killed_after_any_call_is_completed_by_the_next() {
    for hosts in [1, 3] {
        let pool = Pool::of(hosts, GuestMode::Simulated).await;
        let networks = Networks::new(&pool.client);
        let before = pool.inventory().await;
        let cluster = bioxen::net::NetworkSpec::new("cluster").with_vlan("eth1", 42);
        for calls in 0.. {
            networks.create(&cluster).await.unwrap();
            let start = || command(&pool, &["net", "rm", "cluster"]);
            if let Some(status) = kill_after(&pool, calls, start).await {
                assert!(status.success(), "{status}");
                assert_eq!(pool.inventory().await, before);
                println!("killed after each of {calls} calls, with {hosts} hosts");
                break;
            }
            match networks.remove("cluster").await {
                Ok(()) | Err(bioxen::net::Error::NotFound { .. }) => {}
                Err(error) => panic!("killed after {calls} calls: {error}"),
            }
            assert_eq!(collect(&pool).await.len(), 0);
            assert_eq!(pool.inventory().await, before, "killed after {calls} calls");
        }
        pool.end().await;
    }
}

/// Kills a command that changes an interface which is there, after each of its calls. What it has begun
/// is `sound`, belongs to nobody, and is completed by `complete`.
async fn an_interface_is_changed(
    pool: &Pool,
    prepare: &[&str],
    change: &[&str],
    sound: impl Fn(Option<&NicInfo>) -> bool,
    complete: impl AsyncFn(&Networks, &NicInfo),
) {
    let networks = Networks::new(&pool.client);
    let vm = networks.find_vm("reader").await.unwrap();
    for calls in 0.. {
        pool.says(prepare).await;
        let before = networks.nics(&vm).await.unwrap().pop().unwrap();
        let start = || command(pool, &[&["net"], change].concat());
        let ended = kill_after(pool, calls, start).await;
        let nics = networks.nics(&vm).await.unwrap();
        let now = nics.iter().find(|nic| nic.uuid == before.uuid);
        assert!(sound(now), "killed after {calls} calls: {now:?}");
        assert_eq!(collect(pool).await.len(), 0);
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            println!("{change:?} killed after each of {calls} calls");
            break;
        }
        complete(&networks, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_leaves_the_interface_on_one_of_the_networks() {
    let pool = Pool::with_reader(1).await;
    pool.start("reader").await;
    let (there, back) = (
        ["move", "reader", "0", "storage"],
        ["move", "reader", "0", "LAN"],
    );
    let sound = |nic: Option<&NicInfo>| {
        nic.is_some_and(|nic| nic.attached && ["LAN", "storage"].contains(&&*nic.network))
    };
    let complete = async |_: &Networks, _: &NicInfo| {
        let moved = pool.json(&there).await;
        assert_eq!(moved[0]["network"], "storage");
    };
    an_interface_is_changed(&pool, &back, &there, sound, complete).await;
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detachment_from_a_running_vm_that_is_killed_is_completed_by_the_next() {
    let pool = Pool::with_reader(1).await;
    pool.start("reader").await;
    let before = pool.inventory().await;
    let complete = async |networks: &Networks, nic: &NicInfo| {
        networks.detach(nic).await.unwrap();
        assert_eq!(pool.inventory().await, before);
    };
    let attach = ["attach", "reader", "storage"];
    let detach = ["detach", "reader", "1"];
    an_interface_is_changed(&pool, &attach, &detach, |_| true, complete).await;
    assert_eq!(pool.inventory().await, before);
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_lock_that_is_killed_opens_nothing_and_is_completed_by_the_next() {
    let pool = Pool::with_reader(1).await;
    let locked_to = |address: &str| {
        let nic = "[[nic]]\nvm = \"reader\"\ndevice = 0\nnetwork = \"LAN\"\n";
        let text = format!("{nic}locking = {{ locked = {{ ipv4 = [\"{address}\"] }} }}\n");
        pool.file(address, &text)
    };
    let (one, other) = (locked_to("10.9.0.7"), locked_to("10.9.0.8"));
    let sound = |nic: Option<&NicInfo>| {
        nic.is_some_and(|nic| {
            let locking = nic.locking.to_string();
            ["locked to 10.9.0.7", "locked to 10.9.0.8"].contains(&&*locking)
        })
    };
    let change = ["apply", &other];
    let complete = async |networks: &Networks, nic: &NicInfo| {
        pool.says(&change).await;
        let now = networks.nic(&nic.vm, &nic.device).await.unwrap();
        assert_eq!(now.locking.to_string(), "locked to 10.9.0.8");
    };
    an_interface_is_changed(&pool, &["apply", &one], &change, sound, complete).await;
    pool.end().await;
}

/// In which variables the killed program finds its configuration, and whether its VMs are to be kept.
const CONFIG: &str = "BIOXEN_TEST_GROUP";
const KEEP: &str = "BIOXEN_TEST_KEEP";

/// What the killed program does: a VM on a VLAN of its own, from its template to its end, or two on
/// a private network that are kept.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the program that another test starts and kills"]
async fn grouping_program() {
    let Ok(config) = std::env::var(CONFIG) else {
        return;
    };
    let config: Value = serde_json::from_str(&config).unwrap();
    let keep = std::env::var_os(KEEP).is_some();
    let spec = match keep {
        true => GroupSpec::isolated("cluster", ids(&["a", "b"])),
        false => GroupSpec::vlan("cluster", "eth1", 42, ids(&["a"])).with_locking(),
    };
    let group = VmGroup::new(config, spec).unwrap();
    group.create().await.unwrap();
    match keep {
        true => group.keep().await.unwrap(),
        false => group.destroy().await.unwrap(),
    }
}

fn start(pool: &Pool, keep: bool) -> Child {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program
        .args(["--exact", "kills::grouping_program", "--ignored"])
        .env(CONFIG, pool.config().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if keep {
        program.env(KEEP, "1");
    }
    program.spawn().unwrap()
}

async fn a_group_leaves_nothing_that_is_not_collected(hosts: usize) {
    let pool = Pool::of(hosts, GuestMode::Simulated).await;
    let before = pool.inventory().await;
    let mut networks = 0;
    for calls in 0.. {
        if let Some(status) = kill_after(&pool, calls, || start(&pool, false)).await {
            assert!(status.success(), "{status}");
            println!("killed after each of {calls} calls; {networks} networks collected");
            assert!(networks > 10, "{networks}");
            break;
        }
        let found = collect(&pool).await;
        let kinds = found.iter().map(|one| one.kind.to_string());
        networks += kinds.filter(|kind| kind == "network").count();
        assert_eq!(pool.inventory().await, before, "killed after {calls} calls");
    }
    pool.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_killed_after_any_call_leaves_nothing_that_is_not_collected_on_one_host() {
    a_group_leaves_nothing_that_is_not_collected(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_killed_after_any_call_leaves_nothing_that_is_not_collected_on_three_hosts() {
    a_group_leaves_nothing_that_is_not_collected(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_vms_whose_keeping_is_killed_stays_for_as_long_as_one_of_them() {
    let pool = Pool::of(1, GuestMode::Simulated).await;
    let networks = Networks::new(&pool.client);
    let before = pool.inventory().await;
    let mut in_part = 0;
    // Keeping is what it does last; before that it is as any other group.
    let mut program = start(&pool, true);
    let mut calls = pool.sim.calls().len();
    assert!(program.wait().unwrap().success());
    calls = pool.sim.calls().len() - calls;
    remove_kept(&pool, &networks).await;
    for calls in calls.saturating_sub(12)..=calls {
        kill_after(&pool, calls, || start(&pool, true)).await;
        collect(&pool).await;
        let left = pool.inventory().await;
        let there = networks.list().await.unwrap().into_iter();
        let there: Vec<_> = there.filter(|network| network.ours).collect();
        match there.as_slice() {
            [] => assert_eq!(left, before, "killed after {calls} calls"),
            [network] => {
                assert!(network.vifs > 0, "killed after {calls} calls: {network:?}");
                in_part += usize::from(network.run.is_some());
            }
            more => panic!("{more:?}"),
        }
        remove_kept(&pool, &networks).await;
        assert_eq!(pool.inventory().await, before, "killed after {calls} calls");
    }
    assert!(in_part > 0);
    pool.end().await;
}

/// Destroys the VMs that were kept, and removes their network unless it goes with them.
async fn remove_kept(pool: &Pool, networks: &Networks) {
    for vm in ["a", "b"] {
        if networks.find_vm(vm).await.is_ok() {
            let destroyed = pool.bioxen(&["destroy", vm]).await;
            assert!(destroyed.status.success(), "{destroyed:?}");
        }
    }
    collect(pool).await;
    match networks.remove("cluster").await {
        Ok(()) | Err(bioxen::net::Error::NotFound { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}
