//! The machine's clock, when it is set.

use std::sync::Arc;
use std::time::Duration;

use idem::store::{Change, Claimed, Lease, Store};
use idem::{EngineBuilder, Error, Fingerprint, OnCrash};

use crate::file::{File, LEASE, acquire, again, claim, replays};
use crate::owner::Owner;

async fn set(file: &File, by_seconds: i64) {
    let by = by_seconds * 1000;
    file.run(&format!(
        "UPDATE idem_schema SET clock_offset_ms = clock_offset_ms + {by}"
    ))
    .await;
}

#[tokio::test]
async fn set_forward_it_ends_leases_and_the_owner_learns_of_it_when_it_renews() {
    let file = File::new();
    let engine = EngineBuilder::new(Arc::new(file.store().await)).build();
    let fingerprint = Fingerprint::of("request").unwrap();
    let lease = Duration::from_secs(3);
    let owner = Owner::begin(engine.operation("op").lease(lease)).await;
    set(&file, 3600).await;
    let other = EngineBuilder::new(Arc::new(file.store().await)).build();
    let body = async { Ok::<_, Error>(idem::attempt().number()) };
    let other = other.operation("op").lease(lease);
    assert_eq!(other.run("k", fingerprint, body).await.unwrap(), 2);
    let first = owner.goes_on_until_its_lease_is_lost().await;
    assert_eq!(first.unwrap(), 1);
    // What every retry gets is the other attempt's.
    let body = async { panic!("it ran already") };
    let again: Result<u32, Error> = other.run("k", fingerprint, body).await;
    assert_eq!(again.unwrap(), 2);
}

#[tokio::test]
async fn set_forward_an_owner_that_renews_first_keeps_its_lease() {
    let file = File::new();
    let store = file.store().await;
    let held = claim();
    acquire(&store, &held).await;
    // Also where the record counts as absent by now.
    for by in [60, 100 * 3600] {
        set(&file, by).await;
        let renewed = store.renew(&Lease::of(&held, 1)).await.unwrap();
        assert_eq!(renewed, Change::Applied);
        let duplicate = store.claim(&again(&held)).await.unwrap();
        assert!(
            matches!(duplicate, Claimed::InFlight { .. }),
            "{duplicate:?}"
        );
    }
}

#[tokio::test]
async fn set_back_it_makes_leases_last_longer_and_nothing_runs_twice() {
    let file = File::new();
    let store = file.store().await;
    let (held, done) = (claim(), claim());
    acquire(&store, &held).await;
    crate::file::finish(&store, &done, b"outcome").await;
    set(&file, -3600).await;
    let duplicate = store.claim(&again(&held)).await.unwrap();
    let Claimed::InFlight { lease_left } = duplicate else {
        panic!("{duplicate:?}");
    };
    assert!(lease_left > LEASE);
    replays(&store, &done, b"outcome").await;
    // As long as it lives it renews by the clock that is there now.
    let renewed = store.renew(&Lease::of(&held, 1)).await.unwrap();
    assert_eq!(renewed, Change::Applied);
    set(&file, 60).await;
    let refusing = again(&held).on_crash(OnCrash::Refuse);
    let crashed = store.claim(&refusing).await.unwrap();
    assert_eq!(crashed, Claimed::OutcomeUnknown { attempt: 1 });
}
