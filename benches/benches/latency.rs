//! How long one request takes over loopback, by the clock: half of all requests, and 99 of 100.
//!
//! Every connection sends its next request when it has its answer. With one connection this is how long
//! a client waits for a server that is idle. With 64 all cores are used, and most of the time is spent
//! in line: it says what the server's capacity is, and how even its answers are.

use std::time::Duration;

use idem_benches::http::Keys::{Fresh, Known};
use idem_benches::socket::{Server, client_runtime, listen, serving};
use idem_benches::{Contender, Target, apps, interleave, print, scaled};
use idem_tests::Redis;
use tokio::runtime::Runtime;

/// Connections, and what each of them sends in a round.
const LEVELS: [(u64, u64); 2] = [(1, 1500), (64, 75)];

fn main() {
    if let Some(what) = serving() {
        let runtime = Runtime::new().expect("a runtime");
        let app = apps::named(&runtime, &what);
        listen(&runtime, app);
        return;
    }
    let mut in_memory = vec![
        ("plain handler", "plain", Fresh),
        ("first, by hand, sharded map", "by-hand", Fresh),
        ("**first, idem**", "idem", Fresh),
        ("replay, by hand, sharded map", "by-hand", Known),
        ("**replay, idem**", "idem", Known),
    ];
    if cfg!(feature = "peers") {
        in_memory.push(("first, `idempotent`", "idempotent", Fresh));
        in_memory.push(("replay, `idempotent`", "idempotent", Known));
    }
    let over_redis = vec![
        ("plain handler", "plain", Fresh),
        ("first, `cached` 4", "cached", Fresh),
        ("**first, idem**", "idem", Fresh),
        ("replay, `cached` 4", "cached", Known),
        ("**replay, idem**", "idem", Known),
        ("**replay, idem, local cache**", "local", Known),
    ];
    let redis = Redis::start();
    let runtime = &client_runtime();
    for (place, store, apps) in [
        ("in memory", None, in_memory),
        ("over Redis", Some(redis.url()), over_redis),
    ] {
        for (connections, per_connection) in LEVELS {
            let contenders = apps.iter().map(|(name, app, keys)| {
                let what: Vec<_> = [*app].into_iter().chain(store.as_deref()).collect();
                let server = Server::start(runtime, &what);
                let target = match *app {
                    "plain" => Target::Baseline,
                    _ => Target::None,
                };
                Contender::new(*name, target, move || {
                    let all = server.latencies(runtime, *keys, connections, per_connection);
                    percentiles(all)
                })
            });
            let [half, most] = interleave(scaled(15, 3), contenders.collect());
            let connections = match connections {
                1 => "1 connection".to_owned(),
                more => format!("{more} connections"),
            };
            print(
                &format!("Half of all requests are faster, {place}, {connections}"),
                "µs",
                1000.0,
                &half,
            );
            print(
                &format!("99 of 100 requests are faster, {place}, {connections}"),
                "µs",
                1000.0,
                &most,
            );
        }
    }
}

/// The median and the 99th percentile, in nanoseconds.
fn percentiles(mut latencies: Vec<Duration>) -> [f64; 2] {
    latencies.sort_unstable();
    let at = |percent: usize| {
        let place = (latencies.len() * percent / 100).min(latencies.len() - 1);
        latencies[place].as_secs_f64() * 1e9
    };
    [at(50), at(99)]
}
