//! cloud-init in guests: what a config drive says is done in the guest as it boots.
//!
//! The simulator reads the drive and lays its content out below `/run/cloud-init/seed`, one value
//! to a file; `cloud-init.sh` does the work in the guest, and the program `cloud-init` there tells
//! how far it is. Host keys are the exception: the simulator has to know them, so it writes them
//! itself. As with the real one, nearly everything is done once for each `instance-id`. What fails
//! is in the guest's logs and, since perhaps nobody can log in to read them, in the simulator's.
//!
//! On the plain rung a guest has no file system of its own: there only keys are installed, and
//! there is no program `cloud-init`.

mod config;
mod drive;
mod iso;
mod merge;
mod user_data;
mod yaml;

use std::fs;

pub(crate) use config::CloudConfig;
pub use config::InterfaceConfig;
pub use drive::ConfigDrive;
pub(crate) use drive::LARGEST;
use drive::Source;

use super::disk::DiskFiles;
use super::{BootConfig, GuestError, Rung, sshd};

/// Where the content of the drive is laid out, in the disk's own files.
const SEED: &str = "volatile/run/cloud-init/seed";
/// What cloud-init calls where the content is from.
const SOURCE: &str = "volatile/run/cloud-init/datasource";
/// Locked in the guest until cloud-init has done its work.
const LOCK: &str = "volatile/run/cloud-init/lock";
/// Which instance the disk has been configured for, and the host name that it got.
pub(super) const INSTANCE: &str = "instance";
/// What `cloud-init clean` leaves in the guest.
const CLEANED: &str = "volatile/run/cloud-init/cleaned";

/// The host name of a system that has not been told one.
const UNNAMED: &str = "localhost";

impl ConfigDrive {
    /// What `network-config` says of the interfaces, in its order.
    #[must_use]
    pub fn interfaces(&self) -> Vec<InterfaceConfig> {
        CloudConfig::new(self, "").interfaces
    }
}

/// Whether somebody has made the disk's system forget which instance it is, since it booted.
pub(super) fn is_cleaned(disk: &DiskFiles) -> bool {
    fs::symlink_metadata(disk.path().join(CLEANED)).is_ok()
}

/// Forgets the instance that a cleaned disk was configured for. Comes before
/// [`DiskFiles::reset_volatile`].
pub(super) fn forget_if_cleaned(disk: &DiskFiles) -> Result<(), GuestError> {
    let path = disk.path().join(INSTANCE);
    if is_cleaned(disk) && path.exists() {
        fs::remove_file(&path).map_err(GuestError::files("remove", &path))?;
    }
    Ok(())
}

/// Gets everything ready for cloud-init in the guest, and replaces what the boot data say by what
/// such a system knows: nothing but its drive.
pub(super) fn prepare(disk: &DiskFiles, boot: &mut BootConfig) -> Result<(), GuestError> {
    let Some(drives) = &boot.config_drives else {
        return Ok(());
    };
    boot.vm_data.clear();
    let path = disk.path().join(INSTANCE);
    let known = fs::read_to_string(&path).unwrap_or_default();
    let (known_id, known_name) = known.split_once('\n').unwrap_or_default();
    let known_name = match known_name.trim_end() {
        "" => UNNAMED,
        name => name,
    };
    boot.hostname = known_name.to_owned();
    // Of several drives cloud-init takes that of the last device.
    let Some(drive) = drives.last() else {
        return Ok(());
    };
    let mut config = CloudConfig::new(drive, &disk.guests.user);
    let is_new = config.instance_id != known_id;
    if is_new {
        boot.hostname = config.hostname.clone().unwrap_or(boot.hostname.clone());
        host_keys(disk, &mut config)?;
        let instance = format!("{}\n{}\n", config.instance_id, boot.hostname);
        disk.write(INSTANCE, &instance, 0o600)?;
    }
    if disk.guests.rung == Rung::Plain {
        let own = config
            .users
            .iter()
            .filter(|user| user.name == disk.guests.user);
        let keys: Vec<&str> = own
            .flat_map(|user| &user.keys)
            .map(String::as_str)
            .collect();
        if is_new {
            for error in &config.errors {
                tracing::warn!(guest = disk.name(), "cloud-init: {error}");
            }
            return sshd::authorize(disk, &keys.join("\n"));
        }
        return Ok(());
    }
    lay_out(disk, drive.source, &config, is_new)
}

/// Installs the host keys of the drive. sshd of a guest has one, of type ed25519.
fn host_keys(disk: &DiskFiles, config: &mut CloudConfig) -> Result<(), GuestError> {
    if config.delete_host_keys {
        sshd::remove_host_keys(disk)?;
    }
    let own = config
        .host_keys
        .iter()
        .find(|(file, _)| file == "ssh_host_ed25519_key");
    let Some((_, key)) = own else { return Ok(()) };
    match sshd::install_host_key(disk, key) {
        Err(GuestError::BootData { reason, .. }) => {
            config
                .errors
                .push(format!("ssh_keys: ed25519_private: {reason}"));
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Writes the content of the drive where `cloud-init.sh` looks for it.
fn lay_out(
    disk: &DiskFiles,
    source: Source,
    config: &CloudConfig,
    is_new: bool,
) -> Result<(), GuestError> {
    for (directory, mode) in [
        ("volatile/run/cloud-init", 0o755),
        (SEED, 0o700),
        ("volatile/run/cloud-init/seed/users", 0o700),
        ("volatile/run/cloud-init/seed/files", 0o700),
        ("volatile/run/cloud-init/seed/boothooks", 0o700),
        ("volatile/run/cloud-init/seed/user-scripts", 0o700),
    ] {
        disk.make_dir(directory, mode)?;
    }
    disk.write(LOCK, "", 0o644)?;
    disk.write(SOURCE, source.name(), 0o644)?;
    let write = |name: &str, content: &str| disk.write(&format!("{SEED}/{name}"), content, 0o600);
    write("instance-id", &config.instance_id)?;
    if is_new {
        write("new", "")?;
    }
    if !config.errors.is_empty() {
        write("errors", &lines(&config.errors))?;
    }
    for (name, script) in [
        ("bootcmd", &config.bootcmd),
        ("runcmd", &config.runcmd),
        ("final-message", &config.final_message),
        ("timezone", &config.timezone),
    ] {
        if let Some(script) = script {
            write(name, script)?;
        }
    }
    for (folder, scripts) in [
        ("boothooks", &config.boothooks),
        ("user-scripts", &config.user_scripts),
    ] {
        for (number, script) in scripts.iter().enumerate() {
            write(&format!("{folder}/{number:04}"), script)?;
        }
    }
    if let Some(seconds) = config.power_off {
        write("power-off", &seconds.to_string())?;
    }
    for (name, texts) in [
        ("passwords", &config.passwords),
        ("password-hashes", &config.password_hashes),
        ("expired", &config.expired),
        ("packages", &config.packages),
    ] {
        if !texts.is_empty() {
            write(name, &lines(texts))?;
        }
    }
    if config.package_update {
        write("package-update", "")?;
    }
    for (number, user) in config.users.iter().enumerate() {
        let entry = format!("users/{number:04}");
        disk.make_dir(&format!("{SEED}/{entry}"), 0o700)?;
        let useradd = user.useradd.iter();
        let useradd = useradd.flat_map(|(option, value)| [(*option).to_owned(), value.clone()]);
        for (name, content) in [
            ("name", user.name.clone()),
            ("useradd", lines(&useradd.collect::<Vec<_>>())),
            ("sudo", lines(&user.sudo)),
            ("keys", lines(&user.keys)),
        ] {
            write(&format!("{entry}/{name}"), &content)?;
        }
    }
    for (number, file) in config.files.iter().enumerate() {
        let entry = format!("files/{number:04}");
        disk.make_dir(&format!("{SEED}/{entry}"), 0o700)?;
        for (name, content) in [
            ("path", &file.path),
            ("content", &file.content),
            ("encoding", &file.encoding),
            ("owner", &file.owner),
            ("permissions", &file.permissions),
        ] {
            write(&format!("{entry}/{name}"), content)?;
        }
        if file.append {
            write(&format!("{entry}/append"), "")?;
        }
    }
    Ok(())
}

/// One line each; a line break inside would make two of one.
fn lines(texts: &[String]) -> String {
    let texts = texts.iter();
    texts
        .map(|text| format!("{}\n", text.replace(['\n', '\r'], " ")))
        .collect()
}
