//! When kills strike.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::options::Victim;
use super::signals::Signals;
use super::victim::Ledger;

/// From when the victim is ready to the kill. Its clients ask it all the time, so that any
/// instant finds some of them before a claim, between claim and commit, in a commit, and after it.
const SOON: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_millis(120);

/// How long a database that is back may do nothing for anybody.
const IDLE: Duration = Duration::from_secs(30);

/// Kills so many times, and leaves the victim ready. Says how many kills struck a server that
/// was still starting.
pub(crate) fn kill(ledger: &mut Ledger, kills: u32, rng: &mut StdRng, signals: &Signals) -> u32 {
    let mut starting = 0;
    for _ in 0..kills {
        match ledger.victim() {
            Victim::Server => starting += u32::from(kill_server(ledger, rng)),
            Victim::Database => kill_database(ledger, rng, signals),
        }
        signals.kills.fetch_add(1, Ordering::Relaxed);
    }
    ledger.wait_until_ready();
    starting
}

/// Whether it was still starting.
fn kill_server(ledger: &mut Ledger, rng: &mut StdRng) -> bool {
    let at_start = rng.random_ratio(1, 4);
    if at_start {
        thread::sleep(ledger.takes().mul_f64(rng.random_range(0.0..1.1)));
    } else {
        ledger.wait_until_ready();
        thread::sleep(pause(rng));
    }
    let starting = at_start && !ledger.is_ready();
    ledger.kill();
    starting
}

fn kill_database(ledger: &Ledger, rng: &mut StdRng, signals: &Signals) {
    // The server takes a while to connect again: a kill before that would strike nobody.
    let before = signals.answers.load(Ordering::Relaxed);
    let start = Instant::now();
    while signals.answers.load(Ordering::Relaxed) == before {
        assert!(
            start.elapsed() < IDLE,
            "no answers since the database is back; the ledger's log ends:\n{}",
            ledger.log()
        );
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(pause(rng));
    ledger.kill_database(rng.random_bool(0.5));
}

/// More often short than long.
fn pause(rng: &mut StdRng) -> Duration {
    let of_the_rest: f64 = rng.random_range(0.0..1.0);
    SOON + (LATE - SOON).mul_f64(of_the_rest * of_the_rest)
}
