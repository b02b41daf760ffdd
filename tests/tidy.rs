//! Rules of the workspace that no compiler checks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MEMBERS: [&str; 9] = [
    ".",
    "xapi-client",
    "xapi-client/codegen",
    "bioxen-vm-core",
    "bioxen-vm-basic",
    "bioxen-vm-xcpng",
    "bioxen-curator",
    "bioxen-net",
    "xapi-sim",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of all packages that the facade depends on with these features.
fn tree(features: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}",
        ])
        .args([
            "--package",
            "bioxen",
            "--no-default-features",
            "--features",
            features,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout).unwrap();
    names
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The source files outside of `generated` that contain a word, relative to the root.
fn naming(word: &str, folders: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    for folder in folders {
        sources(&root().join(folder).join("src"), &mut files);
    }
    let mut naming: Vec<_> = files
        .into_iter()
        // Tests may look at more than the code that they test.
        .filter(|path| !path.ends_with("tests.rs"))
        .filter(|path| fs::read_to_string(path).unwrap().contains(word))
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    naming.sort();
    naming
}

#[test]
fn basic_alone_brings_no_http_xml_or_ssh() {
    let tree = tree("basic");
    assert!(tree.iter().any(|name| name == "mlua"));
    for unwanted in [
        "reqwest",
        "hyper",
        "quick-xml",
        "openssh",
        "rustls",
        "xapi-client",
    ] {
        assert!(!tree.iter().any(|name| name == unwanted), "{unwanted}");
    }
}

#[test]
fn xcpng_alone_brings_no_lua() {
    let tree = tree("xcpng");
    assert!(tree.iter().any(|name| name == "openssh"));
    for unwanted in ["mlua", "mlua-sys", "xapi-sim", "clap"] {
        assert!(!tree.iter().any(|name| name == unwanted), "{unwanted}");
    }
}

/// `cargo install xapi-sim` gives the program; who depends on the library gets no command line.
#[test]
fn the_simulator_installs_as_a_program_and_links_as_a_library() {
    let manifest = fs::read_to_string(root().join("xapi-sim/Cargo.toml")).unwrap();
    assert!(manifest.contains("\ndefault = [\"cli\"]\n"));
    let tree = tree("sim");
    assert!(tree.iter().any(|name| name == "xapi-sim"));
    for unwanted in ["clap", "tracing-subscriber"] {
        assert!(!tree.iter().any(|name| name == unwanted), "{unwanted}");
    }
}

#[test]
fn every_feature_adds_only_its_own_crate() {
    let backends = [
        "bioxen-vm-basic",
        "bioxen-vm-xcpng",
        "bioxen-curator",
        "bioxen-net",
    ];
    for (feature, own) in [
        ("basic", backends[0]),
        ("xcpng", backends[1]),
        ("curator", backends[2]),
        ("net", backends[3]),
    ] {
        let tree = tree(feature);
        for name in backends {
            assert_eq!(
                tree.iter().any(|n| n == name),
                name == own,
                "{feature}: {name}"
            );
        }
    }
}

/// `make golden` writes the page anew.
#[test]
fn the_page_of_dependencies_is_exact() {
    let mut text = "# Dependencies of each feature\n\n\
        The crates that the crate `bioxen` brings along when it is built with one feature and no default \
        ones, those of\nthis project included. `make golden` writes this page, a test compares it. Why \
        each direct one is there is\nin [ARCHITECTURE.md](ARCHITECTURE.md).\n"
        .to_owned();
    for feature in [
        "", "basic", "xcpng", "curator", "net", "map", "sim", "cli", "full",
    ] {
        let mut names = tree(feature);
        names.sort();
        names.dedup();
        names.retain(|name| name != "bioxen");
        let shown = match feature {
            "" => "no feature".to_owned(),
            feature => format!("`{feature}`"),
        };
        text.push_str(&format!("\n## {shown}: {} crates\n\n", names.len()));
        let mut line = String::new();
        for name in names {
            if line.len() + name.len() > 98 {
                text.push_str(&format!("{line}\n"));
                line.clear();
            }
            let space = if line.is_empty() { "" } else { " " };
            line.push_str(&format!("{space}{name}"));
        }
        text.push_str(&format!("{line}\n"));
    }
    let path = root().join("docs/dependencies.md");
    if std::env::var_os("BIOXEN_BLESS").is_some() {
        return fs::write(path, text).unwrap();
    }
    let page = fs::read_to_string(path).unwrap();
    assert!(
        page == text,
        "docs/dependencies.md is out of date; write it with `make golden`"
    );
}

#[test]
fn every_member_inherits_the_lints_and_the_version() {
    for member in MEMBERS {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        for line in [
            "[lints]\nworkspace = true",
            "version.workspace = true",
            "rust-version.workspace",
        ] {
            assert!(
                manifest.contains(line),
                "{member}/Cargo.toml lacks {line:?}"
            );
        }
    }
}

/// A version of Rust as numbers: `1.88` is `1.88.0`.
fn rust_version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap());
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

/// `make msrv` builds with that version; this and clippy's `incompatible_msrv` hold it where that
/// version is not installed.
#[test]
fn no_dependency_needs_a_newer_rust_than_is_promised() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--all-features",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let wants = |package: &serde_json::Value| package["rust_version"].as_str().map(rust_version);
    let of = |name: &str| packages.iter().find(|package| package["name"] == name);
    let promised = wants(of("bioxen").unwrap()).unwrap();
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| wants(package).is_some_and(|wanted| wanted > promised))
        .map(|package| (&package["name"], &package["rust_version"]))
        .collect();
    assert!(newer.is_empty(), "newer than {promised:?}: {newer:?}");
}

#[test]
fn the_table_of_crates_is_exact() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, all) = manifest.split_once("[workspace.dependencies]").unwrap();
    let (all, _) = all.split_once("[workspace.lints").unwrap();
    let names = all.lines().filter_map(|line| line.split_once(" = "));
    let mut wanted: Vec<_> = names
        .map(|(name, _)| name.to_owned())
        .filter(|name| !MEMBERS.contains(&name.as_str()))
        .collect();
    wanted.sort();

    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let (_, table) = document.split_once("| Crate | Why |\n|---|---|\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let mut told: Vec<_> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    told.sort();
    assert_eq!(told, wanted);

    for name in wanted {
        let line = format!("\n{name}");
        let is_used = MEMBERS.iter().any(|member| {
            let manifest = root().join(member).join("Cargo.toml");
            let manifest = fs::read_to_string(manifest).unwrap();
            ["[dependencies]", "[dev-dependencies]"]
                .iter()
                .filter_map(|table| manifest.split_once(table))
                .filter_map(|(_, table)| table.split("\n[").next())
                .any(|table| {
                    table.contains(&format!("{line}.workspace"))
                        || table.contains(&format!("{line} = "))
                })
        });
        assert!(is_used, "no member uses {name}");
    }
}

#[test]
fn each_kind_of_error_is_explained() {
    let source = fs::read_to_string(root().join("bioxen-vm-core/src/error.rs")).unwrap();
    let (_, kinds) = source.split_once("pub enum ErrorKind {").unwrap();
    let (kinds, _) = kinds.split_once("\n}").unwrap();
    let kinds = kinds
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"));
    let kinds: Vec<_> = kinds.filter_map(|line| line.strip_suffix(',')).collect();
    assert!(kinds.len() > 10, "{kinds:?}");
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let (_, table) = page.split_once("| Kind | Meaning | What to do |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let told: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert_eq!(told, kinds);
}

#[test]
fn one_place_names_each_foreign_system() {
    let all: Vec<_> = MEMBERS
        .into_iter()
        .filter(|member| !member.ends_with("codegen"))
        .collect();
    for file in naming("mlua::", &all) {
        assert!(
            file.starts_with("bioxen-vm-basic/src/engine"),
            "{file} names mlua"
        );
    }
    for file in naming("openssh::", &all) {
        assert!(
            file.starts_with("bioxen-vm-xcpng/src/ssh/"),
            "{file} names openssh"
        );
    }
    for file in naming("reqwest::", &all) {
        assert_eq!(file, "xapi-client/src/http.rs");
    }
    assert_eq!(
        naming("httparse::", &all),
        ["xapi-client/src/handlers/exchange.rs"]
    );
}

#[test]
fn libraries_do_not_read_the_environment() {
    let libraries: Vec<_> = MEMBERS
        .into_iter()
        .filter(|member| *member != "." && !member.ends_with("codegen"))
        .collect();
    for pattern in ["env::var", "env::vars"] {
        let files = naming(pattern, &libraries);
        assert!(files.is_empty(), "{files:?} use {pattern}");
    }
}

/// All pages in a folder and those below it.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            pages(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The targets of the links of a page, but for those in code.
fn links(page: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut is_code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        // Every other part of a line that backticks cut is code, but a link may be around one.
        for (at, _) in line.match_indices("](").filter(|_| !is_code) {
            let is_quoted = line[..at].matches('`').count() % 2 == 1;
            let target = line[at + 2..].split([')', ' ']).next();
            links.extend(target.filter(|_| !is_quoted));
        }
    }
    links
}

/// A page is read where it lies and on its own, so items of Rust are no targets.
#[test]
fn pages_lead_to_files_that_are_there() {
    let mut all = Vec::new();
    pages(root(), &mut all);
    let mut dead = Vec::new();
    let mut count = 0;
    for page in all {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let file = link.split('#').next().unwrap();
            if link.contains("://") || file.is_empty() {
                continue;
            }
            count += 1;
            if !page.parent().unwrap().join(file).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(count > 50, "only {count} links were found");
    assert!(dead.is_empty(), "{dead:#?}");
}
