//! `bioxen man`: the help of all commands as manual pages.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::Cli;

/// Where `man` finds them depends on where the program is.
const FINDING: &str = "\
man(1) looks beside the folders of PATH: for a program in ~/.cargo/bin or ~/.local/bin in \
~/.cargo/share/man/man1 or ~/.local/share/man/man1.";

#[derive(Debug, clap::Args)]
#[command(after_help = FINDING)]
pub(super) struct Args {
    /// The folder for the pages, made if need be
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let folder = &self.dir;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        write_all(&command, folder)
            .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A command that says itself what pages would otherwise leave out or tell unclearly.
fn explicit(command: &Command) -> Command {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let optional = command.get_arguments().filter(|arg| {
        let is_option = !arg.is_positional() && !arg.is_hide_set();
        is_option && !arg.is_required_set() && !usage.contains(&arg.to_string())
    });
    let options: Vec<_> = optional.map(|arg| format!("[{arg}]")).collect();
    let usage = usage.replace("[OPTIONS]", &options.join(" "));
    let explained = command.clone().mut_args(|arg| {
        let mut notes = Vec::new();
        if let Some(aliases) = arg.get_visible_aliases() {
            notes.extend(aliases.iter().map(|alias| format!("[alias: --{alias}]")));
        }
        let values = arg.get_default_values();
        let has_many = values.len() > 1;
        if has_many {
            let values: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
            notes.push(format!("[default: {}]", values.join(", then ")));
        }
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        match notes.is_empty() {
            true => arg,
            false => arg
                .hide_default_value(has_many)
                .help(format!("{help} {}", notes.join(" "))),
        }
    });
    explained.override_usage(usage)
}

/// Writes the page of a command, and those of all below it.
fn write_all(command: &Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        write_all(below, folder)?;
    }
    let page = Man::new(explicit(command));
    let mut text = Vec::new();
    let file = page.get_filename();
    let name = file.trim_end_matches(".1");
    // Without a date, which a build that can be repeated has none of; clap_mangen would then put the
    // version in its place.
    writeln!(
        text,
        r#".TH {name} 1 "" "BioXen {}""#,
        env!("CARGO_PKG_VERSION")
    )?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    if command.get_arguments().next().is_some() {
        page.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    if let Some(notes) = command.get_after_help() {
        let mut roff = Roff::new();
        roff.control("SH", ["NOTES"]);
        roff.text([roman(notes.to_string())]);
        roff.to_writer(&mut text)?;
    }
    std::fs::File::create(folder.join(file))?.write_all(&text)
}
