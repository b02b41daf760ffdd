//! The Lua rocks: their own specs on every Lua, and their figures against independent tools.
//!
//! The tools are Debian packages; one that is missing fails the test with the command that
//! installs it. Biopython is what `make test-tools` installs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod annotations;
mod computing;
mod orfs_and_kmers;
mod reads;
mod tools;

use std::collections::BTreeSet;
use std::fs;

use tools::{INTERPRETERS, lua, output_of, root, run};

#[test]
fn specs_pass_on_every_lua() {
    let mut run_specs = 0;
    for rock in ["bio_compute", "bio_sequence_analysis"] {
        for entry in fs::read_dir(root().join("rocks").join(rock).join("spec")).unwrap() {
            let spec = entry.unwrap().path();
            for (program, package) in INTERPRETERS {
                let report = run(lua(program).arg(&spec), package);
                assert!(
                    report.contains(" passed, 0 failed"),
                    "{program} {spec:?}: {report}"
                );
            }
            if let Some(output) = output_of(lua("lua5.2").arg(&spec)) {
                assert!(output.status.success(), "lua5.2 {spec:?}: {output:?}");
            }
            run_specs += 1;
        }
    }
    assert_eq!(run_specs, 5);
}

/// The page of all functions is what the comments in the sources give.
#[test]
fn every_function_is_documented() {
    let reference = root().join("rocks/reference.lua");
    run(lua("lua5.4").arg(reference).arg("--check"), "lua5.4");
}

/// A rock has every module of its folder, and no other.
#[test]
fn rockspecs_list_all_modules() {
    for rock in ["bio_compute", "bio_sequence_analysis"] {
        let folder = root().join("rocks").join(rock);
        let rockspec = fs::read_to_string(folder.join(format!("{rock}-0.1.0-1.rockspec"))).unwrap();
        let listed: BTreeSet<String> = rockspec
            .lines()
            .filter_map(|line| line.trim().strip_prefix("[\""))
            .map(|line| line.split_once("\"] = \"src/").unwrap())
            .map(|(module, file)| {
                assert_eq!(format!("{}.lua\",", module.replace('.', "/")), file);
                module.to_owned()
            })
            .collect();
        let there: BTreeSet<String> = fs::read_dir(folder.join("src").join(rock))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| format!("{rock}.{}", path.file_stem().unwrap().to_str().unwrap()))
            .chain([rock.to_owned()])
            .collect();
        assert_eq!(listed, there, "{rock}");
    }
}
