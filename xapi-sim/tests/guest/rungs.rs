//! Guests on every rung that this machine offers, through real SSH logins.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::support::{Fixture, generate_key, processes_with, state_dirs};
use xapi_sim::guest::{BootConfig, GuestError, GuestOptions, Guests, Rung, VM_DATA_HOST_KEY};

/// Runs each of these as a test of each rung.
macro_rules! on_every_rung {
    ($($name:ident),* $(,)?) => {
        mod overlay { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Overlay).await } )* }
        mod bubblewrap { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Bubblewrap).await } )* }
        mod plain { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Rung::Plain).await } )* }
    };
}

on_every_rung!(
    runs_lua_and_luarocks,
    has_a_private_home_and_its_boot_data,
    keeps_its_disk_from_start_to_start,
    copies_its_disk_also_while_it_runs,
    presents_the_host_key_it_is_given,
    refuses_a_host_key_that_is_none,
    ends_processes_that_ignore_being_asked,
    lets_processes_end_in_order,
    ends_at_once_when_dropped,
    reports_its_own_end,
    outlives_its_orphans,
    transfers_files,
    offers_a_terminal,
    boots_once_at_a_time,
    keeps_its_address_when_asked,
    leaves_no_file,
    boots_twenty_at_once,
);

async fn runs_lua_and_luarocks(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    assert_eq!(
        fixture.run(&guest, "lua5.4 -e 'print(_VERSION)'").await,
        "Lua 5.4"
    );
    let version = fixture.run(&guest, "luarocks --version").await;
    assert!(version.contains("LuaRocks"), "{version}");
    guest.shutdown().await;
}

async fn has_a_private_home_and_its_boot_data(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("Worker 1").await.unwrap();
    let guest = fixture.boot(&disk).await;
    assert_eq!(fixture.run(&guest, "id -un").await, fixture.guests.user());
    let home = fixture
        .run(&guest, "pwd && echo $HOME && echo \"it's $((1+1))\"")
        .await;
    let lines: Vec<_> = home.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[2], "it's 2");
    if rung == Rung::Plain {
        assert!(lines[0].contains("/bioxen-guests-"), "{home}");
    } else {
        assert_eq!(lines[0], "/home/bioxen");
        assert_eq!(fixture.run(&guest, "uname -n").await, "worker-1");
    }
}

async fn keeps_its_disk_from_start_to_start(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let host_key = guest.host_key().to_owned();
    fixture.run(&guest, "echo kept >~/note").await;
    if rung != Rung::Plain {
        fixture.run(&guest, "touch /tmp/volatile").await;
    }
    guest.shutdown().await;

    let guest = fixture.boot(&disk).await;
    assert_eq!(fixture.run(&guest, "cat ~/note").await, "kept");
    assert_eq!(guest.host_key(), host_key, "an identity is kept too");
    if rung != Rung::Plain {
        fixture.run(&guest, "test ! -e /tmp/volatile").await;
    }
}

async fn copies_its_disk_also_while_it_runs(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let template = fixture.guests.create("template").await.unwrap();
    let guest = fixture.boot(&template).await;
    let host_key = guest.host_key().to_owned();
    fixture.run(&guest, "echo from the template >~/note").await;
    let early = fixture.guests.copy(&template, "early").await.unwrap();
    // It went on afterwards.
    fixture.run(&guest, "echo later >~/later").await;
    guest.shutdown().await;
    let guest = fixture.boot(&early).await;
    let files = fixture.run(&guest, "cat ~/note; ls ~").await;
    assert_eq!(files, "from the template\nnote");
    guest.shutdown().await;

    let clone = fixture.guests.copy(&template, "clone").await.unwrap();
    let guest = fixture.boot(&clone).await;
    assert_eq!(fixture.run(&guest, "cat ~/note").await, "from the template");
    assert_eq!(guest.host_key(), host_key, "as any file it is copied");
    fixture.run(&guest, "echo changed >~/note").await;
    guest.shutdown().await;

    let guest = fixture.boot(&template).await;
    assert_eq!(fixture.run(&guest, "cat ~/note").await, "from the template");
}

async fn presents_the_host_key_it_is_given(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host");
    generate_key(&path);
    let public = std::fs::read_to_string(directory.path().join("host.pub")).unwrap();
    let private = std::fs::read_to_string(&path).unwrap();
    let disk = fixture.guests.create("worker").await.unwrap();
    // Values of a xenstore_data map tend to lose their last line end on the way.
    let boot = fixture
        .boot_config("worker")
        .with_vm_data(VM_DATA_HOST_KEY, private.trim_end());
    for _ in 0..2 {
        let guest = fixture.guests.boot(&disk, boot.clone()).await.unwrap();
        assert_eq!(guest.host_key(), public.trim());
        // The login checks the key that sshd really presents.
        fixture.run(&guest, "true").await;
        guest.shutdown().await;
    }
}

async fn refuses_a_host_key_that_is_none(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let boot = fixture
        .boot_config("worker")
        .with_vm_data(VM_DATA_HOST_KEY, "sesame");
    let error = fixture.guests.boot(&disk, boot).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("vm-data/bioxen/host-key of worker"),
        "{message}"
    );
    assert!(!message.contains("sesame"), "{message}");
    fixture.boot(&disk).await.shutdown().await;
}

/// Starts a process that has left its session and its parents, and never ends when asked.
const STUBBORN: &str = "setsid sh -c 'trap \"\" TERM HUP INT; (while :; do sleep NAP; done) & \
     while :; do sleep NAP; done' >/dev/null 2>&1 & sleep 0.2";

async fn ends_processes_that_ignore_being_asked(rung: Rung) {
    let options = GuestOptions::default()
        .with_rung(rung)
        .with_stop_grace(Duration::from_secs(1));
    let Some(fixture) = Fixture::with(options).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    // The duration tells the process from those of other tests.
    let nap = format!("36{}.{}", rung.name().len(), std::process::id());
    fixture.run(&guest, &STUBBORN.replace("NAP", &nap)).await;
    assert!(!processes_with(&format!("sleep {nap}")).is_empty());
    guest.shutdown().await;
    assert_eq!(processes_with(&format!("sleep {nap}")), [""; 0]);
    assert_eq!(processes_with(&format!("{nap}; done")), [""; 0]);
}

async fn lets_processes_end_in_order(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let save = "setsid sh -c 'trap \"echo saved >~/work; exit\" TERM; echo >~/armed; \
                while :; do sleep 0.05; done' >/dev/null 2>&1 & \
                while [ ! -e ~/armed ]; do sleep 0.05; done";
    fixture.run(&guest, save).await;
    guest.shutdown().await;
    let guest = fixture.boot(&disk).await;
    assert_eq!(fixture.run(&guest, "cat ~/work").await, "saved");
}

async fn ends_at_once_when_dropped(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let nap = format!("37{}.{}", rung.name().len(), std::process::id());
    fixture.run(&guest, &STUBBORN.replace("NAP", &nap)).await;
    let address = guest.address();
    drop(guest);
    assert_eq!(processes_with(&format!("sleep {nap}")), [""; 0]);
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
}

async fn reports_its_own_end(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let exited = guest.exited();
    // On the plain rung too, the listener is an ancestor of the session.
    let stop = "p=$$; while [ \"$p\" -gt 1 ]; do read -r l </proc/$p/stat; set -- ${l##*) }; \
                tr '\\0' ' ' </proc/$p/cmdline | grep -q '[l]istener' && kill $p; p=$2; done";
    let user = if rung == Rung::Overlay {
        "root"
    } else {
        fixture.guests.user()
    };
    fixture.ssh(&guest, user, stop).output().await.unwrap();
    exited.await;
    drop(guest);
    fixture.boot(&disk).await.shutdown().await;
}

async fn outlives_its_orphans(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let orphans = "for i in $(seq 300); do (true & true &); done; wait; echo $i";
    for _ in 0..3 {
        assert_eq!(fixture.run(&guest, orphans).await, "300");
    }
    let zombies = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '";
    if rung != Rung::Plain {
        // The first process buries what nobody else does, as soon as it gets to it.
        while fixture.try_run(&guest, zombies).await.stdout != b"0\n" {}
    }
}

async fn transfers_files(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let mut upload = fixture.ssh(
        &guest,
        fixture.guests.user(),
        "cat >upload && wc -c <upload",
    );
    let mut child = upload
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        stdin.write_all(&vec![7; 3_000_000]).await.unwrap();
    });
    let output = child.wait_with_output().await.unwrap();
    writer.await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3000000");

    let local = fixture.keys.path().join("download");
    let mut sftp = std::process::Command::new("sftp");
    let address = guest.address();
    sftp.args([
        "-q",
        "-F",
        "none",
        "-b",
        "-",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
    ])
    .args(["-o", "StrictHostKeyChecking=yes"])
    .arg("-o")
    .arg(format!(
        "UserKnownHostsFile={}/known_hosts-{}",
        fixture.keys.path().display(),
        address.ip()
    ))
    .arg("-i")
    .arg(fixture.keys.path().join("key"))
    .args(["-P", &address.port().to_string()])
    .arg(format!("{}@{}", fixture.guests.user(), address.ip()))
    .stdin(std::process::Stdio::piped())
    .stdout(std::process::Stdio::null());
    let mut child = sftp.spawn().unwrap();
    use std::io::Write as _;
    writeln!(
        child.stdin.take().unwrap(),
        "get upload {}",
        local.display()
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::metadata(&local).unwrap().len(), 3_000_000);
}

async fn offers_a_terminal(rung: Rung) {
    if rung == Rung::Plain && !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: without root it depends on how the machine mounts /dev/pts");
        return;
    }
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let user = fixture.guests.user();
    let mut ssh = fixture.ssh_with("-tt", &guest, user, "tty && echo terminal >$(tty)");
    let output = ssh.output().await.unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = seen.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{seen}");
    assert_eq!(lines[1], "terminal");
}

async fn boots_once_at_a_time(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let error = fixture
        .guests
        .boot(&disk, BootConfig::new("worker"))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "worker is running: shut it down first");
    drop(guest);
    fixture.boot(&disk).await.shutdown().await;
}

async fn keeps_its_address_when_asked(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let std::net::IpAddr::V4(address) = guest.address().ip() else {
        panic!()
    };
    fixture.run(&guest, "true").await;
    guest.shutdown().await;
    let boot = fixture.boot_config("worker").with_address(address);
    let guest = fixture.guests.boot(&disk, boot).await.unwrap();
    assert_eq!(guest.address().ip(), address);
    fixture.run(&guest, "true").await;
}

async fn leaves_no_file(rung: Rung) {
    let parent = tempfile::tempdir_in("/var/tmp").unwrap();
    let options = GuestOptions::default()
        .with_rung(rung)
        .with_state_dir(parent.path());
    let Some(fixture) = Fixture::with(options).await else {
        return;
    };
    let [state] = state_dirs(parent.path()).try_into().unwrap();
    let disks = |state: &Path| {
        let names = state_dirs(state).into_iter();
        names
            .filter(|path| path.to_string_lossy().contains("/disk-"))
            .count()
    };
    assert_eq!(disks(&state), 0, "the trial guest is gone");
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    fixture.run(&guest, "mkdir -p ~/a/b && chmod 0 ~/a").await;
    guest.shutdown().await;
    assert_eq!(disks(&state), 1);
    disk.destroy().await.unwrap();
    assert_eq!(disks(&state), 0);

    let disk = fixture.guests.create("running").await.unwrap();
    let guest = fixture.boot(&disk).await;
    drop(fixture);
    drop(disk);
    assert_eq!(disks(&state), 1, "a guest keeps what it runs on");
    drop(guest);
    assert!(!state.exists());
}

async fn boots_twenty_at_once(rung: Rung) {
    let Some(fixture) = Fixture::new(rung).await else {
        return;
    };
    let one = async |number: usize| {
        let disk = fixture
            .guests
            .create(&format!("worker {number}"))
            .await
            .unwrap();
        let guest = fixture.boot(&disk).await;
        fixture
            .run(&guest, &format!("echo {number} >~/number"))
            .await;
        (disk, guest)
    };
    let guests = futures_join_all((0..20).map(one)).await;
    let addresses: BTreeSet<_> = guests.iter().map(|(_, guest)| guest.address()).collect();
    let host_keys: BTreeSet<_> = guests.iter().map(|(_, guest)| guest.host_key()).collect();
    assert_eq!((addresses.len(), host_keys.len()), (20, 20));
    for (number, (_, guest)) in guests.iter().enumerate() {
        assert_eq!(fixture.run(guest, "cat ~/number").await, number.to_string());
    }
    futures_join_all(guests.into_iter().map(|(disk, guest)| async move {
        guest.shutdown().await;
        disk.destroy().await.unwrap();
    }))
    .await;
}

/// Polls all futures to their ends, on this task.
async fn futures_join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in &mut futures {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *output = Some(value);
            }
        }
        if futures.iter().all(|(_, output)| output.is_some()) {
            let outputs = futures.iter_mut().map(|(_, output)| output.take().unwrap());
            return std::task::Poll::Ready(outputs.collect());
        }
        std::task::Poll::Pending
    })
    .await
}

#[tokio::test]
async fn the_best_rung_is_taken_and_the_others_are_explained() {
    let guests = Guests::new(GuestOptions::default()).await.unwrap();
    eprintln!("rung: {} ({})", guests.rung(), guests.rung().describe());
    for passed in guests.passed_over() {
        eprintln!("passed over: {passed}");
        assert!(passed.rung < guests.rung());
        assert!(!passed.reason.is_empty());
    }
}

#[tokio::test]
async fn directories_that_cannot_be_used_are_named() {
    let absent = GuestOptions::default().with_state_dir("/nonexistent");
    let error = Guests::new(absent).await.unwrap_err();
    assert!(matches!(error, GuestError::StateDir { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent"), "{error}");

    let odd = GuestOptions::default().with_rootfs("/srv/a,b");
    let error = Guests::new(odd).await.unwrap_err();
    assert!(matches!(error, GuestError::Rootfs { .. }), "{error}");
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("letters"), "{reason}");

    let empty = tempfile::tempdir_in("/var/tmp").unwrap();
    let empty = GuestOptions::default().with_rootfs(empty.path());
    let error = Guests::new(empty).await.unwrap_err();
    assert!(
        matches!(error, GuestError::MissingPrograms { .. }),
        "{error}"
    );
}
