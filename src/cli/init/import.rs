//! What an earlier program has told of a pool, by today's keys.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use bioxen_vm_core::BackendConfig as _;
use bioxen_vm_xcpng::XcpngConfig;
use serde_json::{Map, Value};

use crate::cli::warn;
use crate::settings::value;

/// Keys and values, `ssh.user` for one in a table.
#[derive(Debug, Default)]
pub(super) struct Imported {
    keys: BTreeMap<String, Value>,
    /// Whether the file has several pools, of which a host names one.
    is_one_of_several: bool,
}

/// What is decided anew, whatever a file says of it.
const DECIDED: [&str; 2] = [
    // The password goes into a file of its own.
    "save_credentials",
    "verify_ssl",
];

/// What no earlier program has written, and an option says.
const ASKED: [(&str, &str); 2] = [
    ("tls", "--fingerprint"),
    ("password_", "--password-file or --password-variable"),
];

impl Imported {
    /// Reads one flat table of settings, or that of one pool among those of several, each by its URL.
    pub(super) fn read(path: &Path, host: Option<&str>) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let file: Value = serde_json::from_str(&text).map_err(|error| {
            // Serde's report may quote a password.
            anyhow::anyhow!("{} line {} is not JSON", path.display(), error.line())
        })?;
        let (url, settings) = match file.get("xcpng_configs").and_then(Value::as_object) {
            None => (None, &file),
            Some(pools) => {
                if file.get("vm_defaults").is_some() {
                    warn(
                        "vm_defaults is not taken over: what they set is said to each command, or not at \
                         all",
                    );
                }
                let (url, settings) = one_of(pools, host)
                    .with_context(|| format!("cannot take {}", path.display()))?;
                (Some(url), settings)
            }
        };
        let settings = settings
            .as_object()
            .with_context(|| format!("{} has no table of settings", path.display()))?;
        let mut imported = Self::of(settings);
        if let Some(url) = url {
            let host = Value::from(host_of(url));
            imported.keys.entry("xcpng_host".to_owned()).or_insert(host);
            imported.is_one_of_several = true;
        }
        Ok(imported)
    }

    /// Takes what has a meaning today, and tells what has none.
    fn of(settings: &Map<String, Value>) -> Self {
        let mut imported = Self::default();
        // What keys were called in the file.
        let mut names = BTreeMap::new();
        let inner = settings.get("vm_config").and_then(Value::as_object);
        let outer = settings.iter().filter(|(name, _)| *name != "vm_config");
        let all = outer.chain(inner.into_iter().flatten());
        for (name, known) in flat(all) {
            let (name, known) = (&name, known);
            let is_nothing = known.is_null() || known.as_str().is_some_and(str::is_empty);
            if is_nothing || DECIDED.contains(&name.as_str()) {
                if name == "verify_ssl" && *known == Value::Bool(false) {
                    warn(
                        "verify_ssl = false is not taken over: the certificate that is shown is trusted \
                         by its fingerprint, and no other",
                    );
                }
                continue;
            }
            if let Some((_, option)) = ASKED.iter().find(|(start, _)| name.starts_with(start)) {
                warn(&format!("{name} is not taken over: {option} says that"));
                continue;
            }
            let older = XcpngConfig::OLDER_KEYS.iter().find(|(old, _)| old == name);
            let key = older.map_or(name.as_str(), |(_, new)| new);
            let known = match known {
                Value::String(text) if key == "xcpng_host" => Value::from(host_of(text)),
                Value::String(text) => value(key, text),
                known => known.clone(),
            };
            names.insert(key.to_owned(), name.clone());
            imported.keys.insert(key.to_owned(), known);
        }
        imported.leave_out(&names);
        imported
    }

    /// Leaves out what would keep the settings from being used, each with its reason.
    fn leave_out(&mut self, names: &BTreeMap<String, String>) {
        let keys = &mut self.keys;
        if keys.contains_key("sr") && !keys.contains_key("clone") {
            warn(&format!(
                "{} needs full copies of the template: clone = \"copy\" is written beside it; without \
                 both, VMs are made at once, where their template is",
                names["sr"]
            ));
            keys.insert("clone".to_owned(), Value::from("copy"));
        }
        if keys.remove("ssh.identity_file").is_some() {
            warn(&format!(
                "{} is not taken over: keys are made for each VM; for a template with keys of its own \
                 write ssh.identity_file together with ssh.host_key or ssh.known_hosts",
                names["ssh.identity_file"]
            ));
        }
        // One that is no table keeps others from being one.
        let tables: Vec<_> = keys
            .keys()
            .filter_map(|key| key.split_once('.'))
            .map(|(table, _)| table.to_owned())
            .collect();
        for table in tables {
            if keys.remove(&table).is_some() {
                warn(&format!("{table} is not taken over: it is no table"));
            }
        }
        let config = nested(keys);
        for problem in XcpngConfig::check(&config) {
            // Of what is missing the file says nothing; that is asked for.
            if keys.remove(&problem.key).is_none() {
                continue;
            }
            let why = match (problem.is_unknown, XcpngConfig::advice(&problem.key)) {
                (false, _) => problem.message.as_str(),
                (true, Some(advice)) => advice.trim_start_matches("leave it out: "),
                (true, None) => "there is no such key any more",
            };
            let name = names.get(&problem.key).unwrap_or(&problem.key);
            warn(&format!("{name} is not taken over: {why}"));
        }
    }

    pub(super) fn is_one_of_several(&self) -> bool {
        self.is_one_of_several
    }

    /// A text that is needed here, and then no more by the settings.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        match self.keys.remove(key)? {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    /// What is left.
    pub(super) fn rest(self) -> BTreeMap<String, Value> {
        self.keys
    }
}

/// Keys and values with those of tables in them, as `ssh.user`.
fn flat<'v>(
    all: impl Iterator<Item = (&'v String, &'v Value)>,
) -> impl Iterator<Item = (String, &'v Value)> {
    all.flat_map(|(name, value)| match value {
        Value::Object(table) => table
            .iter()
            .map(|(key, value)| (format!("{name}.{key}"), value))
            .collect(),
        value => vec![(name.clone(), value)],
    })
}

/// A configuration of these keys.
fn nested(keys: &BTreeMap<String, Value>) -> Value {
    let mut config = Map::new();
    for (key, value) in keys {
        let (table, key) = match key.split_once('.') {
            Some((table, key)) => (
                config
                    .entry(table)
                    .or_insert_with(|| Value::Object(Map::new()))
                    .as_object_mut(),
                key,
            ),
            None => (Some(&mut config), key.as_str()),
        };
        if let Some(table) = table {
            table.insert(key.to_owned(), value.clone());
        }
    }
    Value::Object(config)
}

/// The pool that a host belongs to, or the only one.
fn one_of<'p>(
    pools: &'p Map<String, Value>,
    host: Option<&str>,
) -> anyhow::Result<(&'p str, &'p Value)> {
    let is_meant = |url: &str| host.is_none_or(|host| is_of(url, host));
    let mut fitting = pools.iter().filter(|(url, _)| is_meant(url));
    let known = || pools.keys().cloned().collect::<Vec<_>>().join(", ");
    match (fitting.next(), fitting.next()) {
        (Some((url, settings)), None) => Ok((url, settings)),
        (None, _) if pools.is_empty() => bail!("it has no pool"),
        (None, _) => bail!("it has no pool that --host names; it has {}", known()),
        _ => bail!("it has several pools; say which with --host: {}", known()),
    }
}

/// Whether a URL is of a host, for which its port need not be named.
fn is_of(url: &str, host: &str) -> bool {
    let (known, known_port) = name_and_port(url);
    let (name, port) = name_and_port(host);
    let of = |port: Option<&str>| port.unwrap_or("443").to_owned();
    known.eq_ignore_ascii_case(name) && port.is_none_or(|port| of(known_port) == port)
}

fn name_and_port(url: &str) -> (&str, Option<&str>) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = rest.rsplit('@').next().unwrap_or_default();
    match authority.rsplit_once(':') {
        // The colons of an IPv6 address are its own.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (authority, None),
    }
}

/// The host of a URL, which may have had a path, or no TLS.
fn host_of(url: &str) -> String {
    match name_and_port(url) {
        (name, Some(port)) => format!("https://{name}:{port}"),
        (name, None) => format!("https://{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_names_its_pool_and_no_other_one() {
        let pools = json!({
            "https://127.0.0.1:44187": 1, "https://127.0.0.1:441870/": 2,
            "http://pool.example/jsonrpc": 3, "https://me:pw@[fe80::1]:8443": 4,
        });
        let pools = pools.as_object().unwrap();
        let chosen = |host: &str| one_of(pools, Some(host)).map(|(_, pool)| pool.clone());
        for (host, pool) in [
            ("https://127.0.0.1:44187", 1),
            ("127.0.0.1:44187", 1),
            ("127.0.0.1:441870", 2),
            ("https://Pool.example", 3),
            ("pool.example:443", 3),
            ("[fe80::1]", 4),
            ("[fe80::1]:8443", 4),
        ] {
            assert_eq!(chosen(host).unwrap(), pool, "{host}");
        }
        for host in ["127.0.0.1", "pool", "pool.example:80", "0.0.1:44187"] {
            assert!(chosen(host).is_err(), "{host}");
        }
        assert!(one_of(pools, None).is_err());
        assert_eq!(
            host_of("http://pool.example/jsonrpc"),
            "https://pool.example"
        );
        assert_eq!(
            host_of("https://me:pw@[fe80::1]:8443/"),
            "https://[fe80::1]:8443"
        );
    }

    #[test]
    fn what_is_taken_over_can_be_used() {
        let old = json!({
            "xapi_url": "https://pool.example/", "username": "root", "password": "secret",
            "pool_uuid": "x", "template_name": "lua", "vm_name_prefix": "lab-", "network_uuid": "LAN",
            "storage_repository": "disks", "ssh_user": "bio", "ssh_key_path": "~/.ssh/id_rsa",
            "save_credentials": true, "vm_key_file": "", "colour": "red",
            "vm_config": {"memory": 4294967296_u64, "vcpus": "4"},
        });
        let imported = Imported::of(old.as_object().unwrap());
        let config = nested(&imported.keys);
        assert_eq!(
            config,
            json!({
                "xcpng_host": "https://pool.example", "username": "root", "password": "secret",
                "template": "lua", "name_prefix": "lab-", "network": "LAN", "sr": "disks",
                "clone": "copy", "ssh": {"user": "bio"}, "memory": 4294967296_u64, "vcpus": 4,
            })
        );
        assert_eq!(XcpngConfig::check(&config), []);
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let old = json!({
            "template": "lua", "memory": "lots", "vcpus": 0, "verify_ssl": false, "name": null,
            "ssh": "none", "ssh_user": "", "tls": {"insecure": true}, "password_file": "x",
            "vm_config": 1, "disks": [{"size": "1GB", "colour": "red"}],
        });
        let imported = Imported::of(old.as_object().unwrap());
        assert_eq!(nested(&imported.keys), json!({"template": "lua"}));
        let old = json!({"ssh": "none", "ssh_user": "bio"});
        let imported = Imported::of(old.as_object().unwrap());
        assert_eq!(nested(&imported.keys), json!({"ssh": {"user": "bio"}}));
    }
}
