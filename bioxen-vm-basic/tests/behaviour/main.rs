//! What a VM of type basic promises, with the built-in Lua and with an interpreter of the machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod escape;
mod in_process;
mod lifecycle;
mod orphans;
mod same_as_lua;
mod session;
mod support;
mod tree;
