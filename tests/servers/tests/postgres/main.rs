//! The Postgres store against real servers: conformance, what it costs, many processes, and what
//! happens when servers and processes stop, die, hang and come back.

#[path = "../support/flood.rs"]
mod flood;
#[path = "../support/latencies.rs"]
mod latencies;
#[path = "../support/load.rs"]
mod load;
#[path = "../support/log.rs"]
mod log;
#[path = "../support/processes.rs"]
mod many;
#[path = "../support/records.rs"]
mod records;
#[path = "../support/wall_clocks.rs"]
mod wall_clocks;
#[path = "../support/worker.rs"]
mod worker;

mod clock;
mod conformance;
mod costs;
mod dropped;
mod hung;
mod lanes;
mod late;
mod limits;
mod listing;
mod logins;
mod older;
#[path = "../support/older.rs"]
mod older_processes;
mod outages;
mod poolers;
mod previous;
mod processes;
mod refusals;
mod schema;
mod standby;
mod stored;
mod sweeping;
mod unattended;
mod waiting;
