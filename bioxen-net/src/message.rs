//! Messages between Lua VMs of any type, and between them and Rust.
//!
//! A [`Hub`] is in this program. VMs join it ([`Hub::join`]), and so does Rust ([`Hub::endpoint`]);
//! each has a name and a mailbox. Programs in VMs use the Lua module `bioxen.net`:
//!
//! ```lua
//! local net = require "bioxen.net"
//! net.send("lab2", "ACGT")                 -- waits until it is in the mailbox of lab2
//! local message = net.receive(5)           -- for at most 5 s: message.from, message.bytes
//! local reply = net.request("lab2", "GC?") -- lab2 calls message:reply(bytes)
//! ```
//!
//! # What is guaranteed
//!
//! - A message is **acknowledged** when `send` returns: then it is in the mailbox of its receiver. An
//!   acknowledged message is received **once**, and after all that its sender sent to the same
//!   receiver before, also when connections to VMs are lost and made again meanwhile. It is not
//!   received when its receiver leaves first, or does not ask for it. Who must know that a message
//!   was understood sends it with `request`.
//! - A message that is **not** acknowledged may have been received when an error says so (`request`,
//!   `publish`, `broadcast`); `send` then has sent nothing.
//! - Messages are any bytes, and arrive whole. Mailboxes have limited room
//!   ([`Hub::with_mailbox`]); who sends into a full one waits.
//!
//! # How VMs are reached
//!
//! No port is opened, in no VM and not here. A program writes to a FIFO and reads from another one, in a
//! folder that only its user can enter. For VMs on this machine the hub has the other ends of both;
//! in a guest a command that stays has them, over the VM's SSH connection ([`Runner`]). A program
//! within walls gets this folder and nothing else.
//!
//! [`Runner`]: bioxen_vm_core::Runner

mod hub;
mod link;
mod mailbox;
mod member;
mod serve;
mod wire;

pub mod socket;

pub use hub::{DEFAULT_MAILBOX, Endpoint, Hub, LONGEST_MESSAGE};
pub use mailbox::Message;
pub use member::Member;
