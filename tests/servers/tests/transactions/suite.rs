//! What holds in all databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint, InFlight, Operation, idempotent};
use sqlx::AssertSqlSafe;
use tokio::sync::{Notify, Semaphore};

/// An engine is a process of its own here: the records are in the database, and nothing else is
/// shared.
fn operation() -> Operation {
    Engine::new(MemoryStore::new()).operation("tests.transactions")
}

fn patient() -> Operation {
    operation().in_flight(InFlight::Wait(Duration::from_secs(60)))
}

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

/// A body that panics: one for calls that are to be answered without it.
async fn must_not_run<Tx>(_: Tx) -> (Tx, Result<i64, Error>) {
    panic!("this body must not run")
}

/// Lets a test stop a body where it wants to.
#[derive(Clone)]
struct Stop {
    started: Arc<Notify>,
    go: Arc<Semaphore>,
    ran: Arc<AtomicU32>,
}

impl Stop {
    fn new() -> Self {
        Self {
            started: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
            ran: Arc::default(),
        }
    }

    async fn here(&self) {
        self.ran.fetch_add(1, Ordering::SeqCst);
        self.started.notify_one();
        self.go.acquire().await.unwrap().forget();
    }
}

macro_rules! suite {
    ($module:ident, $store:path, $Pool:ty, $Connection:ty) => {
        mod $module {
            use super::*;
            use crate::databases::$module as open;

            async fn write(tx: &mut $Connection, amount: i64) {
                // The servers do not agree on how a statement's values are marked.
                let insert = format!("INSERT INTO entries VALUES ('k', {amount})");
                sqlx::raw_sql(AssertSqlSafe(insert))
                    .execute(tx)
                    .await
                    .unwrap();
            }

            async fn entries(pool: &$Pool) -> Vec<i64> {
                sqlx::query_scalar("SELECT amount FROM entries ORDER BY amount")
                    .fetch_all(pool)
                    .await
                    .unwrap()
            }

            async fn records(pool: &$Pool) -> i64 {
                sqlx::query_scalar("SELECT count(*) FROM idem_records")
                    .fetch_one(pool)
                    .await
                    .unwrap()
            }

            /// Books, and says how much.
            async fn book(operation: &Operation, pool: &$Pool, amount: i64) -> Result<i64, Error> {
                operation
                    .clone()
                    .transaction(pool)
                    .run("k", request(), |mut tx| async move {
                        write(&mut tx, amount).await;
                        (tx, Ok(amount))
                    })
                    .await
            }

            #[tokio::test]
            async fn writes_and_outcome_commit_together_and_a_replay_runs_nothing() {
                let (_server, pool) = open(4).await;
                assert_eq!(book(&operation(), &pool, 1).await.unwrap(), 1);
                assert_eq!((entries(&pool).await, records(&pool).await), (vec![1], 1));
                // Here, and in another process.
                let here = operation();
                for operation in [&here, &here, &operation()] {
                    assert_eq!(book(operation, &pool, 2).await.unwrap(), 1);
                }
                assert_eq!(entries(&pool).await, [1]);
            }

            #[tokio::test]
            async fn at_the_deadline_everything_is_rolled_back_and_the_key_is_free() {
                let (_server, pool) = open(4).await;
                let deadline = Duration::from_millis(100);
                let hanging = operation().deadline(deadline).transaction(&pool);
                let stopped: Result<i64, Error> = hanging
                    .run("k", request(), |mut tx| async move {
                        write(&mut tx, 1).await;
                        let left = idem::attempt().time_left().unwrap();
                        assert!(left <= deadline);
                        std::future::pending().await
                    })
                    .await;
                assert!(
                    matches!(
                        stopped,
                        Err(Error::DeadlineExceeded { after, rolled_back: true }) if after == deadline
                    ),
                    "{stopped:?}"
                );
                assert_eq!(book(&patient(), &pool, 2).await.unwrap(), 2);
                assert_eq!((entries(&pool).await, records(&pool).await), (vec![2], 1));
            }

            #[tokio::test]
            async fn another_request_under_the_key_is_a_mismatch() {
                let (_server, pool) = open(4).await;
                book(&operation(), &pool, 1).await.unwrap();
                let other = Fingerprint::of("another request").unwrap();
                let refused: Result<i64, Error> = operation()
                    .transaction(&pool)
                    .run("k", other, must_not_run)
                    .await;
                assert!(matches!(refused, Err(Error::Mismatch)), "{refused:?}");
                assert_eq!(book(&operation(), &pool, 2).await.unwrap(), 1);
            }

            #[tokio::test]
            async fn an_error_rolls_everything_back_and_frees_the_key() {
                let (_server, pool) = open(4).await;
                let refused: Result<i64, Error> = operation()
                    .transaction(&pool)
                    .run("k", request(), |mut tx| async move {
                        write(&mut tx, 1).await;
                        (tx, Err(Error::NoEngine))
                    })
                    .await;
                assert!(matches!(refused, Err(Error::NoEngine)));
                assert_eq!((entries(&pool).await, records(&pool).await), (vec![], 0));
                assert_eq!(book(&operation(), &pool, 2).await.unwrap(), 2);
                assert_eq!(entries(&pool).await, [2]);
            }

            #[tokio::test]
            async fn a_released_attempt_is_rolled_back_whatever_it_returns() {
                let (_server, pool) = open(4).await;
                let released: Result<i64, Error> = operation()
                    .transaction(&pool)
                    .run("k", request(), |mut tx| async move {
                        write(&mut tx, 1).await;
                        idem::attempt().release();
                        (tx, Ok(1))
                    })
                    .await;
                assert_eq!(released.unwrap(), 1);
                assert_eq!((entries(&pool).await, records(&pool).await), (vec![], 0));
            }

            #[tokio::test]
            async fn a_stored_error_rolls_its_writes_back_and_is_given_again() {
                let (_server, pool) = open(4).await;
                let failing = async |amount| -> Result<i64, Stored> {
                    operation()
                        .transaction(&pool)
                        .run_storing_errors("k", request(), |mut tx| async move {
                            write(&mut tx, amount).await;
                            (tx, Err(Stored(format!("refused {amount}"))))
                        })
                        .await
                };
                assert_eq!(failing(1).await, Err(Stored("refused 1".to_owned())));
                assert_eq!((entries(&pool).await, records(&pool).await), (vec![], 1));
                assert_eq!(failing(2).await, Err(Stored("refused 1".to_owned())));
            }

            #[tokio::test]
            async fn a_panic_rolls_everything_back_and_frees_the_key() {
                let (_server, pool) = open(4).await;
                let panicking = tokio::spawn({
                    let pool = pool.clone();
                    async move {
                        let ended: Result<i64, Error> = operation()
                            .transaction(&pool)
                            .run("k", request(), |mut tx| async move {
                                write(&mut tx, 1).await;
                                must_not_run(tx).await
                            })
                            .await;
                        ended
                    }
                });
                assert!(panicking.await.unwrap_err().is_panic());
                assert_eq!(book(&patient(), &pool, 2).await.unwrap(), 2);
                assert_eq!(entries(&pool).await, [2]);
            }

            #[tokio::test]
            async fn a_call_that_is_dropped_rolls_everything_back_and_frees_the_key() {
                let (_server, pool) = open(4).await;
                let stop = Stop::new();
                let call = tokio::spawn({
                    let (pool, stop) = (pool.clone(), stop.clone());
                    async move {
                        let ended: Result<i64, Error> = operation()
                            .transaction(&pool)
                            .run("k", request(), |mut tx| async move {
                                write(&mut tx, 1).await;
                                stop.here().await;
                                (tx, Ok(1))
                            })
                            .await;
                        ended
                    }
                });
                stop.started.notified().await;
                call.abort();
                assert!(call.await.unwrap_err().is_cancelled());
                assert_eq!(book(&patient(), &pool, 2).await.unwrap(), 2);
                assert_eq!(entries(&pool).await, [2]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_64_duplicates_with_a_pool_of_4_one_runs_and_all_get_its_answer() {
                let (_server, pool) = open(4).await;
                let (operation, stop) = (patient(), Stop::new());
                let one = |amount: i64| {
                    let (operation, pool, stop) = (operation.clone(), pool.clone(), stop.clone());
                    tokio::spawn(async move {
                        let answer: Result<i64, Error> = operation
                            .transaction(&pool)
                            .run("k", request(), |mut tx| async move {
                                stop.here().await;
                                write(&mut tx, amount).await;
                                (tx, Ok(amount))
                            })
                            .await;
                        answer
                    })
                };
                let calls: Vec<_> = (0..64).map(one).collect();
                stop.started.notified().await;
                // The pool is as good as free meanwhile.
                assert!(entries(&pool).await.is_empty());
                stop.go.add_permits(64);
                let answers = join_all(calls).await;
                let first = answers[0].as_ref().unwrap().as_ref().unwrap();
                for answer in &answers {
                    assert_eq!(answer.as_ref().unwrap().as_ref().unwrap(), first);
                }
                assert_eq!(entries(&pool).await, [*first]);
                assert_eq!(stop.ran.load(Ordering::SeqCst), 1);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_processes_that_race_one_commits() {
                let (_server, pool) = open(16).await;
                let processes: Vec<_> = (0..8).map(|_| patient()).collect();
                let calls = processes
                    .iter()
                    .zip(0..)
                    .map(|(process, amount)| book(process, &pool, amount));
                let answers = join_all(calls).await;
                let booked = entries(&pool).await;
                assert_eq!(booked.len(), 1);
                for answer in answers {
                    assert_eq!(answer.unwrap(), booked[0]);
                }
            }

            #[tokio::test]
            async fn an_attempt_in_a_transaction_is_protected_and_has_no_lease_to_lose() {
                let (_server, pool) = open(4).await;
                let seen: Result<(u32, bool, bool), Error> = operation()
                    .transaction(&pool)
                    .run("k", request(), |tx| async move {
                        let attempt = idem::attempt();
                        (
                            tx,
                            Ok((
                                attempt.number(),
                                attempt.is_protected(),
                                attempt.lease_lost(),
                            )),
                        )
                    })
                    .await;
                assert_eq!(seen.unwrap(), (1, true, false));
            }

            #[tokio::test]
            async fn what_is_kept_ends_with_its_retention() {
                let (_server, pool) = open(4).await;
                let short = operation().ttl(Duration::from_millis(300));
                assert_eq!(book(&short, &pool, 1).await.unwrap(), 1);
                // Until the store says so.
                let again = loop {
                    let answer = book(&short, &pool, 2).await.unwrap();
                    if answer == 2 {
                        break answer;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                };
                assert_eq!((again, entries(&pool).await), (2, vec![1, 2]));
            }

            /// The attribute over a function: the signature stays, and `tx` is there.
            #[idempotent(
                                                key = (account, number),
                                                ttl = "24h",
                                                                                skip(pool, engine),
                                                transaction = pool,
                                                engine = engine
                                            )]
            async fn transfer(
                pool: &$Pool,
                engine: &Engine,
                account: &str,
                number: u32,
                amount: i64,
            ) -> Result<i64, Error> {
                if amount < 0 {
                    write(tx, amount).await;
                    return Err(Error::NoEngine);
                }
                write(tx, amount).await;
                Ok(amount)
            }

            #[tokio::test]
            async fn the_attribute_brings_the_transaction_into_the_body() {
                let (_server, pool) = open(4).await;
                let engine = Engine::new(MemoryStore::new());
                let call = async |amount| transfer(&pool, &engine, "a", 1, amount).await;
                assert!(matches!(call(-1).await, Err(Error::NoEngine)));
                assert!(entries(&pool).await.is_empty());
                assert_eq!(call(5).await.unwrap(), 5);
                assert_eq!(call(5).await.unwrap(), 5);
                assert!(matches!(call(6).await, Err(Error::Mismatch)));
                assert_eq!(entries(&pool).await, [5]);
            }

            #[tokio::test]
            async fn an_attributed_call_may_be_spawned() {
                let (_server, pool) = open(4).await;
                let engine = Engine::new(MemoryStore::new());
                let spawned = tokio::spawn({
                    let pool = pool.clone();
                    async move { transfer(&pool, &engine, "b", 1, 7).await }
                });
                assert_eq!(spawned.await.unwrap().unwrap(), 7);
                assert_eq!(entries(&pool).await, [7]);
            }

            #[tokio::test]
            async fn a_record_that_a_store_left_running_is_respected() {
                let (_server, pool) = open(4).await;
                let engine = Engine::new($store(&pool).await);
                let leased = engine.operation("tests.transactions");
                let stop = Stop::new();
                let running = tokio::spawn({
                    let (leased, stop) = (leased.clone(), stop.clone());
                    async move {
                        let body = async {
                            stop.here().await;
                            Ok::<i64, Error>(1)
                        };
                        leased.run("k", request(), body).await
                    }
                });
                stop.started.notified().await;
                let refused = book(&operation(), &pool, 2).await;
                assert!(
                    matches!(refused, Err(Error::InFlight { .. })),
                    "{refused:?}"
                );
                // It crashes: its lease is over at once.
                running.abort();
                let _ = running.await;
                engine.idle().await;
                let attempt: Result<u32, Error> = operation()
                    .transaction(&pool)
                    .run("k", request(), |tx| async move {
                        (tx, Ok(idem::attempt().number()))
                    })
                    .await;
                assert_eq!(attempt.unwrap(), 2);
            }
        }
    };
}

#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Stored(String);

impl From<Error> for Stored {
    fn from(error: Error) -> Self {
        Self(format!("not run: {error}"))
    }
}

suite!(
    sqlite,
    crate::databases::sqlite_store,
    sqlx::SqlitePool,
    sqlx::SqliteConnection
);
suite!(
    mysql,
    crate::databases::mysql_store,
    sqlx::MySqlPool,
    sqlx::MySqlConnection
);
suite!(
    mysql_at_read_committed,
    crate::databases::mysql_store,
    sqlx::MySqlPool,
    sqlx::MySqlConnection
);
suite!(
    postgres,
    crate::databases::postgres_store,
    sqlx::PgPool,
    sqlx::PgConnection
);
