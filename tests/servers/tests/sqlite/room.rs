//! Disks that are full, and directories that nobody may write to.

use std::process::Command;

use idem::stores::sqlite::SqliteStore;
use idem::{Change, Claimed, ConnectError, Store, StoreError};
use sqlx::sqlite::SqlitePoolOptions;

use crate::file::{ACQUIRED, File, acquire, again, claim, finish, replays};

/// Fills the store until it takes no more. Gives what was running then.
async fn fill(store: &SqliteStore) -> idem::Claim {
    let running = claim();
    acquire(store, &running).await;
    for _ in 0..100_000 {
        match store.claim(&claim()).await {
            Ok(answer) => assert_eq!(answer, ACQUIRED),
            Err(StoreError::Full { .. }) => return running,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("there is always room");
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
    for _ in 0..10 {
        let refused = store.claim(&claim()).await;
        assert!(
            matches!(refused, Err(StoreError::Full { .. })),
            "{refused:?}"
        );
    }
    replays(&store, &known, b"outcome").await;
    let duplicate = store.claim(&again(&running)).await.unwrap();
    assert!(matches!(duplicate, Claimed::InFlight { .. }));
    // Too large for what is left; nothing of it stays.
    let outcome = vec![7; 100_000];
    let done = store
        .complete(
            &running.id,
            &running.token,
            outcome.into(),
            running.retention,
        )
        .await;
    assert!(matches!(done, Err(StoreError::Full { .. })), "{done:?}");
    assert_eq!(store.claim(&running).await.unwrap(), ACQUIRED);
    // What makes room goes on.
    let released = store.release(&running.id, &running.token).await;
    assert_eq!(released.unwrap(), Change::Applied);
    acquire(&store, &claim()).await;
}

/// A file system of half a mebibyte, where this may be made.
struct Small<'a>(&'a File);

impl<'a> Small<'a> {
    fn mount(file: &'a File) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]);
        let mounted = mount.arg(file.directory()).output();
        mounted
            .is_ok_and(|it| it.status.success())
            .then_some(Self(file))
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
