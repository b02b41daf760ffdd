//! A config drive on a disk of a VM, from its import to what the guest makes of it.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use xapi_sim::{GuestMode, NetworkSpec, SrSpec, TemplateSpec};

use super::*;

fn drive(network_config: &str) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 2 * MIB]);
    let options = FormatVolumeOptions::new().volume_label(*b"cidata     ");
    format_volume(&mut disk, options).unwrap();
    let volume = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
    for (name, content) in [
        ("meta-data", "instance-id: i-1\n"),
        ("user-data", "#cloud-config\n"),
        ("network-config", network_config),
    ] {
        let mut file = volume.root_dir().create_file(name).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }
    volume.unmount().unwrap();
    disk.into_inner()
}

/// The networks that a guest with a config drive reports, whose VM has two interfaces.
async fn reported(template: TemplateSpec, network_config: &str) -> Value {
    let model = Model::new()
        .sr(SrSpec::local("Local storage"))
        .network(NetworkSpec::external("LAN", "eth0"))
        .template(template.vif("LAN").vif("LAN"));
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let served = served_with(model, options).await;
    let pool = &served.pool;
    let template = pool.named("VM", "cloud").await;
    let clone = pool.call("VM.clone", vec![template.into(), "vm".into()]);
    let vm = text(&clone.await);
    pool.call("VM.provision", vec![vm.as_str().into()]).await;
    let vdi = served.vdi(2 * MIB).await;
    let drive = drive(network_config);
    served
        .put(&format!("/import_raw_vdi?vdi={vdi}"), &drive)
        .await;
    let fields = [
        ("VM", vm.as_str().into()),
        ("VDI", vdi.as_str().into()),
        ("userdevice", "autodetect".into()),
        ("bootable", false.into()),
        ("mode", "RW".into()),
        ("type", "Disk".into()),
        ("empty", false.into()),
        ("unpluggable", true.into()),
        ("other_config", Value::Struct(vec![])),
        ("qos_algorithm_type", "".into()),
        ("qos_algorithm_params", Value::Struct(vec![])),
    ];
    let fields = fields.map(|(name, value): (&str, Value)| (name.to_owned(), value));
    pool.call("VBD.create", vec![Value::Struct(fields.to_vec())])
        .await;
    pool.start(&vm).await;
    let metrics = pool.reported(&vm).await;
    pool.get("VM_guest_metrics", "networks", &metrics).await
}

#[tokio::test]
async fn a_fixed_address_is_what_the_guest_reports_if_it_has_cloud_init() {
    let cloud = || TemplateSpec::with_guest("cloud");
    let fixed = "version: 2\nethernets: {eth0: {addresses: [10.1.2.3/24]}}\n";
    let told = reported(cloud().cloud_init(), fixed).await;
    assert_eq!(told.get("0/ip"), Some(&"10.1.2.3".into()));
    assert_eq!(told.get("1/ip"), None);
    let told = reported(cloud(), fixed).await;
    let other = text(told.get("0/ip").unwrap());
    assert!(other.starts_with("192.0.2."), "{other}");

    let second = "version: 2\nethernets: {a: {dhcp4: true}, b: {addresses: [10.1.2.3/24]}}\n";
    let told = reported(cloud().cloud_init(), second).await;
    let other = text(told.get("0/ip").unwrap());
    assert!(other.starts_with("192.0.2."), "{other}");
    assert_eq!(told.get("1/ip"), Some(&"10.1.2.3".into()));
}
