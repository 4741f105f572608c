//! The Redis store against real servers: conformance, what it costs, many processes, and what
//! happens when servers and processes stop, die, hang and come back.

mod commands;
mod conformance;
mod logins;
mod outages;
mod processes;
mod worker;
