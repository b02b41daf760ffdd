//! The files of a guest's disk as one archive, for disks that travel as bytes.
//!
//! The archive comes back from outside, and is unpacked by root where guests are. So it is looked
//! through first: whatever could lead out of the disk, or into a device of the machine, is refused.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tar::EntryType;

use super::disk::{DiskFiles, PARTS};
use super::{GuestError, Inner, Rung};

/// What keeps an overlay's marks of removed files, which are devices and attributes.
const EXACTLY: [&str; 4] = [
    "--format=pax",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
];

/// Writes the archive. A guest that runs on the disk stands still meanwhile.
pub(super) fn pack(disk: &Arc<DiskFiles>, into: File) -> Result<(), GuestError> {
    let _still = disk.hold_still()?;
    let mut tar = command(disk.path());
    tar.args(["--create", "--one-file-system", "--file=-"])
        .args(disk.parts())
        .stdin(Stdio::null())
        .stdout(into);
    run(tar, disk.name())
}

/// Makes a disk of an archive; `open` gives the file at its beginning.
pub(super) fn unpack(
    guests: &Arc<Inner>,
    name: &str,
    open: impl Fn() -> std::io::Result<File>,
) -> Result<DiskFiles, GuestError> {
    let refused = |reason: String| GuestError::Image {
        name: name.to_owned(),
        reason,
    };
    let opened = || open().map_err(|error| refused(error.to_string()));
    check(opened()?).map_err(refused)?;
    let disk = DiskFiles::unfilled(guests, name)?;
    let mut tar = command(disk.path());
    tar.args(["--extract", "--preserve-permissions", "--file=-"])
        .stdin(opened()?)
        .stdout(Stdio::null());
    run(tar, name)?;
    if guests.rung == Rung::Overlay {
        disk.make_layers("scratch")?;
    }
    Ok(disk)
}

fn command(disk: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(EXACTLY)
        .arg("--directory")
        .arg(disk)
        .env_clear()
        .env("PATH", super::software::PATH);
    tar
}

fn run(mut tar: Command, name: &str) -> Result<(), GuestError> {
    let output = tar.output().map_err(|source| GuestError::Spawn {
        program: "tar".to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(GuestError::Copy {
        name: name.to_owned(),
        message: super::one_line(&String::from_utf8_lossy(&output.stderr)),
    })
}

/// Looks through an archive.
fn check(archive: File) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("its files cannot be read: {error}");
    let mut archive = tar::Archive::new(BufReader::new(archive));
    let mut links: HashSet<PathBuf> = HashSet::new();
    let mut has_root = false;
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let refuse = |why: &str| Err(format!("{} {why}", path.display()));
        if !is_inside(&path) {
            return refuse("is no part of a disk");
        }
        if path
            .ancestors()
            .skip(1)
            .any(|folder| links.contains(folder))
        {
            return refuse("is behind a link");
        }
        let top = path.components().count() == 1;
        has_root |= path == Path::new("root");
        match entry.header().entry_type() {
            EntryType::Directory => {}
            EntryType::Regular | EntryType::Continuous | EntryType::Fifo
                if !top || path == Path::new(super::cloud_init::INSTANCE) => {}
            EntryType::Link if !top => {
                let target = entry.link_name().map_err(unreadable)?.unwrap_or_default();
                if !is_inside(&target) || target.ancestors().any(|at| links.contains(at)) {
                    return refuse("is a link that leads out of the disk");
                }
            }
            // Files of this folder are mounted, by the machine's names.
            EntryType::Symlink if !top && !path.starts_with("etc") => {
                links.insert(path);
            }
            // What an overlay marks removed files with.
            EntryType::Char if !top && is_nothing(&entry) => {}
            _ => return refuse("is of a kind that no disk has"),
        }
    }
    if has_root {
        Ok(())
    } else {
        Err("it has no files".to_owned())
    }
}

fn is_nothing(entry: &tar::Entry<'_, impl std::io::Read>) -> bool {
    let number = |number: std::io::Result<Option<u32>>| matches!(number, Ok(Some(0)));
    number(entry.header().device_major()) && number(entry.header().device_minor())
}

/// Whether a path leads to a part of a disk, by names alone.
fn is_inside(path: &Path) -> bool {
    let mut components = path.components();
    let first = components.next();
    let is_part =
        matches!(first, Some(Component::Normal(name)) if PARTS.iter().any(|part| name == *part));
    is_part && components.all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    /// What is said of an archive with a folder `root` and one more entry.
    fn checked(path: &str, kind: EntryType, target: &str, device: u32) -> Result<(), String> {
        let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
        let entries = [("root", EntryType::Directory, ""), (path, kind, target)];
        for (path, kind, target) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_device_major(device).unwrap();
            header.set_device_minor(device).unwrap();
            if !target.is_empty() {
                header.set_link_name_literal(target).unwrap();
            }
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
        }
        let mut file = builder.into_inner().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        check(file)
    }

    #[test]
    fn what_leads_out_of_the_disk_is_refused() {
        use EntryType::{Block, Char, Directory, Link, Regular, Symlink};
        for (path, kind, target, device) in [
            ("root/file", Regular, "", 0),
            ("upper/usr/gone", Char, "", 0),
            ("root/link", Symlink, "/etc/shadow", 0),
            ("root/other", Link, "root/file", 0),
            ("ssh/moduli", Symlink, "/usr/share/moduli", 0),
            ("instance", Regular, "", 0),
        ] {
            assert_eq!(checked(path, kind, target, device), Ok(()), "{path}");
        }
        for (path, kind, target, device) in [
            ("/etc/passwd", Regular, "", 0),
            ("root/../../x", Regular, "", 0),
            ("volatile/x", Regular, "", 0),
            ("ssh", Symlink, "/etc", 0),
            ("etc/passwd", Symlink, "/etc/shadow", 0),
            ("upper/dev/sda", Char, "", 8),
            ("root/sda", Block, "", 0),
            ("root/hard", Link, "../other-disk/x", 0),
            ("root", Regular, "", 0),
            ("", Directory, "", 0),
        ] {
            assert!(checked(path, kind, target, device).is_err(), "{path}");
        }
    }
}
