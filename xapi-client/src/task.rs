//! Tasks: calls that the server works on while we watch.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::api::{Task, TaskRecord, TaskStatusType};
use crate::client::Client;
use crate::error::{Error, ErrorCode, Result};
use crate::failure::Failure;
use crate::reference::Ref;
use crate::reply::Reply;

/// A task on the server, made by [`Call::into_task`](crate::Call::into_task).
///
/// Dropping the handle changes nothing on the server: the task goes on, and the server clears it away
/// about an hour after its end.
pub struct TaskHandle<R> {
    client: Client,
    /// The method that the task is for.
    method: String,
    task: Ref<Task>,
    result: PhantomData<fn() -> R>,
}

impl<R> TaskHandle<R> {
    pub(crate) fn new(client: Client, method: String, task: Ref<Task>) -> Self {
        Self {
            client,
            method,
            task,
            result: PhantomData,
        }
    }

    /// The reference of the task.
    #[must_use]
    pub fn task_ref(&self) -> &Ref<Task> {
        &self.task
    }

    /// Asks the server to cancel the task. The task may succeed or fail all the same: its end is what
    /// [`wait`](Self::wait) says.
    ///
    /// # Errors
    ///
    /// As any call.
    pub async fn cancel(&self) -> Result<()> {
        self.client.task().cancel(&self.task).await
    }
}

impl<R: DeserializeOwned> TaskHandle<R> {
    /// Waits for the end of the task, clears it away, and returns its result. It does not poll: the
    /// server tells when the task changes.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] with the failure of the task (`TASK_CANCELLED` where it was cancelled);
    /// [`Error::TaskGone`] when the server has lost the task; and those of any call.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the task running; another `wait` on a clone of this handle, or a look
    /// at [`task_ref`](Self::task_ref), finds its end.
    pub async fn wait(&self) -> Result<R> {
        self.wait_with_progress(|_| {}).await
    }

    /// As [`wait`](Self::wait), and calls `progress` with the part done, from 0 to 1, whenever it
    /// changes.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Cancel safety
    ///
    /// As [`wait`](Self::wait).
    pub async fn wait_with_progress(&self, mut progress: impl FnMut(f64) + Send) -> Result<R> {
        let ended = self.end(&mut progress).await?;
        self.clear_away().await;
        match ended.status {
            TaskStatusType::Success => Reply::of_task(&self.method, ended.result).decode(),
            _ => Err(Error::Api(self.failure(ended))),
        }
    }
}

impl<R> TaskHandle<R> {
    /// The record of the task at its end.
    async fn end(&self, progress: &mut (dyn FnMut(f64) + Send)) -> Result<TaskRecord> {
        let mut watch = self
            .client
            .watch(&[&format!("task/{}", self.task.as_str())]);
        let mut last_progress = None;
        loop {
            let batch = watch.next().await?;
            let own = batch
                .events
                .iter()
                .rev()
                .find(|event| event.reference == self.task.as_str());
            let record = match own {
                Some(event) => match event.record::<Task>()? {
                    Some(record) => record,
                    None => return Err(self.gone()),
                },
                // Silence may also mean that the server has lost the task, and its events with it.
                None => self.read().await?,
            };
            if last_progress != Some(record.progress) {
                last_progress = Some(record.progress);
                progress(record.progress);
            }
            if is_final(&record.status) {
                return Ok(record);
            }
        }
    }

    async fn read(&self) -> Result<TaskRecord> {
        match self.client.task().get_record(&self.task).await {
            Err(Error::Api(failure)) if failure.code == ErrorCode::HandleInvalid => {
                Err(self.gone())
            }
            outcome => outcome,
        }
    }

    /// Removes the finished task from the server. Its end is known, so a failure here is only noted.
    async fn clear_away(&self) {
        if let Err(error) = self.client.task().destroy(&self.task).await {
            tracing::debug!(%error, method = self.method, "cannot clear away a finished task");
        }
    }

    fn failure(&self, record: TaskRecord) -> Failure {
        let mut description = record.error_info;
        if description.is_empty() && record.status == TaskStatusType::Cancelled {
            description = vec![
                ErrorCode::TaskCancelled.as_str().to_owned(),
                self.task.as_str().to_owned(),
            ];
        }
        Failure::new(&self.method, description)
    }

    fn gone(&self) -> Error {
        Error::TaskGone {
            method: self.method.clone(),
            task: self.task.as_str().to_owned(),
        }
    }
}

fn is_final(status: &TaskStatusType) -> bool {
    matches!(
        status,
        TaskStatusType::Success | TaskStatusType::Failure | TaskStatusType::Cancelled
    )
}

impl<R> Clone for TaskHandle<R> {
    fn clone(&self) -> Self {
        Self::new(self.client.clone(), self.method.clone(), self.task.clone())
    }
}

impl<R> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle")
            .field("method", &self.method)
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}
