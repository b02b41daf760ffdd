//! The rocks of this project, for the commands that install them by themselves.

use std::path::Path;

use anyhow::{Context as _, ensure};
use bioxen_curator::{Rock, RocksServer, publish};
use bioxen_vm_core::local::{LocalRunner, PrivateDir};

use crate::rocks;

/// This project's rocks, or others in their place.
pub(super) struct OwnRocks {
    pub(super) server: RocksServer,
    pub(super) rocks: Vec<Rock>,
    /// Holds what was packed.
    _folder: Option<PrivateDir>,
}

impl OwnRocks {
    /// Those of this program, or those that are packed of the sources in a folder.
    pub(super) async fn of(sources: Option<&Path>) -> anyhow::Result<Self> {
        let Some(sources) = sources else {
            return Ok(Self {
                server: rocks::server()?,
                rocks: rocks::embedded()?.rocks().to_vec(),
                _folder: None,
            });
        };
        ensure!(
            sources.is_dir(),
            "there is no folder {}; name one with the sources of rocks, or leave --rocks out for \
             those of this program",
            sources.display()
        );
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(sources)? {
            let path = entry?.path();
            let mut files = std::fs::read_dir(&path).into_iter().flatten().flatten();
            if files.any(|file| file.path().extension().is_some_and(|end| end == "rockspec")) {
                folders.push(path);
            }
        }
        ensure!(
            !folders.is_empty(),
            "no folder in {} has a rockspec",
            sources.display()
        );
        folders.sort();
        let folder =
            PrivateDir::temporary("bioxen-rocks-").context("cannot make a folder for the rocks")?;
        let packed = folder.path().join("packed");
        let rocks = publish(&folders, &packed, &LocalRunner::new()).await?;
        Ok(Self {
            server: RocksServer::Directory(packed),
            rocks,
            _folder: Some(folder),
        })
    }
}
