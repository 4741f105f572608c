//! A network that fails on command, between a client and a server.

#![allow(
    missing_docs,
    missing_debug_implementations,
    reason = "for the tests here alone"
)]

mod fault;
mod shop;

pub use fault::{Fault, Network, Nobody};
pub use shop::{Shop, Step};
