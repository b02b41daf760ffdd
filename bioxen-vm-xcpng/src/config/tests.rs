use bioxen_vm_core::ErrorKind;

use super::*;
use serde_json::json;

fn minimal() -> serde_json::Value {
    json!({"xcpng_host": "pool.example", "password": "hush-hush", "template": "lua"})
}

fn with(changes: serde_json::Value) -> serde_json::Value {
    let mut config = minimal();
    let all = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        all.insert(key.clone(), value.clone());
    }
    all.retain(|_, value| !value.is_null());
    config
}

fn read(config: serde_json::Value) -> Result<XcpngConfig> {
    XcpngConfig::from_value(config)
}

fn problems(changes: serde_json::Value) -> Vec<String> {
    read(with(changes)).unwrap().problems()
}

#[test]
fn the_least_configuration_is_host_password_and_template() {
    let config = read(minimal()).unwrap();
    assert!(config.problems().is_empty());
    assert_eq!(config.username, "root");
    assert_eq!(config.ssh.port, 22);
    assert_eq!(config.lua, "lua5.4");
}

#[test]
fn sizes_times_and_lists_are_read_in_words() {
    let config = read(with(json!({
        "xcpng_host": ["a", "b:8443"],
        "memory": "2GB",
        "execution_timeout": "90s",
        "boot_timeout": "5min",
        "network": "lab",
        "clone": "copy",
        "ssh": {"user": "bio", "first_contact": "fixed"},
    })))
    .unwrap();
    assert_eq!(config.xcpng_host, ["a", "b:8443"]);
    assert_eq!(config.memory, Some(ByteSize(2 << 30)));
    assert_eq!(config.execution_timeout, Some(Duration::from_secs(90)));
    assert_eq!(config.boot_timeout, Duration::from_secs(300));
    assert_eq!(config.network, ["lab"]);
    assert_eq!(config.clone, CloneMode::Copy);
    assert_eq!(config.ssh.first_contact, FirstContact::Fixed);
}

#[test]
fn older_dialects_mean_the_same() {
    let library = json!({
        "xcp_host": "pool.example", "xcp_username": "admin", "xcp_password": "hush-hush",
        "template_name": "lua", "vm_username": "bio", "vm_key_file": "/k",
    });
    let config = read(library).unwrap();
    assert_eq!(config.xcpng_host, ["pool.example"]);
    assert_eq!((&*config.username, &*config.template), ("admin", "lua"));
    assert_eq!(
        config.problems(),
        [
            "ssh.first_contact = \"fixed\" needs either ssh.host_key or ssh.known_hosts, so that the \
          VM can be told from an impostor"
        ]
    );
    let front_end = json!({
        "xapi_url": "https://pool.example", "username": "root", "password": "hush-hush",
        "template_name": "lua", "vm_name_prefix": "x-", "network_uuid": "n",
        "storage_repository": "s", "clone": "copy", "ssh_user": "bio",
    });
    let config = read(front_end).unwrap();
    assert_eq!(config.problems(), Vec::<String>::new());
    assert_eq!(Settings::new(config).unwrap().login.user, "bio");
}

#[test]
fn all_problems_are_told_at_once() {
    let config = json!({
        "xcpng_host": "http://pool", "template": " ", "vcpus": 3, "cores_per_socket": 2,
        "memory": 0, "sr": "x", "password": "a", "password_file": "/b",
        "tls": {"insecure": true, "fingerprint": "00"}, "ssh": {"first_contact": "fixed"},
    });
    let problems = read(config).unwrap().problems();
    assert_eq!(problems.len(), 9, "{problems:#?}");
    let error = XcpngConfig::default().build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    for key in ["xcpng_host", "template", "password"] {
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn hosts_that_are_none_are_refused() {
    for good in [
        "pool",
        "10.0.0.1",
        "10.0.0.1:8443",
        "https://pool/",
        "[::1]:443",
        "fe80::1",
    ] {
        assert_eq!(
            problems(json!({"xcpng_host": good})),
            Vec::<String>::new(),
            "{good}"
        );
    }
    for bad in [
        "",
        "https://",
        "pool/path",
        "http://pool",
        "root:x@pool",
        "a b",
    ] {
        assert_eq!(problems(json!({"xcpng_host": bad})).len(), 1, "{bad}");
    }
}

#[test]
fn a_misspelt_key_is_refused_and_named() {
    let error = read(with(json!({"memroy": "2GB"})))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("memroy") && error.contains("`memory`"),
        "{error}"
    );
}

#[test]
fn a_wrong_value_is_named_by_its_key() {
    for (changes, told) in [
        (json!({"memory": "lots"}), "memory: \"lots\" is no size"),
        (
            json!({"boot_timeout": "soon"}),
            "boot_timeout: \"soon\" is no",
        ),
        (json!({"ssh": {"port": "22"}}), "ssh.port: invalid type"),
        (json!({"tags": ["a", 7]}), "tags[1]: invalid type"),
        (json!({"network_uuid": 7}), "network_uuid: expected a text"),
    ] {
        let error = read(with(changes)).unwrap_err().to_string();
        assert!(error.contains(&format!("is wrong: {told}")), "{error}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let config = read(minimal()).unwrap();
    assert!(!format!("{config:?}").contains("hush-hush"));
    assert!(!format!("{:?}", Settings::new(config).unwrap()).contains("hush-hush"));
    for (key, wrong) in [
        ("password", json!(12345678)),
        ("password", json!(["12345678"])),
        ("xcp_password", json!({"a": "12345678"})),
        ("password", json!(true)),
        ("password_command", json!("echo 12345678")),
        ("password_command", json!(["echo", 12345678])),
    ] {
        let error = read(with(json!({"password": null, key: wrong}))).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(&format!("{key}: a ")), "{told}");
        assert!(!format!("{error:?}").contains("12345678"), "{error:?}");
    }
    // Through a URL it would end in messages and logs.
    let problems = problems(json!({"xcpng_host": "https://root:12345678@pool"}));
    assert!(!problems[0].contains("12345678"), "{problems:?}");
}

#[test]
fn a_fixed_host_key_must_be_one() {
    let ssh = |key: &str| {
        json!({"ssh": {
            "first_contact": "fixed", "identity_file": "/k", "host_key": key,
        }})
    };
    assert_eq!(
        problems(ssh("ssh-ed25519 AAAAC3Nza comment")),
        Vec::<String>::new()
    );
    for bad in ["", "AAAAC3Nza", "ssh-ed25519 AAAA\n* ssh-rsa AAAA", "a b c"] {
        assert_eq!(problems(ssh(bad)).len(), 1, "{bad:?}");
    }
}
