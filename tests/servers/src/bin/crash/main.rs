//! Kills the example `ledger`, or its database, at random instants while clients move money
//! through it, and then compares the ledger with what the clients were told.
//!
//! `cargo xtask crash` builds both and makes all the runs that must hold. What is drawn comes from
//! the seed; where a kill strikes does not, so a seed shows a fault again only mostly.

mod audit;
mod client;
mod http;
mod killer;
mod options;
mod order;
mod signals;
mod victim;

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use audit::Audit;
use client::{Book, Client};
use http::Connection;
use options::{Database, Mode, OnCrash, Options, Victim};
use signals::Signals;
use victim::Ledger;

/// How many faults are told at length.
const TOLD: usize = 10;

fn main() -> ExitCode {
    let options = Options::parse();
    if (options.database, options.victim) == (Database::Sqlite, Victim::Database) {
        eprintln!("SQLite runs in the server: there is no other process to kill");
        return ExitCode::FAILURE;
    }
    let seed = options.seed.unwrap_or_else(|| rand::rng().random());
    let name = options.name();
    // Before anything can fail.
    println!("{name}: {} kills, seed {seed}", options.kills);

    let start = Instant::now();
    let mut ledger = Ledger::start(&options);
    let (book, starting) = run(&options, seed, &mut ledger);
    let mut connection = Connection::new(ledger.port());
    let audit = Audit::of(
        &book.deals,
        options.may_duplicate(),
        &connection.get("/transfers"),
        &connection.get("/accounts"),
    );

    for told in audit.faults.iter().take(TOLD) {
        println!("{told}");
    }
    let counts = [
        ("transfers", audit.transfers),
        ("duplicated", audit.duplicated),
        ("lost", audit.lost),
        ("phantom", audit.phantom),
        ("money_off", audit.money_off),
        ("changed", book.changed()),
        ("wrong", audit.wrong),
        ("hung", book.hung),
        ("unanswered", audit.unanswered),
        ("unknown", audit.unknown),
        ("refused", audit.refused),
        ("replays", book.replays),
        ("cut_off", book.cut_off()),
        ("found", book.found()),
        ("reruns", book.reruns()),
    ];
    let mut line = format!("{name}: kills={} starting={starting}", options.kills);
    for (count, number) in counts {
        let _ = write!(line, " {count}={number}");
    }
    println!("{line} seconds={} seed={seed}", start.elapsed().as_secs());

    let mut faults = audit.lost
        + audit.phantom
        + audit.money_off
        + audit.wrong
        + audit.unanswered
        + book.changed()
        + book.hung;
    if !options.may_duplicate() {
        faults += audit.duplicated;
    }
    if options.on_crash == OnCrash::Rerun || options.mode == Mode::Transaction {
        faults += audit.unknown;
    }
    if faults == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{faults} faults; the ledger's log ends:\n{}", ledger.log());
    ExitCode::FAILURE
}

/// All the clients' books as one, and how many kills struck a server that was starting.
fn run(options: &Options, seed: u64, ledger: &mut Ledger) -> (Book, u32) {
    let signals = Signals::default();
    let start = Instant::now();
    let port = ledger.port();
    thread::scope(|scope| {
        let signals = &signals;
        let clients: Vec<_> = (0..options.clients)
            .map(|number| {
                let client = Client::new(number, seed, port, start, signals);
                scope.spawn(move || client.run())
            })
            .collect();
        // Clients must end also where the killer panics: the scope waits for them.
        let closing = Closing(signals, start);
        let mut rng = StdRng::seed_from_u64(seed);
        let starting = killer::kill(ledger, options.kills, &mut rng, signals);
        drop(closing);
        let books = clients.into_iter().map(|client| {
            let ended = client.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        (Book::merged(books), starting)
    })
}

struct Closing<'a>(&'a Signals, Instant);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let now = u64::try_from(self.1.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.closing.store(now.max(1), Ordering::Relaxed);
    }
}
