use super::*;

fn version(text: &str) -> RockVersion {
    RockVersion::new(text).unwrap()
}

/// From the lowest to the highest.
const ASCENDING: &[&str] = &[
    "0.1-1",
    "1.0alpha1-1",
    "1.0beta-1",
    "1.0beta2-1",
    "1.0pre1-1",
    "1.0rc1-1",
    "1.0rc2-1",
    "1.0-1",
    "1.0-2",
    "1.0-10",
    "1.0b-1",
    "1.0.1-1",
    "1.2-1",
    "1.10-1",
    "2-1",
    "20240101-1",
    "cvs-1",
    "scm-1",
    "scm-2",
    "dev-1",
];

#[test]
fn the_order_is_total_and_that_of_luarocks() {
    for (i, low) in ASCENDING.iter().enumerate() {
        assert_eq!(version(low).cmp(&version(low)), Ordering::Equal);
        for high in &ASCENDING[i + 1..] {
            assert!(version(low) < version(high), "{low} < {high}");
            assert!(version(high) > version(low), "{high} > {low}");
        }
    }
    assert_eq!(version("1.2.0-3").revision(), Some(3));
    assert_eq!(version("scm").revision(), None);
    assert!(version("1.0") < version("1.0-1"));
    assert_ne!(version("1.0-1"), version("1.0.0-1"));
    assert_eq!(version("1.0-1"), version("1.00-01"));
}

#[test]
fn versions_are_made_of_numbers_and_words_only() {
    for bad in [
        "",
        "-1",
        "1.0;x",
        "1.0 -1",
        "--",
        "1/2",
        ".1",
        "1.0$(x)",
        "é",
        &"1".repeat(65),
    ] {
        assert!(RockVersion::new(bad).is_err(), "{bad}");
    }
    for good in ["1", "1.0", "1.0-1", "v1.2-3", "2.0.0beta1-0", "1.0.0_rc1-1"] {
        assert_eq!(version(good).to_string(), good);
    }
}

const CONSTRAINTS: &[&str] = &[
    "1.0",
    "== 1.0-1",
    "1.0.0",
    "~= 1.0",
    ">= 1.0, < 2",
    "> 1.0",
    "> 1.0-1",
    "<= 1.0",
    "~> 1.0",
    "~> 1",
    "~> 1.0-2",
    "scm",
    ">= scm",
    "!= 1.2-1",
    "= 1.2",
    ">= 1.0rc1",
    "",
];

#[test]
fn constraints_judge_as_written() {
    let accepted = |constraints: &str| -> Vec<&str> {
        let constraints: Constraints = constraints.parse().unwrap();
        ASCENDING
            .iter()
            .copied()
            .filter(|text| constraints.accept(&version(text)))
            .collect()
    };
    assert_eq!(accepted("1.0"), ["1.0-1", "1.0-2", "1.0-10"]);
    assert_eq!(accepted("== 1.0-2"), ["1.0-2"]);
    assert_eq!(accepted(">= 1.2, < 2"), ["1.2-1", "1.10-1"]);
    let like = accepted("~> 1.0");
    assert!(
        like.contains(&"1.0.1-1") && like.contains(&"1.0rc1-1"),
        "{like:?}"
    );
    assert!(
        !like.contains(&"1.2-1") && !like.contains(&"1.10-1"),
        "{like:?}"
    );
    assert_eq!(accepted("scm"), ["scm-1", "scm-2"]);
    assert_eq!(accepted(""), ASCENDING);
    for bad in [">=", "=> 1", "1 2 ?", ">< 1", "~> ;"] {
        assert!(bad.parse::<Constraints>().is_err(), "{bad}");
    }
}

/// Compares with LuaRocks' own code where it is installed, as it is wherever this crate is of use.
#[test]
fn luarocks_itself_gives_the_same_answers() {
    let program = r#"
        require("luarocks.core.cfg").arch = "any"
        local vers = require("luarocks.core.vers")
        local queries = require("luarocks.queries")
        local constraints = {}
        for line in io.lines() do
            local kind, text = line:match("^(%a) (.*)$")
            if kind == "c" then
                constraints[#constraints + 1] = text
            else
                local answer = {}
                for _, c in ipairs(constraints) do
                    local query = assert(queries.from_dep_string("rock " .. c))
                    answer[#answer + 1] = vers.match_constraints(vers.parse_version(text), query.constraints) and "1" or "0"
                end
                print(table.concat(answer))
            end
        end
    "#;
    let luarocks = "/usr/share/lua/5.4/luarocks";
    assert!(
        std::path::Path::new(luarocks).is_dir(),
        "this test needs LuaRocks: apt-get install luarocks lua5.4"
    );
    let mut input = String::new();
    for text in CONSTRAINTS {
        input += &format!("c {text}\n");
    }
    for text in ASCENDING {
        input += &format!("v {text}\n");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("input"), &input).unwrap();
    let output = std::process::Command::new("lua5.4")
        .args(["-e", program])
        .stdin(std::fs::File::open(dir.path().join("input")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.lines().count(), ASCENDING.len());
    for (text, answer) in ASCENDING.iter().zip(answers.lines()) {
        let ours: String = CONSTRAINTS
            .iter()
            .map(|c| {
                let constraints: Constraints = c.parse().unwrap();
                if constraints.accept(&version(text)) {
                    '1'
                } else {
                    '0'
                }
            })
            .collect();
        assert_eq!(ours, answer, "{text} against {CONSTRAINTS:?}");
    }
}
