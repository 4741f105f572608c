//! Files that are moved, deleted or replaced while a store has them open: two processes that have
//! each a file of their own must not both run a key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::memory::MemoryStore;
use idem::stores::sqlite::SqliteStore;
use idem::{Engine, EngineBuilder, Error, Fingerprint, StoreError};
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, SqlitePool};

use crate::file::{File, acquire, again, claim, complete, finish, replays, whole};

/// The file with its log, under another name.
fn beside(file: &File, name: &str) -> PathBuf {
    file.directory().join(name)
}

const ENDS: [&str; 3] = ["", "-wal", "-shm"];

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

fn move_all(from: &Path, to: &Path) {
    for end in ENDS {
        let _ = std::fs::rename(with_end(from, end), with_end(to, end));
    }
}

fn delete(path: &Path) {
    for end in ENDS {
        let _ = std::fs::remove_file(with_end(path, end));
    }
}

/// A database of its own, closed, with a record.
async fn another(file: &File, name: &str, known: &Claim) -> PathBuf {
    let path = beside(file, name);
    let url = format!("sqlite://{}", path.display());
    finish(
        &SqliteStore::connect(&url).await.unwrap(),
        known,
        b"another's",
    )
    .await;
    idem_tests::wait_until(
        "a closed database",
        Duration::from_secs(60),
        || match with_end(&path, "-wal").exists() {
            true => Err("it is open".to_owned()),
            false => Ok(()),
        },
    );
    path
}

#[track_caller]
fn says(error: &StoreError, what: &str) {
    assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
    let text = whole(error);
    assert!(text.contains(what), "{text}");
    assert!(!text.contains("idem.db"), "{text}");
}

/// Of two processes that claim the same keys each is held by one.
async fn share(one: &SqliteStore, other: &SqliteStore) {
    for _ in 0..100 {
        let claim = claim();
        let (here, there) = (again(&claim), again(&claim));
        let answers = tokio::join!(one.claim(&here), other.claim(&there));
        let acquired = [&answers.0, &answers.1]
            .map(|answer| matches!(answer, Ok(Claimed::Acquired { attempt: 1, .. })));
        assert!(acquired[0] != acquired[1], "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_file_is_away_everything_is_refused_and_when_it_is_back_nothing_is_lost() {
    let file = File::new();
    let store = file.store().await;
    let (known, held) = (claim(), claim());
    finish(&store, &known, b"outcome").await;
    acquire(&store, &held).await;
    let away = beside(&file, "away.db");
    move_all(&file.path(), &away);

    let hint = "moved or deleted while it was open";
    says(&store.claim(&again(&known)).await.unwrap_err(), hint);
    says(&store.claim(&claim()).await.unwrap_err(), hint);
    says(&store.inspect(&held.id).await.unwrap_err(), hint);
    says(&store.renew(&Lease::of(&held, 1)).await.unwrap_err(), hint);
    says(
        &store.release(&held.id, &held.token).await.unwrap_err(),
        hint,
    );
    let engine = EngineBuilder::new(Arc::new(store.clone())).fail_open(true);
    let body = async { panic!("it has no claim") };
    let refused: Result<u32, Error> = engine
        .build()
        .operation("op")
        .run("k", Fingerprint::of("request").unwrap(), body)
        .await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    // Nobody has made a new one.
    assert!(!file.path().exists());

    move_all(&away, &file.path());
    replays(&store, &known, b"outcome").await;
    let renewed = store.renew(&Lease::of(&held, 1)).await.unwrap();
    assert_eq!(renewed, Change::Applied);
    complete(&store, &held, b"outcome").await;
    replays(&file.store().await, &held, b"outcome").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_another_file_was_put_in_its_place_two_processes_share_that_one() {
    let file = File::new();
    let store = file.store().await;
    let known = claim();
    finish(&store, &known, b"outcome").await;
    // Every reader has a connection, and somebody watches.
    let held = claim();
    acquire(&store, &held).await;
    let watch = store.watch(&held.id).await.unwrap();
    let reads = (0..64).map(|_| replays(&store, &known, b"outcome"));
    futures_util::future::join_all(reads).await;

    let theirs = claim();
    let other = another(&file, "other.db", &theirs).await;
    delete(&file.path());
    std::fs::rename(other, file.path()).unwrap();
    let beside = file.store().await;
    watch.await;
    replays(&store, &theirs, b"another's").await;
    share(&store, &beside).await;
    share(&beside, &store).await;
    // The old one's owner lives, and its record is there again.
    let renewed = store.renew(&Lease::of(&held, 1)).await.unwrap();
    assert_eq!(renewed, Change::Applied);
    let duplicate = beside.claim(&again(&held)).await.unwrap();
    assert!(
        matches!(duplicate, Claimed::InFlight { .. }),
        "{duplicate:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_it_was_deleted_and_made_anew_two_processes_share_the_new_one() {
    let file = File::new();
    let store = file.store().await;
    finish(&store, &claim(), b"outcome").await;
    delete(&file.path());
    let error = store.claim(&claim()).await.unwrap_err();
    says(&error, "moved or deleted");
    let beside = file.store().await;
    share(&store, &beside).await;
    drop(beside);
    share(&store, &file.store().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_without_the_tables_is_not_used_and_stays_as_it_is() {
    for theirs in ["", "a letter to somebody"] {
        let file = File::new();
        let store = file.store().await;
        finish(&store, &claim(), b"outcome").await;
        let away = beside(&file, "away.db");
        move_all(&file.path(), &away);
        std::fs::write(file.path(), theirs.repeat(1000)).unwrap();
        for _ in 0..2 {
            let error = store.claim(&claim()).await.unwrap_err();
            says(&error, "it has no tables that the store can use");
        }
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            theirs.repeat(1000)
        );
        move_all(&away, &file.path());
        acquire(&store, &claim()).await;
    }
}

async fn is_written_to(connection: &mut SqliteConnection) -> bool {
    let begun = sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK");
    begun.execute(connection).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_went_to_the_old_file_is_not_acknowledged() {
    let file = File::new();
    // Nobody but the claim writes.
    let builder = SqliteStore::builder(&file.url()).unwrap();
    let store = builder.sweep_every(None).connect().await.unwrap();
    acquire(&store, &claim()).await;
    let other = another(&file, "other.db", &claim()).await;
    file.run(
        "CREATE TRIGGER slow BEFORE INSERT ON idem_records BEGIN
           SELECT count(*) FROM (WITH RECURSIVE n(i) AS
             (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000000) SELECT i FROM n); END",
    )
    .await;
    let options = file.options().busy_timeout(Duration::ZERO);
    let mut old = options.connect().await.unwrap();
    let claim = claim();
    let claiming = tokio::spawn({
        let store = store.clone();
        async move { store.claim(&claim).await }
    });
    // Seen once, it may be a connection that opens or closes. The claim holds its lock for seconds.
    let mut seen = 0;
    while seen < 100 {
        seen = match is_written_to(&mut old).await {
            true => seen + 1,
            false => 0,
        };
    }
    delete(&file.path());
    std::fs::rename(other, file.path()).unwrap();
    assert!(
        is_written_to(&mut old).await,
        "the claim was written too early"
    );

    let answer = claiming.await.unwrap();
    assert!(
        matches!(&answer, Err(error @ StoreError::Unavailable { .. })
            if whole(error).contains("this call went to the old one")),
        "{answer:?}"
    );
    let beside = file.store().await;
    assert_eq!(beside.inspect(&claim.id).await.unwrap(), None);
    // Sent again, as the engine does.
    acquire(&store, &claim).await;
    let duplicate = beside.claim(&again(&claim)).await.unwrap();
    assert!(
        matches!(duplicate, Claimed::InFlight { .. }),
        "{duplicate:?}"
    );
}

async fn book(pool: &SqlitePool, key: &str) -> Result<i64, Error> {
    Engine::new(MemoryStore::new())
        .operation("tests.replaced")
        .transaction(pool)
        .run(key, Fingerprint::of("request").unwrap(), |tx| async move {
            (tx, Ok(1))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applications_pool_over_the_old_file_begins_nothing_and_another_pool_does() {
    let file = File::new();
    drop(file.store().await);
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    assert_eq!(book(&pool, "first").await.unwrap(), 1);
    let other = another(&file, "other.db", &claim()).await;
    delete(&file.path());
    for _ in 0..2 {
        let Err(Error::Store(error)) = book(&pool, "second").await else {
            panic!("it ran in a file that is nobody's");
        };
        says(&error, "close the pool and open another");
    }
    std::fs::rename(other, file.path()).unwrap();
    let Err(Error::Store(error)) = book(&pool, "second").await else {
        panic!("it ran in a file that is nobody's");
    };
    says(&error, "close the pool and open another");
    pool.close().await;
    drop(pool);
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    assert_eq!(book(&pool, "second").await.unwrap(), 1);
}
