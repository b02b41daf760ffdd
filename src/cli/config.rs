//! `bioxen config`: what holds in the end and where it comes from, and what is wrong with it.

use std::process::ExitCode;

use anyhow::ensure;
use bioxen_vm_core::Value;
use clap::Subcommand;

use super::{Place, print, with_defaults};
use crate::settings::Settings;

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
}

#[derive(Debug, clap::Args)]
struct Selection {
    /// Only this VM type; else all of this build that are configured
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    vm_type: Option<String>,

    /// Set a key, `template=lua-bio-template` for example; needs --type
    #[arg(
        long = "set",
        short = 's',
        value_name = "KEY=VALUE",
        requires = "vm_type"
    )]
    set: Vec<String>,
}

impl Selection {
    fn types(&self, settings: &mut Settings) -> anyhow::Result<Vec<String>> {
        let all: Vec<_> = crate::factory().vm_types().map(str::to_owned).collect();
        let Some(vm_type) = &self.vm_type else {
            let configured = all.into_iter().filter(|vm_type| settings.has(vm_type));
            return Ok(configured.collect());
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

pub(super) async fn run(
    args: Args,
    mut settings: Settings,
    place: Place,
) -> anyhow::Result<ExitCode> {
    #[cfg(not(feature = "xcpng"))]
    let _ = place;
    match args.action {
        #[cfg(feature = "xcpng")]
        Action::Init(args) => Box::pin(super::init::init(*args, settings, place)).await,
        Action::Show(selection) => {
            for vm_type in selection.types(&mut settings)? {
                print(&format!("[{vm_type}]\n"))?;
                let config = with_defaults(&settings, &vm_type);
                let mut lines = Vec::new();
                collect("", &config, &mut lines);
                for (key, value) in lines {
                    let origin = settings
                        .origin(&vm_type, &key)
                        .map_or_else(|| "default".to_owned(), ToString::to_string);
                    print(&format!("{key} = {value}  # {origin}\n"))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Check(selection) => {
            let mut is_good = true;
            let types = selection.types(&mut settings)?;
            if types.is_empty() {
                print("nothing is configured\n")?;
                return Ok(ExitCode::SUCCESS);
            }
            for vm_type in types {
                let config = with_defaults(&settings, &vm_type);
                for problem in settings.check(&crate::factory(), &vm_type, &config)? {
                    is_good = false;
                    print(&format!("[{vm_type}] {problem}\n"))?;
                }
            }
            if is_good {
                print("nothing is wrong\n")?;
            }
            Ok(ExitCode::from(u8::from(!is_good)))
        }
    }
}

/// The keys of a table and of those in it, with their values as TOML has them.
fn collect(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let Value::Object(table) = value else { return };
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            Value::Object(_) => collect(&format!("{key}."), value, lines),
            _ => lines.push((key.clone(), shown(&key, value))),
        }
    }
}

fn shown(key: &str, value: &Value) -> String {
    match key {
        // Its arguments may be secret.
        "password_command" => match value.get(0) {
            Some(program) => format!("[{program}, (not shown)]"),
            None => value.to_string(),
        },
        // JSON's texts, numbers and lists are TOML too. A URL may hold a password.
        "xcpng_host" if value.to_string().contains('@') => "(not shown)".to_owned(),
        // Also what we do not know, as the `vm_password` of an older library.
        _ if is_secret(key) => "(not shown)".to_owned(),
        _ => value.to_string(),
    }
}

/// Whether a key is called as secrets are. The file or variable that holds one is none.
fn is_secret(key: &str) -> bool {
    let is_elsewhere = ["_file", "_variable"].iter().any(|end| key.ends_with(end));
    let words = ["password", "passphrase", "secret", "token"];
    !is_elsewhere && words.iter().any(|word| key.contains(word))
}
