use super::*;

fn config(user_data: &str) -> CloudConfig {
    let drive = ConfigDrive {
        meta_data: "instance-id: i-1\nlocal-hostname: one\n".to_owned(),
        source: Source::NoCloud,
        user_data: user_data.as_bytes().to_vec(),
        network_config: None,
    };
    CloudConfig::new(&drive, "debian")
}

#[test]
fn users_keys_files_and_commands_are_as_the_document_says() {
    let config = config(
        "#cloud-config\n\
         hostname: two.lan\n\
         users:\n- default\n- name: bio\n  groups: [adm, lua]\n  shell: /bin/bash\n  \
         ssh_authorized_keys: [k1, k2]\n\
         ssh_authorized_keys: [k0]\n\
         ssh_keys: {ed25519_private: p, ed25519_public: q}\n\
         write_files:\n- {path: /a, content: x, permissions: '0600', owner: 'bio'}\n- path: /b\n\
         runcmd:\n- [echo, \"it's\"]\n- echo $HOME\n",
    );
    assert_eq!(config.errors, Vec::<String>::new());
    assert_eq!(config.instance_id, "i-1");
    assert_eq!(config.hostname.as_deref(), Some("two"));
    let [default, bio, root] = &config.users[..] else {
        panic!("{:?}", config.users)
    };
    assert_eq!(
        (&*default.name, &default.keys[..]),
        ("debian", &["k0".to_owned()][..])
    );
    assert_eq!(bio.keys, ["k1", "k2"]);
    assert_eq!(
        bio.useradd,
        [
            ("--shell", "/bin/bash".to_owned()),
            ("--groups", "adm,lua".to_owned())
        ]
    );
    assert_eq!(root.name, "root");
    assert!(root.keys[0].ends_with(" k0") && root.keys[0].contains("login as the user"));
    assert_eq!(
        config.host_keys[0],
        ("ssh_host_ed25519_key".into(), "p".into())
    );
    assert_eq!(config.files[0].permissions, "0600");
    assert_eq!(config.files[1].permissions, "0644");
    assert_eq!(
        config.runcmd.as_deref(),
        Some("#!/bin/sh\n'echo' 'it'\\''s'\necho $HOME\n")
    );
}

#[test]
fn passwords_packages_and_the_last_word_are_read() {
    let config = config(
        "#cloud-config\n\
         password: one\n\
         chpasswd:\n  expire: false\n  list: |\n    lab:two\n    bio:$6$salt$hash\n  \
         users:\n  - {name: eve, password: three, type: text}\n\
         packages: [lua5.4, [luarocks, 3.8.0]]\n\
         package_update: true\n\
         final_message: up $UPTIME\n",
    );
    assert_eq!(config.errors, Vec::<String>::new());
    assert_eq!(config.passwords, ["debian:one", "lab:two", "eve:three"]);
    assert_eq!(config.password_hashes, ["bio:$6$salt$hash"]);
    assert_eq!(config.expired, Vec::<String>::new());
    assert_eq!(config.packages, ["lua5.4", "luarocks=3.8.0"]);
    assert!(config.package_update);
    assert_eq!(config.final_message.as_deref(), Some("up $UPTIME"));
}

#[test]
fn root_is_let_in_where_that_is_said() {
    let config = config(
        "#cloud-config\ndisable_root: false\nusers:\n- {name: root, ssh_authorized_keys: k}\n",
    );
    assert_eq!(config.users.len(), 1);
    assert_eq!(config.users[0].keys, ["k"]);
}

#[test]
fn what_is_not_understood_is_told() {
    for (user_data, word) in [
        ("#cloud-config\na: [", "Failed loading yaml"),
        ("#cloud-config\nswap: {}\n", "swap"),
        ("hostname: x\n", "neither with #cloud-config"),
        ("#cloud-config\nruncmd: {a: b}\n", "shellify"),
    ] {
        let errors = config(user_data).errors;
        assert!(
            errors.iter().any(|error| error.contains(word)),
            "{errors:?}"
        );
    }
    assert_eq!(
        config("#!/bin/sh\ntrue\n").user_scripts,
        ["#!/bin/sh\ntrue\n"]
    );
}

#[test]
fn a_drive_of_openstack_says_the_same_in_its_own_words() {
    let drive = ConfigDrive {
        source: Source::ConfigDrive,
        meta_data: r#"{"uuid": "i-2", "hostname": "two.lan", "public_keys": {"mine": "k1"}}"#
            .to_owned(),
        user_data: Vec::new(),
        network_config: Some(
            r#"{"links": [{"id": "l", "ethernet_mac_address": "02:00:00:00:00:01"}],
                "networks": [{"link": "l", "type": "ipv4", "ip_address": "10.0.0.5"}]}"#
                .to_owned(),
        ),
    };
    let config = CloudConfig::new(&drive, "debian");
    assert_eq!(config.errors, [""; 0]);
    assert_eq!(config.instance_id, "i-2");
    assert_eq!(config.hostname.as_deref(), Some("two"));
    assert_eq!(config.users[0].keys, ["k1"]);
    let expected = InterfaceConfig {
        mac: Some("02:00:00:00:00:01".to_owned()),
        address: "10.0.0.5".parse().ok(),
    };
    assert_eq!(config.interfaces, [expected]);
}

#[test]
fn the_end_of_power_is_read_or_told() {
    for (said, expected) in [
        ("{mode: poweroff}", Some(0)),
        ("{mode: halt, delay: +2}", Some(120)),
        ("{mode: poweroff, condition: false}", None),
    ] {
        let config = config(&format!("#cloud-config\npower_state: {said}\n"));
        assert_eq!(config.power_off, expected, "{said}");
        assert_eq!(config.errors, [""; 0], "{said}");
    }
    for (said, word) in [
        ("{mode: reboot}", "does not carry out mode reboot"),
        ("{mode: poweroff, delay: later}", "delay \"later\""),
        ("{delay: now}", "mode \"\""),
        ("{mode: halt, condition: test -e /x}", "no condition"),
    ] {
        let errors = config(&format!("#cloud-config\npower_state: {said}\n")).errors;
        assert!(errors.len() == 1 && errors[0].contains(word), "{errors:?}");
    }
}

#[test]
fn interfaces_of_both_versions_are_found() {
    let address = "10.0.0.5".parse().ok();
    let fixed = InterfaceConfig { mac: None, address };
    let asks = InterfaceConfig::default();
    let known = InterfaceConfig {
        mac: Some("02:00:00:00:00:01".to_owned()),
        address,
    };
    for (text, found) in [
        (
            "version: 2\nethernets: {eth0: {addresses: [10.0.0.5/24]}}\n",
            vec![fixed.clone()],
        ),
        (
            "network: {version: 2, ethernets: {e: {dhcp4: true}, f: {match: {macaddress: \
             '02:00:00:00:00:01'}, addresses: [10.0.0.5/24]}}}",
            vec![asks, known.clone()],
        ),
        (
            "version: 1\nconfig:\n- type: nameserver\n- type: physical\n  mac_address: \
             '02:00:00:00:00:01'\n  subnets: [{type: static, address: 10.0.0.5/24}]\n",
            vec![known],
        ),
        ("version: 2", Vec::new()),
    ] {
        let network = Node::parse(text).unwrap();
        assert_eq!(interfaces(&network), found, "{text}");
    }
}
