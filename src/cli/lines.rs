//! Where the lines of the shell come from: a person at a terminal, or a file or pipe.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use anyhow::Context as _;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use super::streams::read_ahead;
use super::{state_home, warn};

/// What came.
pub(super) enum Line {
    /// A line, without its end.
    Text(Vec<u8>),
    /// Ctrl-C instead of a line.
    Dropped,
    /// There are no more.
    End,
}

/// Gives lines.
pub(super) enum Lines {
    /// As they are in a file or pipe.
    Plain(Box<dyn AsyncBufRead + Send + Unpin>),
    /// With prompts, editing and history.
    Typed(Box<Typed>),
}

/// A person at a terminal.
pub(super) struct Typed {
    /// Away while a thread reads with it.
    editor: Option<DefaultEditor>,
    history: Option<PathBuf>,
    /// How the terminal was, for the case that we are ended while a line is edited.
    terminal: Termios,
}

impl Lines {
    /// Lines of our standard input, typed ones where both it and standard output are a terminal.
    pub(super) fn new() -> anyhow::Result<Self> {
        let input = io::stdin();
        if !(input.is_terminal() && io::stdout().is_terminal()) {
            return Ok(Self::Plain(Box::new(BufReader::new(read_ahead(input)))));
        }
        let terminal = tcgetattr(&input).context("cannot use the terminal")?;
        let mut editor = DefaultEditor::new().context("cannot edit lines in this terminal")?;
        let history = state_home().map(|dir| dir.join("shell_history"));
        if let Some(file) = &history
            && file.exists()
            && let Err(error) = editor.load_history(file)
        {
            warn(&format!(
                "cannot read the history {}: {error}",
                file.display()
            ));
        }
        Ok(Self::Typed(Box::new(Typed {
            editor: Some(editor),
            history,
            terminal,
        })))
    }

    pub(super) fn is_typed(&self) -> bool {
        matches!(self, Self::Typed(_))
    }

    /// Waits for the next line.
    pub(super) async fn next(&mut self, prompt: &'static str) -> anyhow::Result<Line> {
        match self {
            Self::Plain(lines) => {
                let mut line = Vec::new();
                let count = lines.read_until(b'\n', &mut line).await;
                if count.context("cannot read standard input")? == 0 {
                    return Ok(Line::End);
                }
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                Ok(Line::Text(line))
            }
            Self::Typed(typed) => typed.next(prompt).await,
        }
    }

    /// Keeps a chunk for the arrow keys, now and in later shells.
    pub(super) fn remember(&mut self, chunk: &[u8]) {
        if let Self::Typed(typed) = self
            && let Some(editor) = &mut typed.editor
            && let Ok(chunk) = std::str::from_utf8(chunk)
        {
            // A line that cannot be recalled is no reason to disturb.
            let _ = editor.add_history_entry(chunk);
        }
    }
}

impl Typed {
    async fn next(&mut self, prompt: &'static str) -> anyhow::Result<Line> {
        let mut editor = self.editor.take().context("the line editor is gone")?;
        let read = tokio::task::spawn_blocking(move || {
            let line = editor.readline(prompt);
            (editor, line)
        });
        let (editor, line) = read.await.context("the line editor failed")?;
        self.editor = Some(editor);
        match line {
            Ok(line) => Ok(Line::Text(line.into_bytes())),
            Err(ReadlineError::Interrupted) => Ok(Line::Dropped),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.terminal);
        if let (Some(editor), Some(file)) = (&mut self.editor, &self.history)
            && let Err(error) = file
                .parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .map_err(ReadlineError::from)
                .and_then(|()| editor.append_history(file))
        {
            warn(&format!(
                "cannot write the history {}: {error}",
                file.display()
            ));
        }
    }
}
