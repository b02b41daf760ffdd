//! The volume on which cloud-init finds what is for it: FAT or ISO 9660, labelled `cidata`, or
//! `config-2` where its files are those of OpenStack.

use std::io::{Cursor, Read};

use fatfs::{FileSystem, FsOptions};

use super::iso;

/// What NoCloud calls its volumes; it takes the label in either case.
const NO_CLOUD: &str = "cidata";
/// What OpenStack and those call theirs who do as it does.
const CONFIG_DRIVE: &str = "config-2";
/// Volumes are small; nobody puts more than this on one.
pub(crate) const LARGEST: u64 = 64 << 20;

/// What a config drive says.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigDrive {
    pub(super) source: Source,
    pub(super) meta_data: String,
    /// As it is on the drive, where it may be compressed.
    pub(super) user_data: Vec<u8>,
    pub(super) network_config: Option<String>,
}

/// Whose form the documents have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    NoCloud,
    ConfigDrive,
}

impl Source {
    /// What cloud-init calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Source::NoCloud => "DataSourceNoCloud",
            Source::ConfigDrive => "DataSourceConfigDrive",
        }
    }
}

impl ConfigDrive {
    /// Reads the bytes of a disk, or of a disk with one partition that holds them. `None` for one
    /// that is no config drive: no FAT volume and no CD, another label, or without `meta-data` or
    /// `user-data`, which both have to be there. Of a drive of OpenStack's,
    /// `openstack/latest/meta_data.json` has to.
    #[must_use]
    pub fn read(bytes: Vec<u8>) -> Option<Self> {
        if let Some(volume) = iso::Volume::read(&bytes) {
            return Self::of(&volume.label, |name| volume.file(name).map(<[u8]>::to_vec));
        }
        let partition = first_partition(&bytes).map(<[u8]>::to_vec);
        Self::read_volume(bytes).or_else(|| Self::read_volume(partition?))
    }

    fn read_volume(bytes: Vec<u8>) -> Option<Self> {
        let mut disk = Cursor::new(bytes);
        let volume = FileSystem::new(&mut disk, FsOptions::new()).ok()?;
        let label = match volume.read_volume_label_from_root_dir() {
            Ok(Some(label)) => label,
            _ => volume.volume_label(),
        };
        Self::of(&label, |name| {
            let mut content = Vec::new();
            let mut file = volume.root_dir().open_file(name).ok()?;
            file.read_to_end(&mut content).ok()?;
            Some(content)
        })
    }

    fn of(label: &str, file: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Self> {
        let read = |name: &str| {
            let content = file(name)?;
            Some(String::from_utf8_lossy(&content).into_owned())
        };
        let label = label.trim();
        if label.eq_ignore_ascii_case(NO_CLOUD) {
            return Some(Self {
                source: Source::NoCloud,
                meta_data: read("meta-data")?,
                user_data: file("user-data")?,
                network_config: read("network-config"),
            });
        }
        label.eq_ignore_ascii_case(CONFIG_DRIVE).then_some(())?;
        Some(Self {
            source: Source::ConfigDrive,
            meta_data: read("openstack/latest/meta_data.json")?,
            user_data: file("openstack/latest/user_data").unwrap_or_default(),
            network_config: read("openstack/latest/network_data.json"),
        })
    }
}

/// What the first entry of a table of partitions leads to.
fn first_partition(disk: &[u8]) -> Option<&[u8]> {
    let entry = disk.get(446..462)?;
    let number = |at: usize| {
        let bytes = entry.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (start, length) = (number(8)?.checked_mul(512)?, number(12)?.checked_mul(512)?);
    let signed = disk.get(510..512)? == [0x55, 0xaa];
    if !signed || start == 0 || length == 0 {
        return None;
    }
    disk.get(start..start.checked_add(length)?)
}

impl std::fmt::Debug for ConfigDrive {
    /// Leaves the content out: it holds keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigDrive").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use fatfs::{FormatVolumeOptions, format_volume};

    use super::*;

    /// A volume as clients make it.
    fn volume(label: &[u8; 11], files: &[(&str, &str)]) -> Vec<u8> {
        let mut disk = Cursor::new(vec![0; 1 << 20]);
        format_volume(&mut disk, FormatVolumeOptions::new().volume_label(*label)).unwrap();
        let volume = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
        for (name, content) in files {
            let folders = name.match_indices('/').map(|(at, _)| &name[..at]);
            for folder in folders {
                volume.root_dir().create_dir(folder).unwrap();
            }
            let mut file = volume.root_dir().create_file(name).unwrap();
            file.write_all(content.as_bytes()).unwrap();
        }
        volume.unmount().unwrap();
        disk.into_inner()
    }

    #[test]
    fn a_drive_is_known_by_its_label_and_has_both_documents() {
        let both = [("meta-data", "m"), ("user-data", "u")];
        for label in [b"cidata     ", b"CIDATA     "] {
            let drive = ConfigDrive::read(volume(label, &both)).unwrap();
            assert_eq!((&*drive.meta_data, &*drive.user_data), ("m", &b"u"[..]));
            assert_eq!(drive.network_config, None);
            assert!(!format!("{drive:?}").contains('u'.to_string().repeat(2).as_str()));
        }
        assert_eq!(ConfigDrive::read(volume(b"DATA       ", &both)), None);
        assert_eq!(ConfigDrive::read(volume(b"cidata     ", &both[..1])), None);
        assert_eq!(ConfigDrive::read(vec![0; 1 << 20]), None);
        assert_eq!(ConfigDrive::read(Vec::new()), None);
    }

    #[test]
    fn a_drive_of_openstack_has_its_files_in_a_folder() {
        let files = [
            ("openstack/latest/meta_data.json", "{}"),
            ("openstack/latest/user_data", "u"),
        ];
        let drive = ConfigDrive::read(volume(b"config-2   ", &files)).unwrap();
        assert_eq!(drive.source, Source::ConfigDrive);
        assert_eq!((&*drive.meta_data, &*drive.user_data), ("{}", &b"u"[..]));
        assert_eq!(ConfigDrive::read(volume(b"config-2   ", &files[1..])), None);
        assert_eq!(ConfigDrive::read(volume(b"cidata     ", &files)), None);
    }

    #[test]
    fn a_drive_may_be_a_cd() {
        use iso::{Names, tests::volume};
        let files = [("meta-data", "m"), ("user-data", "u")];
        let drive = ConfigDrive::read(volume(Names::RockRidge, "cidata", &files)).unwrap();
        assert_eq!((&*drive.meta_data, &*drive.user_data), ("m", &b"u"[..]));
        let other = volume(Names::Joliet, "other", &files);
        assert_eq!(ConfigDrive::read(other), None);
    }

    #[test]
    fn a_drive_may_be_in_a_partition() {
        let inner = volume(b"cidata     ", &[("meta-data", "m"), ("user-data", "u")]);
        let mut disk = vec![0; 1 << 20];
        disk[450] = 0x0c;
        disk[454..458].copy_from_slice(&2048_u32.to_le_bytes());
        disk[458..462].copy_from_slice(&2048_u32.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk.extend_from_slice(&inner);
        assert!(ConfigDrive::read(disk.clone()).is_some());
        disk.truncate((1 << 20) + 512);
        assert_eq!(ConfigDrive::read(disk), None, "it is cut off");
    }
}
