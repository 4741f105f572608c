//! More load than a server has room for: what it completes, what it refuses, and whether a lease is lost
//! meanwhile. The server has one core of its own; whoever calls, and Redis, have another one.
//!
//! A closed load, every connection sending when it has its answer, shows the capacity. Then requests
//! are due at a half of it, at all of it, at twice and four times as many, whether or not there are
//! answers. All the time 50 attempts run in the server's process whose leases of a second are renewed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::routing::get;
use idem::{Engine, Error, Event, EventKind, Fingerprint, Observer};
use idem_benches::Target::{AtLeast, AtMost};
use idem_benches::http::Keys::Fresh;
use idem_benches::http::protected_app;
use idem_benches::open_load::{Answers, Connections, keep_to_core};
use idem_benches::socket::{Server, listen, number, serving};
use idem_benches::{apps, median, scaled};
use idem_tests::Redis;
use tokio::runtime::{Builder, Runtime};

/// Of the capacity.
const OFFERED: [f64; 4] = [0.5, 1.0, 2.0, 4.0];

/// More than the Redis store's claims under way and those in its queue, 256 and 4,096.
const CONNECTIONS: usize = 6000;

/// Of the closed load.
const CLOSED: u64 = 64;

const HELD: u64 = 50;
const LEASE: Duration = Duration::from_secs(1);

const SERVER_CORE: usize = 0;
const OTHERS_CORE: usize = 1;

fn main() {
    if let Some(what) = serving() {
        keep_to_core(SERVER_CORE);
        serve(&what);
        return;
    }
    keep_to_core(OTHERS_CORE);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    compare(&runtime, "The plain handler", &["plain"]);
    compare(&runtime, "idem in memory", &["idem", apps::MEMORY]);
    let redis = Redis::start();
    compare(
        &runtime,
        "`cached` over Redis, which has no lock",
        &["cached", &redis.url()],
    );
    compare(&runtime, "idem over Redis", &["idem", &redis.url()]);
}

/// A closed load, and the open ones after it.
struct Round {
    /// What the closed load completed per second.
    capacity: f64,
    /// Seconds of the server's CPU for each of its requests.
    cpu: f64,
    /// How many cores it used.
    cores: f64,
    levels: [Level; OFFERED.len()],
}

/// An open load.
struct Level {
    answers: Answers,
    /// Seconds until the last answer.
    took: f64,
    /// Seconds of the server's CPU.
    cpu: f64,
    lost: u64,
}

/// For how long requests are due.
fn time() -> Duration {
    Duration::from_secs(scaled(3, 1) as u64)
}

fn compare(runtime: &Runtime, title: &str, what: &[&str]) {
    println!("\n### {title}: open load, of what a closed one completes\n");
    println!(
        "| offered | completed per second | ratio | target | | refused per second | turned away per second \
         | half are faster, ms | 99 of 100, ms | cores of the server | µs of its CPU per completed \
         | leases lost | target | |"
    );
    println!("|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    let server = Server::start(runtime, what);
    let connections = Connections::open(runtime, server.address(), CONNECTIONS);
    let rounds: Vec<_> = (0..scaled(3, 1))
        .map(|_| round(runtime, &server, &connections))
        .collect();
    let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    println!(
        "| closed, {CLOSED} connections | {:.0} | 1.00 | = 1 | | | | | | {:.2} | {:.1} | | | |",
        middle(&|round| round.capacity),
        middle(&|round| round.cores),
        middle(&|round| round.cpu * 1e6),
    );
    for (place, offered) in OFFERED.into_iter().enumerate() {
        row(offered, &rounds, place);
    }
}

#[allow(clippy::cast_precision_loss)]
fn round(runtime: &Runtime, server: &Server, connections: &Connections) -> Round {
    let ask = |path| runtime.block_on(number(server.address(), path));
    let (before, started) = (ask("/cpu"), Instant::now());
    let closed = server.latencies(runtime, Fresh, CLOSED, scaled(600, 200) as u64);
    let took = started.elapsed().as_secs_f64();
    let cpu = (ask("/cpu") - before) as f64 / 1e9;
    let capacity = closed.len() as f64 / took;
    Round {
        capacity,
        cpu: cpu / closed.len() as f64,
        cores: cpu / took,
        levels: OFFERED.map(|offered| {
            let (cpu, lost, started) = (ask("/cpu"), ask("/lost"), Instant::now());
            let answers = connections.offer(runtime, offered * capacity, time());
            Level {
                answers,
                took: started.elapsed().as_secs_f64(),
                cpu: (ask("/cpu") - cpu) as f64 / 1e9,
                lost: ask("/lost") - lost,
            }
        }),
    }
}

#[allow(clippy::cast_precision_loss)]
fn row(offered: f64, rounds: &[Round], place: usize) {
    let middle = |of: &dyn Fn(&Level) -> f64| {
        let levels = rounds.iter().map(|round| &round.levels[place]);
        median(levels.map(of).collect())
    };
    let rate = |count: usize| count as f64 / time().as_secs_f64();
    let ratios = rounds
        .iter()
        .map(|round| rate(round.levels[place].answers.completed) / round.capacity);
    let ratio = median(ratios.collect());
    // A server that has room completes what is offered, and another one its capacity.
    let (target, verdict) = AtLeast(0.9 * offered.min(1.0)).judge(ratio);
    let lost: u64 = rounds.iter().map(|round| round.levels[place].lost).sum();
    let (none, none_verdict) = AtMost(0.0).judge(lost as f64);
    println!(
        "| {offered} of the capacity | {:.0} | {ratio:.2} | {target} | {verdict} | {:.0} | {:.0} \
         | {:.1} | {:.1} | {:.2} | {:.1} | {lost} | {none} | {none_verdict} |",
        middle(&|level| rate(level.answers.completed)),
        middle(&|level| rate(level.answers.refused)),
        middle(&|level| rate(level.answers.turned_away)),
        middle(&|level| level.answers.percentile(50)),
        middle(&|level| level.answers.percentile(99)),
        middle(&|level| level.cpu / level.took),
        middle(&|level| level.cpu * 1e6 / level.answers.all_completed() as f64),
    );
}

static LOST: AtomicU64 = AtomicU64::new(0);

struct Losses;

impl Observer for Losses {
    fn observe(&self, event: &Event<'_>) {
        if let EventKind::LeaseLost { .. } = event.kind {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The server's process: one thread, for its one core.
fn serve(what: &[String]) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let app = match what {
        [app, url] if app == "idem" => {
            let connected = runtime.block_on(idem::connect(url));
            let engine = connected.expect("a store").observer(Losses);
            let engine = engine.install().expect("the first");
            hold(&runtime, &engine);
            protected_app()
        }
        _ => apps::named(&runtime, what),
    };
    let lost = get(|| async { LOST.load(Ordering::Relaxed).to_string() });
    listen(&runtime, app.route("/lost", lost));
}

/// Attempts that run until the server ends.
fn hold(runtime: &Runtime, engine: &Engine) {
    let operation = engine.operation("held").lease(LEASE);
    for number in 0..HELD {
        let operation = operation.clone();
        runtime.spawn(async move {
            let request = Fingerprint::of(&number).expect("an integer");
            let body = std::future::pending::<Result<(), Error>>();
            operation.run(&number, request, body).await
        });
    }
}
