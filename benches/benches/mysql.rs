//! The MySQL store against the same writes and reads without it, prepared, over as many connections.
//! Starts a server of its own, a MariaDB with its own settings: every commit is on the disk.

use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::mysql::MySqlStore;
use idem::{Fingerprint, RecordId};
use idem_benches::Target::{Baseline, None};
use idem_benches::crowd::{crowds, paced, two_threads};
use idem_benches::store::{OUTCOME_BYTES, RETENTION};
use idem_benches::{Contender, interleave, print_rates, scaled};
use idem_tests::MariaDb;
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use tokio::runtime::Runtime;

/// What a store opens unless it is told otherwise.
const CONNECTIONS: u32 = 10;

/// Records that replays find.
const FINISHED: u64 = 1000;

/// Callers at once.
const CROWDS: [usize; 3] = [1, 8, 64];

/// How long a contender's turn is.
const TURN: Duration = Duration::from_millis(500);

const BARE: &str = "CREATE TABLE bare (
    id binary(32) PRIMARY KEY,
    gone_at datetime(6) NOT NULL,
    outcome longblob
)";

fn main() {
    let server = MariaDb::start();
    println!("\n{}", server.sql("SELECT VERSION()"));
    let runtime = two_threads();
    let pool = runtime.block_on(bare_pool(&server));
    let store = runtime.block_on(MySqlStore::connect(&server.url()));
    let store = store.expect("a store");
    runtime.block_on(async {
        for number in 0..FINISHED {
            first_call(store.clone(), claim_of(number)).await;
            insert_and_update(pool.clone(), id_of(number)).await;
        }
    });
    for callers in crowds(&CROWDS) {
        let bench = Bench {
            pool: &pool,
            store: &store,
            runtime: &runtime,
            callers,
        };
        bench.first_calls();
        bench.replays();
    }
}

/// Without what the pool itself asks.
async fn bare_pool(server: &MariaDb) -> MySqlPool {
    let pool = MySqlPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(Duration::from_secs(60))
        .test_before_acquire(false)
        .connect(&server.url())
        .await
        .expect("a pool");
    sqlx::raw_sql(BARE).execute(&pool).await.expect("a table");
    pool
}

struct Bench<'a> {
    pool: &'a MySqlPool,
    store: &'a MySqlStore,
    runtime: &'a Runtime,
    callers: usize,
}

impl Bench<'_> {
    fn title(&self, what: &str) -> String {
        format!("{what}, {} at once", self.callers)
    }

    fn first_calls(&self) {
        let contenders = vec![
            Contender::new("`INSERT`, then `UPDATE`, a pool of 10", Baseline, || {
                let pool = self.pool.clone();
                let call = move || insert_and_update(pool.clone(), rand::random());
                [paced(self.runtime, self.callers, TURN, call)]
            }),
            Contender::new("**idem**", None, || {
                let store = self.store.clone();
                let call = move || first_call(store.clone(), claim_of(rand::random()));
                [paced(self.runtime, self.callers, TURN, call)]
            }),
        ];
        let title = self.title("First call: claim and complete");
        let [figures] = interleave(scaled(10, 2), contenders);
        print_rates(&title, &figures);
    }

    fn replays(&self) {
        let contenders = vec![
            Contender::new("`SELECT`, a pool of 10", Baseline, || {
                let pool = self.pool.clone();
                let call = move || select(pool.clone(), id_of(rand::random_range(0..FINISHED)));
                [paced(self.runtime, self.callers, TURN, call)]
            }),
            Contender::new("**idem**", None, || {
                let store = self.store.clone();
                let call = move || {
                    let claim = claim_of(rand::random_range(0..FINISHED));
                    replay(store.clone(), claim)
                };
                [paced(self.runtime, self.callers, TURN, call)]
            }),
        ];
        let [figures] = interleave(scaled(10, 2), contenders);
        print_rates(&self.title("Replay"), &figures);
    }
}

fn id_of(number: u64) -> [u8; 32] {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    id
}

fn claim_of(number: u64) -> Claim {
    Claim::new(
        RecordId::from_bytes(id_of(number)),
        Fingerprint::of("request").expect("text"),
        Duration::from_secs(30),
        RETENTION,
    )
}

async fn first_call(store: MySqlStore, claim: Claim) {
    let claimed = store.claim(&claim).await.expect("an answer");
    assert_eq!(claimed, Claimed::acquired(1));
    let outcome = vec![7; OUTCOME_BYTES].into();
    let change = store.complete(&Lease::of(&claim, 1), outcome).await;
    assert_eq!(change.expect("an answer"), Change::Applied);
}

async fn replay(store: MySqlStore, claim: Claim) {
    match store.claim(&claim).await.expect("an answer") {
        Claimed::Finished { outcome, .. } => assert_eq!(outcome.len(), OUTCOME_BYTES),
        other => panic!("{other:?}"),
    }
}

async fn insert_and_update(pool: MySqlPool, id: [u8; 32]) {
    let insert = "INSERT INTO bare (id, gone_at) VALUES (?, UTC_TIMESTAMP(6) + INTERVAL 1 DAY)";
    let insert = sqlx::query(insert).bind(&id[..]).execute(&pool);
    insert.await.expect("a commit");
    let update =
        "UPDATE bare SET outcome = ?, gone_at = UTC_TIMESTAMP(6) + INTERVAL 1 DAY WHERE id = ?";
    let update = sqlx::query(update)
        .bind(&[7_u8; OUTCOME_BYTES][..])
        .bind(&id[..])
        .execute(&pool);
    update.await.expect("a commit");
}

async fn select(pool: MySqlPool, id: [u8; 32]) {
    let select = "SELECT outcome FROM bare WHERE id = ? AND gone_at > UTC_TIMESTAMP(6)";
    let outcome: Vec<u8> = sqlx::query_scalar(select)
        .bind(&id[..])
        .fetch_one(&pool)
        .await
        .expect("a row");
    assert_eq!(outcome.len(), OUTCOME_BYTES);
}
