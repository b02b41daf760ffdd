//! What a user of `bioxen sim` sees: a pool on this machine that the other commands reach through a
//! settings file, for as long as the program runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The program in a folder of its own, where it also keeps its state.
fn bioxen(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    command
        .args(args)
        .current_dir(folder)
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    let output = bioxen(folder, args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    output
}

/// A pool that is being served. One that a failed test leaves is ended too.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a pool and waits until it can be used.
fn serve(folder: &Path) -> Served {
    let mut child = bioxen(folder, &["sim", "lab.toml"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<_> = lines
        .map(Result::unwrap)
        .take_while(|line| !line.starts_with("ready"))
        .collect();
    assert!(
        said.iter().any(|line| line.starts_with("pool:")),
        "{said:?}"
    );
    Served(child)
}

fn end(mut served: Served, signal: Signal) {
    let child = &mut served.0;
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(id, signal).unwrap();
    let status = child.wait().unwrap();
    if signal != Signal::SIGKILL {
        assert!(status.success(), "{status}");
    }
}

#[test]
fn the_other_commands_use_the_pool_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pool = serve(folder);
    let settings = folder.join("lab.toml");
    let mode = settings.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the password is in it");

    let lab = ["--config", "lab.toml"];
    run(folder, &[&["create", "lab"], &lab[..]].concat());
    std::fs::create_dir(folder.join("data")).unwrap();
    std::fs::write(folder.join("data/genome.fa"), ">x\nACGT\n").unwrap();
    std::os::unix::fs::symlink("genome.fa", folder.join("data/link.fa")).unwrap();
    let copied = run(folder, &[&["cp", "data", "lab:input"], &lab[..]].concat());
    let told = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(told.contains("warning: data: left out link.fa"), "{told}");
    run(
        folder,
        &[&["cp", "data/genome.fa", "lab:"], &lab[..]].concat(),
    );
    let code =
        "for _, f in ipairs{'input/genome.fa', 'genome.fa'} do io.write(io.open(f):read('a')) end";
    let read = run(
        folder,
        &[&["exec", "lab"], &lab[..], &["-e", code]].concat(),
    );
    assert_eq!(read.stdout, b">x\nACGT\n>x\nACGT\n");
    run(folder, &[&["cp", "lab:input", "back"], &lab[..]].concat());
    let copied = run(
        folder,
        &[&["cp", "--json", "lab:genome.fa", "one.fa"], &lab[..]].concat(),
    );
    let copied: serde_json::Value = serde_json::from_slice(&copied.stdout).unwrap();
    assert_eq!((&copied["files"], &copied["bytes"]), (&1.into(), &8.into()));
    for file in ["back/genome.fa", "one.fa"] {
        assert_eq!(
            std::fs::read(folder.join(file)).unwrap(),
            b">x\nACGT\n",
            "{file}"
        );
    }
    for (ends, said) in [
        (["data", "back"], "names a VM"),
        (["lab:a", "lab:b"], "both ends are in VMs"),
        (["lab:missing.fa", "x"], "missing.fa"),
        (["missing.fa", "lab:"], "missing.fa"),
    ] {
        let args = [&["cp"], &ends[..], &lab[..]].concat();
        let output = bioxen(folder, &args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{ends:?}");
        assert!(text.contains(said), "{ends:?}: {text}");
    }
    run(folder, &[&["destroy", "lab"], &lab[..]].concat());

    end(pool, Signal::SIGINT);
    assert!(!settings.exists(), "the settings of a pool that is gone");
}

#[test]
fn a_file_of_somebody_else_is_not_replaced_but_that_of_a_killed_pool_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let settings = folder.join("lab.toml");
    end(serve(folder), Signal::SIGKILL);
    assert!(settings.exists());
    let ls = bioxen(folder, &["ls", "--config", "lab.toml"]).output();
    let ls = ls.unwrap();
    let text = String::from_utf8_lossy(&ls.stderr);
    assert_eq!(ls.status.code(), Some(125));
    assert!(
        text.ends_with("has ended; start it again with `bioxen sim lab.toml`\n"),
        "{text}"
    );
    for command in [&["trust"][..], &["doctor", "--no-vm"]] {
        let told = bioxen(folder, &[command, &["--config", "lab.toml"]].concat()).output();
        let told = String::from_utf8(told.unwrap().stderr).unwrap();
        let remedy = "start it again with `bioxen sim lab.toml`\n";
        assert!(told.ends_with(remedy), "{told}");
    }
    // What has nothing to do with the pool does not speak of it.
    for command in [
        &["run", "--config", "lab.toml", "absent.lua"][..],
        &["ls", "--config", "lab.toml", "--set", "vcpus=0"],
    ] {
        let output = bioxen(folder, command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("bioxen sim"), "{text}");
    }
    let pool = serve(folder);
    let second = bioxen(folder, &["sim", "lab.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another `bioxen sim` serves"), "{text}");
    end(pool, Signal::SIGTERM);
    assert!(!settings.exists());

    std::fs::write(&settings, "[xcpng]\n").unwrap();
    let output = bioxen(folder, &["sim", "lab.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(text.contains("name another file"), "{text}");
    assert_eq!(std::fs::read(&settings).unwrap(), b"[xcpng]\n");
}

#[test]
fn a_pool_is_set_up_from_options_an_older_file_and_a_decision_of_trust() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pool = serve(folder);
    let served: toml::Table = std::fs::read_to_string(folder.join("lab.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let of = |key: &str| served["xcpng"][key].as_str().unwrap().to_owned();
    let (host, password) = (of("xcpng_host"), of("password"));
    let pin = served["xcpng"]["tls"]["fingerprint"].as_str().unwrap();
    let other = pin.replace('A', "B").replace('1', "2");

    // The certificate is shown, and believed only on the user's word.
    let shown = run(folder, &["trust", &host]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(pin));

    let mine = ["--config", "mine.toml", "--pool", "east"];
    let refused = |args: &[&str], said: &str| {
        let output = bioxen(folder, &[args, &mine[..]].concat())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(text.contains(said), "{args:?}: {text}");
        assert!(!text.contains(&password), "the password shows: {text}");
    };
    std::fs::write(folder.join("secret"), format!("{password}\n")).unwrap();
    let init = [
        "config",
        "init",
        "--password-file",
        "secret",
        "--host",
        &host,
    ];
    refused(
        &[&init[..], &["--fingerprint", &other]].concat(),
        "not the expected one",
    );
    // Nor is anything written while nobody has said whom to trust.
    refused(&init, &format!("say so with --fingerprint {pin}"));
    refused(
        &[&init[..], &["--no-test"]].concat(),
        &format!("say so with --fingerprint {pin}"),
    );
    assert!(!folder.join("mine.toml").exists());
    refused(
        &["config", "init", "--host", &host],
        "--password-file or --password-variable",
    );
    refused(
        &["config", "init", "--password-file", "secret"],
        "give --host",
    );

    let tested = run(
        folder,
        &[&init[..], &["--fingerprint", pin], &mine].concat(),
    );
    let said = String::from_utf8_lossy(&tested.stdout);
    assert!(said.contains("nothing is wrong"), "{said}");
    refused(
        &[&init[..], &["--fingerprint", pin]].concat(),
        "has a table [pools.east] already",
    );

    // The usual file is made where there is none yet.
    let usual = ["--fingerprint", pin, "--no-test", "--pool", "north"];
    run(folder, &[&init[..], &usual].concat());
    let file = folder.join("config/bioxen/config.toml");
    assert!(
        std::fs::read_to_string(file)
            .unwrap()
            .contains("[pools.north]")
    );

    // A second pool, from the file of an earlier program, whose password was readable for everybody.
    let older = serde_json::json!({
        "xapi_url": format!("https://{host}"), "username": "root", "password": password,
        "template_name": "lua-bio-template", "ssh_user": "bioxen", "pool_uuid": "x",
        "save_credentials": true,
    });
    std::fs::write(folder.join("xcpng_config.json"), older.to_string()).unwrap();
    let west = ["--config", "mine.toml", "--pool", "west"];
    let import = ["config", "init", "--import", "xcpng_config.json"];
    let imported = [&import[..], &["--no-test", "--fingerprint", pin], &west];
    run(folder, &imported.concat());
    let file = std::fs::read_to_string(folder.join("mine.toml")).unwrap();
    assert!(
        file.contains("[pools.west]") && !file.contains(&password),
        "{file}"
    );
    let kept = folder.join("west.password").metadata().unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);

    // One that was written by hand, and trusts nobody yet.
    let (east, west_table) = file.split_once("[pools.west]").unwrap();
    let west_table = west_table.replace(&format!("tls = {{ fingerprint = \"{pin}\" }}\n"), "");
    let file = format!("{east}[pools.west]{west_table}");
    assert_eq!(file.matches(pin).count(), 1, "{file}");
    std::fs::write(folder.join("mine.toml"), file).unwrap();
    let ls = [&["ls"], &west[..]].concat();
    let untrusted = bioxen(folder, &ls).output().unwrap();
    assert!(String::from_utf8_lossy(&untrusted.stderr).contains(pin));
    run(
        folder,
        &[&["trust", "--fingerprint", pin], &west[..]].concat(),
    );
    run(folder, &ls);

    // A log for programs: an object to a line, and no password in it.
    let logged = run(folder, &[&["--log", "json", "-vv"], &ls[..]].concat());
    let log = String::from_utf8(logged.stderr).unwrap();
    assert!(!log.is_empty() && !log.contains(&password), "{log}");
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["message"].is_string(), "{line}");
    }
    end(pool, Signal::SIGINT);
}

#[test]
fn a_program_is_told_how_a_pool_is_reached_in_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut child = bioxen(folder, &["sim", "lab.toml", "--no-guests", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let pool = Served(child);
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let settings = std::fs::read_to_string(told["settings"].as_str().unwrap()).unwrap();
    for key in ["host", "fingerprint"] {
        let value = told[key].as_str().unwrap();
        assert!(settings.contains(value), "{key}: {settings}");
        assert!(key == "fingerprint" || told["url"].as_str().unwrap().ends_with(value));
    }
    assert_eq!(told["guests"], serde_json::json!([]));
    let control = std::fs::read_to_string(told["control"]["file"].as_str().unwrap()).unwrap();
    assert!(control.starts_with(told["control"]["url"].as_str().unwrap()));
    // The secrets stay in their files.
    let password = settings.lines().find(|line| line.starts_with("password"));
    let password = password.unwrap().split('"').nth(1).unwrap();
    assert!(!line.contains(password), "{line}");
    end(pool, Signal::SIGTERM);
    let mut more = String::new();
    said.read_to_string(&mut more).unwrap();
    assert_eq!(more, "");
}

#[test]
fn a_pool_without_guests_is_served_and_controlled_as_any() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(
        folder.join("model.toml"),
        "preset = \"pool-of-three\"\n[behaviour]\nguests = \"simulated\"\n",
    )
    .unwrap();
    for args in [
        &["--model", "model.toml"][..],
        &["--no-guests", "--hosts", "3"],
    ] {
        let mut child = bioxen(folder, &[&["sim", "lab.toml"], args].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said: Vec<_> = lines
            .map(Result::unwrap)
            .take_while(|line| !line.starts_with("ready"))
            .collect();
        let pool = Served(child);
        let after = |name: &str| {
            let line = said.iter().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        assert!(after("guests:").starts_with("none"), "{said:?}");
        let settings = std::fs::read_to_string(folder.join("lab.toml")).unwrap();
        assert!(!settings.contains("[xcpng.ssh]"), "{settings}");

        // The endpoint that it names is there, and asks for the token in the same file.
        let file = after("control:");
        let file = std::fs::read_to_string(file.rsplit(' ').next().unwrap()).unwrap();
        let (url, token) = file.trim().split_once('\n').unwrap();
        let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        let body = r#"{"host":"nobody"}"#;
        write!(
            stream,
            "POST /crash-host HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("xcp-ng, xcp-ng-2, xcp-ng-3"), "{answer}");
        end(pool, Signal::SIGTERM);
    }
}
