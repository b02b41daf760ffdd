//! What people and scripts read of the program: help, tables, JSON and errors, as they were last looked
//! at. `make golden` writes the files anew; their difference is what a reviewer sees.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use xapi_client::{Client, SecretString};
use xapi_sim::{GuestMode, Model, NetworkSpec, SimOptions, SrSpec, TemplateSpec};

use support::{PASSWORD, Pool};

mod support;

/// With this in the environment, the files are written instead of compared.
const BLESS: &str = "BIOXEN_BLESS";

/// Compares a text with its file, line by line.
fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os(BLESS).is_some() {
        return fs::write(path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let differ = golden
        .lines()
        .zip(text.lines())
        .position(|(old, new)| old != new);
    let line = differ.unwrap_or_else(|| golden.lines().count().min(text.lines().count()));
    assert!(
        golden == text,
        "tests/golden/{name} differs from line {}:\n- {}\n+ {}\nIf that is meant, write it with `make golden`.",
        line + 1,
        golden.lines().nth(line).unwrap_or_default(),
        text.lines().nth(line).unwrap_or_default(),
    );
}

/// The help of a command, and of all commands below it.
fn help(path: &[String], text: &mut String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    // Help shows what variables hold.
    command.env_clear();
    let output = command
        .args(path)
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{path:?}: {output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = path.iter().map(|word| format!(" {word}")).collect();
    writeln!(text, "$ bioxen{} --help\n{}", words.concat(), told).unwrap();
    let below = told.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in below.take_while(|line| !line.is_empty()) {
        // A name stands two columns in; what is further in goes on with what a line above says.
        let name = line
            .strip_prefix("  ")
            .filter(|line| !line.starts_with(' '));
        if let Some(name) = name.and_then(|line| line.split_whitespace().next())
            && name != "help"
        {
            help(&[path, &[name.to_owned()]].concat(), text);
        }
    }
}

#[test]
fn help_of_all_commands() {
    let mut text = String::new();
    help(&[], &mut text);
    // A usage line is one that can be copied.
    let mut wide = text.lines().filter(|line| line.chars().count() > 80);
    let first = wide.find(|line| !line.starts_with("Usage: ") && !line.starts_with("$ "));
    assert_eq!(first, None, "wider than a terminal of 80 columns");
    compare("help.txt", &text);
}

/// The commands of which help tells, without the program's name, and what it tells.
fn commands() -> Vec<(Vec<String>, String)> {
    let mut text = String::new();
    help(&[], &mut text);
    let parts = text.split("$ bioxen").skip(1);
    let of = parts.map(|part| {
        let (head, told) = part.split_once("--help\n").unwrap();
        let words = head.split_whitespace().map(str::to_owned);
        (words.collect(), told.to_owned())
    });
    of.collect()
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let status = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["man", "--dir"])
        .arg(&pages)
        .status();
    assert!(status.unwrap().success());
    let commands = commands();
    assert!(commands.len() > 40, "{commands:?}");
    for (command, _) in commands {
        let name = [&["bioxen".to_owned()], &*command].concat();
        let page = fs::read_to_string(pages.join(format!("{}.1", name.join("-")))).unwrap();
        assert!(page.contains(".SH OPTIONS"), "{name:?}: {page}");
        // What is not ASCII needs an escape of roff.
        assert!(page.is_ascii(), "{name:?}: {page}");
        let synopsis = page.split(".SH SYNOPSIS").nth(1).unwrap();
        assert!(synopsis.contains(&name.join(" ")), "{name:?}: {page}");
        assert!(
            synopsis.contains("[\\-\\-config <FILE>]"),
            "{name:?}: {page}"
        );
    }
}

/// A pool of two hosts with a VM that is not ours and two networks that are.
async fn pool() -> Pool {
    let model = Model::new()
        .hosts(2)
        .sr(SrSpec::shared("disks"))
        .network(NetworkSpec::external("LAN", "eth0"))
        .network(NetworkSpec::external("storage", "eth1"))
        .template(TemplateSpec::with_guest("worker").vif("LAN"));
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let mut pool = Pool::of(model, options).await;
    // Nor do settings of whoever runs the tests count.
    let settings = pool.state.path().to_str().unwrap().to_owned();
    pool.env = vec![("XDG_CONFIG_HOME", settings)];
    let client = Client::over(pool.sim.transport())
        .credentials("root", SecretString::from(PASSWORD))
        .login()
        .await
        .unwrap();
    let api = client.vm();
    let template = api.get_by_name_label("worker").await.unwrap().remove(0);
    let vm = api.clone(&template, "reader").await.unwrap();
    api.provision(&vm).await.unwrap();
    client.close().await.unwrap();
    pool
}

/// What commands print and how they end, with what is another one each time named by its kind.
async fn session(pool: &Pool, commands: &[&[&str]]) -> String {
    let mut text = String::new();
    for args in commands {
        let output = pool.bioxen(args).await;
        let shown: Vec<_> = args.iter().map(|word| quoted(word)).collect();
        writeln!(text, "$ bioxen {}", shown.join(" ")).unwrap();
        text += &String::from_utf8(output.stdout).unwrap();
        text += &String::from_utf8(output.stderr).unwrap();
        if !output.status.success() {
            writeln!(text, "[exit code {}]", output.status.code().unwrap()).unwrap();
        }
        text.push('\n');
    }
    let fingerprint = pool.server.fingerprint().unwrap().to_string();
    without_ids(&text.replace(&fingerprint, "FINGERPRINT"))
        .replace(&pool.server.address().to_string(), "HOST")
        .replace(pool.state.path().to_str().unwrap(), "STATE")
}

fn quoted(word: &str) -> String {
    match word.contains(' ') {
        true => format!("'{word}'"),
        false => word.to_owned(),
    }
}

/// Names uuids and MAC addresses by their kind, and leaves the rest.
fn without_ids(text: &str) -> String {
    let is_part = |letter: char| letter.is_ascii_hexdigit() || letter == '-' || letter == ':';
    let mut clean = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|letter| !is_part(letter)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let hex = |part: &str, length| {
            part.len() == length && part.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        let parts: Vec<_> = word.split('-').collect();
        let is_uuid = matches!(parts.as_slice(), [a, b, c, d, e]
            if hex(a, 8) && hex(b, 4) && hex(c, 4) && hex(d, 4) && hex(e, 12));
        let is_mac = word.split(':').count() == 6 && word.split(':').all(|part| hex(part, 2));
        clean += before;
        clean += match (is_uuid, is_mac) {
            (true, _) => "UUID",
            (_, true) => "MAC",
            _ => word,
        };
        rest = after;
    }
    clean + rest
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_json() {
    let pool = pool().await;
    let cluster = [
        "net",
        "create",
        "cluster",
        "--vlan",
        "eth1:42",
        "--subnet",
        "10.9.0.0/24",
    ];
    let attach = [
        "net", "attach", "reader", "cluster", "--rate", "500", "--allow", "10.9.0.7",
    ];
    pool.bioxen(&cluster).await;
    pool.bioxen(&attach).await;
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["types"],
        vec!["ls"],
        vec!["net", "ls"],
        vec!["net", "show", "cluster"],
        vec!["net", "interfaces"],
        vec!["net", "bonds"],
        vec!["net", "nics", "reader"],
        vec!["net", "create", "lab", "--dry-run"],
        vec!["net", "move", "reader", "1", "storage"],
        vec!["net", "rm", "cluster"],
        vec!["info", "reader"],
        vec!["snapshot", "ls", "reader"],
        vec!["template", "ls"],
        vec!["doctor", "--no-vm", "--set", "template=worker"],
        vec!["gc"],
    ];
    let plain: Vec<_> = commands.iter().map(Vec::as_slice).collect();
    let tables = session(&pool, &plain).await;
    pool.bioxen(&cluster).await;
    for command in &mut commands {
        command.push("--json");
    }
    let json: Vec<_> = commands.iter().map(Vec::as_slice).collect();
    let json = session(&pool, &json).await;
    pool.server.shutdown().await;
    pool.sim.shutdown().await;
    compare("tables.txt", &tables);
    compare("json.txt", &json);
}

/// Commands that leave standard output to programs, people and shells.
const WITHOUT_JSON: [&str; 5] = ["completions", "exec", "man", "run", "shell"];

#[test]
fn every_command_with_a_result_prints_it_as_json_and_is_in_the_page_on_that() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let page = fs::read_to_string(page).unwrap();
    // Every second part stands between backticks.
    let named: Vec<_> = page.split('`').skip(1).step_by(2).collect();
    let (_, packages) = page.split_once("## Packages").unwrap();
    let (packages, _) = packages.split_once("\n## ").unwrap();
    for (command, told) in commands() {
        if told.contains("\nCommands:\n") {
            continue;
        }
        let name = command.join(" ");
        let has_json = told.contains(" --json");
        assert_ne!(has_json, WITHOUT_JSON.contains(&name.as_str()), "{name}");
        let is_named = match name.strip_prefix("pkg ") {
            Some(name) => packages.contains(&format!("`{name}`")),
            None => named
                .iter()
                .any(|code| *code == name || code.starts_with(&format!("{name} "))),
        };
        assert!(is_named, "docs/json.md says nothing of {name}");
    }
}

/// The names of the fields of a JSON value and of all that it holds.
fn keys(value: &serde_json::Value, all: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                all.insert(key.clone());
                keys(value, all);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, all)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_json_is_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = fs::read_to_string(folder.join("tests/golden/json.txt")).unwrap();
    let page = fs::read_to_string(folder.join("docs/json.md")).unwrap();
    let words: BTreeSet<_> = page
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .collect();
    let mut printed = BTreeSet::new();
    for line in golden.lines().filter(|line| line.starts_with('{')) {
        keys(&serde_json::from_str(line).unwrap(), &mut printed);
    }
    assert!(printed.len() > 40, "{printed:?}");
    // Those of the networks and interfaces that are wanted are in the page on them.
    let spec = fs::read_to_string(folder.join("docs/networks.md")).unwrap();
    let missing: Vec<_> = printed
        .iter()
        .filter(|key| !words.contains(key.as_str()) && !spec.contains(&format!("`{key}`")))
        .collect();
    assert!(missing.is_empty(), "docs/json.md lacks {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors() {
    let pool = pool().await;
    let run = ["run", "--type", "xcpng", "-e", "print(1)"];
    let of = |more: &[&'static str]| [&run[..], more].concat();
    let commands = [
        vec!["run"],
        vec!["run", "missing.lua"],
        vec!["run", "-e", "error('no')"],
        vec!["run", "--stdin", "-", "-"],
        vec!["run", "--tree", "nowhere", "-e", "print(1)"],
        vec!["run", "--type", "docker", "-e", "print(1)"],
        of(&[]),
        of(&["--set", "template=worcer"]),
        of(&["--set", "template=worker", "--set", "network=WAN"]),
        of(&["--set", "template=worker", "--set", "memroy=1GB"]),
        of(&[
            "--set",
            "template=worker",
            "--set",
            "xcpng_host=127.0.0.1:1",
        ]),
        of(&["--set", "template=worker", "--tree", "nowhere"]),
        vec!["create", "lab", "--type", "basic"],
        vec!["ls", "--set", "username=nobody"],
        vec!["ls", "--set", "tls.fingerprint=00"],
        vec!["info", "nobody"],
        vec!["destroy", "reader"],
        vec!["snapshot", "rm", "reader", "none"],
        vec!["net", "show", "WAN"],
        vec!["net", "rm", "LAN"],
        vec!["net", "create", "LAN", "--vlan", "eth7:5000", "--mtu", "20"],
        vec![
            "net",
            "attach",
            "reader",
            "LAN",
            "--device",
            "0",
            "--mac",
            "01:00:00:00:00:01",
        ],
        vec!["net", "detach", "reader", "7"],
        vec!["net", "isolate", "lab", "a", "--set", "template=worker"],
        vec!["pkg", "frobnicate"],
    ];
    let commands: Vec<_> = commands.iter().map(Vec::as_slice).collect();
    let told = session(&pool, &commands).await;
    pool.server.shutdown().await;
    pool.sim.shutdown().await;
    compare("errors.txt", &told);
}
