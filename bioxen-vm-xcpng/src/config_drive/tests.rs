use std::io::{Cursor, Read};
use std::process::Command;

use super::*;

struct Keys {
    client: KeyPair,
    host: KeyPair,
}

fn keys() -> Keys {
    Keys {
        client: KeyPair::generate("client").unwrap(),
        host: KeyPair::generate("host").unwrap(),
    }
}

fn drive<'a>(keys: &'a Keys, user: &'a str) -> ConfigDrive<'a> {
    ConfigDrive {
        instance: "0123456789abcdef0123456789abcdef",
        hostname: "vm-1",
        user,
        client: &keys.client,
        host: &keys.host,
        network: None,
        hosts: None,
    }
}

fn read(image: &[u8], name: &str) -> Option<String> {
    let mut image = Cursor::new(image.to_vec());
    let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
    let mut text = String::new();
    let mut file = volume.root_dir().open_file(name).ok()?;
    file.read_to_string(&mut text).unwrap();
    Some(text)
}

fn config(drive: &ConfigDrive<'_>) -> Value {
    let image = drive.image().unwrap();
    let user_data = read(image.expose_secret(), "user-data").unwrap();
    let (first, rest) = user_data.split_once('\n').unwrap();
    assert_eq!(first, "#cloud-config");
    serde_json::from_str(rest).unwrap()
}

#[test]
fn a_vm_is_told_who_it_is_and_whom_to_let_in() {
    let keys = keys();
    let drive = drive(&keys, "bio");
    let image = drive.image().unwrap();
    let meta_data = read(image.expose_secret(), "meta-data").unwrap();
    let meta_data: Value = serde_json::from_str(&meta_data).unwrap();
    assert_eq!(
        meta_data,
        json!({
            "instance-id": "bioxen-0123456789abcdef0123456789abcdef",
            "local-hostname": "vm-1",
        })
    );
    assert_eq!(read(image.expose_secret(), "network-config"), None);

    let config = config(&drive);
    assert_eq!(config["hostname"], "vm-1");
    assert_eq!(config["users"][0]["name"], "bio");
    let let_in = &config["users"][0]["ssh_authorized_keys"];
    assert_eq!(*let_in, json!([keys.client.public()]));
    assert_eq!(
        config["ssh_keys"]["ed25519_private"],
        keys.host.expose_private()
    );
    assert_eq!(config["ssh_deletekeys"], true);
    let file = &config["write_files"][0];
    assert_eq!(file["path"], "/etc/machine-id");
    assert_eq!(file["content"], "0123456789abcdef0123456789abcdef\n");
}

#[test]
fn a_vm_is_told_the_names_of_others_in_addition_to_what_it_knows() {
    let keys = keys();
    let mut drive = drive(&keys, "bio");
    assert_eq!(config(&drive)["manage_etc_hosts"], Value::Null);
    drive.hosts = Some("10.77.0.1 alpha\n");
    let config = config(&drive);
    assert_eq!(config["manage_etc_hosts"], false);
    let names = json!({"path": "/etc/hosts", "content": "10.77.0.1 alpha\n", "append": true});
    assert_eq!(config["write_files"][1], names);
}

#[test]
fn root_is_let_in_where_root_is_the_user() {
    let keys = keys();
    let config = config(&drive(&keys, "root"));
    assert_eq!(config["disable_root"], false);
    assert_eq!(config["users"][0]["name"], "root");
    let let_in = &config["users"][0]["ssh_authorized_keys"];
    assert_eq!(*let_in, json!([keys.client.public()]));
}

#[test]
fn no_secret_shows_in_messages() {
    let keys = keys();
    let drive = drive(&keys, "bio");
    let shown = format!("{drive:?} {:?} {:?}", drive.user_data(), drive.image());
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

/// Only where cloud-init is installed: it is no package that a test may install, as it would
/// configure the machine at its next boot.
#[test]
fn cloud_init_itself_finds_nothing_wrong_where_it_is_installed() {
    let keys = keys();
    for user in ["root", "bio"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let user_data = drive(&keys, user).user_data();
        std::fs::write(file.path(), user_data.expose_secret()).unwrap();
        let checked = Command::new("cloud-init")
            .args(["schema", "--config-file"])
            .arg(file.path())
            .output();
        let Ok(checked) = checked else { return };
        assert!(checked.status.success(), "{checked:?}");
    }
}
