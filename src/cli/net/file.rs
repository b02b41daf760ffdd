//! The file of `bioxen net plan` and `apply`, of which the line of each table is kept.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use bioxen_net::{Error, NetworkSpec, NicSpec, Place, Wanted};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// What a file wants, and where it says so.
pub(super) struct Read {
    path: PathBuf,
    pub(super) wanted: Wanted,
    /// The lines of the networks, and those of the interfaces.
    lines: [Vec<usize>; 2],
}

/// Reads a file, and tells all that is wrong with it, each with its line.
pub(super) fn read(path: &Path) -> anyhow::Result<Read> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let parsed = DeTable::parse(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line(&text, span.start));
        anyhow!("{shown} line {line} is not valid TOML: {}", error.message())
    })?;
    let mut reader = Reader {
        text: &text,
        problems: Vec::new(),
    };
    let (mut networks, mut nics) = (Vec::new(), Vec::new());
    for (name, value) in parsed.into_inner() {
        match name.get_ref().as_ref() {
            "network" => networks = reader.tables::<NetworkSpec>(value),
            "nic" => nics = reader.tables::<NicSpec>(value),
            other => {
                let text = format!("unknown key {other:?}; use [[network]] and [[nic]]");
                reader.tell(name.span().start, &text);
            }
        }
    }
    if !reader.problems.is_empty() {
        reader.problems.sort();
        let told = reader.problems.iter();
        let told: Vec<_> = told
            .map(|(line, text)| format!("line {line}: {text}"))
            .collect();
        bail!("{shown} {}", told.join("; "));
    }
    let mut wanted = Wanted::new();
    let mut lines = [Vec::new(), Vec::new()];
    for (line, network) in networks {
        lines[0].push(line);
        wanted.networks.push(network);
    }
    for (line, nic) in nics {
        lines[1].push(line);
        wanted.nics.push(nic);
    }
    Ok(Read {
        path: path.to_owned(),
        wanted,
        lines,
    })
}

impl Read {
    /// Says of each problem on which line of the file it comes about.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(Error::Invalid(problems)) = error.downcast_ref() else {
            return error;
        };
        let line = |place| match place {
            Place::Network(number) => self.lines[0].get(number),
            Place::Nic(number) => self.lines[1].get(number),
            _ => None,
        };
        let told = problems
            .iter()
            .map(|problem| match problem.place().and_then(line) {
                Some(line) => format!("line {line}: {problem}"),
                None => problem.to_string(),
            });
        let told: Vec<_> = told.collect();
        anyhow!("{} {}", self.path.display(), told.join("; "))
    }
}

struct Reader<'t> {
    text: &'t str,
    problems: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn tell(&mut self, place: usize, text: &str) {
        self.problems
            .push((line(self.text, place), text.to_owned()));
    }

    /// The tables of a list, each with its line.
    fn tables<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'_>>) -> Vec<(usize, T)> {
        let start = value.span().start;
        let DeValue::Array(tables) = value.into_inner() else {
            self.tell(start, "write it with two brackets: [[network]], [[nic]]");
            return Vec::new();
        };
        let mut all = Vec::new();
        for table in tables {
            let start = table.span().start;
            match T::deserialize(ValueDeserializer::from(table)) {
                Ok(read) => all.push((line(self.text, start), read)),
                Err(error) => {
                    let at = error.span().map_or(start, |span| span.start);
                    self.tell(at, error.message());
                }
            }
        }
        all
    }
}

/// The line of a place in a text, from 1.
fn line(text: &str, place: usize) -> usize {
    1 + text[..place.min(text.len())].matches('\n').count()
}
