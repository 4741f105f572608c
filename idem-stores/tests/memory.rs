//! The memory store: the conformance suite, its bound, and when it gives memory back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::conformance::{self, Harness};
use idem_core::{
    Change, Claim, Claimed, Fingerprint, Forgotten, ImmediateStore, Inspection, Lease, Listing,
    Page, RecordId, Store, StoreError, Token, Watch,
};
use idem_stores::memory::{ManualClock, MemoryStore};

struct OnManualClock {
    store: MemoryStore,
    clock: ManualClock,
}

#[async_trait]
impl Harness for OnManualClock {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn notifies(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_on_a_manual_clock() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().manual_clock(clock.clone()).build();
    conformance::assert_conforms(&OnManualClock { store, clock }).await;
}

struct OnRealTime(MemoryStore);

#[async_trait]
impl Harness for OnRealTime {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn notifies(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_in_real_time() {
    conformance::assert_conforms(&OnRealTime(MemoryStore::new())).await;
}

/// Asks for whatever the store answers at once in that way first, as the engine does.
struct AtOnce(MemoryStore);

impl AtOnce {
    fn immediate(&self) -> &dyn ImmediateStore {
        self.0.immediate().unwrap()
    }
}

#[async_trait]
impl Store for AtOnce {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        if !claim.ask_retention
            && let Some(outcome) = self
                .immediate()
                .find_finished(&claim.id, &claim.fingerprint)
        {
            return Ok(Claimed::finished(outcome));
        }
        match self.immediate().claim_absent(claim) {
            true => Ok(Claimed::acquired(1)),
            false => self.0.claim(claim).await,
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        self.0.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        match self.immediate().complete_held(lease, &outcome) {
            true => Ok(Change::Applied),
            false => self.0.complete(lease, outcome).await,
        }
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.0.release(id, token).await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.0.abandon(id, token).await
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        self.0.checkpoint(lease, at, steps).await
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        self.0.suspend(id, token).await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.0.inspect(id).await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        self.0.watch(id).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        self.0.list(listing).await
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        self.0.forget(id).await
    }
}

struct OnManualClockAtOnce(OnManualClock);

#[async_trait]
impl Harness for OnManualClockAtOnce {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(AtOnce(self.0.store.clone()))
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by).await;
    }

    fn lease(&self) -> Duration {
        self.0.lease()
    }

    fn notifies(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_where_it_answers_at_once() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().manual_clock(clock.clone()).build();
    let harness = OnManualClockAtOnce(OnManualClock { store, clock });
    conformance::assert_conforms(&harness).await;
}

const LEASE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(3600);

fn claim(number: u8) -> Claim {
    Claim::new(
        RecordId::from_bytes([number; 32]),
        Fingerprint::of("request").unwrap(),
        LEASE,
        TTL,
    )
}

async fn finish(store: &MemoryStore, claim: &Claim, outcome: Bytes) {
    let acquired = store.claim(claim).await.unwrap();
    assert_eq!(acquired, Claimed::acquired(1));
    let completed = store.complete(&Lease::of(claim, 1), outcome).await;
    assert_eq!(completed.unwrap(), Change::Applied);
}

fn is_full(answer: &Result<Claimed, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Full { .. }))
}

#[tokio::test]
async fn at_the_bound_new_claims_are_refused_and_nothing_is_dropped() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder()
        .manual_clock(clock.clone())
        .max_bytes(4500)
        .build();
    let (finished, running, crashed) = (claim(1), claim(2), claim(3));
    finish(&store, &finished, Bytes::from(vec![7; 2500])).await;
    store.claim(&running).await.unwrap();
    store.claim(&crashed).await.unwrap();
    let _ = store.abandon(&crashed.id, &crashed.token).await.unwrap();

    let refused = store.claim(&claim(4)).await;
    assert!(is_full(&refused), "{refused:?}");
    assert!(store.used_bytes() <= 4500);
    // What is there is all there, and a completion is taken past the bound.
    let replay = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(replay, Claimed::Finished { .. }));
    let duplicate = store.claim(&claim(2)).await.unwrap();
    assert!(matches!(duplicate, Claimed::InFlight { .. }));
    let takeover = store.claim(&claim(3)).await.unwrap();
    assert_eq!(takeover, Claimed::acquired(2));
    let outcome = Bytes::from(vec![8; 2500]);
    let completed = store.complete(&Lease::of(&running, 1), outcome).await;
    assert_eq!(completed.unwrap(), Change::Applied);
    assert!(is_full(&store.claim(&claim(4)).await));

    // When their time is over, there is room again.
    clock.advance(TTL + LEASE);
    assert_eq!(store.claim(&claim(4)).await.unwrap(), Claimed::acquired(1));
}

#[tokio::test]
async fn every_way_out_gives_the_bytes_back() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().manual_clock(clock.clone()).build();
    for number in 0..50 {
        let claim = claim(number);
        match number % 3 {
            0 => finish(&store, &claim, Bytes::from_static(b"outcome")).await,
            1 => {
                store.claim(&claim).await.unwrap();
                let _ = store.release(&claim.id, &claim.token).await.unwrap();
            }
            _ => {
                store.claim(&claim).await.unwrap();
                let _ = store.abandon(&claim.id, &claim.token).await.unwrap();
            }
        }
    }
    assert!(store.used_bytes() > 0);
    clock.advance(TTL + LEASE);
    // A record that begins again in the place of one whose time is over is weighed once.
    finish(&store, &claim(0), Bytes::from_static(b"again")).await;
    store.sweep();
    let one = store.used_bytes();
    clock.advance(TTL);
    store.sweep();
    assert_eq!(store.used_bytes(), 0);
    finish(&store, &claim(0), Bytes::from_static(b"again")).await;
    assert_eq!(store.used_bytes(), one);
}

/// A record of this shard.
fn claim_in(shard: u8, number: u32) -> Claim {
    let mut id = [shard; 32];
    id[..4].copy_from_slice(&number.to_le_bytes());
    let fingerprint = Fingerprint::of("request").unwrap();
    Claim::new(RecordId::from_bytes(id), fingerprint, LEASE, TTL)
}

#[tokio::test]
async fn claims_free_what_has_expired_as_they_come() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().manual_clock(clock.clone()).build();
    for number in 0..1000 {
        finish(&store, &claim_in(7, number), Bytes::from(vec![7; 100])).await;
        clock.advance(Duration::from_millis(1));
    }
    let full = store.used_bytes();
    // Half of them have expired; fewer claims than that free them all.
    clock.advance(TTL - Duration::from_millis(501));
    for number in 0..125 {
        let other = claim_in(7, 1000 + number);
        store.claim(&other).await.unwrap();
        let _ = store.release(&other.id, &other.token).await.unwrap();
    }
    assert_eq!(store.used_bytes() * 2, full);
    let replay = store.claim(&claim_in(7, 999)).await.unwrap();
    assert!(matches!(replay, Claimed::Finished { .. }));
}

#[tokio::test]
async fn a_record_whose_lease_is_renewed_outlives_its_first_retention() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().manual_clock(clock.clone()).build();
    let running = claim(1);
    store.claim(&running).await.unwrap();
    for _ in 0..4 {
        clock.advance(TTL / 2);
        let renewed = store.renew(&Lease::of(&running, 1)).await.unwrap();
        assert_eq!(renewed, Change::Applied);
        store.sweep();
    }
    let duplicate = store.claim(&running.by_another()).await.unwrap();
    assert!(matches!(duplicate, Claimed::InFlight { .. }));
    clock.advance(TTL + LEASE);
    store.sweep();
    assert_eq!(store.used_bytes(), 0);
}

#[tokio::test]
async fn urls_say_what_the_store_is_or_what_is_wrong() {
    for url in ["memory://", "memory://?", "memory://?max_bytes=100000"] {
        assert_eq!(idem_stores::connect(url).await.unwrap().name(), "memory");
    }
    let small = idem_stores::connect("memory://?max_bytes=1").await.unwrap();
    assert!(is_full(&small.claim(&claim(1)).await));
    let wrong = [
        ("memory", "no scheme"),
        ("memory://host", "no host"),
        ("memory://?max_bytes=much", "max_bytes=N"),
        ("memory://?size=1", "max_bytes=N"),
        ("memcached://user:secret@host", "memory://"),
    ];
    for (url, hint) in wrong {
        let Err(error) = idem_stores::connect(url).await else {
            panic!("{url} is no store");
        };
        let message = format!("{error} {error:?}");
        assert!(message.contains(hint), "{message}");
        assert!(!message.contains("secret"));
    }
}
