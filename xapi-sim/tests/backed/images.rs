//! Disks of guests as bytes, and guests from bytes.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use secrecy::ExposeSecret as _;
use xapi_client::api::{Vdi, Vm};
use xapi_client::{Client, Compression, DiskFormat, Ref, SecretString, Trust};
use xapi_sim::{GuestReport, Server};

use super::*;

const MIB: usize = 1 << 20;

/// A server of the pool, and a client that is logged in to it.
async fn served(real: &Real) -> (Server, Client) {
    let sim = &real.pool.sim;
    let server = sim.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let credentials = sim.credentials();
    let password = SecretString::from(credentials.password().expose_secret().to_owned());
    let client = Client::builder(server.url())
        .credentials(credentials.user(), password)
        .trust(Trust::Pinned(server.fingerprint().unwrap()))
        .login()
        .await
        .unwrap();
    (server, client)
}

async fn export(client: &Client, vdi: &str, format: DiskFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    let vdi = Ref::<Vdi>::new(vdi);
    let download = client.export_raw_vdi(&vdi, format);
    download.to(&mut bytes).await.unwrap();
    bytes
}

/// A new disk of this size with these bytes.
async fn import(
    real: &Real,
    client: &Client,
    size: usize,
    bytes: &[u8],
    format: DiskFormat,
) -> String {
    let sr = real.pool.named("SR", "Local storage").await;
    let fields = Value::Struct(vec![
        ("SR".to_owned(), sr.into()),
        (
            "virtual_size".to_owned(),
            i64::try_from(size).unwrap().into(),
        ),
        ("type".to_owned(), "user".into()),
        ("sharable".to_owned(), false.into()),
        ("read_only".to_owned(), false.into()),
        ("other_config".to_owned(), Value::Struct(vec![])),
    ]);
    let vdi = text(&real.pool.call("VDI.create", vec![fields]).await);
    let upload = client.import_raw_vdi(&Ref::<Vdi>::new(&vdi), format);
    upload.send(bytes, bytes.len() as u64).await.unwrap();
    vdi
}

async fn attach(real: &Real, vm: &str, vdi: &str, device: &str, bootable: bool) {
    let fields = [
        ("VM", vm.into()),
        ("VDI", vdi.into()),
        ("userdevice", device.into()),
        ("bootable", bootable.into()),
        ("mode", "RW".into()),
        ("type", "Disk".into()),
        ("empty", false.into()),
        ("unpluggable", true.into()),
        ("other_config", Value::Struct(vec![])),
        ("qos_algorithm_type", "".into()),
        ("qos_algorithm_params", Value::Struct(vec![])),
    ];
    let fields = fields.map(|(name, value): (&str, Value)| (name.to_owned(), value));
    let fields = vec![Value::Struct(fields.to_vec())];
    real.pool.call("VBD.create", fields).await;
}

/// A VM of a template without disks.
async fn bare(real: &Real, name: &str) -> String {
    let template = real.pool.named("VM", "Other install media").await;
    let clone = vec![template.into(), name.into()];
    let vm = text(&real.pool.call("VM.clone", clone).await);
    real.pool
        .call("VM.provision", vec![vm.as_str().into()])
        .await;
    let network = real
        .pool
        .call("network.get_all", vec![])
        .await
        .items()
        .iter()
        .map(text)
        .next()
        .unwrap();
    let fields = [
        ("VM", vm.as_str().into()),
        ("network", network.into()),
        ("device", "0".into()),
        ("MAC", "".into()),
        ("MTU", 1500.into()),
        ("other_config", Value::Struct(vec![])),
        ("qos_algorithm_type", "".into()),
        ("qos_algorithm_params", Value::Struct(vec![])),
    ];
    let fields = fields.map(|(name, value): (&str, Value)| (name.to_owned(), value));
    real.pool
        .call("VIF.create", vec![Value::Struct(fields.to_vec())])
        .await;
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_guest_travels_in_every_form() {
    let real = real().await;
    let (_server, client) = served(&real).await;
    let vm = real.vm("traveller").await;
    real.pool.start(&vm).await;
    // Removed files of the machine's software leave marks of their own on an overlay.
    let removes = real.pool.sim.rung() == Some(Rung::Overlay);
    let root = "rm /etc/debian_version; chmod 4711 ~/tool";
    let before = "echo kept > ~/note; ln ~/note ~/twin; ln -s note ~/link; : > ~/tool";
    real.inside(&vm, before).await;
    if removes {
        real.ssh(real.address(&vm).await, "root", root).await;
        let own = "chmod 4711 /home/bioxen/tool";
        real.ssh(real.address(&vm).await, "root", own).await;
    }
    real.stop(&vm).await;
    let disk = real.disk(&vm).await;

    let vhd = export(&client, &disk, DiskFormat::Vhd).await;
    let size = 8 << 30;
    let copy = import(&real, &client, size, &vhd, DiskFormat::Vhd).await;
    let second = bare(&real, "from a VHD").await;
    attach(&real, &second, &copy, "0", true).await;

    let mut archive = Vec::new();
    let export = client.export_vm(&Ref::<Vm>::new(&vm), Compression::Zstd);
    export.to(&mut archive).await.unwrap();
    let imported = client.import_vm(None).send(&archive[..], None).await;
    let third = imported.unwrap()[0].as_str().to_owned();

    for vm in [&second, &third] {
        let key = std::fs::read_to_string(real.directory.path().join("key.pub")).unwrap();
        let data = Value::map([(format!("vm-data/{VM_DATA_AUTHORIZED_KEYS}"), key)]);
        let params = vec![vm.as_str().into(), data];
        real.pool.call("VM.set_xenstore_data", params).await;
        real.pool.start(vm).await;
        let seen = "cat ~/note ~/link; stat -c %h ~/twin; readlink ~/link";
        assert_eq!(real.inside(vm, seen).await, "kept\nkept\n2\nnote");
        if removes {
            let seen = "ls /etc/debian_version 2>&1 >/dev/null | wc -l; stat -c %a ~/tool";
            assert_eq!(real.inside(vm, seen).await, "1\n4711");
        }
    }
    real.pool.sim.shutdown().await;
}

/// As much of an image as firmware looks at: boot code, a partition, the signature.
fn image() -> Vec<u8> {
    let mut image = vec![0; 4 * MIB];
    image[..2].copy_from_slice(&[0xeb, 0xfe]);
    image[446] = 0x80;
    image[450] = 0x83;
    image[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    image[458..462].copy_from_slice(&4096_u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[MIB..MIB + 5].copy_from_slice(b"ext4!");
    image
}

fn config_drive(user_data: &str) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; MIB]);
    let options = FormatVolumeOptions::new().volume_label(*b"cidata     ");
    format_volume(&mut disk, options).unwrap();
    let volume = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
    for (name, content) in [
        ("meta-data", "instance-id: i-1\n"),
        ("user-data", user_data),
    ] {
        let mut file = volume.root_dir().create_file(name).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }
    volume.unmount().unwrap();
    disk.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_cloud_image_boots_with_its_config_drive() {
    let options = SimOptions::default().with_image_report(GuestReport::Address);
    let real = real_with(Model::single_host(), options).await;
    let (_server, client) = served(&real).await;
    let image = image();
    let vdi = import(&real, &client, image.len(), &image, DiskFormat::Raw).await;
    assert!(
        export(&client, &vdi, DiskFormat::Raw).await == image,
        "before it boots it is what was uploaded"
    );
    let key = std::fs::read_to_string(real.directory.path().join("key.pub")).unwrap();
    let user = real.pool.sim.guest_user().unwrap();
    let user_data = format!(
        "#cloud-config\nusers: [{{name: {user}, ssh_authorized_keys: [{}]}}]\n",
        key.trim()
    );
    let drive = config_drive(&user_data);
    let drive = import(&real, &client, drive.len(), &drive, DiskFormat::Raw).await;
    let vm = bare(&real, "cloudy").await;
    attach(&real, &vm, &vdi, "0", true).await;
    attach(&real, &vm, &drive, "1", false).await;
    real.pool.start(&vm).await;
    let command = "echo made here > ~/note; cat ~/note";
    assert_eq!(real.inside(&vm, command).await, "made here");

    // Its guest is its content from now on, also for a template made of it.
    real.stop(&vm).await;
    let args = vec![vm.as_str().into(), true.into()];
    real.pool.call("VM.set_is_a_template", args).await;
    let args = vec![vm.as_str().into(), "clone".into()];
    let clone = text(&real.pool.call("VM.clone", args).await);
    real.pool
        .call("VM.provision", vec![clone.as_str().into()])
        .await;
    real.pool.start(&clone).await;
    assert_eq!(real.inside(&clone, "cat ~/note").await, "made here");
    real.pool.sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_boot_code_boot_nothing_and_images_have_no_tools() {
    let real = real().await;
    let (_server, client) = served(&real).await;
    let mut blank = image();
    blank[..2].fill(0);
    for (bytes, disks) in [(blank, 0), (image(), 1)] {
        let before = real.disks();
        let vdi = import(&real, &client, bytes.len(), &bytes, DiskFormat::Raw).await;
        let vm = bare(&real, "box").await;
        attach(&real, &vm, &vdi, "0", true).await;
        real.pool.start(&vm).await;
        assert_eq!(real.pool.state(&vm).await, "Running");
        assert_eq!(real.disks() - before, disks);
        let shutdown = vec![vm.as_str().into()];
        let failure = real.pool.fails("VM.clean_shutdown", shutdown).await;
        assert!(failure.starts_with("VM_LACKS_FEATURE"), "{failure}");
        real.stop(&vm).await;
    }
    real.pool.sim.shutdown().await;
}
