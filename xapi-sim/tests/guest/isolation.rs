//! What guests cannot see and cannot change, on the rungs that have a file system of their own.

use std::path::Path;
use std::process::Stdio;

use crate::support::{Fixture, generate_key, state_dirs};
use tokio::io::{AsyncBufReadExt, BufReader};
use xapi_sim::guest::{Guest, GuestDisk, Rung, VM_DATA_HOST_KEY};

macro_rules! on_isolated_rungs {
    ($($name:ident),* $(,)?) => {
        mod overlay { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Overlay).await } )* }
        mod bubblewrap { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Bubblewrap).await } )* }
    };
}

on_isolated_rungs!(
    what_a_guest_writes_is_its_own,
    a_guest_sees_no_data_of_the_machine,
    a_guest_sees_no_process_of_the_machine,
    a_guest_does_not_inherit_the_environment,
    rocks_install_into_the_home_of_the_user,
    secrets_of_the_machine_are_hidden,
    an_identity_is_the_guests_own_until_it_is_cleaned,
);

async fn two_guests(fixture: &Fixture) -> (Guest, Guest) {
    let one = fixture.guests.create("one").await.unwrap();
    let other = fixture.guests.create("other").await.unwrap();
    (fixture.boot(&one).await, fixture.boot(&other).await)
}

async fn what_a_guest_writes_is_its_own(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let name = format!("bioxen-test-{}-{}", rung, std::process::id());
    let (one, other) = two_guests(&fixture).await;
    for directory in ["/tmp", "/var/tmp", "/home/bioxen", "/dev/shm"] {
        let path = format!("{directory}/{name}");
        fixture.run(&one, &format!("echo mine >{path}")).await;
        assert!(!Path::new(&path).exists(), "{path} is on the machine");
        fixture.run(&other, &format!("test ! -e {path}")).await;
    }
}

async fn a_guest_sees_no_data_of_the_machine(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    assert_eq!(fixture.run(&guest, "ls /home").await, "bioxen");
    for empty in ["/srv", "/mnt", "/media", "/tmp", "/sys", "/boot/machine"] {
        let seen = fixture.run(&guest, &format!("ls -A {empty}")).await;
        assert_eq!(seen, "", "{empty}");
    }
    // The test itself is data of the machine, wherever it has been built.
    let program = std::env::current_exe().unwrap();
    if !program.starts_with("/usr") && !program.starts_with("/opt") {
        let absent = format!("test ! -e '{}'", program.display());
        fixture.run(&guest, &absent).await;
    }
}

async fn a_guest_sees_no_process_of_the_machine(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let (one, other) = two_guests(&fixture).await;
    let mut sleep = fixture.ssh(&other, "bioxen", "echo started; exec sleep 3600");
    let mut sleep = sleep.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(sleep.stdout.take().unwrap());
    stdout.read_line(&mut line).await.unwrap();

    let programs = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done";
    let seen = fixture.run(&one, programs).await;
    assert!(seen.contains("/boot/init.sh"), "{seen}");
    assert!(!seen.contains("sleep 3600"), "{seen}");
    let count = seen.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(count < 12, "{seen}");
}

async fn a_guest_does_not_inherit_the_environment(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let read = "env; { tr '\\0' '\\n' </proc/1/environ; } 2>/dev/null || true";
    let seen = fixture.run(&guest, read).await;
    // Cargo gives tests variables of its own.
    assert!(!seen.contains("CARGO"), "{seen}");
    assert!(seen.contains("HOME=/home/bioxen"), "{seen}");
}

const ROCK: &str = r#"mkdir hello && cd hello
echo 'return { greet = function() return "hello from a rock" end }' >hello.lua
echo 'package = "hello" version = "1.0-1" source = { url = "none" }
build = { type = "builtin", modules = { hello = "hello.lua" } }' >hello-1.0-1.rockspec
luarocks --lua-version 5.4 make --local >&2 || exit"#;
const USE_ROCK: &str = r#"eval "$(luarocks --lua-version 5.4 path)"
lua5.4 -e 'print(require("hello").greet())'"#;

async fn rocks_install_into_the_home_of_the_user(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    fixture.run(&guest, ROCK).await;
    assert_eq!(fixture.run(&guest, USE_ROCK).await, "hello from a rock");
    guest.shutdown().await;

    let copy = fixture.guests.copy(&disk, "copy").await.unwrap();
    let guest = fixture.boot(&copy).await;
    assert_eq!(fixture.run(&guest, USE_ROCK).await, "hello from a rock");
}

async fn secrets_of_the_machine_are_hidden(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let user = if rung == Rung::Overlay {
        "root"
    } else {
        "bioxen"
    };
    let read = "cat /etc/ssh/ssh_host_ed25519_key.pub; ls /etc/ssh /etc/ssl/private; \
                cat /etc/shadow /etc/passwd";
    let output = fixture.ssh(&guest, user, read).output().await.unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    assert!(seen.starts_with(guest.host_key()), "{seen}");
    assert!(!seen.contains("ssh_host_rsa_key"), "{seen}");
    assert!(!seen.contains("ssl-cert-snakeoil.key"), "{seen}");
    assert!(!seen.contains(":$"), "a password of the machine: {seen}");
    for line in std::fs::read_to_string("/etc/passwd").unwrap().lines() {
        let is_person = line.contains(":/home/");
        let name = line.split(':').next().unwrap();
        assert!(!is_person || !seen.contains(&format!("{name}:")), "{name}");
    }
}

/// What a template is cleaned with before it is copied.
const CLEAN: &str = "rm /etc/ssh/ssh_host_* && : >/etc/machine-id";

async fn an_identity_is_the_guests_own_until_it_is_cleaned(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let user = match rung {
        Rung::Overlay => "root",
        _ => "bioxen",
    };
    let machine = std::fs::read("/etc/machine-id").unwrap();
    let boot = async |disk: &GuestDisk, uuid: &str| {
        let config = fixture.boot_config("vm").with_uuid(uuid);
        let guest = fixture.guests.boot(disk, config).await.unwrap();
        let id = fixture.run(&guest, "cat /etc/machine-id").await;
        (guest, id)
    };
    let template = fixture.guests.create("template").await.unwrap();
    let (guest, id) = boot(&template, "11111111-2222-3333-4444-555555555555").await;
    assert_eq!(
        id, "11111111222233334444555555555555",
        "the VM's, as under Xen"
    );
    let host_key = guest.host_key().to_owned();
    let uncleaned = fixture.guests.copy(&template, "uncleaned").await.unwrap();
    let output = fixture.ssh(&guest, user, CLEAN).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    guest.shutdown().await;

    let (guest, same) = boot(&uncleaned, "66666666-2222-3333-4444-555555555555").await;
    assert_eq!((same, guest.host_key()), (id.clone(), &*host_key));
    guest.shutdown().await;

    let cleaned = fixture.guests.copy(&template, "cleaned").await.unwrap();
    let (guest, other) = boot(&cleaned, "77777777-2222-3333-4444-555555555555").await;
    assert_eq!(other, "77777777222233334444555555555555");
    assert_ne!(guest.host_key(), host_key);
    guest.shutdown().await;

    // A new host key makes another machine of it.
    let key = fixture.keys.path().join("host");
    generate_key(&key);
    let config = fixture
        .boot_config("vm")
        .with_uuid("88888888-2222-3333-4444-555555555555")
        .with_vm_data(VM_DATA_HOST_KEY, std::fs::read_to_string(&key).unwrap());
    for _ in 0..2 {
        let guest = fixture.guests.boot(&cleaned, config.clone()).await.unwrap();
        let id = fixture.run(&guest, "cat /etc/machine-id").await;
        assert_eq!(id, "88888888222233334444555555555555");
        guest.shutdown().await;
    }
    assert_eq!(std::fs::read("/etc/machine-id").unwrap(), machine);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_folder_of_host_keys_lead_the_simulator_nowhere() {
    let Some(fixture) = Fixture::new(Rung::Overlay).await else {
        return;
    };
    let victim = tempfile::tempdir().unwrap();
    let file = victim.path().join("file");
    std::fs::write(&file, "untouched").unwrap();
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let plant = format!(
        "cd /etc/ssh && rm * && for name in ssh_host_ed25519_key authorized_keys sshd_config; \
         do ln -s {0} $name; done && ln -s {0}-absent ssh_host_ed25519_key.pub",
        file.display()
    );
    let output = fixture.ssh(&guest, "root", &plant).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    guest.shutdown().await;
    let guest = fixture.boot(&disk).await;
    fixture.run(&guest, "true").await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 1);

    // Settings that somebody puts beside stay, and count.
    let set = "mkdir /etc/ssh/sshd_config.d && \
               echo 'SetEnv SAID=once' >/etc/ssh/sshd_config.d/own.conf";
    let output = fixture.ssh(&guest, "root", set).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    guest.shutdown().await;
    let guest = fixture.boot(&disk).await;
    assert_eq!(fixture.run(&guest, "echo $SAID").await, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_in_an_overlay_changes_only_its_own_system() {
    let Some(fixture) = Fixture::new(Rung::Overlay).await else {
        return;
    };
    let (one, other) = two_guests(&fixture).await;
    let places = [
        "",
        "/usr/bin",
        "/etc",
        "/opt",
        "/root",
        "/srv",
        "/var/lib/dpkg",
        "/var/log",
    ];
    let name = format!("bioxen-test-root-{}", std::process::id());
    let write: String = places
        .map(|place| format!("echo mine >{place}/{name} || exit 1; "))
        .concat();
    let change =
        format!("{write} rm /usr/bin/luarocks && useradd --create-home carol && id -un carol");
    let output = fixture.ssh(&one, "root", &change).output().await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "carol\n",
        "{output:?}"
    );
    for place in places {
        let path = format!("{place}/{name}");
        assert!(!Path::new(&path).exists(), "{path} is on the machine");
        fixture.run(&other, &format!("test ! -e {path}")).await;
    }
    assert!(Path::new("/usr/bin/luarocks").exists());
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    assert!(!accounts.contains("carol:"));
    fixture
        .run(&other, "luarocks --version && ! grep carol /etc/passwd")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_in_an_overlay_lacks_the_means_to_leave_it() {
    let Some(fixture) = Fixture::new(Rung::Overlay).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let host_name = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let before = host_name();
    for attempt in [
        "mount -t tmpfs tmpfs /mnt",
        "umount /etc/ssh",
        "mknod /tmp/disk b 254 0",
        "unshare --mount true",
        "hostname owned",
        "ls -d /proc/1/root/boot/machine/etc",
    ] {
        let output = fixture.ssh(&guest, "root", attempt).output().await.unwrap();
        assert!(!output.status.success(), "{attempt}: {output:?}");
        assert_ne!(output.status.code(), Some(255), "{attempt}: {output:?}");
        assert_ne!(output.status.code(), Some(127), "{attempt}: {output:?}");
    }
    assert_eq!(host_name(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_software_of_a_bubblewrap_guest_is_read_only() {
    let Some(fixture) = Fixture::new(Rung::Bubblewrap).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    for path in ["/usr/bin/x", "/etc/x", "/opt/x", "/boot/x"] {
        let output = fixture.try_run(&guest, &format!("touch {path}")).await;
        assert_eq!(output.status.code(), Some(1), "{path}: {output:?}");
        assert!(!Path::new(path).exists(), "{path} is on the machine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_a_guest_leaves_leads_the_simulator_nowhere() {
    let Some(fixture) = Fixture::new(Rung::Overlay).await else {
        return;
    };
    let victim = tempfile::tempdir().unwrap();
    let file = victim.path().join("file");
    std::fs::write(&file, "untouched").unwrap();
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let directory = victim.path().display();
    let plant = format!(
        "rm -rf /etc/hostname /etc/passwd /home/bioxen /var/log /srv \
         && ln -s {directory}/file /etc/hostname && ln -s {directory}/file /etc/passwd \
         && ln -s {directory} /home/bioxen && ln -s {directory} /var/log \
         && ln -s {directory} /srv"
    );
    let output = fixture.ssh(&guest, "root", &plant).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    guest.shutdown().await;
    let clone = fixture.guests.copy(&disk, "clone").await.unwrap();
    for disk in [disk, clone] {
        // Whether it boots, after what was done to it, is its own affair.
        drop(
            fixture
                .guests
                .boot(&disk, fixture.boot_config("other"))
                .await,
        );
        disk.destroy().await.unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
    assert_eq!(state_dirs(victim.path()), [file]);
}
