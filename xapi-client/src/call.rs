//! A call that is ready to be sent.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::Client;
use crate::error::Result;
use crate::records::Records;
use crate::reference::Ref;
use crate::retry::TaskTag;
use crate::task::TaskHandle;

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Marks calls that have no `Async.` variant.
#[derive(Debug, Clone, Copy)]
pub enum SyncOnly {}

/// Marks calls that have an `Async.` variant, which [`Call::into_task`] sends.
#[derive(Debug, Clone, Copy)]
pub enum AsyncCapable {}

/// A call that is ready to be sent; `.await` sends it and waits for the result.
///
/// Long operations (start, clone, copy, migrate) are better sent as tasks, with
/// [`into_task`](Call::into_task): a task reports progress, can be cancelled, and survives a broken
/// connection.
///
/// # Errors
///
/// Every call can fail with every [`Error`](crate::Error) and every code: those that messages declare are
/// the most likely ones, not all.
///
/// # Cancel safety
///
/// Dropping the future abandons the answer; the server may execute the call all the same.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<'c, R, Mode = SyncOnly> {
    client: &'c Client,
    prepared: Prepared,
    result: PhantomData<fn() -> (R, Mode)>,
}

/// A method and its parameters, the session excluded.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) method: String,
    pub(crate) params: Vec<Value>,
    pub(crate) needs_session: bool,
    /// Marks the task, where the call is sent as one.
    pub(crate) tag: Option<TaskTag>,
    /// How long to wait for the answer; `None`: as long as the client does.
    pub(crate) timeout: Option<Duration>,
    /// Whether it is one of the calls of which only so many are under way at once.
    pub(crate) counts: bool,
}

impl<'c, R, Mode> Call<'c, R, Mode> {
    pub(crate) fn new(client: &'c Client, method: &str, params: Vec<Value>) -> Self {
        let prepared = Prepared {
            method: method.to_owned(),
            params,
            needs_session: true,
            tag: None,
            timeout: None,
            counts: true,
        };
        Self {
            client,
            prepared,
            result: PhantomData,
        }
    }

    pub(crate) fn without_session(client: &'c Client, method: &str, params: Vec<Value>) -> Self {
        let prepared = Prepared {
            method: method.to_owned(),
            params,
            needs_session: false,
            tag: None,
            timeout: None,
            counts: true,
        };
        Self {
            client,
            prepared,
            result: PhantomData,
        }
    }

    /// The same call with another limit to how long it may take than the client has
    /// ([`ClientBuilder::timeout`](crate::ClientBuilder::timeout)). It counts from when the call is sent, and
    /// anew for each replay. The server is not told: it may go on.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.prepared.timeout = Some(timeout);
        self
    }

    /// The same call, not among those of which only so many are under way at once
    /// ([`ClientBuilder::max_concurrent_calls`](crate::ClientBuilder::max_concurrent_calls)): for one whose
    /// answer comes when a VM has booted or an operator has acted. Others must not wait for that.
    pub fn uncounted(mut self) -> Self {
        self.prepared.counts = false;
        self
    }

    /// The same call with its result as plain JSON.
    pub fn raw(self) -> Call<'c, Value, Mode> {
        self.select()
    }

    /// The same call with its result decoded as another type: a struct with a few fields of a record is
    /// decoded faster than the record, and needs less memory. Integers and floats are read in all the
    /// spellings that servers use.
    ///
    /// ```no_run
    /// # use std::collections::BTreeMap;
    /// # use xapi_client::{Client, Ref, Result, api::Vm};
    /// #[derive(serde::Deserialize)]
    /// struct Name {
    ///     name_label: String,
    /// }
    ///
    /// # async fn example(client: &Client) -> Result<()> {
    /// let names: BTreeMap<Ref<Vm>, Name> = client.vm().get_all_records().select().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn select<S>(self) -> Call<'c, S, Mode> {
        Call {
            client: self.client,
            prepared: self.prepared,
            result: PhantomData,
        }
    }
}

impl<K: DeserializeOwned, V: DeserializeOwned, Mode> Call<'_, BTreeMap<K, V>, Mode> {
    /// The same call with the entries of its result as a stream, each decoded as its bytes arrive: all
    /// records of a large pool need no more memory than one. After [`select`](Self::select), so do a few
    /// fields of each.
    ///
    /// ```no_run
    /// # use xapi_client::{Client, Result};
    /// # async fn example(client: &Client) -> Result<()> {
    /// let mut vms = client.vm().get_all_records().stream();
    /// while let Some(vm) = vms.next().await {
    ///     let (_, record) = vm?;
    ///     println!("{}", record.name_label);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(self) -> Records<K, V> {
        Records::new(self.client, self.prepared)
    }
}

impl<'c, R> Call<'c, R, AsyncCapable> {
    /// Sends the `Async.` variant: `.await` gives a [`TaskHandle`] as soon as the server has accepted the
    /// task, [`wait`](TaskCall::wait) its result.
    pub fn into_task(mut self) -> TaskCall<'c, R> {
        let method = std::mem::take(&mut self.prepared.method);
        let tag = TaskTag::fresh(&method);
        self.prepared.method = format!("Async.{method}");
        self.prepared.tag = Some(tag.clone());
        TaskCall {
            client: self.client,
            prepared: self.prepared,
            tag,
            result: PhantomData,
        }
    }
}

impl<R: DeserializeOwned + 'static, Mode> IntoFuture for Call<'_, R, Mode> {
    type Output = Result<R>;
    type IntoFuture = BoxFuture<R>;

    fn into_future(self) -> BoxFuture<R> {
        let reply = self.client.execute(self.prepared);
        Box::pin(async move { reply.await?.decode() })
    }
}

impl<R, Mode> fmt::Debug for Call<'_, R, Mode> {
    /// Leaves the parameters out: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.prepared.method)
            .finish_non_exhaustive()
    }
}

/// A call that is ready to be sent as a task.
#[must_use = "a call does nothing until it is awaited"]
pub struct TaskCall<'c, R> {
    client: &'c Client,
    prepared: Prepared,
    tag: TaskTag,
    result: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> TaskCall<'_, R> {
    /// Sends the call and waits for the end of its task: see [`TaskHandle::wait`].
    ///
    /// # Errors
    ///
    /// As [`TaskHandle::wait`].
    pub async fn wait(self) -> Result<R> {
        self.start().await?.wait().await
    }

    /// Sends the call, waits for the end of its task and reports progress: see
    /// [`TaskHandle::wait_with_progress`].
    ///
    /// # Errors
    ///
    /// As [`TaskHandle::wait`].
    pub async fn wait_with_progress(self, progress: impl FnMut(f64) + Send) -> Result<R> {
        self.start().await?.wait_with_progress(progress).await
    }
}

impl<R> TaskCall<'_, R> {
    /// What the task will be marked with. A program that keeps it before it sends the call finds the task
    /// again even if it is killed itself.
    #[must_use]
    pub fn tag(&self) -> &TaskTag {
        &self.tag
    }

    fn start(self) -> impl Future<Output = Result<TaskHandle<R>>> + Send + use<R> {
        let client = self.client.clone();
        let reply = self.client.execute(self.prepared);
        async move {
            let reply = reply.await?;
            Ok(TaskHandle::new(
                client,
                self.tag.method().to_owned(),
                Ref::new(&reply.decode::<String>()?),
            ))
        }
    }
}

impl<R: 'static> IntoFuture for TaskCall<'_, R> {
    type Output = Result<TaskHandle<R>>;
    type IntoFuture = BoxFuture<TaskHandle<R>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

impl<R> fmt::Debug for TaskCall<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskCall")
            .field("method", &self.prepared.method)
            .finish_non_exhaustive()
    }
}
