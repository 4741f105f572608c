//! What it costs: transactions, counted in the write-ahead log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::sqlite::SqliteStore;
use idem::{EngineBuilder, Error, Fingerprint, InFlight, OnCrash, Operation, StoreError};
use tokio::sync::Notify;

use crate::file::{ACQUIRED, File, acquire, again, broken, claim, complete, finish, replays};

fn operation(store: &SqliteStore) -> Operation {
    EngineBuilder::new(Arc::new(store.clone()))
        .build()
        .operation("op")
}

async fn run(operation: &Operation, key: &str) -> Result<u32, Error> {
    let fingerprint = Fingerprint::of(&key).unwrap();
    operation
        .run(key, fingerprint, async { Ok(idem::attempt().number()) })
        .await
}

#[tokio::test]
async fn a_first_call_is_two_commits_and_a_replay_none() {
    let file = File::new();
    let store = file.store().await;
    let operation = operation(&store);
    let before = file.commits();
    assert_eq!(run(&operation, "k").await.unwrap(), 1);
    assert_eq!(file.commits() - before, 2);
    for _ in 0..100 {
        assert_eq!(run(&operation, "k").await.unwrap(), 1);
    }
    assert_eq!(file.commits() - before, 2);
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let file = File::new();
    let store = file.store().await;
    let (finished, running, crashed, absent) = (claim(), claim(), claim(), claim());
    finish(&store, &finished, b"outcome").await;
    acquire(&store, &running).await;
    acquire(&store, &crashed).await;
    let _ = store.abandon(&crashed.id, &crashed.token).await.unwrap();

    let mut beside = file.connection().await;
    let mut version = async || -> i64 {
        let version = sqlx::query_scalar("PRAGMA data_version");
        version.fetch_one(&mut beside).await.unwrap()
    };
    let log = file.directory().join("idem.db-wal");
    let before = (version().await, std::fs::read(&log).unwrap());

    replays(&store, &finished, b"outcome").await;
    let mut mismatch = again(&finished);
    mismatch.fingerprint = Fingerprint::of("another").unwrap();
    assert_eq!(store.claim(&mismatch).await.unwrap(), Claimed::Mismatch);
    let duplicate = store.claim(&again(&running)).await.unwrap();
    assert!(matches!(duplicate, Claimed::InFlight { .. }));
    assert_eq!(store.claim(&running).await.unwrap(), ACQUIRED);
    let refused = again(&crashed).on_crash(OnCrash::Refuse);
    let unknown = Claimed::OutcomeUnknown { attempt: 1 };
    assert_eq!(store.claim(&refused).await.unwrap(), unknown);
    store.inspect(&finished.id).await.unwrap();
    drop(store.watch(&running.id).await.unwrap());
    // Those ask for the lock, and have nothing to write then.
    for lost in [&finished, &crashed, &absent] {
        let lost = store.release(&lost.id, &again(lost).token).await.unwrap();
        assert_eq!(lost, Change::LeaseLost);
    }
    assert_eq!(store.sweep(100).await.unwrap(), 0);

    assert!((version().await, std::fs::read(&log).unwrap()) == before);
}

#[tokio::test]
async fn a_thousand_duplicates_in_one_process_are_two_commits_in_all() {
    for policy in [InFlight::Reject, InFlight::Wait(Duration::from_secs(60))] {
        let file = File::new();
        let store = file.store().await;
        let operation = operation(&store).in_flight(policy);
        let before = file.commits();

        let (started, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let first = tokio::spawn({
            let (operation, started, end) = (operation.clone(), started.clone(), end.clone());
            async move {
                let body = async {
                    started.notify_one();
                    end.notified().await;
                    Ok::<_, Error>(7)
                };
                operation
                    .run("k", Fingerprint::of("k").unwrap(), body)
                    .await
            }
        });
        started.notified().await;
        let duplicates = join_all((0..1000).map(|_| run(&operation, "k")));
        let ends = async {
            // One thread: when this goes on, every duplicate has gone as far as it can.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            end.notify_one();
        };
        let (answers, ()) = tokio::join!(duplicates, ends);
        for answer in answers {
            match policy {
                InFlight::Reject => assert!(matches!(answer, Err(Error::InFlight { .. }))),
                _ => assert_eq!(answer.unwrap(), 7),
            }
        }
        assert_eq!(first.await.unwrap().unwrap(), 7);
        assert_eq!(file.commits() - before, 2, "{policy:?}");
    }
}

#[tokio::test]
async fn what_is_asked_for_at_once_is_committed_together() {
    let file = File::new();
    let store = file.store().await;
    let claims: Vec<_> = (0..200).map(|_| claim()).collect();
    let before = file.commits();
    join_all(claims.iter().map(|claim| acquire(&store, claim))).await;
    join_all(
        claims
            .iter()
            .map(|claim| complete(&store, claim, b"outcome")),
    )
    .await;
    let commits = file.commits() - before;
    assert!(commits <= 100, "{commits} commits of 400 changes");
    // Each by itself, all the same.
    for claim in &claims {
        replays(&store, claim, b"outcome").await;
    }
}

#[tokio::test]
async fn of_what_is_committed_together_each_is_judged_by_itself() {
    let file = File::new();
    let store = file.store().await;
    let (crashed, running, gone) = (claim(), claim(), claim());
    for claim in [&crashed, &running] {
        acquire(&store, claim).await;
    }
    let _ = store.abandon(&crashed.id, &crashed.token).await.unwrap();
    // Looked up one after the other and asked for together, at any rate often.
    for round in 0..20 {
        let refusing = again(&crashed).on_crash(OnCrash::Refuse);
        let (one, other) = (claim(), claim());
        let outlived = broken(&gone);
        let renewed = Lease::of(&running, 1);
        let (twin, also) = (again(&one), again(&other));
        let answers = tokio::join!(
            store.claim(&one),
            store.claim(&twin),
            store.claim(&other),
            store.claim(&also),
            store.claim(&refusing),
            store.complete(&outlived, "x".into()),
            store.renew(&renewed),
            store.release(&running.id, &gone.token),
        );
        let winners = [&answers.0, &answers.1, &answers.2, &answers.3].map(|answer| {
            match answer.as_ref().unwrap() {
                Claimed::Acquired { attempt: 1, .. } => 1,
                Claimed::InFlight { .. } => 0,
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(winners[0] + winners[1], 1, "round {round}");
        assert_eq!(winners[2] + winners[3], 1, "round {round}");
        let unknown = Claimed::OutcomeUnknown { attempt: 1 };
        assert_eq!(answers.4.unwrap(), unknown);
        assert_eq!(answers.5.unwrap(), Change::LeaseLost);
        assert_eq!(answers.6.unwrap(), Change::Applied);
        assert_eq!(answers.7.unwrap(), Change::LeaseLost);
        let one = if winners[0] == 1 { one } else { twin };
        let other = if winners[2] == 1 { other } else { also };
        // The same completion twice at once, a wrong one, and an end of another kind.
        let done = Lease::of(&one, 1);
        let mut wrong = done;
        wrong.token = gone.token;
        let answers = tokio::join!(
            store.complete(&done, "done".into()),
            store.complete(&done, "done".into()),
            store.complete(&wrong, "wrong".into()),
            store.release(&other.id, &other.token),
        );
        assert_eq!(answers.0.unwrap(), Change::Applied);
        assert_eq!(answers.1.unwrap(), Change::Applied);
        assert_eq!(answers.2.unwrap(), Change::LeaseLost);
        assert_eq!(answers.3.unwrap(), Change::Applied);
        replays(&store, &one, b"done").await;
        assert_eq!(store.inspect(&other.id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn one_that_cannot_be_written_does_not_take_the_others_down() {
    let file = File::new();
    let store = file.store().await;
    let claims: Vec<_> = (0..100).map(|_| claim()).collect();
    let poisoned = claims[50];
    // What another's trigger, or a damaged page, does.
    file.run(&format!(
        "CREATE TRIGGER refuses BEFORE INSERT ON idem_records WHEN NEW.id = x'{}'
         BEGIN SELECT RAISE(ABORT, 'as the test asked'); END",
        poisoned.id
    ))
    .await;
    let answers = join_all(claims.iter().map(|claim| store.claim(claim))).await;
    for (claim, answer) in claims.iter().zip(answers) {
        if claim.id == poisoned.id {
            assert!(
                matches!(answer, Err(StoreError::Rejected { .. })),
                "{answer:?}"
            );
        } else {
            assert_eq!(answer.unwrap(), ACQUIRED);
        }
    }
    file.run("DROP TRIGGER refuses").await;
    acquire(&store, &poisoned).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_nothing_half_done() {
    let file = File::new();
    let store = file.store().await;
    for round in 0..200 {
        let claim = claim();
        let taken = Duration::from_micros(round * 5);
        let _ = tokio::time::timeout(taken, store.claim(&claim)).await;
        // Like a lost answer: asked again, it recognises itself, or it is the first.
        acquire(&store, &claim).await;
        let outcome = b"outcome".as_slice();
        let lease = Lease::of(&claim, 1);
        let done = store.complete(&lease, outcome.into());
        let _ = tokio::time::timeout(taken, done).await;
        complete(&store, &claim, b"outcome").await;
        replays(&store, &claim, b"outcome").await;
    }
}
