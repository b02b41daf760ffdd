//! From a method name and raw parameters to a reply.
//!
//! The order of the checks is the server's: number of parameters, their types, the session,
//! removed messages, asynchronous mode, and only then, for asynchronous calls inside the task,
//! rights, injected faults and the handler.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use xapi_client::meta::{self, Class, Kind, Message, State};

use crate::audit;
use crate::check;
use crate::classes;
use crate::classes::operation::{self, Marks};
use crate::classes::{session, task};
use crate::db::{self, Release};
use crate::failure::{Failure, Reply};
use crate::interp;
use crate::json;
use crate::outage;
use crate::rbac;
use crate::value::Value;
use crate::world::{Call, Shared, World};

/// A reply that takes time.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// What answers a message.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// Runs to its end under the lock: nobody sees it half done.
    Now(fn(&mut World, &Call) -> Reply),
    /// The same where it takes time on a host: the objects that the first function names are
    /// marked meanwhile.
    Held(Marks, fn(&mut World, &Call) -> Reply),
    /// Waits for something: a guest, a delay, a change.
    Later(fn(Arc<Shared>, Arc<Call>) -> Pending),
}

/// A call as a client made it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) params: Vec<Value>,
    /// Pairs for the `other_config` of the task that the call makes.
    pub(crate) tags: Vec<(String, String)>,
    /// The host that was asked.
    pub(crate) host: String,
}

/// What the server knows by name.
pub(crate) struct Registry {
    messages: HashMap<String, (&'static Class, &'static Message)>,
    handlers: HashMap<&'static str, Handler>,
    release: Release,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}

impl Registry {
    pub(crate) fn new(release: Release) -> Self {
        let mut messages = HashMap::new();
        for class in meta::CLASSES
            .iter()
            .filter(|class| release.has(class.absent_in_xcpng))
        {
            for message in class
                .messages
                .iter()
                .filter(|m| release.has(m.absent_in_xcpng))
            {
                messages.insert(message.wire_name.replacen('.', "_", 1), (class, message));
                messages.insert(message.wire_name.to_owned(), (class, message));
            }
        }
        Registry {
            messages,
            handlers: classes::handlers().collect(),
            release,
        }
    }

    fn find(&self, name: &str) -> Option<(&'static Class, &'static Message)> {
        self.messages.get(name).copied()
    }

    /// The messages that are answered as a server does, or those that are not, sorted; removed
    /// ones left out.
    pub(crate) fn messages(&self, answered: bool) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .messages
            .iter()
            .filter(|(name, (_, message))| {
                *name == message.wire_name
                    && message.state != State::Removed
                    && self.answers(message) == answered
            })
            .map(|(_, (_, message))| message.wire_name)
            .collect();
        names.sort_unstable();
        names
    }

    /// Whether a message is answered as a server answers it.
    fn answers(&self, message: &Message) -> bool {
        self.handlers.contains_key(message.wire_name)
            || is_implicit(message.kind)
            // Refused as a server refuses them.
            || message.pool_internal
    }

    /// The messages in the server's order: class by class, what reads whole objects first.
    fn list_methods(&self) -> Value {
        let classes = meta::CLASSES.iter();
        let classes = classes.filter(|class| self.release.has(class.absent_in_xcpng));
        let mut names = Vec::new();
        for class in classes {
            let messages = class.messages.iter();
            let known = messages.filter(|m| self.release.has(m.absent_in_xcpng));
            let mut known: Vec<&Message> = known.collect();
            known.sort_by_key(|message| match message.kind {
                Kind::GetRecord => 0,
                Kind::GetByUuid => 1,
                Kind::Constructor => 2,
                Kind::Destructor => 3,
                Kind::GetByNameLabel => 4,
                Kind::FieldGet => 5,
                Kind::FieldSet | Kind::FieldAdd | Kind::FieldRemove => 6,
                Kind::Custom => 7,
                _ => 8,
            });
            names.extend(known.into_iter().map(|message| message.wire_name));
        }
        Value::strings(names)
    }
}

fn is_implicit(kind: Kind) -> bool {
    kind != Kind::Custom
}

/// The method whose answer XML-RPC carries without the `Status` struct.
pub(crate) const LIST_METHODS: &str = "system.listMethods";

/// Answers a call.
///
/// Dropping the future of a synchronous call abandons it where it waits, as when a client hangs
/// up on a real server in a place where that server notices.
pub(crate) async fn dispatch(shared: &Arc<Shared>, request: Request) -> Reply {
    let is_async = request.method.starts_with("Async.");
    let name = request
        .method
        .strip_prefix("Async.")
        .unwrap_or(&request.method)
        .to_owned();
    let found = shared.registry.find(&name).filter(|(_, message)| {
        // The alias with an underscore has no asynchronous form.
        !is_async || message.wire_name == name
    });
    let message = found.map(|(_, message)| message);
    let place = shared.with(|world| world.log.arrive(&request.method, message, &request.params));
    let reply = answer(shared, request, &name, found, is_async).await;
    let failure = reply.as_ref().err().map(|failure| failure.code.as_str());
    if let Some(code) = failure {
        tracing::debug!(method = %name, %code, "call failed");
    }
    shared.with(|world| world.log.answered(place, failure));
    reply
}

async fn answer(
    shared: &Arc<Shared>,
    request: Request,
    name: &str,
    found: Option<(&'static Class, &'static Message)>,
    is_async: bool,
) -> Reply {
    if name == LIST_METHODS {
        return Ok(shared.registry.list_methods());
    }
    let Some((class, message)) = found else {
        return Err(shared.with(|world| unknown(world, name, &request.params)));
    };
    let mut call = shared.with(|world| {
        task::collect(world);
        prepare(world, class, message, request.params)
    })?;
    call.host = request.host;
    if is_async {
        if !message.has_async {
            let text = format!("No async mode for this operation (rpc: {name})");
            return Err(Failure::new("Fault", [text]));
        }
        return begin(shared, call, &request.tags);
    }
    // A synchronous call has a task as well; where the message has an asynchronous form others
    // can see it while the call runs.
    let visible = message.has_async;
    let (cancel, mut cancelled) = watch::channel(false);
    shared.with(|world| {
        call.task = if visible {
            let task = task::open(world, name, &call.session, &request.tags)?;
            world.cancels.insert(task.clone(), cancel);
            task
        } else {
            format!("DummyRef:|{}|{name}", world.seed.uuid())
        };
        Ok(())
    })?;
    let call = Arc::new(call);
    let _closing = visible.then(|| OpenTask {
        shared: Arc::clone(shared),
        call: Arc::clone(&call),
    });
    tokio::select! {
        biased;
        reply = execute(shared, Arc::clone(&call)) => reply,
        Ok(_) = cancelled.wait_for(|cancelled| *cancelled) => {
            Err(Failure::new("TASK_CANCELLED", [call.task.as_str()]))
        }
    }
}

/// Removes the task of a synchronous call when the call ends, however it ends.
struct OpenTask {
    shared: Arc<Shared>,
    call: Arc<Call>,
}

impl Drop for OpenTask {
    fn drop(&mut self) {
        self.shared.with(|world| {
            world.cancels.remove(&self.call.task);
            drop(world.db.destroy("task", &self.call.task));
        });
    }
}

fn unknown(world: &World, name: &str, params: &[Value]) -> Failure {
    // The server looks at the session first, in case the method is an extension.
    match params.first() {
        Some(Value::String(session)) if !world.db.exists("session", session) => {
            Failure::session_invalid(session)
        }
        Some(Value::String(session)) => {
            let refused = rbac::reach(world, session, "host.call_extension", "pool-admin").err();
            refused.unwrap_or_else(|| Failure::new("MESSAGE_METHOD_UNKNOWN", [name]))
        }
        _ => Failure::new("MESSAGE_METHOD_UNKNOWN", [name]),
    }
}

/// The checks that precede everything else, also for asynchronous calls.
fn prepare(
    world: &mut World,
    class: &'static Class,
    message: &'static Message,
    mut params: Vec<Value>,
) -> Result<Call, Failure> {
    let release = world.db.release().key();
    let known = message
        .param_count_in_xcpng
        .iter()
        .find(|(name, _)| Some(*name) == release)
        .map_or(message.params.len(), |(_, count)| {
            (*count).min(message.params.len())
        });
    let declared = &message.params[..known];
    let required = declared
        .iter()
        .filter(|param| param.default.is_none())
        .count();
    let sessions = usize::from(message.needs_session);
    let enough = params.len() >= required + sessions;
    let too_many = params.len() > required + sessions && required == declared.len();
    if !enough || too_many {
        let received = params.len() as i64 - sessions as i64;
        let texts = [
            message.wire_name.to_owned(),
            required.to_string(),
            received.to_string(),
        ];
        return Err(Failure::new("MESSAGE_PARAMETER_COUNT_MISMATCH", texts));
    }
    let session = if message.needs_session {
        match check::convert(meta::Type::Ref("session"), params.remove(0))? {
            Value::String(session) => session,
            _ => String::new(),
        }
    } else {
        String::new()
    };
    let removed = message.state == State::Removed;
    let mut args = Vec::with_capacity(declared.len());
    let mut fields = Vec::new();
    if !removed && message.kind == Kind::Constructor {
        fields = interp::constructor_fields(class, &params)?;
    } else if !removed {
        let mut given = params.into_iter();
        for param in message.params {
            let value = match (given.next(), param.default) {
                (Some(value), _) => check::convert(param.ty, value)?,
                (None, Some(default)) => match json::parse(default) {
                    Ok(value) => db::typed_default(param.ty, value),
                    Err(_) => db::zero(param.ty),
                },
                (None, None) => db::zero(param.ty),
            };
            args.push(value);
        }
    }
    if message.needs_session {
        session::touch(world, &session)?;
    }
    if removed {
        return Err(Failure::code("MESSAGE_REMOVED"));
    }
    if message.pool_internal {
        // What hosts say to each other: no client has the session for it.
        let text = "Internal API call attempted with non-pool (external) session";
        return Err(Failure::new("INTERNAL_ERROR", [text]));
    }
    Ok(Call {
        class,
        message,
        args,
        fields,
        session,
        task: String::new(),
        host: String::new(),
    })
}

/// Starts an asynchronous call and gives its task.
fn begin(shared: &Arc<Shared>, mut call: Call, tags: &[(String, String)]) -> Reply {
    let label = format!("Async.{}", call.message.wire_name);
    let (cancel, mut cancelled) = watch::channel(false);
    let task = shared.with(|world| {
        let task = task::open(world, &label, &call.session, tags)?;
        world.db.set(
            "task",
            &task,
            "allowed_operations",
            Value::strings(["cancel"]),
        )?;
        world.cancels.insert(task.clone(), cancel);
        Ok(task)
    })?;
    call.task.clone_from(&task);
    let ended = shared.end_of_life(&call.host);
    let call = Arc::new(call);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let reply = tokio::select! {
            biased;
            () = shared.closed() => return,
            () = ended => return,
            reply = execute(&shared, Arc::clone(&call)) => reply,
            Ok(_) = cancelled.wait_for(|cancelled| *cancelled) => {
                Err(Failure::new("TASK_CANCELLED", [call.task.as_str()]))
            }
        };
        shared.with(|world| {
            world.cancels.remove(&call.task);
            task::finish(world, &call.task, &reply);
        });
    });
    Ok(Value::String(task))
}

/// Rights, faults and the handler, and what the audit log has to say of it.
async fn execute(shared: &Arc<Shared>, call: Arc<Call>) -> Reply {
    let reply = attempt(shared, &call).await;
    shared.with(|world| audit::note(world, &call, &reply));
    reply
}

async fn attempt(shared: &Arc<Shared>, call: &Arc<Call>) -> Reply {
    let verdict = shared.with(|world| {
        rbac::permit(world, call)?;
        let name = call.message.wire_name;
        Ok(world.faults.strike(&world.db, name, &call.args))
    })?;
    let work = async {
        if let Some(failure) = verdict.before {
            return Err(failure);
        }
        if let Some(reply) = shared.overruled(call) {
            return reply;
        }
        let reply = carry_out(shared, call).await;
        match verdict.after {
            Some(failure) => reply.and(Err(failure)),
            None => reply,
        }
    };
    let Some(reboot) = verdict.crash else {
        if !verdict.delay.is_zero() {
            tokio::time::sleep(verdict.delay).await;
        }
        return work.await;
    };
    let host = shared.with(|world| outage::host_of(world, call));
    tokio::select! {
        biased;
        _ = work => {}
        () = tokio::time::sleep(verdict.delay) => {}
    }
    outage::crash(shared, &host)?;
    outage::boot_after(shared, host.clone(), reboot);
    if host == call.host {
        // There is nobody left to answer.
        std::future::pending::<()>().await;
    }
    Err(Failure::new("CANNOT_CONTACT_HOST", [host]))
}

async fn carry_out(shared: &Arc<Shared>, call: &Arc<Call>) -> Reply {
    shared.with(|world| outage::assert_reachable(world, call))?;
    match shared.registry.handlers.get(call.message.wire_name) {
        Some(Handler::Now(run)) => shared.patiently(|world| run(world, call)).await,
        Some(Handler::Held(marks, run)) => operation::hold(shared, call, *marks, *run).await,
        Some(Handler::Later(run)) => run(Arc::clone(shared), Arc::clone(call)).await,
        None => shared.with(|world| implicit(world, call)),
    }
}

fn implicit(world: &mut World, call: &Call) -> Reply {
    let name = call.message.wire_name;
    if let Some(reply) = interp::answer(&mut world.db, call.class, call.message, &call.args) {
        return reply;
    }
    match call.message.kind {
        Kind::Constructor => {
            let fields = call.fields.clone();
            return world.create(call.class.name, fields).map(Value::String);
        }
        Kind::Destructor => {
            world.db.destroy(call.class.name, call.text(0))?;
            return Ok(Value::void());
        }
        _ => {}
    }
    tracing::warn!(method = name, "nothing implements this message");
    world.log.unimplemented.insert(name.to_owned());
    Err(Failure::new("NOT_IMPLEMENTED", [name]))
}
