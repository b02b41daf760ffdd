//! What a config drive says is done in the guest, once for each instance.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use xapi_sim::guest::{BootConfig, ConfigDrive, Guest, GuestDisk, Rung};

use crate::support::{Fixture, generate_key};

macro_rules! on_every_rung {
    ($($name:ident),* $(,)?) => {
        mod overlay { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Overlay).await } )* }
        mod bubblewrap { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Bubblewrap).await } )* }
        mod plain { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Plain).await } )* }
    };
}

on_every_rung!(
    lets_in_whom_its_drive_names_and_nobody_without_one,
    stays_as_it_is_when_the_drive_is_gone,
);

fn drive(instance: &str, user_data: &str) -> ConfigDrive {
    let mut disk = Cursor::new(vec![0; 1 << 20]);
    let options = FormatVolumeOptions::new().volume_label(*b"cidata     ");
    format_volume(&mut disk, options).unwrap();
    let volume = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
    let meta_data = format!("instance-id: {instance}\nlocal-hostname: told\n");
    for (name, content) in [("meta-data", &*meta_data), ("user-data", user_data)] {
        let mut file = volume.root_dir().create_file(name).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }
    volume.unmount().unwrap();
    ConfigDrive::read(disk.into_inner()).unwrap()
}

/// User data that let in the key of the fixture, with more.
fn user_data(fixture: &Fixture, more: &str) -> String {
    let (user, key) = (fixture.guests.user(), fixture.public_key());
    let key = key.trim();
    format!("#cloud-config\nusers:\n- name: {user}\n  ssh_authorized_keys: [\"{key}\"]\n{more}")
}

async fn boot(fixture: &Fixture, disk: &GuestDisk, drives: Vec<ConfigDrive>) -> Guest {
    let config = BootConfig::new("ignored").with_config_drives(drives);
    fixture.guests.boot(disk, config).await.unwrap()
}

async fn lets_in_whom_its_drive_names_and_nobody_without_one(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create_with_cloud_init("vm").await.unwrap();
    let config = fixture.boot_config("vm").with_config_drives(Vec::new());
    let guest = fixture.guests.boot(&disk, config).await.unwrap();
    let output = fixture.try_run(&guest, "true").await;
    assert!(
        !output.status.success(),
        "boot data of another kind are not read"
    );
    guest.power_off().await;

    let host_key = fixture.keys.path().join("host");
    generate_key(&host_key);
    let private = std::fs::read_to_string(&host_key).unwrap();
    let public = std::fs::read_to_string(host_key.with_extension("pub")).unwrap();
    let indented: String = private
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    let more = format!("ssh_keys:\n  ed25519_private: |\n{indented}  ed25519_public: {public}");
    let guest = boot(
        &fixture,
        &disk,
        vec![drive("i-1", &user_data(&fixture, &more))],
    )
    .await;
    assert_eq!(guest.host_key(), public.trim());
    fixture.run(&guest, "true").await;
    if rung != Rung::Plain {
        assert_eq!(fixture.run(&guest, "hostname").await, "told");
        let status = fixture.run(&guest, "cloud-init status --wait").await;
        assert_eq!(status.trim(), "status: done");
    }
    guest.shutdown().await;
}

async fn stays_as_it_is_when_the_drive_is_gone(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create_with_cloud_init("vm").await.unwrap();
    let first = boot(
        &fixture,
        &disk,
        vec![drive("i-1", &user_data(&fixture, ""))],
    )
    .await;
    let host_key = first.host_key().to_owned();
    first.shutdown().await;
    let second = boot(&fixture, &disk, Vec::new()).await;
    assert_eq!(second.host_key(), host_key);
    fixture.run(&second, "true").await;
    if rung != Rung::Plain {
        assert_eq!(fixture.run(&second, "hostname").await, "told");
        let status = fixture.run(&second, "cloud-init status").await;
        assert_eq!(status, "status: disabled");
    }
    second.shutdown().await;
}

/// A guest on the overlay rung, where the guest may do all that a VM may.
async fn overlay() -> Option<(Fixture, GuestDisk)> {
    let fixture = Fixture::new(Rung::Overlay).await?;
    let disk = fixture.guests.create_with_cloud_init("vm").await.unwrap();
    Some((fixture, disk))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_files_and_commands_are_made_once_for_an_instance() {
    let Some((fixture, disk)) = overlay().await else {
        return;
    };
    let key = fixture.public_key();
    let text = format!(
        "#cloud-config\n\
         disable_root: false\n\
         users:\n\
         - {{name: root, ssh_authorized_keys: ['{key}']}}\n\
         - {{name: lab, shell: /bin/bash, groups: 'rna, dna', ssh_authorized_keys: ['{key}']}}\n\
         write_files:\n\
         - {{path: /etc/machine-id, content: \"0123\\n\", permissions: '0444'}}\n\
         - {{path: /srv/deep/file, encoding: b64, content: aGVsbG8K, owner: 'games:games'}}\n\
         bootcmd:\n- echo boot >>/srv/boots\n\
         runcmd:\n- [sh, -c, 'echo \"$1\" >>/srv/ran', sh, \"it's run\"]\n- echo $INSTANCE_ID >>/srv/ran\n",
        key = key.trim(),
    );
    let look = "cat /srv/boots /srv/ran /srv/deep/file /etc/machine-id; stat -c %a:%U /etc/machine-id \
                /srv/deep/file; id -un; id -Gn lab; getent passwd lab | cut -d: -f7";
    let after_one =
        "boot\nit's run\ni-1\nhello\n0123\n444:root\n644:games\nroot\nlab rna dna\n/bin/bash";

    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    let root = |command: &str| fixture.ssh(&guest, "root", command).output();
    let waited = root("cloud-init status --wait --long").await.unwrap();
    let waited = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert!(waited.contains("status: done"), "{waited}");
    let seen = root(look).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout).trim_end(),
        after_one,
        "{seen:?}"
    );
    let lab = fixture.ssh(&guest, "lab", "id -un").output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&lab.stdout), "lab\n", "{lab:?}");
    let left = root("ls /run/cloud-init; cat /var/lib/cloud/data/instance-id")
        .await
        .unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(
        left.contains("result.json") && !left.contains("seed"),
        "{left}"
    );
    assert!(left.ends_with("i-1\n"), "{left}");
    guest.shutdown().await;

    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    let root = |command: &str| fixture.ssh(&guest, "root", command).output();
    root("cloud-init status --wait").await.unwrap();
    let seen = root("cat /srv/boots /srv/ran").await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout),
        "boot\nboot\nit's run\ni-1\n"
    );
    guest.shutdown().await;

    let guest = boot(&fixture, &disk, vec![drive("i-2", &text)]).await;
    let root = |command: &str| fixture.ssh(&guest, "root", command).output();
    root("cloud-init status --wait").await.unwrap();
    let seen = root("tail -n 1 /srv/ran; cloud-init clean").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "i-2\n");
    guest.shutdown().await;

    let clone = fixture.guests.copy(&disk, "clone").await.unwrap();
    let guest = boot(&fixture, &clone, vec![drive("i-2", &text)]).await;
    let root = |command: &str| fixture.ssh(&guest, "root", command).output();
    root("cloud-init status --wait").await.unwrap();
    let seen = root("grep -c i-2 /srv/ran").await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout),
        "2\n",
        "a cleaned system is new again"
    );
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_for_the_end_of_the_commands_and_a_failure_shows() {
    let Some((fixture, disk)) = overlay().await else {
        return;
    };
    let text = user_data(
        &fixture,
        "runcmd:\n- mkfifo -m 0666 /srv/gate\n- cat /srv/gate\n- echo last words\n- exit 3\n",
    );
    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    assert_eq!(
        fixture.run(&guest, "cloud-init status").await,
        "status: running"
    );
    let wait = fixture.ssh(
        &guest,
        fixture.guests.user(),
        "cloud-init status --wait --long",
    );
    let mut wait = { wait }
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fixture
        .run(
            &guest,
            "until [ -p /srv/gate ]; do sleep 0.01; done; echo go >/srv/gate",
        )
        .await;
    let status = wait.wait().await.unwrap();
    assert_eq!(status.code(), Some(1));
    let output = fixture.try_run(&guest, "cloud-init status --long").await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.starts_with("status: error\ndetail:\n('scripts-user'"),
        "{said}"
    );
    let log = fixture
        .run(&guest, "cat /var/log/cloud-init-output.log")
        .await;
    assert!(log.contains("go\nlast words\n"), "{log}");
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_drives_that_of_the_last_device_counts() {
    let Some((fixture, disk)) = overlay().await else {
        return;
    };
    let drives = ["i-old", "i-new"].map(|id| drive(id, &user_data(&fixture, "")));
    let guest = boot(&fixture, &disk, drives.to_vec()).await;
    let id = fixture
        .run(&guest, "cat /var/lib/cloud/data/instance-id")
        .await;
    assert_eq!(id, "i-new");
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_nobody_in_particular_are_the_default_users() {
    let Some((fixture, disk)) = overlay().await else {
        return;
    };
    let text = format!(
        "#cloud-config\nssh_authorized_keys: ['{}']\n",
        fixture.public_key().trim()
    );
    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    assert_eq!(fixture.run(&guest, "id -un").await, fixture.guests.user());
    let keys = fixture.run(&guest, "cat .ssh/authorized_keys").await;
    assert_eq!(keys, fixture.public_key().trim());
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_set_packages_looked_for_and_the_log_ends_as_told() {
    let Some((fixture, disk)) = overlay().await else {
        return;
    };
    let key = fixture.public_key();
    let text = format!(
        "#cloud-config\n\
         disable_root: false\n\
         users:\n\
         - {{name: root, ssh_authorized_keys: ['{key}']}}\n\
         - name: lab\n\
         chpasswd: {{expire: false, users: [{{name: lab, password: 'open:sesame', type: text}}]}}\n\
         packages: [openssh-client, no-such-package-anywhere]\n\
         final_message: at last $UPTIME of $datasource\n",
        key = key.trim(),
    );
    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    let root = |command: &'static str| {
        let output = fixture.ssh(&guest, "root", command).output();
        async move { String::from_utf8(output.await.unwrap().stdout).unwrap() }
    };
    let status = root("cloud-init status --wait --format json").await;
    for line in [
        "\n  \"status\": \"error\"\n",
        "\n  \"datasource\": \"nocloud\",\n",
        "package-update-upgrade-install",
        "install no-such-package-anywhere",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let hash = root("getent shadow lab | cut -d: -f2").await;
    assert!(hash.starts_with("$6$"), "{hash}");
    let log = root("tail -n 1 /var/log/cloud-init-output.log").await;
    assert!(log.starts_with("at last "), "{log}");
    assert!(
        log.ends_with(" of DataSourceNoCloud\n") && !log.contains('$'),
        "{log}"
    );
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_a_script_makes_is_open_to_a_key() {
    let Some((fixture, disk)) = overlay().await else {
        return;
    };
    let key = fixture.public_key();
    let key = key.trim();
    // As Terraform's cloudinit_config joins its parts.
    let text = format!(
        "Content-Type: multipart/mixed; boundary=\"B\"\nMIME-Version: 1.0\r\n\r\n\
         --B\r\nContent-Type: text/cloud-config\r\n\r\n\
         #cloud-config\ntimezone: Europe/Vienna\n\
         runcmd:\n\
         - useradd --create-home lab\n\
         - install -d -m 0700 -o lab ~lab/.ssh\n\
         - echo '{key}' >~lab/.ssh/authorized_keys\r\n\
         --B\r\nContent-Type: text/x-shellscript\r\n\r\n\
         #!/usr/bin/lua5.4\nio.open('/srv/script', 'w'):write(_VERSION)\n\r\n\
         --B--\r\n"
    );
    let let_in = user_data(&fixture, "merge_how: 'dict(recurse_list)+list(append)'\n");
    let text = text.replace(
        "--B--",
        &format!("--B\r\nContent-Type: text/cloud-config\r\n\r\n{let_in}\r\n--B--"),
    );
    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    let status = fixture.run(&guest, "cloud-init status --wait").await;
    assert_eq!(status.trim(), "status: done");
    let output = fixture.ssh(&guest, "lab", "id -un").output().await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "lab\n",
        "{output:?}"
    );
    assert_eq!(fixture.run(&guest, "cat /srv/script").await, "Lua 5.4");
    let zone = "cat /etc/timezone; readlink /etc/localtime; TZ= date -d @0 +%H; date -d @0 +%H";
    let zone = fixture.run(&guest, zone).await;
    assert_eq!(
        zone,
        "Europe/Vienna\n/usr/share/zoneinfo/Europe/Vienna\n00\n01"
    );
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_is_powered_off_at_the_end_when_its_drive_says_so() {
    let Some((fixture, disk)) = overlay().await else {
        return;
    };
    let text = user_data(&fixture, "power_state: {mode: poweroff}\n");
    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    guest.exited().await;
    drop(guest);
    // Once for an instance.
    let guest = boot(&fixture, &disk, vec![drive("i-1", &text)]).await;
    fixture.run(&guest, "cloud-init status --wait").await;
    guest.shutdown().await;
}
