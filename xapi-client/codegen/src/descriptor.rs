//! The schema as it lies on disk: one directory of JSON files, facts only.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The whole datamodel.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) schema: Schema,
    pub(crate) classes: Vec<Class>,
    pub(crate) enums: Vec<Enum>,
    pub(crate) errors: Vec<ErrorCode>,
    /// The first twelve hex digits of the SHA-256 of every file read, in reading order.
    pub(crate) hash: String,
}

/// `schema.json`: what is not part of a class.
#[derive(Debug, Deserialize)]
pub(crate) struct Schema {
    pub(crate) provenance: Provenance,
    pub(crate) releases: Vec<Release>,
    pub(crate) numbered_versions: Vec<String>,
    /// Class names in the order of the datamodel.
    pub(crate) classes: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Provenance {
    pub(crate) datamodel: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Release {
    /// Absent where no life cycle entry names the release.
    pub(crate) code_name: Option<String>,
    pub(crate) api_version: Option<String>,
    pub(crate) branding: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Class {
    pub(crate) name: String,
    /// Present where `event.from` covers the class.
    pub(crate) event_name: Option<String>,
    pub(crate) in_database: bool,
    pub(crate) persist: bool,
    pub(crate) lifecycle: Vec<String>,
    #[serde(default)]
    pub(crate) absent_in_xcpng: Vec<String>,
    pub(crate) constructor_fields: Vec<ConstructorField>,
    pub(crate) fields: Vec<Field>,
    pub(crate) messages: Vec<Message>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConstructorField {
    pub(crate) name: String,
    pub(crate) required: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// The dotted path where the field sits in a namespace, `name.label`.
    pub(crate) path: Option<String>,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) qualifier: String,
    pub(crate) default: Option<Value>,
    pub(crate) lifecycle: Vec<String>,
    #[serde(default)]
    pub(crate) internal: bool,
    #[serde(default = "yes")]
    pub(crate) persist: bool,
    #[serde(default = "read_only")]
    pub(crate) min_role_get: String,
    pub(crate) min_role_set: Option<String>,
    #[serde(default)]
    pub(crate) map_keys_min_role: BTreeMap<String, String>,
    pub(crate) relation: Option<String>,
    #[serde(default)]
    pub(crate) absent_in_xcpng: Vec<String>,
}

impl Field {
    /// The column in the server's database: namespaces are joined with two underscores.
    pub(crate) fn column(&self) -> String {
        self.path.as_ref().unwrap_or(&self.name).replace('.', "__")
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) params: Vec<Param>,
    pub(crate) result: String,
    #[serde(default)]
    pub(crate) errors: Vec<String>,
    #[serde(default, rename = "async")]
    pub(crate) has_async: bool,
    #[serde(default = "yes")]
    pub(crate) needs_session: bool,
    pub(crate) min_role: String,
    pub(crate) lifecycle: Vec<String>,
    #[serde(default)]
    pub(crate) hidden: bool,
    #[serde(default)]
    pub(crate) pool_internal: bool,
    #[serde(default)]
    pub(crate) absent_in_xcpng: Vec<String>,
    #[serde(default)]
    pub(crate) differs_in_xcpng: BTreeMap<String, Difference>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Param {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    /// Present where the parameter, and all after it, may be left out.
    pub(crate) default: Option<Value>,
    #[serde(default)]
    pub(crate) constructor_record: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Difference {
    pub(crate) params: Option<Vec<Param>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Enum {
    pub(crate) name: String,
    pub(crate) values: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ErrorCode {
    pub(crate) code: String,
    pub(crate) params: Option<Vec<String>>,
}

fn yes() -> bool {
    true
}

fn read_only() -> String {
    "read-only".to_owned()
}

/// The place of an item in the life cycle of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Prototyped,
    Published,
    Deprecated,
    Removed,
}

/// The last state that a life cycle names; `changed` entries do not alter the state.
pub(crate) fn state(lifecycle: &[String]) -> State {
    lifecycle
        .iter()
        .rev()
        .find_map(|step| match step.split(' ').next() {
            Some("prototyped") => Some(State::Prototyped),
            Some("published") => Some(State::Published),
            Some("deprecated") => Some(State::Deprecated),
            Some("removed") => Some(State::Removed),
            _ => None,
        })
        .unwrap_or(State::Published)
}

/// The release in which a life cycle entered the given state.
pub(crate) fn release_of<'a>(lifecycle: &'a [String], state: &str) -> Option<&'a str> {
    lifecycle
        .iter()
        .find_map(|step| step.split_once(' ').filter(|(name, _)| *name == state))
        .map(|(_, release)| release)
}

impl Descriptor {
    /// Reads a schema directory.
    pub(crate) fn load(directory: &Path) -> Result<Self> {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        let schema: Schema = read(directory, "schema.json", &mut hash)?;
        let Enums { enums } = read(directory, "enums.json", &mut hash)?;
        let Errors { errors } = read(directory, "errors.json", &mut hash)?;
        let classes = schema
            .classes
            .iter()
            .map(|name| read(directory, &format!("classes/{name}.json"), &mut hash))
            .collect::<Result<_>>()?;
        let digest = hash.finish();
        let hash = digest.as_ref()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            schema,
            classes,
            enums,
            errors,
            hash,
        })
    }
}

#[derive(Deserialize)]
struct Enums {
    enums: Vec<Enum>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<ErrorCode>,
}

fn read<T: DeserializeOwned>(
    directory: &Path,
    name: &str,
    hash: &mut ring::digest::Context,
) -> Result<T> {
    let path = directory.join(name);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    hash.update(&text);
    serde_json::from_slice(&text).with_context(|| format!("cannot parse {}", path.display()))
}
