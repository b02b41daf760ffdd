//! Packs what a server has only as a rockspec together with its sources.

use std::sync::Arc;

use bioxen_vm_core::Runner;
use bioxen_vm_core::local::{LocalRunner, PrivateDir};
use bytes::Bytes;

use crate::hash::sha256;
use crate::index::{Index, Offer};
use crate::rockspec::Source;
use crate::{Cache, Error, Result, Rock, publish, zip};

/// How sources may be fetched. Anything else could be a file of this machine.
const REMOTE: [&str; 12] = [
    "http",
    "https",
    "ftp",
    "git",
    "git+http",
    "git+https",
    "git+ssh",
    "hg+http",
    "hg+https",
    "hg+ssh",
    "svn+http",
    "svn+https",
];

/// What packs rocks on this machine.
pub(crate) fn packer(cache: Option<&Cache>) -> Arc<dyn Runner> {
    match cache {
        Some(cache) => Arc::clone(cache.runner()),
        None => Arc::new(LocalRunner::new()),
    }
}

/// A file that holds a rock with all that is built.
pub(crate) struct Complete {
    pub(crate) file: String,
    pub(crate) content: Bytes,
    pub(crate) rockspec: Bytes,
    /// Where its sources were fetched from, when they were.
    pub(crate) sources: Option<String>,
}

/// The file of an offer, packed with its sources where it lacks them.
///
/// # Errors
/// Fails with [`Error::MissingProgram`] when this machine cannot fetch them, with [`Error::NoSources`]
/// and [`Error::Publish`] when they cannot be had, and as [`Index::content`].
pub(crate) async fn complete(
    index: &Index,
    offer: &Offer,
    cache: Option<&Cache>,
) -> Result<Complete> {
    let content = index.content(offer).await?;
    let (spec, rockspec) = index.open(offer, &content).await?;
    if offer.is_complete() {
        return Ok(Complete {
            file: offer.file(),
            content,
            rockspec,
            sources: None,
        });
    }
    // What was packed of the same rockspec from the same place.
    let key = format!("packed {} {}", index.source(offer), sha256(&content));
    let known = match cache {
        Some(cache) if !offer.is_moving() => cache.get_by_url(&key).await,
        _ => None,
    };
    let packed = match known {
        Some(packed) => packed,
        None => {
            let packed = pack(&offer.rock, &content, &spec.source, &*packer(cache)).await?;
            if let Some(cache) = cache {
                cache.put(Some(&key), &packed).await?;
            }
            packed
        }
    };
    Ok(Complete {
        file: packed_file(&offer.rock),
        content: packed,
        sources: Some(spec.source.to_string()),
        rockspec,
    })
}

/// The name of a rock that holds its sources.
pub(crate) fn packed_file(rock: &Rock) -> String {
    format!("{}-{}.src.rock", rock.name, rock.version)
}

/// Packs a rockspec with its sources, which LuaRocks fetches. The same sources give the same bytes.
pub(crate) async fn pack(
    rock: &Rock,
    rockspec: &Bytes,
    source: &Source,
    runner: &dyn Runner,
) -> Result<Bytes> {
    let no_sources = |reason: String| Error::NoSources {
        rock: rock.to_string(),
        reason,
    };
    let protocol = source.url.split_once("://").map_or("", |(word, _)| word);
    if !REMOTE.contains(&protocol) {
        let reason = format!("{:?} is nothing that can be fetched", source.url);
        return Err(no_sources(reason));
    }
    // LuaRocks would write there.
    if let Some(file) = source.file.as_ref().filter(|file| file.contains('/')) {
        return Err(no_sources(format!("{file:?} is no name of a file")));
    }
    let scratch = PrivateDir::temporary("bioxen-sources-").map_err(|source| Error::Io {
        operation: "make a folder in",
        path: std::env::temp_dir(),
        source,
    })?;
    let file = format!("{}-{}.rockspec", rock.name, rock.version);
    let packed = publish::pack_rockspec(&file, rockspec, scratch.path(), runner).await?;
    let packed = zip::repack(&packed).map_err(no_sources)?;
    Ok(packed.into())
}
