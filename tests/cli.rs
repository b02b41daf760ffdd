//! What a user of `bioxen run` sees: the program's own bytes and exit code, and for every wrong
//! input of the first screen one line that says what to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

use xapi_client::SecretString;
use xapi_sim::{GuestMode, Model, Server, Sim, SimOptions};

const PASSWORD: &str = "canary-of-the-pool";

fn bioxen(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
    command
        .args(args)
        .env("BIOXEN_XCPNG_PASSWORD", PASSWORD)
        .env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A pool whose VMs are records only, which is all that wrong input ever reaches.
struct Pool {
    sim: Sim,
    server: Server,
}

impl Pool {
    async fn start() -> Self {
        let options = SimOptions::default()
            .with_password(SecretString::from(PASSWORD.to_owned()))
            .with_guests(GuestMode::Simulated);
        let sim = Sim::start(Model::single_host(), options).await.unwrap();
        let server = sim
            .serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .unwrap();
        Self { sim, server }
    }

    /// Runs a program on the pool with these settings besides those that are right, and gives what
    /// was said on standard error.
    async fn refuses(&self, settings: &[&str]) -> String {
        let host = format!("xcpng_host={}", self.server.address());
        let pin = format!("tls.fingerprint={}", self.server.fingerprint().unwrap());
        let mut args = vec!["run", "--type", "xcpng", "-e", "print(1)"];
        for setting in [host.as_str(), pin.as_str(), "template=lua-bio-template"]
            .iter()
            .chain(settings)
        {
            args.extend(["--set", setting]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let before = self.vms().await;
        let output = tokio::task::spawn_blocking(move || {
            bioxen(&args.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
        .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert_eq!(stdout(&output), "");
        assert_eq!(said.lines().count(), 1, "more than one line:\n{said}");
        assert!(!said.contains(PASSWORD), "the password shows: {said}");
        assert_eq!(self.vms().await, before, "something was left in the pool");
        said
    }

    async fn vms(&self) -> usize {
        let client = xapi_client::Client::over(self.sim.transport())
            .credentials("root", SecretString::from(PASSWORD.to_owned()))
            .login()
            .await
            .unwrap();
        let vms = client.vm().get_all().await.unwrap().len();
        client.close().await.unwrap();
        vms
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_ends_in_one_line_with_the_remedy_and_leaves_nothing() {
    let pool = Pool::start().await;
    for (settings, parts) in [
        (
            &["template=lua-bio-templat"][..],
            &["lua-bio-templat", "lua-bio-template"][..],
        ),
        (&["memory=64MB"], &["lua-bio-template", "512"]),
        (
            &["network=LAN of my dreams"],
            &["LAN of my dreams", "Pool-wide network"],
        ),
        (&["password=wrong"], &["password", "root"]),
        (&["tls.fingerprint="], &["fingerprint"]),
        (&["template=Debian Bookworm 12"], &["Debian Bookworm 12"]),
        (&["memry=2GB"], &["memry", "memory"]),
        (&["memory=lots", "vcpus=0"], &["memory", "lots"]),
        (&["xcpng_host=127.0.0.1:9"], &["127.0.0.1", "9"]),
    ] {
        let said = pool.refuses(settings).await;
        for part in parts {
            assert!(
                said.contains(part),
                "{settings:?}: {part:?} is missing in: {said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_shows_the_fingerprint_to_compare() {
    let pool = Pool::start().await;
    let host = format!("xcpng_host={}", pool.server.address());
    let output = tokio::task::spawn_blocking(move || {
        bioxen(&[
            "run",
            "-t",
            "xcpng",
            "-e",
            "x=1",
            "-s",
            &host,
            "-s",
            "template=lua-bio-template",
        ])
    })
    .await
    .unwrap();
    let said = stderr(&output);
    let print = pool.server.fingerprint().unwrap().to_string();
    assert!(said.contains(&print), "{print} is missing in: {said}");
    assert!(
        said.contains("tls.fingerprint"),
        "the key to set is missing in: {said}"
    );
}

#[test]
fn a_command_for_which_no_pool_is_configured_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["ls"][..],
        &["create", "lab"],
        &["gc"],
        &["exec", "lab", "-e", "print(1)"],
        &["run", "--type", "xcpng", "-e", "print(1)"],
        &["template", "build"],
        &["template", "rm", "x"],
        &["doctor"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
            .args(args)
            .env("XDG_CONFIG_HOME", folder.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("no pool is configured"), "{args:?}: {said}");
        for remedy in ["bioxen sim", "bioxen config init", "--config"] {
            assert!(said.contains(remedy), "{args:?}: {said}");
        }
    }
}

#[test]
fn an_unknown_type_lists_those_of_this_build() {
    let output = bioxen(&["run", "-t", "qemu", "-e", "x=1"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(
        stderr(&output),
        "bioxen: unknown VM type \"qemu\"; types in this build: basic, xcpng\n"
    );
    assert_eq!(stdout(&bioxen(&["types"])), "basic\nxcpng\n");
}

#[test]
fn a_tree_that_is_not_there_has_no_rocks_to_look_after() {
    for command in ["list", "verify", "undo", "export"] {
        let output = bioxen(&["pkg", "--tree", "/nowhere/tree", command]);
        assert_eq!(output.status.code(), Some(125), "{command}");
        let said = stderr(&output);
        assert!(said.contains("there is no tree /nowhere/tree"), "{said}");
    }
}

#[test]
fn shells_get_a_script_that_completes_commands_and_options() {
    for (shell, known) in [
        ("bash", "complete -F _bioxen"),
        ("zsh", "#compdef bioxen"),
        ("fish", "complete -c bioxen"),
    ] {
        let output = bioxen(&["completions", shell]);
        assert!(output.status.success());
        assert!(stdout(&output).contains(known), "{shell}");
        assert!(stdout(&output).contains("snapshot"), "{shell}");
    }
}

#[test]
fn a_program_speaks_for_itself() {
    let output = bioxen(&[
        "run",
        "-e",
        "io.write('\\255 ', ...) io.stderr:write('e') os.exit(7)",
        "a b",
    ]);
    assert_eq!(output.stdout, b"\xff a b");
    assert_eq!(output.stderr, b"e");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_program_in_a_file_gets_arguments_and_standard_input() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"print(arg[1], arg[2], io.read('a'))")
        .unwrap();
    let path = file.path().to_str().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["run", "--stdin", "-", path, "-n", "--flag"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b">seq\nACGT")
        .unwrap();
    assert_eq!(
        stdout(&child.wait_with_output().unwrap()),
        "-n\t--flag\t>seq\nACGT\n"
    );
}

#[test]
fn a_program_may_come_over_standard_input_and_then_reads_nothing() {
    let mut data = tempfile::NamedTempFile::new().unwrap();
    data.write_all(b"ACGT").unwrap();
    let data = data.path().to_str().unwrap();
    for (options, read) in [(&[][..], ""), (&["--stdin", data][..], "ACGT")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
            .arg("run")
            .args(options)
            .args(["-", "first"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let program = b"print(arg[0], arg[1], io.read('a'))\nerror('here')";
        child.stdin.take().unwrap().write_all(program).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(stdout(&output), format!("stdin\tfirst\t{read}\n"));
        assert!(stderr(&output).contains("stdin:2: here"), "{output:?}");
    }
}

#[test]
fn a_program_that_lacks_a_rock_or_a_file_is_followed_by_what_gives_it() {
    let error = stderr(&bioxen(&["run", "-e", "require 'no_such.module'"]));
    assert!(error.contains("`--package ROCK`"), "{error}");
    assert!(error.contains("bioxen pkg search no_such`"), "{error}");
    let error = stderr(&bioxen(&["run", "-e", "require 'bio-compute'"]));
    let last = error.lines().last().unwrap();
    assert!(last.contains("did you mean bio_compute"), "{error}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let counts = "print(#io.open((...)):read('a'))";
    let output = bioxen(&["run", "-e", counts, path]);
    let error = stderr(&output);
    for remedy in ["--put", "--stdin"] {
        assert!(error.contains(&format!("`{remedy} {path}`")), "{error}");
    }
    assert_eq!(output.status.code(), Some(1));
    // The hint works.
    let read = format!("read=[\"{path}\"]");
    assert!(
        error.contains(&format!("--set 'read=[\"{path}\"]'")),
        "{error}"
    );
    assert_eq!(
        stdout(&bioxen(&["run", "--set", &read, "-e", counts, path])),
        "0\n"
    );

    // One that fails for something else, or has dealt with it, is left alone.
    for code in ["error('mine')", "print(pcall(require, 'no_such'))"] {
        let error = stderr(&bioxen(&["run", "-e", code, "no-such-file"]));
        assert!(!error.contains("hint"), "{error}");
    }
}

#[test]
fn arguments_that_begin_with_a_dash_go_behind_two_after_a_text() {
    let error = stderr(&bioxen(&["run", "-e", "print(...)", "-x"]));
    assert!(error.contains("'-- -x'"), "{error}");
    let output = bioxen(&["run", "-e", "print(...)", "--", "-x", "y"]);
    assert_eq!(stdout(&output), "-x\ty\n");
}

#[test]
fn a_text_may_begin_with_a_comment_or_anything_else() {
    for (code, printed) in [
        ("-- just a comment", ""),
        ("-- c\nprint(1)", "1\n"),
        ("--[[x]] print(1)", "1\n"),
        ("--timeout", ""),
        ("--", ""),
    ] {
        for option in ["-e", "--execute"] {
            let output = bioxen(&["run", option, code]);
            assert_eq!(output.status.code(), Some(0), "{code}: {}", stderr(&output));
            assert_eq!(stdout(&output), printed, "{code}");
        }
    }
    // Lua itself says what is wrong with a text, not the command line.
    let output = bioxen(&["run", "-e", "-1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("lua: "), "{}", stderr(&output));
}

#[test]
fn arguments_and_texts_are_any_bytes() {
    let bytes = OsStr::from_bytes(b"a\xff\xfe");
    let text = OsStr::from_bytes(b"io.write((...)) return '\xff'");
    for rest in [[OsStr::new("io.write((...))"), bytes], [text, bytes]] {
        let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
            .args(["run", "-e"])
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"a\xff\xfe", "{}", stderr(&output));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(OsStr::from_bytes(b"\xff.lua"));
    std::fs::write(&file, "print(#arg[1])").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .arg("run")
        .args([file.as_os_str(), bytes])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "3\n", "{}", stderr(&output));
}

#[test]
fn output_and_input_pass_while_the_program_runs() {
    let code = "io.write('ready\\n') io.flush() print(io.read('l')) os.exit(3)";
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["run", "-e", code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    input.write_all(b"ACGT\n").unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ACGT\n");
    // The input is still open: a program that has ended waits for no more of it.
    assert_eq!(child.wait().unwrap().code(), Some(3));
    drop(input);
}

#[test]
fn output_of_any_length_comes_whole() {
    let code = "local s = ('x'):rep(1024 * 1024) for _ = 1, 40 do io.write(s) end";
    let output = bioxen(&["run", "-e", code]);
    assert_eq!(output.stdout.len(), 40 * 1024 * 1024);
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn a_reader_that_goes_ends_an_endless_program_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["run", "-e", "while true do print('x') end"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut first).unwrap();
    drop(output);
    let output = child.wait_with_output().unwrap();
    assert_eq!(&first, b"x\n");
    // As of a program that SIGPIPE ended.
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(141), String::new())
    );
}

#[test]
fn a_folder_is_no_standard_input() {
    let output = bioxen(&["run", "--stdin", "/", "-e", "print(1)"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(
        stderr(&output),
        "bioxen: cannot read /: it is a directory\n"
    );
}

#[test]
fn a_program_that_runs_out_of_time_ends_like_timeout_does() {
    for limit in ["0.2", "200ms"] {
        let output = bioxen(&["run", "--timeout", limit, "-e", "while true do end"]);
        assert_eq!(output.status.code(), Some(124));
        assert_eq!(
            stderr(&output),
            "bioxen: warning: the program ran out of time and was ended\n"
        );
    }
    let output = bioxen(&["run", "--timeout", "soon", "-e", "print(1)"]);
    assert!(stderr(&output).contains("write for example 500ms"));
}

#[test]
fn a_program_that_runs_out_of_memory_ends_with_a_code_of_its_own() {
    let code = "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1024) .. i end";
    for lua in [&[][..], &["--set", "lua_executable=lua5.4"]] {
        let args = [&["run", "--set", "memory=32MB"], lua, &["-e", code]].concat();
        let output = bioxen(&args);
        assert_eq!(output.status.code(), Some(123), "{output:?}");
        assert_eq!(
            stderr(&output),
            "lua: not enough memory\nbioxen: warning: the program ran out of memory\n"
        );
    }
    let help = stdout(&bioxen(&["run", "--help"]));
    assert!(help.contains("123 when it was out of memory"), "{help}");
}

#[test]
fn a_trusted_program_runs_in_a_thread_and_its_exit_is_not_ours() {
    let code = "print(...) pcall(os.exit, 7) print('not this')";
    let output = bioxen(&["run", "--set", "in_process=true", "-e", code, "x"]);
    assert_eq!(
        (stdout(&output), output.status.code()),
        ("x\n".into(), Some(7))
    );
}

#[test]
fn a_program_that_runs_out_of_processor_time_ends_as_by_its_signal() {
    let output = bioxen(&["run", "--set", "cpu_time=1s", "-e", "while true do end"]);
    assert_eq!(output.status.code(), Some(152), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_tells_what_it_would_remove_and_removes_it() {
    let pool = Pool::start().await;
    let client = xapi_client::Client::over(pool.sim.transport())
        .credentials("root", SecretString::from(PASSWORD.to_owned()))
        .login()
        .await
        .unwrap();
    let template = client.vm().get_by_name_label("lua-bio-template").await;
    let name = "bioxen-unfinished-0123456789abcdef-1-0-run";
    let left = client
        .vm()
        .clone(&template.unwrap()[0], name)
        .await
        .unwrap();
    let host = format!("xcpng_host={}", pool.server.address());
    let pin = format!("tls.fingerprint={}", pool.server.fingerprint().unwrap());
    let settings = ["-s", &host, "-s", &pin, "-s", "template=lua-bio-template"];
    let gc = |more: &'static str| {
        let args: Vec<String> = ["gc"]
            .iter()
            .chain(&settings)
            .map(|arg| (*arg).to_owned())
            .collect();
        async move {
            let run = move || {
                let args = args
                    .iter()
                    .map(String::as_str)
                    .chain((!more.is_empty()).then_some(more));
                bioxen(&args.collect::<Vec<_>>())
            };
            tokio::task::spawn_blocking(run).await.unwrap()
        }
    };
    let told = gc("--dry-run").await;
    assert!(
        stdout(&told).starts_with(&format!("would remove VM {name} (")),
        "{told:?}"
    );
    assert!(client.vm().get_uuid(&left).await.is_ok());
    let removed = gc("--json").await;
    let one: serde_json::Value = serde_json::from_str(&stdout(&removed)).unwrap();
    assert_eq!(
        (&one["kind"], &one["problem"]),
        (&"vm".into(), &serde_json::Value::Null)
    );
    assert!(client.vm().get_uuid(&left).await.is_err());
    assert_eq!(stdout(&gc("").await), "nothing is left on the pool\n");
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_each_check_and_ends_with_what_it_found() {
    let pool = Pool::start().await;
    let host = format!("xcpng_host={}", pool.server.address());
    let pin = format!("tls.fingerprint={}", pool.server.fingerprint().unwrap());
    let network = "network=Pool-wide network associated with eth0";
    let doctor = |more: &'static [&'static str]| {
        let mut args: Vec<String> = ["doctor", "--no-vm", "-s", network, "-s"]
            .map(str::to_owned)
            .into();
        args.extend([host.clone(), "-s".to_owned(), pin.clone()]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        async move {
            let run = move || bioxen(&args.iter().map(String::as_str).collect::<Vec<_>>());
            tokio::task::spawn_blocking(run).await.unwrap()
        }
    };
    let output = doctor(&["-s", "template=lua-bio-template"]).await;
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
    assert!(
        said.contains("good     template: \"lua-bio-template\""),
        "{said}"
    );
    assert!(
        said.ends_with("nothing is wrong, 12 not looked at\n"),
        "{said}"
    );

    let output = doctor(&["--json", "-s", "template=lua", "-s", "memory=2GB"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    let findings: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let verdict = |code: &str| {
        let found = findings.iter().find(|finding| finding["code"] == code);
        found.unwrap()["verdict"].clone()
    };
    assert_eq!(verdict("template"), "failed");
    assert_eq!(verdict("memory"), "good");
    assert_eq!(verdict("ssh"), "skipped");

    // A wrong configuration is a finding too, with where it comes from.
    let output = doctor(&["-s", "memroy=2GB"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("failed   config: --set: memroy: unknown key"),
        "{said}"
    );
    assert!(said.contains("template is missing"), "{said}");
}

#[test]
fn the_configuration_is_shown_with_its_origins_and_checked_with_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.toml");
    let shown = path.display();
    // What it has is looked at when it is used.
    std::fs::write(dir.path().join("ca.pem"), "").unwrap();
    std::fs::write(
        &path,
        "[xcpng]\nxcp_host = 'pool'\ntemplate = 'lua'\npassword_command = ['pass', 'sekrit']\n\
         tls.ca_file = 'ca.pem'\n[basic]\nmemory = '1GB'\n",
    )
    .unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
        command
            .args(args)
            .env("BIOXEN_CONFIG", &path)
            .env("BIOXEN_XCPNG_VCPUS", "2")
            .env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
        command.output().unwrap()
    };
    let mut show = vec!["config", "show", "-t", "xcpng", "-s", "ssh.user=bio"];
    // A key of an older library, which we do not know and do not show either.
    show.extend(["-s", "vm_password=sekrit"]);
    let output = run(&show);
    let said = stdout(&output);
    let folder = dir.path().display();
    for line in [
        "[xcpng]".to_owned(),
        format!("xcpng_host = \"pool\"  # {shown} line 2"),
        format!("password_command = [\"pass\", (not shown)]  # {shown} line 4"),
        format!("tls.ca_file = \"{folder}/ca.pem\"  # {shown} line 5"),
        "vcpus = 2  # variable BIOXEN_XCPNG_VCPUS".to_owned(),
        "vm_password = (not shown)  # --set".to_owned(),
        "ssh.user = \"bio\"  # --set".to_owned(),
    ] {
        assert!(
            said.lines().any(|one| one == line),
            "{line}\nis not in\n{said}"
        );
    }
    assert!(!said.contains("sekrit"), "{said}");
    assert_eq!(
        stderr(&output),
        format!("bioxen: warning: {shown} line 2: xcp_host is an older name; write xcpng_host\n")
    );
    let output = run(&["config", "check"]);
    assert_eq!(
        (output.status.code(), &*stdout(&output)),
        (Some(0), "nothing is wrong\n")
    );

    std::fs::write(
        &path,
        "[xcpng]\ntemplat = 'lua'\n\n[basic]\nmemory = 'lots'\n",
    )
    .unwrap();
    let output = run(&["config", "check"]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        format!("[basic] {shown} line 5: memory: "),
        format!(
            "[xcpng] {shown} line 2: templat: unknown key \"templat\"; did you mean \"template\"?"
        ),
        "[xcpng] the password is missing".to_owned(),
    ] {
        assert!(
            said.lines().any(|one| one.starts_with(&line)),
            "{line}\nis not in\n{said}"
        );
    }
}

#[test]
fn files_and_folders_go_into_the_vm_and_come_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("genome.fa"), ">x\nACGT\n").unwrap();
    std::fs::create_dir(at("data")).unwrap();
    std::fs::write(at("data/k"), "21").unwrap();
    let code = "local f = io.open('out/result', 'w') or os.exit(9) \
                f:write(io.open('genome.fa'):read('a'), io.open('data/k'):read('a'))";
    let output = bioxen(&[
        "run",
        "--put",
        &at("genome.fa"),
        "--put",
        &at("data"),
        "--put",
        &format!("{}:out", at("data")),
        "--get",
        &format!("out:{}", at("back")),
        "-e",
        code,
    ]);
    assert!(output.status.success(), "{output:?}");
    let result = std::fs::read_to_string(at("back/result")).unwrap();
    assert_eq!(result, ">x\nACGT\n21");
}

#[test]
fn in_a_log_of_json_errors_and_warnings_are_objects_too() {
    for (args, level, part) in [
        (&["run", "no.lua"][..], "ERROR", "no.lua"),
        (
            &["run", "--timeout", "0.1", "-e", "while true do end"],
            "WARN",
            "out of time",
        ),
    ] {
        let output = bioxen(&[&["--log", "json"], args].concat());
        let said = stderr(&output);
        let lines: Vec<serde_json::Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 1, "{said}");
        assert_eq!(lines[0]["level"], level);
        assert!(
            lines[0]["message"].as_str().unwrap().contains(part),
            "{said}"
        );
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}

#[test]
fn what_is_not_understood_has_our_exit_code_and_a_reader_that_has_gone_is_no_failure() {
    for (args, code) in [
        (&["run", "--nosuch"][..], 125),
        (&["create", "a b"], 125),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        assert_eq!(bioxen(args).status.code(), Some(code), "{args:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["completions", "bash"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(141), String::new())
    );
}
