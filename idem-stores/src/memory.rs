//! The store of one process: nothing survives it, and nothing is dropped before its time.
//!
//! Running records live in a sharded map, finished ones in a moka cache that forgets them when
//! their retention is over. A record's shard is locked during each of its transitions, over
//! both places, so that every transition is one atomic step; moka's own entry methods, which
//! exclude each other only within one kind, are not used for that.

mod clock;
mod records;

use std::collections::HashMap;
use std::collections::hash_map::{Entry, OccupiedEntry};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use idem_core::{
    Change, Claim, Claimed, Inspection, Lease, Phase, RecordHasher, RecordId, Store, StoreError,
    Token, Watch,
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
    /// The most that all records together may weigh; 256 MiB unless given.
    ///
    /// At the bound, claims of new records fail with [`StoreError::Full`]; nothing that is
    /// stored is dropped to make room, because a retry of it would run again. Completions are
    /// always taken, so the weight can pass the bound by the outcomes of what is running.
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Judges leases and retention by a clock that the caller moves. Memory of records whose
    /// retention is over is then freed at the bound, and by [`MemoryStore::sweep`].
    pub fn manual_clock(mut self, clock: ManualClock) -> Self {
        self.clock = Arc::new(clock);
        self.moka_expires = false;
        self
    }

    /// The store.
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
    /// No record of the shard is forgotten before this time.
    next_gone: Duration,
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

    /// What all records together weigh now, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.inner.used.load(Ordering::Acquire)
    }

    fn forget_gone(&self) {
        let now = self.inner.clock.now();
        for shard in &self.inner.running {
            self.inner.forget_gone(&mut lock(shard), now);
        }
    }

    /// Frees the memory of every record whose time is over. Needed under a manual clock only.
    pub fn sweep(&self) {
        self.forget_gone();
        let now = self.inner.clock.now();
        let over: Vec<RecordId> = self
            .inner
            .finished
            .iter()
            .filter(|(_, record)| record.until <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            // Under the lock: a new record of this id may have been finished since.
            let _shard = self.inner.shard(&id);
            if self
                .inner
                .finished
                .get(&id)
                .is_some_and(|record| record.until <= now)
            {
                self.inner.finished.invalidate(&id);
            }
        }
        self.inner.finished.run_pending_tasks();
    }

    /// Frees what is over and not free yet.
    fn make_room(&self) {
        if self.inner.clock_is_manual {
            self.sweep();
        } else {
            self.forget_gone();
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
        self.finished.get(id).filter(|record| record.until > now)
    }

    fn free(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Drops the crashed records of a shard that nobody has claimed for their retention.
    fn forget_gone(&self, shard: &mut Shard, now: Duration) {
        if now < shard.next_gone {
            return;
        }
        shard.next_gone = Duration::MAX;
        let before = shard.records.len();
        let next_gone = &mut shard.next_gone;
        shard.records.retain(|_, record| {
            let stays = now < record.gone_at;
            if stays {
                *next_gone = record.gone_at.min(*next_gone);
            }
            stays
        });
        self.free((before - shard.records.len()) as u64 * RECORD_BYTES);
    }

    /// Weighs in one more record, if it fits.
    fn reserve(&self) -> bool {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(RECORD_BYTES)
                    .filter(|used| *used <= self.max_bytes)
            })
            .is_ok()
    }

    /// One claim, or `None` when it would create a record and there is no room for it.
    fn claim(&self, claim: &Claim) -> Option<Claimed> {
        let now = self.clock.now();
        let mut shard = self.shard(&claim.id);
        self.forget_gone(&mut shard, now);
        if let Some(record) = shard.records.get_mut(&claim.id)
            && now < record.gone_at
        {
            return Some(record.claim(claim, now));
        }
        if let Some(record) = self.finished(&claim.id, now) {
            return Some(if record.fingerprint == claim.fingerprint {
                Claimed::Finished {
                    outcome: record.outcome.clone(),
                    retention_left: claim.ask_retention.then(|| record.until - now),
                }
            } else {
                Claimed::Mismatch
            });
        }
        if !self.reserve() {
            return None;
        }
        self.create(&mut shard, &Lease::of(claim, 1), now);
        Some(Claimed::Acquired { attempt: 1 })
    }

    /// Puts a running record in, which was weighed before.
    fn create(&self, shard: &mut Shard, lease: &Lease, now: Duration) {
        let record = Running::of(lease, now);
        shard.next_gone = shard.next_gone.min(record.gone_at);
        if shard.records.insert(lease.id, record).is_some() {
            // One whose time was over was still there, and weighed.
            self.free(RECORD_BYTES);
        }
    }

    /// Creates a record that was forgotten although its owner's lease is unbroken. The bound does
    /// not apply: there may have been an effect.
    fn create_again(&self, shard: &mut Shard, lease: &Lease, now: Duration) {
        let is_running = |shard: &Shard| {
            let record = shard.records.get(&lease.id);
            record.is_some_and(|record| now < record.gone_at)
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
        change_in(&mut self.shard(id), id, token, now, change)
    }

    fn renew(&self, lease: &Lease) -> Change {
        let now = self.clock.now();
        let mut shard = self.shard(&lease.id);
        self.create_again(&mut shard, lease, now);
        change_in(&mut shard, &lease.id, &lease.token, now, |mut record, _| {
            record.get_mut().hold(now, lease.duration, lease.retention);
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
        self.create_again(&mut shard, lease, now);
        let change = change_in(&mut shard, id, token, now, |running, now| {
            let running = running.remove();
            let finished = Arc::new(Finished {
                fingerprint: running.fingerprint,
                token: *token,
                attempt: running.attempt,
                outcome,
                until: now.saturating_add(*retention),
                retention: *retention,
            });
            self.used
                .fetch_add(finished.bytes() - RECORD_BYTES, Ordering::AcqRel);
            self.finished.insert(*id, finished);
        });
        drop(shard);
        if change == Change::LeaseLost && self.finished_by(id, token) {
            // The same completion again: its answer was lost.
            return Change::Applied;
        }
        change
    }

    fn finished_by(&self, id: &RecordId, token: &Token) -> bool {
        self.finished(id, self.clock.now())
            .is_some_and(|record| record.token == *token)
    }
}

/// Changes a running record if `token` holds it.
fn change_in(
    shard: &mut Shard,
    id: &RecordId,
    token: &Token,
    now: Duration,
    change: impl FnOnce(OccupiedEntry<'_, RecordId, Running>, Duration),
) -> Change {
    match shard.records.entry(*id) {
        Entry::Occupied(record)
            if record.get().token == Some(*token) && now < record.get().gone_at =>
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
        self.make_room();
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
        Ok(self.inner.change(id, token, |record, _| {
            record.remove();
            self.inner.free(RECORD_BYTES);
        }))
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.inner.change(id, token, |mut record, _| {
            let record = record.get_mut();
            record.token = None;
            record.watched = None;
        }))
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let now = self.inner.clock.now();
        let shard = self.inner.shard(id);
        if let Some(record) = shard.records.get(id)
            && now < record.gone_at
        {
            let lease_left = record.lease_left(now);
            let phase = Phase::Running { lease_left };
            let found = Inspection::new(record.fingerprint, record.attempt, phase);
            return Ok(Some(found));
        }
        Ok(self.inner.finished(id, now).map(|record| {
            let outcome = record.outcome.clone();
            let phase = Phase::Finished { outcome };
            Inspection::new(record.fingerprint, record.attempt, phase)
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
            // An error says that the sender was dropped, which is the news.
            let _ = watching.changed().await;
        }))
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
