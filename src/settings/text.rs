//! What the text of an option or a variable is, which its key decides.

use serde_json::{Map, Value};

/// Keys whose text is a number, a truth value, a list or a table where it can be read as one. All others
/// stay text, so that a password of digits remains a password.
const NUMBERS: [&str; 7] = [
    "vcpus",
    "cores_per_socket",
    "port",
    "interface",
    "memory_mb",
    "max_processes",
    "idle_workers",
];
const FLAGS: [&str; 5] = [
    "insecure",
    "processes",
    "network",
    "fresh_process",
    "in_process",
];
const LISTS: [&str; 10] = [
    "address_cidr",
    "disks",
    "fingerprint",
    "nameservers",
    "read",
    "write",
    "tags",
    "network",
    "xcpng_host",
    "password_command",
];
const TABLES: [&str; 5] = ["static_address", "peers", "addresses", "tls", "ssh"];

/// Lists that one text is a list of one for.
const ONE_OR_MANY: [&str; 4] = ["nameservers", "read", "write", "tags"];

/// The value of a key, `ssh.port` for example, that is given by this text.
pub(crate) fn value(key: &str, text: &str) -> Value {
    let key = key.rsplit('.').next().unwrap_or(key);
    match read(text) {
        Some(number @ Value::Number(_)) if NUMBERS.contains(&key) => number,
        Some(flag @ Value::Bool(_)) if FLAGS.contains(&key) => flag,
        Some(list @ Value::Array(_)) if LISTS.contains(&key) => list,
        Some(table @ Value::Object(_)) if TABLES.contains(&key) => table,
        _ if ONE_OR_MANY.contains(&key) => Value::from(vec![text]),
        _ => Value::from(text),
    }
}

/// A text as JSON, or as a value is written in a settings file.
fn read(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| {
        let mut read: Map<String, Value> = toml::from_str(&format!("value = {text}")).ok()?;
        let value = read.remove("value")?;
        // More than one line of it would be a file.
        read.is_empty().then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_read_as_json_or_toml_where_its_key_is_no_text() {
        for (key, text, expected) in [
            ("peers.interface", "0", json!(0)),
            ("vcpus", "two", json!("two")),
            ("static_address.nameservers", "9.9.9.9", json!(["9.9.9.9"])),
            (
                "static_address.nameservers",
                "['9.9.9.9']",
                json!(["9.9.9.9"]),
            ),
            (
                "static_address",
                "{address = '10.0.0.5/24'}",
                json!({"address": "10.0.0.5/24"}),
            ),
            ("disks", "[{size = '1GB'}]", json!([{"size": "1GB"}])),
            ("disks", "[{\"size\": \"1GB\"}]", json!([{"size": "1GB"}])),
            ("tls", "{insecure = true}", json!({"insecure": true})),
            (
                "peers.addresses",
                "{a = '10.0.0.1'}",
                json!({"a": "10.0.0.1"}),
            ),
            ("password", "12345", json!("12345")),
            ("name", "[a]", json!("[a]")),
            ("vcpus", "1\nx = 2", json!("1\nx = 2")),
        ] {
            assert_eq!(value(key, text), expected, "{key}={text}");
        }
    }

    /// The rows of a page's tables of keys: the name, and of what type it is.
    fn rows(page: &str) -> impl Iterator<Item = (&str, &str)> {
        page.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let (names, kind) = (cells.next()?, cells.next()?);
            (!names.contains(", ")).then_some((names.trim_end_matches('`'), kind))
        })
    }

    #[test]
    fn every_key_can_be_given_by_text() {
        let mut seen = 0;
        for (key, kind) in rows(include_str!("../../docs/xcpng-configuration.md")) {
            let (text, expected) = match kind {
                "number" => ("7", json!(7)),
                "list" | "text or list" | "list of tables" => ("['a']", json!(["a"])),
                "table" => ("{a = 1}", json!({"a": 1})),
                "true, false" => ("true", json!(true)),
                "text" | "path" | "size" | "duration" => ("7", json!("7")),
                _ => continue,
            };
            seen += 1;
            assert_eq!(value(key, text), expected, "{key}, which is a {kind}");
        }
        assert!(seen > 25, "{seen}");
    }
}
