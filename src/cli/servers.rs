//! Where rocks come from, as the user writes it.

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
        _ if word.ends_with(".tar.gz") => RocksServer::Archive(word.into()),
        _ => RocksServer::Directory(word.into()),
    })
}
