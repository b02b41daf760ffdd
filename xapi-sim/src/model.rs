//! What a simulated pool consists of.

mod template;

use secrecy::SecretString;

pub use self::template::TemplateSpec;
use self::template::{BUILT_IN, Since};
use crate::db::Release;
use crate::rbac;

const GIB: i64 = 1 << 30;

/// The template of [`Model::single_host`] whose VMs run Lua.
pub const LUA_TEMPLATE: &str = "lua-bio-template";

/// Describes a pool: its hosts, storage, networks and templates.
///
/// The same model gives the same pool, references and uuids included; another seed gives the same
/// pool under other references.
///
/// ```
/// use xapi_sim::{Model, NetworkSpec, SrSpec, TemplateSpec};
///
/// let model = Model::new()
///     .hosts(2)
///     .sr(SrSpec::shared("Shared storage"))
///     .network(NetworkSpec::external("LAN", "eth0"))
///     .template(TemplateSpec::with_guest("worker").vif("LAN"));
/// # let _ = model;
/// ```
#[derive(Debug, Clone)]
pub struct Model {
    pub(crate) seed: u64,
    pub(crate) release: Release,
    pub(crate) name: String,
    pub(crate) hosts: usize,
    pub(crate) host_memory: i64,
    pub(crate) host_cpus: usize,
    pub(crate) srs: Vec<SrSpec>,
    pub(crate) networks: Vec<NetworkSpec>,
    pub(crate) templates: Vec<TemplateSpec>,
    /// How many halted VMs there are.
    pub(crate) vms: usize,
    pub(crate) users: Vec<UserSpec>,
    /// Host → seconds by which its clock is ahead.
    pub(crate) skews: Vec<(usize, i64)>,
}

impl Default for Model {
    fn default() -> Self {
        Model::single_host()
    }
}

impl Model {
    /// A pool of one host with nothing but what every pool has: a control domain and the host
    /// internal management network.
    #[must_use]
    pub fn new() -> Self {
        Model {
            seed: 1,
            release: Release::default(),
            name: String::new(),
            hosts: 1,
            host_memory: 64 * GIB,
            host_cpus: 8,
            srs: Vec::new(),
            networks: Vec::new(),
            templates: Vec::new(),
            vms: 0,
            users: Vec::new(),
            skews: Vec::new(),
        }
    }

    /// A freshly installed XCP-ng with one host: local and shared storage, the network of eth0,
    /// the built-in templates, and the custom template [`LUA_TEMPLATE`] whose VMs are real guests.
    #[must_use]
    pub fn single_host() -> Self {
        let storage = Model::new()
            .sr(SrSpec::local("Local storage"))
            .sr(SrSpec::shared("Shared storage"));
        storage.furnished()
    }

    /// Three hosts with what [`Model::single_host`] has; the default SR is the shared one, so that
    /// every VM can run on every host.
    #[must_use]
    pub fn pool_of_three() -> Self {
        let storage = Model::new()
            .hosts(3)
            .sr(SrSpec::shared("Shared storage"))
            .sr(SrSpec::local("Local storage"));
        storage.furnished()
    }

    /// A pool of three with so many halted VMs, `vm-00000` and so on, each with an empty disk and
    /// an interface: for the tests of those who list and watch.
    #[must_use]
    pub fn fleet(count: usize) -> Self {
        Model::pool_of_three().vms(count)
    }

    /// The names of the presets.
    pub const PRESETS: [&str; 4] = ["single-host", "pool-of-three", "fleet", "empty"];

    /// A preset by its name: [`single_host`](Model::single_host),
    /// [`pool_of_three`](Model::pool_of_three), a [`fleet`](Model::fleet) of 10,000 VMs, or the empty
    /// pool.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "single-host" => Model::single_host(),
            "pool-of-three" => Model::pool_of_three(),
            "fleet" => Model::fleet(10_000),
            "empty" => Model::new(),
            _ => return None,
        })
    }

    /// How many hosts the pool has.
    #[must_use]
    pub fn host_count(&self) -> usize {
        self.hosts
    }

    /// How many halted VMs it has from the start.
    #[must_use]
    pub fn vm_count(&self) -> usize {
        self.vms
    }

    /// Adds what every pool of the presets has.
    fn furnished(self) -> Self {
        let network = "Pool-wide network associated with eth0";
        let mut model = self
            .name("xapi-sim")
            .sr(SrSpec::tools())
            .sr(SrSpec::drives("DVD drives", "iso"))
            .sr(SrSpec::drives("Removable storage", "disk"))
            .network(NetworkSpec::external(network, "eth0"));
        for (name, disk, memory, since) in BUILT_IN {
            let mut template = TemplateSpec::built_in(*name, *disk).memory(*memory, 2 * *memory);
            template.built_in_since = Some(*since);
            if name.starts_with("Windows") {
                template = template.vcpus(2).cores_per_socket(2);
            }
            model = model.template(template);
        }
        model.template(
            TemplateSpec::with_guest(LUA_TEMPLATE)
                .description("Debian 12 with Lua 5.4, LuaRocks and guest tools")
                .disk(8 * GIB)
                .vif(network)
                .memory(GIB / 2, GIB)
                .vcpus(2)
                .cores_per_socket(2),
        )
    }

    /// Draws references and uuids from another seed. The default is 1.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Shows clients the datamodel of another release. The default is XCP-ng 8.3.
    #[must_use]
    pub fn release(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    /// Names the pool.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Gives the pool so many hosts, at least one; the first is the coordinator.
    #[must_use]
    pub fn hosts(mut self, count: usize) -> Self {
        self.hosts = count.max(1);
        self
    }

    /// Gives each host so many bytes of memory. The default is 64 GiB.
    #[must_use]
    pub fn host_memory(mut self, bytes: i64) -> Self {
        self.host_memory = bytes;
        self
    }

    /// Gives each host so many logical processors, at least one. The default is 8.
    #[must_use]
    pub fn host_cpus(mut self, count: usize) -> Self {
        self.host_cpus = count.max(1);
        self
    }

    /// Adds storage; the first SR that can hold disks becomes the pool's default.
    #[must_use]
    pub fn sr(mut self, sr: SrSpec) -> Self {
        self.srs.push(sr);
        self
    }

    /// Adds a network.
    #[must_use]
    pub fn network(mut self, network: NetworkSpec) -> Self {
        self.networks.push(network);
        self
    }

    /// Adds so many halted VMs without a system on their disks. Their names are `vm-` and a number
    /// from 0 with at least five digits; they are on the pool's default SR and its first network.
    #[must_use]
    pub fn vms(mut self, count: usize) -> Self {
        self.vms = count;
        self
    }

    /// Lets the clock of a host, counted from 0, be ahead by so many seconds, or behind if negative:
    /// what `host.get_servertime` tells of it. The times in records are those of the coordinator.
    #[must_use]
    pub fn clock_skew(mut self, host: usize, seconds: i64) -> Self {
        self.skews.retain(|(known, _)| *known != host);
        self.skews.push((host, seconds));
        self
    }

    /// Adds somebody who can log in beside root.
    #[must_use]
    pub fn user(mut self, user: UserSpec) -> Self {
        self.users.push(user);
        self
    }

    /// Adds a template.
    #[must_use]
    pub fn template(mut self, template: TemplateSpec) -> Self {
        self.templates.push(template);
        self
    }
}

impl Model {
    /// Whether there is an SR for disks.
    pub(crate) fn has_storage(&self) -> bool {
        self.srs.iter().any(|sr| sr.content == "user")
    }

    pub(crate) fn has_network(&self, name: &str) -> bool {
        self.networks.iter().any(|known| known.name == name)
    }

    /// The templates as the release of the pool has them.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &TemplateSpec> {
        let old = self.release == Release::Xcpng82;
        let shown = move |template: &&TemplateSpec| match template.built_in_since {
            None => true,
            Some(Since::Xcpng82) => true,
            Some(Since::Xcpng83) => !old,
            Some(Since::OnlyXcpng82) => old,
        };
        self.templates.iter().filter(shown)
    }

    /// What does not fit together, with all users of the pool.
    pub(crate) fn problems(&self, users: &[UserSpec]) -> Vec<String> {
        let mut problems = Vec::new();
        for template in &self.templates {
            let name = &template.name;
            if template.needs_storage() && !self.has_storage() {
                problems.push(format!(
                    "template {name} has a disk and the pool has no SR for it"
                ));
            }
            for network in &template.vifs {
                if !self.has_network(network) {
                    problems.push(format!(
                        "template {name} is on network {network}, which the model lacks"
                    ));
                }
            }
            if template.memory_min > template.memory_max {
                problems.push(format!("template {name} has less memory than it needs"));
            }
            if !template.has_whole_sockets() {
                problems.push(format!(
                    "template {name} has a number of VCPUs that is no multiple of its cores per socket"
                ));
            }
        }
        for (at, user) in users.iter().enumerate() {
            let name = &user.name;
            let taken = users[..at].iter().any(|known| known.name == *name);
            if taken || name == "root" {
                problems.push(format!("there are two users {name}"));
            }
            if let Some(role) = user
                .role
                .as_deref()
                .filter(|role| !rbac::is_for_users(role))
            {
                let known = rbac::names().collect::<Vec<_>>().join(", ");
                problems.push(format!(
                    "user {name} has the role {role}, which does not exist; use one of {known}"
                ));
            }
        }
        problems
    }
}

/// Describes a storage repository.
#[derive(Debug, Clone)]
pub struct SrSpec {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) content: String,
    pub(crate) shared: bool,
    pub(crate) size: i64,
    pub(crate) full: bool,
}

impl SrSpec {
    /// Storage of type `ext` on a disk of each host, 1 TiB.
    pub fn local(name: impl Into<String>) -> Self {
        SrSpec {
            name: name.into(),
            kind: "ext".to_owned(),
            content: "user".to_owned(),
            shared: false,
            size: 1024 * GIB,
            full: false,
        }
    }

    /// Storage of type `nfs` that all hosts see, 4 TiB.
    pub fn shared(name: impl Into<String>) -> Self {
        let local = SrSpec::local(name);
        SrSpec {
            kind: "nfs".to_owned(),
            shared: true,
            size: 4096 * GIB,
            ..local
        }
    }

    /// The SR with the ISO of the guest tools.
    pub(crate) fn tools() -> Self {
        let shared = SrSpec::shared("XCP-ng Tools");
        SrSpec {
            kind: "iso".to_owned(),
            content: "iso".to_owned(),
            ..shared
        }
    }

    /// The SR of drives that each host has and in which nothing is.
    pub(crate) fn drives(name: &str, content: &str) -> Self {
        SrSpec {
            kind: "udev".to_owned(),
            content: content.to_owned(),
            size: 0,
            ..SrSpec::local(name)
        }
    }

    /// Makes it of another type. Disks on `lvm` take all their space at once; on others they grow.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self
    }

    /// Gives it so many bytes.
    #[must_use]
    pub fn size(mut self, bytes: i64) -> Self {
        self.size = bytes;
        self
    }

    /// Lets it take nothing more than the disks of the model, until
    /// [`Sim::fill_sr`](crate::Sim::fill_sr) makes room.
    #[must_use]
    pub fn full(mut self) -> Self {
        self.full = true;
        self
    }
}

/// Describes a network.
#[derive(Debug, Clone)]
pub struct NetworkSpec {
    pub(crate) name: String,
    pub(crate) device: Option<String>,
}

impl NetworkSpec {
    /// A network behind a network card of every host, `eth0` for example. The first one is the
    /// management network.
    pub fn external(name: impl Into<String>, device: impl Into<String>) -> Self {
        NetworkSpec {
            name: name.into(),
            device: Some(device.into()),
        }
    }

    /// A network between VMs of one host.
    pub fn internal(name: impl Into<String>) -> Self {
        NetworkSpec {
            name: name.into(),
            device: None,
        }
    }
}

/// Describes somebody who can log in beside root. The pool finds them in a directory service and
/// has them as a subject.
#[derive(Debug, Clone)]
pub struct UserSpec {
    pub(crate) name: String,
    pub(crate) password: SecretString,
    pub(crate) role: Option<String>,
}

impl UserSpec {
    /// Somebody whom the directory service knows. Without a role they are no subject of the pool,
    /// and their login fails until `subject.create` and `subject.add_to_roles` let them in.
    pub fn new(name: impl Into<String>, password: SecretString) -> Self {
        UserSpec {
            name: name.into(),
            password,
            role: None,
        }
    }

    /// Gives them a role: `read-only`, `vm-operator`, `vm-admin`, `vm-power-admin`,
    /// `pool-operator` or `pool-admin`.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }
}
