//! Rocks, which are zip archives: takes files out of them, and makes them.

use std::borrow::Cow;
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

/// A file of an archive to be made.
#[derive(Debug)]
pub(crate) struct Member<'m> {
    pub(crate) name: String,
    pub(crate) content: Cow<'m, [u8]>,
    pub(crate) executable: bool,
}

/// Makes an archive. The same files give the same bytes, whatever their order and whatever packs
/// them: nothing is compressed, and all are from 1980, the first year that the format has.
///
/// # Errors
/// Fails with the reason when the format has no place for so much.
pub(crate) fn pack(mut members: Vec<Member<'_>>) -> Result<Vec<u8>, String> {
    const JANUARY_1980: u16 = 1 << 5 | 1;
    const UNIX: u16 = 3 << 8;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    let count = u16::try_from(members.len()).map_err(|_| "it has more than 65535 files")?;
    let short = |length: usize| u16::try_from(length).map_err(|_| "a name in it is too long");
    let long = |length: usize| u32::try_from(length).map_err(|_| "it has more than 4 GiB");
    for member in &members {
        let (name, content) = (member.name.as_bytes(), &*member.content);
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut common = Vec::new();
        // The version to unpack it, names in UTF-8, no compression, the time of day, the date.
        for field in [10, 1 << 11, 0, 0, JANUARY_1980] {
            common.extend_from_slice(&u16::to_le_bytes(field));
        }
        for field in [crc.sum(), long(content.len())?, long(content.len())?] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        // The lengths of the name and of extra fields.
        for field in [short(name.len())?, 0] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        let mode: u32 = match (name.ends_with(b"/"), member.executable) {
            (true, _) => 0o040_755,
            (false, true) => 0o100_755,
            (false, false) => 0o100_644,
        };
        directory.extend_from_slice(b"PK\x01\x02");
        directory.extend_from_slice(&(UNIX | 10).to_le_bytes());
        directory.extend_from_slice(&common);
        // No comment, the first disk, no inner attributes.
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(mode << 16).to_le_bytes());
        directory.extend_from_slice(&long(zip.len())?.to_le_bytes());
        directory.extend_from_slice(name);
        zip.extend_from_slice(b"PK\x03\x04");
        zip.extend_from_slice(&common);
        zip.extend_from_slice(name);
        zip.extend_from_slice(content);
    }
    let (start, length) = (long(zip.len())?, long(directory.len())?);
    zip.append(&mut directory);
    zip.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    for field in [count, count] {
        zip.extend_from_slice(&field.to_le_bytes());
    }
    for field in [length, start] {
        zip.extend_from_slice(&field.to_le_bytes());
    }
    zip.extend_from_slice(&[0; 2]);
    Ok(zip)
}

/// The same files as [`pack`] packs them.
///
/// # Errors
/// Fails with the reason when it is no zip archive, or damaged.
pub(crate) fn repack(zip: &[u8]) -> Result<Vec<u8>, String> {
    let members = entries(zip)?.into_iter().map(|entry| {
        Ok(Member {
            content: entry.content(zip)?.into(),
            executable: entry.mode & 0o100 != 0,
            name: entry.name,
        })
    });
    pack(members.collect::<Result<_, String>>()?)
}

struct Entry {
    name: String,
    mode: usize,
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
            mode: number(zip, at + 40, 2)?,
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

    #[test]
    fn what_is_packed_anew_depends_on_the_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, args: &[&str]| {
            let mut command = std::process::Command::new(program);
            let output = command.args(args).current_dir(dir.path()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        std::fs::create_dir(dir.path().join("src")).unwrap();
        std::fs::write(dir.path().join("src/a.lua"), "return 1\n".repeat(100)).unwrap();
        std::fs::write(dir.path().join("configure"), "#!/bin/sh\n").unwrap();
        run("chmod", &["700", "configure"]);
        run("zip", &["-q", "-r", "one.zip", "src", "configure"]);
        run("touch", &["-d", "2001-01-01", "src/a.lua"]);
        run("zip", &["-q", "-r", "-0", "other.zip", "configure", "src"]);
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        let packed = repack(&read("one.zip")).unwrap();
        assert_eq!(packed, repack(&read("other.zip")).unwrap());
        assert_eq!(packed, repack(&packed).unwrap());

        std::fs::write(dir.path().join("again.zip"), packed).unwrap();
        run("unzip", &["-q", "again.zip", "-d", "out"]);
        run("cmp", &["src/a.lua", "out/src/a.lua"]);
        run("test", &["-x", "out/configure"]);
    }
}
