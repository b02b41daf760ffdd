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
    if let Ok(config) = try_to_read(all.clone()) {
        return Read {
            config: Some(config),
            problems: Vec::new(),
        };
    }
    let mut good = all.clone();
    let mut problems = Vec::new();
    for (key, value) in all {
        let Err(wrong) = try_to_read::<C>(single(key, value.clone())) else {
            continue;
        };
        let inner = in_table::<C>(key, value, advice);
        if inner.is_empty() {
            good.remove(key);
            problems.push(wrong.problem(key, advice));
            continue;
        }
        for (inner, problem) in inner {
            if let Some(Value::Object(table)) = good.get_mut(key) {
                table.remove(&inner);
            }
            problems.push(problem);
        }
    }
    let config = match try_to_read(good) {
        Ok(config) => Some(config),
        Err(wrong) => {
            // Each key is right, and together they are not: one of them is given by two names.
            if problems.is_empty() {
                problems.push(ConfigProblem::new("", wrong.message));
            }
            None
        }
    };
    Read { config, problems }
}

/// What is wrong with the keys of a table, each looked at alone.
fn in_table<C: DeserializeOwned>(
    table: &str,
    value: &Value,
    advice: fn(&str) -> Option<&'static str>,
) -> Vec<(String, ConfigProblem)> {
    let Value::Object(inner) = value else {
        return Vec::new();
    };
    let keys = inner.iter().filter_map(|(key, value)| {
        let alone = Value::Object(single(key, value.clone()));
        let wrong = try_to_read::<C>(single(table, alone)).err()?;
        // What is missing beside it is not its fault.
        let path = format!("{table}.{key}");
        wrong
            .path
            .starts_with(&path)
            .then(|| (key.clone(), wrong.problem(&path, advice)))
    });
    keys.collect()
}

fn single(key: &str, value: Value) -> Map<String, Value> {
    [(key.to_owned(), value)].into_iter().collect()
}

/// Why a value could not be read.
struct Wrong {
    path: String,
    message: String,
}

fn try_to_read<C: DeserializeOwned>(config: Map<String, Value>) -> Result<C, Wrong> {
    serde_path_to_error::deserialize(Value::Object(config)).map_err(|error| Wrong {
        path: error.path().to_string(),
        message: error.into_inner().to_string(),
    })
}

impl Wrong {
    fn problem(self, key: &str, advice: fn(&str) -> Option<&'static str>) -> ConfigProblem {
        // In a list it is further down than the key that has the list.
        let whole = match self.path.starts_with(key) {
            true => &self.path,
            false => key,
        };
        let known = unknown_key(&self.message);
        let message = match &known {
            Some(known) => {
                let last = whole.rsplit('.').next().unwrap_or(whole);
                let remedy = match advice(key) {
                    Some(advice) => advice.to_owned(),
                    None => instead(last, known),
                };
                format!("{whole}: unknown key {last:?}; {remedy}")
            }
            None => format!("{whole}: {}", self.message),
        };
        ConfigProblem {
            is_unknown: known.is_some(),
            ..ConfigProblem::new(key, message)
        }
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
        list: Vec<Inner>,
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
            messages[0].starts_with("inner.port: invalid type"),
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
            messages[3].starts_with("names[1]: invalid type"),
            "{messages:?}"
        );
        assert_eq!(
            messages[4],
            "nmes: unknown key \"nmes\"; did you mean \"names\"?"
        );
        assert_eq!(messages[5], "old: unknown key \"old\"; leave it out");
        assert_eq!(
            messages[6],
            "zzzzzz: unknown key \"zzzzzz\"; there are memory, limit, time, names, inner, list"
        );
        let config = told.config.unwrap();
        assert_eq!(config.time, Some(Duration::from_secs(30)));
        assert_eq!((config.inner.port, &*config.inner.user), (0, "y"));
        assert_eq!((config.memory, config.names.len()), (None, 0));
    }

    #[test]
    fn a_key_that_is_given_by_two_names_is_told() {
        assert_eq!(
            messages(json!({"time": 1, "limit": 2})),
            ["duplicate field `time`"]
        );
    }

    #[test]
    fn an_unknown_key_is_known_as_such_also_in_a_list() {
        let config = json!({"list": [{"prot": 1}], "nmes": 1, "names": 7});
        let told = read::<Config>(&config, |_| None).problems;
        let told: Vec<_> = told
            .iter()
            .map(|problem| (problem.key.as_str(), problem.is_unknown))
            .collect();
        assert_eq!(told, [("list", true), ("names", false), ("nmes", true)]);
        assert_eq!(
            messages(config)[0],
            "list[0].prot: unknown key \"prot\"; did you mean \"port\"?"
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
