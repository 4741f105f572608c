//! Claims, writes and outcomes in one transaction, on all databases: all of it happens, once, or
//! nothing does.

mod bodies;
mod databases;
mod dropped;
mod faults;
mod handlers;
mod killed;
mod mysql;
mod phases;
mod places;
mod refusals;
mod sessions;
mod statements;
mod suite;
