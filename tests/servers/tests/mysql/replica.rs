//! A replica, which follows its primary in its own time: it replays and runs nothing until it is promoted,
//! and then has what had come to it.

use idem::StoreError;
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::mysql::MySqlStore;
use idem_tests::MariaDb;
use sqlx::MySqlPool;

use crate::conformance::{claim, finish, patient_at, patient_in};
use crate::log::listen;

/// As the login `app`: one that administrates may write to a server that is read only.
fn primary() -> MariaDb {
    MariaDb::builder().with_log().login("app", "x").start()
}

async fn is_not_ready(store: &MySqlStore, number: u8) {
    let refused = store.claim(&claim(number)).await;
    assert!(
        matches!(refused, Err(StoreError::NotReady { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_replica_replays_and_runs_nothing_until_it_is_promoted() {
    let primary = primary();
    let store = patient_at(&primary.url()).await;
    finish(&store, &claim(1), b"done").await;
    let running = claim(2);
    store.claim(&running).await.unwrap();
    let replica = primary.replica();
    let (log, _guard) = listen();
    let own = patient_at(&replica.url()).await;
    let said = log.take();
    assert!(said.contains("read only"), "{said}");
    let pooled = patient_in(MySqlPool::connect(&replica.url()).await.unwrap());
    for store in [&own, &pooled] {
        for _ in 0..2 {
            let Claimed::Finished { outcome, .. } = store.claim(&claim(1)).await.unwrap() else {
                panic!("it is finished");
            };
            assert_eq!(outcome, "done");
        }
        is_not_ready(store, 2).await;
        is_not_ready(store, 3).await;
    }
    primary.kill();
    replica.promote();
    for (number, store) in [(3, &own), (4, &pooled)] {
        finish(store, &claim(number), b"after").await;
        let running = store.claim(&claim(2)).await.unwrap();
        assert!(matches!(running, Claimed::InFlight { .. }), "{running:?}");
    }
    // Its owner goes on.
    let lease = Lease::of(&running, 1);
    let completed = own.complete(&lease, b"late".as_slice().into()).await;
    assert_eq!(completed.unwrap(), Change::Applied);
}

#[tokio::test]
async fn what_had_not_come_to_a_promoted_replica_is_forgotten_but_for_owners_that_live() {
    let primary = primary();
    let store = patient_at(&primary.url()).await;
    finish(&store, &claim(1), b"before").await;
    let replica = primary.replica();
    replica.stop_following();
    finish(&store, &claim(2), b"after").await;
    let running = claim(3);
    store.claim(&running).await.unwrap();
    primary.kill();
    replica.promote();
    let store = patient_at(&replica.url()).await;
    let Claimed::Finished { outcome, .. } = store.claim(&claim(1)).await.unwrap() else {
        panic!("it had come");
    };
    assert_eq!(outcome, "before");
    // This one can run once more.
    let forgotten = store.claim(&claim(2)).await.unwrap();
    assert_eq!(forgotten, Claimed::acquired(1));
    // The owner of this one creates it again.
    let lease = Lease::of(&running, 1);
    assert_eq!(store.renew(&lease).await.unwrap(), Change::Applied);
    let duplicate = store.claim(&running.by_another()).await.unwrap();
    assert!(
        matches!(duplicate, Claimed::InFlight { .. }),
        "{duplicate:?}"
    );
    let completed = store.complete(&lease, b"late".as_slice().into()).await;
    assert_eq!(completed.unwrap(), Change::Applied);
}
