//! A VM from its template to its end.

use std::any::Any;

use bioxen_vm_core::{Backend, ErrorKind, LuaVm, Script, VmId, VmState};
use bioxen_vm_xcpng::{Stage, StageState, XcpngBackend, XcpngVm};
use serde_json::json;
use xapi_sim::guest::{VM_DATA_AUTHORIZED_KEYS, VM_DATA_HOST_KEY, VM_DATA_HOSTNAME};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_deployed_runs_lua_keeps_its_disk_and_leaves_nothing() {
    let lab = Lab::start().await;
    let before = lab.inventory().await;
    let backend = lab.backend();
    let mut progress = backend.subscribe();

    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    assert_eq!(vm.info().await.unwrap().state, VmState::Stopped);
    let error = vm.execute(Script::new("print(1)")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);
    assert_eq!(
        error.to_string(),
        "VM vm1: cannot execute: it is stopped; start it first"
    );

    vm.start().await.unwrap();
    vm.start().await.unwrap();
    let info = vm.info().await.unwrap();
    assert_eq!(info.state, VmState::Running);
    assert!(info.address.is_some());
    assert_eq!(info.details["name"], "bioxen-vm1");
    assert_eq!(info.details["template"], "lua-bio-template");
    assert!(info.details.contains_key("host") && info.details.contains_key("uuid"));

    let outcome = vm.execute(Script::new("print(_VERSION)")).await.unwrap();
    assert_eq!(outcome.stdout_text(), "Lua 5.4\n");
    let write = "local f = assert(io.open('kept', 'w')) f:write('on disk') f:close()";
    let outcome = vm.execute(Script::new(write)).await.unwrap();
    assert!(outcome.success(), "{outcome:?}");

    vm.stop().await.unwrap();
    vm.stop().await.unwrap();
    assert_eq!(vm.info().await.unwrap().state, VmState::Stopped);
    let error = vm.execute(Script::new("print(1)")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);

    vm.start().await.unwrap();
    let outcome = vm
        .execute(Script::new("print(io.open('kept'):read('a'))"))
        .await;
    assert_eq!(outcome.unwrap().stdout_text(), "on disk\n");

    vm.destroy().await.unwrap();
    vm.destroy().await.unwrap();
    assert_eq!(vm.info().await.unwrap().state, VmState::Destroyed);
    assert_eq!(
        vm.start().await.unwrap_err().kind(),
        ErrorKind::InvalidState
    );
    assert_eq!(lab.inventory().await, before);
    backend.close().await.unwrap();

    let mut finished = Vec::new();
    while let Ok(event) = progress.try_recv() {
        assert_eq!(event.vm.as_str(), "vm1");
        if let StageState::Finished(_) = event.state {
            finished.push(event.stage);
        }
    }
    use Stage::{Address, Clone, Configure, Connect, Destroy, Login, Plan, Start, Stop};
    let expected = [
        Connect, Plan, Clone, Configure, Start, Address, Login, Stop, Start, Address, Login,
        Destroy,
    ];
    assert_eq!(finished, expected);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_as_the_configuration_says() {
    let lab = Lab::records_only().await;
    let backend = XcpngBackend::new(lab.config(json!({
        "memory": "3GB", "vcpus": 4, "cores_per_socket": 2, "tags": ["lab"],
        "disk_size": "20GB", "affinity": lab.hosts().await[0],
        "disks": [{"size": "1GB"}, {"size": "2GB", "name": "reads"}], "name_prefix": "x-", "network": [lab.some_network().await], "clone": "copy",
    })))
    .unwrap();
    let id = VmId::new("vm1").unwrap();
    let plan = backend.plan(&id).await.unwrap().to_string();
    assert!(plan.contains("set memory to 3 GiB"), "{plan}");
    assert!(plan.contains("grow the disk 0 to 20 GiB"), "{plan}");
    assert!(
        plan.contains("give it the disk \"reads\" of 2 GiB"),
        "{plan}"
    );
    assert!(plan.starts_with("copy template"), "{plan}");

    let vm = backend.create(id).await.unwrap();
    let record = lab.record(&*vm).await;
    assert_eq!(record.name_label, "x-vm1");
    assert!(!record.is_a_template);
    assert_eq!(
        [
            record.memory_static_max,
            record.memory_dynamic_max,
            record.memory_dynamic_min
        ],
        [3 << 30; 3]
    );
    assert_eq!((record.vcpus_max, record.vcpus_at_startup), (4, 4));
    assert_eq!(record.platform["cores-per-socket"], "2");
    assert!(record.tags.contains(&"lab".to_owned()));
    assert_eq!(record.other_config["bioxen:owner"], "bioxen");
    assert_eq!(record.other_config["bioxen:vm-id"], "vm1");
    assert_eq!(record.vifs.len(), 1);
    let mut sizes = lab.disk_sizes(&record).await;
    sizes.sort_unstable();
    assert_eq!(sizes, [1 << 30, 2 << 30, 20 << 30]);
    for name in ["x-vm1 disk 1", "reads"] {
        let found = lab.client().vdi().get_by_name_label(name).await.unwrap();
        assert_eq!(found.len(), 1, "{name}");
    }
    let host = lab.client().host().get_name_label(&record.affinity).await;
    assert_eq!(host.unwrap(), lab.hosts().await[0]);
    for key in [VM_DATA_AUTHORIZED_KEYS, VM_DATA_HOST_KEY, VM_DATA_HOSTNAME] {
        assert!(record.xenstore_data.contains_key(&format!("vm-data/{key}")));
    }
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_host_key_is_not_left_where_others_can_read_it() {
    let lab = Lab::start().await;
    let backend = lab.backend();
    let vm = lab.running(&backend, "vm1").await;
    let data = lab.record(&*vm).await.xenstore_data;
    assert!(!data.contains_key("vm-data/bioxen/host-key"), "{data:?}");
    assert!(data.contains_key("vm-data/bioxen/authorized-keys"));
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_vms_are_deployed_at_once_with_one_login() {
    let lab = Lab::start().await;
    let before = lab.inventory().await;
    let backend = std::sync::Arc::new(lab.backend());
    let deploys: Vec<_> = (0..8)
        .map(|number| {
            let backend = std::sync::Arc::clone(&backend);
            tokio::spawn(async move {
                let vm = backend
                    .create(VmId::new(format!("vm{number}")).unwrap())
                    .await
                    .unwrap();
                vm.start().await.unwrap();
                let script = Script::new("io.write('I am ', arg[1])").arg(format!("{number}"));
                let outcome = vm.execute(script).await.unwrap();
                assert_eq!(outcome.stdout_text(), format!("I am {number}"));
                vm
            })
        })
        .collect();
    let mut vms = Vec::new();
    for deploy in deploys {
        vms.push(deploy.await.unwrap());
    }
    let addresses: std::collections::BTreeSet<_> =
        futures_addresses(&vms).await.into_iter().collect();
    assert_eq!(addresses.len(), 8);
    for vm in vms {
        vm.destroy().await.unwrap();
    }
    backend.close().await.unwrap();
    let logins = lab
        .sim
        .calls()
        .iter()
        .filter(|call| call.method == "session.login_with_password")
        .count();
    assert_eq!(logins, 2, "one of ours, one of the test's own");
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}

async fn futures_addresses(vms: &[std::sync::Arc<dyn LuaVm>]) -> Vec<std::net::IpAddr> {
    let mut addresses = Vec::new();
    for vm in vms {
        addresses.push(vm.info().await.unwrap().address.unwrap());
    }
    addresses
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_special_to_the_type_is_reached_by_downcasting() {
    let lab = Lab::records_only().await;
    let backend = lab.backend();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let special = (&*vm as &dyn Any).downcast_ref::<XcpngVm>().unwrap();
    assert_eq!(special.uuid(), vm.info().await.unwrap().details["uuid"]);
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}
