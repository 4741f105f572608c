//! Disks that are full, and directories that nobody may write to.

use std::process::Command;

use idem::store::{Change, Claim, Claimed, Store};
use idem::stores::memory::MemoryStore;
use idem::stores::sqlite::SqliteStore;
use idem::{ConnectError, Engine, Error, Fingerprint, StoreError};
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;

use crate::file::{ACQUIRED, File, acquire, again, claim, finish, replays};

/// Fills the store until it takes no more. Gives what is running then.
async fn fill(store: &SqliteStore) -> Vec<Claim> {
    let mut running = Vec::new();
    // Here and there a page has room for one more.
    let mut refused = 0;
    while refused < 100 {
        let claim = claim();
        match store.claim(&claim).await {
            Ok(answer) => {
                assert_eq!(answer, ACQUIRED);
                running.push(claim);
                refused = 0;
            }
            Err(StoreError::Full { .. }) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(running.len() < 100_000);
    }
    running
}

#[tokio::test]
async fn a_full_database_takes_nothing_new_and_forgets_nothing() {
    let file = File::new();
    let known = claim();
    finish(&file.store().await, &known, b"outcome").await;
    let limited = file.options().pragma("max_page_count", "30");
    let pool = SqlitePoolOptions::new().connect_lazy_with(limited);
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    let running = fill(&store).await;
    replays(&store, &known, b"outcome").await;
    let first = running[0];
    let duplicate = store.claim(&again(&first)).await.unwrap();
    assert!(matches!(duplicate, Claimed::InFlight { .. }));
    // Too large for what is left; nothing of it stays.
    let outcome = vec![7; 100_000];
    let done = store
        .complete(&idem::store::Lease::of(&first, 1), outcome.into())
        .await;
    assert!(matches!(done, Err(StoreError::Full { .. })), "{done:?}");
    assert_eq!(store.claim(&first).await.unwrap(), ACQUIRED);
    // What makes room goes on.
    for claim in &running {
        let released = store.release(&claim.id, &claim.token).await;
        assert_eq!(released.unwrap(), Change::Applied);
    }
    finish(&store, &first, b"outcome").await;
}

/// A file system of half a mebibyte, where this may be made.
pub(crate) struct Small<'a>(&'a File);

impl<'a> Small<'a> {
    pub(crate) fn mount(file: &'a File) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]);
        let mounted = mount.arg(file.directory()).output();
        mounted
            .is_ok_and(|it| it.status.success())
            .then_some(Self(file))
    }

    fn make_read_only(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,ro"]).arg(self.0.directory());
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        // Also while something is open there.
        let _ = unmount.arg("-l").arg(self.0.directory()).output();
    }
}

#[tokio::test]
async fn on_a_full_disk_calls_fail_and_later_they_do_not() {
    let file = File::new();
    let Some(_small) = Small::mount(&file) else {
        println!("skipped: nothing can be mounted here");
        return;
    };
    let store = file.store().await;
    let known = claim();
    finish(&store, &known, b"outcome").await;
    let ballast = file.directory().join("ballast");
    std::fs::write(&ballast, vec![0; 200_000]).unwrap();
    fill(&store).await;
    replays(&store, &known, b"outcome").await;
    std::fs::remove_file(ballast).unwrap();
    acquire(&store, &claim()).await;
    replays(&store, &known, b"outcome").await;
}

async fn refused(url: &str) -> String {
    let error = SqliteStore::connect(url).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unfit { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn where_no_file_can_be_made_the_error_says_so() {
    let file = File::new();
    let nowhere = file.directory().join("nowhere/idem.db");
    let places = [
        format!("sqlite://{}", nowhere.display()),
        // A directory.
        format!("sqlite://{}", file.directory().display()),
        // Nobody makes files there, not even root.
        "sqlite:///proc/idem.db".to_owned(),
    ];
    for place in places {
        let message = refused(&place).await;
        assert!(message.contains("cannot be opened or created"), "{message}");
        assert!(!message.contains("idem.db"), "{message}");
    }
}

#[tokio::test]
async fn a_database_that_can_only_be_read_is_refused() {
    let file = File::new();
    drop(file.store().await);
    let read_only = file.options().read_only(true);
    let pool = SqlitePoolOptions::new().connect_lazy_with(read_only);
    file.run("DROP TABLE idem_records; DROP TABLE idem_schema")
        .await;
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
    let error = store.claim(&claim()).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn where_nothing_can_be_written_a_finished_record_is_given_back_all_the_same() {
    let file = File::new();
    let (known, running) = (claim(), claim());
    let store = file.store().await;
    finish(&store, &known, b"outcome").await;
    acquire(&store, &running).await;
    let mut other = again(&known);
    other.fingerprint = Fingerprint::of("another").unwrap();

    let read_only = file.options().read_only(true);
    let pool = SqlitePoolOptions::new().connect_lazy_with(read_only);
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    replays(&store, &known, b"outcome").await;
    assert_eq!(store.claim(&other).await.unwrap(), Claimed::Mismatch);
    let duplicate = store.claim(&again(&running)).await.unwrap();
    assert!(matches!(duplicate, Claimed::InFlight { .. }));
    let watch = store.watch(&running.id).await.unwrap();
    assert!(store.inspect(&known.id).await.unwrap().is_some());
    drop(watch);
    let refused = store.claim(&claim()).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn in_a_transaction_where_nothing_can_be_written_a_finished_record_is_given_back() {
    let file = File::new();
    drop(file.store().await);
    let book = async |pool: &SqlitePool, key: &str, value| -> Result<i64, Error> {
        Engine::new(MemoryStore::new())
            .operation("tests.room")
            .transaction(pool)
            .run(key, Fingerprint::of("request").unwrap(), |tx| async move {
                (tx, Ok(value))
            })
            .await
    };
    let pool = SqlitePoolOptions::new().connect_lazy_with(file.options());
    assert_eq!(book(&pool, "known", 1).await.unwrap(), 1);
    let read_only = file.options().read_only(true);
    let read_only = SqlitePoolOptions::new().connect_lazy_with(read_only);
    assert_eq!(book(&read_only, "known", 2).await.unwrap(), 1);
    let refused = book(&read_only, "new", 2).await;
    assert!(
        matches!(refused, Err(Error::Store(StoreError::Rejected { .. }))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn in_a_directory_that_can_only_be_read_no_store_opens() {
    let file = File::new();
    let Some(small) = Small::mount(&file) else {
        println!("skipped: nothing can be mounted here");
        return;
    };
    let store = file.store().await;
    finish(&store, &claim(), b"outcome").await;
    drop(store);
    file.is_closed().await;
    let before = std::fs::read(file.path()).unwrap();
    small.make_read_only();
    let message = refused(&file.url()).await;
    assert!(message.contains("cannot be"), "{message}");
    assert!(std::fs::read(file.path()).unwrap() == before);
}
