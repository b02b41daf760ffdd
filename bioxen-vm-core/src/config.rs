//! Configurations are judged as a whole: whoever writes one is told all that is wrong with it.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::words::distance;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigProblem {
    /// The key that it is about, `ssh.user` for one in a table. Empty when it is about none.
    pub key: String,
    /// What is wrong and what to do, in one clause that names the key.
    pub message: String,
    /// Whether there is no such key. What its value means, and whether it is a secret, nobody knows.
    pub is_unknown: bool,
}

impl ConfigProblem {
    /// Describes a problem of a key.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
            is_unknown: false,
        }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What could be read of a configuration, and what could not.
#[derive(Debug)]
pub(crate) struct Read<C> {
    /// Made of the keys that are right; absent where not even they fit together.
    pub(crate) config: Option<C>,
    pub(crate) problems: Vec<ConfigProblem>,
}

/// Reads a configuration key by key. `advice` knows what to do about some keys that are unknown.
pub(crate) fn read<C: DeserializeOwned>(
    config: &Value,
    advice: fn(&str) -> Option<&'static str>,
) -> Read<C> {
    let empty = Map::new();
    let all = match config {
        Value::Null => &empty,
        Value::Object(all) => all,
        _ => {
            let message = "a configuration is a table of keys and values";
            return Read {
                config: None,
                problems: vec![ConfigProblem::new("", message)],
            };
        }
    };
    if let Ok(config) = try_to_read(Value::Object(all.clone())) {
        return Read {
            config: Some(config),
            problems: Vec::new(),
        };
    }
    let mut reading = Reading {
        advice,
        problems: Vec::new(),
    };
    let good = reading.right_keys::<C>(&|inner| Value::Object(inner), None, all);
    let mut problems = reading.problems;
    let config = match try_to_read(Value::Object(good)) {
        Ok(config) => Some(config),
        Err(wrong) => {
            // Each key is right, and together they are not: one of them is given by two names.
            if problems.is_empty() {
                problems.push(ConfigProblem::new("", plain(&wrong.message)));
            }
            None
        }
    };
    Read { config, problems }
}

/// Finds the parts of a configuration that are wrong, each looked at alone.
struct Reading {
    advice: fn(&str) -> Option<&'static str>,
    problems: Vec<ConfigProblem>,
}

/// Where a value stands: as serde calls it in a configuration that has nothing else, and as it is called
/// in the whole one. They differ in the numbers of a list's elements.
struct At {
    alone: String,
    told: String,
}

impl At {
    fn key(outer: Option<&Self>, key: &str) -> Self {
        let name = |outer: &str| format!("{outer}.{key}");
        Self {
            alone: outer.map_or_else(|| key.to_owned(), |outer| name(&outer.alone)),
            told: outer.map_or_else(|| key.to_owned(), |outer| name(&outer.told)),
        }
    }

    fn element(outer: &Self, number: usize) -> Self {
        Self {
            alone: format!("{}[0]", outer.alone),
            told: format!("{}[{number}]", outer.told),
        }
    }
}

impl Reading {
    /// The keys of a table that are right.
    fn right_keys<C: DeserializeOwned>(
        &mut self,
        around: &dyn Fn(Map<String, Value>) -> Value,
        at: Option<&At>,
        table: &Map<String, Value>,
    ) -> Map<String, Value> {
        let keys = table.iter().filter_map(|(key, value)| {
            let around = |value| around(single(key, value));
            let right = self.right::<C>(&around, &At::key(at, key), value)?;
            Some((key.clone(), right))
        });
        keys.collect()
    }

    /// What of a value is right; nothing when it is wrong as a whole.
    fn right<C: DeserializeOwned>(
        &mut self,
        around: &dyn Fn(Value) -> Value,
        at: &At,
        value: &Value,
    ) -> Option<Value> {
        let wrong = match try_to_read::<C>(around(value.clone())) {
            Err(wrong) if wrong.path.starts_with(&at.alone) => wrong,
            // What is missing beside it is not its fault.
            _ => return Some(value.clone()),
        };
        let before = self.problems.len();
        let rest = match value {
            Value::Object(table) => {
                let around = |table| around(Value::Object(table));
                Value::Object(self.right_keys::<C>(&around, Some(at), table))
            }
            Value::Array(all) => {
                let elements = all.iter().enumerate().filter_map(|(number, one)| {
                    let around = |one| around(Value::Array(vec![one]));
                    self.right::<C>(&around, &At::element(at, number), one)
                });
                Value::Array(elements.collect())
            }
            _ => Value::Null,
        };
        if self.problems.len() == before {
            self.problems.push(wrong.problem(at, self.advice));
            return None;
        }
        // Without its wrong parts it may lack what it must have.
        try_to_read::<C>(around(rest.clone())).ok().map(|_: C| rest)
    }
}

fn single(key: &str, value: Value) -> Map<String, Value> {
    [(key.to_owned(), value)].into_iter().collect()
}

/// Why a value could not be read.
struct Wrong {
    path: String,
    message: String,
}

fn try_to_read<C: DeserializeOwned>(config: Value) -> Result<C, Wrong> {
    serde_path_to_error::deserialize(config).map_err(|error| Wrong {
        path: error.path().to_string(),
        message: error.into_inner().to_string(),
    })
}

impl Wrong {
    fn problem(self, at: &At, advice: fn(&str) -> Option<&'static str>) -> ConfigProblem {
        let key = &at.told;
        let known = unknown_key(&self.message);
        let message = match &known {
            Some(known) => {
                let last = key.rsplit('.').next().unwrap_or(key);
                let remedy = match advice(key) {
                    Some(advice) => advice.to_owned(),
                    None => instead(last, known),
                };
                format!("{key}: unknown key {last:?}; {remedy}")
            }
            None => format!("{key}: {}", plain(&self.message)),
        };
        // Where it comes from is known of keys, not of what is in their lists.
        let key = key.split('[').next().unwrap_or(key);
        ConfigProblem {
            is_unknown: known.is_some(),
            ..ConfigProblem::new(key, message)
        }
    }
}

/// What serde says of a value, in words that do not come from Rust.
fn plain(message: &str) -> String {
    let quoted = |text: &str| Some(text.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let wrong = ["invalid type: ", "invalid value: "];
    let wrong = wrong.iter().find_map(|start| message.strip_prefix(start));
    if let Some((found, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("{} is needed, not {}", needed(expected), given(found));
    }
    if let Some(key) = message.strip_prefix("missing field ").and_then(quoted) {
        return format!("{key} is missing in it");
    }
    if let Some(key) = message.strip_prefix("duplicate field ").and_then(quoted) {
        return format!("{key} is given twice, once by another of its names; keep one of them");
    }
    let variants = message.strip_prefix("unknown variant `");
    if let Some((given, known)) = variants.and_then(|rest| rest.split_once("`, expected ")) {
        let known = known.split('`').skip(1).step_by(2);
        let known: Vec<_> = known.map(|one| format!("{one:?}")).collect();
        return format!("{given:?} is not among {}", known.join(", "));
    }
    message.to_owned()
}

/// What a value has to be.
fn needed(expected: &str) -> String {
    let whole = |most: &str| format!("a whole number from 0 to {most}");
    match expected {
        "u8" => whole("255"),
        "u16" => whole("65535"),
        "u32" => whole("4294967295"),
        "u64" | "usize" => "a whole number, not negative,".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" | "a borrowed string" | "string or map" => "a text".to_owned(),
        "path string" => "a path".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

/// What a value is.
fn given(found: &str) -> String {
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "a table".to_owned(),
        "null" | "unit value" | "Option value" => "nothing".to_owned(),
        _ => match found.split_once(' ') {
            Some(("string", text)) => text.to_owned(),
            _ => match found.split('`').nth(1) {
                Some(value) => value.to_owned(),
                None => found.to_owned(),
            },
        },
    }
}

/// The keys that serde would have taken, when what it says is that it does not know one.
fn unknown_key(message: &str) -> Option<Vec<&str>> {
    let expected = message.strip_prefix("unknown field `")?;
    // Between every other pair of backticks is a key; the first is the unknown one.
    Some(expected.split('`').skip(2).step_by(2).collect())
}

/// The key that was probably meant, or all.
fn instead(key: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|known| (distance(key, known), *known))
        .min();
    match nearest {
        Some((letters, nearest)) if letters <= 1 + key.chars().count() / 4 => {
            format!("did you mean {nearest:?}?")
        }
        _ => format!("there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::words::{self, ByteSize};

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        memory: Option<ByteSize>,
        #[serde(alias = "limit", with = "words::duration")]
        time: Option<Duration>,
        names: Vec<String>,
        inner: Inner,
        disks: Vec<Disk>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Disk {
        size: ByteSize,
        name: Option<String>,
        kind: Option<Kind>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Fast,
        Slow,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        port: u16,
        user: String,
    }

    fn messages(config: Value) -> Vec<String> {
        let read = read::<Config>(&config, |key| (key == "old").then_some("leave it out"));
        read.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_wrong_keys_are_told_and_the_right_ones_are_read() {
        let config = json!({
            "memory": "lots", "time": "30s", "nmes": [], "names": ["a", 7], "old": 1, "zzzzzz": 1,
            "inner": {"port": "22", "usr": "x", "user": "y"},
        });
        let told = read::<Config>(&config, |key| (key == "old").then_some("leave it out"));
        let (keys, messages): (Vec<_>, Vec<_>) = told
            .problems
            .into_iter()
            .map(|problem| (problem.key, problem.message))
            .unzip();
        assert_eq!(
            keys,
            [
                "inner.port",
                "inner.usr",
                "memory",
                "names",
                "nmes",
                "old",
                "zzzzzz"
            ]
        );
        assert!(
            messages[0].starts_with("inner.port: a whole number from 0 to 65535"),
            "{messages:?}"
        );
        assert_eq!(
            messages[1],
            "inner.usr: unknown key \"usr\"; did you mean \"user\"?"
        );
        assert!(
            messages[2].starts_with("memory: \"lots\" is no size"),
            "{messages:?}"
        );
        assert!(
            messages[3].starts_with("names[1]: a text is needed, not 7"),
            "{messages:?}"
        );
        assert_eq!(
            messages[4],
            "nmes: unknown key \"nmes\"; did you mean \"names\"?"
        );
        assert_eq!(messages[5], "old: unknown key \"old\"; leave it out");
        assert_eq!(
            messages[6],
            "zzzzzz: unknown key \"zzzzzz\"; there are memory, limit, time, names, inner, disks"
        );
        let config = told.config.unwrap();
        assert_eq!(config.time, Some(Duration::from_secs(30)));
        assert_eq!((config.inner.port, &*config.inner.user), (0, "y"));
        assert_eq!(
            (config.memory, &config.names[..]),
            (None, &["a".to_owned()][..])
        );
    }

    #[test]
    fn an_unknown_key_is_known_as_such_also_in_a_list() {
        let config = json!({"disks": [{"siez": 1}], "nmes": 1, "names": 7});
        let told = read::<Config>(&config, |_| None).problems;
        let told: Vec<_> = told
            .iter()
            .map(|problem| (problem.key.as_str(), problem.is_unknown))
            .collect();
        assert_eq!(told, [("disks", true), ("names", false), ("nmes", true)]);
        assert_eq!(
            messages(config)[0],
            "disks[0].siez: unknown key \"siez\"; did you mean \"size\"?"
        );
    }

    #[test]
    fn each_part_of_a_list_is_looked_at_and_told_in_plain_words() {
        let config = json!({
            "names": [1, "a", true],
            "inner": 7,
            "disks": [
                {"size": "1GB", "bogus": 1}, {"name": "x"}, {"size": "1GB", "kind": "quick"},
                {"size": "2GB", "name": 5}, "all", {"size": "3GB", "name": "y", "kind": "slow"},
            ],
        });
        let told = read::<Config>(&config, |_| None);
        let messages: Vec<_> = told.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "disks[0].bogus: unknown key \"bogus\"; there are size, name, kind",
                "disks[1]: size is missing in it",
                "disks[2].kind: \"quick\" is not among \"fast\", \"slow\"",
                "disks[3].name: a text is needed, not 5",
                "disks[4]: a table is needed, not \"all\"",
                "inner: a table is needed, not 7",
                "names[0]: a text is needed, not 1",
                "names[2]: a text is needed, not true",
            ]
        );
        assert!(told.problems.iter().all(|one| !one.key.contains('[')));
        let disks = told.config.unwrap().disks;
        let sizes: Vec<_> = disks.iter().map(|disk| disk.size.0 >> 30).collect();
        assert_eq!(sizes, [1, 1, 2, 3]);
        let last = disks.last().unwrap();
        assert_eq!(
            (last.name.as_deref(), &last.kind),
            (Some("y"), &Some(Kind::Slow))
        );
    }

    #[test]
    fn a_key_that_is_given_by_two_names_is_told() {
        assert_eq!(
            messages(json!({"time": 1, "limit": 2})),
            ["time is given twice, once by another of its names; keep one of them"]
        );
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(
            messages(json!([1])),
            ["a configuration is a table of keys and values"]
        );
        assert_eq!(messages(Value::Null), Vec::<String>::new());
    }
}
