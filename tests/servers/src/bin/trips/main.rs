//! Kills the example `trip` at every boundary of its steps, and at random instants while clients book
//! trips, and then compares what airline, bank and database were told with what the clients were.
//!
//! `cargo xtask crash` builds both. What is drawn comes from the seed; where a kill strikes does not.

#[allow(dead_code, reason = "a client of the ledger needs all of it")]
#[path = "../crash/http.rs"]
mod http;

mod agency;
mod audit;
mod boundaries;
mod client;
mod options;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use agency::Agency;
use audit::Audit;
use client::{Booked, Client};
use options::{Options, Store};

/// From when the server is ready to the kill.
const SOON: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_millis(120);

/// The same where a crash is noticed seconds after its lease: some kills strike after that.
const LATE_IN_DYNAMODB: Duration = Duration::from_secs(6);

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| rand::rng().random());
    let name = format!("trips/{:?}", options.store).to_lowercase();
    println!("{name}: {} kills, seed {seed}", options.kills);
    let start = Instant::now();

    let mut faults = boundaries::check(options.store);
    let mut agency = Agency::start(options.store, &[]);
    let booked = book_and_kill(&options, seed, &mut agency);
    let audit = Audit::of(&booked, &agency.calls(), &agency.orders());
    faults.extend(audit.faults);

    for fault in faults.iter().take(10) {
        println!("{fault}");
    }
    println!(
        "{name}: kills={} trips={} interrupted={} reruns_unkept={} faults={} seconds={} seed={seed}",
        options.kills,
        booked.len(),
        booked.iter().filter(|trip| trip.lost > 0).count(),
        audit.reruns,
        faults.len(),
        start.elapsed().as_secs(),
    );
    match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => {
            eprintln!("the log ends:\n{}", agency.log());
            ExitCode::FAILURE
        }
    }
}

fn book_and_kill(options: &Options, seed: u64, agency: &mut Agency) -> Vec<Booked> {
    let closing = AtomicBool::new(false);
    let port = agency.port();
    thread::scope(|scope| {
        let closing = &closing;
        let clients: Vec<_> = (0..options.clients)
            .map(|number| scope.spawn(move || Client::new(number, port).book_until(closing)))
            .collect();
        // Clients must end also where this panics: the scope waits for them.
        let closes = Closes(closing);
        let mut rng = StdRng::seed_from_u64(seed);
        let late = match options.store {
            Store::DynamoDb => LATE_IN_DYNAMODB,
            _ => LATE,
        };
        for _ in 0..options.kills {
            agency.wait_until_ready();
            let of_the_rest: f64 = rng.random_range(0.0..1.0);
            thread::sleep(SOON + (late - SOON).mul_f64(of_the_rest));
            agency.kill_and_start();
        }
        agency.wait_until_ready();
        drop(closes);
        let booked = clients.into_iter().flat_map(|client| {
            let ended = client.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        booked.collect()
    })
}

struct Closes<'a>(&'a AtomicBool);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
