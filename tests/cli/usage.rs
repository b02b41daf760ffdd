//! What all commands have in common: usage, configuration, logs.

use std::process::{Command, Stdio};

use super::{bioxen, stderr, stdout};

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
