//! Takes single files out of rocks, which are zip archives.

use std::io::Read as _;

use flate2::read::DeflateDecoder;

/// No file that is taken out of a rock is larger: 64 MiB, for the manifest of a large server.
const MAX_SIZE: u64 = 64 << 20;

/// The first file whose name is accepted.
///
/// # Errors
/// Fails with the reason when it is no zip archive, or has no such file.
pub(crate) fn extract(zip: &[u8], accept: impl Fn(&str) -> bool) -> Result<Vec<u8>, String> {
    let entry = entries(zip)?
        .into_iter()
        .find(|entry| accept(&entry.name))
        .ok_or("the archive lacks the file")?;
    entry.content(zip)
}

struct Entry {
    name: String,
    method: u16,
    crc: u32,
    compressed: usize,
    offset: usize,
}

fn number(bytes: &[u8], at: usize, length: usize) -> Result<usize, String> {
    let field = at
        .checked_add(length)
        .and_then(|end| bytes.get(at..end))
        .ok_or("the archive is cut short")?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
}

/// Reads the directory at the end of the archive.
fn entries(zip: &[u8]) -> Result<Vec<Entry>, String> {
    const END: &[u8] = b"PK\x05\x06";
    // The end record has 22 bytes and a comment of at most 64 KiB.
    let tail = zip.len().saturating_sub(22 + 0xffff);
    let end = zip[tail..]
        .windows(4)
        .rposition(|window| window == END)
        .ok_or("it is no zip archive, or cut short")?
        + tail;
    // The last field, so that nothing is missing behind.
    number(zip, end + 20, 2)?;
    let count = number(zip, end + 10, 2)?;
    let mut at = number(zip, end + 16, 4)?;
    let mut all = Vec::new();
    for _ in 0..count {
        if zip.get(at..at + 4) != Some(b"PK\x01\x02") {
            return Err("the archive's directory is damaged".into());
        }
        let length = number(zip, at + 28, 2)?;
        let name = zip
            .get(at + 46..at + 46 + length)
            .ok_or("the archive is cut short")?;
        all.push(Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            method: u16::try_from(number(zip, at + 10, 2)?).unwrap_or_default(),
            crc: u32::try_from(number(zip, at + 16, 4)?).unwrap_or_default(),
            compressed: number(zip, at + 20, 4)?,
            offset: number(zip, at + 42, 4)?,
        });
        at += 46 + length + number(zip, at + 30, 2)? + number(zip, at + 32, 2)?;
    }
    Ok(all)
}

impl Entry {
    fn content(&self, zip: &[u8]) -> Result<Vec<u8>, String> {
        let at = self.offset;
        let start = at + 30 + number(zip, at + 26, 2)? + number(zip, at + 28, 2)?;
        let packed = start
            .checked_add(self.compressed)
            .and_then(|end| zip.get(start..end))
            .ok_or("the archive is cut short")?;
        let mut content = Vec::new();
        match self.method {
            0 => content.extend_from_slice(packed),
            8 => {
                let mut decoder = DeflateDecoder::new(packed).take(MAX_SIZE + 1);
                decoder
                    .read_to_end(&mut content)
                    .map_err(|_| format!("{} in it is damaged", self.name))?;
            }
            other => return Err(format!("{} is packed by method {other}", self.name)),
        }
        if content.len() as u64 > MAX_SIZE {
            return Err(format!("{} is larger than 64 MiB", self.name));
        }
        let mut crc = flate2::Crc::new();
        crc.update(&content);
        if crc.sum() != self.crc {
            return Err(format!("{} in it is damaged", self.name));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_out_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let text = "line\n".repeat(1000);
        std::fs::write(dir.path().join("long.txt"), &text).unwrap();
        std::fs::write(dir.path().join("short"), "x").unwrap();
        let output = std::process::Command::new("zip")
            .args(["-q", "all.zip", "long.txt", "short"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let zip = std::fs::read(dir.path().join("all.zip")).unwrap();
        assert_eq!(extract(&zip, |n| n == "long.txt").unwrap(), text.as_bytes());
        assert_eq!(extract(&zip, |n| n == "short").unwrap(), b"x");
        assert!(extract(&zip, |n| n == "gone").is_err());
        for end in 0..zip.len() - 1 {
            assert!(extract(&zip[..end], |n| n == "long.txt").is_err(), "{end}");
        }
        let mut damaged = zip.clone();
        damaged[72] ^= 0x55;
        assert!(extract(&damaged, |n| n == "long.txt").is_err());
    }
}
