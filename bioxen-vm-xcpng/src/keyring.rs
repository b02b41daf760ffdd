//! The ways into VMs that outlive their program, on disk: one file for each, which only its owner can
//! read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// What the name of a key ends with while it is being written.
const NEW: &str = ".new";

/// The private directory of the program, and the folder of the keys in it.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    dir: PathBuf,
}

/// A VM that a key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    /// The UUID of its pool.
    pub(crate) pool: String,
    pub(crate) uuid: String,
    pub(crate) name: String,
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
    pool: String,
    name: String,
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
    pub(crate) async fn save(&self, vm: Lock, way_in: WayIn) -> io::Result<()> {
        let keyring = self.clone();
        blocking(move || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&keyring.dir)?;
            let Lock { pool, uuid, name } = vm;
            let (file, fresh) = (keyring.file(&uuid), keyring.file(&format!("{uuid}{NEW}")));
            let text = serde_json::to_vec(&Written {
                pool,
                name,
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

    /// The VMs of a pool to which there are keys.
    pub(crate) async fn of_pool(&self, pool: String) -> io::Result<Vec<Lock>> {
        let keyring = self.clone();
        blocking(move || {
            let mut found = Vec::new();
            for path in keyring.paths()? {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let uuid = stem.strip_suffix(NEW).unwrap_or(&stem).to_owned();
                let text = match fs::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    text => text?,
                };
                // What cannot be read is of nobody that we know.
                match serde_json::from_slice::<Written<SecretString>>(&text) {
                    Ok(Written { pool: of, name, .. }) if of == pool => {
                        let pool = of;
                        found.push(Lock { pool, uuid, name });
                    }
                    _ => {}
                }
            }
            found.sort_unstable_by(|a, b| a.uuid.cmp(&b.uuid));
            found.dedup();
            Ok(found)
        })
        .await
    }

    /// Whether there is any key.
    pub(crate) async fn has_any(&self) -> io::Result<bool> {
        let keyring = self.clone();
        blocking(move || Ok(!keyring.paths()?.is_empty())).await
    }

    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.path())).collect(),
        }
    }

    /// Forgets the way into a VM.
    pub(crate) async fn remove(&self, uuid: String) -> io::Result<()> {
        let keyring = self.clone();
        blocking(move || {
            for name in [uuid.clone(), format!("{uuid}{NEW}")] {
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
        let lock = Lock {
            pool: "p".into(),
            uuid: "u".into(),
            name: "bioxen-vm".into(),
        };
        keyring.save(lock.clone(), way_in).await.unwrap();
        assert_eq!(keyring.of_pool("p".into()).await.unwrap(), [lock]);
        assert_eq!(keyring.of_pool("other".into()).await.unwrap(), []);
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
