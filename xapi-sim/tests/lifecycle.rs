//! A VM from its template to its end.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use common::{Pool, pool, pool_of, text};
use xapi_sim::{FaultRule, GuestReport, Model, NULL_REF, SimOptions, SrSpec, TemplateSpec, Value};

#[tokio::test]
async fn clone_provision_start_stop_destroy() {
    let pool = pool().await;
    let template = pool.template().await;
    let clone = pool
        .call("VM.clone", vec![template.as_str().into(), "worker".into()])
        .await;
    let vm = text(&clone);
    assert_eq!(
        pool.get("VM", "is_a_template", &vm).await,
        Value::Bool(true)
    );
    assert_eq!(
        pool.fails(
            "VM.start",
            vec![vm.as_str().into(), false.into(), false.into()]
        )
        .await,
        format!("VM_IS_TEMPLATE|{vm}|start")
    );
    let config = pool.get("VM", "other_config", &vm).await;
    assert_eq!(
        config.get("base_template_name"),
        Some(&Value::from("lua-bio-template"))
    );
    pool.call("VM.provision", vec![vm.as_str().into()]).await;
    assert_eq!(
        pool.fails("VM.provision", vec![vm.as_str().into()]).await,
        "PROVISION_ONLY_ALLOWED_ON_TEMPLATE"
    );
    assert_eq!(
        pool.get("VM", "guest_metrics", &vm).await,
        Value::from(NULL_REF)
    );
    pool.start(&vm).await;
    assert_eq!(pool.state(&vm).await, "Running");
    assert_eq!(
        pool.fails(
            "VM.start",
            vec![vm.as_str().into(), false.into(), false.into()]
        )
        .await,
        format!("VM_BAD_POWER_STATE|{vm}|halted|running")
    );
    assert_eq!(
        pool.fails("VM.destroy", vec![vm.as_str().into()]).await,
        format!("VM_BAD_POWER_STATE|{vm}|halted, suspended|running")
    );
    // A clean shutdown needs the guest's agent.
    report(&pool, &vm).await;
    pool.call("VM.clean_shutdown", vec![vm.as_str().into()])
        .await;
    assert_eq!(pool.state(&vm).await, "Halted");
    let vbds = pool.get("VM", "VBDs", &vm).await;
    let mut disks = Vec::new();
    for vbd in vbds.items() {
        let vdi = text(&pool.get("VBD", "VDI", vbd.as_str().unwrap()).await);
        if vdi != NULL_REF {
            disks.push(vdi);
        }
    }
    assert_eq!(disks.len(), 1);
    pool.call("VM.destroy", vec![vm.as_str().into()]).await;
    assert_eq!(
        pool.fails("VM.get_power_state", vec![vm.as_str().into()])
            .await,
        format!("HANDLE_INVALID|VM|{vm}")
    );
    // Disks outlive the VM.
    pool.call("VDI.destroy", vec![disks[0].as_str().into()])
        .await;
    assert_eq!(pool.sim.unimplemented(), Vec::<String>::new());
}

#[tokio::test]
async fn devices_are_copied_with_new_identities() {
    let pool = pool().await;
    let template = pool.template().await;
    let one = pool.vm("one").await;
    let two = pool.vm("two").await;
    let mut macs = Vec::new();
    for vm in [&template, &one, &two] {
        let vifs = pool.get("VM", "VIFs", vm).await;
        assert_eq!(vifs.items().len(), 1);
        macs.push(text(
            &pool
                .get("VIF", "MAC", vifs.items()[0].as_str().unwrap())
                .await,
        ));
    }
    macs.sort();
    macs.dedup();
    assert_eq!(macs.len(), 3);
}

/// What the metrics of the guest say, once they are there.
async fn report(pool: &Pool, vm: &str) -> (String, Value) {
    let mut token = String::new();
    loop {
        let metrics = text(&pool.get("VM", "guest_metrics", vm).await);
        if metrics != NULL_REF {
            let networks = pool.get("VM_guest_metrics", "networks", &metrics).await;
            return (metrics, networks);
        }
        let class = format!("VM/{vm}");
        let args = vec![Value::strings([class]), token.as_str().into(), 10.0.into()];
        let batch = pool.call("event.from", args).await;
        token = text(batch.get("token").unwrap());
    }
}

#[tokio::test]
async fn guest_metrics_come_after_the_boot_and_anew_at_every_start() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    let (first, networks) = report(&pool, &vm).await;
    let address = networks
        .get("0/ip")
        .and_then(Value::as_str)
        .unwrap()
        .to_owned();
    assert!(address.starts_with("192.0.2."));
    assert_eq!(networks.get("0/ipv4/0"), Some(&Value::from(address)));
    pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    // Stale, and still readable.
    assert_eq!(
        pool.get("VM", "guest_metrics", &vm).await,
        Value::from(first.as_str())
    );
    pool.start(&vm).await;
    let (second, _) = report(&pool, &vm).await;
    assert_ne!(first, second);
}

#[tokio::test]
async fn power_states() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let this = || vec![Value::from(vm.as_str())];
    let with = |flags: &[bool]| {
        std::iter::once(Value::from(vm.as_str()))
            .chain(flags.iter().map(|flag| Value::Bool(*flag)))
            .collect::<Vec<_>>()
    };
    pool.call("VM.start", with(&[true, false])).await;
    assert_eq!(pool.state(&vm).await, "Paused");
    assert_eq!(
        pool.fails("VM.clean_shutdown", this()).await,
        format!("VM_BAD_POWER_STATE|{vm}|running|paused")
    );
    pool.call("VM.unpause", this()).await;
    report(&pool, &vm).await;
    pool.call("VM.suspend", this()).await;
    assert_eq!(pool.state(&vm).await, "Suspended");
    assert_ne!(
        pool.get("VM", "suspend_VDI", &vm).await,
        Value::from(NULL_REF)
    );
    assert_eq!(
        pool.fails("VM.clone", vec![vm.as_str().into(), "no".into()])
            .await,
        format!("VM_BAD_POWER_STATE|{vm}|halted|suspended")
    );
    pool.call("VM.resume", with(&[false, false])).await;
    assert_eq!(pool.state(&vm).await, "Running");
    pool.call("VM.clean_reboot", this()).await;
    assert_eq!(pool.state(&vm).await, "Running");
    assert_eq!(
        pool.fails("VM.power_state_reset", this()).await,
        format!("DOMAIN_EXISTS|{vm}")
    );
    pool.call("VM.pause", this()).await;
    pool.call("VM.hard_reboot", this()).await;
    assert_eq!(pool.state(&vm).await, "Running");
    pool.call("VM.shutdown", this()).await;
    assert_eq!(pool.state(&vm).await, "Halted");
}

#[tokio::test]
async fn a_host_has_so_much_memory() {
    let model = Model::new()
        .host_memory(4 << 30)
        .sr(SrSpec::local("local"))
        .template(TemplateSpec::with_guest("lua-bio-template").memory(1 << 29, 1 << 30));
    let pool = pool_of(model, SimOptions::default()).await;
    let first = pool.vm("first").await;
    pool.start(&first).await;
    let second = pool.vm("second").await;
    let failure = pool
        .fails(
            "VM.start",
            vec![second.as_str().into(), false.into(), false.into()],
        )
        .await;
    assert!(
        failure.starts_with("HOST_NOT_ENOUGH_FREE_MEMORY|1087373312|"),
        "{failure}"
    );
    let hosts = pool
        .call("VM.get_possible_hosts", vec![second.as_str().into()])
        .await;
    assert!(hosts.items().is_empty());
    pool.call("VM.hard_shutdown", vec![first.into()]).await;
    pool.start(&second).await;
}

#[tokio::test]
async fn a_host_sets_memory_aside_for_vms_that_start_at_once() {
    let model = Model::new()
        .host_memory(4 << 30)
        .sr(SrSpec::local("local"))
        .template(TemplateSpec::with_guest("lua-bio-template").memory(1 << 29, 1 << 30));
    let slow = SimOptions::default().with_latency(std::time::Duration::from_millis(50));
    let pool = pool_of(model, slow).await;
    let (first, second) = (pool.vm("first").await, pool.vm("second").await);
    let start = |vm: &str| {
        let args = vec![Value::from(vm), false.into(), false.into()];
        pool.try_call("VM.start", args)
    };
    let (one, other) = tokio::join!(start(&first), start(&second));
    let failures: Vec<_> = [one, other].into_iter().filter_map(Result::err).collect();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].code, "HOST_NOT_ENOUGH_FREE_MEMORY");
    // What was set aside for one that runs is its own now, and not taken twice.
    for vm in [&first, &second] {
        if pool.state(vm).await == "Running" {
            pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
                .await;
        }
    }
    pool.start(&second).await;
}

#[tokio::test]
async fn a_failed_copy_leaves_nothing() {
    let pool = pool().await;
    let template = pool.template().await;
    let counts = || async {
        let args = vec![Value::Array(vec![]), "".into(), 0.0.into()];
        pool.call("event.from", args)
            .await
            .get("valid_ref_counts")
            .cloned()
    };
    let before = counts().await;
    let full = ["", "There is insufficient space", ""];
    pool.sim.inject(
        FaultRule::method("VM.clone")
            .after(1)
            .times(1)
            .fail("SR_BACKEND_FAILURE_44", full),
    );
    let args = || vec![Value::from(template.as_str()), "copy".into()];
    let first = text(&pool.call("VM.clone", args()).await);
    assert_eq!(
        pool.fails("VM.clone", args()).await,
        "SR_BACKEND_FAILURE_44||There is insufficient space|"
    );
    pool.call("VM.clone", args()).await;
    for vm in pool
        .call("VM.get_by_name_label", vec!["copy".into()])
        .await
        .items()
    {
        for vbd in pool.get("VM", "VBDs", vm.as_str().unwrap()).await.items() {
            let vdi = pool.get("VBD", "VDI", vbd.as_str().unwrap()).await;
            if vdi.as_str() != Some(NULL_REF) {
                pool.call("VDI.destroy", vec![vdi]).await;
            }
        }
        pool.call("VM.destroy", vec![vm.clone()]).await;
    }
    assert_eq!(counts().await, before);
    assert!(
        pool.try_call("VM.get_record", vec![first.into()])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn two_starts_at_once() {
    let options = SimOptions::default().with_latency(std::time::Duration::from_millis(20));
    let pool = pool_of(Model::single_host(), options).await;
    let vm = pool.vm("worker").await;
    let start = || {
        pool.try_call(
            "VM.start",
            vec![vm.as_str().into(), false.into(), false.into()],
        )
    };
    let (one, two) = tokio::join!(start(), start());
    let failure = match (one, two) {
        (Ok(_), Err(failure)) | (Err(failure), Ok(_)) => failure,
        other => panic!("{other:?}"),
    };
    // The server waits for the first to end before it looks at the second.
    assert_eq!(failure.code, "VM_BAD_POWER_STATE");
    assert_eq!(failure.params, [vm.as_str(), "halted", "running"]);
}

#[tokio::test]
async fn vms_move_between_hosts_that_share_storage() {
    let model = Model::new()
        .hosts(2)
        .sr(SrSpec::shared("shared"))
        .sr(SrSpec::local("local"))
        .template(TemplateSpec::with_guest("lua-bio-template"));
    let pool = pool_of(model, SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    let hosts = pool
        .call("VM.get_possible_hosts", vec![vm.as_str().into()])
        .await;
    assert_eq!(hosts.items().len(), 2);
    let this_pool = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let here = pool.get("pool", "master", &this_pool).await;
    let mut others = hosts.items().iter().filter(|host| **host != here);
    let there = others.next().unwrap().clone();
    let args = vec![vm.as_str().into(), here.clone(), false.into(), false.into()];
    pool.call("VM.start_on", args).await;
    report(&pool, &vm).await;
    assert_eq!(pool.get("VM", "resident_on", &vm).await, here);
    let args = vec![vm.as_str().into(), there.clone(), Value::Struct(vec![])];
    pool.call("VM.pool_migrate", args).await;
    assert_eq!(pool.get("VM", "resident_on", &vm).await, there);
    assert_eq!(
        pool.fails("VM.power_state_reset", vec![vm.as_str().into()])
            .await,
        format!("HOST_IS_LIVE|{}", text(&there)),
        "what a member runs is its own affair"
    );
    pool.call("host.disable", vec![here.clone()]).await;
    assert_eq!(
        pool.fails(
            "VM.assert_can_boot_here",
            vec![vm.as_str().into(), here.clone()]
        )
        .await,
        format!("HOST_DISABLED|{}", text(&here))
    );
}

#[tokio::test(start_paused = true)]
async fn a_hard_shutdown_overtakes_a_clean_one() {
    let options = SimOptions::default().with_latency(std::time::Duration::from_secs(1));
    let pool = pool_of(Model::single_host(), options).await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    report(&pool, &vm).await;
    let this = || vec![Value::from(vm.as_str())];
    let clean = pool.fails("VM.clean_shutdown", this());
    let hard = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        pool.call("VM.hard_shutdown", this()).await;
        pool.start(&vm).await;
    };
    let (clean, ()) = tokio::join!(clean, hard);
    assert!(clean.starts_with("TASK_CANCELLED|OpaqueRef:"), "{clean}");
    assert_eq!(
        pool.state(&vm).await,
        "Running",
        "the clean one does not stop what came after it"
    );
}

#[tokio::test]
async fn the_server_leaves_messages() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.call("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    let uuid = pool.get("VM", "uuid", &vm).await;
    let messages = pool.call("message.get_all_records", vec![]).await;
    let mut told: Vec<(String, String)> = Vec::new();
    for (_, message) in messages.members() {
        assert_eq!(message.get("obj_uuid"), Some(&uuid));
        told.push((
            text(message.get("name").unwrap()),
            text(message.get("body").unwrap()),
        ));
    }
    told.sort();
    assert_eq!(told[0].0, "VM_SHUTDOWN");
    assert_eq!(told[0].1, "VM 'worker' shutdown forcibly");
    assert!(
        told[1]
            .1
            .starts_with("VM 'worker' started on host: xcp-ng (uuid: "),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_start_that_the_host_refuses_leaves_the_vm_with_it() {
    let pool = pool().await;
    let vm = pool.vm("odd").await;
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let free = pool
        .call("host.compute_free_memory", vec![host.as_str().into()])
        .await;
    let platform = Value::map([("cores-per-socket", "3")]);
    pool.call("VM.set_platform", vec![vm.as_str().into(), platform])
        .await;
    let start = vec![vm.as_str().into(), false.into(), false.into()];
    let refused = pool.fails("VM.start", start).await;
    assert_eq!(refused, "VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE|2|3");
    assert_eq!(pool.state(&vm).await, "Halted");
    assert_eq!(text(&pool.get("VM", "resident_on", &vm).await), host);
    let after = pool
        .call("host.compute_free_memory", vec![host.into()])
        .await;
    assert_eq!(after, free);
}

#[tokio::test]
async fn an_agent_without_a_feature() {
    let model = Model::new()
        .sr(SrSpec::local("local"))
        .template(TemplateSpec::with_guest("lua-bio-template").report(GuestReport::NoTools));
    let pool = pool_of(model, SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    for method in ["VM.clean_shutdown", "VM.suspend", "VM.clean_reboot"] {
        assert_eq!(
            pool.fails(method, vec![vm.as_str().into()]).await,
            format!("VM_LACKS_FEATURE|{vm}")
        );
    }
    let allowed = pool.get("VM", "allowed_operations", &vm).await;
    assert_eq!(
        allowed,
        Value::strings([
            "sysprep",
            "metadata_export",
            "changing_dynamic_range",
            "hard_reboot",
            "hard_shutdown",
            "pause",
            "snapshot"
        ])
    );
}

/// A host is what its installer and the first start of its server have made of it.
#[tokio::test]
async fn a_fresh_host_knows_root_and_where_memory_goes() {
    let pool = pool().await;
    let users = Value::strings(["user"]);
    let batch = pool.call("event.from", vec![users, "".into(), 0.0.into()]);
    let counts = batch.await.get("valid_ref_counts").unwrap().clone();
    assert_eq!(counts.get("user").and_then(Value::as_int), Some(1));
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let local = Value::from(pool.named("SR", "Local storage").await);
    for field in ["suspend_image_sr", "crash_dump_sr"] {
        assert_eq!(pool.get("host", field, &host).await, local, "{field}");
    }
    // Where neither the VM nor the pool has an SR for it, its host has one.
    let pools = pool.call("pool.get_all", vec![]).await;
    let args = vec![pools.items()[0].clone(), NULL_REF.into()];
    pool.call("pool.set_suspend_image_SR", args).await;
    let vm = pool.vm("sleeper").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    pool.call("VM.suspend", vec![vm.as_str().into()]).await;
    let image = text(&pool.get("VM", "suspend_VDI", &vm).await);
    assert_eq!(pool.get("VDI", "SR", &image).await, local);
}

#[tokio::test]
async fn the_first_try_to_start_gives_a_vm_its_bios_strings() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let strings = || pool.get("VM", "bios_strings", &vm);
    assert!(strings().await.members().is_empty());
    let platform = Value::map([("cores-per-socket", "3")]);
    let args = vec![vm.as_str().into(), platform];
    pool.call("VM.set_platform", args).await;
    let args = vec![vm.as_str().into(), false.into(), false.into()];
    pool.fails("VM.start", args).await;
    assert_eq!(strings().await.get("bios-vendor"), Some(&"Xen".into()));
}
