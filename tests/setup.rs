//! What somebody sees who sets up a pool: the decision whom to trust, and what the doctor says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use xapi_sim::guest::PORT;
use xapi_sim::{GuestMode, Model, SimOptions};

use support::{PASSWORD, Pool};

mod support;

/// A pool whose VMs are records only, and nothing in the environment that tells of it.
async fn pool() -> Pool {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    Pool::of(Model::single_host(), options).await
}

/// The program alone with a settings file of this text, and what is in its environment.
fn with_settings(text: &str, environment: &[(&str, &str)], args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pool.toml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["--config", "pool.toml"])
        .args(args)
        .envs(environment.iter().copied())
        .env("XDG_STATE_HOME", folder.path())
        .current_dir(&folder)
        .output()
        .unwrap()
}

fn text(stream: &[u8]) -> String {
    String::from_utf8(stream.to_vec()).unwrap()
}

#[test]
fn what_an_unknown_key_holds_is_never_shown() {
    let settings = "[xcpng]\nxcpng_host = 'pool'\npasword = 'canary-1'\npasswd = ['canary-2']\n\
                    disks = [{ size = '1GB', key = 'canary-3' }]\ntags = ['mine']\n\
                    [xcpng.ssh]\nprivate_key = 'canary-4'\nuser = 'bio'\n\
                    [xcpng.login]\nwith = 'canary-5'\n";
    let environment = [("BIOXEN_XCPNG_PASSWORT", "canary-6")];
    for args in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["config", "check"],
    ] {
        let output = with_settings(settings, &environment, args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains("canary"), "{said}");
        for key in ["pasword", "passwd", "private_key", "login", "passwort"] {
            assert!(said.contains(key), "no {key} in {said}");
        }
    }
    let shown = text(&with_settings(settings, &environment, &["config", "show"]).stdout);
    for line in [
        "ssh.user = \"bio\"  # pool.toml line 9",
        "tags = [\"mine\"]  # pool.toml line 6",
    ] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
}

#[test]
fn a_check_tells_all_problems_at_once_in_the_order_of_their_lines() {
    let settings = "[xcpgn]\nmemory = '1GB'\n[xcpng]\nxcpng_host = 'pool'\nmemory = 'two'\n\
                    vcpus = 0\ntls.fingerprint = 'zz'\npassword_file = 'x'\n[basic]\nmemory = 1\n\
                    idle_workers = 'few'\n";
    let output = with_settings(settings, &[], &["config", "check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let told: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let places: Vec<_> = told
        .iter()
        .map(|problem| (problem["type"].as_str(), problem["line"].as_u64()))
        .collect();
    let pool = Some("xcpng");
    assert_eq!(
        places,
        [
            (None, Some(1)),
            (pool, Some(5)),
            (pool, Some(6)),
            (pool, Some(7)),
            // The file is not there.
            (pool, Some(8)),
            // Too little, which only a look at the whole can tell.
            (Some("basic"), Some(10)),
            (Some("basic"), Some(11)),
            (pool, None)
        ],
        "{told:#?}"
    );
    // The rest of a file that is no TOML cannot be looked at.
    let output = with_settings("[xcpng\n", &[], &["config", "check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["line"], 1);
    assert!(told["problem"].as_str().unwrap().contains("not valid TOML"));
    // For other commands they are errors, also for those that need no template.
    let unknown = "[xcpng]\nxcpng_host = 'pool'\nfoo = 1\n";
    for (wrong, line) in [("[xcpng\n", 1), (settings, 1), (unknown, 3)] {
        for command in [
            &["ls"][..],
            &["info", "lab"],
            &["gc"],
            &["exec", "lab", "-e", ""],
        ] {
            let output = with_settings(wrong, &[], command);
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            let said = text(&output.stderr);
            assert!(said.contains(&format!("pool.toml line {line}: ")), "{said}");
        }
    }
    // A doctor leaves nothing out without saying so.
    let output = with_settings(unknown, &[], &["doctor"]);
    let said = text(&output.stdout);
    assert!(
        said.contains("cleanup") && said.contains("not looked at, as it needs config"),
        "{said}"
    );
}

#[test]
fn a_password_that_others_can_read_is_warned_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("secret"), "x\n").unwrap();
    fs::write(path("in.toml"), "[pools.lab]\npassword = 'x'\n[basic]\n").unwrap();
    fs::write(path("beside.toml"), "[xcpng]\npassword_file = 'secret'\n").unwrap();
    for (settings, open, mode, is_warned) in [
        ("in.toml", "in.toml", 0o644, true),
        ("in.toml", "in.toml", 0o640, true),
        ("in.toml", "in.toml", 0o600, false),
        ("beside.toml", "secret", 0o644, true),
        ("beside.toml", "secret", 0o600, false),
    ] {
        fs::set_permissions(path(open), fs::Permissions::from_mode(mode)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
            .args(["--config", &path(settings), "run", "-e", "print(1)"])
            .output()
            .unwrap();
        assert_eq!(text(&output.stdout), "1\n", "{output:?}");
        let remedy = format!("`chmod 600 {}`", path(open));
        let warnings = text(&output.stderr).matches(&remedy).count();
        assert_eq!(warnings, usize::from(is_warned), "{mode:o} {output:?}");
    }
}

#[test]
fn what_a_variable_asks_for_is_told_as_such_and_is_no_part_of_usage_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pool.toml");
    fs::write(&file, "[pools.lab]\nxcpng_host = 'pool'\n").unwrap();
    let run = |config: &Path, pool: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
        command.args(args).env("BIOXEN_CONFIG", config);
        command.env("BIOXEN_POOL", pool);
        text(&command.output().unwrap().stderr)
    };
    let said = run(&file, "", &["ls", "--pool", "nosuch"]);
    let wrong = format!(
        "bioxen: {} has no pool \"nosuch\"; its pools: lab\n",
        file.display()
    );
    assert_eq!(said, wrong);
    let said = run(&file, "nosuch", &["ls"]);
    assert!(said.contains("the variable BIOXEN_POOL asks for"), "{said}");
    let said = run(Path::new("/nowhere.toml"), "", &["ls"]);
    assert!(said.starts_with("bioxen: cannot read"), "{said}");
    assert!(
        said.contains("the variable BIOXEN_CONFIG names it"),
        "{said}"
    );
    let said = run(&file, "lab", &["exec"]);
    assert!(said.contains("Usage: bioxen exec"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_this_machine_trusts_needs_no_fingerprint() {
    let mut pool = pool().await;
    let folder = pool.state.path().to_owned();
    fs::write(folder.join("secret"), PASSWORD).unwrap();
    let (file, secret) = (folder.join("pool.toml"), folder.join("secret"));
    let host = pool.server.address().to_string();
    let init = [
        "config",
        "init",
        "--no-test",
        "--config",
        file.to_str().unwrap(),
        "--password-file",
        secret.to_str().unwrap(),
        "--host",
        &host,
    ];
    let said = pool.refused(&init).await;
    let pin = pool.server.fingerprint().unwrap().to_string();
    assert!(
        said.contains(&format!("--fingerprint {pin}; nothing was written")),
        "{said}"
    );
    assert!(!file.exists());

    let authority = folder.join("authority.pem");
    fs::write(&authority, pool.server.certificate_pem().unwrap()).unwrap();
    pool.env = vec![("SSL_CERT_FILE", authority.to_str().unwrap().to_owned())];
    let said = pool.says(&init).await;
    assert!(said.contains("vouches for"), "{said}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(!written.contains("fingerprint"), "{written}");
}

/// The program with nothing in its environment that tells of a pool.
fn bioxen(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    command
        .args(args)
        .current_dir(folder)
        .env("XDG_STATE_HOME", folder)
        .env("XDG_CONFIG_HOME", folder)
        .stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn where_nothing_listens_on_this_machine_a_simulator_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = format!(
        "[xcpng]\nxcpng_host = '{}'\npassword = 'x'\ntemplate = 'x'\ntls.insecure = true\n",
        free.local_addr().unwrap()
    );
    drop(free);
    fs::write(folder.path().join("pool.toml"), settings).unwrap();
    for command in ["doctor", "ls"] {
        let output = bioxen(folder.path(), &[command, "--config", "pool.toml"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains("a `bioxen sim` that did has ended"), "{said}");
        assert!(!said.contains("firewall"), "{said}");
    }
}

#[test]
fn a_variable_that_names_the_file_of_a_simulator_that_ended_is_no_hindrance_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let with = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
        let file = folder.path().join("pool.toml");
        command
            .args(args)
            .env("BIOXEN_CONFIG", file)
            .env("XDG_STATE_HOME", folder.path())
            .stdin(Stdio::null());
        command.output().unwrap()
    };
    let output = with(&["run", "-e", "print(1)"]);
    assert_eq!(output.stdout, b"1\n", "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(
        said.contains("warning") && said.contains("BIOXEN_CONFIG"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    // What is about a pool cannot do without.
    for args in [&["ls"][..], &["config", "check"]] {
        let output = with(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(
            text(&output.stderr).contains("unset it to do without"),
            "{args:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_doctor_long_is_told_when_it_begins() {
    let pool = Pool::of(Model::single_host(), SimOptions::default()).await;
    let port = format!("ssh.port={}", PORT + 1);
    let doctor = ["doctor", "--set", &port, "--set", "boot_timeout=3s"];
    let template = ["--set", "template=lua-bio-template"];
    let output = pool.bioxen(&[&doctor[..], &template].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "deploy: making a VM",
            "boot: starting the VM",
            "address: waiting for its guest tools to report an address",
            "ssh: waiting for a login over SSH",
            "cleanup: removing the VM",
        ]
    );
    let found = text(&output.stdout);
    assert!(found.contains("failed   ssh: "), "{found}");
}

#[test]
fn a_setting_needs_no_type_where_only_one_can_be_meant() {
    let both = "[xcpng]\nxcpng_host = 'pool'\npassword = 'x'\ntemplate = 'y'\n[basic]\n";
    let one = "[xcpng]\nxcpng_host = 'pool'\npassword = 'x'\ntemplate = 'y'\n";
    for (settings, set, code, said) in [
        (both, "template=lua", 0, "nothing is wrong"),
        (both, "ssh.user=bio", 0, "nothing is wrong"),
        (both, "vcpus=0", 1, "[xcpng] --set"),
        (one, "memory=1GB", 0, "nothing is wrong"),
        (one, "memory=two", 1, "[xcpng] --set"),
        (one, "templat=lua", 1, "did you mean \"template\"?"),
        ("", "memory=1GB", 125, "say which with --type"),
    ] {
        let output = with_settings(settings, &[], &["config", "check", "--set", set]);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(all.contains(said), "{set}: {all}");
        assert_eq!(output.status.code(), Some(code), "{set}: {all}");
    }
}
