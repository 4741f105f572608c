//! Wrong clocks: of the process, of the machine that stood still. The service's clock alone counts.

use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::Client;
use idem::store::{Change, Claim, Claimed, Lease, Store};
use idem::stores::dynamodb::DynamoDbStore;
use idem::{Fingerprint, Phase, RecordId};
use idem_tests::dynamodb::config_at;
use idem_tests::{DynamoDb, Emulator};

use crate::proxy::{Fate, Proxy, counts};

const HOUR: i64 = 3600;

pub(crate) fn claim() -> Claim {
    Claim::new(
        RecordId::from_bytes([0; 32]),
        Fingerprint::of("request").unwrap(),
        Duration::from_secs(30),
        Duration::from_secs(3600),
    )
}

pub(crate) fn claim_of(number: u8) -> Claim {
    let mut claim = claim();
    claim.id = RecordId::from_bytes([number; 32]);
    claim
}

/// What the SDK signs with: this machine's clock, and so many seconds.
#[derive(Debug)]
struct WallClock(i64);

impl aws_smithy_async::time::TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        let off = Duration::from_secs(self.0.unsigned_abs());
        match self.0 >= 0 {
            true => SystemTime::now() + off,
            false => SystemTime::now() - off,
        }
    }
}

/// A process whose wall clock is so many seconds off.
async fn process(proxy: &Proxy, seconds: i64) -> DynamoDbStore {
    let config = config_at(proxy.port()).time_source(WallClock(seconds));
    let client = Client::from_conf(config.build());
    let builder = DynamoDbStore::with_client(&client, proxy.table()).unwrap();
    builder
        .timeout(Duration::from_secs(60))
        .connect()
        .await
        .unwrap()
}

/// Refuses signatures that are five minutes off, as the service does.
pub(crate) fn strict(proxy: &Proxy) {
    proxy.rule(|request| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap().as_secs()).unwrap();
        match (request.signed - now).abs() > 300 {
            true => Fate::error(403, "InvalidSignatureException"),
            false => Fate::Passes,
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_whose_wall_clocks_are_hours_apart_neither_steal_nor_lose_a_lease() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let proxy = Proxy::to(&server);
    strict(&proxy);
    // The SDK signs once more by the service's clock.
    let [early, late] = [process(&proxy, -HOUR).await, process(&proxy, HOUR).await];
    for (number, owner, other) in [(1, &early, &late), (2, &late, &early)] {
        let first = claim_of(number).lease(Duration::from_secs(2));
        assert_eq!(owner.claim(&first).await.unwrap(), Claimed::acquired(1));
        let second = first.by_another();
        for _ in 0..3 {
            let answer = other.claim(&second).await.unwrap();
            assert!(matches!(answer, Claimed::InFlight { .. }), "{answer:?}");
        }
        let lease = Lease::of(&first, 1);
        assert_eq!(owner.renew(&lease).await.unwrap(), Change::Applied);
        let outcome = bytes::Bytes::from_static(b"done");
        let change = owner.complete(&lease, outcome.clone()).await.unwrap();
        assert_eq!(change, Change::Applied);
        let answer = other.claim(&second).await.unwrap();
        assert!(
            matches!(&answer, Claimed::Finished { outcome: kept, .. } if *kept == outcome),
            "{answer:?}"
        );
    }
    // A crash of one is seen by the other, and no later than a right clock would have it.
    let crashed = claim_of(3).lease(Duration::from_secs(1));
    assert_eq!(early.claim(&crashed).await.unwrap(), Claimed::acquired(1));
    let next = crashed.by_another();
    let taken_over = async {
        loop {
            match late.claim(&next).await.unwrap() {
                Claimed::InFlight { .. } => tokio::time::sleep(Duration::from_millis(50)).await,
                answer => return answer,
            }
        }
    };
    // Its clock is two hours behind: it bounds a hang, and says nothing of speed.
    let answer = tokio::time::timeout(Duration::from_secs(60), taken_over).await;
    assert_eq!(answer.expect("a crash that is seen"), Claimed::acquired(2));
}

#[tokio::test]
async fn the_first_call_of_a_process_whose_wall_clock_is_off_is_signed_twice_and_no_other() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let proxy = Proxy::to(&server);
    strict(&proxy);
    let store = process(&proxy, HOUR).await;
    let refused: Vec<_> = proxy
        .passed()
        .into_iter()
        .filter(|passed| passed.status == 403)
        .map(|passed| passed.request.operation)
        .collect();
    // Each of the store's two clients learns it for itself; the first look is one of them.
    assert_eq!(refused, ["GetItem"]);
    store.claim(&claim_of(1)).await.unwrap();
    assert_eq!(proxy.counts(), counts(&[("PutItem", 1)]));
}

/// A virtual machine that was stopped, and its monotonic clock with it, knows the service's clock of before.
#[tokio::test]
async fn a_lease_that_was_counted_from_a_clock_that_stood_still_is_written_again() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let (proxy, elsewhere) = (Proxy::to(&server), Proxy::to(&server));
    let slept = proxy.store().await;
    for proxy in [&proxy, &elsewhere] {
        proxy.set_clock_off(HOUR);
    }
    let other = elsewhere.store().await;
    proxy.passed();

    let first = claim_of(1);
    assert_eq!(slept.claim(&first).await.unwrap(), Claimed::acquired(1));
    assert_eq!(proxy.counts(), counts(&[("PutItem", 1), ("UpdateItem", 1)]));
    let answer = other.claim(&first.by_another()).await.unwrap();
    assert!(matches!(answer, Claimed::InFlight { .. }), "{answer:?}");

    // From then on it knows.
    let second = claim_of(2);
    assert_eq!(slept.claim(&second).await.unwrap(), Claimed::acquired(1));
    assert_eq!(proxy.counts(), counts(&[("PutItem", 1)]));

    // It sleeps again, between a claim and its end.
    for proxy in [&proxy, &elsewhere] {
        proxy.set_clock_off(HOUR + 20);
    }
    let lease = Lease::of(&second, 1);
    assert_eq!(slept.renew(&lease).await.unwrap(), Change::Applied);
    assert_eq!(proxy.counts(), counts(&[("UpdateItem", 2)]));
    for proxy in [&proxy, &elsewhere] {
        proxy.set_clock_off(HOUR + 45);
    }
    let outcome = bytes::Bytes::from_static(b"done");
    let short = Lease::of(&second.retention(Duration::from_secs(10)), 1);
    assert_eq!(
        slept.complete(&short, outcome).await.unwrap(),
        Change::Applied
    );
    assert_eq!(proxy.counts(), counts(&[("UpdateItem", 2)]));
    let seen = other.inspect(&second.id).await.unwrap().unwrap();
    assert!(matches!(seen.phase, Phase::Finished { .. }), "{seen:?}");
}

/// The lease is not proven, and cannot be: the claim is made all the same, and somebody has to undo it.
#[tokio::test]
async fn a_claim_that_was_made_and_not_proven_says_that_it_may_have_been_made() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let proxy = Proxy::to(&server);
    let store = proxy.store().await;
    proxy.set_clock_off(HOUR);
    proxy.rule(|request| match request.operation.as_str() {
        "UpdateItem" => Fate::error(400, "ThrottlingException"),
        _ => Fate::Passes,
    });
    let claim = claim_of(1);
    let error = store.claim(&claim).await.unwrap_err();
    assert!(error.may_have_effect(), "{error:?}");
    proxy.rule(|_| Fate::Passes);
    let change = store.release(&claim.id, &claim.token).await;
    assert_eq!(change.unwrap(), Change::Applied);
    assert_eq!(store.inspect(&claim.id).await.unwrap(), None);
}

/// A process that sleeps for longer than its lease is overtaken, whatever its own clock says; and it cannot
/// end the record that is not its own any more.
#[tokio::test]
async fn whoever_slept_past_its_lease_is_overtaken() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let (proxy, elsewhere) = (Proxy::to(&server), Proxy::to(&server));
    let (slept, other) = (proxy.store().await, elsewhere.store().await);
    let first = claim_of(1);
    assert_eq!(slept.claim(&first).await.unwrap(), Claimed::acquired(1));
    // Two seconds of margin, and the one that a `Date` leaves open.
    elsewhere.set_clock_off(30);
    let answer = other.claim(&first.by_another()).await.unwrap();
    assert!(matches!(answer, Claimed::InFlight { .. }), "{answer:?}");
    elsewhere.set_clock_off(34);
    let next = first.by_another();
    assert_eq!(other.claim(&next).await.unwrap(), Claimed::acquired(2));
    let lease = Lease::of(&first, 1);
    let outcome = bytes::Bytes::from_static(b"late");
    assert_eq!(
        slept.complete(&lease, outcome).await.unwrap(),
        Change::LeaseLost
    );
    assert_eq!(slept.renew(&lease).await.unwrap(), Change::LeaseLost);
}

#[tokio::test]
async fn a_service_without_a_date_is_no_store() {
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start(emulator).await;
    let proxy = Proxy::to(&server);
    proxy.hide_clock();
    let error = proxy.builder().connect().await.unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("no Date header"), "{error}");
}
