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
            "state_dir": "here",
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
    let expected = [
        format!("{file} line 3: memroy: unknown key \"memroy\"; did you mean \"memory\"?"),
        format!("{file} line 6: ssh.port: invalid type: string \"x\", expected u16"),
        "template is missing".to_owned(),
        "variable BIOXEN_XCPNG_VCPUS: vcpus cannot be 0".to_owned(),
        "--set: password_variable: the variable \"NO_SUCH\" is not set, or empty".to_owned(),
    ];
    for problem in &expected {
        assert!(told.contains(problem), "{problem}\nis missing in {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    let told = settings.check(&factory, "basic", &settings.config("basic"));
    let told = told.unwrap();
    assert!(
        told[0].starts_with(&format!("{file} line 8: memory: ")),
        "{told:?}"
    );
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
