//! The logs are those of Debian's LuaRocks 3.8.0, shortened.

use super::*;

fn diagnose(log: &str) -> Error {
    Attempt {
        machine: "this machine",
        tree: "/t",
        lua_version: "5.4",
        request: "alpha",
        servers: vec!["/srv/rocks".into()],
        free: None,
    }
    .failure(Log::new(log))
}

const NOT_FOUND: &str = "\nError: No results matching query were found for Lua 5.4.\n\
    To check if it is available for other Lua versions, use --check-lua-versions.\n";

#[test]
fn a_rock_that_does_not_exist_is_told_from_a_server_that_does_not_answer() {
    let error = diagnose(NOT_FOUND);
    assert_eq!(
        error.to_string(),
        "no rock alpha for Lua 5.4 on /srv/rocks; check the name and version, or add a server \
         that has it"
    );
    let error = diagnose(&format!(
        "Warning: Failed searching manifest: Failed downloading http://127.0.0.1:1/manifest-5.4 - \
         connection refused\n{NOT_FOUND}"
    ));
    assert_eq!(
        error.to_string(),
        "rock alpha was not found because http://127.0.0.1:1 could not be read (connection refused); \
         check the server and the machine's way to it"
    );
    let error = diagnose(&format!(
        "Warning: Failed searching manifest: Failed downloading http://a/b/manifest-5.4 - failed \
         downloading http://a/b/manifest-5.4\n{NOT_FOUND}"
    ));
    assert!(
        error
            .to_string()
            .contains("http://a/b could not be read (the download failed)"),
        "{error}"
    );
}

#[test]
fn what_a_rock_needs_is_named() {
    let error = diagnose(
        "Installing /srv/rocks/alpha-1.0-1.src.rock\n\nError: Could not satisfy dependency \
         nothere >= 2: No results matching query were found for Lua 5.4.\n",
    );
    assert!(
        matches!(&error, Error::MissingDependency { dependency, .. } if dependency == "nothere >= 2"),
        "{error}"
    );
    let error = diagnose(
        "\nError: Could not satisfy dependency lua ~> 5.1.0: Rock lua 5.4-1 is already provided \
         by VM or via 'rocks_provided' in the config file.\n",
    );
    assert!(
        matches!(&error, Error::WrongLua { needs, .. } if needs == "lua ~> 5.1.0"),
        "{error}"
    );
}

#[test]
fn what_a_machine_lacks_is_named_with_its_remedy() {
    for log in [
        "\nError: Failed finding Lua header files. You may need to install them or configure \
         LUA_INCDIR.\n",
        "Error: Build error: Lua header file lua.h not found (looked in /usr/include).\n",
        "alpha.c:1:10: fatal error: lua.h: No such file or directory\n",
    ] {
        let error = diagnose(log).to_string();
        assert!(error.contains("no headers of Lua 5.4"), "{error}");
        assert!(
            error.contains("apt-get install liblua5.4-dev gcc"),
            "{error}"
        );
    }
    for log in [
        "sh: 1: gcc: not found\n\nError: Build error: Failed compiling object a.o\n",
        "/bin/sh: line 1: gcc: command not found\n\nError: Build error: Failed compiling a.o\n",
    ] {
        let error = diagnose(log).to_string();
        assert!(error.contains("no \"gcc\""), "{error}");
    }
    let error = diagnose(
        "\nError: Failed unpacking rock file: /srv/a-1.0-1.src.rock: 'unzip -n' program not \
         found. Make sure unzip is installed\n",
    );
    assert!(
        matches!(&error, Error::MissingProgram { program, .. } if program == "unzip"),
        "{error}"
    );
    let error = diagnose("cp: error writing 'x': No space left on device\n\nError: Failed x\n");
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
}

#[test]
fn a_failed_build_gives_the_compilers_first_error() {
    let error = diagnose(
        "broken.c:1:9: error: expected expression before ';' token\n    1 | int x = ;\n\n\
         Error: Build error: Failed compiling object broken.o\n\nbroken 1.0-1 depends on lua\n",
    );
    assert_eq!(
        error.to_string(),
        "alpha could not be installed: Build error: Failed compiling object broken.o \
         (broken.c:1:9: error: expected expression before ';' token)"
    );
    assert!(error.log().unwrap().contains("int x = ;"));
    let error = diagnose("\nError: Could not find header file for ZLIB\n  No file zlib.h\n");
    assert!(
        error
            .to_string()
            .ends_with("Could not find header file for ZLIB"),
        "{error}"
    );
}

#[test]
fn a_removal_names_what_stands_in_its_way() {
    let attempt = || Attempt {
        machine: "this machine",
        tree: "/t",
        lua_version: "5.4",
        request: "beta",
        servers: Vec::new(),
        free: None,
    };
    let error = attempt().removal_failure(
        &BTreeSet::new(),
        Log::new(
            "Will not remove beta 1.0-1.\nRemoving it would break dependencies for: \nalpha 1.0-1\n\
         gamma 2-1\n\nUse --force to force removal (warning: this may break modules).\n\n\
         Error: Failed removing.\n",
        ),
    );
    assert!(
        matches!(&error, Error::StillNeeded { by, .. } if by == "alpha 1.0-1, gamma 2-1"),
        "{error}"
    );
    let error = attempt().removal_failure(
        &BTreeSet::new(),
        Log::new("\nError: Could not find rock 'beta' in /t\n"),
    );
    assert!(matches!(error, Error::NotInstalled { .. }), "{error}");
}

#[test]
fn a_disk_that_is_nearly_full_is_named_with_the_failure() {
    let failure = |free| {
        Attempt {
            machine: "this machine",
            tree: "/t",
            lua_version: "5.4",
            request: "big",
            servers: Vec::new(),
            free: Some(free),
        }
        .failure(Log::new(
            "\nError: Failed unpacking rock file: big-1.0-1.all.rock: failed extracting\n",
        ))
        .to_string()
    };
    assert!(failure(384).ends_with("; only 384 KiB are free for the tree, which may be the cause"));
    assert!(failure(1 << 20).ends_with("failed extracting"));
}
