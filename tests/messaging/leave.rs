//! What is left in a guest whose connection is cut at each moment of joining and leaving.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bioxen::local::LocalRunner;
use bioxen::net::message::Hub;
use bioxen::{
    Command, Error, ErrorKind, LuaVm, Outcome, OutputSink, PackageSite, Result, Runner, Script,
    VmId, VmInfo, VmState,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// What comes between a removal and its end.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// It does not reach the guest.
    OnTheWay,
    /// It is killed before it removes anything.
    Before,
    /// It is killed once it has removed something.
    While,
    /// It is done, and the guest cannot say so.
    OnTheWayBack,
}

/// Programs of the guest that stand in for those of the machine, each in a folder of its own.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("before", "rm", "kill -s KILL $$"),
    ("while", "rm", r#"/bin/rm "$3/answers"; kill -s KILL $$"#),
    // It makes what it should, and stays.
    (
        "hold",
        "mkdir",
        r#"/bin/mkdir "$@"; echo >"${0%/*}/held"; exec sleep 3600"#,
    ),
];

/// A guest on this machine, with connections that can be cut.
#[derive(Debug, Clone)]
struct Guest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: VmId,
    tmp: TempDir,
    programs: TempDir,
    state: Mutex<VmState>,
    /// What becomes of removals; then they are let through.
    cuts: Mutex<VecDeque<Cut>>,
    /// The folder with programs for the next links.
    link: Mutex<&'static str>,
    cut_link: Notify,
    /// What has begun and ended there.
    log: watch::Sender<Vec<&'static str>>,
}

impl Guest {
    fn with_cuts(cuts: impl IntoIterator<Item = Cut>) -> Self {
        let programs = tempfile::tempdir().unwrap();
        for (folder, name, text) in PROGRAMS {
            let folder = programs.path().join(folder);
            std::fs::create_dir(&folder).unwrap();
            let file = folder.join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o700)).unwrap();
        }
        Self(Arc::new(Inner {
            id: VmId::new("guest").unwrap(),
            tmp: tempfile::tempdir().unwrap(),
            programs,
            state: Mutex::new(VmState::Running),
            cuts: Mutex::new(cuts.into_iter().collect()),
            link: Mutex::new(""),
            cut_link: Notify::new(),
            log: watch::Sender::default(),
        }))
    }

    fn vm(&self) -> Arc<dyn LuaVm> {
        Arc::new(self.clone())
    }

    /// Lets links make the folder and then nothing. What is returned hears of each that has.
    fn hold_links(&self) -> pipe::Receiver {
        let fifo = self.0.programs.path().join("hold/held");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        *self.0.link.lock().unwrap() = "hold";
        let mut options = pipe::OpenOptions::new();
        options.read_write(true).open_receiver(fifo).unwrap()
    }

    fn runner(&self, programs: &str) -> LocalRunner {
        let own = self.0.programs.path().join(programs);
        LocalRunner::new()
            .with_env("TMPDIR", self.0.tmp.path())
            .with_env("PATH", format!("{}:/usr/bin:/bin", own.display()))
    }

    fn log(&self, what: &'static str) {
        self.0.log.send_modify(|log| log.push(what));
    }

    fn logged(&self) -> Vec<&'static str> {
        self.0.log.borrow().clone()
    }

    fn left(&self) -> usize {
        self.0.tmp.path().read_dir().unwrap().count()
    }
}

#[async_trait]
impl Runner for Guest {
    async fn run(&self, command: Command) -> Result<Outcome> {
        assert_eq!(command.args[3], "remove");
        self.log("remove");
        let cut = self.0.cuts.lock().unwrap().pop_front();
        let ended = match cut {
            Some(Cut::OnTheWay) => Err(lost()),
            Some(Cut::Before) => self.runner("before").run(command).await,
            Some(Cut::While) => self.runner("while").run(command).await,
            Some(Cut::OnTheWayBack) => {
                let ended = self.runner("").run(command).await;
                assert!(ended.unwrap().success());
                Err(lost())
            }
            None => self.runner("").run(command).await,
        };
        let done = ended.as_ref().is_ok_and(Outcome::success);
        self.log(if done { "removed" } else { "cut" });
        ended
    }

    async fn run_streaming(&self, command: Command, sink: &mut dyn OutputSink) -> Result<Outcome> {
        assert_eq!(command.args[3], "link");
        self.log("link");
        let runner = self.runner(*self.0.link.lock().unwrap());
        tokio::select! {
            ended = runner.run_streaming(command, sink) => {
                self.log("ended");
                ended
            }
            () = self.0.cut_link.notified() => {
                self.log("cut");
                Err(lost())
            }
        }
    }

    fn describe(&self) -> String {
        "a guest on this machine".into()
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection is lost")
}

#[async_trait]
impl LuaVm for Guest {
    fn id(&self) -> &VmId {
        &self.0.id
    }

    fn vm_type(&self) -> &'static str {
        "guest"
    }

    async fn info(&self) -> Result<VmInfo> {
        let state = *self.0.state.lock().unwrap();
        Ok(VmInfo::new(self.0.id.clone(), "guest", state))
    }

    async fn start(&self) -> Result<()> {
        Err(self.unsupported("be started"))
    }

    async fn stop(&self) -> Result<()> {
        Err(self.unsupported("be stopped"))
    }

    async fn execute(&self, _: Script) -> Result<Outcome> {
        Err(self.unsupported("run Lua"))
    }

    async fn package_site(&self) -> Result<PackageSite> {
        Ok(PackageSite::new(Arc::new(self.clone()), "5.4", "/nowhere"))
    }

    async fn destroy(&self) -> Result<()> {
        Err(self.unsupported("be destroyed"))
    }
}

#[tokio::test]
async fn a_removal_that_is_cut_is_done_again() {
    use Cut::{Before, OnTheWay, OnTheWayBack, While};
    for cuts in [
        vec![],
        vec![OnTheWay],
        vec![Before],
        vec![While],
        vec![OnTheWayBack],
        vec![While, OnTheWay, Before, OnTheWayBack],
    ] {
        let guest = Guest::with_cuts(cuts.clone());
        let member = Hub::new().join(guest.vm()).await.unwrap();
        assert_eq!(guest.left(), 1);
        member.leave().await;
        assert_eq!(guest.left(), 0, "{cuts:?}");
        let mut log = vec!["link", "ended"];
        log.extend(cuts.iter().flat_map(|_| ["remove", "cut"]));
        log.extend(["remove", "removed"]);
        assert_eq!(guest.logged(), log, "{cuts:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_made_again_has_ended_before_its_folder_is_removed() {
    let guest = Guest::with_cuts([]);
    let member = Hub::new().join(guest.vm()).await.unwrap();
    let mut held = guest.hold_links();
    guest.0.cut_link.notify_one();
    held.read_u8().await.unwrap();
    member.leave().await;
    assert_eq!(guest.left(), 0);
    assert_eq!(
        guest.logged(),
        ["link", "cut", "link", "ended", "remove", "removed"]
    );
}

#[tokio::test]
async fn who_gives_up_joining_leaves_nothing() {
    let guest = Guest::with_cuts([Cut::While]);
    let mut held = guest.hold_links();
    let hub = Hub::new();
    tokio::select! {
        joined = hub.join(guest.vm()) => panic!("{joined:?}"),
        held = held.read_u8() => { held.unwrap(); }
    }
    assert!(hub.peers().is_empty());
    let mut log = guest.0.log.subscribe();
    let removed = log.wait_for(|log| log.last() == Some(&"removed"));
    // It is nobody's to wait for, so that it could be missing.
    let removed = timeout(Duration::from_secs(60), removed).await;
    removed.unwrap().unwrap();
    assert_eq!(guest.left(), 0);
    assert_eq!(
        guest.logged(),
        ["link", "ended", "remove", "cut", "remove", "removed"]
    );
}

#[tokio::test]
async fn a_guest_that_has_ended_is_not_waited_for() {
    let guest = Guest::with_cuts([Cut::OnTheWay]);
    let member = Hub::new().join(guest.vm()).await.unwrap();
    *guest.0.state.lock().unwrap() = VmState::Destroyed;
    member.leave().await;
    assert_eq!(guest.logged(), ["link", "ended", "remove", "cut"]);
}
