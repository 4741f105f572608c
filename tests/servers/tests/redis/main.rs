//! The Redis store against real servers: conformance, what it costs, many processes, and what
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

mod commands;
mod conformance;
mod damage;
mod durability;
mod failover;
mod lanes;
mod late;
mod links;
mod listing;
mod logins;
mod older;
mod outages;
mod patience;
mod processes;
mod proxy;
mod refusals;
mod replays;
mod starting;
mod steps;
mod stored;
