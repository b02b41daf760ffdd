//! Commands that need no tree: bundles, publishing, profiles and what others have left.

use std::process::ExitCode;

use anyhow::Context as _;
use bioxen_curator::{Bundle, import, publish};
use serde_json::json;

use super::target::{machine, read};
use super::{Args, Command, show};

/// What needs no tree.
pub(super) async fn without_tree(args: &Args) -> anyhow::Result<Option<ExitCode>> {
    match &args.command {
        Command::Bundle {
            requests,
            into,
            platforms,
        } => {
            let mut bundle = Bundle::new(args.target.servers()?).for_lua(args.target.luas());
            if !platforms.is_empty() {
                bundle = bundle.for_platforms(platforms.clone());
            }
            if let Some(cache) = args.target.cache() {
                bundle = bundle.with_cache(cache);
            }
            if let Some(timeout) = args.target.timeout {
                bundle = bundle.with_timeout(timeout);
            }
            let is_archive = into.to_string_lossy().ends_with(".tar.gz");
            let report = if is_archive {
                bundle.write_archive(requests, into).await?
            } else {
                bundle.write(requests, into).await?
            };
            let bytes: u64 = report.files.values().sum();
            let line = format!(
                "{} rocks, {bytes} bytes, for Lua {} on {}\n",
                report.rocks.len(),
                report.lua_versions.join(", "),
                report.platforms.join(", ")
            );
            show(args, &report, line)?;
        }
        Command::Publish { sources, into } => {
            let rocks = publish(sources, into, &machine()).await?;
            let lines = rocks.iter().map(|rock| format!("{rock}\n")).collect();
            show(args, &rocks, lines)?;
        }
        Command::Profiles { profile } => profiles(args, profile.as_deref())?,
        Command::Import { file } => {
            let imported = import(&read(file)?)
                .with_context(|| format!("cannot import {}", file.display()))?;
            let mut lines = String::new();
            for (name, value) in [
                ("Lua", &imported.lua_version),
                ("profile", &imported.profile),
            ] {
                if let Some(value) = value {
                    lines += &format!("# {name}: {value}\n");
                }
            }
            for (name, reason) in &imported.refused {
                lines += &format!("# left out {name:?}: {reason}\n");
            }
            for request in &imported.requests {
                lines += &format!("{request}\n");
            }
            let requests: Vec<_> = imported.requests.iter().map(ToString::to_string).collect();
            let value = json!({
                "lua": imported.lua_version,
                "profile": imported.profile,
                "requests": requests,
                "profiles": imported.profiles,
                "refused": imported.refused,
            });
            show(args, &value, lines)?;
        }
        _ => return Ok(None),
    }
    Ok(Some(ExitCode::SUCCESS))
}

fn profiles(args: &Args, profile: Option<&str>) -> anyhow::Result<()> {
    let catalogue = args.target.known()?;
    let Some(profile) = profile else {
        let line = |(name, profile): (&String, &bioxen_curator::Profile)| {
            format!("{name:<18}{}\n", profile.summary)
        };
        let lines = catalogue.profiles.iter().map(line).collect();
        return show(args, &catalogue.profiles, lines);
    };
    let selection = catalogue.select(profile)?;
    let requests: Vec<_> = selection.requests.iter().map(ToString::to_string).collect();
    let mut lines: String = requests.iter().map(|line| format!("{line}\n")).collect();
    for (name, reason) in &selection.unavailable {
        lines += &format!("# {name} is unavailable: {reason}\n");
    }
    let value = json!({"requests": requests, "unavailable": selection.unavailable});
    show(args, &value, lines)
}
