//! Behaviours and defects that other tests show, each with its place.

use std::path::Path;

use libtest_mimic::{Failed, Trial};

/// Number and subject, file, test.
const TESTS: [(&str, &str, &str); 25] = [
    (
        "B06_a_time_limit_is_told",
        "tests/cli/program.rs",
        "a_program_that_runs_out_of_time_ends_like_timeout_does",
    ),
    (
        "B14_the_interpreter_is_chosen",
        "bioxen-curator/tests/install.rs",
        "each_lua_version_has_its_own_rocks",
    ),
    (
        "B16_errors_have_kinds",
        "bioxen-vm-core/src/error.rs",
        "display_names_vm_and_operation_but_not_the_cause",
    ),
    (
        "B15_a_profile_installs_its_rocks",
        "bioxen-curator/tests/packages.rs",
        "a_profile_installs_what_there_is_and_tells_what_there_is_not",
    ),
    (
        "B17_one_asks_and_another_answers",
        "tests/messaging/here.rs",
        "two_vms_ask_and_answer",
    ),
    (
        "D06_nothing_stays_on_disk",
        "bioxen-vm-core/src/local/directory.rs",
        "a_directory_is_private_and_goes_with_its_owner",
    ),
    (
        "D08_detaching_is_dropping",
        "bioxen-vm-core/tests/session.rs",
        "a_chunk_that_nobody_waits_for_runs_on_and_later_ones_wait",
    ),
    (
        "D13_certificates_are_verified",
        "xapi-client/tests/tls.rs",
        "another_certificate_than_the_pinned_one_is_named",
    ),
    (
        "D14_host_keys_are_verified",
        "bioxen-vm-xcpng/src/ssh/tests.rs",
        "another_host_key_or_a_refused_key_is_never_worked_around",
    ),
    (
        "D15_xapi_is_spoken",
        "tests/xenapi.rs",
        "the_python_client_takes_a_vm_from_template_to_end",
    ),
    (
        "D18_sessions_take_any_text",
        "bioxen-vm-core/tests/session.rs",
        "a_chunk_that_is_not_complete_is_told_from_one_that_is_wrong",
    ),
    (
        "D22_names_are_never_run",
        "bioxen-curator/tests/install.rs",
        "names_and_servers_are_never_run",
    ),
    (
        "D23_what_is_left_behind_is_named",
        "bioxen-vm-xcpng/tests/pool/faults.rs",
        "what_cannot_be_taken_back_is_named_with_what_went_wrong_before",
    ),
    (
        "D23_a_stopped_vm_keeps_its_disk",
        "bioxen-vm-xcpng/tests/pool/lifecycle.rs",
        "a_vm_is_deployed_runs_lua_keeps_its_disk_and_leaves_nothing",
    ),
    (
        "D24_addresses_in_every_form",
        "bioxen-vm-xcpng/src/address.rs",
        "the_address_is_found_in_every_form_that_tools_report",
    ),
    (
        "D25_older_dialects",
        "bioxen-vm-xcpng/src/config/tests.rs",
        "older_dialects_mean_the_same",
    ),
    (
        "D26_the_configuration_counts",
        "bioxen-vm-xcpng/tests/pool/lifecycle.rs",
        "a_vm_is_as_the_configuration_says",
    ),
    (
        "D28_a_rock_is_installed",
        "bioxen-curator/tests/install.rs",
        "a_rock_comes_with_what_it_needs_and_lua_finds_it",
    ),
    (
        "D28_versions_compare",
        "bioxen-curator/src/version_tests.rs",
        "luarocks_itself_gives_the_same_answers",
    ),
    (
        "B12_numbers_of_a_manager",
        "bioxen-vm-core/tests/manager.rs",
        "observers_see_what_happens_and_the_numbers_agree",
    ),
    (
        "B17_a_server_and_a_client_talk_once",
        "tests/messaging/sockets.rs",
        "a_server_serves_one_client_and_both_end",
    ),
    (
        "D27_a_host_is_never_code",
        "bioxen-net/src/message/socket.rs",
        "a_host_is_a_name_or_an_address_and_never_code",
    ),
    (
        "B18_shutdown_is_bounded",
        "bioxen-vm-core/tests/manager.rs",
        "shutdown_waits_no_longer_than_it_may",
    ),
    (
        "B11_a_cluster_is_whole_or_not",
        "bioxen-vm-core/tests/manager.rs",
        "a_cluster_that_cannot_be_made_whole_is_not_made",
    ),
    (
        "D12_a_running_program_is_cancelled",
        "bioxen-vm-core/tests/manager.rs",
        "an_execution_in_the_background_can_be_awaited_and_cancelled",
    ),
];

/// The names of what other tests show.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TESTS.iter().map(|(name, ..)| *name)
}

pub(crate) fn trials() -> Vec<Trial> {
    TESTS
        .iter()
        .map(|(name, file, test)| {
            Trial::test(format!("elsewhere::{name}"), move || {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
                let text = std::fs::read_to_string(path)?;
                is_run(&text, test).map_err(|why| Failed::from(format!("{file}: {why}")))
            })
        })
        .collect()
}

/// Whether a file has a test of this name that is run: what is ignored, or no test, shows nothing.
fn is_run(text: &str, test: &str) -> Result<(), String> {
    let (before, _) = text
        .split_once(&format!("fn {test}("))
        .ok_or_else(|| format!("there is no test {test}"))?;
    // The attributes of a function are the lines right above it.
    let above: Vec<_> = before
        .lines()
        .rev()
        .skip(usize::from(!before.ends_with('\n')))
        .map(str::trim)
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .collect();
    let has = |name: &str| {
        above
            .iter()
            .any(|line| line.starts_with("#[") && line.contains(name))
    };
    if has("ignore") {
        return Err(format!("the test {test} is ignored"));
    }
    has("test")
        .then_some(())
        .ok_or_else(|| format!("{test} is no test"))
}

/// What does not run does not count.
pub(crate) fn ignored_tests_do_not_count() -> Result<(), Failed> {
    assert_eq!(is_run("#[test]\nfn a() {}\n", "a"), Ok(()));
    let asynchronous = "}\n\n#[tokio::test]\n// Why.\nasync fn a() {}\n";
    assert_eq!(is_run(asynchronous, "a"), Ok(()));
    for text in [
        "#[test]\n#[ignore]\nfn a() {}\n",
        "#[ignore = \"slow\"]\n#[test]\nfn a() {}\n",
        "#[test]\nfn b() {}\nfn a() {}\n",
        "#[test]\nfn b() {}\n",
    ] {
        assert!(is_run(text, "a").is_err(), "{text}");
    }
    Ok(())
}
