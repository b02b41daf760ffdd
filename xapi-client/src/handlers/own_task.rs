//! The task by which a server tells how a transfer ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;

use super::request::Meter;
use crate::api::{Task, TaskStatusType};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::reference::Ref;
use crate::task::TaskHandle;

/// A task that we made, and that is cancelled and removed unless its end was seen.
#[derive(Debug)]
pub(super) struct OwnTask {
    client: Client,
    /// The request that the task is for.
    method: String,
    task: Ref<Task>,
    ended: Arc<AtomicBool>,
}

impl OwnTask {
    pub(super) async fn create(client: &Client, method: &str, name: Option<&str>) -> Result<Self> {
        let (client, request) = (client.clone(), method.to_owned());
        let name = name.unwrap_or(method).to_owned();
        // On its own, so that a task that the server makes while we are dropped is removed all the same.
        let creation = tokio::spawn(async move {
            let task = client.task().create(&name, "made by a client").await?;
            Ok(Self {
                client,
                method: request,
                task,
                ended: Arc::default(),
            })
        });
        creation.await.unwrap_or_else(|error| {
            Err(Error::Config(format!(
                "the runtime stopped before {method}: {error}"
            )))
        })
    }

    pub(super) fn reference(&self) -> &Ref<Task> {
        &self.task
    }

    /// Waits for the end of the task, and removes it.
    pub(super) fn end<R: DeserializeOwned>(
        &self,
        meter: Meter,
    ) -> impl Future<Output = Result<R>> + Send + use<R> {
        let handle = TaskHandle::new(self.client.clone(), self.method.clone(), self.task.clone());
        let ended = self.ended.clone();
        async move {
            let outcome = handle
                .wait_with_progress(|done| meter.tell(|told| told.server = done))
                .await;
            let is_end = match &outcome {
                Ok(_) | Err(Error::TaskGone { .. } | Error::Decode { .. }) => true,
                Err(Error::Api(failure)) => !failure.is_session_invalid(),
                Err(_) => false,
            };
            ended.store(is_end, Ordering::SeqCst);
            outcome
        }
    }

    /// Why the server has failed the task, if it has.
    pub(super) async fn failure(&self) -> Option<Failure> {
        let record = self.client.task().get_record(&self.task).await.ok()?;
        (record.status == TaskStatusType::Failure && !record.error_info.is_empty())
            .then(|| Failure::new(&self.method, record.error_info))
    }

    /// The error to give where a transfer never began: what the server wrote into the task, if it did, says
    /// more than a broken connection.
    pub(super) async fn explain(self, error: Error) -> Error {
        let failure = match &error {
            Error::Transport { .. } => self.failure().await,
            _ => None,
        };
        self.abandon().await;
        failure.map_or(error, Error::Api)
    }

    /// Cancels the task and removes it, unless its end was seen.
    pub(super) async fn abandon(self) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            remove(self.client.clone(), self.task.clone()).await;
        }
    }
}

impl Drop for OwnTask {
    fn drop(&mut self) {
        if self.ended.load(Ordering::SeqCst) {
            return;
        }
        // Without a runtime nobody can tell the server, which forgets the task after a day.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(remove(self.client.clone(), self.task.clone()));
        }
    }
}

async fn remove(client: Client, task: Ref<Task>) {
    let calls = client.task();
    // Stops what the server may be doing for it. A task that nothing works on stays pending, and a pending
    // one cannot be removed.
    let removal = async {
        calls.cancel(&task).await?;
        calls.set_status(&task, TaskStatusType::Cancelled).await?;
        calls.destroy(&task).await
    };
    if let Err(error) = removal.await {
        tracing::debug!(%error, task = task.as_str(), "cannot remove the task of a transfer");
    }
}
