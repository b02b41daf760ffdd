//! Puts the results of all shards together, in the order of the input.

use std::fs::File;
use std::io;

use bioxen_vm_core::{Error, ErrorKind, LuaValue, Result};

use super::folder::Folder;
use super::split::unreadable;

/// The file in the folder that has the result.
pub(super) const RESULT: &str = "result";

/// What is put together.
pub(super) enum Results {
    /// The results of so many shards.
    OfShards(usize),
    /// That of the reduce program, which stands behind them.
    Reduced(usize),
}

/// Writes the outputs of these results one after the other, each followed by a line of JSON when a
/// value was returned.
pub(super) fn merge(folder: &Folder, results: &Results) -> Result<()> {
    // Told apart from what goes wrong while the result is written.
    let mut failed = None;
    let written = folder.write_with(RESULT, |to| {
        let all = match *results {
            Results::OfShards(count) => 0..count,
            Results::Reduced(index) => index..index + 1,
        };
        for index in all {
            match append(folder, index, results, to) {
                Ok(()) => {}
                Err(Problem::There(error)) => return Err(error),
                Err(Problem::Here(error)) => {
                    failed = Some(error);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    });
    failed.map_or(written, Err)
}

enum Problem {
    /// With a result of a shard.
    Here(Error),
    /// With the file that is written.
    There(io::Error),
}

fn append(
    folder: &Folder,
    index: usize,
    of: &Results,
    to: &mut impl io::Write,
) -> Result<(), Problem> {
    let path = folder.output(index);
    let output = File::open(&path).map_err(|error| Problem::Here(unreadable(&path, error)));
    io::copy(&mut output?, to).map_err(Problem::There)?;
    let value = folder.value(index).map_err(Problem::Here)?;
    if value == LuaValue::Nil {
        return Ok(());
    }
    let json = value.to_json().map_err(|error| {
        let message = match of {
            Results::OfShards(_) => format!(
                "what shard {} returned cannot be written as JSON; gather with a reduce program, which \
                 gets values as they are",
                index + 1
            ),
            Results::Reduced(_) => "what the reduce program returned cannot be written as JSON; let it \
                                    print or return it as text"
                .to_owned(),
        };
        Problem::Here(Error::new(ErrorKind::Unsupported, message).with_source(error))
    })?;
    writeln!(to, "{json}").map_err(Problem::There)
}
