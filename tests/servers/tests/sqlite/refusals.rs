//! What SQLite refuses, and what that is to the engine: only an outage lets a body run without its
//! claim, and only where the engine fails open.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::store::{Lease, Store};
use idem::stores::sqlite::SqliteStore;
use idem::{EngineBuilder, Error, Fingerprint, StoreError};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

use crate::file::{File, acquire, again, claim, finish, replays, whole};
use crate::holder::Holder;
use crate::room::Small;

/// The variant's name.
fn kind(error: &StoreError) -> String {
    let shown = format!("{error:?}");
    shown.split([' ', '{']).next().unwrap().to_owned()
}

/// How a first call fails, and how often its body runs where the engine fails open.
async fn first_call(store: &SqliteStore) -> (String, u32) {
    let mut kinds = Vec::new();
    let runs = AtomicU32::new(0);
    for fail_open in [false, true] {
        let builder = EngineBuilder::new(Arc::new(store.clone())).fail_open(fail_open);
        let operation = builder.build().operation("tests.refusals");
        let body = async {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Error>(1)
        };
        let key = format!("{:032x}", rand::random::<u128>());
        let answer = operation
            .run(&key, Fingerprint::of("request").unwrap(), body)
            .await;
        match answer {
            Err(Error::Store(error)) => kinds.push(kind(&error)),
            Ok(1) if fail_open => {}
            other => panic!("{other:?}"),
        }
        if !fail_open {
            assert_eq!(runs.load(Ordering::SeqCst), 0);
        }
    }
    let error = store.claim(&claim()).await.unwrap_err();
    kinds.push(kind(&error));
    kinds.dedup();
    assert_eq!(kinds.len(), 1, "{kinds:?}");
    assert!(!whole(&error).contains("idem.db"), "{error:?}");
    (kinds.remove(0), runs.into_inner())
}

#[track_caller]
fn is_refused((kind, runs): (String, u32), expected: &str) {
    assert_eq!((&*kind, runs), (expected, 0));
}

#[track_caller]
fn is_an_outage((kind, runs): (String, u32), expected: &str) {
    assert_eq!((&*kind, runs), (expected, 1));
}

/// A store over a pool that opens connections like this. None is open now.
async fn over(options: SqliteConnectOptions) -> SqliteStore {
    let options = options.busy_timeout(Duration::from_millis(300));
    let pool = SqlitePoolOptions::new().connect_lazy_with(options);
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    pool.close().await;
    store
}

async fn made() -> File {
    let file = File::new();
    drop(file.store().await);
    file.is_closed().await;
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_busy_and_no_outage() {
    let file = made().await;
    let store = over(file.options()).await;
    let held = claim();
    acquire(&store, &held).await;
    // Also where it is waited for as long as others of this process are.
    let patient = file.store().await;
    let holder = Holder::of_the_write_lock(&file);
    for store in [&store, &patient] {
        is_refused(first_call(store).await, "Busy");
        // A holder is told the same.
        let error = store.renew(&Lease::of(&held, 1)).await.unwrap_err();
        assert_eq!(kind(&error), "Busy");
    }
    holder.unlock();
    acquire(&patient, &claim()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_keeps_from_reading_is_busy_and_no_outage() {
    let file = made().await;
    file.run("PRAGMA journal_mode = DELETE").await;
    let options = file.options().journal_mode(SqliteJournalMode::Delete);
    let store = over(options).await;
    let holder = Holder::start(&file, "BEGIN EXCLUSIVE");
    is_refused(first_call(&store).await, "Busy");
    holder.unlock();
    acquire(&store, &claim()).await;
}

#[tokio::test]
async fn a_database_at_its_bound_is_full() {
    let file = made().await;
    let store = over(file.options().pragma("max_page_count", "12")).await;
    while store.claim(&claim()).await.is_ok() {}
    is_an_outage(first_call(&store).await, "Full");
}

#[tokio::test]
async fn a_database_that_is_only_read_refuses() {
    let file = made().await;
    let store = over(file.options().read_only(true)).await;
    is_refused(first_call(&store).await, "Rejected");
}

#[tokio::test]
async fn tables_that_are_missing_renamed_or_changed_refuse() {
    let changes = [
        "DROP TABLE idem_records",
        "ALTER TABLE idem_records RENAME TO theirs",
        "ALTER TABLE idem_schema RENAME COLUMN clock_offset_ms TO offset",
        "ALTER TABLE idem_records RENAME COLUMN gone_at TO gone",
        "ALTER TABLE idem_records ADD COLUMN theirs TEXT NOT NULL DEFAULT 'x' CHECK (theirs <> 'x')",
    ];
    for change in changes {
        let file = made().await;
        let store = over(file.options()).await;
        file.run(change).await;
        is_refused(first_call(&store).await, "Rejected");
    }
}

#[tokio::test]
async fn a_trigger_that_raises_refuses() {
    for raises in ["ABORT", "FAIL", "ROLLBACK"] {
        let file = made().await;
        let store = over(file.options()).await;
        file.run(&format!(
            "CREATE TRIGGER theirs BEFORE INSERT ON idem_records BEGIN
               SELECT RAISE({raises}, 'as the test asked'); END"
        ))
        .await;
        is_refused(first_call(&store).await, "Rejected");
        file.run("DROP TRIGGER theirs").await;
        acquire(&store, &claim()).await;
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_unreadable_and_no_outage() {
    let file = made().await;
    let store = over(file.options()).await;
    let known = claim();
    finish(&store, &known, b"outcome").await;
    file.run("UPDATE idem_records SET fingerprint = x'00'")
        .await;
    let error = store.claim(&again(&known)).await.unwrap_err();
    assert_eq!(kind(&error), "Unreadable");
    assert!(!error.is_outage());
}

/// What is written over the file, in place, behind its first page.
async fn damaged(from: usize, with: u8) -> (File, SqliteStore) {
    let file = made().await;
    let store = over(file.options()).await;
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[from..].fill(with);
    std::fs::write(file.path(), &bytes).unwrap();
    (file, store)
}

#[tokio::test]
async fn a_damaged_file_refuses() {
    let (_file, store) = damaged(4096, 0x5a).await;
    is_refused(first_call(&store).await, "Rejected");
}

#[tokio::test]
async fn a_file_of_another_kind_refuses() {
    let (_file, store) = damaged(0, b'x').await;
    is_refused(first_call(&store).await, "Rejected");
}

#[tokio::test]
async fn a_log_that_was_cut_off_is_damage_and_no_outage() {
    let file = File::new();
    let store = file.store().await;
    let known = claim();
    finish(&store, &known, b"outcome").await;
    // Of a connection that has not read it yet.
    let fresh = over(file.options()).await;
    let log = std::fs::File::options();
    let log = { log }
        .write(true)
        .open(file.directory().join("idem.db-wal"));
    log.unwrap().set_len(0).unwrap();
    is_refused(first_call(&fresh).await, "Rejected");
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_away() {
    let file = made().await;
    let store = over(file.options()).await;
    // The connections that the store has opened at its start close in threads of their own.
    file.is_closed().await;
    // Now its log cannot be created.
    std::fs::create_dir(file.directory().join("idem.db-wal")).unwrap();
    is_an_outage(first_call(&store).await, "NotSent");
    std::fs::remove_dir(file.directory().join("idem.db-wal")).unwrap();
    acquire(&store, &claim()).await;
}

#[tokio::test]
async fn a_disk_without_room_for_the_index_of_the_log_is_away() {
    let file = File::new();
    let Some(_small) = Small::mount(&file) else {
        println!("skipped: nothing can be mounted here");
        return;
    };
    drop(file.store().await);
    file.is_closed().await;
    let store = over(file.options()).await;
    // The connections that the store has opened at its start close in threads of their own.
    file.is_closed().await;
    let ballast = file.directory().join("ballast");
    // As much as there is room for.
    let _ = std::fs::write(&ballast, vec![0; 1024 * 1024]);
    is_an_outage(first_call(&store).await, "NotReady");
    std::fs::remove_file(ballast).unwrap();
    acquire(&store, &claim()).await;
}

/// A process whose files may not grow beyond a limit: the system refuses to write, and not because the
/// disk is full.
#[test]
fn where_the_system_refuses_to_write_nothing_runs_and_replays_are_answered() {
    let file = File::new();
    let worker = format!(
        "trap '' XFSZ; ulimit -f 200; exec '{}' --store {} --effects {}",
        env!("CARGO_BIN_EXE_worker"),
        file.url(),
        file.directory().join("effects").display(),
    );
    let output = file.directory().join("output");
    let mut process = Command::new("sh")
        .args(["-c", &worker])
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&output).unwrap())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let mut call = |key: String, answered: usize| {
        use std::io::Write;
        writeln!(input, "end {key}\ncall {key} 1").unwrap();
        idem_tests::wait_until("an answer", Duration::from_secs(60), || {
            let output = std::fs::read_to_string(&output).unwrap();
            let lines = output.split_inclusive('\n').filter(|it| it.ends_with('\n'));
            let answers: Vec<_> = lines.filter(|line| line.contains("\"answers\"")).collect();
            match answers.last() {
                Some(last) if answers.len() >= answered => Ok((*last).to_owned()),
                _ => Err(output.clone()),
            }
        })
    };
    let first = call("0".into(), 1);
    assert!(!first.contains("this call was not executed"), "{first}");
    let mut calls = 1;
    let refused = loop {
        let key = calls.to_string();
        calls += 1;
        let answer = call(key, calls);
        if answer.contains("this call was not executed") {
            break answer;
        }
        assert!(calls < 1000);
    };
    assert!(refused.contains("cannot be reached"), "{refused}");
    // Nothing ran, and what was stored is given back.
    let effects = std::fs::read_to_string(file.directory().join("effects")).unwrap();
    let refused = (calls - 1).to_string();
    assert!(
        !effects
            .lines()
            .any(|line| line.starts_with(&format!("{refused} "))),
        "{effects}"
    );
    let replay = call("0".into(), calls + 1);
    assert!(!replay.contains("this call was not executed"), "{replay}");
    drop(input);
    let _ = process.wait();
}

#[tokio::test]
async fn a_pool_that_is_closed_does_not_matter_to_its_store() {
    let file = made().await;
    let pool = SqlitePool::connect_with(file.options()).await.unwrap();
    let store = SqliteStore::from_pool(&pool).await.unwrap();
    let known = claim();
    finish(&store, &known, b"outcome").await;
    pool.close().await;
    replays(&store, &known, b"outcome").await;
}
