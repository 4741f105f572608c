//! Phases: steps whose rows and value commit together, whichever store holds the lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::store::{Listing, RecordState, Store};
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder, Error, Fingerprint, InFlight, Operation, Phase, StepError};
use sqlx::AssertSqlSafe;
use tokio::sync::Notify;

use crate::faults::{Fault as CommitFault, FaultySource};

const LIMIT: Duration = Duration::from_secs(30);

fn request() -> Fingerprint {
    Fingerprint::of("the request").unwrap()
}

/// The leases are held in memory, apart from the rows.
fn leases() -> FaultyStore {
    FaultyStore::new(Arc::new(MemoryStore::new()))
}

fn operation(store: &FaultyStore) -> Operation {
    Engine::new(store.clone()).operation("tests.phases")
}

macro_rules! suite {
    ($module:ident, $Pool:ty, $Connection:ty, $beside:ident, $expire:literal) => {
        mod $module {
            use super::*;
            use crate::databases::{$beside as beside, $module as open};

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

            async fn reserve(pool: &$Pool, amount: i64) -> Result<i64, Error> {
                idem::phase("reserve", pool, async |mut tx| {
                    write(&mut tx, amount).await;
                    Ok((tx, amount))
                })
                .await
            }

            /// Whatever is tried now: the phase is finished, and is given back.
            async fn gives_back(operation: &Operation, pool: &$Pool, amount: i64) {
                let body = async { reserve(pool, 99).await };
                let answer = operation.run("k", request(), body).await;
                assert_eq!(answer.unwrap(), amount);
                assert_eq!(entries(pool).await, [amount]);
            }

            #[tokio::test]
            async fn a_later_attempt_is_given_the_value_and_the_rows_are_there_once() {
                let (_server, pool) = open(4).await;
                let operation = operation(&leases());
                let body = async {
                    assert_eq!(reserve(&pool, 1).await?, 1);
                    assert_eq!(idem::attempt().steps(), ["reserve"]);
                    let again = reserve(&pool, 2).await.unwrap_err();
                    assert!(matches!(again, Error::Step(StepError::NameTaken { .. })));
                    Err::<i64, _>(Error::NoEngine)
                };
                operation.run("k", request(), body).await.unwrap_err();
                let seen = operation.inspect("k").await.unwrap().unwrap();
                assert_eq!(seen.phase, Phase::Suspended);
                gives_back(&operation, &pool, 1).await;
                gives_back(&operation, &pool, 1).await;
            }

            #[tokio::test]
            async fn a_crash_between_commit_and_checkpoint_runs_nothing_again() {
                let (_server, pool) = open(4).await;
                let store = leases();
                let operation = operation(&store);
                store.fail(Method::Checkpoint, 1, Fault::Hang);
                let first = {
                    let (operation, pool) = (operation.clone(), pool.clone());
                    tokio::spawn(async move {
                        let body = async { reserve(&pool, 1).await };
                        operation.run("k", request(), body).await
                    })
                };
                store.called(Method::Checkpoint, 1).await;
                first.abort();
                first.await.unwrap_err();
                store.called(Method::Abandon, 1).await;
                // As another process.
                let operation = super::operation(&store);
                gives_back(&operation, &pool, 1).await;
            }

            #[tokio::test]
            async fn an_error_rolls_back_and_the_phase_may_be_tried_again() {
                let (_server, pool) = open(4).await;
                let operation = operation(&leases());
                let body = async {
                    let failed: Result<i64, Error> =
                        idem::phase("reserve", &pool, async |mut tx| {
                            write(&mut tx, 1).await;
                            Err(Error::NoEngine)
                        })
                        .await;
                    assert!(matches!(failed, Err(Error::NoEngine)));
                    assert!(entries(&pool).await.is_empty());
                    reserve(&pool, 2).await
                };
                assert_eq!(operation.run("k", request(), body).await.unwrap(), 2);
                assert_eq!(entries(&pool).await, [2]);
            }

            #[tokio::test]
            async fn a_value_that_cannot_be_kept_commits_nothing() {
                let (_server, pool) = open(4).await;
                let engine = EngineBuilder::new(Arc::new(leases())).max_outcome_bytes(1000);
                let operation = engine.build().operation("tests.phases");
                let body = async {
                    let too_large: Result<String, Error> =
                        idem::phase("reserve", &pool, async |mut tx| {
                            write(&mut tx, 1).await;
                            Ok((tx, "x".repeat(1000)))
                        })
                        .await;
                    too_large.map(|_| 1)
                };
                let error = operation.run("k", request(), body).await.unwrap_err();
                let is_too_large = matches!(error, Error::Step(StepError::TooLarge { .. }));
                assert!(is_too_large, "{error:?}");
                assert!(entries(&pool).await.is_empty());
                gives_its_own(&operation, &pool, 2).await;

                let body = async {
                    let unwritten: Result<HashMap<(u8, u8), u8>, Error> =
                        idem::phase("reserve", &pool, async |mut tx| {
                            write(&mut tx, 3).await;
                            // JSON has no such keys.
                            Ok((tx, HashMap::from([((1, 2), 3)])))
                        })
                        .await;
                    unwritten.map(|_| 3)
                };
                let error = operation.run("another", request(), body).await.unwrap_err();
                let is_unwritten = matches!(error, Error::Step(StepError::NotWritten { .. }));
                assert!(is_unwritten, "{error:?}");
                assert_eq!(entries(&pool).await, [2]);
            }

            /// The phase is not finished, and runs.
            async fn gives_its_own(operation: &Operation, pool: &$Pool, amount: i64) {
                let body = async { reserve(pool, amount).await };
                let answer = operation.run("k", request(), body).await;
                assert_eq!(answer.unwrap(), amount);
                assert_eq!(entries(pool).await, [amount]);
            }

            #[tokio::test]
            async fn a_phase_that_panics_or_is_dropped_rolls_back_and_runs_again() {
                for panics in [true, false] {
                    let (_server, pool) = open(4).await;
                    let operation = operation(&leases());
                    let written = Arc::new(Notify::new());
                    let running = {
                        let (operation, pool) = (operation.clone(), pool.clone());
                        let written = written.clone();
                        tokio::spawn(async move {
                            let body = async {
                                idem::phase("reserve", &pool, async |mut tx| {
                                    write(&mut tx, 1).await;
                                    written.notify_one();
                                    match panics {
                                        true => panic!("as asked"),
                                        false => std::future::pending::<()>().await,
                                    }
                                    Ok::<_, Error>((tx, 1))
                                })
                                .await
                            };
                            operation.run("k", request(), body).await
                        })
                    };
                    written.notified().await;
                    if !panics {
                        running.abort();
                    }
                    running.await.unwrap_err();
                    let operation = operation.clone().in_flight(InFlight::Wait(LIMIT));
                    gives_its_own(&operation, &pool, 2).await;
                }
            }

            #[tokio::test]
            async fn a_phase_is_kept_for_longer_than_its_operation_and_swept_with_the_others() {
                let (_server, pool) = open(4).await;
                let ttl = Duration::from_secs(3600);
                let operation = operation(&leases()).ttl(ttl);
                gives_its_own(&operation, &pool, 1).await;
                let store = beside(&pool).await;
                let listed = store.list(&Listing::new(10)).await.unwrap().records;
                assert_eq!(listed.len(), 1);
                assert_eq!(listed[0].operation.as_str(), "tests.phases phases");
                assert_eq!(listed[0].state, RecordState::Finished);
                assert!(listed[0].kept_for > ttl, "{:?}", listed[0]);
                sqlx::raw_sql($expire).execute(&pool).await.unwrap();
                // By this sweep, or by one that the commit has begun.
                let count = "SELECT count(*) FROM idem_records";
                while sqlx::query_scalar::<_, i64>(count)
                    .fetch_one(&pool)
                    .await
                    .unwrap()
                    > 0
                {
                    store.sweep(10).await.unwrap();
                }
            }

            #[tokio::test]
            async fn of_an_overtaken_attempt_and_its_successor_one_commits() {
                let (_server, pool) = open(8).await;
                let store = leases();
                let lease = Duration::from_secs(2);
                let (here, there) = (operation(&store).lease(lease), operation(&store));
                store.fail_always(Method::Renew, Fault::Hang);
                let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
                let first = {
                    let (pool, begun, go) = (pool.clone(), begun.clone(), go.clone());
                    tokio::spawn(async move {
                        let body = async {
                            idem::phase("reserve", &pool, async |mut tx| {
                                begun.notify_one();
                                go.notified().await;
                                write(&mut tx, 1).await;
                                Ok::<_, Error>((tx, 1))
                            })
                            .await
                        };
                        here.run("k", request(), body).await
                    })
                };
                begun.notified().await;
                // Until the store lets another attempt begin, which then waits for the first.
                let attempts = AtomicU32::new(0);
                let body = async {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    go.notify_one();
                    reserve(&pool, 2).await
                };
                let mut body = Some(body);
                let second = loop {
                    match there.inspect("k").await.unwrap().map(|seen| seen.phase) {
                        Some(Phase::Running {
                            lease_left: Some(left),
                        }) => {
                            tokio::time::sleep(left).await;
                        }
                        _ => break there.run("k", request(), body.take().unwrap()).await,
                    }
                };
                let first = first.await.unwrap();
                assert!(matches!(first, Err(Error::LeaseLost)), "{first:?}");
                assert_eq!(second.unwrap(), 1);
                assert_eq!(attempts.load(Ordering::SeqCst), 1);
                assert_eq!(entries(&pool).await, [1]);
            }

            #[tokio::test]
            async fn a_commit_whose_answer_is_lost_is_looked_for() {
                for fault in [CommitFault::AfterEffect, CommitFault::BeforeEffect] {
                    let (_server, pool) = open(4).await;
                    let source = FaultySource {
                        source: pool.clone(),
                        fault,
                        commits: Arc::default(),
                    };
                    let operation = operation(&leases());
                    let mut answers = Vec::new();
                    for amount in 1..=2 {
                        let body = async {
                            idem::phase("reserve", &source, async |mut tx| {
                                write(&mut tx, amount).await;
                                Ok::<_, Error>((tx, amount))
                            })
                            .await
                        };
                        answers.push(operation.run("k", request(), body).await);
                    }
                    let given = answers.pop().unwrap().unwrap();
                    assert_eq!(entries(&pool).await, [given]);
                    if let Ok(first) = answers.pop().unwrap() {
                        assert_eq!(first, given);
                    }
                }
            }

            #[tokio::test]
            async fn a_freed_key_that_comes_back_with_another_request_has_phases_of_its_own() {
                let (_server, pool) = open(4).await;
                let operation = operation(&leases());
                let body = async {
                    reserve(&pool, 1).await?;
                    Err::<i64, _>(Error::NoEngine)
                };
                operation.run("k", request(), body).await.unwrap_err();
                let freed = operation.resolve("k", idem::Verdict::Released).await;
                assert_eq!(freed.unwrap(), idem::Resolution::Resolved);
                let other = Fingerprint::of("another request").unwrap();
                let body = async { reserve(&pool, 2).await };
                assert_eq!(operation.run("k", other, body).await.unwrap(), 2);
                assert_eq!(entries(&pool).await, [1, 2]);
            }

            #[tokio::test]
            async fn a_phase_within_a_transaction_or_without_a_record_is_refused() {
                let (_server, pool) = open(4).await;
                let operation = operation(&leases());
                let refused: Result<i64, Error> = operation
                    .clone()
                    .transaction(&pool)
                    .run("k", request(), async |tx| (tx, reserve(&pool, 1).await))
                    .await;
                let within = Error::Step(StepError::InTransaction);
                assert_eq!(refused.unwrap_err().to_string(), within.to_string());
                let refused = operation.unprotected().drive(reserve(&pool, 1)).await;
                let without = Error::Step(StepError::WithoutRecord);
                assert_eq!(refused.unwrap_err().to_string(), without.to_string());
                assert!(entries(&pool).await.is_empty());
            }
        }
    };
}

suite!(
    sqlite,
    sqlx::SqlitePool,
    sqlx::SqliteConnection,
    sqlite_store,
    "UPDATE idem_records SET gone_at = 1"
);
suite!(
    mysql,
    sqlx::MySqlPool,
    sqlx::MySqlConnection,
    mysql_store,
    "UPDATE idem_records SET expires_at = UTC_TIMESTAMP(6), sweep_at = UTC_TIMESTAMP(6)"
);
suite!(
    postgres,
    sqlx::PgPool,
    sqlx::PgConnection,
    postgres_store,
    "UPDATE idem_records SET expires_at = now(), sweep_at = now()"
);
