//! Guests whose owner is another process: one that is killed, one without privileges.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Fixture, process_table, processes_with, state_dirs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use xapi_sim::guest::{Guest, GuestOptions, Guests, Rung};

/// The environment variable with the directory in which an owner keeps the files of its guests.
const STATE: &str = "BIOXEN_TEST_STATE";
/// The environment variable with the rung that an owner uses, if not the best.
const RUNG: &str = "BIOXEN_TEST_RUNG";

/// Not a test but the owner that the tests start as a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the tests of this file run it, as a process of its own"]
async fn owner() {
    let state = std::env::var_os(STATE).expect("the tests of this file set it");
    let mut options = GuestOptions::default().with_state_dir(PathBuf::from(state));
    if let Ok(name) = std::env::var(RUNG) {
        let rung = Rung::ALL.into_iter().find(|rung| rung.name() == name);
        options = options.with_rung(rung.unwrap());
    }
    let Some(fixture) = Fixture::with(options).await else {
        return;
    };
    for passed in fixture.guests.passed_over() {
        println!("passed over {passed}");
    }
    println!(
        "rung {} user {}",
        fixture.guests.rung(),
        fixture.guests.user()
    );
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let stubborn = format!(
        "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 3500.{}; done' >/dev/null 2>&1 & \
         sleep 0.2; lua5.4 -e 'print(_VERSION)'",
        std::process::id()
    );
    println!("lua {}", fixture.run(&guest, &stubborn).await);
    println!("ready");
    std::future::pending::<()>().await;
}

/// An owner with a guest that runs.
struct Owner {
    process: Child,
    /// Its process number, also once it is dead.
    id: u32,
    report: String,
}

/// The place for an owner's files: a directory that any user may use, with the program in it.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o1777)).unwrap();
    // Other users may not get at the directory in which tests are built.
    std::fs::copy(std::env::current_exe().unwrap(), place.path().join("owner")).unwrap();
    place
}

impl Owner {
    /// Starts an owner; there is none where the machine does not offer the rung.
    ///
    /// `through` is a command that runs the one that follows it.
    async fn start(place: &Path, rung: Option<Rung>, through: &[&str]) -> Option<Self> {
        let program = place.join("owner");
        let mut words = through.iter().map(Path::new).chain([program.as_path()]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(["--ignored", "--exact", "owner::owner", "--nocapture"])
            .current_dir("/")
            .env(STATE, place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(rung) = rung {
            command.env(RUNG, rung.name());
        }
        let mut process = command.spawn().unwrap();
        let id = process.id().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut report = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "ready" {
                return Some(Self {
                    process,
                    id,
                    report,
                });
            }
            report.push_str(&line);
            report.push('\n');
        }
        assert!(report.contains("1 passed"), "{report}");
        None
    }

    /// Kills it without a chance to clean up, and waits until no process of its guest is left.
    async fn kill(mut self, place: &Path) {
        let stubborn = format!("sleep 3500.{}", self.id);
        let of_guests = format!("{}/bioxen-guests-", place.display());
        let left = || [processes_with(&stubborn), processes_with(&of_guests)].concat();
        assert!(left().len() > 1, "{:?}", left());
        self.process.kill().await.unwrap();
        // They are not our children, so there is no event to wait for.
        let start = Instant::now();
        while !left().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", left());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The private directories of owners.
fn private_directories(place: &Path) -> Vec<PathBuf> {
    state_dirs(place)
        .into_iter()
        .filter(|path| path.is_dir())
        .collect()
}

async fn guests_of_a_killed_owner_end(rung: Rung) {
    let place = place();
    let Some(owner) = Owner::start(place.path(), Some(rung), &[]).await else {
        return;
    };
    assert!(owner.report.contains("lua Lua 5.4\n"), "{}", owner.report);
    owner.kill(place.path()).await;

    let left = private_directories(place.path());
    assert_eq!(left.len(), 1);
    let options = GuestOptions::default()
        .with_rung(rung)
        .with_state_dir(place.path());
    let next = Guests::new(options).await.unwrap();
    assert!(
        !left[0].exists(),
        "the next owner removes what a killed one leaves"
    );
    drop(next);
    assert!(private_directories(place.path()).is_empty());
}

#[tokio::test]
async fn overlay_guests_of_a_killed_owner_end() {
    guests_of_a_killed_owner_end(Rung::Overlay).await;
}

#[tokio::test]
async fn bubblewrap_guests_of_a_killed_owner_end() {
    guests_of_a_killed_owner_end(Rung::Bubblewrap).await;
}

#[tokio::test]
async fn plain_guests_of_a_killed_owner_end() {
    guests_of_a_killed_owner_end(Rung::Plain).await;
}

/// Sends a signal to the supervisor of a guest alone.
async fn signal_the_supervisor(rung: Rung, signal: Signal) -> Option<(Fixture, Guest)> {
    let options = GuestOptions::default().with_rung(rung);
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let fixture = Fixture::with(options.with_state_dir(place.path())).await?;
    let disk = fixture.guests.create("worker").await.unwrap();
    let guest = fixture.boot(&disk).await;
    let program = if rung == Rung::Plain {
        "plain.sh"
    } else {
        "supervise.sh"
    };
    let program = format!("boot/{program}");
    let mut supervisors = process_table(&place.path().display().to_string());
    supervisors
        .retain(|_, arguments| arguments.starts_with("/bin/sh") && arguments.contains(&program));
    assert_eq!(supervisors.len(), 1, "{supervisors:?}");
    let (number, _) = supervisors.first_key_value().unwrap();
    kill(Pid::from_raw(*number), signal).unwrap();
    Some((fixture, guest))
}

#[tokio::test]
async fn a_guest_ends_with_its_supervisor() {
    for rung in [Rung::Overlay, Rung::Bubblewrap] {
        if let Some((_fixture, guest)) = signal_the_supervisor(rung, Signal::SIGKILL).await {
            guest.exited().await;
        }
    }
}

#[tokio::test]
async fn a_guest_whose_supervisor_is_stopped_ends_all_the_same() {
    for rung in Rung::ALL {
        if let Some((_fixture, guest)) = signal_the_supervisor(rung, Signal::SIGSTOP).await {
            let (exited, address) = (guest.exited(), guest.address());
            guest.power_off().await;
            exited.await;
            assert!(std::net::TcpStream::connect(address).is_err());
        }
    }
}

#[tokio::test]
async fn a_living_owner_keeps_its_files_while_others_start() {
    let place = place();
    let Some(owner) = Owner::start(place.path(), None, &[]).await else {
        return;
    };
    let kept = private_directories(place.path());
    let options = GuestOptions::default().with_state_dir(place.path());
    drop(Guests::new(options).await.unwrap());
    assert_eq!(private_directories(place.path()), kept);
    owner.kill(place.path()).await;
}

#[tokio::test]
async fn an_ordinary_user_gets_bubblewrap() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user; the other tests are run by one");
        return;
    }
    let place = place();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
    ];
    if Owner::start(place.path(), Some(Rung::Bubblewrap), &nobody)
        .await
        .is_none()
    {
        eprintln!("SKIPPED: ordinary users may not make user namespaces here");
        return;
    }
    let owner = Owner::start(place.path(), None, &nobody).await.unwrap();
    assert!(
        owner.report.contains("rung bubblewrap user bioxen\n"),
        "{}",
        owner.report
    );
    let reason = "passed over overlay: only root can mount it\n";
    assert!(owner.report.contains(reason), "{}", owner.report);
    owner.kill(place.path()).await;
}
