//! Reads files of rocks servers.

use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::{Command, Runner, Status};
use bytes::Bytes;

use crate::diagnose::last_line;
use crate::server::Place;
use crate::{Cache, Error, Result, remedy, tar};

/// `curl` where there is one, else `wget`. 77 when there is neither.
const DOWNLOAD: &str = "\
if command -v curl >/dev/null; then exec curl -fsSL --proto-redir =http,https -- \"$1\"; fi
if command -v wget >/dev/null; then exec wget -nv -O - -- \"$1\"; fi
exit 77";

/// Nothing that is downloaded is larger: 512 MiB.
const MAX_SIZE: usize = 512 << 20;

/// Downloads on one machine, and keeps what it can keep.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) timeout: Duration,
    pub(crate) cache: Option<Cache>,
}

/// Why a file could not be read from a server.
#[derive(Debug)]
pub(crate) enum Miss {
    /// The server does not have it.
    Absent,
    /// The server did not answer as it should.
    Unreachable(String),
    /// Something on our side.
    Error(Error),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Whether a file may change under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Changing,
    Lasting,
}

impl Fetcher {
    /// Reads a file of a place. Of mirrors, the first that answers is asked.
    pub(crate) async fn read(&self, place: &Place, file: &str, kind: Kind) -> Result<Bytes, Miss> {
        match place {
            Place::Directory(directory) => {
                let path = directory.join(file);
                tokio::fs::read(&path)
                    .await
                    .map(Bytes::from)
                    .map_err(|source| match source.kind() {
                        std::io::ErrorKind::NotFound if directory.is_dir() => Miss::Absent,
                        _ => Miss::Error(Error::Io {
                            operation: "read",
                            path,
                            source,
                        }),
                    })
            }
            Place::Archive(path) => {
                let content = tokio::fs::read(path).await.map_err(|source| Error::Io {
                    operation: "read",
                    path: path.clone(),
                    source,
                })?;
                match tar::extract(&content, file) {
                    Ok(Some(content)) => Ok(content),
                    Ok(None) => Err(Miss::Absent),
                    Err(reason) => Err(Miss::Unreachable(reason)),
                }
            }
            Place::Embedded(rocks) => rocks.file(file).ok_or(Miss::Absent),
            Place::Urls(mirrors) => {
                let mut first = None;
                for mirror in mirrors {
                    match self.download(&format!("{mirror}/{file}"), kind).await {
                        Err(Miss::Unreachable(reason)) => {
                            let reason = match mirrors.len() {
                                1 => reason,
                                _ => format!("{mirror}: {reason}"),
                            };
                            first.get_or_insert(reason);
                        }
                        answered => return answered,
                    }
                }
                Err(Miss::Unreachable(first.unwrap_or_default()))
            }
        }
    }

    /// Reads what an address has, or the cache has of it.
    pub(crate) async fn download(&self, url: &str, kind: Kind) -> Result<Bytes, Miss> {
        if let (Kind::Lasting, Some(cache)) = (kind, &self.cache)
            && let Some(known) = cache.get_by_url(url).await
        {
            return Ok(known);
        }
        let mut command = Command::new("sh")
            .args(["-c", DOWNLOAD, "download", url])
            .with_timeout(self.timeout);
        command.max_output = MAX_SIZE;
        let outcome = self
            .runner
            .run(command)
            .await
            .map_err(|source| Error::Machine {
                operation: "download rocks",
                machine: self.runner.describe(),
                source: Box::new(source),
            })?;
        let said = outcome.stderr_text();
        match outcome.status {
            Status::Exited(0) if outcome.stdout_truncated => {
                Err(Miss::Unreachable(format!("{url} has more than 512 MiB")))
            }
            Status::Exited(0) => {
                let content = outcome.stdout;
                if let (Kind::Lasting, Some(cache)) = (kind, &self.cache) {
                    cache.put(Some(url), &content).await?;
                }
                Ok(content)
            }
            Status::Exited(77) => Err(Miss::Error(Error::MissingProgram {
                machine: self.runner.describe(),
                program: "wget or curl".into(),
                remedy: remedy::program("wget or curl"),
            })),
            Status::TimedOut => Err(Miss::Unreachable(format!(
                "no answer within {} s",
                self.timeout.as_secs()
            ))),
            _ if said.contains("404") => Err(Miss::Absent),
            _ => Err(Miss::Unreachable(last_line(&said))),
        }
    }
}
