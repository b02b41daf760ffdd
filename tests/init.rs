//! How the settings of a pool come into being: what `config init` and `trust` ask, try and write.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use xapi_sim::{GuestMode, LUA_TEMPLATE, Model, SimOptions};

use support::{PASSWORD, Pool};

mod support;

/// A pool whose VMs are records only.
async fn pool() -> Pool {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    Pool::of(Model::single_host(), options).await
}

fn text(stream: &[u8]) -> String {
    String::from_utf8(stream.to_vec()).unwrap()
}

/// The arguments of `config init` for a pool, with its password in a file.
fn init_of(pool: &Pool, file: &Path) -> Vec<String> {
    let secret = pool.state.path().join("secret");
    fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let (host, pin) = (pool.server.address(), pool.server.fingerprint().unwrap());
    let args = format!("config init --host {host} --fingerprint {pin} --template {LUA_TEMPLATE}");
    let mut args: Vec<_> = args.split(' ').map(str::to_owned).collect();
    for (option, path) in [("--config", file), ("--password-file", &secret)] {
        args.extend([option.to_owned(), path.to_str().unwrap().to_owned()]);
    }
    args
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_be_used_is_not_written_and_set_up_may_be_repeated() {
    let pool = pool().await;
    let file = pool.state.path().join("pool.toml");
    let init = init_of(&pool, &file);
    let init = words(&init);
    let wrong = pool.state.path().join("wrong");
    fs::write(&wrong, "wrong\n").unwrap();
    let password = ["--password-file", wrong.to_str().unwrap()];
    let mut denied = init.clone();
    let at = denied
        .iter()
        .position(|word| *word == "--password-file")
        .unwrap();
    denied.splice(at..at + 2, password);
    let mut no_template = init.clone();
    let at = no_template
        .iter()
        .position(|word| *word == LUA_TEMPLATE)
        .unwrap();
    no_template[at] = "nosuch";
    for (args, failed) in [
        (denied, "failed   login"),
        (no_template, "failed   template"),
    ] {
        let output = pool.bioxen(&args).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stdout);
        assert!(said.contains(failed), "{said}");
        assert!(text(&output.stderr).contains("nothing was written"));
        assert!(!file.exists());
    }
    // With JSON, what was found and what was written, and nothing else.
    let told = pool.json(&init).await;
    let (written, findings) = told.split_last().unwrap();
    assert!(
        findings.iter().all(|finding| finding["code"].is_string()),
        "{findings:?}"
    );
    let pin = pool.server.fingerprint().unwrap().to_string();
    assert_eq!(
        *written,
        json!({
            "file": file.to_str(), "table": "xcpng", "password_file": null, "fingerprint": pin,
            "tested": true,
        })
    );
    let said = pool.refused(&init).await;
    assert!(said.contains("replace it with --force"), "{said}");
    let mut edited = fs::read_to_string(&file).unwrap();
    edited.insert_str(0, "# mine\n[basic]\nmemory = '1GB'\n\n# of the lab\n");
    edited += "memory = '2GB'\n\n[pools.other]\nxcpng_host = 'other'\n";
    fs::write(&file, edited).unwrap();
    pool.says(&[&init[..], &["--force", "--ssh-user", "bio"]].concat())
        .await;
    let replaced = fs::read_to_string(&file).unwrap();
    for kept in [
        "# mine\n[basic]",
        "# of the lab\n[xcpng]",
        "[pools.other]",
        "user = \"bio\"",
    ] {
        assert!(replaced.contains(kept), "{kept} is not in {replaced}");
    }
    assert!(!replaced.contains("2GB"), "{replaced}");
    assert!(
        replaced.find("[xcpng]") < replaced.find("[pools.other]"),
        "{replaced}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settings_file_stays_what_it_is_and_where_it_is() {
    let pool = pool().await;
    let folder = pool.state.path();
    fs::create_dir(folder.join("real")).unwrap();
    let (link, real) = (folder.join("pool.toml"), folder.join("real/pool.toml"));
    std::os::unix::fs::symlink("real/pool.toml", &link).unwrap();
    let mode = |file: &Path| file.metadata().unwrap().permissions().mode() & 0o777;
    let init = init_of(&pool, &link);
    let init = [&words(&init)[..], &["--no-test", "--force"]].concat();
    let pin = pool.server.fingerprint().unwrap().to_string();
    let trust = [
        "trust",
        "--fingerprint",
        &pin,
        "--config",
        link.to_str().unwrap(),
    ];
    // One that is not there yet, one that others may read, one that they must not.
    for (before, is_shared) in [
        (None, false),
        (Some("[basic]\n"), true),
        (Some("[pools.a]\npassword = 'x'\n"), false),
    ] {
        if let Some(text) = before {
            fs::write(&real, text).unwrap();
            fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
        }
        pool.says(&init).await;
        assert!(link.is_symlink());
        assert_eq!(mode(&real), if is_shared { 0o644 } else { 0o600 });
        pool.says(&trust).await;
        assert!(link.is_symlink());
        let written = fs::read_to_string(&real).unwrap();
        assert!(
            written.starts_with(before.unwrap_or("[xcpng]")),
            "{written}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_earlier_programs_give_settings_that_can_be_used() {
    let pool = pool().await;
    let folder = pool.state.path();
    let (host, pin) = (
        pool.server.address().to_string(),
        pool.server.fingerprint().unwrap(),
    );
    let one = json!({
        "xapi_url": format!("https://{host}"), "username": "root", "password": PASSWORD,
        "pool_uuid": "", "template_name": LUA_TEMPLATE, "vm_name_prefix": "bioxen-",
        "network_uuid": "", "storage_repository": "Local storage", "ssh_user": "root",
        "ssh_key_path": "~/.ssh/id_rsa", "save_credentials": true, "memory": 1_073_741_824,
        "vcpus": 4,
    });
    let several = json!({
        "vm_defaults": {"profile": "standard", "networked": false},
        "xcpng_configs": {format!("https://{host}"): one, format!("https://{host}0"): {}},
    });
    fs::write(folder.join("xcpng_config.json"), one.to_string()).unwrap();
    fs::write(folder.join("bioxen_config.json"), several.to_string()).unwrap();
    let pin = pin.to_string();
    for (settings, older, more) in [
        ("one.toml", "xcpng_config.json", &[][..]),
        ("two.toml", "bioxen_config.json", &["--host", &host]),
    ] {
        // Under one name in the same folder, which has one password file then, and a second.
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (settings, older) = (path(settings), path(older));
        let mine = ["--config", &settings, "--pool", "lab"];
        let init = [
            "config",
            "init",
            "--no-test",
            "--fingerprint",
            &pin,
            "--import",
            &older,
        ];
        let output = pool.bioxen(&[&init[..], &mine, more].concat()).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        for told in [
            "storage_repository needs full copies",
            "ssh_key_path is not taken over",
        ] {
            assert!(said.contains(told), "{said}");
        }
        for (key, is_told) in [
            ("vcpus", false),
            ("memory", false),
            ("save_credentials", false),
        ] {
            assert_eq!(said.contains(key), is_told, "{key}: {said}");
        }
        let check = pool.says(&[&["config", "check"][..], &mine].concat()).await;
        assert_eq!(check, "nothing is wrong\n");
        let written = fs::read_to_string(&settings).unwrap();
        for line in [
            "sr = \"Local storage\"",
            "clone = \"copy\"",
            "memory = 1073741824",
            "vcpus = 4",
        ] {
            assert!(written.contains(line), "{line} is not in {written}");
        }
        assert!(!written.contains(PASSWORD), "{written}");
    }
    for name in ["lab.password", "lab-2.password"] {
        assert_eq!(
            fs::read_to_string(folder.join(name)).unwrap(),
            format!("{PASSWORD}\n")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_from_a_pipe_is_kept_and_trust_is_told_as_json() {
    let pool = pool().await;
    let file = pool.state.path().join("pool.toml");
    let mut init = init_of(&pool, &file);
    let at = init
        .iter()
        .position(|word| word == "--password-file")
        .unwrap();
    init.drain(at..at + 2);
    let bash = format!(
        "{} {} --no-test --password-file <(echo {PASSWORD})",
        env!("CARGO_BIN_EXE_bioxen"),
        init.join(" ").replace(LUA_TEMPLATE, "x"),
    );
    let mut command = Command::new("bash");
    let output = command.args(["-c", &bash]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(
        written.contains("password_file = \"pool.password\""),
        "{written}"
    );
    let kept = fs::read_to_string(file.with_extension("password")).unwrap();
    assert_eq!(kept, format!("{PASSWORD}\n"));

    let pin = pool.server.fingerprint().unwrap().to_string();
    let host = pool.server.address().to_string();
    let mine = ["trust", &host, "--config", file.to_str().unwrap()];
    let trusted = json!({"host": host, "fingerprint": pin, "trusted": true, "file": file.to_str()});
    // The pool's own variables outweigh the file, and name the same certificate.
    let by_variable = json!({"host": host, "fingerprint": pin, "trusted": true, "file": null});
    assert_eq!(pool.json(&mine).await, [by_variable]);
    let alone = |mut command: Command| {
        let output = command
            .env_remove("BIOXEN_XCPNG_TLS__FINGERPRINT")
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let by_itself = [&mine[..], &["--json"]].concat();
    assert_eq!(alone(pool.command(&by_itself)), trusted);
    let wrong = if pin.starts_with("00") { "11" } else { "00" };
    let other = format!("{wrong}{}", &pin[2..]);
    fs::write(&file, written.replace(&pin, &other)).unwrap();
    let shown = json!({"host": host, "fingerprint": pin, "trusted": false, "file": null});
    assert_eq!(alone(pool.command(&by_itself)), shown);
    let trust = [&mine[..], &["--fingerprint", &pin]].concat();
    assert_eq!(pool.json(&trust).await, [trusted]);
}
