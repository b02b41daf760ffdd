//! Pools from TOML files.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use common::{Pool, login, text};
use xapi_sim::{GuestReport, Scenario, Value};

async fn started(toml: &str) -> Pool {
    let sim = Scenario::from_toml(toml).unwrap().start().await.unwrap();
    let session = login(&sim).await;
    Pool { sim, session }
}

const LAB: &str = r#"
preset = "empty"
name = "lab"
seed = 7
release = "8.2"
hosts = 2
host_memory = "128GiB"
host_cpus = 4
vms = 3

[[sr]]
name = "Fast"
shared = true
kind = "lvmoiscsi"
size = "2TiB"

[[network]]
name = "LAN"
device = "eth0"

[[network]]
name = "Private"

[[template]]
name = "worker"
kind = "guest"
description = "does the work"
disk = "4GiB"
vifs = ["LAN", "Private"]
memory_min = "512MiB"
memory_max = "1GiB"
vcpus = 2
cores_per_socket = 2
report = "ipv6"

[[user]]
name = "op"
password = "op"
role = "vm-operator"

[[fault]]
method = "VM.clone"
times = 1
fail = ["INTERNAL_ERROR", "as the file says"]

[behaviour]
guests = "simulated"
latency = 0
"#;

#[tokio::test]
async fn a_file_describes_all_that_a_program_can() {
    let pool = started(LAB).await;
    let pools = pool.call("pool.get_all_records", vec![]).await;
    let record = &pools.members()[0].1;
    assert_eq!(record.get("name_label"), Some(&"lab".into()));
    assert_eq!(pool.call("host.get_all", vec![]).await.items().len(), 2);
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let minor = pool.get("host", "API_version_minor", &host).await;
    assert_eq!(minor, Value::Int(15));
    let cpus = pool.get("host", "host_CPUs", &host).await;
    assert_eq!(cpus.items().len(), 4);
    let sr = pool.named("SR", "Fast").await;
    let size = pool.get("SR", "physical_size", &sr).await;
    assert_eq!(size, Value::Int(2 << 40));
    pool.named("VM", "vm-00002").await;
    let worker = pool.named("VM", "worker").await;
    assert_eq!(pool.get("VM", "VIFs", &worker).await.items().len(), 2);
    let args = || vec![worker.as_str().into(), "copy".into()];
    assert_eq!(
        pool.fails("VM.clone", args()).await,
        "INTERNAL_ERROR|as the file says"
    );
    pool.call("VM.clone", args()).await;
    let params = vec!["op".into(), "op".into(), "1.0".into()];
    pool.sim
        .call("session.login_with_password", params)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_same_file_gives_the_same_pool() {
    let all = |pool: Pool| async move { pool.call("VM.get_all", vec![]).await };
    let first = all(started(LAB).await).await;
    assert_eq!(all(started(LAB).await).await, first);
    let other = LAB.replace("seed = 7", "seed = 8");
    assert_ne!(all(started(&other).await).await, first);
}

#[test]
fn all_mistakes_of_a_file_are_told_with_their_lines() {
    let toml = "\
preset = \"huge\"
hosts = -1
colour = \"blue\"

[[fault]]
method = \"VM.start\"

[[fault]]
class = \"VM\"
method = \"VM.start\"
probability = 2
delay = 1

[[user]]
name = \"x\"
";
    let error = Scenario::from_toml(toml).unwrap_err();
    assert_eq!(
        error.problems(),
        [
            "line 1: preset in the file has to be one of single-host, pool-of-three, fleet, empty",
            "line 2: hosts in the file has to be a whole number, 0 or more",
            "line 3: colour in the file is unknown; known are preset, name, seed, release, hosts, \
             host_memory, host_cpus, vms, sr, network, clock_skews, template, user, fault, \
             plugin, behaviour",
            "line 5: [[fault]] does nothing; give it delay, fail, disconnect, http_status, \
             truncate, slow_body, expire_session or crash_host",
            "line 8: [[fault]] has both method and class; give one of them",
            "line 11: probability in [[fault]] has to be a number from 0 to 1",
            "line 14: [[user]] has no password",
        ]
    );
}

#[tokio::test]
async fn a_file_says_what_plugins_answer() {
    let pool = started(
        r#"
hosts = 2

[behaviour]
guests = "simulated"

[[plugin]]
name = "zfs.py"
function = "list"
result = "{}"

[[plugin]]
name = "zfs.py"
function = "list"
host = "xcp-ng-2"
args = { pool = "tank" }
fail = ["XENAPI_PLUGIN_FAILURE", "list", "OSError", "no zpool"]
"#,
    )
    .await;
    let list = async |host: &str, args: &[(&str, &str)]| {
        let host = pool.named("host", host).await;
        let args = Value::map(args.iter().copied());
        let call = vec![host.into(), "zfs.py".into(), "list".into(), args];
        pool.try_call("host.call_plugin", call).await
    };
    let tank = [("pool", "tank"), ("verbose", "true")];
    assert_eq!(list("xcp-ng", &tank).await, Ok("{}".into()));
    assert_eq!(list("xcp-ng-2", &[]).await, Ok("{}".into()));
    let failure = list("xcp-ng-2", &tank).await.unwrap_err();
    assert_eq!(failure.code, "XENAPI_PLUGIN_FAILURE");
    assert_eq!(failure.params, ["list", "OSError", "no zpool"]);
    let toml = "[[plugin]]\nname = \"x\"\nresult = \"\"\nfail = [\"X\"]\n";
    let error = Scenario::from_toml(toml).unwrap_err();
    assert_eq!(
        error.problems(),
        [
            "line 1: [[plugin]] has no function",
            "line 1: [[plugin]] has both result and fail; give one of them",
        ]
    );
}

#[test]
fn a_pool_has_at_least_one_host() {
    let error = Scenario::from_toml("seed = 1\nhosts = 0\n").unwrap_err();
    assert_eq!(
        error.problems(),
        ["line 2: hosts in the file is 0, and a pool has at least one host, its coordinator"]
    );
}

#[test]
fn an_empty_file_is_a_fresh_host() {
    let scenario = Scenario::from_toml("").unwrap();
    assert!(scenario.faults.is_empty());
    let _ = GuestReport::default();
}

#[test]
fn a_fault_names_a_method_that_there_is() {
    for method in ["VM.strat", "VMM.*", "start", ""] {
        let toml = format!("[[fault]]\nmethod = {method:?}\ndisconnect = true\n");
        assert!(Scenario::from_toml(&toml).is_err(), "{method}");
    }
    for method in [
        "VM.start",
        "Async.VM.start",
        "VM.*",
        "*",
        "VM.get_all_records_where",
    ] {
        let toml = format!("[[fault]]\nmethod = {method:?}\ndisconnect = true\n");
        assert!(Scenario::from_toml(&toml).is_ok(), "{method}");
    }
}

#[test]
fn what_does_not_fit_together_is_told_with_its_lines_and_all_at_once() {
    let text = r#"preset = "empty"
hosts = 2
clock_skews = [0, 5, 9]

[[network]]
name = "LAN"

[[template]]
name = "worker"
vifs = ["LAN", "WAN"]

[[user]]
name = "op"
password = "x"
role = "king"

[[user]]
name = "op"
password = "y"

[[user]]
name = "root"
password = "z"
"#;
    let error = Scenario::from_toml(text).unwrap_err();
    assert_eq!(
        error.problems(),
        [
            "line 3: clock_skews in the file has more numbers than the 2 hosts",
            "line 8: [[template]] has a disk and the pool has no SR for it; add an [[sr]]",
            "line 10: vifs in [[template]] names the network WAN, which the model lacks; add a \
             [[network]]",
            "line 15: role in [[user]] has to be one of read-only, vm-operator, vm-admin, \
             vm-power-admin, pool-operator, pool-admin",
            "line 18: name in [[user]] is taken: there are two users op",
            "line 22: name in [[user]] is taken: there are two users root",
        ]
    );
}

#[test]
fn values_that_no_pool_has_are_refused() {
    let text = r#"
[[sr]]
name = "Odd"
kind = "zzz"
size = 0

[[template]]
name = "big"
vifs = ["Pool-wide network associated with eth0"]
memory_min = "8GiB"
memory_max = "4GiB"
report = "ipv6"
late_address = 3

[[template]]
name = "odd"
vcpus = 3
cores_per_socket = 2
report = "link-local"

[[user]]
name = "op"
password = ""

[[fault]]
method = "VM.start"
http_status = 42
disconnect = true

[[fault]]
method = "VM.start"
fail = ["nope"]

[[fault]]
method = "VM.start"
fail = []

[[fault]]
method = "VM.start"
fail = ["SR_FULL"]
truncate = 9

[[fault]]
method = "/exportt"
delay = 1
"#;
    let error = Scenario::from_toml(text).unwrap_err();
    let told = error.problems();
    let expected = [
        "line 4: kind in [[sr]] has to be one of ",
        "line 5: size in [[sr]] is 0; leave it out",
        "line 7: [[template]] has more than one of report, late_address and numbered_by_name",
        "line 10: memory_min in [[template]] does not fit: memory_min is 8589934592 bytes",
        "line 15: [[template]] has 3 vcpus and 2 cores_per_socket",
        "line 15: [[template]] says what address its guests report, and has no interface",
        "line 23: password in [[user]] is empty",
        "line 25: [[fault]] has more than one of disconnect, http_status",
        "line 27: http_status in [[fault]] is 42",
        "line 32: fail in [[fault]] begins with \"nope\"",
        "line 36: fail in [[fault]] is empty",
        "line 38: [[fault]] has fail with what happens to the answer on its way",
        "line 43: [[fault]] names \"/exportt\"",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn a_fault_names_a_handler_that_there_is() {
    for (method, known) in [
        ("/export", true),
        ("GET /export", true),
        ("PUT /export", false),
        ("/services/*", true),
        ("/nothing", false),
    ] {
        let toml = format!(
            "[[fault]]\nmethod = {method:?}\nfail = [\"VDI_IO_ERROR\", \"x\"]\ntruncate = 9\n"
        );
        assert_eq!(Scenario::from_toml(&toml).is_ok(), known, "{method}");
    }
}

#[tokio::test]
async fn a_rule_for_a_task_is_one_for_its_call() {
    let pool = started(
        "[behaviour]\nguests = \"simulated\"\n[[fault]]\nmethod = \"Async.VM.clone\"\nfail = [\"NO\"]\n",
    )
    .await;
    let template = pool.template().await;
    let failure = pool
        .fails("VM.clone", vec![template.into(), "x".into()])
        .await;
    assert_eq!(failure, "NO");
}

#[tokio::test]
async fn an_sr_is_full_from_the_start() {
    let pool = started(
        "[behaviour]\nguests = \"simulated\"\n[[sr]]\nname = \"Full\"\nshared = true\nfull = true\n",
    )
    .await;
    let sr = pool.named("SR", "Full").await;
    let size = pool.get("SR", "physical_size", &sr).await;
    assert_eq!(pool.get("SR", "physical_utilisation", &sr).await, size);
    pool.sim.fill_sr("Full", false).unwrap();
    let used = pool.get("SR", "physical_utilisation", &sr).await;
    assert_eq!(used, Value::Int(0));
}
