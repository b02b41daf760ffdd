//! Trials that are the same for all kinds of VMs.

use bioxen::ErrorKind;
use bioxen::curator::Catalogue;
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::{elsewhere, trials as each};

/// How many behaviours and defects there are.
const NUMBERS: [(char, usize); 2] = [('b', 18), ('d', 28)];

type Body = fn() -> Result<(), Failed>;

const TRIALS: [(&str, Body); 3] = [
    (
        "b15_profiles_name_their_rocks",
        b15_profiles_name_their_rocks,
    ),
    (
        "b17_a_port_that_is_none_is_refused",
        b17_a_port_that_is_none_is_refused,
    ),
    (
        "ignored_tests_do_not_count",
        elsewhere::ignored_tests_do_not_count,
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let own = TRIALS.map(|(name, body)| Trial::test(format!("once::{name}"), body));
    let complete = Trial::test("once::every_number_has_a_trial", every_number_has_a_trial);
    own.into_iter().chain([complete]).collect()
}

fn every_number_has_a_trial() -> Result<(), Failed> {
    let names: Vec<String> = each::names()
        .chain(elsewhere::names())
        .chain(TRIALS.map(|(name, _)| name))
        .map(str::to_lowercase)
        .collect();
    let all = NUMBERS
        .into_iter()
        .flat_map(|(kind, count)| (1..=count).map(move |number| format!("{kind}{number:02}_")));
    let missing: Vec<_> = all
        .filter(|number| !names.iter().any(|name| name.starts_with(number)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("nothing shows {}", missing.join(", ")).into())
}

fn b15_profiles_name_their_rocks() -> Result<(), Failed> {
    let catalogue = Catalogue::built_in()?;
    for (profile, rocks) in [
        ("minimal", &[][..]),
        ("standard", &["lua-cjson", "luafilesystem", "inspect"]),
        (
            "full",
            &[
                "lua-cjson",
                "luafilesystem",
                "inspect",
                "penlight",
                "luasocket",
                "lpeg",
            ],
        ),
        ("production", &["lua-cjson", "luafilesystem", "penlight"]),
        (
            "networking",
            &["lua-cjson", "luasocket", "http", "penlight"],
        ),
    ] {
        let selection = catalogue.select(profile)?;
        let mut found: Vec<_> = selection.requests.iter().map(ToString::to_string).collect();
        let mut wanted = rocks.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{profile}");
    }
    Ok(())
}

fn b17_a_port_that_is_none_is_refused() -> Result<(), Failed> {
    for port in [70_000, -1] {
        let config = json!({"xcpng_host": "pool", "template": "lua", "password": "x",
                            "ssh": {"port": port}});
        let Err(error) = bioxen::factory().open("xcpng", config) else {
            return Err(format!("{port} is taken for a port").into());
        };
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("port"), "{error}");
    }
    Ok(())
}
