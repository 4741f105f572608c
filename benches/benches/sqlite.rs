//! The SQLite store against the same two writes without it, and an operation in the
//! application's transaction against that transaction alone. Every commit is on the disk.

use std::sync::Arc;
use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::memory::MemoryStore;
use idem::stores::sqlite::SqliteStore;
use idem::{Engine, Fingerprint, RecordId};
use idem_benches::Target::{AtLeast, Baseline, None};
use idem_benches::business::{Work, sqlite as business};
use idem_benches::crowd::{crowds, offered, paced, two_threads};
use idem_benches::store::{OUTCOME_BYTES, RETENTION};
use idem_benches::{Contender, interleave, print_rates, scaled};
use idem_tests::TempDir;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::runtime::Runtime;

/// What a pool of the driver's opens unless it is told otherwise.
const DEFAULT_CONNECTIONS: u32 = 10;

/// Callers at once.
const CROWDS: [usize; 3] = [1, 8, 64];

/// How long a contender's turn is: short, as disks have moods.
const TURN: Duration = Duration::from_millis(300);

fn main() {
    let runtime = two_threads();
    offered_load(&runtime);
    for callers in crowds(&CROWDS) {
        let directory = TempDir::new("bench");
        let bench = Bench {
            directory: &directory,
            runtime: &runtime,
            callers,
        };
        bench.first_calls();
        for work in [Work::Insert, Work::UpdateAndInsert] {
            bench.transactions(work);
        }
    }
}

/// More callers than can be served: what is completed stays what it was, and who holds a lease does
/// not notice.
fn offered_load(runtime: &Runtime) {
    println!("\n### Offered load: first calls, while 50 leases are renewed all the time\n");
    println!(
        "| callers at once | completed per second | refused per second | longest renewal | leases lost |"
    );
    println!("|---|---|---|---|---|");
    for callers in [1, 8, 64, 512, 4096, 20_000] {
        let directory = TempDir::new("bench");
        let url = format!("sqlite://{}", directory.path().join("idem.db").display());
        let store = runtime.block_on(SqliteStore::connect(&url));
        let store: Arc<dyn Store> = Arc::new(store.expect("a store"));
        let load = offered(
            runtime,
            &store,
            callers,
            Duration::from_secs(scaled(3, 1) as u64),
        );
        println!(
            "| {callers} | {:.0} | {:.0} | {:.0?} | {} |",
            load.completed, load.refused, load.longest_renewal, load.lost
        );
    }
}

struct Bench<'a> {
    directory: &'a TempDir,
    runtime: &'a Runtime,
    callers: usize,
}

impl Bench<'_> {
    fn title(&self, what: &str) -> String {
        format!("{what}, {} at once", self.callers)
    }

    /// A pool over a file, as durable as the store.
    async fn pool(&self, file: &str, connections: u32) -> SqlitePool {
        let options = SqliteConnectOptions::new()
            .filename(self.directory.path().join(file))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(60));
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options)
            .await
            .expect("a pool")
    }

    fn first_calls(&self) {
        let bare = |name: &'static str, target, connections| {
            let pool = self.runtime.block_on(async {
                let file = format!("bare-{connections}.db");
                let pool = self.pool(&file, connections).await;
                sqlx::raw_sql(BARE).execute(&pool).await.expect("a table");
                pool
            });
            Contender::new(name, target, move || {
                let pool = pool.clone();
                let call = move || insert_and_update(pool.clone());
                [paced(self.runtime, self.callers, TURN, call)]
            })
        };
        let mut contenders = vec![bare("`INSERT`, then `UPDATE`, one connection", Baseline, 1)];
        if self.callers > 1 {
            contenders.push(bare(
                "`INSERT`, then `UPDATE`, a pool of 10",
                None,
                DEFAULT_CONNECTIONS,
            ));
        }
        let path = self.directory.path().join("idem.db");
        let url = format!("sqlite://{}", path.display());
        let store = SqliteStore::connect(&url);
        let store = self.runtime.block_on(store).expect("a store");
        contenders.push(Contender::new("**idem**", None, move || {
            let store = store.clone();
            let call = move || first_call(store.clone());
            [paced(self.runtime, self.callers, TURN, call)]
        }));
        let title = self.title("First call: claim and complete");
        let [figures] = interleave(scaled(7, 2), contenders);
        print_rates(&title, &figures);
    }

    fn transactions(&self, work: Work) {
        let pool = self.runtime.block_on(async {
            let file = format!("{work:?}.db");
            let pool = self.pool(&file, DEFAULT_CONNECTIONS).await;
            let store = SqliteStore::from_pool(&pool).await.expect("a store");
            store.migrate().await.expect("tables");
            business::prepare(&pool).await;
            pool
        });
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
        let [figures] = interleave(scaled(7, 2), contenders);
        print_rates(&title, &figures);
    }
}

/// What somebody would keep who has no leases.
const BARE: &str = "CREATE TABLE bare
    (id BLOB NOT NULL PRIMARY KEY, fingerprint BLOB NOT NULL, gone_at INTEGER NOT NULL, outcome BLOB)";

async fn insert_and_update(pool: SqlitePool) {
    let id: [u8; 32] = rand::random();
    sqlx::query("INSERT INTO bare (id, fingerprint, gone_at) VALUES (?, ?, ?)")
        .bind(&id[..])
        .bind(&[1; 33][..])
        .bind(1)
        .execute(&pool)
        .await
        .expect("an insertion");
    sqlx::query("UPDATE bare SET outcome = ?, gone_at = ? WHERE id = ?")
        .bind(&[7_u8; OUTCOME_BYTES][..])
        .bind(2)
        .bind(&id[..])
        .execute(&pool)
        .await
        .expect("an update");
}

async fn first_call(store: SqliteStore) {
    let claim = Claim::new(
        RecordId::from_bytes(rand::random()),
        Fingerprint::from_bytes([1; 33]),
        Duration::from_secs(30),
        RETENTION,
    );
    let claimed = store.claim(&claim).await.expect("an answer");
    assert_eq!(claimed, Claimed::acquired(1));
    let outcome = vec![7; OUTCOME_BYTES].into();
    let lease = Lease::of(&claim, 1);
    let completed = store.complete(&lease, outcome);
    assert_eq!(completed.await.expect("an answer"), Change::Applied);
}
