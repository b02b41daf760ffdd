//! What was built in one VM, for others like it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bioxen_vm_core::PackageSite;
use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::Plan;
use crate::hash::sha256;
use crate::install::File;
use crate::luarocks::Answer;

/// Keeps in memory what was built, so that several VMs of one kind build a set of rocks once.
///
/// The first curator that installs a set into a tree without rocks keeps the whole tree. Others with
/// the same [`Builds`] get it as it is, where the kind of machine, the distribution, the Lua version,
/// the path of the tree and the SHA-256 of every rock are the same. While one builds, others that
/// need the same wait for it.
///
/// A VM that gives its tree to others is trusted by them: what runs in it could have changed the
/// tree. So give [`Builds`] only to VMs that may trust each other; a curator has none by default.
#[derive(Debug, Clone, Default)]
pub struct Builds {
    trees: Arc<std::sync::Mutex<HashMap<String, Slot>>>,
}

type Slot = Arc<Mutex<Option<Bytes>>>;

impl Builds {
    /// Keeps nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The place of what a plan builds. Waits while another builds it.
    pub(crate) async fn of(
        &self,
        known: &Answer,
        site: &PackageSite,
        plan: &Plan,
        files: &[File],
    ) -> Build {
        let machine = known.records().find(|record| record.name == "machine");
        let mut key = format!(
            "{}\n{}\n{}\n",
            machine.map_or("", |record| record.text()),
            site.tree,
            site.lua_version
        );
        let mut rocks: Vec<_> = plan.steps.iter().zip(files).collect();
        rocks.sort_by_key(|(step, _)| &step.rock);
        for (step, file) in rocks {
            key += &format!("{} {}\n", step.rock, file.sha256);
        }
        let slot = {
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(trees.entry(sha256(key.as_bytes())).or_default())
        };
        Build(slot.lock_owned().await)
    }
}

/// A set of rocks that is being built, or was.
pub(crate) struct Build(OwnedMutexGuard<Option<Bytes>>);

impl Build {
    /// The tree, if it was built.
    pub(crate) fn tar(&self) -> Option<Bytes> {
        self.0.clone()
    }

    pub(crate) fn keep(&mut self, tar: Bytes) {
        *self.0 = Some(tar);
    }
}
