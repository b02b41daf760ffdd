//! Volumes of CDs: ISO 9660, with names as Linux takes them: those of Rock Ridge, else those of
//! Joliet, else the short ones in small letters.

/// Everything on a CD is counted in blocks of this many bytes.
const BLOCK: usize = 2048;
/// The first description of the volume is behind this many blocks, which are for the firmware.
const FIRST: usize = 16;
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
/// Where a description has the record of its root.
const ROOT: usize = 156;
/// What tells Joliet from other supplements.
const JOLIET: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];
const IS_DIRECTORY: u8 = 2;

/// A volume.
pub(super) struct Volume<'a> {
    pub(super) label: String,
    disk: &'a [u8],
    root: Record<'a>,
    names: Names,
}

/// Where the names of a volume are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Names {
    Short,
    Joliet,
    RockRidge,
}

impl<'a> Volume<'a> {
    /// Reads the description of a volume. `None` for what is none.
    pub(super) fn read(disk: &'a [u8]) -> Option<Self> {
        let mut descriptions = disk
            .chunks_exact(BLOCK)
            .skip(FIRST)
            .take_while(|block| block[1..6] == *b"CD001");
        let primary = descriptions.clone().find(|block| block[0] == PRIMARY)?;
        let joliet = descriptions.find(|block| {
            block[0] == SUPPLEMENTARY && JOLIET.iter().any(|escape| block[88..].starts_with(escape))
        });
        let label = String::from_utf8_lossy(&primary[40..72]).trim().to_owned();
        let root = Record::parse(&primary[ROOT..])?;
        let entries = records(disk, &root)?;
        let (root, names) = if entries.iter().any(|record| record.long_name().is_some()) {
            (root, Names::RockRidge)
        } else if let Some(joliet) = joliet {
            (Record::parse(&joliet[ROOT..])?, Names::Joliet)
        } else {
            (root, Names::Short)
        };
        Some(Volume {
            label,
            disk,
            root,
            names,
        })
    }

    /// What a file holds whose path begins at the root.
    pub(super) fn file(&self, path: &str) -> Option<&'a [u8]> {
        let mut entries = records(self.disk, &self.root)?;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let is_directory = names.peek().is_some();
            let found = entries.into_iter().find(|record| {
                (record.flags & IS_DIRECTORY != 0) == is_directory
                    && self.name(record).as_deref() == Some(name)
            })?;
            if !is_directory {
                return found.content(self.disk);
            }
            entries = records(self.disk, &found)?;
        }
        None
    }

    /// The name of an entry, without the number of its version.
    fn name(&self, record: &Record<'_>) -> Option<String> {
        let name = match self.names {
            Names::RockRidge => record.long_name()?.to_owned(),
            Names::Joliet => wide(record.name),
            Names::Short => String::from_utf8_lossy(record.name).to_ascii_lowercase(),
        };
        let name = name.strip_suffix(";1").unwrap_or(&name);
        Some(name.trim_end_matches('.').to_owned())
    }
}

/// An entry of a directory.
struct Record<'a> {
    extent: &'a [u8],
    flags: u8,
    name: &'a [u8],
    /// What extensions have put behind the name.
    extra: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let name_end = 33 + usize::from(*bytes.get(32)?);
        // Names end at an even place.
        let extra = name_end + (name_end & 1);
        Some(Record {
            extent: bytes,
            flags: *bytes.get(25)?,
            name: bytes.get(33..name_end)?,
            extra: bytes.get(extra..).unwrap_or_default(),
        })
    }

    /// The bytes of the file or directory.
    fn content(&self, disk: &'a [u8]) -> Option<&'a [u8]> {
        let number = |at: usize| {
            let bytes = self.extent.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(bytes)).ok()
        };
        let start = number(2)?.checked_mul(BLOCK)?;
        disk.get(start..start.checked_add(number(10)?)?)
    }

    /// The name that Rock Ridge gives, if it gives one.
    fn long_name(&self) -> Option<&'a str> {
        let mut rest = self.extra;
        while let Some(length) = rest.get(2) {
            let entry = rest.get(..usize::from(*length)).filter(|e| e.len() >= 4)?;
            if entry.starts_with(b"NM") {
                return std::str::from_utf8(entry.get(5..)?).ok();
            }
            rest = &rest[entry.len()..];
        }
        None
    }
}

/// The entries of a directory.
fn records<'a>(disk: &'a [u8], directory: &Record<'a>) -> Option<Vec<Record<'a>>> {
    let mut records = Vec::new();
    for block in directory.content(disk)?.chunks(BLOCK) {
        let mut rest = block;
        // An entry of no length says that the rest of the block is empty.
        while let Some(length @ 1..) = rest.first() {
            let (entry, next) = rest.split_at_checked(usize::from(*length))?;
            records.push(Record::parse(entry)?);
            rest = next;
        }
    }
    Some(records)
}

/// Two bytes to a letter, the first of more weight.
fn wide(name: &[u8]) -> String {
    let units = name
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    char::decode_utf16(units)
        .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn record(block: usize, length: usize, flags: u8, name: &[u8], extra: &[u8]) -> Vec<u8> {
        let mut record = vec![0; 33];
        record[2..6].copy_from_slice(&u32::try_from(block).unwrap().to_le_bytes());
        record[10..14].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        record[25] = flags;
        record[32] = u8::try_from(name.len()).unwrap();
        record.extend(name);
        record.resize(record.len().next_multiple_of(2), 0);
        record.extend(extra);
        record[0] = u8::try_from(record.len()).unwrap();
        record
    }

    fn description(kind: u8, label: &str, root: usize) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[0] = kind;
        block[1..6].copy_from_slice(b"CD001");
        block[40..72].fill(b' ');
        block[40..40 + label.len()].copy_from_slice(label.as_bytes());
        if kind == SUPPLEMENTARY {
            block[88..91].copy_from_slice(b"%/E");
        }
        let root = record(root, BLOCK, IS_DIRECTORY, &[0], &[]);
        block[ROOT..ROOT + root.len()].copy_from_slice(&root);
        block
    }

    /// A volume as the programs make it that write CDs.
    pub(in crate::guest::cloud_init) fn volume(
        names: Names,
        label: &str,
        files: &[(&str, &str)],
    ) -> Vec<u8> {
        const SHORT_ROOT: usize = FIRST + 3;
        let mut disk = vec![0; FIRST * BLOCK];
        disk.extend(description(PRIMARY, label, SHORT_ROOT));
        if names == Names::Joliet {
            disk.extend(description(SUPPLEMENTARY, label, SHORT_ROOT + 1));
        }
        disk.extend(description(255, "", SHORT_ROOT));
        disk.resize((SHORT_ROOT + 2 + files.len()) * BLOCK, 0);
        let mut roots = [Vec::new(), Vec::new()];
        for (number, (name, content)) in files.iter().enumerate() {
            let block = SHORT_ROOT + 2 + number;
            let place = block * BLOCK;
            disk[place..place + content.len()].copy_from_slice(content.as_bytes());
            let short = name.to_ascii_uppercase() + ".;1";
            let extra = if names == Names::RockRidge {
                let length = u8::try_from(5 + name.len()).unwrap();
                let mut extra = b"PX\x05\x01\0NM".to_vec();
                extra.extend([length, 1, 0]);
                extra.extend(name.as_bytes());
                extra
            } else {
                Vec::new()
            };
            roots[0].extend(record(block, content.len(), 0, short.as_bytes(), &extra));
            let long: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
            roots[1].extend(record(block, content.len(), 0, &long, &[]));
        }
        for (number, root) in roots.iter().enumerate() {
            let place = (SHORT_ROOT + number) * BLOCK;
            disk[place..place + root.len()].copy_from_slice(root);
        }
        disk
    }

    #[test]
    fn files_are_found_by_any_kind_of_name() {
        for names in [Names::Short, Names::Joliet, Names::RockRidge] {
            let disk = volume(names, "CDROM", &[("meta-data", "m"), ("user-data", "")]);
            let volume = Volume::read(&disk).unwrap();
            assert_eq!(volume.label, "CDROM");
            assert_eq!(volume.file("meta-data"), Some(&b"m"[..]));
            assert_eq!(volume.file("user-data"), Some(&b""[..]));
            assert_eq!(volume.file("META-DATA"), None);
        }
    }

    #[test]
    fn what_is_no_volume_or_is_cut_off_is_refused() {
        let disk = volume(Names::RockRidge, "cidata", &[("meta-data", "m")]);
        assert!(Volume::read(&[]).is_none());
        assert!(Volume::read(&vec![0; 40 * BLOCK]).is_none());
        assert!(Volume::read(&disk[..(FIRST + 3) * BLOCK]).is_none());
        let cut = Volume::read(&disk[..(FIRST + 5) * BLOCK]).unwrap();
        assert_eq!(cut.file("meta-data"), None);
        // No entry leads the reader out of its bytes.
        for at in FIRST * BLOCK..(FIRST + 5) * BLOCK {
            let mut broken = disk.clone();
            broken[at] = 0xff;
            let _ = Volume::read(&broken);
        }
    }
}
