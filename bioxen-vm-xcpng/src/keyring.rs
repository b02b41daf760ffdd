//! The ways into VMs that outlive their program, on disk: one file for each, which only its owner can
//! read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// The private directory of the program, and the folder of the keys in it.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    dir: PathBuf,
}

/// What proves each side to the other, and where.
#[derive(Debug, Clone)]
pub(crate) struct WayIn {
    pub(crate) user: String,
    pub(crate) port: u16,
    /// Our private key.
    pub(crate) identity: SecretString,
    /// The VM's public key.
    pub(crate) host_key: String,
}

/// As it is on disk.
#[derive(Serialize, Deserialize)]
struct Written<T> {
    user: String,
    port: u16,
    identity: T,
    host_key: String,
}

impl Keyring {
    pub(crate) fn at(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("keys"),
        }
    }

    fn file(&self, uuid: &str) -> PathBuf {
        self.dir.join(format!("{uuid}.json"))
    }

    /// Keeps the way into a VM. It is on disk as a whole, or not at all.
    pub(crate) async fn save(&self, uuid: String, way_in: WayIn) -> io::Result<()> {
        let keyring = self.clone();
        blocking(move || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&keyring.dir)?;
            let (file, fresh) = (keyring.file(&uuid), keyring.file(&format!("{uuid}.new")));
            let text = serde_json::to_vec(&Written {
                user: way_in.user,
                port: way_in.port,
                identity: way_in.identity.expose_secret(),
                host_key: way_in.host_key,
            })?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut written = options.open(&fresh)?;
            written.write_all(&text)?;
            written.sync_all()?;
            fs::rename(fresh, file)
        })
        .await
    }

    /// The way into a VM, if it is known here.
    pub(crate) async fn load(&self, uuid: String) -> io::Result<Option<WayIn>> {
        let keyring = self.clone();
        blocking(move || {
            let text = match fs::read(keyring.file(&uuid)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                text => text?,
            };
            let written: Written<SecretString> = serde_json::from_slice(&text)?;
            Ok(Some(WayIn {
                user: written.user,
                port: written.port,
                identity: written.identity,
                host_key: written.host_key,
            }))
        })
        .await
    }

    /// Forgets the way into a VM.
    pub(crate) async fn remove(&self, uuid: String) -> io::Result<()> {
        let keyring = self.clone();
        blocking(move || {
            for name in [uuid.clone(), format!("{uuid}.new")] {
                match fs::remove_file(keyring.file(&name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
            Ok(())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_way_in_is_found_again_until_it_is_removed_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::at(dir.path());
        assert!(keyring.load("u".into()).await.unwrap().is_none());
        let way_in = WayIn {
            user: "bio".into(),
            port: 2222,
            identity: "PRIVATE".to_owned().into(),
            host_key: "ssh-ed25519 AAAA".into(),
        };
        assert!(!format!("{way_in:?}").contains("PRIVATE"));
        keyring.save("u".into(), way_in).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keyring.dir), 0o700);
        assert_eq!(mode(&keyring.file("u")), 0o600);
        let found = keyring.load("u".into()).await.unwrap().unwrap();
        assert_eq!((&*found.user, found.port), ("bio", 2222));
        assert_eq!(found.identity.expose_secret(), "PRIVATE");
        keyring.remove("u".into()).await.unwrap();
        keyring.remove("u".into()).await.unwrap();
        assert_eq!(fs::read_dir(&keyring.dir).unwrap().count(), 0);
    }
}
