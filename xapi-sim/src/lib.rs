//! A stateful simulator of XAPI, the management API of XCP-ng and XenServer, whose VMs are real
//! guests that can be reached over SSH.
//!
//! It keeps a whole pool in memory and answers as a real host does: records with the fields of the
//! datamodel, power states and allowed operations, tasks, events, and above all the same failures
//! with the same parameters, on the wire as in the process. It is made for the tests of clients
//! and for trying out automation without a hypervisor. It is not a hypervisor, does not model time
//! or load, and must not be reachable for anybody but its user.
//!
//! # Two faces
//!
//! In the process, [`Sim::transport`] carries the calls of an [`xapi_client::Client`] without any
//! socket. On a socket, [`Sim::serve`] speaks JSON-RPC 1.0 and 2.0 and XML-RPC over HTTPS, so that
//! any client in any language can use it.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use xapi_client::Client;
//! use xapi_client::api::VmPowerState;
//! use xapi_sim::{GuestMode, LUA_TEMPLATE, Model, Sim, SimOptions};
//!
//! // Records only; by default VMs of this template are guests, which run.
//! let options = SimOptions::default().with_guests(GuestMode::Simulated);
//! let sim = Sim::start(Model::single_host(), options).await?;
//! let client = Client::over(sim.transport())
//!     .credentials(sim.credentials().user(), sim.credentials().password().clone())
//!     .login()
//!     .await?;
//! let template = client.vm().get_by_name_label(LUA_TEMPLATE).await?.remove(0);
//! let vm = client.vm().clone(&template, "mine").await?;
//! client.vm().provision(&vm).await?;
//! client.vm().start(&vm, false, false).await?;
//! assert_eq!(client.vm().get_power_state(&vm).await?, VmPowerState::Running);
//! client.close().await?;
//! sim.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Guests
//!
//! A template made with [`TemplateSpec::with_guest`] has a system on its disk. Starting a VM that
//! was cloned from it boots a guest, see [`guest`]; its address appears in the VM's guest metrics
//! when it is up. The guest's files belong to the VDI: cloning copies them, `VM.destroy` leaves
//! them, `VDI.destroy` removes them. With [`GuestMode::Simulated`] nothing is booted and the guest
//! metrics show an address of the documentation range, which is enough for many tests.
//!
//! The guest of a paused or suspended VM stands still and goes on where it was. Snapshots and copies
//! of a running one are what a power cut would have left.
//!
//! What the agents of guests report can be bent with [`TemplateSpec::report`], for the tests of
//! those who look for addresses.
//!
//! # Trouble on demand
//!
//! [`Sim::inject`] takes a [`FaultRule`]: calls fail, wait, or lose their connection before or after
//! they are carried out. [`Sim::leaks`] tells what a program under test has left behind.
//!
//! # What it does not know
//!
//! Messages that nothing implements answer `NOT_IMPLEMENTED`, and [`Sim::unimplemented`] lists
//! those that were asked for, so that a test can insist on there being none. [`Sim::coverage`]
//! lists what is implemented. HTTP handlers for disks, VMs in files and statistics are simulated,
//! others answer alike. Of several hosts only the coordinator answers; [`Sim::serve_host`]
//! gives members that redirect to it.

mod assertions;
mod audit;
mod backing;
mod bootstrap;
mod check;
mod classes;
mod clock;
mod control;
mod db;
mod dbtext;
mod dispatch;
mod failure;
mod fault;
mod filter;
pub mod guest;
mod handlers;
mod http;
mod image;
mod interp;
mod journal;
mod json;
mod jsonrpc;
mod lifecycle;
mod model;
mod origin;
mod outage;
mod plugin;
mod rbac;
mod report;
mod rpc;
mod scenario;
mod secret;
mod seed;
mod server;
mod sim;
mod spec;
mod storage;
mod tls;
mod transport;
mod value;
mod world;
mod xmlrpc;

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use assertions::{CallRecord, Leak};
pub use control::Control;
pub use db::{Release, UnknownRelease};
pub use failure::Failure;
pub use fault::FaultRule;
pub use model::{LUA_TEMPLATE, Model, NetworkSpec, SrSpec, TemplateSpec, UserSpec};
pub use plugin::Plugin;
pub use report::GuestReport;
pub use scenario::Scenario;
pub use server::Server;
pub use sim::{Coverage, Credentials, Error, GuestMode, Sim, SimOptions};
pub use spec::SpecError;
pub use tls::Certificate;
pub use value::{NULL_REF, Value};

#[doc(no_inline)]
pub use secrecy::SecretString;
