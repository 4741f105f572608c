//! The MySQL store against real servers of MariaDB: conformance, what it costs, many processes, and what
//! happens when servers and processes stop, die, hang and come back.

#[path = "../support/flood.rs"]
mod flood;
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

mod conformance;
mod costs;
mod dropped;
mod hung;
mod lanes;
mod outages;
mod packets;
mod processes;
mod refusals;
mod replica;
mod schema;
mod stored;
mod sweeping;
mod tls;
