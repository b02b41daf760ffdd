//! GenBank and EMBL beside Biopython, on the files of its own tests; GFF3 beside gffutils.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tools::{INTERPRETERS, biopython_file, lua_script, python, root};

/// Files that both read. Biopython itself fails on others, as with features on other sequences.
const GENBANK: [&str; 8] = [
    "NC_000932.gb",
    "NC_005816.gb",
    "arab1.gb",
    "cor6_6.gb",
    "protein_refseq2.gb",
    "bad_origin_wrap_fuzzy.gb",
    "gbvrl1_start.seq",
    "qualifier_escaping_write.gb",
];
const EMBL: [&str; 6] = [
    "AE017046.embl",
    "SC10H5.embl",
    "TRBG361.embl",
    "U87107.embl",
    "location_wrap.embl",
    "epo_prt_selection.embl",
];

/// Ids, descriptions, features with all qualifiers and their sequences.
#[test]
fn flat_files_read_as_biopython_reads_them() {
    for (format, folder, names) in [
        ("genbank", "GenBank", &GENBANK[..]),
        ("embl", "EMBL", &EMBL[..]),
    ] {
        let files: Vec<_> = names
            .iter()
            .map(|name| biopython_file(folder).join(name))
            .collect();
        let mut arguments = vec![Path::new(format)];
        arguments.extend(files.iter().map(PathBuf::as_path));
        let expected = python("annotations.py", &arguments);
        assert!(
            expected.lines().count() > 300,
            "{format}: too little to mean anything"
        );
        let arguments: Vec<&str> = ["show"]
            .into_iter()
            .chain(arguments.iter().map(|argument| argument.to_str().unwrap()))
            .collect();
        for interpreter in INTERPRETERS {
            let shown = lua_script(interpreter, "annotations.lua", &arguments);
            for (ours, theirs) in shown.lines().zip(expected.lines()) {
                assert_eq!(ours, theirs, "{interpreter:?}");
            }
            assert_eq!(shown.len(), expected.len(), "{interpreter:?}");
        }
    }
}

/// In both formats, from both formats.
#[test]
fn biopython_reads_in_what_we_write_all_that_we_read() {
    let scratch = tempfile::tempdir().unwrap();
    let written = scratch.path().join("written");
    for (format, file) in [
        ("genbank", "GenBank/NC_005816.gb"),
        ("embl", "EMBL/SC10H5.embl"),
    ] {
        let file = biopython_file(file);
        let file = file.to_str().unwrap();
        for target in ["genbank", "embl"] {
            for interpreter in INTERPRETERS {
                let expected = lua_script(interpreter, "annotations.lua", &["show", format, file]);
                let arguments = ["write", format, target, file, written.to_str().unwrap()];
                lua_script(interpreter, "annotations.lua", &arguments);
                let theirs = python("annotations.py", &[Path::new(target), &written]);
                assert!(theirs == expected, "{file} as {target} by {interpreter:?}");
                fs::remove_file(&written).unwrap();
            }
        }
    }
}

/// Escaped letters, values that are lists, features on several lines, comments, directives and a
/// sequence behind them; and all qualifiers of a chloroplast, as we write them.
#[test]
fn gff3_reads_as_gffutils_reads_it_also_what_we_write() {
    let scratch = tempfile::tempdir().unwrap();
    let [written, again, converted] =
        ["written", "again", "converted"].map(|name| scratch.path().join(name));
    let features = root().join("tests/rocks/features.gff3");
    let expected = python("gff3.py", &[&features]);
    assert_eq!(expected.matches("feature\t").count(), 10, "{expected}");
    let chloroplast = biopython_file("GenBank/NC_000932.gb");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    for interpreter in INTERPRETERS {
        let run = |arguments: &[&str]| lua_script(interpreter, "gff3.lua", arguments);
        let show = |file: &Path| run(&["show", &path(file)]);
        assert_eq!(show(&features), expected, "{interpreter:?}");
        run(&["write", &path(&features), &path(&written)]);
        assert_eq!(python("gff3.py", &[&written]), expected, "{interpreter:?}");
        run(&["write", &path(&written), &path(&again)]);
        assert_eq!(fs::read(&written).unwrap(), fs::read(&again).unwrap());
        run(&["convert", &path(&chloroplast), &path(&converted)]);
        let theirs = python("gff3.py", &[&converted]);
        assert!(theirs.lines().count() > 2000, "{theirs}");
        assert!(show(&converted) == theirs, "{interpreter:?}");
    }
}
