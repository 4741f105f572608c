//! The Postgres store against the server's own client, which sends the same statements; and an
//! operation in the application's transaction against that transaction alone. Starts a server of
//! its own, with the settings that PostgreSQL comes with: every commit is on the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::memory::MemoryStore;
use idem::stores::postgres::PostgresStore;
use idem::{Engine, Fingerprint, RecordId};
use idem_benches::Target::{AtLeast, Baseline, None};
use idem_benches::business::{Work, postgres as business};
use idem_benches::crowd::{crowds, paced, two_threads};
use idem_benches::store::{OUTCOME_BYTES, RETENTION};
use idem_benches::{Contender, interleave, pgbench, print_rates, scaled};
use idem_tests::Postgres;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection, PgPool, Row};
use tokio::runtime::Runtime;

/// What a store opens unless it is told otherwise.
const DEFAULT_CONNECTIONS: usize = 10;

/// Records that replays find.
const FINISHED: u64 = 10_000;

/// Callers at once.
const CROWDS: [usize; 2] = [1, 64];

/// How long a contender's turn is; pgbench's is a second, which it counts, and one more.
const TURN: Duration = Duration::from_millis(700);
const ROUNDS: usize = 3;

fn main() {
    // Both sides keep their connections.
    let builder = Postgres::builder().setting("max_connections", "250");
    let postgres = builder.start();
    println!("\nPostgreSQL {}", postgres.psql("SHOW server_version"));
    let runtime = two_threads();
    for callers in crowds(&CROWDS) {
        let bench = Bench {
            postgres: &postgres,
            runtime: &runtime,
            callers,
        };
        bench.replays();
        bench.first_calls();
        for work in [Work::Insert, Work::UpdateAndInsert] {
            bench.transactions(work);
        }
    }
}

struct Bench<'a> {
    postgres: &'a Postgres,
    runtime: &'a Runtime,
    callers: usize,
}

impl Bench<'_> {
    fn title(&self, what: &str) -> String {
        format!("{what}, {} at once", self.callers)
    }

    fn store(&self, connections: usize) -> PostgresStore {
        let builder = PostgresStore::builder(&self.postgres.url()).expect("a URL");
        let connected = builder.max_connections(connections).connect();
        self.runtime.block_on(connected).expect("a store")
    }

    fn pgbench(&self, script: &str) -> [f64; 1] {
        [pgbench::paced(self.postgres, self.callers, script)]
    }

    /// The stores that are measured: with as many connections as pgbench has, and as it is.
    fn stores(&self, least: f64) -> Vec<(String, idem_benches::Target, PostgresStore)> {
        let callers = self.callers;
        let name = format!("**idem**, {callers} connections");
        let mut stores = vec![(name, AtLeast(least), self.store(callers))];
        if callers > DEFAULT_CONNECTIONS {
            let name = format!("idem, {DEFAULT_CONNECTIONS} connections, as it is");
            stores.push((name, None, self.store(DEFAULT_CONNECTIONS)));
        }
        stores
    }

    fn first_calls(&self) {
        let script = format!(
            "\\set n random(1000000, 9000000000000000000)\n{}{}",
            pgbench::claim(),
            pgbench::complete()
        );
        let mut contenders = vec![Contender::new("`pgbench`", Baseline, move || {
            self.pgbench(&script)
        })];
        for (name, target, store) in self.stores(0.95) {
            contenders.push(Contender::new(name, target, move || {
                let store = store.clone();
                let call = move || first_call(store.clone(), claim_of(rand::random()));
                [paced(self.runtime, self.callers, TURN, call)]
            }));
        }
        let title = self.title("First call: claim and complete");
        let [figures] = interleave(scaled(ROUNDS, 1), contenders);
        print_rates(&title, &figures);
    }

    fn replays(&self) {
        let store = self.store(8);
        // Every crowd begins with as many rows.
        self.postgres.psql("TRUNCATE idem_records");
        self.runtime.block_on(async {
            let tasks = (0..8).map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in (task..FINISHED).step_by(8) {
                        first_call(store.clone(), claim_of(number)).await;
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.expect("it succeeds");
            }
        });
        self.postgres.psql("VACUUM ANALYZE idem_records");

        let random = format!("\\set n random(0, {})\n", FINISHED - 1);
        let claim = format!("{random}{}", pgbench::claim());
        let select = format!("{random}{}", pgbench::select());
        let lines = self.runtime.block_on(self.lines());
        let mut contenders = vec![
            Contender::new("`pgbench`", Baseline, move || self.pgbench(&claim)),
            Contender::new("`sqlx`, the same statement and no more", None, move || {
                let lines = Arc::clone(&lines);
                let call = move || bare_replay(Arc::clone(&lines));
                [paced(self.runtime, self.callers, TURN, call)]
            }),
            Contender::new("`pgbench`, naked `SELECT` by the key", None, move || {
                self.pgbench(&select)
            }),
        ];
        for (name, target, store) in self.stores(0.9) {
            contenders.push(Contender::new(name, target, move || {
                let store = store.clone();
                let call = move || replay(store.clone(), claim_of(rand::random_range(0..FINISHED)));
                [paced(self.runtime, self.callers, TURN, call)]
            }));
        }
        let title = self.title("Replay: claim");
        let [figures] = interleave(scaled(ROUNDS, 1), contenders);
        print_rates(&title, &figures);
    }

    /// A connection for each caller, as the store sets up its own.
    async fn lines(&self) -> Lines {
        let mut lines = Vec::new();
        for _ in 0..self.callers {
            let line = PgConnection::connect(&self.postgres.url()).await;
            let mut line = line.expect("a connection");
            sqlx::raw_sql("SET enable_seqscan = off; SET jit = off")
                .execute(&mut line)
                .await
                .expect("settings");
            lines.push(line);
        }
        Arc::new(Mutex::new(lines))
    }

    fn transactions(&self, work: Work) {
        let pool = self.runtime.block_on(self.application());
        let operation = Engine::new(MemoryStore::new()).operation("bench");
        let (own, by_hand, both) = (pool.clone(), pool.clone(), pool);
        let contenders = vec![
            Contender::new("the transaction alone", None, move || {
                let pool = own.clone();
                let call = move || business::alone(pool.clone(), work);
                [paced(self.runtime, self.callers, TURN, call)]
            }),
            Contender::new("one more `INSERT`, unprotected", Baseline, move || {
                let pool = by_hand.clone();
                let call = move || business::by_hand(pool.clone(), work);
                [paced(self.runtime, self.callers, TURN, call)]
            }),
            Contender::new("**idem: with its record**", AtLeast(0.8), move || {
                let (operation, pool) = (operation.clone(), both.clone());
                let call = move || business::once(operation.clone(), pool.clone(), work);
                [paced(self.runtime, self.callers, TURN, call)]
            }),
        ];
        let title = self.title(&format!("A transaction of {}", work.name()));
        let [figures] = interleave(scaled(ROUNDS, 1), contenders);
        print_rates(&title, &figures);
    }

    /// The application's pool, with its tables as they are at first.
    async fn application(&self) -> PgPool {
        let connections = u32::try_from(self.callers).expect("a few");
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .connect(&self.postgres.url())
            .await
            .expect("a pool");
        sqlx::raw_sql("DROP TABLE IF EXISTS accounts, entries, outcomes; TRUNCATE idem_records")
            .execute(&pool)
            .await
            .expect("it is dropped");
        business::prepare(&pool).await;
        sqlx::raw_sql("VACUUM ANALYZE accounts")
            .execute(&pool)
            .await
            .expect("it is analyzed");
        pool
    }
}

/// As pgbench names it.
fn claim_of(number: u64) -> Claim {
    let id: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
    Claim::new(
        RecordId::from_bytes(id),
        Fingerprint::from_bytes([1; 33]),
        Duration::from_secs(30),
        RETENTION,
    )
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).expect("less than many years")
}

type Lines = Arc<Mutex<Vec<PgConnection>>>;

fn free(lines: &Lines) -> MutexGuard<'_, Vec<PgConnection>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the driver costs, and the runtime.
async fn bare_replay(lines: Lines) {
    let claim = claim_of(rand::random_range(0..FINISHED));
    let mut line = free(&lines).pop().expect("one for each caller");
    let row = sqlx::query(pgbench::CLAIM)
        .bind("claim 2")
        .bind(claim.id.as_bytes())
        .bind(claim.fingerprint.to_bytes())
        .bind(claim.token.as_bytes())
        .bind(micros(claim.lease))
        .bind(micros(claim.retention))
        .bind(true)
        .bind(&b"bench"[..])
        .fetch_one(&mut line);
    let row = row.await.expect("an answer");
    let outcome: &[u8] = row.get("outcome");
    assert_eq!(outcome.len(), OUTCOME_BYTES);
    free(&lines).push(line);
}

async fn first_call(store: PostgresStore, claim: Claim) {
    let claimed = store.claim(&claim).await.expect("an answer");
    assert_eq!(claimed, Claimed::acquired(1));
    let outcome = vec![7; OUTCOME_BYTES].into();
    let lease = Lease::of(&claim, 1);
    let completed = store.complete(&lease, outcome);
    assert_eq!(completed.await.expect("an answer"), Change::Applied);
}

async fn replay(store: PostgresStore, claim: Claim) {
    let claimed = store.claim(&claim).await.expect("an answer");
    assert!(matches!(claimed, Claimed::Finished { .. }), "{claimed:?}");
}
