//! Many VMs at once: made together, given one program together.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;

use super::VmManager;
use super::execution::Execution;
use crate::{Error, ErrorKind, Outcome, Result, Script, VmId};

impl VmManager {
    /// Makes VMs with the ids `lab_000`, `lab_001` and so on, at most
    /// [`max_workers`](Self::with_max_workers) at the same time.
    ///
    /// # Errors
    /// Fails as [`create_vm`](Self::create_vm) for the first VM that cannot be made; then those that
    /// were made are removed again.
    ///
    /// # Cancel safety
    /// As [`create_vm`](Self::create_vm): what was made stays with the manager.
    pub async fn create_cluster(
        self: &Arc<Self>,
        id: &str,
        size: usize,
        vm_type: &str,
        config: Value,
    ) -> Result<Vec<VmId>> {
        let room = Arc::new(Semaphore::new(self.max_workers));
        let creations: Vec<_> = (0..size)
            .map(|number| {
                let (manager, room) = (Arc::clone(self), Arc::clone(&room));
                let (id, vm_type, config) = (
                    format!("{id}_{number:03}"),
                    vm_type.to_owned(),
                    config.clone(),
                );
                tokio::spawn(async move {
                    // Never closed, so never an error.
                    let _room = room.acquire().await;
                    let vm = manager.create_vm(id, &vm_type, config).await?;
                    Ok(vm.id().clone())
                })
            })
            .collect();
        let (mut made, mut failure) = (Vec::new(), None);
        for creation in creations {
            match creation.await {
                Ok(Ok(id)) => made.push(id),
                Ok(Err(error)) => {
                    failure.get_or_insert(error);
                }
                Err(error) => {
                    failure.get_or_insert(
                        Error::new(ErrorKind::Internal, "a task that made a VM ended early")
                            .with_source(error),
                    );
                }
            }
        }
        let Some(failure) = failure else {
            return Ok(made);
        };
        for id in made {
            if let Err(error) = self.remove_vm(id.as_str()).await {
                tracing::warn!(vm = %id, %error, "a VM of a cluster that failed is left behind");
            }
        }
        Err(failure)
    }

    /// The ids of all VMs that fit a pattern, in which `*` stands for any text and `?` for any
    /// character, sorted.
    #[must_use]
    pub fn matching(&self, pattern: &str) -> Vec<VmId> {
        let vms = self.vms().into_iter();
        vms.filter(|vm| fits(pattern.as_bytes(), vm.id().as_str().as_bytes()))
            .map(|vm| vm.id().clone())
            .collect()
    }

    /// Runs a program in all VMs that fit a pattern, at most
    /// [`max_workers`](Self::with_max_workers) at the same time. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::NotFound`] when no VM fits. What goes wrong in one VM is told by its
    /// [`Execution`].
    pub fn broadcast(
        &self,
        pattern: &str,
        script: impl Into<Script>,
    ) -> Result<BTreeMap<VmId, Execution>> {
        let script = script.into();
        let room = Arc::new(Semaphore::new(self.max_workers));
        let ids = self.matching(pattern);
        if ids.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no VM fits {pattern:?}; this manager has: {}", self.known()),
            ));
        }
        ids.into_iter()
            .map(|id| {
                let room = Some(Arc::clone(&room));
                let execution = self.spawn(id.as_str(), script.clone(), room)?;
                Ok((id, execution))
            })
            .collect()
    }

    /// Removes all VMs that fit a pattern, and tells how many they were.
    ///
    /// # Errors
    /// Returns the first failure, after all have been tried.
    pub async fn remove_cluster(&self, pattern: &str) -> Result<usize> {
        let (mut removed, mut failure) = (0, None);
        for id in self.matching(pattern) {
            match self.remove_vm(id.as_str()).await {
                Ok(()) => removed += 1,
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(removed), Err)
    }
}

/// Waits for all executions of a broadcast. What failed is there as data, next to what did not.
///
/// # Cancel safety
/// Dropping the future does not end the programs.
pub async fn gather(executions: &BTreeMap<VmId, Execution>) -> BTreeMap<VmId, Result<Outcome>> {
    let mut results = BTreeMap::new();
    for (id, execution) in executions {
        results.insert(id.clone(), execution.wait().await);
    }
    results
}

/// Whether a text fits a pattern.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star is, and how much of the text it stands for ends.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, stands)) => {
                    star = Some((at, stands + 1));
                    p = at + 1;
                    t = stands + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_fit_as_those_of_a_shell() {
        for (pattern, text, expected) in [
            ("lab_*", "lab_000", true),
            ("lab_*", "lab", false),
            ("*", "", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(
                fits(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }
}
