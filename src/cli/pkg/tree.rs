//! Commands on the rocks of a tree.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bioxen_curator::{Curator, Error, InstallReport, Lock, Progress, RockRequest};
use serde_json::json;

use super::super::telemetry::say;
use super::repair::remedies;
use super::target::read;
use super::{Args, Command, Install, show, verdict};

/// Does the work, and tells of it on standard error when somebody looks.
pub(super) async fn with_progress(args: &Args, curator: Curator) -> anyhow::Result<ExitCode> {
    if args.json || !std::io::stderr().is_terminal() {
        return on_tree(args, &curator).await;
    }
    let mut steps = curator.subscribe();
    let telling = tokio::spawn(async move {
        while let Ok(step) = steps.recv().await {
            if matches!(step, Progress::Finished { .. }) {
                continue;
            }
            say("INFO", &step.to_string());
        }
    });
    let result = on_tree(args, &curator).await;
    drop(curator);
    // All curators are gone, so it ends once it has told the last step.
    let _ = telling.await;
    result
}

async fn on_tree(args: &Args, curator: &Curator) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Install(install) => return self::install(args, install, curator).await,
        Command::Remove { names, force } => {
            let report = curator.remove(names, *force).await?;
            let lines = report
                .removed
                .iter()
                .map(|rock| format!("removed {rock}\n"));
            show(args, &report, lines.collect())?;
        }
        Command::List => {
            let rocks = curator.list().await?;
            let lines = rocks.iter().map(|rock| format!("{rock}\n")).collect();
            show(args, &rocks, lines)?;
        }
        Command::Info { request } => info(args, request, curator).await?,
        Command::Search { name } => {
            let found = curator.search(name).await?;
            let line = |found: &bioxen_curator::Found| format!("{} {}\n", found.rock, found.server);
            show(args, &found, found.iter().map(line).collect())?;
        }
        Command::Upgrade { names } => installed(args, &curator.upgrade(names).await?)?,
        Command::Verify { lock } => {
            let locked = lock.as_ref().map(Lock::read).transpose()?;
            let found = curator.verify(locked.as_ref()).await?;
            let mut lines = String::new();
            for (what, files) in [
                ("changed", &found.changed),
                ("missing", &found.missing),
                ("foreign", &found.foreign),
            ] {
                lines.extend(files.iter().map(|file| format!("{what} {file}\n")));
            }
            for (what, rocks) in [
                ("not as locked:", &found.unlocked),
                ("not locked:", &found.extra),
            ] {
                lines.extend(rocks.iter().map(|rock| format!("{what} {rock}\n")));
            }
            if found.is_good() {
                lines = format!("{} files are as they were installed\n", found.unchanged);
            }
            show(args, &found, lines)?;
            for remedy in remedies(curator, &found, lock.as_deref(), &args.target.as_said()).await?
            {
                say("INFO", &format!("bioxen: hint: {remedy}"));
            }
            return Ok(verdict(found.is_good()));
        }
        Command::Doctor => {
            let health = curator.doctor().await?;
            let lines = health.checks.iter().map(|check| format!("{check}\n"));
            show(args, &health, lines.collect())?;
            return Ok(verdict(health.is_good()));
        }
        Command::Undo => {
            let report = curator.undo().await?;
            let gone = report
                .removed
                .iter()
                .map(|rock| format!("removed {rock}\n"));
            let back = report
                .restored
                .iter()
                .map(|rock| format!("restored {rock}\n"));
            show(args, &report, gone.chain(back).collect())?;
        }
        Command::Lock { requests, output } => {
            let lock = curator.lock(requests).await?;
            lock.write(output)?;
            let line = format!("{} rocks in {}\n", lock.rocks.len(), output.display());
            show(args, &lock, line)?;
        }
        Command::Export => {
            let text = curator.export().await?;
            let lines: Vec<_> = text.lines().collect();
            show(args, &lines, text.clone())?;
        }
        Command::Recommend { profile } => {
            let catalogue = args.target.known()?;
            let found = catalogue.recommend(&curator.list().await?, profile.as_deref())?;
            let line = |found: &bioxen_curator::Recommendation| {
                format!("{}: {} ({})\n", found.rock, found.summary, found.reason)
            };
            show(args, &found, found.iter().map(line).collect())?;
        }
        Command::Env { remove: None } => {
            let names = curator.environments().await?;
            let lines = names.iter().map(|name| format!("{name}\n")).collect();
            show(args, &names, lines)?;
        }
        Command::Env { remove: Some(name) } => {
            curator.environment(name)?.remove().await?;
            show(args, &json!({"removed": name}), format!("removed {name}\n"))?;
        }
        Command::Path => {
            // Refuses a tree that could have no rocks.
            curator.list().await?;
            let site = curator.site();
            let variables = bioxen_vm_core::lua::search_path(&site.lua_version, &site.tree);
            let is_here = args.target.vm.is_none();
            let variables = variables.map(|(name, value)| {
                let value = match is_here {
                    true => before_what_is_set(&name, &value),
                    false => value,
                };
                (name, value)
            });
            let line = |(name, value): &(String, String)| {
                format!("export {name}='{}'\n", value.replace('\'', "'\\''"))
            };
            show(args, &variables, variables.iter().map(line).collect())?;
        }
        Command::Bundle { .. }
        | Command::Publish { .. }
        | Command::Profiles { .. }
        | Command::Import { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn install(args: &Args, install: &Install, curator: &Curator) -> anyhow::Result<ExitCode> {
    if let Some(file) = &install.locked {
        let lock = Lock::read(file)?;
        installed(args, &curator.install_locked(&lock).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut requests = install.requests.clone();
    if let Some(file) = &install.file {
        let more = RockRequest::read_all(&read(file)?);
        requests.extend(more.with_context(|| format!("cannot use {}", file.display()))?);
    }
    if let Some(profile) = &install.profile {
        let selection = args.target.known()?.select(profile)?;
        for (name, reason) in &selection.unavailable {
            super::super::warn(&format!("{name} is unavailable: {reason}"));
        }
        requests.extend(selection.requests);
    } else if requests.is_empty() {
        bail!("name a rock, a file with --requests, a --profile, or a lock with --locked");
    }
    if install.dry_run {
        let plan = curator.plan(&requests).await?;
        show(args, &plan, plan.to_string())?;
    } else {
        installed(args, &curator.install(&requests).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn installed(args: &Args, report: &InstallReport) -> anyhow::Result<()> {
    let mut line = report.to_string();
    if line.is_empty() {
        line = "nothing to install".into();
    }
    show(args, report, format!("{line}\n"))
}

async fn info(args: &Args, request: &RockRequest, curator: &Curator) -> anyhow::Result<()> {
    let there = curator.list().await?;
    let here = there.iter().any(|rock| request.accepts(rock));
    let (info, from, versions) = if here {
        let info = curator.info(&request.name).await?;
        // Servers are asked only where the user names them: what is installed needs none.
        match args.target.names_servers() {
            true => match curator.offered(request).await {
                Ok(offered) => (info, Some(offered.server), offered.versions),
                Err(Error::NoSuchRock { .. }) => (info, None, Vec::new()),
                Err(error) => return Err(error.into()),
            },
            false => (info, None, Vec::new()),
        }
    } else {
        let offered = curator.offered(request).await?;
        (offered.info, Some(offered.server), offered.versions)
    };
    let mut lines = format!("{}\n{}\n", info.rock, info.summary);
    let mut state = if here { "installed" } else { "not installed" }.to_owned();
    if let Some(server) = &from {
        state += &format!("; offered by {server}");
    }
    let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
    for (name, value) in [
        ("state", Some(state)),
        ("license", info.license.clone()),
        ("homepage", info.homepage.clone()),
        ("modules", Some(info.modules.join(", "))),
        ("needs", Some(info.dependencies.join("; "))),
        ("versions", Some(versions.join(", "))),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            lines += &format!("{name}: {value}\n");
        }
    }
    let value = json!({"info": info, "installed": here, "server": from, "versions": versions});
    show(args, &value, lines)
}

/// A search path in front of what this variable, or that for every Lua, has already.
fn before_what_is_set(name: &str, ours: &str) -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let general = name.split("_5").next().unwrap_or(name);
    let ours = ours.strip_suffix(';').unwrap_or(ours);
    match set(name).or_else(|| set(general)) {
        Some(theirs) if theirs.starts_with(ours) => theirs,
        Some(theirs) => format!("{ours}{theirs}"),
        None => format!("{ours};"),
    }
}
