//! The boot script of the guide does what a VM needs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bioxen_vm_core::local::{DEFAULT_PATH, LocalRunner};
use bioxen_vm_core::{Command, Runner};
use bioxen_vm_xcpng::ssh::KeyPair;

const GUIDE: &str = include_str!("../../../docs/templates.md");

/// The script, with everything it touches moved into a directory.
fn script(root: &Path) -> String {
    let (_, rest) = GUIDE.split_once("```sh\n#!/bin/sh\n").unwrap();
    let (script, _) = rest.split_once("```").unwrap();
    script.replace("/etc/", &format!("{}/etc/", root.display()))
}

fn program(root: &Path, name: &str, text: &str) {
    let path = root.join("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn boot(root: &Path) {
    let path = format!("{}/bin:{DEFAULT_PATH}", root.display());
    let command = Command::new("/bin/sh")
        .args(["-c", &script(root), "sh", "bio"])
        .with_env("PATH", path);
    let outcome = LocalRunner::new().run(command).await.unwrap();
    assert!(outcome.success(), "{outcome:?}");
}

#[tokio::test]
async fn the_boot_script_installs_keys_and_name_and_keeps_them() {
    // Debian's xenstore-read escapes line breaks, that of the guest tools does not.
    for reading in ["cat", "awk '{ printf \"%s\\\\n\", $0 }'"] {
        with_xenstore_that_reads_by(reading).await;
    }
}

async fn with_xenstore_that_reads_by(reading: &str) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for dir in ["bin", "etc/ssh", "store/vm-data/bioxen", "home"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let shown = root.display();
    program(
        root,
        "xenstore-read",
        &format!("exec {reading} {shown}/store/$1"),
    );
    program(
        root,
        "getent",
        &format!("echo bio:x:1:1::{shown}/home:/bin/sh"),
    );
    program(root, "hostname", &format!("echo $1 >{shown}/hostname"));
    program(root, "chown", "");
    let (client, host) = (
        KeyPair::generate("client").unwrap(),
        KeyPair::generate("host").unwrap(),
    );
    let store = root.join("store/vm-data/bioxen");
    fs::write(store.join("authorized-keys"), client.public()).unwrap();
    fs::write(store.join("host-key"), host.expose_private()).unwrap();
    fs::write(store.join("hostname"), "vm-1").unwrap();
    fs::write(root.join("etc/ssh/ssh_host_rsa_key"), "of the template").unwrap();
    fs::write(root.join("etc/machine-id"), "of the template").unwrap();

    boot(root).await;
    // The private key is taken out of xenstore after the first login.
    fs::remove_file(store.join("host-key")).unwrap();
    boot(root).await;

    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(
        read("etc/ssh/ssh_host_ed25519_key.pub").trim(),
        host.public()
    );
    assert_eq!(
        read("etc/ssh/ssh_host_ed25519_key").trim(),
        host.expose_private().trim()
    );
    assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists());
    let id = read("etc/machine-id");
    assert!(id.trim().len() == 32 && id != "of the template", "{id}");
    assert_eq!(read("home/.ssh/authorized_keys").trim(), client.public());
    assert_eq!(
        (&*read("etc/hostname"), &*read("hostname")),
        ("vm-1\n", "vm-1\n")
    );
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("etc/ssh/ssh_host_ed25519_key"), 0o600);
    assert_eq!(mode("home/.ssh"), 0o700);
}
