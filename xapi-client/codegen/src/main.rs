//! Generates `xapi-client/src/generated` from `xapi-client/schema`.

mod coverage;
mod descriptor;
mod emit;
mod lower;
mod names;
#[cfg(test)]
mod tests;
mod ty;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

/// Generates the typed part of xapi-client from its schema.
#[derive(Parser)]
struct Arguments {
    /// The schema directory.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema"))]
    descriptor: PathBuf,
    /// Where the generated files go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/generated"))]
    output: PathBuf,
    /// Write nothing; fail and name the files that differ.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Print what of the schema the generated files hold and why the rest is left out; fail when something is
    /// missing without a reason.
    Coverage,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let descriptor = descriptor::Descriptor::load(&arguments.descriptor)?;
    if let Some(Command::Coverage) = arguments.command {
        return coverage(&descriptor, &arguments.output);
    }
    let overrides =
        toml::from_str(include_str!("../overrides.toml")).context("cannot parse overrides.toml")?;
    let api = lower::lower(&descriptor, &overrides)?;
    let files = emit::emit(&descriptor, &api)?;
    let stale = stale(&arguments.output, &files)?;
    if arguments.check {
        check(&arguments.output, &files, &stale)
    } else {
        write(&arguments.output, &files, &stale)
    }
}

fn coverage(descriptor: &descriptor::Descriptor, generated: &Path) -> Result<()> {
    let coverage = coverage::Coverage::of(descriptor, generated)?;
    #[allow(clippy::print_stdout, reason = "it is what was asked for")]
    {
        print!("{coverage}");
    }
    match coverage.missing().len() {
        0 => Ok(()),
        missing => bail!("{missing} items are neither generated nor left out for a reason"),
    }
}

/// Files in the output directory that would no longer be generated.
fn stale(output: &Path, files: &BTreeMap<PathBuf, String>) -> Result<Vec<PathBuf>> {
    if !output.exists() {
        return Ok(Vec::new());
    }
    let entries =
        fs::read_dir(output).with_context(|| format!("cannot list {}", output.display()))?;
    let mut stale = Vec::new();
    for entry in entries {
        let name = PathBuf::from(entry?.file_name());
        if !files.contains_key(&name) {
            stale.push(name);
        }
    }
    stale.sort();
    Ok(stale)
}

fn check(output: &Path, files: &BTreeMap<PathBuf, String>, stale: &[PathBuf]) -> Result<()> {
    let mut differing: Vec<_> = files
        .iter()
        .filter(|(name, text)| fs::read(output.join(name)).ok().as_deref() != Some(text.as_bytes()))
        .map(|(name, _)| format!("{} differs", output.join(name).display()))
        .collect();
    differing.extend(
        stale
            .iter()
            .map(|name| format!("{} is stale", output.join(name).display())),
    );
    if differing.is_empty() {
        return Ok(());
    }
    bail!(
        "generated code is out of date, run `make codegen`:\n  {}",
        differing.join("\n  ")
    )
}

fn write(output: &Path, files: &BTreeMap<PathBuf, String>, stale: &[PathBuf]) -> Result<()> {
    fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    for (name, text) in files {
        let path = output.join(name);
        // An unchanged file keeps its time stamp, and cargo its build.
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    for name in stale {
        let path = output.join(name);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
