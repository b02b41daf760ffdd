//! A pool on this machine: the XAPI simulator, with guests that can be reached over SSH.
//!
//! It is what a fresh install uses when no pool is configured. VMs are deployed to it in the same
//! way as to a real pool, through XAPI over TLS and then SSH; what is not real is the hypervisor.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use bioxen_vm_core::{Error, ErrorKind, Result, Value};
use secrecy::ExposeSecret as _;
use serde_json::json;
use xapi_sim::{Model, Scenario, Server, Sim, TemplateSpec};

/// The template of the embedded pool that VMs are deployed from.
pub const TEMPLATE: &str = xapi_sim::LUA_TEMPLATE;

/// A template of the embedded pool whose VMs take who they are from a config drive, as cloud-init
/// does: they can have fixed addresses, and know each other by name.
pub const CLOUD_TEMPLATE: &str = "lua-cloud-template";

/// The network of the embedded pool.
pub const NETWORK: &str = "Pool-wide network associated with eth0";

/// The TCP port of the embedded pool's guests.
const SSH_PORT: u16 = xapi_sim::guest::PORT;

/// A pool on this machine.
///
/// Call [`shutdown`](Self::shutdown) at the end. A dropped pool ends its guests and removes their
/// files too, and so does the kernel with the guests of a killed process; the files of those are
/// removed when the next pool starts.
pub struct EmbeddedPool {
    sim: Sim,
    server: Server,
}

impl EmbeddedPool {
    /// The pool that [`start`](Self::start) starts: one host, with the templates [`TEMPLATE`] and
    /// [`CLOUD_TEMPLATE`].
    #[must_use]
    pub fn scenario() -> Scenario {
        let cloud = TemplateSpec::with_guest(CLOUD_TEMPLATE)
            .description("as lua-bio-template, with cloud-init")
            .cloud_init()
            .other_config("bioxen:first-contact", "config-drive")
            .vif(NETWORK)
            .memory(1 << 29, 1 << 30);
        let mut scenario = Scenario::default();
        scenario.model = Model::single_host().template(cloud);
        scenario
    }

    /// Starts a pool of one host, with the templates [`TEMPLATE`] and [`CLOUD_TEMPLATE`], on a free
    /// port of 127.0.0.1.
    ///
    /// # Errors
    /// Fails when this machine lacks what guests are made of, and names the Debian packages.
    pub async fn start() -> Result<Self> {
        Self::start_as(Self::scenario()).await
    }

    /// Starts the pool of a scenario on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_as(scenario: Scenario) -> Result<Self> {
        let failed = |error: xapi_sim::Error| {
            Error::new(
                ErrorKind::Unavailable,
                "the embedded pool cannot be started",
            )
            .with_source(error)
        };
        let sim = scenario.start().await.map_err(failed)?;
        let server = sim
            .serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .map_err(failed)?;
        Ok(Self { sim, server })
    }

    /// The configuration of VMs of type `xcpng` on this pool. It holds the pool's password.
    #[must_use]
    pub fn config(&self) -> Value {
        let credentials = self.sim.credentials();
        let mut config = json!({
            "xcpng_host": self.server.address().to_string(),
            "username": credentials.user(),
            "password": credentials.password().expose_secret(),
            "tls": {"fingerprint": self.server.fingerprint().map(|print| print.to_string())},
            "template": TEMPLATE,
        });
        // A pool whose guests are simulated has nobody to log in to.
        if let Some(user) = self.sim.guest_user() {
            config["ssh"] = json!({"user": user, "port": SSH_PORT});
        }
        config
    }

    /// The URL of the pool.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What isolates the guests from this machine, in words, and why not more does.
    #[must_use]
    pub fn isolation(&self) -> Vec<String> {
        let used = self
            .sim
            .rung()
            .map(|rung| format!("{rung} ({})", rung.describe()));
        let passed_over = self.sim.passed_over().iter();
        used.into_iter()
            .chain(passed_over.map(|better| format!("not {}: {}", better.rung, better.reason)))
            .collect()
    }

    /// The simulator behind the pool.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Ends all guests, removes their files and closes the port.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        self.sim.shutdown().await;
    }
}

impl fmt::Debug for EmbeddedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedPool")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

/// The pool that the user configured, or the embedded one.
#[derive(Debug)]
pub struct Pool {
    config: Value,
    embedded: Option<EmbeddedPool>,
}

impl Pool {
    /// Takes the configured pool when `config` names a host, and else starts the embedded one,
    /// with whatever `config` says about its VMs.
    ///
    /// # Errors
    /// As [`EmbeddedPool::start`].
    pub async fn open(config: Value) -> Result<Self> {
        if config.get("xcpng_host").is_some() {
            return Ok(Self {
                config,
                embedded: None,
            });
        }
        let embedded = EmbeddedPool::start().await?;
        let mut merged = embedded.config();
        if let (Value::Object(merged), Value::Object(wanted)) = (&mut merged, config) {
            merged.extend(wanted);
        }
        Ok(Self {
            config: merged,
            embedded: Some(embedded),
        })
    }

    /// The configuration of VMs of type `xcpng` on this pool, with these defaults for what the user
    /// has not set. It may hold a password.
    #[must_use]
    pub fn config(&self, defaults: Value) -> Value {
        let mut config = defaults;
        if let (Value::Object(config), Value::Object(set)) = (&mut config, self.config.clone()) {
            config.extend(set);
        }
        config
    }

    /// The embedded pool, unless one was configured.
    #[must_use]
    pub fn embedded(&self) -> Option<&EmbeddedPool> {
        self.embedded.as_ref()
    }

    /// Shuts the embedded pool down; leaves a configured one alone.
    pub async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.shutdown().await;
        }
    }
}
