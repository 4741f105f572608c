//! Who goes first where many wait, and who is refused.

use std::time::Duration;

use futures_util::FutureExt;
use idem::StoreError;
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::sqlite::SqliteStore;
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions};
use tokio::task::JoinSet;

use crate::file::{ACQUIRED, File, acquire, claim, complete, finish, replays};
use crate::holder::Holder;

/// Longer than any test.
const PATIENT: Duration = Duration::from_secs(600);

/// Which change was made after which, as a trigger sees it.
const LOG: &str = "
    CREATE TABLE log (what TEXT NOT NULL);
    CREATE TRIGGER claims AFTER INSERT ON idem_records
        BEGIN INSERT INTO log VALUES ('claim'); END;
    CREATE TRIGGER ends AFTER DELETE ON idem_records
        BEGIN INSERT INTO log VALUES ('end'); END;
    CREATE TRIGGER changes AFTER UPDATE ON idem_records
        BEGIN INSERT INTO log SELECT
            iif(new.outcome IS NOT NULL OR new.token IS NULL, 'end', 'renewal'); END;
";

async fn patient(file: &File, max_waiting: usize) -> SqliteStore {
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let builder = builder.busy_timeout(PATIENT).max_waiting(max_waiting);
    builder.connect().await.unwrap()
}

type Claims = JoinSet<(Claim, Result<Claimed, StoreError>)>;

/// How many claims wait to be written if nobody says otherwise, and how many calls read beside as
/// many that wait for it.
const MAX_WAITING: usize = 4096;
const READERS: usize = 4;

fn claims(store: &SqliteStore, count: usize) -> Claims {
    let mut claims = Claims::new();
    for _ in 0..count {
        let (store, claim) = (store.clone(), claim());
        claims.spawn(async move {
            let answer = store.claim(&claim).await;
            (claim, answer)
        });
    }
    claims
}

/// As many claims as there are places, and one that is refused: all others are in the queue then.
async fn fill_the_queue(store: &SqliteStore, places: usize) -> Claims {
    let mut claims = claims(store, places + 1);
    let (_, answer) = claims.join_next().await.unwrap().unwrap();
    assert!(
        matches!(answer, Err(StoreError::Overloaded { store: "sqlite" })),
        "{answer:?}"
    );
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_lease_goes_before_those_who_want_one() {
    const WAITING: usize = 1000;
    let file = File::new();
    let store = patient(&file, WAITING).await;
    let [renewed, completed, released, abandoned] = [claim(), claim(), claim(), claim()];
    for claim in [&renewed, &completed, &released, &abandoned] {
        acquire(&store, claim).await;
    }
    file.run(LOG).await;
    let holder = Holder::of_the_write_lock(&file);
    let claims = fill_the_queue(&store, WAITING).await;

    // Asked for in the wrong order, and long after the claims.
    let lease = Lease::of(&renewed, 1);
    let done = Lease::of(&completed, 1);
    let mut ends = [
        store.abandon(&abandoned.id, &abandoned.token),
        store.release(&released.id, &released.token),
        store.complete(&done, "done".into()),
        store.renew(&lease),
    ];
    for end in &mut ends {
        assert!(end.now_or_never().is_none());
    }
    holder.unlock();
    for change in futures_util::future::join_all(ends).await {
        assert_eq!(change.unwrap(), Change::Applied);
    }
    for (_, answer) in claims.join_all().await {
        assert_eq!(answer.unwrap(), ACQUIRED);
    }

    let mut connection = file.connection().await;
    let log: Vec<String> = sqlx::query_scalar("SELECT what FROM log ORDER BY rowid")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    // Behind the one transaction at most that was on its way when they came.
    let before = log.iter().position(|what| what != "claim").unwrap();
    assert!(before <= 128, "{before} claims went before");
    assert_eq!(log[before..before + 4], ["renewal", "end", "end", "end"]);
    assert_eq!(log.len(), 4 + WAITING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_finds_the_queue_full_is_refused_at_once_and_nobody_else() {
    let file = File::new();
    let store = patient(&file, 8).await;
    let (held, known) = (claim(), claim());
    acquire(&store, &held).await;
    finish(&store, &known, b"outcome").await;
    let holder = Holder::of_the_write_lock(&file);
    let claims = fill_the_queue(&store, 8).await;

    let refused = claim();
    for _ in 0..100 {
        let answer = store.claim(&refused).await;
        assert!(
            matches!(answer, Err(StoreError::Overloaded { .. })),
            "{answer:?}"
        );
    }
    let answer = store.sweep(1).await;
    assert!(
        matches!(answer, Err(StoreError::Overloaded { .. })),
        "{answer:?}"
    );
    // What needs no write is answered, and a holder waits for its turn.
    replays(&store, &known, b"outcome").await;
    let lease = Lease::of(&held, 1);
    let mut renewal = store.renew(&lease);
    assert!((&mut renewal).now_or_never().is_none());
    holder.unlock();
    assert_eq!(renewal.await.unwrap(), Change::Applied);
    for (claim, answer) in claims.join_all().await {
        assert_eq!(answer.unwrap(), ACQUIRED);
        complete(&store, &claim, b"outcome").await;
    }
    assert_eq!(store.inspect(&refused.id).await.unwrap(), None);
    acquire(&store, &refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_give_their_places_to_others_and_nothing_is_written_for_them() {
    let file = File::new();
    let store = patient(&file, 8).await;
    let holder = Holder::of_the_write_lock(&file);
    fill_the_queue(&store, 8).await.shutdown().await;
    let others = loop {
        // The writer notices by and by.
        let mut others = claims(&store, 8);
        let refused = tokio::time::timeout(Duration::from_millis(100), others.join_next());
        match refused.await {
            Ok(refused) => {
                let (_, answer) = refused.unwrap().unwrap();
                assert!(
                    matches!(answer, Err(StoreError::Overloaded { .. })),
                    "{answer:?}"
                );
                others.shutdown().await;
            }
            Err(_) => break others,
        }
    };
    holder.unlock();
    let answers = others.join_all().await;
    let acquired = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    let records = file.number("SELECT count(*) FROM idem_records").await;
    assert_eq!(usize::try_from(records).unwrap(), acquired);
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_wait_in_a_queue_with_a_bound_too_and_holders_beside_it() {
    let file = File::new();
    let options = file.options().create_if_missing(true);
    let options = options
        .journal_mode(SqliteJournalMode::Delete)
        .busy_timeout(PATIENT);
    let pool = SqlitePoolOptions::new().connect_lazy_with(options);
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    store.migrate().await.unwrap();
    pool.close().await;
    let held = claim();
    acquire(&store, &held).await;
    // Without a write-ahead log nobody reads while somebody has the file for itself.
    let holder = Holder::start(&file, "BEGIN EXCLUSIVE");
    let claims = fill_the_queue(&store, MAX_WAITING + READERS).await;
    let answer = store.inspect(&held.id).await;
    assert!(
        matches!(answer, Err(StoreError::Overloaded { .. })),
        "{answer:?}"
    );
    let answer = store.watch(&held.id).await;
    assert!(
        matches!(answer, Err(StoreError::Overloaded { .. })),
        "{answer:?}"
    );
    let lease = Lease::of(&held, 1);
    let mut renewal = store.renew(&lease);
    assert!((&mut renewal).now_or_never().is_none());
    holder.unlock();
    assert_eq!(renewal.await.unwrap(), Change::Applied);
    for (_, answer) in claims.join_all().await {
        assert_eq!(answer.unwrap(), ACQUIRED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_holder_only_the_time_of_a_lock_counts() {
    let file = File::new();
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let store = builder
        .busy_timeout(Duration::from_millis(300))
        .max_waiting(usize::MAX)
        .connect()
        .await
        .unwrap();
    let held = claim();
    acquire(&store, &held).await;
    // Each takes its time: a thousand of them take much longer than the timeout.
    file.run(
        "CREATE TRIGGER slow BEFORE INSERT ON idem_records BEGIN
           SELECT count(*) FROM (WITH RECURSIVE n(i) AS
             (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n); END",
    )
    .await;
    let mut claims = JoinSet::new();
    for _ in 0..1000 {
        let store = store.clone();
        claims.spawn(async move { store.claim(&claim()).await });
    }
    let lease = Lease::of(&held, 1);
    while !claims.is_empty() {
        assert_eq!(store.renew(&lease).await.unwrap(), Change::Applied);
        while let Some(answer) = claims.try_join_next() {
            match answer.unwrap() {
                Ok(answer) => assert_eq!(answer, ACQUIRED),
                Err(error) => assert!(matches!(error, StoreError::NotSent { .. }), "{error:?}"),
            }
        }
    }
}
