//! Where rocks come from, as the user writes it.

use std::path::Path;

use anyhow::bail;
use bioxen_curator::RocksServer;

use crate::rocks;

/// The servers that are asked when none is named.
pub(super) const DEFAULT: [&str; 2] = [rocks::NAME, "https://luarocks.org"];

/// The servers that these words stand for: `bioxen` for the rocks of this program; what has a scheme is
/// a URL, or several between `|`; what ends in `.tar.gz` a bundle; anything else a directory.
pub(super) fn servers(words: &[String]) -> anyhow::Result<Vec<RocksServer>> {
    words.iter().map(|word| server(word)).collect()
}

fn server(word: &str) -> anyhow::Result<RocksServer> {
    Ok(match word.split('|').collect::<Vec<_>>().as_slice() {
        [rocks::NAME] => rocks::server()?,
        [url] if url.contains("://") => RocksServer::Url((*url).to_owned()),
        mirrors if word.contains("://") => {
            RocksServer::Mirrors(mirrors.iter().map(|url| (*url).to_owned()).collect())
        }
        _ => match word.ends_with(".tar.gz") {
            _ if !Path::new(word).exists() => bail!(
                "there is no folder {word:?} to take rocks from; write a folder, a bundle (.tar.gz), a URL \
                 with http:// or https://, or {:?} for the rocks of this program",
                rocks::NAME
            ),
            true => RocksServer::Archive(word.into()),
            false => RocksServer::Directory(word.into()),
        },
    })
}
