//! The engine against a store that fails, hangs, loses answers and is shared: every
//! interleaving is forced by gates, faults or a paused clock.

#[path = "../support/works.rs"]
mod works;

mod bench;
mod cache;
mod callers;
mod deadlines;
mod duplicates;
mod endings;
mod late;
mod leases;
mod links;
mod observers;
mod outages;
mod policies;
mod runtimes;
mod steps;
mod streams;
