//! VMs of a pool that belong together: on a network of their own, with addresses and names, made in
//! one call and removed with it.
//!
//! ```no_run
//! use bioxen::group::{GroupSpec, VmGroup};
//! use bioxen::{Script, VmId};
//! use serde_json::json;
//!
//! # async fn example() -> bioxen::Result<()> {
//! let pool = json!({
//!     "xcpng_host": "pool.lab", "password_file": "/etc/pool.password",
//!     "template": "lua-bio-template", "network": ["LAN"],
//! });
//! let spec = GroupSpec::isolated("mapping", [VmId::new("reads")?, VmId::new("index")?]);
//! let group = VmGroup::new(pool, spec)?;
//! let work = async {
//!     group.create().await?;
//!     group.start().await?;
//!     let reads = group.vm("reads").await?;
//!     reads.execute(Script::new("print('index' .. ' is known by name')")).await
//! };
//! let outcome = work.await;
//! group.destroy().await?; // the VMs, then their network
//! # drop(outcome?);
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bioxen_net::{Locking, NetworkInfo, NetworkSelector, NetworkSpec, Networks};
use bioxen_vm_core::{
    Backend as _, BackendConfig as _, Error, ErrorKind, LuaVm, Result, Value, VmId,
};
use bioxen_vm_xcpng::{Peers, XcpngBackend, XcpngConfig, XcpngVm};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use xapi_client::api::Vm;
use xapi_client::{ErrorCode, Ref};

pub use spec::{GroupSpec, Preset};

mod placement;
mod spec;

/// VMs of a pool that belong together, and their network.
///
/// Dropping it leaves what there is; [`destroy`](Self::destroy) removes it, whatever has become of
/// [`create`](Self::create). What a killed program leaves is removed by
/// [`XcpngBackend::collect`] and `bioxen gc`: the VMs, then the network.
#[derive(Debug)]
pub struct VmGroup {
    spec: GroupSpec,
    /// The network that is made for them, with its addresses.
    network: Option<NetworkSpec>,
    addresses: BTreeMap<VmId, IpAddr>,
    /// The number of the interface that it is about.
    interface: usize,
    /// Whether the configuration says which host the VMs are to run on.
    has_affinity: bool,
    backend: Arc<XcpngBackend>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether there may be a network of ours.
    has_network: bool,
    /// Goes on when whoever waits for it is gone, so that nothing is made that nobody knows of.
    making: JoinSet<Result<Arc<dyn LuaVm>>>,
    vms: BTreeMap<VmId, Arc<dyn LuaVm>>,
}

impl VmGroup {
    /// VMs like these on the pool of a configuration, as type `xcpng` takes it. Makes nothing yet.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when the configuration or the wish is wrong.
    pub fn new(mut config: Value, mut spec: GroupSpec) -> Result<Self> {
        if spec.vms.is_empty() {
            return Err(self::config("a group needs at least one VM"));
        }
        let given = spec.addresses()?;
        let reached_by = networks_of(&config);
        let (networks, interface) = match &spec.preset {
            Preset::Own { network, alone } => match (alone, reached_by.is_empty()) {
                (true, _) => (vec![named(network)], 0),
                (false, false) => {
                    let mut all = reached_by;
                    all.push(named(network));
                    let last = all.len() - 1;
                    (all, last)
                }
                (false, true) => return Err(no_network()),
            },
            Preset::Lan(network) => (vec![String::from(network.clone())], 0),
            Preset::ReachedOnly => match reached_by.into_iter().next() {
                Some(first) => (vec![first], 0),
                None => return Err(no_network()),
            },
        };
        let Value::Object(keys) = &mut config else {
            return Err(self::config(
                "the configuration of VMs on a pool is a table",
            ));
        };
        keys.remove("network_uuid");
        let affinity = keys.get("affinity").and_then(Value::as_str);
        let affinity = affinity.map(str::to_owned);
        keys.insert("network".to_owned(), networks.into());
        let mut config = XcpngConfig::from_value(config)?;
        let mut addresses = BTreeMap::new();
        let mut own = None;
        if let (Some((subnet, given)), Preset::Own { network, .. }) = (given, &mut spec.preset) {
            network.subnet = Some(subnet);
            // Whoever wants the VMs on a certain host wants them to reach it there.
            network.hosts.extend(affinity.clone());
            let range = subnet.to_string().parse().map_err(self::config)?;
            let mut peers = Peers::new(interface, range, given.clone());
            peers.gateway = network.gateway;
            config = config.with_peers(peers);
            own = Some(network.clone());
            addresses = given;
        }
        Ok(Self {
            spec,
            network: own,
            addresses,
            interface,
            has_affinity: affinity.is_some(),
            backend: Arc::new(config.build()?),
            state: Mutex::default(),
        })
    }

    /// The backend that makes its VMs, for what else a program asks of the pool.
    #[must_use]
    pub fn backend(&self) -> &XcpngBackend {
        &self.backend
    }

    /// Makes the network and the VMs, which are stopped then. What is wrong with the network is told
    /// before anything is made. When something fails, what was made before is removed again.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Config`] when the network cannot be as it is wished for (all problems
    /// at once), with [`ErrorKind::AlreadyExists`] when the pool has one of its name, and otherwise
    /// as creating a VM does.
    ///
    /// # Cancel safety
    /// After a dropped future, [`destroy`](Self::destroy) removes what was made.
    pub async fn create(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        match self.try_to_create(&mut state).await {
            Ok(()) => Ok(()),
            Err(error) => match self.remove_all(&mut state).await {
                Ok(()) => Err(error),
                Err(left) => Err(Error::new(
                    error.kind(),
                    format!("{error}, and not all that was made could be removed: {left}"),
                )
                .with_source(error)),
            },
        }
    }

    async fn try_to_create(&self, state: &mut State) -> Result<()> {
        if let Some(spec) = &self.network {
            self.create_network(spec, state).await?;
        }
        for id in &self.spec.vms {
            let (backend, id) = (Arc::clone(&self.backend), id.clone());
            state.making.spawn(async move { backend.create(id).await });
        }
        self.gather(state).await?;
        if self.is_private() && !self.has_affinity {
            self.bring_together(state).await?;
        }
        if self.spec.locked {
            for (id, address) in &self.addresses {
                if let Some(vm) = state.vms.get(id) {
                    self.lock(&**vm, *address).await?;
                }
            }
        }
        Ok(())
    }

    async fn create_network(&self, spec: &NetworkSpec, state: &mut State) -> Result<()> {
        let networks = self.networks().await?;
        let name = &spec.name;
        let there = networks
            .list()
            .await
            .map_err(|error| failed("list the networks", error))?;
        if there.iter().any(|network| network.name == *name) {
            let message = format!("the pool has a network {name:?} already; choose another name");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let wanted = [spec.clone()].into();
        let wrong = |error| failed(&format!("make the network {name}"), error);
        networks.plan(&wanted).await.map_err(wrong)?;
        let marks = self.backend.begin_making(&entry(name)).await?;
        state.has_network = true;
        let networks = networks.with_marks(marks);
        networks.apply(&wanted).await.map(drop).map_err(wrong)
    }

    /// Waits for all VMs that are being made, and gives the first error.
    async fn gather(&self, state: &mut State) -> Result<()> {
        let mut failure = None;
        while let Some(made) = state.making.join_next().await {
            match made {
                Ok(Ok(vm)) => drop(state.vms.insert(vm.id().clone(), vm)),
                Ok(Err(error)) => drop(failure.get_or_insert(error)),
                Err(error) => {
                    let ended =
                        Error::new(ErrorKind::Internal, "a task that made a VM ended early");
                    failure.get_or_insert(ended.with_source(error));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Starts all VMs at once, and waits until they can run Lua.
    ///
    /// # Errors
    /// Fails as [`LuaVm::start`] for the first that cannot be started; the others are awaited. Fails
    /// with [`ErrorKind::Exhausted`] when VMs of a private network do not fit on one host.
    ///
    /// # Cancel safety
    /// A dropped future leaves some of them starting; starting again completes that.
    pub async fn start(&self) -> Result<()> {
        let state = self.state.lock().await;
        let mut starting = JoinSet::new();
        for vm in state.vms.values() {
            let vm = Arc::clone(vm);
            starting.spawn(async move { vm.start().await });
        }
        let mut failure = None;
        while let Some(started) = starting.join_next().await {
            if let Ok(Err(error)) = started {
                failure.get_or_insert(error);
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if self.is_private() {
            self.check_together(&state).await?;
        }
        if self.spec.locked && self.addresses.is_empty() {
            for vm in state.vms.values() {
                if let Some(address) = vm.info().await?.address {
                    self.lock(&**vm, address).await?;
                }
            }
        }
        Ok(())
    }

    /// Lets the hosts drop what a VM sends from another address.
    async fn lock(&self, vm: &dyn LuaVm, address: IpAddr) -> Result<()> {
        let doing = |error| failed("lock a VM to its address", error).with_vm(vm.id());
        let networks = self.networks().await?;
        let on_pool = self.on_pool(&networks, vm).await?;
        let nic = networks.nic(&on_pool, &self.interface.to_string()).await;
        let (ipv4, ipv6) = match address {
            IpAddr::V4(address) => (vec![address], Vec::new()),
            IpAddr::V6(address) => (Vec::new(), vec![address]),
        };
        let locking = Locking::Locked { ipv4, ipv6 };
        let locked = networks.set_locking(&nic.map_err(doing)?, &locking).await;
        locked.map_err(doing)
    }

    /// A VM as the pool calls it.
    async fn on_pool(&self, networks: &Networks, vm: &dyn LuaVm) -> Result<Ref<Vm>> {
        let of_pool = (vm as &dyn std::any::Any).downcast_ref::<XcpngVm>();
        let found = networks.find_vm(of_pool.map_or("", XcpngVm::uuid)).await;
        found.map_err(|error| failed("find a VM on the pool", error).with_vm(vm.id()))
    }

    async fn networks(&self) -> Result<Networks> {
        Ok(Networks::new(&self.backend.client().await?))
    }

    /// The VMs, by id.
    pub async fn vms(&self) -> BTreeMap<VmId, Arc<dyn LuaVm>> {
        self.state.lock().await.vms.clone()
    }

    /// The VM of this id.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::NotFound`] when the group has none, or it has not been made.
    pub async fn vm(&self, id: &str) -> Result<Arc<dyn LuaVm>> {
        let state = self.state.lock().await;
        let found = state.vms.iter().find(|(known, _)| known.as_str() == id);
        let missing = || Error::new(ErrorKind::NotFound, format!("the group has no VM {id:?}"));
        found.map(|(_, vm)| Arc::clone(vm)).ok_or_else(missing)
    }

    /// The addresses of the VMs on the network that is made for them; none on one that was there.
    #[must_use]
    pub fn addresses(&self) -> &BTreeMap<VmId, IpAddr> {
        &self.addresses
    }

    /// The network that was made for them, as it is now.
    ///
    /// # Errors
    /// Fails when there is none, or the pool cannot be asked.
    pub async fn network(&self) -> Result<NetworkInfo> {
        let Some(spec) = &self.network else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "no network was made for this group",
            ));
        };
        let networks = self.networks().await?;
        let found = networks
            .find(NetworkSelector::Name(spec.name.clone()))
            .await;
        found.map_err(|error| failed("find the network", error))
    }

    /// Lets the VMs and the network outlive this program. From then on they are found by their ids and
    /// its name, and removed by hand: `bioxen net rm --vms`.
    ///
    /// # Errors
    /// As [`LuaVm::keep`]. What was kept until then stays so; [`destroy`](Self::destroy) still removes
    /// all of it.
    ///
    /// # Cancel safety
    /// A dropped future leaves some of them kept; keeping again completes that.
    pub async fn keep(&self) -> Result<()> {
        let state = self.state.lock().await;
        for vm in state.vms.values() {
            vm.keep().await?;
        }
        // Last: one of which nobody knows whose it is would stay without its VMs.
        if let Some(spec) = &self.network {
            let networks = self.networks().await?;
            let kept = networks
                .keep(NetworkSelector::Name(spec.name.clone()))
                .await;
            kept.map_err(|error| failed("mark the network as one to be kept", error))?;
            self.backend.end_making(&entry(&spec.name)).await?;
        }
        self.backend.close().await
    }

    /// Removes the VMs, then their network, and ends the connection to the pool.
    ///
    /// # Errors
    /// Fails when something could not be removed; what can be, is.
    ///
    /// # Cancel safety
    /// A dropped future leaves what was not removed yet for [`XcpngBackend::collect`].
    pub async fn destroy(self) -> Result<()> {
        let mut state = self.state.lock().await;
        let removed = self.remove_all(&mut state).await;
        let closed = self.backend.close().await;
        removed.and(closed)
    }

    async fn remove_all(&self, state: &mut State) -> Result<()> {
        // Those that cannot be made leave nothing.
        let _ = self.gather(state).await;
        let mut failure = None;
        let mut going = JoinSet::new();
        for (id, vm) in state.vms.clone() {
            going.spawn(async move { (id, vm.destroy().await) });
        }
        while let Some(gone) = going.join_next().await {
            match gone {
                Ok((id, Ok(()))) => drop(state.vms.remove(&id)),
                Ok((_, Err(error))) => drop(failure.get_or_insert(error)),
                Err(_) => {}
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let Some(spec) = self.network.as_ref().filter(|_| state.has_network) else {
            return Ok(());
        };
        let networks = self.networks().await?;
        let name = NetworkSelector::Name(spec.name.clone());
        match networks.remove(name).await {
            Ok(()) | Err(bioxen_net::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(&format!("remove the network {}", spec.name), error)),
        }
        state.has_network = false;
        self.backend.end_making(&entry(&spec.name)).await
    }
}

/// The networks that a configuration names.
fn networks_of(config: &Value) -> Vec<String> {
    match config.get("network").or_else(|| config.get("network_uuid")) {
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect(),
        _ => Vec::new(),
    }
}

/// A network that is made, as the configuration of a VM names it.
fn named(network: &NetworkSpec) -> String {
    NetworkSelector::Name(network.name.clone()).into()
}

/// How the network is called in the record of this run.
fn entry(network: &str) -> String {
    format!("network {network}")
}

fn no_network() -> Error {
    config(
        "network is missing: name the network by which the VMs are reached (network = [\"LAN\"] in the \
         configuration, or --set network=LAN; bioxen net ls lists them), beside which they get one of \
         their own; or put them on no other (--alone)",
    )
}

fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// Says what could not be done with networks. Problems of a wish are told, causes are kept.
fn failed(what: &str, error: bioxen_net::Error) -> Error {
    use bioxen_net::Error as Net;
    let kind = match &error {
        Net::Invalid(_) | Net::Ambiguous { .. } | Net::AmbiguousVm { .. } => ErrorKind::Config,
        Net::NotFound { .. } | Net::NoVm { .. } | Net::NoNic { .. } => ErrorKind::NotFound,
        Net::Pool { source, .. } if source.code() == Some(&ErrorCode::RbacPermissionDenied) => {
            ErrorKind::Denied
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("cannot {what}")).with_source(error)
}
