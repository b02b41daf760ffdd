//! Questions at a terminal.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail, ensure};
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use rustyline::error::ReadlineError;

use crate::cli::interrupt::Interrupted;
use crate::cli::print;

/// Whoever sits there and can be asked, or nobody.
#[derive(Debug, Clone, Copy)]
pub(super) struct Person {
    is_there: bool,
    /// Whether standard output is theirs to read. It is a program's with `--json`.
    reads: bool,
}

impl Person {
    /// Nobody is asked where a program reads the answers.
    pub(super) fn unless(json: bool) -> Self {
        Self {
            is_there: !json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
            reads: !json,
        }
    }

    pub(super) fn is_there(self) -> bool {
        self.is_there
    }

    /// Tells what only a person wants to know.
    pub(super) fn tell(self, text: &str) -> anyhow::Result<()> {
        match self.reads {
            true => print(text),
            false => Ok(()),
        }
    }

    /// Asks for what an option would have said.
    pub(super) async fn ask(
        self,
        option: &str,
        what: &str,
        default: Option<&str>,
    ) -> anyhow::Result<String> {
        if !self.is_there {
            return match default {
                Some(default) => Ok(default.to_owned()),
                None => bail!("give {option}: there is no terminal to ask at"),
            };
        }
        let prompt = match default {
            Some(default) => format!("{what} [{default}]: "),
            None => format!("{what}: "),
        };
        loop {
            let line = line(prompt.clone()).await?;
            match (line.trim(), default) {
                ("", Some(default)) => return Ok(default.to_owned()),
                ("", None) => {}
                (line, _) => return Ok(line.to_owned()),
            }
        }
    }

    /// Asks whether something is so, which it is not unless they say so.
    pub(super) async fn agrees(self, option: &str, question: &str) -> anyhow::Result<bool> {
        let question = format!("{question} (yes or no)");
        let answer = self.ask(option, &question, Some("no")).await?;
        Ok(matches!(answer.as_str(), "yes" | "y"))
    }

    /// Asks for a password, which is not shown.
    pub(super) async fn ask_password(self, username: &str) -> anyhow::Result<String> {
        let terminal = std::io::stdin();
        let _restored = Restored::at_the_end()?;
        let mut hidden = tcgetattr(&terminal).context("cannot use the terminal")?;
        hidden.local_flags -= LocalFlags::ECHO;
        // Nothing may leave the terminal like that. Ctrl-C need not be kept from it: it ends us in order.
        hidden.control_chars[SpecialCharacterIndices::VSUSP as usize] = DISABLED;
        hidden.control_chars[SpecialCharacterIndices::VQUIT as usize] = DISABLED;
        print(&format!("password of {username}: "))?;
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden).context("cannot use the terminal")?;
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        let read = read.await.context("cannot read the password")?;
        let line = read.context("cannot read the password")?;
        print("\n")?;
        let password = line.trim_end_matches(['\n', '\r']);
        ensure!(!password.is_empty(), "there is no password");
        Ok(password.to_owned())
    }
}

/// A control character that no key has, as POSIX has it on Linux.
const DISABLED: u8 = 0;

/// A line that can be edited. Reading it must not keep us from being told to end.
async fn line(prompt: String) -> anyhow::Result<String> {
    let _restored = Restored::at_the_end()?;
    let read = tokio::task::spawn_blocking(move || {
        rustyline::DefaultEditor::new().and_then(|mut editor| editor.readline(&prompt))
    });
    match read.await.context("cannot use the terminal")? {
        Ok(line) => Ok(line),
        Err(ReadlineError::Interrupted) => Err(Interrupted::by_ctrl_c().into()),
        Err(ReadlineError::Eof) => bail!("there is no answer; nothing was written"),
        Err(error) => Err(error).context("cannot use the terminal"),
    }
}

/// The terminal, which is as it was when this goes, for whatever reason.
struct Restored(Termios);

impl Restored {
    fn at_the_end() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("cannot use the terminal")?;
        Ok(Self(before))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // There is nobody to tell when it is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
