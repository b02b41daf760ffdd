//! `bioxen config`: what holds in the end and where it comes from, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{bail, ensure};
use bioxen_vm_core::Value;
use clap::Subcommand;
use serde_json::json;

use super::{Place, print, with_defaults};
use crate::settings::{Problem, Settings, sort};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print what holds in the end and where each key comes from; secrets are not shown
    Show(Selection),
    /// Tell all that is wrong, one problem to a line; ends with 1 when there is something
    Check(Selection),
    /// Write the settings of a pool into a file, from options, questions at a terminal or an older
    /// file, and test them
    #[cfg(feature = "xcpng")]
    Init(Box<super::init::Init>),
}

impl Args {
    /// Whether the settings file is made, and so need not be there.
    pub(super) fn makes_a_file(&self) -> bool {
        match self.action {
            #[cfg(feature = "xcpng")]
            Action::Init(_) => true,
            _ => false,
        }
    }

    /// Whether what is wrong with the settings file is the result, and no error.
    pub(super) fn tells_problems(&self) -> bool {
        matches!(self.action, Action::Check(_))
    }
}

#[derive(Debug, clap::Args)]
struct Selection {
    /// Only this VM type; else all of this build that are configured
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    vm_type: Option<String>,

    /// Set a key, `template=lua-bio-template` for example; --type says of which type, where several
    /// have one of this name
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Print JSON, one object to a line
    #[arg(long)]
    json: bool,
}

impl Selection {
    fn types(&self, settings: &mut Settings) -> anyhow::Result<Vec<String>> {
        let all: Vec<_> = crate::factory().vm_types().map(str::to_owned).collect();
        let Some(vm_type) = &self.vm_type else {
            for assignment in &self.set {
                let vm_type = type_of(assignment, &all, settings)?;
                settings.set(&vm_type, assignment)?;
            }
            let configured = all.into_iter().filter(|vm_type| settings.has(vm_type));
            let configured: Vec<_> = configured.collect();
            ensure!(
                !configured.is_empty() || settings.pools().is_empty(),
                "the settings file has pools and nothing else; choose one with --pool: {}",
                settings.pools().join(", ")
            );
            return Ok(configured);
        };
        ensure!(
            all.contains(vm_type),
            "unknown VM type {vm_type:?}; types in this build: {}",
            all.join(", ")
        );
        for assignment in &self.set {
            settings.set(vm_type, assignment)?;
        }
        Ok(vec![vm_type.clone()])
    }
}

/// The VM type that a setting is meant for: the one that has such a key, or of several the one that is
/// configured.
fn type_of(assignment: &str, all: &[String], settings: &Settings) -> anyhow::Result<String> {
    let mut having = Vec::new();
    for vm_type in all {
        let mut alone = Settings::new();
        alone.set(vm_type, assignment)?;
        let problems = crate::factory().check(vm_type, &alone.config(vm_type))?;
        if !problems.iter().any(|problem| problem.is_unknown) {
            having.push(vm_type);
        }
    }
    let candidates = if having.is_empty() {
        all.iter().collect()
    } else {
        having
    };
    let is_configured = |one: &&String| settings.has(one);
    let configured: Vec<_> = candidates.iter().copied().filter(is_configured).collect();
    match (candidates.as_slice(), configured.as_slice()) {
        ([one], _) | (_, [one]) => Ok((*one).clone()),
        (several, _) => {
            let key = assignment.split('=').next().unwrap_or_default();
            let several: Vec<_> = several.iter().map(|one| one.as_str()).collect();
            bail!(
                "{key:?} may be meant for several VM types ({}); say which with --type",
                several.join(", ")
            )
        }
    }
}

/// Does it. `wrong` is what could not be understood of the settings file.
pub(super) async fn run(
    args: Args,
    settings: Settings,
    place: Place,
    wrong: Vec<Problem>,
) -> anyhow::Result<ExitCode> {
    #[cfg(not(feature = "xcpng"))]
    let _ = place;
    match args.action {
        #[cfg(feature = "xcpng")]
        Action::Init(args) => Box::pin(super::init::init(*args, settings, place)).await,
        Action::Show(selection) => show(&selection, settings),
        Action::Check(selection) => check(&selection, settings, wrong),
    }
}

fn show(selection: &Selection, mut settings: Settings) -> anyhow::Result<ExitCode> {
    for vm_type in selection.types(&mut settings)? {
        if !selection.json {
            print(&format!("[{vm_type}]\n"))?;
        }
        let config = with_defaults(&settings, &vm_type);
        let unknown = unknown_keys(&vm_type, &config)?;
        let mut keys = Vec::new();
        flatten("", &config, &mut keys);
        for (key, value) in keys {
            // One that nobody knows may be a misspelt password.
            let is_hidden = is_secret(&key, &value) || is_in(&unknown, &key);
            let origin = settings
                .origin(&vm_type, &key)
                .map_or_else(|| "default".to_owned(), ToString::to_string);
            let line = match selection.json {
                true => {
                    let value = (!is_hidden).then_some(value);
                    json!({"type": vm_type, "key": key, "value": value, "origin": origin})
                        .to_string()
                }
                false if is_hidden => format!("{key} = {}  # {origin}", hidden(&key, &value)),
                // JSON's texts, numbers and lists are TOML too.
                false => format!("{key} = {value}  # {origin}"),
            };
            print(&format!("{line}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(
    selection: &Selection,
    mut settings: Settings,
    wrong: Vec<Problem>,
) -> anyhow::Result<ExitCode> {
    let types = match selection.types(&mut settings) {
        // Where the types should stand something else does.
        Err(_) if !wrong.is_empty() && selection.vm_type.is_none() => Vec::new(),
        types => types?,
    };
    let mut found = wrong;
    for vm_type in &types {
        let config = with_defaults(&settings, vm_type);
        found.extend(settings.check(&crate::factory(), vm_type, &config)?);
        found.extend(settings.missing_files(vm_type, &config));
    }
    sort(&mut found);
    for problem in &found {
        let (vm_type, line, told) = (&problem.vm_type, problem.line(), problem.to_string());
        print(&match (selection.json, vm_type) {
            (true, _) => {
                let json = json!({"type": vm_type, "line": line, "problem": told});
                format!("{json}\n")
            }
            (false, Some(vm_type)) => format!("[{vm_type}] {told}\n"),
            (false, None) => format!("{told}\n"),
        })?;
    }
    match (types.is_empty(), found.is_empty()) {
        _ if selection.json => {}
        (true, _) => print("nothing is configured\n")?,
        (false, true) => print("nothing is wrong\n")?,
        (false, false) => {}
    }
    Ok(ExitCode::from(u8::from(!found.is_empty())))
}

/// The keys of a table and of those in it.
fn flatten(prefix: &str, value: &Value, keys: &mut Vec<(String, Value)>) {
    let Value::Object(table) = value else { return };
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            Value::Object(_) => flatten(&format!("{key}."), value, keys),
            _ => keys.push((key, value.clone())),
        }
    }
}

/// What stands in place of a value that is not shown. Of a command the program is.
fn hidden(key: &str, value: &Value) -> String {
    match (key, value.get(0)) {
        ("password_command", Some(program)) => format!("[{program}, (not shown)]"),
        _ => "(not shown)".to_owned(),
    }
}

/// The keys of a configuration that its VM type does not know.
fn unknown_keys(vm_type: &str, config: &Value) -> anyhow::Result<BTreeSet<String>> {
    let problems = crate::factory().check(vm_type, config)?;
    let unknown = problems.into_iter().filter(|problem| problem.is_unknown);
    Ok(unknown.map(|problem| problem.key).collect())
}

/// Whether a key is one of these, or below one.
fn is_in(keys: &BTreeSet<String>, key: &str) -> bool {
    keys.iter().any(|known| {
        let below = key.strip_prefix(known.as_str());
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Whether a key is called as secrets are, or its value may hold one. The file or variable that holds
/// a secret is none.
fn is_secret(key: &str, value: &Value) -> bool {
    let is_elsewhere = ["_file", "_variable"].iter().any(|end| key.ends_with(end));
    // The first also has the arguments of a command, the last what we do not know, as the
    // `vm_password` of an older library.
    let words = ["password", "passphrase", "secret", "token"];
    let is_called_so = !is_elsewhere && words.iter().any(|word| key.contains(word));
    // A URL may hold a password.
    let is_url = matches!(key, "xcpng_host" | "xcp_host" | "xapi_url");
    is_called_so || (is_url && value.to_string().contains('@'))
}

/// A configuration without what is secret, as keys with the dots of TOML.
pub(super) fn without_secrets(config: &Value) -> BTreeMap<String, Value> {
    let mut keys = Vec::new();
    flatten("", config, &mut keys);
    keys.retain(|(key, value)| !is_secret(key, value));
    keys.into_iter().collect()
}

/// Whether `KEY=VALUE` says nothing secret.
pub(super) fn is_public(assignment: &str) -> bool {
    let (key, value) = assignment.split_once('=').unwrap_or((assignment, ""));
    !is_secret(key, &Value::String(value.to_owned()))
}
