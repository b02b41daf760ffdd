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

/// Writes the page of a command, and those of all below it.
fn write_all(command: &Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        write_all(below, folder)?;
    }
    let page = Man::new(command.clone())
        // Where a date would be, which a build that can be repeated has none of.
        .date(concat!("bioxen ", env!("CARGO_PKG_VERSION")))
        .source("BioXen");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
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
    std::fs::File::create(folder.join(page.get_filename()))?.write_all(&text)
}
