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
    assert_eq!(problems.len(), 10, "{problems:#?}");
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
        "https://pool.example:8443/",
        "[fe80::1]",
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
        "host:99999",
        "host:",
        "h:44x",
        "h:0",
        "[::1",
        "[::1]x",
        "[h]:443",
        "a:b:c",
    ] {
        assert_eq!(problems(json!({"xcpng_host": bad})).len(), 1, "{bad}");
    }
}

#[test]
fn names_that_cannot_be_are_refused() {
    for (changes, told) in [
        (
            json!({"ssh": {"user": "-oProxyCommand=id"}}),
            "begins with -",
        ),
        (json!({"ssh": {"user": "we ird"}}), "without spaces"),
        (json!({"ssh": {"user": "a\nb"}}), "without spaces"),
        (
            json!({"ssh": {"user": ""}}),
            "ssh.user is empty; leave it out",
        ),
        (json!({"lua": ""}), "lua is empty; leave it out"),
        (json!({"username": " "}), "username is empty; leave it out"),
        (
            json!({"network": "uuid:"}),
            "give the uuid behind the colon",
        ),
        (
            json!({"network": ["a", "bridge:"]}),
            "give the bridge behind",
        ),
        (
            json!({"name": "a\nb"}),
            "name: \"a\\nb\" holds a line break",
        ),
        (json!({"tags": ["a", "b\u{7}"]}), "tags: "),
    ] {
        let problems = problems(changes.clone());
        assert_eq!(problems.len(), 1, "{changes}: {problems:?}");
        assert!(problems[0].contains(told), "{problems:?}");
    }
    for user in ["root", "DOMAIN.user", "bio_1", "user@realm"] {
        let problems = problems(json!({"ssh": {"user": user}}));
        assert_eq!(problems, Vec::<String>::new(), "{user}");
    }
}

#[test]
fn a_wrong_key_is_told_beside_a_contradiction_and_beside_one_of_a_wrong_type() {
    let ssh = json!({"first_contact": "config-drive", "host_key": "garbage", "user": "bio"});
    let tls = json!({"insecure": true, "fingerprint": ["12:34", "zz"]});
    let told = XcpngConfig::check(&with(json!({
        "ssh": ssh, "tls": tls, "tags": [1, "a\nb", 2],
    })));
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    for part in [
        "tags[0]: a text is needed",
        "tags[2]: a text is needed",
        "need ssh.first_contact = \"fixed\"",
        "ssh.host_key \"garbage\" is no public key",
        "give only one of tls.fingerprint",
    ] {
        assert!(
            told.iter().any(|one| one.contains(part)),
            "{part}: {told:#?}"
        );
    }
    let wrong_pins = told
        .iter()
        .filter(|one| one.starts_with("tls.fingerprint: "));
    assert_eq!(wrong_pins.count(), 2, "{told:#?}");
}

#[test]
fn a_misspelt_key_is_refused_and_named() {
    let error = read(with(json!({"memroy": "2GB"})))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unknown key \"memroy\"; did you mean \"memory\"?"),
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
        (
            json!({"ssh": {"port": "22"}}),
            "ssh.port: a whole number from 0 to 65535 is needed, not \"22\"",
        ),
        (
            json!({"tags": ["a", 7]}),
            "tags[1]: a text is needed, not 7",
        ),
        (json!({"network_uuid": 7}), "network_uuid: expected a text"),
        (
            json!({"network": []}),
            "network: the list is empty; name one",
        ),
        (
            json!({"address_cidr": []}),
            "address_cidr: the list is empty; name one",
        ),
        (
            json!({"disks": [{"size": "1GB", "bogus": 1}]}),
            "disks[0].bogus: unknown key \"bogus\"; there are size, sr, name",
        ),
        (
            json!({"peers": {"interface": "0"}}),
            "peers.interface: a whole number, not negative, is needed, not \"0\"",
        ),
        (
            json!({"disks": ["1GB"]}),
            "disks[0]: a table is needed, not \"1GB\"",
        ),
        (
            json!({"network": "a", "network_uuid": "b"}),
            "network is given twice, once by another of its names",
        ),
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

#[test]
fn problems_of_all_kinds_are_told_at_once() {
    let config = json!({
        "xcp_host": "pool.example", "memroy": "2GB", "template": 7, "vcpus": 0,
        "ssh": {"port": "22", "prt": 22}, "vm_password": "x", "sr": "s", "password_file": "~/p",
    });
    let told = XcpngConfig::check(&config);
    let keys: Vec<_> = told.iter().map(|problem| &*problem.key).collect();
    assert_eq!(
        keys,
        [
            "memroy",
            "ssh.port",
            "ssh.prt",
            "template",
            "vm_password",
            "sr",
            "password_file",
            "vcpus"
        ],
        "{told:#?}"
    );
    let error = read(config).unwrap_err().to_string();
    for problem in &told {
        assert!(error.contains(&problem.message), "{problem} in {error}");
    }
    assert!(error.contains("give ssh.identity_file"), "{error}");
}

#[test]
fn a_variable_is_for_the_program_to_read() {
    let told = problems(json!({"password": null, "password_variable": "POOL_PASSWORD"}));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("POOL_PASSWORD"), "{told:?}");
}

#[test]
fn keys_of_a_template_make_the_first_contact_a_fixed_one() {
    let ssh = json!({"ssh": {"identity_file": "/k", "host_key": "ssh-ed25519 AAAA"}});
    let settings = Settings::new(read(with(ssh)).unwrap()).unwrap();
    assert!(matches!(
        settings.login.keys,
        crate::settings::Keys::Fixed { .. }
    ));
}

/// The keys that serde takes for a type, those of older dialects included.
fn keys<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    use serde::de::{Deserializer, Visitor, value::Error};
    struct Ask<'a>(&'a mut Vec<&'static str>);
    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom("no struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields);
            Err(serde::de::Error::custom("asked"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut found = Vec::new();
    let _ = T::deserialize(Ask(&mut found));
    found
}

#[test]
fn every_key_is_in_the_documentation_and_no_other() {
    let older: Vec<_> = XcpngConfig::OLDER_KEYS
        .iter()
        .map(|(old, _)| *old)
        .collect();
    let mut all: Vec<String> = Vec::new();
    for key in keys::<XcpngConfig>() {
        let table = match key {
            "tls" => keys::<TlsConfig>(),
            "ssh" => keys::<SshConfig>(),
            _ if older.contains(&key) => continue,
            _ => {
                all.push(key.to_owned());
                continue;
            }
        };
        all.extend(table.iter().map(|inner| format!("{key}.{inner}")));
    }
    let page = include_str!("../../../docs/xcpng-configuration.md");
    let (page, of_old) = page.split_once("## Older names").unwrap();
    let in_first_column = |page: &str| -> Vec<String> {
        let cells = page.lines().filter_map(|line| line.strip_prefix("| `"));
        cells
            .filter_map(|rest| Some(rest.split_once(" |")?.0.to_owned()))
            .flat_map(|cell| {
                let names = cell
                    .split(", ")
                    .map(|name| name.trim_matches('`').to_owned());
                names.collect::<Vec<_>>()
            })
            .filter(|name| !name.starts_with("vm-data/"))
            .collect()
    };
    let mut documented = in_first_column(page);
    all.sort();
    documented.sort();
    assert_eq!(documented, all);
    let mut documented = in_first_column(of_old);
    let mut older: Vec<_> = older.into_iter().map(str::to_owned).collect();
    older.sort();
    documented.sort();
    assert_eq!(documented, older);
    for (old, new) in XcpngConfig::OLDER_KEYS {
        let mut config = with(json!({"template": null, "xcpng_host": null, "password": null}));
        config[old] = json!("x");
        let unknown = XcpngConfig::check(&config)
            .into_iter()
            .any(|problem| problem.key == *old);
        assert!(!unknown, "{old} for {new}");
    }
}

/// What the page says stands in a key that is left out makes no difference when it is written there.
#[test]
fn the_defaults_on_the_page_are_those_of_the_types() {
    let page = include_str!("../../../docs/xcpng-configuration.md");
    let mut seen = 0;
    for line in page.lines() {
        let mut cells = line
            .strip_prefix("| `")
            .into_iter()
            .flat_map(|row| row.split(" | "));
        let (Some(key), Some(_kind), Some(default)) = (cells.next(), cells.next(), cells.next())
        else {
            continue;
        };
        let key = key.trim_end_matches('`');
        let Ok(default) = serde_json::from_str::<serde_json::Value>(default.trim_matches('`'))
        else {
            continue;
        };
        seen += 1;
        let mut config = minimal();
        match key.split_once('.') {
            Some((table, inner)) => config[table] = json!({inner: default}),
            None => config[key] = default,
        }
        let (written, left_out) = (read(config).unwrap(), read(minimal()).unwrap());
        assert_eq!(format!("{written:?}"), format!("{left_out:?}"), "{key}");
    }
    assert!(seen > 8, "{seen}");
}
