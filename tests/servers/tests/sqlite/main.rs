//! The SQLite store on real files: conformance, what it costs, many processes, and what happens
//! when processes are killed and paused, and files are locked, full, damaged or another's.

#[path = "../support/latencies.rs"]
mod latencies;
#[path = "../support/log.rs"]
mod log;
#[path = "../support/processes.rs"]
mod many;
#[path = "../support/records.rs"]
mod records;
#[path = "../support/worker.rs"]
mod worker;

mod clock;
mod commits;
mod conformance;
mod file;
mod flood;
mod forgotten;
mod holder;
mod kills;
mod lanes;
mod late;
mod listing;
mod locks;
mod older;
#[path = "../support/older.rs"]
mod older_processes;
mod owner;
mod previous;
mod processes;
mod refusals;
mod replaced;
mod room;
mod schema;
mod settings;
mod stored;
mod sweeping;
