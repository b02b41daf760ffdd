//! Files in the ustar format: what is sent to the machine of a tree, and archives of bundles.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::{Error, Result};

const BLOCK: usize = 512;

/// Packs files under their SHA-256, `<sha256>/<file>`: what a tree's store takes.
pub(crate) fn by_hash<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a str, &'a Bytes)>,
) -> Result<Bytes> {
    let mut tar = Vec::new();
    for (hash, name, content) in files {
        append(&mut tar, &format!("{hash}/"), None)?;
        append(&mut tar, &format!("{hash}/{name}"), Some(content))?;
    }
    if !tar.is_empty() {
        tar.resize(tar.len() + 2 * BLOCK, 0);
    }
    Ok(tar.into())
}

/// Packs files into a `.tar.gz`.
pub(crate) fn compressed<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a Bytes)>,
) -> Result<Bytes> {
    let mut tar = Vec::new();
    for (name, content) in files {
        append(&mut tar, name, Some(content))?;
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let packed = gzip.write_all(&tar).and_then(|()| gzip.finish());
    packed
        .map(Bytes::from)
        .map_err(|error| Error::Invalid(format!("the archive cannot be packed: {error}")))
}

/// Takes a file out of a `.tar.gz`.
///
/// # Errors
/// Fails with the reason when it is no such archive, or damaged.
pub(crate) fn extract(archive: &[u8], wanted: &str) -> Result<Option<Bytes>, String> {
    let mut tar = Vec::new();
    let mut unpacked = GzDecoder::new(archive).take(MAX_SIZE);
    unpacked
        .read_to_end(&mut tar)
        .map_err(|error| format!("it is no .tar.gz, or cut short ({error})"))?;
    let mut at = 0;
    while let Some(header) = tar.get(at..at + BLOCK).filter(|header| header[0] != 0) {
        let text = |from: usize, length: usize| {
            let field = header[from..from + length].split(|&byte| byte == 0).next();
            String::from_utf8_lossy(field.unwrap_or_default()).into_owned()
        };
        let size = usize::from_str_radix(text(124, 12).trim(), 8)
            .map_err(|_| "a file in it has no size".to_owned())?;
        let content = tar
            .get(at + BLOCK..at + BLOCK + size)
            .ok_or("it is cut short")?;
        if text(0, 100).trim_start_matches("./") == wanted {
            return Ok(Some(Bytes::copy_from_slice(content)));
        }
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    Ok(None)
}

/// No archive is larger when it is unpacked: 2 GiB.
const MAX_SIZE: u64 = 2 << 30;

/// Appends a file, or a directory when there is no content. A path of more than 100 bytes is split
/// at a slash, as the format has it.
fn append(tar: &mut Vec<u8>, name: &str, content: Option<&[u8]>) -> Result<()> {
    let size = content.map_or(0, <[u8]>::len);
    let (prefix, name) = match name.rfind('/') {
        Some(slash) if name.len() > 100 => (&name[..slash], &name[slash + 1..]),
        _ => ("", name),
    };
    let fits = name.len() <= 100 && prefix.len() <= 155 && size < 1 << 33;
    if !fits {
        return Err(Error::Invalid(format!(
            "{name:?} cannot be put into an archive: its name is longer than 100 bytes or it has 8 \
             GiB"
        )));
    }
    let (mode, kind) = if content.is_some() {
        ("0000644", b'0')
    } else {
        ("0000755", b'5')
    };
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, mode);
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // The checksum is taken with blanks in its own place.
    put(148, "        ");
    put(257, "ustar");
    put(263, "00");
    put(345, prefix);
    header[156] = kind;
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&header);
    if let Some(content) = content {
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_a_tar_that_tar_unpacks() {
        let dir = tempfile::tempdir().unwrap();
        let content = Bytes::from(vec![7_u8; 1500]);
        let hash = "a".repeat(64);
        let long = format!("{}-1-1.src.rock", "n".repeat(85));
        let tar = by_hash([(hash.as_str(), long.as_str(), &content)]).unwrap();
        std::fs::write(dir.path().join("all.tar"), tar).unwrap();
        let output = std::process::Command::new("tar")
            .args(["-xf", "all.tar"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let unpacked = dir.path().join(hash).join(long);
        assert_eq!(std::fs::read(unpacked).unwrap(), content);
        assert!(by_hash([("h", "n".repeat(101).as_str(), &content)]).is_err());
        assert!(by_hash([]).unwrap().is_empty());
    }

    #[test]
    fn files_come_out_of_an_archive_as_they_went_in() {
        let content = Bytes::from(vec![7_u8; 1500]);
        let packed = compressed([("a", &Bytes::new()), ("b", &content)]).unwrap();
        assert_eq!(extract(&packed, "b").unwrap(), Some(content));
        assert_eq!(extract(&packed, "a").unwrap(), Some(Bytes::new()));
        assert_eq!(extract(&packed, "c").unwrap(), None);
        assert!(extract(&packed[..packed.len() / 2], "b").is_err());
        assert!(extract(b"no archive", "b").is_err());
    }
}
