//! The state of a simulated pool, and the lock around it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use xapi_client::meta::{Class, Message};

use crate::assertions::Log;
use crate::audit::AuditLog;
use crate::backing::{Disk, GuestHost, Running};
use crate::classes::certificate;
use crate::classes::event::Listener;
use crate::classes::vdi_cbt::Blocks;
use crate::classes::vdi_introduce::Forgotten;
use crate::clock::Clock;
use crate::db::Db;
use crate::dispatch::Registry;
use crate::failure::{Failure, Reply};
use crate::fault::Faults;
use crate::origin::Origin;
use crate::plugin::Plugin;
use crate::seed::Seed;
use crate::storage::{RawDisk, Storage};
use crate::tls::{Certificate, HostKey, Identity, TlsError};
use crate::value::Value;

/// How long the server waits for others to end what they do to an object.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// Everything that the pool knows.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) db: Db,
    pub(crate) seed: Seed,
    pub(crate) clock: Clock,
    pub(crate) users: Vec<User>,
    /// Session → what the database does not show of it.
    pub(crate) sessions: HashMap<String, Login>,
    /// Session → what it wants to hear from `event.next`.
    pub(crate) listeners: HashMap<String, Listener>,
    /// VDI → what is on it, where that is more than zeros.
    pub(crate) disks: HashMap<String, Disk>,
    /// Blob → its bytes, once somebody has put any there.
    pub(crate) blobs: HashMap<String, Arc<RawDisk>>,
    /// VDI whose data are gone → the blocks that they took.
    pub(crate) blocks: HashMap<String, Blocks>,
    /// What lies on SRs without a record.
    pub(crate) forgotten: Vec<Forgotten>,
    /// Object and data source that is not recorded.
    pub(crate) unrecorded: BTreeSet<(String, String)>,
    /// Before this no VM is restarted for a lost host, in seconds since 1970.
    pub(crate) no_restarts_before: u64,
    /// Host → seconds by which its clock is ahead of that of the coordinator's database.
    pub(crate) skews: HashMap<String, i64>,
    /// Host → how its scheduler groups processors, where somebody has said.
    pub(crate) granularity: HashMap<String, String>,
    /// The revocation lists of the pool by their names.
    pub(crate) crls: BTreeMap<String, String>,
    /// The certificates that are trusted without a name, PEM, by their records.
    pub(crate) trusted: BTreeMap<String, String>,
    /// The certificates of authorities, PEM, by their names.
    pub(crate) authorities: BTreeMap<String, String>,
    /// VM → the guest that runs in it.
    pub(crate) running: HashMap<String, Running>,
    /// VM whose guest is being stopped → dropped when it has ended.
    pub(crate) stopping: HashMap<String, watch::Sender<()>>,
    /// VM → the address that its guest had last.
    pub(crate) leases: HashMap<String, Ipv4Addr>,
    /// Pending asynchronous task → how to cancel it.
    pub(crate) cancels: HashMap<String, watch::Sender<bool>>,
    pub(crate) messages: Messages,
    pub(crate) faults: Faults,
    /// What plugins of hosts answer, the newest last.
    pub(crate) plugins: Vec<Plugin>,
    pub(crate) log: Log,
    pub(crate) audit: AuditLog,
    pub(crate) rules: Rules,
    /// The number of the newest change when all was as the model says.
    pub(crate) started: i64,
    /// The network cards that are plugged into hosts, whether they have records or not.
    pub(crate) cards: Vec<Card>,
    /// The hosts that answer nobody, and why.
    pub(crate) down: BTreeMap<String, Down>,
    /// The SRs that take nothing more, whatever their size.
    pub(crate) full: BTreeSet<String>,
    /// When the server looks for old tasks again, in seconds since 1970.
    pub(crate) next_collection: u64,
    /// Host → what nearly every call to it answers while it is in emergency mode.
    pub(crate) emergency: BTreeMap<String, Failure>,
    /// Counts domains, bridges and addresses handed out.
    pub(crate) counters: Counters,
}

/// Why a host answers nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    /// It has no power, and nothing runs on it.
    Off,
    /// Only its toolstack does not run.
    WithoutToolstack,
}

/// A network card of a host.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    pub(crate) host: String,
    pub(crate) device: String,
    pub(crate) mac: String,
}

/// Switches of the pool's behaviour.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Whether a VM may have less memory than its maximum (Dynamic Memory Control).
    pub(crate) dynamic_memory: bool,
    /// How long a wrong password has to wait for its answer.
    pub(crate) login_delay: Duration,
    /// How long every operation on a domain takes.
    pub(crate) latency: Duration,
    /// How long a guest's agent takes to report after the boot.
    pub(crate) agent_delay: Duration,
    /// How long `event.from` gathers changes before it answers.
    pub(crate) event_delay: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) domains: i64,
    pub(crate) bridges: i64,
    pub(crate) addresses: u32,
}

/// Somebody who may log in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    /// The identifier in the directory service; empty for root, who is not in it.
    pub(crate) sid: String,
}

impl User {
    pub(crate) fn is_root(&self) -> bool {
        self.sid.is_empty()
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("sid", &self.sid)
            .finish()
    }
}

/// Who a session belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) role: String,
    /// Whether it is a session of root, whom no role restricts.
    pub(crate) superuser: bool,
    /// When its activity was last noted, in seconds since 1970.
    pub(crate) active: u64,
    /// Whether it is a session with the host alone, which `session.local_logout` ends.
    pub(crate) local: bool,
}

/// Stored messages (alerts). They are no table of the database: `event.from` counts them apart.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) live: BTreeMap<String, (i64, Value)>,
    pub(crate) deleted: Vec<(i64, String)>,
    pub(crate) generation: i64,
}

/// A call on its way through the server.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) class: &'static Class,
    pub(crate) message: &'static Message,
    /// Checked parameters without the session, defaults filled in.
    pub(crate) args: Vec<Value>,
    /// The fields of a constructor, checked.
    pub(crate) fields: Vec<(&'static str, Value)>,
    /// Empty for messages that need none.
    pub(crate) session: String,
    /// The task, in the database or not.
    pub(crate) task: String,
    /// The host that was asked.
    pub(crate) host: String,
}

impl Call {
    pub(crate) fn text(&self, index: usize) -> &str {
        self.args
            .get(index)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn int(&self, index: usize) -> i64 {
        self.args
            .get(index)
            .and_then(Value::as_int)
            .unwrap_or_default()
    }

    pub(crate) fn flag(&self, index: usize) -> bool {
        self.args
            .get(index)
            .and_then(Value::as_bool)
            .unwrap_or_default()
    }

    pub(crate) fn arg(&self, index: usize) -> Value {
        self.args.get(index).cloned().unwrap_or(Value::Nil)
    }

    /// A field of a constructor.
    pub(crate) fn field(&self, name: &str) -> Value {
        let found = self.fields.iter().find(|(field, _)| *field == name);
        found.map_or(Value::Nil, |(_, value)| value.clone())
    }

    /// A text field of a constructor.
    pub(crate) fn field_text(&self, name: &str) -> String {
        self.field(name).as_str().unwrap_or_default().to_owned()
    }
}

/// A reply that a user of the simulator wants in place of its own, or `None` for its own.
pub(crate) type Hook = Arc<dyn Fn(&[Value]) -> Option<Reply> + Send + Sync>;

/// The world and what goes on around it.
pub(crate) struct Shared {
    world: Mutex<World>,
    /// The generation of the newest change: whoever waits for something waits here.
    changed: watch::Sender<i64>,
    /// Becomes true when the simulator ends.
    closing: watch::Sender<bool>,
    /// Host → how many lives of its toolstack have ended.
    lives: watch::Sender<BTreeMap<String, u64>>,
    hooks: Mutex<HashMap<String, Hook>>,
    /// What the world was made from.
    pub(crate) origin: Origin,
    pub(crate) registry: Registry,
    pub(crate) guests: GuestHost,
    pub(crate) storage: Arc<Storage>,
    /// What servers show, and the key of those that show one of their own.
    pub(crate) certificate: Certificate,
    pub(crate) host_key: HostKey,
    /// Host → where it is served, for those who are sent there.
    served: Mutex<HashMap<String, SocketAddr>>,
    /// Host → the certificate that it shows.
    shown: Mutex<HashMap<String, String>>,
    /// Host → how it speaks TLS once its first certificate has been replaced, and by which, PEM.
    replaced: Mutex<HashMap<String, (Arc<ServerConfig>, String)>>,
}

/// The time of a host's toolstack from a start to an end.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) host: String,
    number: Option<u64>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        world: World,
        guests: GuestHost,
        storage: Storage,
        origin: Origin,
    ) -> Arc<Self> {
        let changed = watch::Sender::new(world.db.generation());
        let registry = Registry::new(world.db.release());
        Arc::new(Shared {
            world: Mutex::new(world),
            changed,
            closing: watch::Sender::new(false),
            lives: watch::Sender::default(),
            hooks: Mutex::default(),
            registry,
            guests,
            storage: Arc::new(storage),
            certificate: origin.options.certificate.clone(),
            origin,
            host_key: HostKey::default(),
            served: Mutex::default(),
            shown: Mutex::default(),
            replaced: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // A panic in a handler leaves the world as far as it got; the rest of the pool goes on.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something on the world and wakes those who wait for changes, if there were any.
    pub(crate) fn with<R>(&self, run: impl FnOnce(&mut World) -> R) -> R {
        let mut world = self.lock();
        let before = (world.db.generation(), world.messages.generation);
        let result = run(&mut world);
        let after = (world.db.generation(), world.messages.generation);
        drop(world);
        if before != after {
            self.changed.send_modify(|generation| *generation = after.0);
        }
        result
    }

    /// Lets a hook answer a method from now on.
    pub(crate) fn hook(&self, method: String, hook: Hook) {
        self.hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(method, hook);
    }

    /// The reply of the hook of a call, if it has one and that has one.
    pub(crate) fn overruled(&self, call: &Call) -> Option<Reply> {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        let hook = hooks.get(call.message.wire_name).cloned();
        // The hook runs without the lock, so that it may use the simulator.
        drop(hooks);
        hook?(&call.args)
    }

    /// Runs something that may find others at work, and if so again at every change, as long as
    /// a real server has patience. It must not change anything before it fails.
    pub(crate) async fn patiently<R>(
        &self,
        mut attempt: impl FnMut(&mut World) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let mut changes = self.changes();
        let deadline = Instant::now() + PATIENCE;
        loop {
            changes.borrow_and_update();
            match self.with(&mut attempt) {
                Err(failure) if failure.code == "OTHER_OPERATION_IN_PROGRESS" => {
                    if timeout_at(deadline, changes.changed()).await.is_err() {
                        return Err(failure);
                    }
                }
                result => return result,
            }
        }
    }

    /// Notes where a host is served.
    pub(crate) fn serve_at(&self, host: &str, address: SocketAddr) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.insert(host.to_owned(), address);
    }

    /// Notes which certificate a host shows from its start on.
    pub(crate) fn show(&self, host: &str, pem: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.insert(host.to_owned(), pem.to_owned());
        drop(shown);
        self.record_certificate(host, pem);
    }

    fn record_certificate(&self, host: &str, pem: &str) {
        self.with(|world| {
            if let Err(failure) = certificate::note(world, host, pem) {
                tracing::warn!(%failure, "the certificate of a host has no record");
            }
        });
    }

    /// Lets all hosts show the certificates with which they have started.
    pub(crate) fn show_first_certificates(&self) {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.clear();
        drop(replaced);
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = shown.clone();
        for (host, pem) in shown {
            self.record_certificate(&host, &pem);
        }
    }

    /// The certificate that a host shows; one that nobody serves has one as well.
    pub(crate) async fn certificate_of(&self, host: &str) -> Result<String, TlsError> {
        let shown = |this: &Shared| {
            let replaced = this.replaced.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, pem)) = replaced.get(host) {
                return Some(pem.clone());
            }
            let shown = this.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.get(host).cloned()
        };
        if let Some(pem) = shown(self) {
            return Ok(pem);
        }
        let address = self.with(|world| world.db.text("host", host, "address"));
        let address = address.ok().and_then(|text| text.parse().ok());
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let made = Identity::new(&self.certificate, &self.host_key, address).await?;
        self.show(host, &made.pem);
        Ok(made.pem)
    }

    /// Lets a host show another certificate from its next connection on.
    pub(crate) fn replace_certificate(&self, host: &str, identity: &Identity) {
        let new = (Arc::clone(&identity.config), identity.pem.clone());
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.insert(host.to_owned(), new);
        drop(replaced);
        self.record_certificate(host, &identity.pem);
    }

    /// How a host speaks TLS, if its first certificate has been replaced.
    pub(crate) fn replaced_tls(&self, host: &str) -> Option<Arc<ServerConfig>> {
        let replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.get(host).map(|(config, _)| Arc::clone(config))
    }

    /// Where a host is served, if it is.
    pub(crate) fn address_of(&self, host: &str) -> Option<SocketAddr> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(host).copied()
    }

    /// A receiver that wakes at every change.
    pub(crate) fn changes(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }

    /// Ends what hosts have under way: connections, calls and tasks.
    pub(crate) fn end_life(&self, hosts: &[String]) {
        self.lives.send_modify(|lives| {
            for host in hosts {
                *lives.entry(host.clone()).or_default() += 1;
            }
        });
    }

    /// Which life a host's toolstack is in.
    pub(crate) fn life_of(&self, host: &str) -> Life {
        Life {
            host: host.to_owned(),
            number: self.lives.borrow().get(host).copied(),
        }
    }

    /// Whether a life has ended.
    pub(crate) fn is_over(&self, life: &Life) -> bool {
        self.lives.borrow().get(&life.host).copied() != life.number
    }

    /// Ends when a life ends.
    pub(crate) fn end_of(&self, life: Life) -> impl Future<Output = ()> + Send + use<> {
        let mut lives = self.lives.subscribe();
        async move {
            // The sender lives as long as we do, so this ends by the value alone.
            let _ = lives
                .wait_for(|lives| lives.get(&life.host).copied() != life.number)
                .await;
        }
    }

    /// Ends when the life of a host's toolstack ends that it is in when this is called.
    pub(crate) fn end_of_life(&self, host: &str) -> impl Future<Output = ()> + Send + use<> {
        self.end_of(self.life_of(host))
    }

    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
        self.storage.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }

    /// Ends when the simulator ends.
    pub(crate) async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        // The sender lives as long as we do, so this ends by the value alone.
        let _ = closing.wait_for(|closing| *closing).await;
    }
}

impl World {
    /// The coordinator.
    pub(crate) fn coordinator(&self) -> String {
        let pool = self.pool();
        self.db.text("pool", &pool, "master").unwrap_or_default()
    }

    pub(crate) fn pool(&self) -> String {
        self.db
            .references("pool")
            .into_iter()
            .next()
            .unwrap_or_default()
    }

    /// The seconds by which the clock of a host is wrong.
    pub(crate) fn skew(&self, host: &str) -> i64 {
        self.skews.get(host).copied().unwrap_or_default()
    }

    /// Adds an object with a fresh reference and a fresh uuid, and gives the reference.
    pub(crate) fn create(
        &mut self,
        class: &'static str,
        mut values: Vec<(&str, Value)>,
    ) -> Result<String, Failure> {
        let reference = self.seed.reference();
        if !values.iter().any(|(name, _)| *name == "uuid") {
            values.push(("uuid", self.seed.uuid_value()));
        }
        self.db.create(class, &reference, values)?;
        Ok(reference)
    }
}
