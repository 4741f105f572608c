//! The Redis store: what it asks of the Redis server, what it costs the HTTP server's process,
//! and the bytes that it keeps. Starts a Redis of its own.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use idem::store::{Change, Lease, Store};
use idem::stores::redis::RedisStore;
use idem_benches::Target::{AtMost, Baseline, None};
use idem_benches::http::Keys::{Fresh, Known};
use idem_benches::http::{Client, protected_app};
use idem_benches::redis::{Blind, Cached, Call, GetAndSet, OUTCOME_BYTES, Way, connection};
use idem_benches::socket::{CONNECTIONS, REQUESTS, Server, client_runtime, listen, serving};
use idem_benches::store::claims;
use idem_benches::{
    Contender, Figure, Target, apps, interleave, per_operation, print, scaled, thread_cpu,
};
use idem_tests::{Console, Redis, Reply};
use tokio::runtime::Runtime;

fn main() {
    if let Some(what) = serving() {
        let runtime = Runtime::new().expect("a runtime");
        let app = apps::named(&runtime, &what);
        listen(&runtime, app);
        return;
    }
    let redis = Redis::start();
    let mut console = redis.console();
    let mut version = |field| console.info("server", field);
    if let Some(version) = version("valkey_version") {
        println!("\nValkey {version}");
    } else {
        println!("\nRedis {}", version("redis_version").unwrap_or_default());
    }
    redis_cpu(&redis);
    redis.console().call(&["FLUSHALL"]);
    http_cpu(&redis);
    redis.console().call(&["FLUSHALL"]);
    bytes(&redis);
}

/// Calls at once, over one connection.
const TASKS: usize = 64;
const CALLS: usize = 100 * TASKS;

/// Records that are there all the time. With those of a round they neither fill the server's
/// table nor leave it empty: it is never resized.
const RECORDS: usize = 80_000;

fn redis_cpu(redis: &Redis) {
    let bench = &Bench {
        redis,
        runtime: current_thread(),
        next: Cell::new(0),
    };
    let url = &redis.url();
    let (naked, blind, idem, cached) = bench.runtime.block_on(async {
        (
            GetAndSet(connection(url).await),
            Blind(connection(url).await),
            RedisStore::connect(url).await.expect("a store"),
            Cached::connect(url).await,
        )
    });
    bench.run(&naked, Path::First, &bench.calls(RECORDS));

    let first = Path::First;
    let contenders = vec![
        bench.contender("`GET`, then `SET PX`", Baseline, &naked, first),
        bench.contender("`cached` 4", None, &cached, first),
        bench
            .contender("**idem**: claim and complete", AtMost(1.0), &idem, first)
            .but(1, None),
        bench.contender("unsafe: `SET NX GET`, then `SET XX`", None, &blind, first),
    ];
    let title = format!("First call, {TASKS} at once, {OUTCOME_BYTES} B");
    print_both(&title, interleave(scaled(41, 5), contenders));

    let replay = Path::Replay;
    let contenders = vec![
        bench.contender("`GET`", Baseline, &naked, replay),
        bench.contender("`cached` 4", None, &cached, replay),
        bench.contender("**idem**: claim", None, &idem, replay),
        bench.contender("`SET NX GET`", None, &blind, replay),
    ];
    let title = format!("Replay, {TASKS} at once, {OUTCOME_BYTES} B");
    print_both(&title, interleave(scaled(41, 5), contenders));
}

fn print_both(title: &str, [server, client]: [Vec<Figure>; 2]) {
    let unit = "µs of CPU per call";
    print(&format!("{title}: Redis"), unit, 1000.0, &server);
    print(&format!("{title}: the client"), unit, 1000.0, &client);
}

fn current_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[derive(Clone, Copy)]
enum Path {
    First,
    Replay,
}

struct Bench<'a> {
    redis: &'a Redis,
    runtime: Runtime,
    /// The number of the next call.
    next: Cell<usize>,
}

impl Bench<'_> {
    /// Calls of records that are not there.
    fn calls(&self, count: usize) -> Arc<[Call]> {
        let first = self.next.replace(self.next.get() + count);
        Call::many(first..first + count).into()
    }

    fn contender<'a>(
        &'a self,
        name: &str,
        target: Target,
        way: &'a impl Way,
        path: Path,
    ) -> Contender<'a, 2> {
        let mut console = self.redis.console();
        let known = match path {
            Path::First => Arc::default(),
            Path::Replay => {
                let calls = self.calls(CALLS);
                self.run(way, Path::First, &calls);
                calls
            }
        };
        Contender::new(name, target, move || match path {
            Path::First => {
                let calls = self.calls(CALLS);
                let times = self.measured(&mut console, way, path, &calls);
                let mut delete = vec![b"DEL".to_vec()];
                delete.extend(calls.iter().flat_map(Call::keys));
                console.call(&delete);
                times
            }
            Path::Replay => self.measured(&mut console, way, path, &known),
        })
    }

    /// The nanoseconds of the server and of the client, per call.
    #[allow(clippy::cast_precision_loss)]
    fn measured(
        &self,
        console: &mut Console,
        way: &impl Way,
        path: Path,
        calls: &Arc<[Call]>,
    ) -> [f64; 2] {
        let (server, client) = (server_cpu(console), thread_cpu());
        self.run(way, path, calls);
        let client = per_operation(client, calls.len());
        let server = server_cpu(console).saturating_sub(server);
        [server.as_secs_f64() * 1e9 / calls.len() as f64, client]
    }

    fn run(&self, way: &impl Way, path: Path, calls: &Arc<[Call]>) {
        self.runtime.block_on(async {
            let per_task = calls.len() / TASKS;
            let task = |task| {
                some(
                    way.clone(),
                    path,
                    Arc::clone(calls),
                    task * per_task..(task + 1) * per_task,
                )
            };
            let tasks: Vec<_> = (0..TASKS)
                .map(|number| tokio::spawn(task(number)))
                .collect();
            for task in tasks {
                task.await.expect("the calls succeed");
            }
        });
    }
}

async fn some(way: impl Way, path: Path, calls: Arc<[Call]>, which: Range<usize>) {
    for call in &calls[which] {
        match path {
            Path::First => way.first(call).await,
            Path::Replay => way.replay(call).await,
        }
    }
}

/// What the thread that answers has used.
fn server_cpu(console: &mut Console) -> Duration {
    let info = console.call(&["INFO", "cpu"]);
    let seconds = |field| -> f64 {
        let field = info.field(field).expect("Redis 7 counts by thread");
        field.trim().parse().expect("a number")
    };
    let user = seconds("used_cpu_user_main_thread");
    Duration::from_secs_f64(user + seconds("used_cpu_sys_main_thread"))
}

fn http_cpu(redis: &Redis) {
    let runtime = &client_runtime();
    let url = redis.url();
    let contender_over = |name, target, app, url: &str, keys| {
        let server = Server::start(runtime, &[app, url]);
        let mut console = redis.console();
        Contender::new(name, target, move || {
            let asked = server_cpu(&mut console);
            let own = server.round(runtime, keys);
            let asked = server_cpu(&mut console).saturating_sub(asked);
            [own, asked.as_secs_f64() * 1e9 / REQUESTS as f64]
        })
        .but(1, None)
    };
    let contender = |name, target, app, keys| contender_over(name, target, app, &url, keys);
    let mut contenders = vec![
        contender("plain handler", Baseline, "plain", Fresh),
        contender("first, `cached` 4", None, "cached", Fresh).but(1, Baseline),
        contender("**first, idem**", AtMost(1.9), "idem", Fresh).but(1, AtMost(1.1)),
        contender("replay, `cached` 4", None, "cached", Known),
        contender("**replay, idem**", AtMost(1.3), "idem", Known),
        contender(
            "**replay, idem, local cache**",
            AtMost(0.75),
            "local",
            Known,
        ),
        contender_over(
            "replay, idem, memory store",
            None,
            "idem",
            apps::MEMORY,
            Known,
        ),
    ];
    if cfg!(feature = "peers") {
        contenders.push(contender("first, `idempotent`", None, "idempotent", Fresh));
        contenders.push(contender("replay, `idempotent`", None, "idempotent", Known));
    }
    let [own, asked] = interleave(scaled(31, 5), contenders);
    let title = format!("One request over a socket, {CONNECTIONS} connections");
    let unit = "µs of CPU per request";
    print(&format!("{title}: the HTTP server"), unit, 1000.0, &own);
    print(&format!("{title}: Redis"), unit, 1000.0, &asked);
}

/// The outcome's length.
const BYTES: usize = 200;

fn bytes(redis: &Redis) {
    let mut console = redis.console();
    println!("\n### Bytes of one finished record\n");
    println!("| | outcome | key and value | beside the outcome | target | | `MEMORY USAGE` |");
    println!("|---|---:|---:|---:|---:|---|---:|");

    let value = "o".repeat(BYTES);
    console.call(&["SET", &"k".repeat(48), &value, "PX", "3600000"]);
    weigh(&mut console, "naked `SET`, key of 48 B", BYTES, None);

    let runtime = current_thread();
    runtime.block_on(async {
        let store = RedisStore::connect(&redis.url()).await.expect("a store");
        let claim = &claims(1)[0];
        store.claim(claim).await.expect("an answer");
        let completed = store.complete(&Lease::of(claim, 1), value.into()).await;
        assert_eq!(completed.expect("an answer"), Change::Applied);
    });
    weigh(&mut console, "**idem**", BYTES, AtMost(100.0));

    // Status and headers count as beside the body.
    let connected = runtime.block_on(idem::connect(&redis.url()));
    connected.expect("a store").install().expect("the first");
    let client = Client::new(&runtime, protected_app(), Known);
    let (_, body) = client.lengths();
    weigh(
        &mut console,
        "**idem**, an HTTP answer, of which the body",
        body,
        None,
    );
}

/// Weighs any of the records that are there, which are alike, and forgets them.
fn weigh(console: &mut Console, name: &str, outcome: usize, target: Target) {
    // Of the store, and no record.
    console.call(&["DEL", "idem:format"]);
    let Reply::Bulk(key) = console.call(&["RANDOMKEY"]) else {
        panic!("there is a record");
    };
    let mut ask = |words: &[&[u8]]| match console.call(&[words, &[&key]].concat()) {
        Reply::Integer(number) => usize::try_from(number).expect("a length"),
        other => panic!("{other:?}"),
    };
    let (value, memory) = (ask(&[b"STRLEN"]), ask(&[b"MEMORY", b"USAGE"]));
    console.call(&["FLUSHALL"]);
    let whole = key.len() + value;
    let beside = whole - outcome;
    #[allow(clippy::cast_precision_loss)]
    let (target, verdict) = target.judge(beside as f64);
    println!("| {name} | {outcome} | {whole} | {beside} | {target} | {verdict} | {memory} |");
}
