//! Lists the files of this project's rocks, so that the library can bring them along.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const FOLDERS: [&str; 2] = ["bio_compute", "bio_sequence_analysis"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=rocks");
    if env::var_os("CARGO_FEATURE_CURATOR").is_none() {
        return Ok(());
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("rocks");
    let mut list = String::from("[\n");
    for folder in FOLDERS {
        let mut files = Vec::new();
        find(&root.join(folder), &mut files)?;
        files.sort();
        for file in files {
            let name = file.strip_prefix(&root).unwrap_or(&file);
            list += &format!("({name:?}, include_bytes!({file:?}).as_slice()),\n");
        }
    }
    list += "]\n";
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("rocks.rs"), list)
}

/// The files below a folder, without the rocks' own tests.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            files.push(path);
        } else if !path.ends_with("spec") {
            find(&path, files)?;
        }
    }
    Ok(())
}
