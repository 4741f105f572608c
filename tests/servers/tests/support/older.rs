//! Processes of the version before beside those of this one, on one database: what each makes of the
//! other's records. Whoever runs this brings a store that sends the statements of that version, word for
//! word; its other methods are not called.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use idem::store::{Change, Claim, Claimed, Lease, OperationName, Store};
use idem::{EngineBuilder, Error, Fingerprint, Key, OnCrash, Phase, RecordId};

pub(crate) const STEPS: &[u8] = b"a finished step";

/// The old process, and one of this version.
#[derive(Clone, Copy)]
pub(crate) struct Both<'a> {
    pub(crate) old: &'a Arc<dyn Store>,
    pub(crate) new: &'a Arc<dyn Store>,
}

/// Lets the time of every record be over.
pub(crate) trait Expire {
    fn expire(&self) -> impl Future<Output = ()>;
}

const OPERATION: &str = "tests.older";

/// A claim as an engine makes it for a call with this key.
pub(crate) fn claim_of(key: &str) -> Claim {
    let id = RecordId::derive("", OPERATION, None, &Key::of(key).unwrap());
    let request = Fingerprint::of("request").unwrap();
    Claim::new(
        id,
        request,
        Duration::from_secs(30),
        Duration::from_secs(3600),
    )
    .operation(OperationName::new(OPERATION))
}

/// A call through the engine of a process.
async fn call(store: &Arc<dyn Store>, key: &str, on_crash: OnCrash) -> Result<String, Error> {
    let engine = EngineBuilder::new(Arc::clone(store)).build();
    let operation = engine.operation(OPERATION).on_crash(on_crash);
    let request = Fingerprint::of("request").unwrap();
    let body = async { Ok("by the engine".to_owned()) };
    operation.run(key, request, body).await
}

fn applied(change: Change) {
    assert_eq!(change, Change::Applied);
}

async fn acquire(store: &Arc<dyn Store>, claim: &Claim, attempt: u32, steps: &'static [u8]) {
    let expected = match steps {
        [] => Claimed::acquired(attempt),
        _ => match store.claim(claim).await.unwrap() {
            Claimed::Acquired {
                attempt: found,
                steps: handed,
            } => {
                assert_eq!((found, &handed[..]), (attempt, steps));
                return;
            }
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(store.claim(claim).await.unwrap(), expected);
}

async fn replays(store: &Arc<dyn Store>, key: &str, outcome: &[u8]) {
    match store.claim(&claim_of(key)).await.unwrap() {
        Claimed::Finished { outcome: found, .. } => assert_eq!(found, outcome),
        other => panic!("{other:?}"),
    }
}

/// Records without finished steps are everybody's.
pub(crate) async fn both_share_records_without_steps(both: Both<'_>) {
    let Both { old, new } = both;
    for (first, second) in [(old, new), (new, old)] {
        let key = rand::random::<u64>().to_string();
        let claim = claim_of(&key);
        acquire(first, &claim, 1, b"").await;
        let duplicate = second.claim(&claim_of(&key)).await.unwrap();
        assert!(
            matches!(duplicate, Claimed::InFlight { .. }),
            "{duplicate:?}"
        );
        applied(first.renew(&Lease::of(&claim, 1)).await.unwrap());
        applied(first.abandon(&claim.id, &claim.token).await.unwrap());
        let refused = second
            .claim(&claim_of(&key).on_crash(OnCrash::Refuse))
            .await;
        assert_eq!(refused.unwrap(), Claimed::OutcomeUnknown { attempt: 1 });
        let next = claim_of(&key);
        acquire(second, &next, 2, b"").await;
        let lost = first
            .complete(&Lease::of(&claim, 1), Bytes::from_static(b"late"))
            .await;
        assert_eq!(lost.unwrap(), Change::LeaseLost);
        let done = second
            .complete(&Lease::of(&next, 2), Bytes::from_static(b"done"))
            .await;
        applied(done.unwrap());
        replays(first, &key, b"done").await;
        replays(second, &key, b"done").await;

        // And as their engines see them.
        let key = rand::random::<u64>().to_string();
        for store in [first, second] {
            let answer = call(store, &key, OnCrash::Rerun).await.unwrap();
            assert_eq!(answer, "by the engine");
        }
    }
}

/// A record with finished steps is one that the old process cannot read, whether it runs, has crashed or
/// is suspended. It runs nothing, and the next process of this version goes on.
pub(crate) async fn the_old_one_leaves_finished_steps_as_they_are(both: Both<'_>) {
    let Both { old, new } = both;
    for state in ["running", "crashed", "late", "suspended", "taken over"] {
        let key = rand::random::<u64>().to_string();
        let mut claim = claim_of(&key);
        if state == "late" {
            claim.lease = Duration::from_millis(1);
        }
        acquire(new, &claim, 1, b"").await;
        let step = new
            .checkpoint(&Lease::of(&claim, 1), 0, Bytes::from_static(STEPS))
            .await;
        applied(step.unwrap());
        let mut attempt = 1;
        match state {
            "crashed" => applied(new.abandon(&claim.id, &claim.token).await.unwrap()),
            "late" => tokio::time::sleep(Duration::from_millis(5)).await,
            "suspended" => applied(new.suspend(&claim.id, &claim.token).await.unwrap()),
            "taken over" => {
                applied(new.abandon(&claim.id, &claim.token).await.unwrap());
                claim = claim.by_another();
                acquire(new, &claim, 2, STEPS).await;
                attempt = 2;
            }
            _ => {}
        }
        let before = new.inspect(&claim.id).await.unwrap().unwrap();
        for on_crash in [OnCrash::Rerun, OnCrash::Refuse] {
            let error = call(old, &key, on_crash).await.unwrap_err();
            assert!(matches!(error, Error::Undecodable(_)), "{state}: {error:?}");
        }
        let mut other = claim_of(&key);
        other.fingerprint = Fingerprint::of("another request").unwrap();
        assert_eq!(old.claim(&other).await.unwrap(), Claimed::Mismatch);
        let stranger = Lease::of(&claim_of(&key), attempt);
        for lost in [
            old.renew(&stranger).await,
            old.complete(&stranger, "x".into()).await,
            old.release(&stranger.id, &stranger.token).await,
            old.abandon(&stranger.id, &stranger.token).await,
        ] {
            assert_eq!(lost.unwrap(), Change::LeaseLost, "{state}");
        }
        let after = new.inspect(&claim.id).await.unwrap().unwrap();
        assert_eq!(after.steps, STEPS, "{state}");
        assert_eq!(
            (after.attempt, after.claimed_at),
            (before.attempt, before.claimed_at)
        );
        match state {
            "suspended" => assert_eq!(after.phase, Phase::Suspended),
            _ => assert!(matches!(after.phase, Phase::Running { .. }), "{state}"),
        }

        if ["running", "taken over"].contains(&state) {
            applied(new.abandon(&claim.id, &claim.token).await.unwrap());
        }
        let next = claim_of(&key);
        acquire(new, &next, attempt + 1, STEPS).await;
        let lease = Lease::of(&next, attempt + 1);
        // What an engine stores.
        let done = Bytes::from_static(b"\x01V\"by the new one\"");
        applied(new.complete(&lease, done).await.unwrap());
        let replayed = call(old, &key, OnCrash::Rerun).await.unwrap();
        assert_eq!(replayed, "by the new one");
    }
}

/// The old process writes over expired records with finished steps, and knows nothing of the steps:
/// nobody is handed them.
pub(crate) async fn steps_of_an_expired_record_stay_gone(both: Both<'_>, database: &impl Expire) {
    let Both { old, new } = both;
    for is_suspended in [false, true] {
        for ends in ["crashes", "completes", "runs"] {
            let key = rand::random::<u64>().to_string();
            let expires = claim_of(&key);
            acquire(new, &expires, 1, b"").await;
            let step = new
                .checkpoint(&Lease::of(&expires, 1), 0, Bytes::from_static(STEPS))
                .await;
            applied(step.unwrap());
            if is_suspended {
                applied(new.suspend(&expires.id, &expires.token).await.unwrap());
            }
            database.expire().await;
            assert_eq!(new.inspect(&expires.id).await.unwrap(), None);
            let claim = claim_of(&key);
            acquire(old, &claim, 1, b"").await;
            let found = new.inspect(&claim.id).await.unwrap().unwrap();
            assert!(matches!(
                found.phase,
                Phase::Running {
                    lease_left: Some(_)
                }
            ));
            assert!(found.steps.is_empty(), "{:?}", found.steps);
            let duplicate = new.claim(&claim_of(&key)).await.unwrap();
            assert!(matches!(duplicate, Claimed::InFlight { .. }));
            match ends {
                "crashes" => {
                    applied(old.abandon(&claim.id, &claim.token).await.unwrap());
                    let refused = new.claim(&claim_of(&key).on_crash(OnCrash::Refuse)).await;
                    assert_eq!(refused.unwrap(), Claimed::OutcomeUnknown { attempt: 1 });
                    acquire(new, &claim_of(&key), 2, b"").await;
                }
                "completes" => {
                    let outcome = Bytes::from_static(b"\x01Voutcome");
                    let done = old.complete(&Lease::of(&claim, 1), outcome.clone()).await;
                    applied(done.unwrap());
                    replays(new, &key, &outcome).await;
                    let found = new.inspect(&claim.id).await.unwrap().unwrap();
                    assert_eq!(found.phase, Phase::Finished { outcome });
                    assert!(found.steps.is_empty());
                }
                _ => {}
            }
        }
    }
}
