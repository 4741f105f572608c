//! The SQLite store on real files: conformance, what it costs, many processes, and what happens
//! when processes are killed and paused, and files are locked, full, damaged or another's.

#[path = "../support/latencies.rs"]
mod latencies;
#[path = "../support/processes.rs"]
mod many;
#[path = "../support/worker.rs"]
mod worker;

mod commits;
mod conformance;
mod file;
mod kills;
mod locks;
mod processes;
mod room;
mod schema;
mod settings;
mod sweeping;
