//! What the first bytes of a disk say: which system is on it, and whether a VM could boot from it.
//!
//! Nothing of an uploaded system runs here; a guest of the simulator runs in its place. So of an
//! image no more is looked at than what firmware looks at before it runs anything.

use crate::guest::Rung;
use crate::report::GuestReport;

/// How many bytes of a disk have to be read to know.
pub(crate) const LOOKED_AT: usize = 64 << 10;
/// Where the files of a guest begin, as the first partition of most disks does.
pub(crate) const FILES_AT: u64 = 1 << 20;

const SECTOR: usize = 512;
/// Where the table of partitions begins, behind the boot code.
const TABLE: usize = 446;
const BOOT_CODE: usize = 440;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const LINUX: u8 = 0x83;
const EFI_SYSTEM: u8 = 0xef;
/// The type of an EFI system partition, as it is written down.
const EFI_SYSTEM_TYPE: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// What the bytes of a disk with a system of ours begin with.
const MAGIC: &str = "xapi-sim system\n";

/// What looks for a system on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    Uefi,
}

/// A system of ours in the form of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) report: GuestReport,
    pub(crate) cloud_init: bool,
    /// How the guest was run whose files are at [`FILES_AT`]; `None` where there are none.
    pub(crate) files_of: Option<Rung>,
}

impl Label {
    /// The first sector of a disk of this size: the label where others have boot code, and one
    /// partition.
    pub(crate) fn to_sector(self, size: u64) -> [u8; SECTOR] {
        let reads = if self.cloud_init {
            "cloud-init"
        } else {
            "nothing"
        };
        let files = self.files_of.map_or("none", Rung::name);
        let text = format!("{MAGIC}{}\n{reads}\n{files}\n", self.report.to_text());
        let mut sector = [0; SECTOR];
        sector[..text.len()].copy_from_slice(text.as_bytes());
        let first = FILES_AT / SECTOR as u64;
        let sectors = (size / SECTOR as u64).saturating_sub(first);
        let in_table = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        sector[TABLE] = 0x80;
        sector[TABLE + 4] = LINUX;
        sector[TABLE + 8..TABLE + 12].copy_from_slice(&in_table(first));
        sector[TABLE + 12..TABLE + 16].copy_from_slice(&in_table(sectors));
        sector[SECTOR - 2..].copy_from_slice(&SIGNATURE);
        sector
    }

    /// Undoes [`to_sector`](Self::to_sector).
    pub(crate) fn read(start: &[u8]) -> Option<Label> {
        let text = start.get(..BOOT_CODE)?.strip_prefix(MAGIC.as_bytes())?;
        let mut lines = text.split(|byte| *byte == b'\n');
        let mut line = || std::str::from_utf8(lines.next()?).ok();
        let report = GuestReport::from_text(line()?)?;
        let cloud_init = line()? == "cloud-init";
        let files = line()?;
        Some(Label {
            report,
            cloud_init,
            files_of: Rung::ALL.into_iter().find(|rung| rung.name() == files),
        })
    }
}

/// Whether this firmware would start something from a disk that begins so: for a BIOS boot code
/// in front of a table of partitions, for UEFI an EFI system partition in either kind of table.
pub(crate) fn boots(start: &[u8], firmware: Firmware) -> bool {
    let Some(types) = partition_types(start) else {
        return false;
    };
    match firmware {
        Firmware::Bios => !types.is_empty() && start[..BOOT_CODE].iter().any(|byte| *byte != 0),
        Firmware::Uefi => types.contains(&EFI_SYSTEM) || has_efi_partition(start).unwrap_or(false),
    }
}

/// The types in a table of the old kind. `None` where there is no such table, as on a volume
/// without partitions.
fn partition_types(start: &[u8]) -> Option<Vec<u8>> {
    let table = start.get(TABLE..SECTOR)?;
    let (entries, signature) = table.split_at(64);
    let entries = entries.chunks(16);
    let sane = entries.clone().all(|entry| matches!(entry[0], 0 | 0x80));
    if signature != SIGNATURE || !sane {
        return None;
    }
    let types = entries.map(|entry| entry[4]);
    Some(types.filter(|kind| *kind != 0).collect())
}

/// Whether a table of the newer kind (GPT) has an EFI system partition.
fn has_efi_partition(start: &[u8]) -> Option<bool> {
    let header = start.get(SECTOR..2 * SECTOR)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let at = usize::try_from(number(72)?).ok()?.checked_mul(SECTOR)?;
    let (count, size) = (number(80)?, usize::try_from(number(84)?).ok()?);
    if size < 128 {
        return None;
    }
    let entries = start.get(at..)?.chunks_exact(size);
    let mut entries = entries.take(usize::try_from(count).ok()?);
    Some(entries.any(|entry| entry.starts_with(&EFI_SYSTEM_TYPE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_comes_back_and_is_a_disk_to_others() {
        for files_of in [None, Some(Rung::Overlay), Some(Rung::Plain)] {
            let label = Label {
                report: GuestReport::NumberedByName(160),
                cloud_init: true,
                files_of,
            };
            let sector = label.to_sector(8 << 30);
            assert_eq!(Label::read(&sector), Some(label));
            assert!(boots(&sector, Firmware::Bios));
        }
        assert_eq!(Label::read(&[0; SECTOR]), None);
        assert_eq!(Label::read(b"xapi-sim system\n"), None);
    }

    /// The start of an image: with boot code, a table of the old kind, one of the newer kind.
    fn image(code: bool, kind: u8, efi: bool) -> Vec<u8> {
        let mut start = vec![0; LOOKED_AT];
        start[0] = u8::from(code);
        start[TABLE + 4] = kind;
        start[SECTOR - 2..SECTOR].copy_from_slice(&SIGNATURE);
        if efi {
            start[SECTOR..SECTOR + 8].copy_from_slice(b"EFI PART");
            start[SECTOR + 72] = 2;
            start[SECTOR + 80] = 128;
            start[SECTOR + 84] = 128;
            start[1024 + 128..1024 + 144].copy_from_slice(&EFI_SYSTEM_TYPE);
        }
        start
    }

    #[test]
    fn firmware_wants_its_own_kind_of_start() {
        for (start, bios, uefi) in [
            (image(true, LINUX, false), true, false),
            (image(true, 0xee, true), true, true),
            (image(false, 0xee, true), false, true),
            (image(false, EFI_SYSTEM, false), false, true),
            // Tables without a system, and no table at all.
            (image(false, LINUX, false), false, false),
            (image(true, 0, false), false, false),
            (vec![0; LOOKED_AT], false, false),
            (vec![0xff; LOOKED_AT], false, false),
            (Vec::new(), false, false),
        ] {
            assert_eq!(boots(&start, Firmware::Bios), bios);
            assert_eq!(boots(&start, Firmware::Uefi), uefi);
        }
    }
}
