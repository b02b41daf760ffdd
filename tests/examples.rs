//! What the examples print.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// Runs an example on the embedded pool, and gives what it prints. Nothing of it stays.
fn example(name: &str) -> String {
    // Cargo builds examples with the tests, next to them.
    let own = std::env::current_exe().unwrap();
    let built = own.parent().unwrap().with_file_name("examples").join(name);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = Command::new(&built);
    command.env("TMPDIR", elsewhere.path());
    // Whoever runs the tests may have a pool of their own.
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("BIOXEN_") {
            command.env_remove(key);
        }
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn three_vms_on_a_private_network_know_each_other_by_name() {
    let told = example("private_network");
    let (network, told) = told.split_once('\n').unwrap();
    assert!(network.starts_with("made network mapping ("), "{network}");
    assert!(network.ends_with("): private"), "{network}");
    assert_eq!(
        told,
        "index (10.77.0.2) knows:\nreads is 10.77.0.1\nreport is 10.77.0.3\n\
         reads (10.77.0.1) knows:\nindex is 10.77.0.2\nreport is 10.77.0.3\n\
         report (10.77.0.3) knows:\nindex is 10.77.0.2\nreads is 10.77.0.1\n"
    );
}

#[test]
fn a_ring_of_vms_makes_proteins_of_template_strands() {
    assert_eq!(
        example("ring"),
        "made MALWMRLLPL, of 1244 Da\nmade MVHLTPEEKS, of 1170 Da\n"
    );
}
