//! The DynamoDB store against emulators: conformance, what it costs, many processes, clocks that are wrong,
//! throttling and lost answers.

#[path = "../support/flood.rs"]
mod flood;
#[path = "../support/processes.rs"]
mod many;
#[path = "../support/wall_clocks.rs"]
mod wall_clocks;
#[path = "../support/worker.rs"]
mod worker;

mod clock;
mod conformance;
mod costs;
mod faults;
mod lanes;
mod processes;
mod proxy;
mod stored;
