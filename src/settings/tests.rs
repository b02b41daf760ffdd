use serde_json::json;

use super::*;

#[test]
fn options_outweigh_variables_and_variables_outweigh_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "[xcpng]\nxcpng_host = 'a'\ntemplate = 't'\nvcpus = 1\n[xcpng.ssh]\nuser = 'u'\n",
    )
    .unwrap();
    let mut settings = Settings::new();
    settings.read_file(file.path(), None).unwrap();
    settings.read_environment([
        ("BIOXEN_XCPNG_HOST".into(), "b".into()),
        ("BIOXEN_XCPNG_SSH__PORT".into(), "2222".into()),
        ("BIOXEN_XCPNG_PASSWORD".into(), "12345".into()),
        ("HOME".into(), "/root".into()),
    ]);
    settings.set("xcpng", "vcpus=4").unwrap();
    assert_eq!(
        settings.config("xcpng"),
        json!({
            "xcpng_host": "b", "template": "t", "vcpus": 4, "password": "12345",
            "ssh": {"user": "u", "port": 2222},
        })
    );
    assert!(!settings.has("basic"));
}

#[test]
fn text_becomes_what_its_key_takes() {
    let mut settings = Settings::new();
    for assignment in [
        "processes=true",
        "idle_workers=0",
        "read=/etc",
        "write=[\"/a\", \"/b\"]",
        "memory=256MB",
    ] {
        settings.set("basic", assignment).unwrap();
    }
    assert_eq!(
        settings.config("basic"),
        json!({
            "processes": true, "idle_workers": 0, "read": ["/etc"], "write": ["/a", "/b"],
            "memory": "256MB",
        })
    );
    settings.set("xcpng", "network=42").unwrap();
    settings.set("xcpng", "tags=a").unwrap();
    assert_eq!(
        settings.config("xcpng"),
        json!({"network": "42", "tags": ["a"]})
    );
}

#[test]
fn a_broken_file_is_named_with_its_line_and_never_quoted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[xcpng]\npassword = hunter2\n").unwrap();
    let error = Settings::new().read_file(file.path(), None).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    let report = format!("{error} {error:?}");
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn an_unknown_table_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[xcpg]\ntemplate = 't'\n").unwrap();
    let error = Settings::new().read_file(file.path(), None).unwrap_err();
    assert!(error.to_string().contains("[xcpg]"), "{error}");
}

#[test]
fn values_never_show() {
    let mut settings = Settings::new();
    settings.set("xcpng", "password=canary").unwrap();
    assert!(!format!("{settings:?}").contains("canary"));
}

#[test]
fn a_setting_without_a_value_is_refused() {
    let error = Settings::new().set("basic", "vcpus").unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"vcpus\" is no setting; write key=value"
    );
}

fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn paths_start_from_the_file_that_names_them_or_from_home() {
    let (dir, path) = file(
        "[xcpng]\npassword_file = 'secret'\ntls.ca_file = '~/ca.pem'\n\
         [xcpng.ssh]\nidentity_file = '/abs'\n[basic]\nread = ['data', '~/genomes']\n",
    );
    let mut settings = Settings::new();
    settings.read_file(&path, None).unwrap();
    settings.read_environment([
        ("HOME".into(), "/home/bio".into()),
        ("BIOXEN_XCPNG_SSH__KNOWN_HOSTS".into(), "~/known".into()),
    ]);
    settings.set("xcpng", "state_dir=here").unwrap();
    let here = dir.path().to_str().unwrap();
    assert_eq!(
        settings.config("xcpng"),
        json!({
            "password_file": format!("{here}/secret"), "tls": {"ca_file": "/home/bio/ca.pem"},
            "ssh": {"identity_file": "/abs", "known_hosts": "/home/bio/known"},
            "state_dir": std::env::current_dir().unwrap().join("here"),
        })
    );
    assert_eq!(
        settings.config("basic"),
        json!({"read": [format!("{here}/data"), "/home/bio/genomes"]})
    );
}

#[test]
fn one_way_to_the_password_replaces_the_others_of_less_weight() {
    let (_dir, path) = file("[xcpng]\npassword_file = '/p'\ntls.fingerprint = '00'\n");
    let mut settings = Settings::new();
    settings.read_file(&path, None).unwrap();
    settings.read_environment([("BIOXEN_XCPNG_PASSWORD".into(), "x".into())]);
    settings.set("xcpng", "tls.insecure=true").unwrap();
    assert_eq!(
        settings.config("xcpng"),
        json!({"password": "x", "tls": {"insecure": true}})
    );
    // Of the same weight, both stay, and the type tells that they contradict each other.
    settings.set("xcpng", "tls.fingerprint=00").unwrap();
    assert_eq!(
        settings.config("xcpng")["tls"].as_object().unwrap().len(),
        2
    );
}

#[test]
fn a_variable_may_have_the_password() {
    let mut settings = Settings::new();
    settings.set("xcpng", "password_variable=POOL_PW").unwrap();
    settings.read_environment([("POOL_PW".into(), "secret".into())]);
    assert_eq!(settings.config("xcpng"), json!({"password": "secret"}));
}

#[cfg(feature = "xcpng")]
#[test]
fn all_problems_are_told_with_where_they_come_from() {
    let (_dir, path) = file(
        "[xcpng]\nxcp_host = 'pool'\nmemroy = '2GB'\n\n[xcpng.ssh]\nport = 'x'\n\
         [basic]\nmemory = 'lots'\n",
    );
    let mut settings = Settings::new();
    settings.read_file(&path, None).unwrap();
    settings.read_environment([("BIOXEN_XCPNG_VCPUS".into(), "0".into())]);
    settings.set("xcpng", "password_variable=NO_SUCH").unwrap();
    let file = path.display();
    assert_eq!(
        settings.notes(),
        [format!(
            "{file} line 2: xcp_host is an older name; write xcpng_host"
        )]
    );
    let factory = crate::factory();
    let config = settings.config("xcpng");
    let told = settings.check(&factory, "xcpng", &config).unwrap();
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    let expected = [
        format!("{file} line 3: memroy: unknown key \"memroy\"; did you mean \"memory\"?"),
        format!("{file} line 6: ssh.port: a whole number from 0 to 65535 is needed, not \"x\""),
        "variable BIOXEN_XCPNG_VCPUS: vcpus cannot be 0".to_owned(),
        "--set: password_variable: the variable \"NO_SUCH\" is not set, or empty".to_owned(),
        "template is missing".to_owned(),
    ];
    assert_eq!(told, expected);
    let told = settings.check(&factory, "basic", &settings.config("basic"));
    let told = told.unwrap();
    assert_eq!(told[0].line(), Some(8));
    assert!(told[0].message.starts_with("memory: "), "{told:?}");
}

#[cfg(feature = "xcpng")]
#[test]
fn what_contradicts_itself_is_told_with_the_line_of_what_says_so() {
    let (_dir, path) = file(
        "[xcpng]\nxcpng_host = 'pool'\ntemplate = 't'\ntls.insecure = true\n\
         tls.fingerprint = '00'\npassword_file = '/p'\npassword_command = ['p']\n\n\
         [xcpng.ssh]\nport = 22\nfirst_contact = 'fixed'\n",
    );
    let mut settings = Settings::new();
    settings.read_file(&path, None).unwrap();
    let config = settings.config("xcpng");
    let told = settings.check(&crate::factory(), "xcpng", &config).unwrap();
    let told: Vec<_> = told
        .iter()
        .map(|problem| {
            (
                problem.line(),
                problem.message.split(['=', ',']).next().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (Some(4), "give only one of tls.fingerprint"),
            (
                Some(5),
                "tls.fingerprint: `00` is no SHA-256 fingerprint; give 64 hex digits",
            ),
            (Some(6), "give only one of password"),
            (Some(11), "ssh.first_contact "),
            (Some(11), "ssh.first_contact "),
        ]
    );
}

#[test]
fn what_is_wrong_with_a_file_hides_nothing_else_of_it() {
    let (_dir, path) = file(
        "stray = 1\n[xcpgn]\npassword = 'canary'\n[pools]\nlab = 1\n[basic]\nmemory = 'lots'\n",
    );
    let mut settings = Settings::new();
    let told = settings.read_what_is_right(&path, Some("east")).unwrap();
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    let file = path.display();
    let tables = "put all keys under [basic], [xcpng] or [pools.NAME]";
    assert_eq!(
        told,
        [
            format!("{file} line 1: \"stray\" is outside of any table; {tables}"),
            format!("{file} line 2: unknown table [xcpgn]; did you mean [xcpng]?"),
            format!("{file} line 5: \"lab\" is no table; the keys of a pool go under [pools.NAME]"),
            format!("{file} has no pool \"east\"; write its keys under [pools.NAME]"),
        ]
    );
    assert_eq!(settings.config("basic"), json!({"memory": "lots"}));
    // Of what is not TOML nothing is known, also not that it lacks a pool.
    std::fs::write(&path, "[pools.east\n").unwrap();
    let told = Settings::new().read_what_is_right(&path, Some("east"));
    assert_eq!(told.unwrap().len(), 1);
}

#[test]
fn a_named_pool_outweighs_the_general_table_and_says_where_it_stands() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "[pools.lab]\nxcpng_host = 'lab'\ntls.insecure = true\n\n[pools.\"west wing\"]\nxcpng_host = 'w'\n\n\
         [xcpng]\nxcpng_host = 'general'\ntemplate = 't'\ntls.ca_file = '/ca'\n",
    )
    .unwrap();
    let of = |pool| {
        let mut settings = Settings::new();
        settings.read_file(file.path(), pool).map(|()| settings)
    };
    assert_eq!(
        of(None).unwrap().config("xcpng"),
        json!({"xcpng_host": "general", "template": "t", "tls": {"ca_file": "/ca"}})
    );
    let lab = of(Some("lab")).unwrap();
    assert_eq!(
        lab.config("xcpng"),
        json!({"xcpng_host": "lab", "template": "t", "tls": {"insecure": true}})
    );
    let origin = lab.origin("xcpng", "xcpng_host").unwrap().to_string();
    assert!(origin.ends_with("line 2"), "{origin}");
    let error = of(Some("east")).unwrap_err().to_string();
    assert!(error.contains("its pools: lab, west wing"), "{error}");
}

#[cfg(feature = "xcpng")]
#[test]
fn a_key_that_is_given_by_two_of_its_names_is_told_with_both_lines() {
    let (_dir, path) = file(
        "[xcpng]\npassword = 'x'\ntemplate = 't'\nnetwork_uuid = 'a'\nnetwork = 'b'\n\
         xcp_host = 'p'\nxcpng_host = 'q'\n",
    );
    let told = |settings: &Settings| {
        let config = settings.config("xcpng");
        let told = settings.check(&crate::factory(), "xcpng", &config).unwrap();
        told.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut settings = Settings::new();
    settings.read_file(&path, None).unwrap();
    let all = told(&settings);
    assert_eq!(all.len(), 2, "{all:#?}");
    for (names, lines) in [
        (["network_uuid", "network"], ["line 4", "line 5"]),
        (["xcp_host", "xcpng_host"], ["line 6", "line 7"]),
    ] {
        let one = all.iter().find(|one| one.contains(names[0])).unwrap();
        let has_all = names.iter().chain(&lines).all(|part| one.contains(part));
        assert!(has_all && one.contains("keep one"), "{one}");
    }
    // What has more weight may use another name, and so may whoever says it again.
    let mut settings = Settings::new();
    let (_dir, path) = file("[xcpng]\nxcp_host = 'p'\npassword = 'x'\ntemplate = 't'\n");
    settings.read_file(&path, None).unwrap();
    settings.set("xcpng", "xcpng_host=a").unwrap();
    settings.set("xcpng", "xcpng_host=b").unwrap();
    assert_eq!(told(&settings), Vec::<String>::new());
    assert_eq!(settings.config("xcpng")["xcpng_host"], "b");
}

#[cfg(feature = "xcpng")]
#[test]
fn files_that_are_not_there_are_told_with_their_lines() {
    let (dir, path) = file(
        "[xcpng]\npassword_file = 'there'\n[xcpng.tls]\nca_file = 'no-ca'\n\
         [xcpng.ssh]\nidentity_file = '.'\nknown_hosts = 'no-hosts'\n",
    );
    std::fs::write(dir.path().join("there"), "x").unwrap();
    let mut settings = Settings::new();
    settings.read_file(&path, None).unwrap();
    let told = settings.missing_files("xcpng", &settings.config("xcpng"));
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    for (told, words) in told.iter().zip([
        [
            "line 4: tls.ca_file: there is no file",
            "no-ca: No such file",
        ],
        ["line 6: ssh.identity_file", "it is a folder"],
        ["line 7: ssh.known_hosts", "no-hosts"],
    ]) {
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    }
}

#[cfg(feature = "xcpng")]
#[test]
fn a_table_by_an_option_replaces_that_of_the_file() {
    let (_dir, path) = file("[xcpng.static_address]\naddress = 'x'\ngateway = 'y'\n");
    let mut settings = Settings::new();
    settings.read_file(&path, None).unwrap();
    let table = "static_address={address = '10.0.0.5/24', nameservers = ['9.9.9.9']}";
    settings.set("xcpng", table).unwrap();
    settings.set("xcpng", "peers.interface=0").unwrap();
    settings.set("xcpng", "network_uuid=[\"a\"]").unwrap();
    assert_eq!(
        settings.config("xcpng"),
        json!({
            "static_address": {"address": "10.0.0.5/24", "nameservers": ["9.9.9.9"]},
            "peers": {"interface": 0}, "network": ["a"],
        })
    );
    let origin = settings.origin("xcpng", "static_address.address");
    assert_eq!(origin, Some(&Origin::Option));
}
