//! Records on stores: the memory store, and what it could be made of.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use idem::store::{Change, Claim, Claimed, Lease, Store, Token};
use idem::stores::memory::MemoryStore;
use idem::{Fingerprint, Key, RecordId};
use moka::Expiry;
use moka::sync::Cache;

use crate::Sequence;

/// How long finished records are kept.
pub const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
const LEASE: Duration = Duration::from_secs(30);

/// What is stored.
pub const OUTCOME_BYTES: usize = 300;

/// Something that keeps records.
pub trait Shelf {
    /// The first claim.
    fn claim(&self, claim: &Claim);
    /// The end.
    fn complete(&self, claim: &Claim, outcome: Bytes);
    /// A claim that finds the outcome.
    fn replay(&self, claim: &Claim) -> Bytes;
}

/// Claims of so many records.
pub fn claims(count: usize) -> Vec<Claim> {
    claims_of(0..count)
}

/// Claims of the records with these numbers.
///
/// # Panics
/// Never: integers are keys and have fingerprints.
pub fn claims_of(numbers: Range<usize>) -> Vec<Claim> {
    let fingerprint = Fingerprint::of(&1).expect("an integer has a fingerprint");
    numbers
        .map(|number| {
            let key = Key::of(&number).expect("an integer is a key");
            let id = RecordId::derive("", "bench", None, &key);
            Claim::new(id, fingerprint, LEASE, RETENTION)
        })
        .collect()
}

/// Outcomes, each with memory of its own.
pub fn outcomes(count: usize) -> Vec<Bytes> {
    (0..count)
        .map(|_| Bytes::copy_from_slice(&[7; OUTCOME_BYTES]))
        .collect()
}

/// Indices in no order.
#[allow(clippy::cast_possible_truncation)]
pub fn shuffled(count: usize) -> Vec<usize> {
    Sequence::new(1)
        .map(|random| random as usize % count)
        .take(count)
        .collect()
}

impl Shelf for MemoryStore {
    fn claim(&self, claim: &Claim) {
        let claimed = Store::claim(self, claim).now_or_never();
        assert!(matches!(claimed, Some(Ok(Claimed::Acquired { .. }))));
    }

    fn complete(&self, claim: &Claim, outcome: Bytes) {
        let changed = Store::complete(self, &Lease::of(claim, 1), outcome).now_or_never();
        assert!(matches!(changed, Some(Ok(Change::Applied))));
    }

    fn replay(&self, claim: &Claim) -> Bytes {
        match Store::claim(self, claim).now_or_never() {
            Some(Ok(Claimed::Finished { outcome, .. })) => outcome,
            _ => Bytes::new(),
        }
    }
}

/// What the naked shelves keep: as much as a record needs.
#[derive(Clone)]
pub struct Record {
    fingerprint: Fingerprint,
    token: Token,
    until: Instant,
    outcome: Option<Bytes>,
}

impl Record {
    fn running(claim: &Claim) -> Self {
        Self {
            fingerprint: claim.fingerprint,
            token: claim.token,
            until: Instant::now() + claim.lease,
            outcome: None,
        }
    }

    fn finished(claim: &Claim, outcome: Bytes) -> Self {
        Self {
            until: Instant::now() + claim.retention,
            outcome: Some(outcome),
            ..Self::running(claim)
        }
    }

    fn replay(&self, claim: &Claim) -> Bytes {
        assert!(self.fingerprint == claim.fingerprint && Instant::now() < self.until);
        self.outcome.clone().unwrap_or_default()
    }
}

const SHARDS: usize = 64;

/// Mutexes around hash maps. Nothing is ever forgotten.
pub struct Sharded(Vec<Mutex<HashMap<RecordId, Record>>>);

impl Default for Sharded {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Sharded {
    fn shard(&self, claim: &Claim) -> MutexGuard<'_, HashMap<RecordId, Record>> {
        self.0[usize::from(claim.id.as_bytes()[0]) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf for Sharded {
    fn claim(&self, claim: &Claim) {
        if let Entry::Vacant(vacant) = self.shard(claim).entry(claim.id) {
            vacant.insert(Record::running(claim));
        }
    }

    fn complete(&self, claim: &Claim, outcome: Bytes) {
        if let Some(record) = self.shard(claim).get_mut(&claim.id)
            && record.token == claim.token
        {
            *record = Record::finished(claim, outcome);
        }
    }

    fn replay(&self, claim: &Claim) -> Bytes {
        let shard = self.shard(claim);
        let record = shard.get(&claim.id);
        record
            .map(|record| record.replay(claim))
            .unwrap_or_default()
    }
}

/// One moka cache, with or without an expiry for every entry. Two claims at once could both
/// win here.
pub struct Moka(Cache<RecordId, Record>);

impl Moka {
    /// Nothing is ever forgotten.
    pub fn lasting() -> Self {
        Self(Cache::builder().build())
    }

    /// Every entry has a time of its own, as retention asks.
    pub fn expiring() -> Self {
        Self(Cache::builder().expire_after(Until).build())
    }
}

struct Until;

impl Expiry<RecordId, Record> for Until {
    fn expire_after_create(&self, _: &RecordId, record: &Record, now: Instant) -> Option<Duration> {
        Some(record.until - now)
    }

    fn expire_after_update(
        &self,
        _: &RecordId,
        record: &Record,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(record.until - now)
    }
}

impl Shelf for Moka {
    fn claim(&self, claim: &Claim) {
        if self.0.get(&claim.id).is_none() {
            self.0.insert(claim.id, Record::running(claim));
        }
    }

    fn complete(&self, claim: &Claim, outcome: Bytes) {
        self.0.insert(claim.id, Record::finished(claim, outcome));
    }

    fn replay(&self, claim: &Claim) -> Bytes {
        let record = self.0.get(&claim.id);
        record
            .map(|record| record.replay(claim))
            .unwrap_or_default()
    }
}
