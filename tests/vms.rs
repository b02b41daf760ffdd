//! What a user of `bioxen create`, `start`, `stop` and the like sees: VMs of a pool that outlive the
//! program, found again by name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it leaves out")]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xapi_client::SecretString;
use xapi_sim::guest::Rung;
use xapi_sim::{LUA_TEMPLATE, Model, SimOptions, TemplateSpec};

use support::{PASSWORD, Pool};

mod support;

async fn pool() -> Pool {
    pool_of(Model::single_host()).await
}

async fn pool_of(model: Model) -> Pool {
    Pool::of(model, SimOptions::default()).await
}

/// Nothing is on the pool but what serving it has put there.
fn is_as_before(pool: &Pool) {
    let leaks = pool.sim.leaks().into_iter();
    let leaks: Vec<_> = leaks.filter(|leak| leak.class != "Certificate").collect();
    assert!(leaks.is_empty(), "{leaks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_of_the_pool_is_made_driven_and_removed_by_name() {
    let pool = pool().await;
    let template = format!("template={LUA_TEMPLATE}");
    let made = pool.json(&["create", "lab", "--set", &template]).await;
    assert_eq!(
        (&made[0]["id"], &made[0]["state"]),
        (&"lab".into(), &"running".into())
    );
    let said = pool.refused(&["create", "lab", "--set", &template]).await;
    assert!(said.contains("has a VM of this id already"), "{said}");
    let plan = ["create", "lab2", "--dry-run", "--set", &template];
    let plan = pool.json(&plan).await;
    assert_eq!(plan.last().unwrap()["step"], "name it \"bioxen-lab2\"");
    // Whatever is no id is named as it was typed.
    for command in [&["info", "tag:nope"][..], &["exec", "tag:nope", "-e", "x"]] {
        let said = pool.refused(command).await;
        assert!(said.contains("VM tag:nope: cannot find it"), "{said}");
    }
    // Nothing but the maker needs a template.
    assert_eq!(pool.json(&["gc"]).await.len(), 0);
    let listed = pool.json(&["ls"]).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["details"]["name"], "bioxen-lab");
    assert_eq!(listed[0]["details"]["kept"], "true");
    let shown = pool.json(&["info", "lab"]).await;
    assert_eq!(shown[0]["details"], listed[0]["details"]);
    let table = pool.bioxen(&["ls"]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    let [head, row] = table.lines().collect::<Vec<_>>()[..] else {
        panic!("{table}");
    };
    for (column, cell) in [
        ("STATE", "running"),
        ("KEPT", "yes"),
        ("NAME", "bioxen-lab"),
    ] {
        let at = head.find(column).unwrap();
        assert!(row[at..].starts_with(cell), "{table}");
    }

    for (command, state) in [
        ("pause", "paused"),
        ("unpause", "running"),
        ("suspend", "suspended"),
        ("resume", "running"),
        ("stop", "stopped"),
        ("start", "running"),
        ("reboot", "running"),
        ("info", "running"),
    ] {
        let told = pool.json(&[command, "bioxen-lab"]).await;
        let told = (&told[0]["id"], &told[0]["state"]);
        assert_eq!(told, (&"lab".into(), &state.into()), "{command}");
    }

    // Simulated disks hold still only while nobody writes to them.
    pool.json(&["stop", "lab"]).await;
    let taken = pool.json(&["snapshot", "create", "lab", "clean"]).await;
    assert_eq!(taken[0]["name"], "clean");
    let said = pool.refused(&["snapshot", "create", "lab", "clean"]).await;
    assert!(said.contains("already"), "{said}");
    assert_eq!(pool.json(&["snapshot", "ls", "lab"]).await, taken);
    // People read a date.
    let listed = pool.bioxen(&["snapshot", "ls", "lab"]).await.stdout;
    let listed = String::from_utf8(listed).unwrap();
    let made = listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap();
    assert!(made.starts_with("20") && made.ends_with('Z'), "{listed}");
    let reverted = pool.json(&["snapshot", "revert", "lab", "clean"]).await;
    assert_eq!(reverted[0]["state"], "stopped");
    let said = pool.says(&["snapshot", "revert", "lab", "clean"]).await;
    assert_eq!(said, "lab: stopped, with the disks of the snapshot\n");
    let said = pool.refused(&["snapshot", "rm", "lab", "claen"]).await;
    assert!(said.contains("\"clean\""), "{said}");
    let gone = pool.json(&["snapshot", "rm", "lab", "clean"]).await;
    assert_eq!(gone[0]["removed"], "clean");
    assert_eq!(pool.json(&["snapshot", "ls", "lab"]).await.len(), 0);

    // A program in a VM that is there: started for it, and there afterwards.
    for start in [["exec", "lab"], ["run", "--vm=lab"]] {
        let code = "-- a comment\nio.write(_VERSION, ' ', ...) os.exit(3)";
        let output = pool
            .bioxen(&[&start[..], &["-e", code, "x"]].concat())
            .await;
        assert_eq!(
            (output.status.code(), &*output.stdout),
            (Some(3), &b"Lua 5.4 x"[..]),
            "{start:?}: {output:?}"
        );
    }
    let said = pool.refused(&["exec", "nobody", "-e", "print(1)"]).await;
    assert!(said.contains("nobody"), "{said}");
    let talk = pool.talk(&["shell", "--vm", "lab"], "x = 20\nx + 1\n");
    assert_eq!(talk.await.stdout, b"21\n");
    let packages = pool.bioxen(&["pkg", "list", "--vm", "lab"]).await;
    assert_eq!(packages.status.code(), Some(0), "{packages:?}");
    let (told, listed) = (pool.json(&["info", "lab"]).await, pool.json(&["ls"]).await);
    assert!(told[0]["address"].is_string(), "{told:?}");
    assert_eq!(told[0]["address"], listed[0]["address"]);
    pool.json(&["stop", "lab"]).await;
    let host = told[0]["details"]["host"].as_str().unwrap();
    let moved = pool.bioxen(&["migrate", "lab", host]).await;
    assert_eq!(moved.status.code(), Some(0), "{moved:?}");
    let said = String::from_utf8_lossy(&moved.stderr).into_owned();
    assert!(
        said.contains("lab does not run, so nothing was moved"),
        "{said}"
    );

    let clone = pool.json(&["clone", "lab", "lab2"]).await;
    assert_eq!(
        (&clone[0]["id"], &clone[0]["state"]),
        (&"lab2".into(), &"running".into())
    );
    let said = pool.refused(&["clone", "lab", "lab2"]).await;
    assert!(said.contains("has a VM of this id already"), "{said}");
    assert_eq!(pool.json(&["ls"]).await.len(), 2);
    let said = pool.refused(&["destroy", "nobody"]).await;
    assert!(
        said.starts_with("bioxen: nothing to destroy: VM nobody: "),
        "{said}"
    );
    // They are listed as they are called.
    assert!(said.ends_with("there are: \"lab\", \"lab2\"\n"), "{said}");
    let uuid = pool.json(&["info", "lab"]).await[0]["details"]["uuid"].clone();
    // One that is named twice is destroyed once.
    let ended = pool.json(&["destroy", "lab", "lab2", "lab"]).await;
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert_eq!(ended[0]["details"]["uuid"], uuid);
    assert!(
        ended.iter().all(|vm| vm["state"] == "destroyed"),
        "{ended:?}"
    );
    assert_eq!(pool.json(&["ls"]).await.len(), 0);
    let said = pool.refused(&["destroy", "lab"]).await;
    assert!(said.contains("there is no VM \"lab\""), "{said}");
    let again = pool.bioxen(&["destroy", "--if-exists", "lab"]).await;
    assert_eq!((again.status.code(), &*again.stdout), (Some(0), &b""[..]));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("there is no VM \"lab\""), "{said}");
    is_as_before(&pool);
    pool.server.shutdown().await;
    pool.sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_interrupted_ends_what_it_has_begun() {
    let pool = pool().await;
    let template = format!("template={LUA_TEMPLATE}");
    pool.json(&["create", "lab", "--set", &template]).await;
    // Whenever it comes: before anything is begun, or meanwhile.
    for (number, wait) in [50, 150, 300].into_iter().enumerate() {
        let id = format!("copy-{number}");
        let clone = pool.command(&["clone", "lab", &id]).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let process = Pid::from_raw(i32::try_from(clone.id()).unwrap());
        kill(process, Signal::SIGINT).unwrap();
        let ended = tokio::task::spawn_blocking(move || clone.wait_with_output().unwrap());
        let ended = ended.await.unwrap();
        assert!(
            matches!(ended.status.code(), None | Some(0 | 130)),
            "{ended:?}"
        );
        // One that was ended leaves none.
        if ended.status.code() == Some(130) {
            let said = pool.refused(&["info", &id]).await;
            assert!(said.contains("cannot find it"), "{said}");
        }
    }
    let left = pool.json(&["gc", "--dry-run"]).await;
    assert!(left.is_empty(), "{left:?}");
    for vm in pool.json(&["ls"]).await {
        let kept = (&vm["state"], &vm["details"]["kept"]);
        assert_eq!(kept, (&"running".into(), &"true".into()), "{vm}");
        pool.json(&["destroy", vm["id"].as_str().unwrap()]).await;
    }
    is_as_before(&pool);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bioxen_has_not_made_is_destroyed_on_express_request_only() {
    let pool = pool().await;
    let template = format!("template={LUA_TEMPLATE}");
    pool.json(&["create", "lab", "--set", &template]).await;
    pool.json(&["stop", "lab"]).await;
    let admin = xapi_client::Client::over(pool.sim.transport())
        .credentials("root", SecretString::from(PASSWORD.to_owned()))
        .login()
        .await
        .unwrap();
    let vm = admin.vm().get_by_name_label("bioxen-lab").await.unwrap();
    admin.vm().clone(&vm[0], "theirs").await.unwrap();
    let said = pool.refused(&["destroy", "theirs"]).await;
    assert!(said.contains("--foreign"), "{said}");
    pool.json(&["destroy", "--foreign", "theirs", "lab"]).await;
    admin.close().await.unwrap();
    is_as_before(&pool);
    pool.server.shutdown().await;
    pool.sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_whose_vms_end_with_their_program_says_so() {
    let pool = pool().await;
    let said = pool.refused(&["create", "--type", "basic", "lab"]).await;
    assert!(
        said.contains("VMs of type basic end with the program"),
        "{said}"
    );
    assert!(said.contains("`bioxen run --type basic`"), "{said}");
    pool.server.shutdown().await;
    pool.sim.shutdown().await;
}

/// A system with cloud-init, as the makers of systems offer them for clouds.
const BASE: &str = "cloud";

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_made_with_the_rocks_in_it_and_checked() {
    let network = "Pool-wide network associated with eth0";
    let base = TemplateSpec::with_guest(BASE).cloud_init().vif(network);
    let pool = pool_of(Model::single_host().template(base)).await;
    if pool.sim.rung() != Some(Rung::Overlay) {
        println!("left out: guests have no files of their own here");
        return;
    }
    let by_drive = ["--set", "ssh.first_contact=config-drive"];
    let root = ["--set", "ssh.user=root"];
    let build = ["template", "build", "--from", BASE, "--name", "made"];
    let build = [&build[..], &by_drive, &root].concat();
    let missing = [&build[..], &["--rocks", "/nowhere"]].concat();
    let output = pool.bioxen(&missing).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("there is no folder /nowhere"), "{said}");
    is_as_before(&pool);

    let image = pool.state.path().join("disk.qcow2");
    std::fs::write(&image, b"QFI\xfb").unwrap();
    let image = ["--image", image.to_str().unwrap(), "--name", "made"];
    let image = [&["template", "build"], &image[..]].concat();
    let output = pool.bioxen(&image).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("qemu-img convert"), "{said}");
    assert_eq!(output.stdout, b"", "nothing was begun");
    is_as_before(&pool);

    let output = pool.bioxen(&build).await;
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{warned}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("bio_sequence_analysis"), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("made made ("), "{said}");

    let rock = "print(require('bio_compute') ~= nil)";
    let run = [
        "run",
        "--type",
        "xcpng",
        "-e",
        rock,
        "--set",
        "template=made",
    ];
    let output = pool.bioxen(&[&run[..], &root].concat()).await;
    assert_eq!(output.stdout, b"true\n", "{output:?}");

    let check = ["template", "check", "made"];
    let findings = pool.json(&[&check[..], &root].concat()).await;
    let verdict = |code: &str| {
        let found = findings.iter().find(|finding| finding["code"] == code);
        found.unwrap()["verdict"].clone()
    };
    for code in ["template", "ssh", "lua", "luarocks", "identity", "cleanup"] {
        assert_eq!(verdict(code), "good", "{code}: {findings:?}");
    }
    let output = pool.bioxen(&["template", "check", "mad"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    let output = pool.bioxen(&build).await;
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_eq!(output.stdout, b"", "nothing was begun");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("has a template \"made\" already"), "{said}");

    let said = pool.refused(&["template", "rm", BASE]).await;
    assert!(said.contains("--foreign"), "{said}");
    let gone = pool.json(&["template", "rm", "made"]).await;
    assert_eq!(gone[0]["name"], "made");
    pool.json(&["template", "rm", "--foreign", BASE]).await;
}
