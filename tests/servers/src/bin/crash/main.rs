//! Kills the example `ledger`, or its database, at random instants while clients move money
//! through it, and then compares the ledger with what the clients were told.
//!
//! `cargo xtask crash` builds both and makes all the runs that must hold. What is drawn comes from
//! the seed; where a kill strikes does not, so a seed shows a fault again only mostly.

mod audit;
mod client;
mod http;
mod killer;
mod order;
mod victim;

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use audit::Audit;
use client::{Book, Client};
use http::Connection;
use victim::Ledger;

/// How long clients may take to get their last answers. A store's timeout is 5 seconds, and so
/// is that of the ledger for SQLite's lock.
const LAST_ANSWERS: Duration = Duration::from_secs(60);

/// How many faults are told at length.
const TOLD: usize = 10;

#[derive(Parser)]
struct Options {
    #[arg(long, value_enum, default_value = "sqlite")]
    database: Database,
    /// Whom SIGKILL strikes. SQLite is no process of its own.
    #[arg(long, value_enum, default_value = "server")]
    victim: Victim,
    #[arg(long, value_enum, default_value = "transaction")]
    mode: Mode,
    /// With `--mode lease`.
    #[arg(long, value_enum, default_value = "rerun")]
    on_crash: OnCrash,
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// What is drawn; random unless given.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    clients: u64,
    /// The ledger's program; where cargo puts it beside this one unless given.
    #[arg(long)]
    ledger: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Database {
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Victim {
    Server,
    Database,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Transaction,
    Lease,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnCrash {
    Rerun,
    Refuse,
}

/// What clients and killer tell each other.
#[derive(Default)]
struct Signals {
    /// Kills so far.
    kills: AtomicU64,
    /// Final answers so far.
    answers: AtomicU64,
    /// When nothing new is begun, in milliseconds since the start; 0 is not yet.
    closing: AtomicU64,
}

fn word(value: impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map_or_else(String::new, |word| word.get_name().to_owned())
}

impl Options {
    fn name(&self) -> String {
        let mut name = format!(
            "{}/{}/{}",
            word(self.database),
            word(self.victim),
            word(self.mode)
        );
        if self.mode == Mode::Lease {
            let _ = write!(name, "/{}", word(self.on_crash));
        }
        name
    }

    /// Duplicates are what a lease does not keep out where a crash is followed by another run.
    fn may_duplicate(&self) -> bool {
        (self.mode, self.on_crash) == (Mode::Lease, OnCrash::Rerun)
    }
}

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
