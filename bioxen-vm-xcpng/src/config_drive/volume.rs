//! A FAT volume with a few small files, as NoCloud reads it.

use std::io::{self, Cursor, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use secrecy::zeroize::Zeroizing;
use secrecy::{SecretBox, SecretSlice};

/// What cloud-init looks for; a label has eleven bytes.
const LABEL: [u8; 11] = *b"cidata     ";

/// How large the volume is. The smallest disk that XCP-ng's VHD storage makes has as much, so that
/// nothing is rounded.
pub(crate) const SIZE: usize = 2 << 20;

/// Makes the volume: no partition table, the label `cidata`, long file names.
///
/// # Errors
/// Fails when the files are too large for it.
pub(crate) fn volume(files: &[(&str, &str)]) -> io::Result<SecretSlice<u8>> {
    // What is half made may hold secrets too.
    let mut bytes = Zeroizing::new(vec![0; SIZE]);
    let mut disk = Cursor::new(bytes.as_mut_slice());
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .volume_label(LABEL);
    format_volume(&mut disk, options)?;
    let volume = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, content) in files {
        volume
            .root_dir()
            .create_file(name)?
            .write_all(content.as_bytes())?;
    }
    volume.unmount()?;
    Ok(SecretBox::from(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use secrecy::ExposeSecret;

    use super::*;

    const FILES: [(&str, &str); 3] = [
        ("meta-data", "{}"),
        ("user-data", "#cloud-config\n{}"),
        ("network-config", "{\"version\": 2}"),
    ];

    /// What a program of this machine says about a volume, or nothing where it is not installed.
    fn tool(program: &str, args: &[&str], image: &Path) -> Option<String> {
        let paths = "/usr/sbin:/sbin:/usr/bin:/bin";
        let output = match Command::new(program)
            .args(args)
            .arg(image)
            .env("PATH", paths)
            .output()
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            output => output.unwrap(),
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program}: {output:?}");
        Some(said)
    }

    #[test]
    fn other_programs_read_the_volume_as_it_was_meant() {
        let image = tempfile::NamedTempFile::new().unwrap();
        fs::write(image.path(), volume(&FILES).unwrap().expose_secret()).unwrap();
        let mut tools = 0;
        if let Some(said) = tool("fsck.fat", &["-n", "-v"], image.path()) {
            assert!(said.contains("files, "), "{said}");
            assert!(!said.to_lowercase().contains("differ"), "{said}");
            tools += 1;
        }
        if let Some(said) = tool("blkid", &["--probe", "--output", "export"], image.path()) {
            assert!(said.contains("\nLABEL=cidata\n"), "{said}");
            assert!(said.contains("\nTYPE=vfat\n"), "{said}");
            tools += 1;
        }
        for (name, content) in FILES {
            let inside = format!("::{name}");
            let args = ["-c", "exec mtype -i \"$1\" \"$0\"", &inside];
            if tool("mtype", &["--version"], image.path()).is_some() {
                assert_eq!(tool("sh", &args, image.path()).as_deref(), Some(content));
                tools += 1;
            }
        }
        assert!(tools > 0, "no program to check with; install dosfstools");
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let large = "x".repeat(SIZE);
        assert!(volume(&[("user-data", &large)]).is_err());
    }

    #[test]
    fn what_is_on_it_does_not_show_in_messages() {
        let volume = volume(&[("user-data", "secret words")]).unwrap();
        assert!(!format!("{volume:?}").contains("secret words"));
    }
}
