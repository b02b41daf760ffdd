//! A hundred VMs at once, on a simulated pool whose guests take a while to boot: the time until all
//! have an address, against the boot time and what the same costs when booting takes none.
//!
//! `cargo bench -p bioxen-vm-xcpng --bench deploys`

#![allow(clippy::print_stdout, reason = "it is what was asked for")]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bioxen_vm_core::{Backend, VmId};
use bioxen_vm_xcpng::{XcpngBackend, XcpngConfig};
use xapi_client::api::{Vm, VmGuestMetrics, VmPowerState};
use xapi_client::{Client, Ref, SecretString};
use xapi_sim::{GuestMode, LUA_TEMPLATE, Model, Sim, SimOptions};

const VMS: usize = 100;
const BOOT: Duration = Duration::from_secs(10);
const PASSWORD: &str = "benchmark";

#[tokio::main]
async fn main() {
    let serial = deploy_all(Duration::ZERO).await;
    let whole = deploy_all(BOOT).await;
    let floor = BOOT + serial;
    let ratio = whole.as_secs_f64() / floor.as_secs_f64();
    println!("{VMS} VMs without boot time: {:.2} s", serial.as_secs_f64());
    println!(
        "{VMS} VMs that boot for {} s: {:.2} s, {ratio:.2} times the sum",
        BOOT.as_secs(),
        whole.as_secs_f64()
    );
}

/// The time until all VMs have an address.
async fn deploy_all(boot: Duration) -> Duration {
    let password = || SecretString::from(PASSWORD);
    let options = SimOptions::default()
        .with_password(password())
        .with_guests(GuestMode::Simulated)
        .with_agent_delay(boot);
    let model = Model::single_host().host_memory(1 << 42);
    let sim = Sim::start(model, options).await.unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = sim.serve(address).await.unwrap();
    let config = XcpngConfig::new(server.address().to_string(), LUA_TEMPLATE)
        .with_password(password())
        .with_fingerprint(server.fingerprint().unwrap().to_string())
        .with_vcpus(2);
    let backend = Arc::new(XcpngBackend::new(config).unwrap());
    let client = Client::over(sim.transport())
        .credentials("root", password())
        .login()
        .await
        .unwrap();
    let mirror = client.mirror().class::<Vm>().class::<VmGuestMetrics>();
    let mirror = mirror.start().await.unwrap();

    let begun = Instant::now();
    let deploys: Vec<_> = (0..VMS)
        .map(|number| {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move {
                let id = VmId::new(format!("vm{number}")).unwrap();
                let vm = backend.create(id.clone()).await.unwrap();
                // As one that nobody knows a way into, it starts without a guest.
                let name = format!("bioxen-{id}");
                let driven = backend.adopt(id, &name).await.unwrap();
                driven.start().await.unwrap();
                vm
            })
        })
        .collect();
    let mut vms = Vec::new();
    for deploy in deploys {
        vms.push(deploy.await.unwrap());
    }
    let mut made = Vec::new();
    for number in 0..VMS {
        let name = format!("bioxen-vm{number}");
        made.extend(client.vm().get_by_name_label(&name).await.unwrap());
    }
    let up = mirror.wait_for(|objects| {
        let is_up = |vm: &Ref<Vm>| {
            let vm = objects.get(vm)?;
            let report = objects.get(&vm.guest_metrics)?;
            let is_up = vm.power_state == VmPowerState::Running && !report.networks.is_empty();
            is_up.then_some(())
        };
        made.iter().map(is_up).collect::<Option<()>>()
    });
    up.await.unwrap();
    let took = begun.elapsed();

    for vm in vms {
        vm.destroy().await.unwrap();
    }
    backend.close().await.unwrap();
    client.close().await.unwrap();
    server.shutdown().await;
    sim.shutdown().await;
    took
}
