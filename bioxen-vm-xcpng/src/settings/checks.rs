//! What is wrong with the values of a configuration, one by one and beside each other.

use std::net::Ipv6Addr;
use std::num::NonZeroU16;

use bioxen_vm_core::ConfigProblem;

use crate::config::{CloneMode, FirstContact, XcpngConfig};

/// Tells all problems but those of the password, the certificate and the keys.
pub(super) fn all(config: &XcpngConfig, problems: &mut Vec<ConfigProblem>) {
    check_names(config, problems);
    check_processors(config, problems);
    check_drive(config, problems);
}

fn check_names(config: &XcpngConfig, problems: &mut Vec<ConfigProblem>) {
    let mut tell = |key: &str, message: String| problems.push(ConfigProblem::new(key, message));
    if config.xcpng_host.is_empty() {
        let message = "xcpng_host is missing; give the name or address of a host of the pool";
        tell("xcpng_host", message.into());
    }
    for host in &config.xcpng_host {
        if let Err(reason) = check_host(host) {
            // What stands before an @ may be a password.
            let shown = host.rsplit('@').next().unwrap_or_default();
            tell("xcpng_host", format!("xcpng_host {shown:?} {reason}"));
        }
    }
    for (key, value) in [
        ("username", &config.username),
        ("ssh.user", &config.ssh.user),
        ("lua", &config.lua),
    ] {
        if value.trim().is_empty() {
            tell(
                key,
                format!("{key} is empty; leave it out for its default, or give a name"),
            );
        }
    }
    for (key, mut names) in [
        ("network", config.network.as_slice()),
        ("sr", config.sr.as_slice()),
        ("name", config.name.as_slice()),
        ("affinity", config.affinity.as_slice()),
        ("tags", &config.tags),
    ]
    .map(|(key, names)| (key, names.iter()))
    {
        if names.any(|name| name.trim().is_empty()) {
            tell(key, format!("{key} is empty; leave it out, or give a name"));
        }
    }
    for name in &config.network {
        if let Some((kind @ ("uuid" | "name" | "bridge" | "tag"), "")) = name.split_once(':') {
            let message =
                format!("network {name:?} names nothing; give the {kind} behind the colon");
            tell("network", message);
        }
    }
    let of_disks = config.disks.iter().filter_map(|disk| disk.name.as_ref());
    let of_disks: Vec<_> = of_disks.collect();
    for (key, mut names) in [
        ("name", Vec::from_iter(&config.name)),
        ("name_prefix", vec![&config.name_prefix]),
        ("tags", Vec::from_iter(&config.tags)),
        ("disks", of_disks),
    ] {
        names.retain(|name| name.contains(char::is_control));
        for name in names {
            let message = "holds a line break or another sign that cannot be shown; leave it out";
            tell(key, format!("{key}: {name:?} {message}"));
        }
    }
    if let Some(problem) = wrong_login(&config.ssh.user) {
        tell(
            "ssh.user",
            format!("ssh.user {:?} {problem}", config.ssh.user),
        );
    }
    if config.sr.is_some() && config.clone == CloneMode::Fast {
        tell(
            "sr",
            "sr needs clone = \"copy\": a fast clone stays on the storage of its template".into(),
        );
    }
    for cidr in config.address_cidr.iter().filter(|cidr| !cidr.is_network()) {
        let message = format!("address_cidr {cidr} is no network; give it as \"10.0.0.0/24\"");
        tell("address_cidr", message);
    }
    if config.ssh.port == 0 {
        tell("ssh.port", "ssh.port cannot be 0".into());
    }
    for (key, time) in [
        ("expiry", Some(config.expiry)),
        ("boot_timeout", Some(config.boot_timeout)),
        ("execution_timeout", config.execution_timeout),
    ] {
        if time.is_some_and(|time| time.is_zero()) {
            tell(key, format!("{key} cannot be 0"));
        }
    }
    for (key, path) in [
        ("password_file", &config.password_file),
        ("tls.ca_file", &config.tls.ca_file),
        ("ssh.identity_file", &config.ssh.identity_file),
        ("ssh.known_hosts", &config.ssh.known_hosts),
        ("state_dir", &config.state_dir),
    ] {
        if path.as_ref().is_some_and(|path| path.starts_with("~")) {
            tell(
                key,
                format!(
                    "{key}: only the program bioxen knows whose home ~ is; give the whole path"
                ),
            );
        }
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    const NO_HOST: &str = "is no host; give a name or address, with or without a port";
    const NO_PORT: &str =
        "has no port behind the colon; give a number from 1 to 65535, or leave it out";
    if host.starts_with("http://") {
        return Err("would send the password in the clear; use https://");
    }
    let rest = host.strip_prefix("https://").unwrap_or(host);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("holds a user name; give username and password as keys of their own");
    }
    if rest.parse::<Ipv6Addr>().is_ok() {
        return Ok(());
    }
    let (name, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest
                .split_once(']')
                .ok_or("has no ] behind its IPv6 address")?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err("has no IPv6 address in its brackets");
            }
            // An address with a name's signs is one.
            ("v6", port)
        }
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let is_of_name = |c: char| c.is_alphanumeric() || "-._".contains(c);
    if name.is_empty() || !name.chars().all(is_of_name) {
        return Err(NO_HOST);
    }
    match port.strip_prefix(':').map(str::parse::<NonZeroU16>) {
        Some(Ok(_)) => Ok(()),
        None if port.is_empty() => Ok(()),
        _ => Err(NO_PORT),
    }
}

/// What keeps a name from being one to log in with: what ssh takes for an option, or refuses.
fn wrong_login(user: &str) -> Option<&'static str> {
    let is_refused =
        |c: char| c.is_whitespace() || c.is_control() || "'`\"\\;&<>|(){}$".contains(c);
    if user.starts_with('-') {
        return Some("begins with -, as options of ssh do; give the name of a user");
    }
    // That it is empty is told as such.
    let is_wrong = !user.trim().is_empty() && user.contains(is_refused);
    is_wrong.then_some("is no name to log in with; give one without spaces, quotes and brackets")
}

fn check_processors(config: &XcpngConfig, problems: &mut Vec<ConfigProblem>) {
    for (key, is_zero) in [
        ("memory", config.memory.is_some_and(|memory| memory.0 == 0)),
        ("disks", config.disks.iter().any(|disk| disk.size.0 == 0)),
        ("vcpus", config.vcpus == Some(0)),
        ("cores_per_socket", config.cores_per_socket == Some(0)),
    ] {
        if is_zero {
            let what = if key == "disks" {
                "the size of a disk"
            } else {
                key
            };
            problems.push(ConfigProblem::new(key, format!("{what} cannot be 0")));
        }
    }
    if let (Some(vcpus), Some(cores @ 1..)) = (config.vcpus, config.cores_per_socket)
        && !vcpus.is_multiple_of(cores)
    {
        problems.push(ConfigProblem::new(
            "cores_per_socket",
            format!("{vcpus} vcpus are no multiple of {cores} cores_per_socket"),
        ));
    }
}

fn check_drive(config: &XcpngConfig, problems: &mut Vec<ConfigProblem>) {
    if let Some(fixed) = &config.static_address {
        let found = fixed.problems().into_iter();
        problems.extend(found.map(|problem| ConfigProblem::new("static_address", problem)));
        if let FirstContact::VmData | FirstContact::Fixed = config.ssh.first_contact {
            problems.push(ConfigProblem::new(
                "static_address",
                "static_address needs ssh.first_contact = \"config-drive\": nothing else carries it",
            ));
        }
    }
    if let Some(peers) = &config.peers {
        let mut tell = |problem| problems.push(ConfigProblem::new("peers", problem));
        let found = peers.problems(config.network.len());
        found.into_iter().for_each(&mut tell);
        if config.static_address.is_some() && peers.interface == 0 {
            tell("peers.interface is 0, which has a static_address".to_owned());
        }
        if let FirstContact::VmData | FirstContact::Fixed = config.ssh.first_contact {
            tell(
                "peers needs ssh.first_contact = \"config-drive\": nothing else carries it"
                    .to_owned(),
            );
        }
    }
    if config.ssh.first_contact == FirstContact::ConfigDrive && !is_user_name(&config.ssh.user) {
        problems.push(ConfigProblem::new(
            "ssh.user",
            format!(
                "ssh.user {:?} is no name for a user that cloud-init can make; give lower-case \
                 letters, digits, _ and -",
                config.ssh.user
            ),
        ));
    }
}

fn is_user_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_later = |c: char| is_first(c) || c.is_ascii_digit() || c == '-';
    name.len() <= 32 && name.starts_with(is_first) && name.chars().all(is_later)
}
