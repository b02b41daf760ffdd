//! The settings file as it is changed: what it holds of a pool, and how it and passwords are written.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use toml_edit::{DocumentMut, Item, Table};

use crate::cli::Place;
use crate::settings::holds_password;

/// Only its owner can read and write it.
const PRIVATE: u32 = 0o600;

/// The settings file and what is in it.
pub(super) fn open(place: &Place) -> anyhow::Result<(PathBuf, DocumentMut)> {
    let file = place
        .file
        .clone()
        .context("there is no home folder for a settings file; name one with --config")?;
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let document = text.parse().map_err(|error: toml_edit::TomlError| {
        let end = error.span().map_or(0, |span| span.start).min(text.len());
        let line = 1 + text[..end].matches('\n').count();
        anyhow::anyhow!(
            "{} line {line} is not valid TOML: {}",
            file.display(),
            error.message()
        )
    })?;
    Ok((file, document))
}

/// The table that settings of the pool stand in, if it is there.
pub(super) fn table<'d>(document: &'d mut DocumentMut, place: &Place) -> Option<&'d mut Item> {
    let table = match &place.pool {
        Some(pool) => document.get_mut("pools")?.get_mut(pool),
        None => document.get_mut("xcpng"),
    };
    // What is asked for in order to change it is always there, if only as nothing.
    table.filter(|table| !table.is_none())
}

/// Makes this the table of the pool, in the place of the one that may be there.
pub(super) fn set_table(document: &mut DocumentMut, place: &Place, mut table: Table) {
    let known = self::table(document, place).and_then(|known| known.as_table());
    if let Some(known) = known {
        table.set_position(known.position());
        *table.decor_mut() = known.decor().clone();
    }
    match &place.pool {
        Some(pool) => {
            let pools = document.entry("pools").or_insert_with(|| {
                let mut pools = Table::new();
                pools.set_implicit(true);
                Item::Table(pools)
            });
            pools[pool] = Item::Table(table);
        }
        None => document["xcpng"] = Item::Table(table),
    }
}

pub(super) fn heading(place: &Place) -> String {
    match &place.pool {
        Some(pool) => format!("pools.{pool}"),
        None => "xcpng".to_owned(),
    }
}

/// Replaces a file as a whole, so that it is never half written.
pub(super) fn save(file: &Path, document: &DocumentMut) -> anyhow::Result<()> {
    let text = document.to_string();
    let written = || -> anyhow::Result<()> {
        let file = target(file)?;
        std::fs::create_dir_all(folder(&file))?;
        replace(&file, &text, |known| match holds_password(&text) {
            true => known & PRIVATE,
            false => known,
        })
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}

/// What a file is that may be a symbolic link, also one to a file that is not there yet.
fn target(file: &Path) -> anyhow::Result<PathBuf> {
    // As many as Linux follows.
    let mut file = file.to_owned();
    for _ in 0..40 {
        match file.read_link() {
            Ok(next) => file = folder(&file).join(next),
            // It is none.
            Err(_) => return Ok(file),
        }
    }
    bail!("too many symbolic links lead on from it")
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Puts a text into a file. A new one is private, one that is there gets the mode that is made of its
/// own.
fn replace(file: &Path, text: &str, mode: impl Fn(u32) -> u32) -> anyhow::Result<()> {
    let mut new = tempfile::NamedTempFile::new_in(folder(file))?;
    new.write_all(text.as_bytes())?;
    if let Ok(known) = file.metadata() {
        let mode = mode(known.permissions().mode());
        new.as_file()
            .set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    new.persist(file)?;
    Ok(())
}

/// A file that a password was written to.
pub(super) struct Kept {
    /// Its name, which is that of a file beside the settings.
    pub(super) name: String,
    path: PathBuf,
    is_new: bool,
}

impl Kept {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away again, unless it was there before.
    pub(super) fn undo(&self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Keeps a password beside the settings, in a file that only its owner can read: in a new one, or in
/// the one that the replaced table has named.
pub(super) fn keep(
    settings: &Path,
    place: &Place,
    replaced: Option<&str>,
    password: &str,
) -> anyhow::Result<Kept> {
    let stem = settings.file_stem().unwrap_or_default().to_string_lossy();
    let stem = place.pool.as_deref().unwrap_or(&stem);
    // A pool may be called anything.
    let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let stem: String = stem
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let names = (1..).map(|number| match number {
        1 => format!("{stem}.password"),
        _ => format!("{stem}-{number}.password"),
    });
    let text = format!("{password}\n");
    for name in names {
        let path = settings.with_file_name(&name);
        let is_new = replaced != Some(&name);
        let written = match is_new {
            true => create(&path, &text),
            false => replace(&path, &text, |_| PRIVATE),
        };
        match written {
            Ok(()) => return Ok(Kept { name, path, is_new }),
            Err(error) if is_there_already(&error) => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot write the password to {}; give --password-file",
                        path.display()
                    )
                });
            }
        }
    }
    bail!("no name is left for a file with the password; give --password-file")
}

fn create(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder(path))?;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn is_there_already(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
}
