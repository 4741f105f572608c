//! The store of one process. Its records end with the process, and none is dropped before its time.
//!
//! Records are in a sharded map, running and finished ones alike: each transition is one look-up under
//! one lock. Beside its records a shard keeps, in order, when to look whether they have expired. Claims
//! do that for a few records each, so that no task has to run.

mod clock;
mod looks;
mod records;
mod shard;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Cursor, Finding, Fingerprint, Forgotten, ImmediateStore, Inspection,
    Lease, Listing, Maintenance, Page, RecordId, Seen, Store, StoreError, Swept, Token, Watch,
};

pub use clock::ManualClock;
use clock::{Clock, RuntimeClock};
use records::{RECORD_BYTES, Record};
use shard::Shard;

const NAME: &str = "memory";

const SHARDS: usize = 64;

/// How many expired records one claim removes. More than one, so that claims catch up.
const EXPIRED_PER_CLAIM: usize = 16;

/// Settings of a [`MemoryStore`].
#[must_use]
pub struct MemoryStoreBuilder {
    max_bytes: u64,
    clock: Arc<dyn Clock>,
}

impl MemoryStoreBuilder {
    /// The most bytes that all records together may take; 256 MiB unless given.
    ///
    /// At the bound, claims of new records fail with [`StoreError::Full`]. No stored record is evicted,
    /// because its retry would run again. Completions are always taken, so the outcomes of running
    /// attempts can exceed the bound.
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Measures leases and retention by a clock that the caller moves.
    pub fn manual_clock(mut self, clock: ManualClock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the store.
    pub fn build(self) -> MemoryStore {
        MemoryStore {
            inner: Arc::new(Inner {
                clock: self.clock,
                max_bytes: self.max_bytes,
                used: AtomicU64::new(0),
                shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            }),
        }
    }
}

impl fmt::Debug for MemoryStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStoreBuilder")
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

/// Keeps records in this process. Clones share them.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    max_bytes: u64,
    used: AtomicU64,
    shards: Box<[Mutex<Shard>]>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// A store with every setting at its default.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Starts a store.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            max_bytes: 256 * 1024 * 1024,
            clock: Arc::new(RuntimeClock::new()),
        }
    }

    /// The bytes that all records together take now.
    pub fn used_bytes(&self) -> u64 {
        self.inner.used.load(Ordering::Acquire)
    }

    /// Frees the memory of all expired records. Claims free it bit by bit, and all of it at the bound.
    pub fn sweep(&self) {
        let now = self.inner.clock.now();
        for shard in &self.inner.shards {
            let freed = lock(shard).remove_expired(now, usize::MAX);
            self.inner.free(freed);
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn shard(&self, id: &RecordId) -> MutexGuard<'_, Shard> {
        // A byte that the map's own hash does not use.
        lock(&self.shards[usize::from(id.as_bytes()[31]) % SHARDS])
    }

    fn free(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
        }
    }

    /// Reserves the bytes of one more record, if it fits.
    fn reserve(&self) -> bool {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(RECORD_BYTES)
                    .filter(|used| *used <= self.max_bytes)
            })
            .is_ok()
    }

    /// One claim. `None` if it would create a record that does not fit.
    fn claim(&self, claim: &Claim) -> Option<Claimed> {
        let now = self.clock.now();
        let mut shard = self.shard(&claim.id);
        self.free(shard.remove_expired(now, EXPIRED_PER_CLAIM));
        if let Some(record) = shard.get_mut(&claim.id, now) {
            return Some(record.claim(claim, now, &*self.clock));
        }
        let fits = self.create_first(&mut shard, claim, now);
        fits.then_some(Claimed::acquired(1))
    }

    /// Creates the record of a first claim, if it fits.
    fn create_first(&self, shard: &mut Shard, claim: &Claim, now: Duration) -> bool {
        let fits = self.reserve();
        if fits {
            self.create(shard, &Lease::of(claim, 1), now);
        }
        fits
    }

    /// Inserts a running record, whose bytes are reserved.
    fn create(&self, shard: &mut Shard, lease: &Lease, now: Duration) {
        // It may be finished at once.
        let look_at = now.saturating_add(lease.retention);
        self.free(shard.insert(lease.id, Record::of(lease, now), look_at));
    }

    /// The record that a lease was claimed for. One that the store has forgotten is created again where
    /// its owner's lease is unbroken. The bound does not apply then: the attempt may have had an effect.
    fn owned<'a>(
        &self,
        shard: &'a mut Shard,
        lease: &Lease,
        now: Duration,
    ) -> Option<&'a mut Record> {
        if lease.unbroken && shard.get(&lease.id, now).is_none() {
            self.used.fetch_add(RECORD_BYTES, Ordering::AcqRel);
            self.create(shard, lease, now);
        }
        shard.get_mut(&lease.id, now)
    }

    fn renew(&self, lease: &Lease) -> Change {
        let now = self.clock.now();
        let mut shard = self.shard(&lease.id);
        match self.owned(&mut shard, lease, now) {
            Some(record) if record.is_held_by(&lease.token) => {
                record.set_lease(now, lease.duration, lease.retention);
                Change::Applied
            }
            _ => Change::LeaseLost,
        }
    }

    fn complete(&self, lease: &Lease, outcome: Bytes) -> Change {
        let now = self.clock.now();
        let mut shard = self.shard(&lease.id);
        match self.owned(&mut shard, lease, now) {
            Some(record) if record.is_held_by(&lease.token) => {
                let before = record.bytes();
                record.finish(outcome, now, lease.retention);
                self.used.fetch_add(record.bytes(), Ordering::AcqRel);
                self.free(before);
                Change::Applied
            }
            // The same completion again: its answer was lost.
            Some(record) if record.is_finished_by(&lease.token) => Change::Applied,
            _ => Change::LeaseLost,
        }
    }

    fn release(&self, id: &RecordId, token: &Token) -> Change {
        let now = self.clock.now();
        let mut shard = self.shard(id);
        match shard.get_mut(id, now) {
            Some(record) if record.is_held_by(token) && record.has_steps() => {
                record.end_lease(now, true);
                Change::Applied
            }
            Some(record) if record.is_held_by(token) => {
                self.free(shard.remove(id));
                Change::Applied
            }
            _ => Change::LeaseLost,
        }
    }

    /// Ends the lease, and suspends the record or leaves it crashed.
    fn end_lease(&self, id: &RecordId, token: &Token, is_suspended: bool) -> Change {
        let now = self.clock.now();
        match self.shard(id).get_mut(id, now) {
            Some(record) if record.is_held_by(token) => {
                record.end_lease(now, is_suspended);
                Change::Applied
            }
            _ => Change::LeaseLost,
        }
    }

    fn checkpoint(&self, lease: &Lease, at: usize, steps: &[u8]) -> Change {
        let now = self.clock.now();
        let mut shard = self.shard(&lease.id);
        let record = shard.get_mut(&lease.id, now);
        let held = record.filter(|record| record.is_held_by(&lease.token));
        match held.and_then(|record| record.append(at, steps)) {
            Some(appended) => {
                self.used.fetch_add(appended as u64, Ordering::AcqRel);
                Change::Applied
            }
            None => Change::LeaseLost,
        }
    }

    /// The records after the cursor, in the order of their ids.
    fn list(&self, listing: &Listing) -> Page {
        let now = self.clock.now();
        let after = listing.after.as_ref().map(|after| after.as_str().parse());
        let after: Option<RecordId> = after.and_then(Result::ok);
        let mut found = BTreeMap::new();
        for shard in &self.shards {
            for (id, record) in lock(shard).iter(now) {
                let listed = record.listed(*id, now, &*self.clock);
                if after.is_none_or(|after| *id > after)
                    && listing.includes(listed.state, &listed.operation)
                {
                    found.insert(*id, listed);
                    // One more than is asked for tells that there are more.
                    if found.len() > listing.limit() + 1 {
                        found.pop_last();
                    }
                }
            }
        }
        let more = found.len() > listing.limit();
        let records: Vec<_> = found.into_values().take(listing.limit()).collect();
        let next = records.last().filter(|_| more);
        let next = next.map(|last| Cursor::new(last.id.to_string()));
        Page::new(records, next)
    }

    /// `None` was seen: whatever it says.
    fn forget(&self, id: &RecordId, seen: Option<Seen>) -> Forgotten {
        let now = self.clock.now();
        let mut shard = self.shard(id);
        let Some(record) = shard.get(id, now) else {
            return Forgotten::Absent;
        };
        if let Some(lease_left) = record.lease_left(now) {
            return Forgotten::Running { lease_left };
        }
        if seen.is_some_and(|seen| seen != record.seen(now)) {
            return Forgotten::NotAsSeen;
        }
        self.free(shard.remove(id));
        Forgotten::Removed
    }
}

impl ImmediateStore for Inner {
    fn find_finished(&self, id: &RecordId, fingerprint: &Fingerprint) -> Option<Bytes> {
        let now = self.clock.now();
        self.shard(id).get(id, now)?.finished(fingerprint)
    }

    fn claim_absent(&self, claim: &Claim) -> bool {
        let now = self.clock.now();
        let mut shard = self.shard(&claim.id);
        self.free(shard.remove_expired(now, EXPIRED_PER_CLAIM));
        shard.get(&claim.id, now).is_none() && self.create_first(&mut shard, claim, now)
    }

    fn complete_held(&self, lease: &Lease, outcome: &Bytes) -> bool {
        self.complete(lease, outcome.clone()) == Change::Applied
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn immediate(&self) -> Option<&dyn ImmediateStore> {
        Some(&*self.inner)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        if let Some(claimed) = self.inner.claim(claim) {
            return Ok(claimed);
        }
        self.sweep();
        self.inner.claim(claim).ok_or(StoreError::Full {
            store: NAME,
            max_bytes: Some(self.inner.max_bytes),
        })
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        Ok(self.inner.renew(lease))
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        Ok(self.inner.complete(lease, outcome))
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.inner.release(id, token))
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.inner.end_lease(id, token, false))
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        Ok(self.inner.checkpoint(lease, at, &steps))
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.inner.end_lease(id, token, true))
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let now = self.inner.clock.now();
        let shard = self.inner.shard(id);
        let record = shard.get(id, now);
        Ok(record.map(|record| record.inspect(now, &*self.inner.clock)))
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let now = self.inner.clock.now();
        let mut shard = self.inner.shard(id);
        let Some(mut watching) = shard.get_mut(id, now).and_then(Record::watch) else {
            return Ok(Watch::new(std::future::ready(())));
        };
        Ok(Watch::new(async move {
            // The sender is dropped when the record changes, which is an error here.
            let _ = watching.changed().await;
        }))
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        Ok(self.inner.list(listing))
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        Ok(self.inner.forget(id, None))
    }
}

#[async_trait]
impl Maintenance for MemoryStore {
    async fn time(&self) -> Result<SystemTime, StoreError> {
        let clock = &self.inner.clock;
        Ok(clock.time(clock.now()).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let (used, max) = (self.used_bytes(), self.inner.max_bytes);
        let found = format!("{used} of {max} bytes");
        Ok(vec![match used >= max / 10 * 9 {
            false => Finding::fine("bound", found),
            true => Finding::warning(
                "bound",
                found,
                "the memory store is almost full, and refuses new records when it is",
                "raise max_bytes, shorten the ttl, or use a store outside of the process",
            ),
        }])
    }

    async fn sweep(&self, _max_records: u32) -> Result<Swept, StoreError> {
        Ok(Swept::ByServer)
    }

    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        let now = self.inner.clock.now();
        match self.inner.shard(id).get_mut(id, now) {
            Some(record) if record.is_held_as(attempt) => {
                record.end_lease(now, false);
                Ok(Change::Applied)
            }
            _ => Ok(Change::LeaseLost),
        }
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        Ok(self.inner.forget(id, Some(seen)))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_bytes", &self.inner.max_bytes)
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}
