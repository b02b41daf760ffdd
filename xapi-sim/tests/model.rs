//! What models describe: presets, and what guests report of themselves.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use std::time::Duration;

use common::{Pool, pool_of, text};
use xapi_sim::{
    GuestMode, GuestReport, Model, NULL_REF, NetworkSpec, Release, SecretString, Sim, SimOptions,
    SrSpec, TemplateSpec, UserSpec, Value,
};

/// A pool with a running VM whose guest reports so.
async fn running(report: GuestReport) -> (Pool, String) {
    let model = Model::new()
        .sr(SrSpec::local("Local storage"))
        .network(NetworkSpec::external("LAN", "eth0"))
        .template(TemplateSpec::with_guest("guest").vif("LAN").report(report));
    let pool = pool_of(model, SimOptions::default()).await;
    let template = pool.named("VM", "guest").await;
    let clone = vec![template.into(), "vm".into()];
    let vm = text(&pool.call("VM.clone", clone).await);
    pool.call("VM.provision", vec![vm.as_str().into()]).await;
    pool.start(&vm).await;
    (pool, vm)
}

async fn networks(pool: &Pool, metrics: &str) -> Vec<(String, String)> {
    let networks = pool.get("VM_guest_metrics", "networks", metrics).await;
    let pairs = networks.members().iter();
    pairs
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

#[tokio::test]
async fn agents_report_addresses_in_many_shapes() {
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let cases = [
        (
            GuestReport::Address,
            pairs(&[("0/ip", "192.0.2.11"), ("0/ipv4/0", "192.0.2.11")]),
        ),
        (GuestReport::NoAddress, Vec::new()),
        (
            GuestReport::LinkLocal,
            pairs(&[
                ("0/ip", "169.254.77.11"),
                ("0/ipv4/0", "169.254.77.11"),
                ("0/ipv6/0", "fe80::216:3eff:fe00:b"),
            ]),
        ),
        (
            GuestReport::NumberedByName(1),
            pairs(&[("1/ip", "192.0.2.11")]),
        ),
        (
            GuestReport::Ipv6,
            pairs(&[
                ("0/ipv6/0", "fe80::216:3eff:fe00:b"),
                ("0/ipv6/1", "2001:db8::b"),
            ]),
        ),
    ];
    for (report, expected) in cases {
        let (pool, vm) = running(report).await;
        let metrics = pool.reported(&vm).await;
        assert_eq!(networks(&pool, &metrics).await, expected, "{report:?}");
    }
}

#[tokio::test]
async fn a_guest_without_tools_never_reports() {
    let (pool, vm) = running(GuestReport::NoTools).await;
    let refused = pool
        .fails("VM.clean_shutdown", vec![vm.as_str().into()])
        .await;
    assert_eq!(refused, format!("VM_LACKS_FEATURE|{vm}"));
    let metrics = pool.get("VM", "guest_metrics", &vm).await;
    assert_eq!(text(&metrics), NULL_REF);
}

#[tokio::test(start_paused = true)]
async fn a_late_address_appears_in_the_metrics_that_are_there() {
    let (pool, vm) = running(GuestReport::LateAddress(Duration::from_secs(40))).await;
    let metrics = pool.reported(&vm).await;
    assert_eq!(networks(&pool, &metrics).await, []);
    let classes = Value::strings([format!("VM_guest_metrics/{metrics}")]);
    let first = vec![classes.clone(), "".into(), 0.0.into()];
    let first = pool.call("event.from", first).await;
    let next = vec![classes, first.get("token").unwrap().clone(), 60.0.into()];
    pool.call("event.from", next).await;
    assert_eq!(networks(&pool, &metrics).await.len(), 2);
    assert_eq!(text(&pool.get("VM", "guest_metrics", &vm).await), metrics);
}

#[tokio::test]
async fn every_host_of_the_pool_of_three_can_run_every_vm() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let vm = pool.vm("anywhere").await;
    let hosts = pool
        .call("VM.get_possible_hosts", vec![vm.as_str().into()])
        .await;
    assert_eq!(hosts.items().len(), 3);
}

#[tokio::test]
async fn a_fleet_is_halted_and_ready() {
    let pool = pool_of(Model::fleet(200), SimOptions::default()).await;
    let expression =
        "(field \"is_a_template\" = \"false\") and (field \"power_state\" = \"Halted\")";
    let vms = pool
        .call("VM.get_all_records_where", vec![expression.into()])
        .await;
    assert_eq!(vms.members().len(), 200);
    let vm = pool.named("VM", "vm-00199").await;
    assert_eq!(pool.get("VM", "VIFs", &vm).await.items().len(), 1);
    pool.start(&vm).await;
    assert_eq!(pool.state(&vm).await, "Running");
}

#[tokio::test]
async fn built_in_templates_boot_with_the_firmware_of_their_system() {
    let pool = pool_of(Model::single_host(), SimOptions::default()).await;
    for (name, firmware, secure, model, least, vcpus) in [
        ("Windows 11", "uefi", Some("auto"), None, 4_i64 << 30, 2),
        ("Generic Linux UEFI", "uefi", Some("auto"), None, 1 << 30, 1),
        (
            "Rocky Linux 8",
            "bios",
            None,
            Some("qemu-upstream-compat"),
            2 << 30,
            1,
        ),
        ("Debian Bookworm 12", "uefi", Some("auto"), None, 1 << 30, 1),
    ] {
        let template = pool.named("VM", name).await;
        let record = pool
            .call("VM.get_record", vec![template.as_str().into()])
            .await;
        let boot = record.get("HVM_boot_params").unwrap();
        assert_eq!(boot.get("firmware"), Some(&Value::from(firmware)), "{name}");
        let platform = record.get("platform").unwrap();
        for (key, value) in [("secureboot", secure), ("device-model", model)] {
            assert_eq!(platform.get(key).and_then(Value::as_str), value, "{name}");
        }
        assert_eq!(record.get("memory_static_min"), Some(&Value::Int(least)));
        assert_eq!(
            record.get("memory_static_max"),
            Some(&Value::Int(2 * least))
        );
        assert_eq!(record.get("VCPUs_max"), Some(&Value::Int(vcpus)));
        let limits = record.get("recommendations").and_then(Value::as_str);
        let uefi = if firmware == "uefi" { "yes" } else { "no" };
        let supports = format!("<restriction field=\"supports-uefi\" value=\"{uefi}\"/>");
        assert!(limits.unwrap().contains(&supports), "{name}");
    }
}

#[tokio::test]
async fn a_pool_has_an_identity_for_its_maker() {
    let pool = pool_of(Model::single_host(), SimOptions::default()).await;
    let own = pool.call("pool.get_all", vec![]).await.items()[0].clone();
    let secret = pool
        .call("pool.get_telemetry_uuid", vec![own.clone()])
        .await;
    let uuid = pool.call("secret.get_value", vec![secret.clone()]).await;
    assert_eq!(uuid.as_str().map(str::len), Some(36));

    pool.call("pool.reset_telemetry_uuid", vec![own.clone()])
        .await;
    let next = pool.call("pool.get_telemetry_uuid", vec![own]).await;
    let other = pool.call("secret.get_value", vec![next]).await;
    assert_ne!(other, uuid);
    let gone = format!("HANDLE_INVALID|secret|{}", text(&secret));
    assert_eq!(pool.fails("secret.get_value", vec![secret]).await, gone);
}

#[tokio::test]
async fn some_settings_of_a_pool_are_those_of_its_hosts() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let own = pool.call("pool.get_all", vec![]).await.items()[0].clone();
    for (field, value) in [
        ("https_only", Value::Bool(true)),
        ("console_idle_timeout", Value::Int(600)),
        ("ssh_auto_mode", Value::Bool(true)),
    ] {
        let setter = format!("pool.set_{field}");
        pool.call(&setter, vec![own.clone(), value.clone()]).await;
        for host in pool.call("host.get_all", vec![]).await.items() {
            assert_eq!(pool.get("host", field, &text(host)).await, value, "{field}");
        }
    }
}

#[tokio::test]
async fn an_older_release_has_its_own_templates() {
    let model = Model::single_host().release(Release::Xcpng82);
    let pool = pool_of(model, SimOptions::default()).await;
    let named = |name: &str| pool.call("VM.get_by_name_label", vec![name.into()]);
    for (name, count) in [
        ("CentOS 8", 1),
        ("Debian Buster 10", 1),
        ("Debian Bookworm 12", 0),
        ("Windows 11", 0),
        ("Other install media", 1),
    ] {
        assert_eq!(named(name).await.items().len(), count, "{name}");
    }
    let template = pool.named("VM", "AlmaLinux 8").await;
    let boot = pool.get("VM", "HVM_boot_params", &template).await;
    assert_eq!(boot.get("firmware"), Some(&Value::from("bios")));
}

#[tokio::test]
async fn an_older_release_has_no_column_of_a_newer_one() {
    let found = async |release| {
        let pool = pool_of(Model::single_host().release(release), SimOptions::default()).await;
        let filter = vec![r#"field "groups" = "()""#.into()];
        pool.try_call("VM.get_all_records_where", filter).await
    };
    assert!(found(Release::Xcpng83).await.is_ok());
    let failure = found(Release::Xcpng82).await.unwrap_err();
    assert_eq!(failure.code, "INTERNAL_ERROR");
    assert_eq!(failure.params, ["missing field", "groups", ""]);
}

#[tokio::test]
async fn what_does_not_fit_together_is_told_at_once() {
    let password = || SecretString::from("x".to_owned());
    let model = Model::new()
        .template(TemplateSpec::with_guest("worker").vif("LAN"))
        .user(UserSpec::new("root", password()).role("king"));
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let refused = Sim::start(model, options).await;
    assert_eq!(
        refused.map(|_: Sim| ()).unwrap_err().to_string(),
        "the model of the pool does not fit together: template worker has a disk and the pool has \
         no SR for it; template worker is on network LAN, which the model lacks; there are two \
         users root; user root has the role king, which does not exist; use one of read-only, \
         vm-operator, vm-admin, vm-power-admin, pool-operator, pool-admin"
    );
}
