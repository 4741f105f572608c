//! The server's clock, when it is set.

use std::sync::Arc;
use std::time::Duration;

use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::postgres::PostgresStore;
use idem::{EngineBuilder, Error, Fingerprint, OnCrash};
use tokio::sync::Semaphore;

use crate::conformance::{Moved, claim, finish};
use crate::limits::patient_at;

async fn store(moved: &Moved) -> PostgresStore {
    patient_at(&moved.0.url()).await
}

#[tokio::test]
async fn set_forward_it_ends_leases_and_the_owner_learns_of_it_when_it_renews() {
    let moved = Moved::start();
    let engine = EngineBuilder::new(Arc::new(store(&moved).await)).build();
    let begun = Arc::new(Semaphore::new(0));
    let fingerprint = Fingerprint::of("request").unwrap();
    // It renews after a third of it: later than all that comes before the other attempt.
    let lease = Duration::from_secs(18);
    let other = EngineBuilder::new(Arc::new(store(&moved).await)).build();
    let first = tokio::spawn({
        let (operation, begun) = (engine.operation("op").lease(lease), begun.clone());
        async move {
            let body = async {
                begun.add_permits(1);
                while !idem::attempt().lease_lost() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok::<_, Error>(idem::attempt().number())
            };
            operation.run("k", fingerprint, body).await
        }
    });
    begun.acquire().await.unwrap().forget();
    moved.set("1 hour");
    let other = other.operation("op").lease(lease);
    let body = async { Ok::<_, Error>(idem::attempt().number()) };
    assert_eq!(other.run("k", fingerprint, body).await.unwrap(), 2);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    // What every retry gets is the other attempt's.
    let body = async { panic!("it ran already") };
    let again: Result<u32, Error> = other.run("k", fingerprint, body).await;
    assert_eq!(again.unwrap(), 2);
}

#[tokio::test]
async fn set_forward_an_owner_that_renews_first_keeps_its_lease() {
    let moved = Moved::start();
    let store = store(&moved).await;
    let held = claim(1);
    store.claim(&held).await.unwrap();
    // Also where the record counts as absent by now.
    for by in ["1 minute", "100 hours"] {
        moved.set(by);
        let renewed = store.renew(&Lease::of(&held, 1)).await.unwrap();
        assert_eq!(renewed, Change::Applied);
        let duplicate = store.claim(&claim(1)).await.unwrap();
        assert!(
            matches!(duplicate, Claimed::InFlight { .. }),
            "{duplicate:?}"
        );
    }
}

#[tokio::test]
async fn set_back_it_makes_leases_last_longer_and_nothing_runs_twice() {
    let moved = Moved::start();
    let store = store(&moved).await;
    let held = claim(1);
    store.claim(&held).await.unwrap();
    finish(&store, &claim(2), b"outcome").await;
    moved.set("-1 hour");
    let duplicate = store.claim(&claim(1)).await.unwrap();
    let Claimed::InFlight { lease_left } = duplicate else {
        panic!("{duplicate:?}");
    };
    assert!(lease_left > held.lease);
    let replay = store.claim(&claim(2)).await.unwrap();
    assert!(matches!(replay, Claimed::Finished { .. }), "{replay:?}");
    // As long as it lives it renews by the clock that is there now.
    let renewed = store.renew(&Lease::of(&held, 1)).await.unwrap();
    assert_eq!(renewed, Change::Applied);
    moved.set("1 minute");
    let refusing = claim(1).on_crash(OnCrash::Refuse);
    let crashed = store.claim(&refusing).await.unwrap();
    assert_eq!(crashed, Claimed::OutcomeUnknown { attempt: 1 });
}
