//! How the pool is called where it may be busy, and where an answer may get lost.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use xapi_client::{Client, Error as CallError, ErrorCode, Failure, TaskCall, TaskHandle};

use crate::error::{Error, Result};

/// How long to wait before a busy pool is asked again; twice as long after each further time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// For how long. Servers keep most calls waiting themselves, so one that is refused met real trouble.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a task whose end could not be read is looked at again.
const LOOKS: u32 = 3;

/// What storage says of a disk that too many copies have been made of.
const CHAIN_TOO_LONG: [&str; 2] = ["SR_BACKEND_FAILURE_109", "SR_BACKEND_FAILURE_82"];

/// Makes a call again for as long as the pool says that it is busy: with another operation on the
/// same thing, with too many tasks, or with its own start. Each of these means that nothing was done.
pub(crate) async fn patiently<T, F>(
    client: &Client,
    cancel: Option<&CancellationToken>,
    mut call: impl FnMut() -> F,
) -> xapi_client::Result<T>
where
    F: Future<Output = xapi_client::Result<T>>,
{
    let end = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match call().await {
            Err(CallError::Api(failure)) if failure.is_retryable() && Instant::now() < end => {
                failure
            }
            result => return result,
        };
        tracing::debug!(%failure, "the pool is busy");
        let over = tokio::select! {
            () = free(client, &failure, pause) => false,
            () = cancelled(cancel) => true,
        };
        if over {
            return Err(CallError::Api(failure));
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn cancelled(cancel: Option<&CancellationToken>) {
    match cancel {
        Some(cancel) => cancel.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Waits until what a call failed for may be over: until the thing in question changes, if the
/// failure names one, but no longer than this.
pub(crate) async fn free(client: &Client, failure: &Failure, limit: Duration) {
    let subject = match failure.code {
        // Class and reference.
        ErrorCode::OtherOperationInProgress => {
            format!("{}/{}", failure.param(0), failure.param(1))
        }
        ErrorCode::VdiInUse => format!("vdi/{}", failure.param(0)),
        _ => return tokio::time::sleep(limit).await,
    };
    let changed = async {
        let mut watch = client.watch(&[&subject]);
        // The first batch tells how it is now.
        for _ in 0..2 {
            match watch.next().await {
                Ok(batch) if !batch.events.is_empty() => {}
                _ => std::future::pending().await,
            }
        }
    };
    let _ = timeout(limit, changed).await;
}

/// Whether storage refuses another copy of a disk because there are too many in a row already.
pub(crate) fn is_chain_too_long(error: &CallError) -> bool {
    error.failure().is_some_and(|failure| match &failure.code {
        ErrorCode::Unrecognized(code) => CHAIN_TOO_LONG.contains(&code.as_str()),
        code => CHAIN_TOO_LONG.contains(&code.as_str()),
    })
}

/// Sends a call as a task, and waits for its end; again while the pool is busy.
pub(crate) async fn carry_out<'c, R: DeserializeOwned + 'static>(
    client: &Client,
    call: impl Fn() -> TaskCall<'c, R>,
    doing: &'static str,
) -> Result<R> {
    let once = || async { end(&begin(client, call()).await?).await };
    let carried = patiently(client, None, once).await;
    carried.map_err(Error::pool(doing))
}

/// Sends a call as a task. A call whose answer got lost is found again by what its task was marked with.
pub(crate) async fn begin<R: DeserializeOwned + 'static>(
    client: &Client,
    call: TaskCall<'_, R>,
) -> xapi_client::Result<TaskHandle<R>> {
    let tag = call.tag().clone();
    match call.await {
        // Unless it is found, it never arrived.
        Err(lost @ CallError::UnknownOutcome { .. }) => client.reconcile(&tag).await?.ok_or(lost),
        task => task,
    }
}

/// The end of a task. A look that fails says nothing about the task, so another one is taken.
pub(crate) async fn end<R: DeserializeOwned>(task: &TaskHandle<R>) -> xapi_client::Result<R> {
    let mut look = 1;
    loop {
        match task.wait().await {
            Err(error) if look < LOOKS && is_only_a_failed_look(&error) => look += 1,
            result => return result,
        }
    }
}

fn is_only_a_failed_look(error: &CallError) -> bool {
    use CallError as E;
    match error {
        E::Api(failure) => failure.method.starts_with("task.") || failure.method == "event.from",
        E::Connect { .. } | E::Transport { .. } | E::Timeout { .. } | E::Http { .. } => true,
        _ => false,
    }
}
