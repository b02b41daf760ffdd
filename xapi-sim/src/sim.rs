//! The simulator as its users see it.

mod options;
mod trouble;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;
use xapi_client::Transport;

pub use self::options::{GuestMode, SimOptions};
use crate::assertions::{self, CallRecord, Leak};
use crate::backing::GuestHost;
use crate::bootstrap;
use crate::control::Control;
use crate::dispatch::{Request, dispatch};
use crate::failure::Failure;
use crate::fault::FaultRule;
use crate::guest::{GuestError, GuestOptions, Guests, PassedOver, Rung};
use crate::model::Model;
use crate::origin::Origin;
use crate::outage;
use crate::plugin::Plugin;
use crate::rpc::Face;
use crate::secret;
use crate::server::Server;
use crate::storage::Storage;
use crate::transport::InProcess;
use crate::value::Value;
use crate::world::Shared;

/// What can go wrong with a simulator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Guests cannot be run on this machine.
    #[error("the simulated VMs cannot be backed by guests")]
    Guests {
        /// The reason.
        source: GuestError,
    },

    /// The model contradicts itself.
    #[error("the model of the pool does not fit together: {reason}")]
    Model {
        /// What does not fit.
        reason: String,
    },

    /// The socket cannot be had.
    #[error("cannot listen on {address}; choose another address or port 0")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },

    /// Others could reach the control endpoint.
    #[error(
        "{address} is no address of this machine alone; use 127.0.0.1 for the control endpoint"
    )]
    NotLoopback {
        /// The address that was asked for.
        address: SocketAddr,
    },

    /// A private file cannot be written.
    #[error("the private file {name} cannot be written; choose another state directory")]
    File {
        /// Its name.
        name: String,
        /// The reason.
        source: std::io::Error,
    },

    /// The certificate of the server cannot be used or made.
    #[error("TLS is not available with this certificate")]
    Certificate {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Who may log in.
#[derive(Debug, Clone)]
pub struct Credentials {
    user: String,
    password: SecretString,
}

impl Credentials {
    /// The name of the user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &SecretString {
        &self.password
    }
}

/// What a simulator can do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Coverage {
    /// The messages that are implemented, sorted.
    pub implemented: Vec<&'static str>,
    /// The other messages of the datamodel, sorted, removed ones left out. They answer
    /// `NOT_IMPLEMENTED`.
    pub missing: Vec<&'static str>,
}

/// A simulated pool.
///
/// Dropping it ends its guests and removes their files as far as that can be done without
/// waiting; [`shutdown`](Sim::shutdown) does it for sure.
#[derive(Debug)]
pub struct Sim {
    shared: Arc<Shared>,
    credentials: Credentials,
    /// The hosts in the order of the model.
    hosts: Vec<String>,
}

impl Sim {
    /// Makes a pool.
    ///
    /// # Errors
    ///
    /// [`Error::Guests`] when real guests are asked for and this machine cannot run any,
    /// [`Error::Model`] when the model names something that it does not have.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes what it has begun.
    pub async fn start(model: Model, options: SimOptions) -> Result<Sim, Error> {
        Sim::start_with(model, options, Vec::new(), Vec::new()).await
    }

    pub(crate) async fn start_with(
        model: Model,
        options: SimOptions,
        faults: Vec<FaultRule>,
        plugins: Vec<Plugin>,
    ) -> Result<Sim, Error> {
        let needs_guests = model.templates.iter().any(|template| template.guest);
        let storage = Storage::new(options.places());
        let guests = match options.guests.clone() {
            GuestMode::Real if needs_guests => Some(GuestOptions::default()),
            GuestMode::RealWith(guests) if needs_guests => Some(guests),
            _ => None,
        };
        let guests = match guests {
            Some(guests) => Some(
                Guests::new(guests)
                    .await
                    .map_err(|source| Error::Guests { source })?,
            ),
            None => None,
        };
        let guests = GuestHost { guests };
        let password = match &options.password {
            Some(password) => password.clone(),
            None => SecretString::from(secret::password()),
        };
        let origin = Origin {
            model,
            options,
            password: password.clone(),
            faults,
            plugins,
        };
        let (world, hosts) = origin.world(&guests).await?;
        let credentials = Credentials {
            user: "root".to_owned(),
            password,
        };
        Ok(Sim {
            shared: Shared::new(world, guests, storage, origin),
            hosts,
            credentials,
        })
    }

    /// The name and password of the administrator.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The user to log in as in guests; `None` where guests are not real.
    #[must_use]
    pub fn guest_user(&self) -> Option<&str> {
        self.shared.guests.guests.as_ref().map(Guests::user)
    }

    /// How guests are kept apart; `None` where guests are not real.
    #[must_use]
    pub fn rung(&self) -> Option<Rung> {
        self.shared.guests.guests.as_ref().map(Guests::rung)
    }

    /// The better ways to run guests that do not work here, with the reasons.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        self.shared
            .guests
            .guests
            .as_ref()
            .map_or(&[], Guests::passed_over)
    }

    /// A transport for [`xapi_client::Client::over`] that needs no socket.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(InProcess::new(Arc::clone(&self.shared)))
    }

    /// Serves the pool over HTTPS on an address, for any client. Port 0 takes a free one. It is the
    /// first host that answers, which is the coordinator at first.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] when the address cannot be had, [`Error::Certificate`] when no
    /// certificate can be made.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no server behind.
    pub async fn serve(&self, address: SocketAddr) -> Result<Server, Error> {
        self.serve_host(0, address).await
    }

    /// Serves the pool over HTTP without TLS, as a host's port 80 does. Passwords travel in the
    /// clear: for tests on the loopback interface only.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] when the address cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no server behind.
    pub async fn serve_plain(&self, address: SocketAddr) -> Result<Server, Error> {
        Server::start(self.face(0)?, address, false).await
    }

    /// Serves as one of the hosts, counted from 0, over HTTPS. As long as it is not the
    /// coordinator it answers with `HOST_IS_SLAVE` and the address of the coordinator.
    ///
    /// A client follows with the port that it used, so give all servers the same port, on
    /// 127.0.0.1, 127.0.0.2 and so on.
    ///
    /// # Errors
    ///
    /// As [`serve`](Sim::serve), and [`Error::Model`] when there are not that many hosts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no server behind.
    pub async fn serve_host(&self, number: usize, address: SocketAddr) -> Result<Server, Error> {
        let server = Server::start(self.face(number)?, address, true).await?;
        let host = &self.hosts[number];
        self.shared
            .with(|world| bootstrap::move_host(world, host, address.ip()));
        Ok(server)
    }

    fn face(&self, number: usize) -> Result<Face, Error> {
        let host = self.hosts.get(number).cloned();
        let host = host.ok_or_else(|| Error::Model {
            reason: format!("there is no host {number}; count from 0"),
        })?;
        Ok(Face::of_host(Arc::clone(&self.shared), host))
    }

    /// Calls a method of the coordinator as a client would, the session among the parameters.
    ///
    /// # Errors
    ///
    /// The failure that a client would get; `CANNOT_CONTACT_HOST` where a client would lose its
    /// connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the call where it waits.
    pub async fn call(&self, method: &str, params: Vec<Value>) -> Result<Value, Failure> {
        let host = self.shared.with(|world| {
            let host = world.coordinator();
            outage::assert_up(world, &host)?;
            Ok(host)
        })?;
        let ended = self.shared.end_of_life(&host);
        let request = Request {
            method: method.to_owned(),
            params,
            tags: Vec::new(),
            host: host.clone(),
        };
        tokio::select! {
            biased;
            () = ended => Err(Failure::new("CANNOT_CONTACT_HOST", [host])),
            reply = dispatch(&self.shared, request) => reply,
        }
    }

    /// Makes the pool anew from its model, with the faults and plugins of its
    /// [`Scenario`](crate::Scenario).
    /// Connections break, what runs is ended, and references are those of the first start.
    /// Functions of [`on`](Sim::on) stay.
    ///
    /// # Errors
    ///
    /// [`Error::Guests`] when the templates' disks cannot be made again; the pool then stays as it
    /// is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves either the old pool or the new one.
    pub async fn reset(&self) -> Result<(), Error> {
        outage::reset(&self.shared).await
    }

    /// Lets other programs on this machine do what [`inject`](Sim::inject) and its neighbours do,
    /// over HTTP on a loopback address. Port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// [`Error::NotLoopback`] for an address that others could reach, [`Error::Listen`] when the
    /// address cannot be had.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no endpoint behind.
    pub async fn serve_control(&self, address: SocketAddr) -> Result<Control, Error> {
        Control::start(Arc::clone(&self.shared), address).await
    }

    /// Keeps a text in a file that only this user can read. It goes with the simulator; if that is
    /// killed, a later one on this machine removes it.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the file cannot be written.
    pub fn keep(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let kept = self.shared.storage.keep(name, text);
        kept.map_err(|source| Error::File {
            name: name.to_owned(),
            source,
        })
    }

    /// The calls so far, in the order of their arrival. Of very many only the newest are kept.
    #[must_use]
    pub fn calls(&self) -> Vec<CallRecord> {
        self.shared.with(|world| world.log.calls.clone())
    }

    /// The objects and sessions that are there now and were not when the pool was made, sorted by
    /// class and reference: what a program under test should have removed. Metrics and consoles
    /// are left out, which go with their owners.
    #[must_use]
    pub fn leaks(&self) -> Vec<Leak> {
        self.shared
            .with(|world| assertions::leaks(&world.db, world.started))
    }

    /// How many of these calls were about each VM, by its reference.
    #[must_use]
    pub fn calls_per_vm(&self) -> BTreeMap<String, usize> {
        self.shared.with(|world| world.log.calls_per_vm())
    }

    /// The messages that were asked for and that nothing implements, sorted.
    #[must_use]
    pub fn unimplemented(&self) -> Vec<String> {
        self.shared
            .with(|world| world.log.unimplemented.iter().cloned().collect())
    }

    /// What is implemented.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let registry = &self.shared.registry;
        Coverage {
            implemented: registry.messages(true),
            missing: registry.messages(false),
        }
    }

    /// Ends the pool: its servers close, its guests end with all their processes, and their files
    /// go.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts the power of the guests that are left.
    pub async fn shutdown(self) {
        self.shared.close();
        let (running, disks) = self.shared.with(|world| {
            (
                std::mem::take(&mut world.running),
                std::mem::take(&mut world.disks),
            )
        });
        for guest in running.into_values().filter_map(|running| running.guest) {
            guest.power_off().await;
        }
        // Only a runtime that shuts down refuses, and then dropping the closure does the same.
        let _ = tokio::task::spawn_blocking(move || drop(disks)).await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.shared.close();
        let left = self.shared.with(|world| {
            (
                std::mem::take(&mut world.running),
                std::mem::take(&mut world.disks),
            )
        });
        // Guests before the disks that they run from.
        drop(left);
    }
}
