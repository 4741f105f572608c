//! The store of one process. Its records end with the process, and none is dropped before its time.
//!
//! Running records are in a sharded map. Finished records are in a moka cache that removes them when their
//! retention is over. A record's shard is locked during each of its transitions, for both, so that every
//! transition is one atomic step. Moka's own entry methods are not used for that: they exclude each other
//! only within one kind.

mod clock;
mod records;

use std::collections::hash_map::{Entry, OccupiedEntry};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Cursor, Forgotten, Inspection, Lease, Listed, Listing, Page, Phase,
    RecordHasher, RecordId, RecordState, Store, StoreError, Token, Watch,
};
use moka::sync::Cache;
use tokio::sync::watch;

pub use clock::ManualClock;
use clock::{Clock, RuntimeClock};
use records::{Finished, RECORD_BYTES, Retention, Running};

const NAME: &str = "memory";

const SHARDS: usize = 64;

/// Settings of a [`MemoryStore`].
#[must_use]
pub struct MemoryStoreBuilder {
    max_bytes: u64,
    clock: Arc<dyn Clock>,
    moka_expires: bool,
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

    /// Measures leases and retention by a clock that the caller moves. The memory of expired records is
    /// then freed at the bound, and by [`MemoryStore::sweep`].
    pub fn manual_clock(mut self, clock: ManualClock) -> Self {
        self.clock = Arc::new(clock);
        self.moka_expires = false;
        self
    }

    /// Builds the store.
    pub fn build(self) -> MemoryStore {
        let used = Arc::new(AtomicU64::new(0));
        let freed = Arc::clone(&used);
        let finished = Cache::builder()
            .eviction_listener(move |_, record: Arc<Finished>, _| {
                freed.fetch_sub(record.bytes(), Ordering::AcqRel);
            })
            .expire_after(Retention {
                applies: self.moka_expires,
            })
            .build_with_hasher(RecordHasher::default());
        MemoryStore {
            inner: Arc::new(Inner {
                clock: self.clock,
                clock_is_manual: !self.moka_expires,
                max_bytes: self.max_bytes,
                used,
                running: (0..SHARDS).map(|_| Mutex::default()).collect(),
                finished,
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
    clock_is_manual: bool,
    max_bytes: u64,
    used: Arc<AtomicU64>,
    running: Box<[Mutex<Shard>]>,
    finished: Cache<RecordId, Arc<Finished>, RecordHasher>,
}

#[derive(Default)]
struct Shard {
    records: HashMap<RecordId, Running, RecordHasher>,
    /// No record of the shard expires before this time.
    next_expiry: Duration,
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
            moka_expires: true,
        }
    }

    /// The bytes that all records together take now.
    pub fn used_bytes(&self) -> u64 {
        self.inner.used.load(Ordering::Acquire)
    }

    fn remove_expired(&self) {
        let now = self.inner.clock.now();
        for shard in &self.inner.running {
            self.inner.remove_expired(&mut lock(shard), now);
        }
    }

    /// Frees the memory of all expired records. Needed with a manual clock only.
    pub fn sweep(&self) {
        self.remove_expired();
        let now = self.inner.clock.now();
        let expired: Vec<RecordId> = self
            .inner
            .finished
            .iter()
            .filter(|(_, record)| record.expires_at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            // Under the lock: a new record of this id may have been finished since.
            let _shard = self.inner.shard(&id);
            if self
                .inner
                .finished
                .get(&id)
                .is_some_and(|record| record.expires_at <= now)
            {
                self.inner.finished.invalidate(&id);
            }
        }
        self.inner.finished.run_pending_tasks();
    }

    /// Frees the memory of expired records.
    fn free_expired(&self) {
        if self.inner.clock_is_manual {
            self.sweep();
        } else {
            self.remove_expired();
            self.inner.finished.run_pending_tasks();
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn shard(&self, id: &RecordId) -> MutexGuard<'_, Shard> {
        lock(&self.running[usize::from(id.as_bytes()[0]) % SHARDS])
    }

    fn finished(&self, id: &RecordId, now: Duration) -> Option<Arc<Finished>> {
        self.finished
            .get(id)
            .filter(|record| record.expires_at > now)
    }

    fn free(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Removes the crashed records of a shard whose retention is over.
    fn remove_expired(&self, shard: &mut Shard, now: Duration) {
        if now < shard.next_expiry {
            return;
        }
        shard.next_expiry = Duration::MAX;
        let mut freed = 0;
        let next_expiry = &mut shard.next_expiry;
        shard.records.retain(|_, record| {
            let stays = now < record.expires_at;
            match stays {
                true => *next_expiry = record.expires_at.min(*next_expiry),
                false => freed += record.bytes(),
            }
            stays
        });
        self.free(freed);
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
        self.remove_expired(&mut shard, now);
        if let Some(record) = shard.records.get_mut(&claim.id)
            && now < record.expires_at
        {
            return Some(record.claim(claim, now));
        }
        if let Some(record) = self.finished(&claim.id, now) {
            return Some(if record.fingerprint == claim.fingerprint {
                Claimed::Finished {
                    outcome: record.outcome.clone(),
                    retention_left: claim.ask_retention.then(|| record.expires_at - now),
                    claimed_at: self.clock.time(record.claimed_at),
                }
            } else {
                Claimed::Mismatch
            });
        }
        if !self.reserve() {
            return None;
        }
        self.create(&mut shard, &Lease::of(claim, 1), now);
        Some(Claimed::acquired(1))
    }

    /// Inserts a running record, whose bytes are reserved.
    fn create(&self, shard: &mut Shard, lease: &Lease, now: Duration) {
        let record = Running::of(lease, now);
        shard.next_expiry = shard.next_expiry.min(record.expires_at);
        if let Some(expired) = shard.records.insert(lease.id, record) {
            self.free(expired.bytes());
        }
    }

    /// Creates a forgotten record again whose owner's lease is unbroken. The bound does not apply: the
    /// attempt may have had an effect.
    fn recreate(&self, shard: &mut Shard, lease: &Lease, now: Duration) {
        let is_running = |shard: &Shard| {
            let record = shard.records.get(&lease.id);
            record.is_some_and(|record| now < record.expires_at)
        };
        if lease.unbroken && !is_running(shard) && self.finished(&lease.id, now).is_none() {
            self.used.fetch_add(RECORD_BYTES, Ordering::AcqRel);
            self.create(shard, lease, now);
        }
    }

    /// Changes the record if `token` holds it.
    fn change(
        &self,
        id: &RecordId,
        token: &Token,
        change: impl FnOnce(OccupiedEntry<'_, RecordId, Running>, Duration),
    ) -> Change {
        let now = self.clock.now();
        change_held(&mut self.shard(id), id, token, now, change)
    }

    fn renew(&self, lease: &Lease) -> Change {
        let now = self.clock.now();
        let mut shard = self.shard(&lease.id);
        self.recreate(&mut shard, lease, now);
        change_held(&mut shard, &lease.id, &lease.token, now, |mut record, _| {
            record
                .get_mut()
                .set_lease(now, lease.duration, lease.retention);
        })
    }

    fn complete(&self, lease: &Lease, outcome: Bytes) -> Change {
        let Lease {
            id,
            token,
            retention,
            ..
        } = lease;
        let now = self.clock.now();
        let mut shard = self.shard(id);
        self.recreate(&mut shard, lease, now);
        let change = change_held(&mut shard, id, token, now, |running, now| {
            let running = running.remove();
            let freed = running.bytes();
            let finished = Arc::new(Finished {
                fingerprint: running.fingerprint,
                token: *token,
                attempt: running.attempt,
                outcome,
                operation: running.operation,
                claimed_at: running.claimed_at,
                expires_at: now.saturating_add(*retention),
                retention: *retention,
            });
            self.used.fetch_add(finished.bytes(), Ordering::AcqRel);
            self.free(freed);
            self.finished.insert(*id, finished);
        });
        drop(shard);
        if change == Change::LeaseLost && self.finished_by(id, token) {
            // The same completion again: its answer was lost.
            return Change::Applied;
        }
        change
    }

    /// The records after the cursor, in the order of their ids. A record that finishes meanwhile is
    /// seen where it was or where it is.
    fn list(&self, listing: &Listing) -> Page {
        let now = self.clock.now();
        let after = listing.after.as_ref().map(|after| after.as_str().parse());
        let after: Option<RecordId> = after.and_then(Result::ok);
        let mut found = BTreeMap::new();
        let mut add = |listed: Listed| {
            if after.is_none_or(|after| listed.id > after)
                && listing.includes(listed.state, &listed.operation)
            {
                found.insert(listed.id, listed);
                // One more than is asked for tells that there are more.
                if found.len() > listing.limit() + 1 {
                    found.pop_last();
                }
            }
        };
        for shard in &self.running {
            for (id, record) in &lock(shard).records {
                if now < record.expires_at {
                    add(self.listed_running(*id, record, now));
                }
            }
        }
        for (id, record) in &self.finished {
            if now < record.expires_at {
                add(self.listed_finished(*id, &record, now));
            }
        }
        let more = found.len() > listing.limit();
        let records: Vec<_> = found.into_values().take(listing.limit()).collect();
        let next = records.last().filter(|_| more);
        let next = next.map(|last| Cursor::new(last.id.to_string()));
        Page::new(records, next)
    }

    fn listed_running(&self, id: RecordId, record: &Running, now: Duration) -> Listed {
        let kept_for = record.expires_at - now;
        let mut listed = Listed::new(id, record.state(now), record.attempt, kept_for);
        listed.operation = record.operation;
        listed.claimed_at = self.clock.time(record.claimed_at);
        listed.lease_left = record.lease_left(now);
        listed.bytes = record.steps.len();
        listed
    }

    fn listed_finished(&self, id: RecordId, record: &Finished, now: Duration) -> Listed {
        let kept_for = record.expires_at - now;
        let mut listed = Listed::new(id, RecordState::Finished, record.attempt, kept_for);
        listed.operation = record.operation;
        listed.claimed_at = self.clock.time(record.claimed_at);
        listed.bytes = record.outcome.len();
        listed
    }

    fn forget(&self, id: &RecordId) -> Forgotten {
        let now = self.clock.now();
        let mut shard = self.shard(id);
        if let Some(record) = shard.records.get(id)
            && now < record.expires_at
        {
            if let Some(lease_left) = record.lease_left(now) {
                return Forgotten::Running { lease_left };
            }
            self.free(record.bytes());
            shard.records.remove(id);
            return Forgotten::Removed;
        }
        if self.finished(id, now).is_none() {
            return Forgotten::Absent;
        }
        self.finished.invalidate(id);
        Forgotten::Removed
    }

    fn finished_by(&self, id: &RecordId, token: &Token) -> bool {
        self.finished(id, self.clock.now())
            .is_some_and(|record| record.token == *token)
    }
}

/// Changes a running record if `token` holds it.
fn change_held(
    shard: &mut Shard,
    id: &RecordId,
    token: &Token,
    now: Duration,
    change: impl FnOnce(OccupiedEntry<'_, RecordId, Running>, Duration),
) -> Change {
    match shard.records.entry(*id) {
        Entry::Occupied(record)
            if record.get().token == Some(*token) && now < record.get().expires_at =>
        {
            change(record, now);
            Change::Applied
        }
        _ => Change::LeaseLost,
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        if let Some(claimed) = self.inner.claim(claim) {
            return Ok(claimed);
        }
        self.free_expired();
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
        Ok(self.inner.change(id, token, |mut record, now| {
            match record.get().steps.is_empty() {
                true => self.inner.free(record.remove().bytes()),
                false => record.get_mut().end_lease(now, true),
            }
        }))
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.inner.change(id, token, |mut record, now| {
            record.get_mut().end_lease(now, false);
        }))
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let mut has_lost_some = false;
        let change = self.inner.change(&lease.id, &lease.token, |mut record, _| {
            let kept = &mut record.get_mut().steps;
            has_lost_some = kept.len() < at;
            if let Some(there) = kept.len().checked_sub(at)
                && let Some(missing) = steps.get(there..)
            {
                kept.extend_from_slice(missing);
                let bytes = missing.len() as u64;
                self.inner.used.fetch_add(bytes, Ordering::AcqRel);
            }
        });
        Ok(match has_lost_some {
            true => Change::LeaseLost,
            false => change,
        })
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.inner.change(id, token, |mut record, now| {
            record.get_mut().end_lease(now, true);
        }))
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let now = self.inner.clock.now();
        let shard = self.inner.shard(id);
        if let Some(record) = shard.records.get(id)
            && now < record.expires_at
        {
            let claimed_at = self.inner.clock.time(record.claimed_at);
            let found = Inspection::new(record.fingerprint, record.attempt, record.phase(now))
                .claimed(record.operation, claimed_at)
                .steps(Bytes::copy_from_slice(&record.steps));
            return Ok(Some(found));
        }
        Ok(self.inner.finished(id, now).map(|record| {
            let outcome = record.outcome.clone();
            let phase = Phase::Finished { outcome };
            Inspection::new(record.fingerprint, record.attempt, phase)
                .claimed(record.operation, self.inner.clock.time(record.claimed_at))
        }))
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let mut shard = self.inner.shard(id);
        let Some(record) = shard.records.get_mut(id) else {
            return Ok(Watch::new(std::future::ready(())));
        };
        let mut watching = record
            .watched
            .get_or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Ok(Watch::new(async move {
            // The sender is dropped when the record changes, which is an error here.
            let _ = watching.changed().await;
        }))
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        Ok(self.inner.list(listing))
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        Ok(self.inner.forget(id))
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
