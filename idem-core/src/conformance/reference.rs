//! The table at [`Store`], in the plainest code that keeps it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::fingerprint::Fingerprint;
use crate::listing::{Cursor, Forgotten, Listed, Listing, Page, RecordState, Seen};
use crate::maintenance::{Finding, Swept};
use crate::record::{
    Change, Claim, Claimed, Inspection, Lease, OnCrash, OperationName, Phase, RecordId, Token,
};
use crate::store::{Maintenance, Store, StoreError, Watch};

/// A store for tests: one lock, no bound, and a clock that only moves by hand. Clones share
/// their records. Whoever writes a store may read this one first.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), idem_core::StoreError> {
/// use std::time::Duration;
///
/// use idem_core::conformance::ReferenceStore;
/// use idem_core::{Claim, Claimed, Fingerprint, RecordId, Store};
///
/// let store = ReferenceStore::default();
/// let claim = Claim::new(
///     RecordId::from_bytes([7; 32]),
///     Fingerprint::from_bytes([1; Fingerprint::LEN]),
///     Duration::from_secs(30),
///     Duration::from_secs(3600),
/// );
/// assert_eq!(store.claim(&claim).await?, Claimed::acquired(1));
///
/// store.advance(Duration::from_secs(30));
/// assert_eq!(store.claim(&claim.by_another()).await?, Claimed::acquired(2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ReferenceStore(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes every watch at every change: more than needed, never less.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    records: HashMap<RecordId, Record>,
}

#[derive(Debug)]
struct Record {
    fingerprint: Fingerprint,
    attempt: u32,
    life: Life,
    operation: OperationName,
    claimed_at: Duration,
    steps: Vec<u8>,
    absent_from: Duration,
}

#[derive(Debug)]
enum Life {
    Running {
        /// `None` when it was abandoned.
        holder: Option<Token>,
        lease_until: Duration,
        retention: Duration,
    },
    Suspended,
    Finished {
        by: Token,
        outcome: Bytes,
    },
}

impl ReferenceStore {
    /// Moves the clock. Nothing else does.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.now = state.now.saturating_add(by);
    }

    /// [`State::change`], and wakes the watches.
    fn change(
        &self,
        id: &RecordId,
        token: &Token,
        next: impl FnOnce(Duration, Record) -> Option<Record>,
    ) -> Change {
        let change = self.lock().change(id, token, next);
        self.0.changed.send_replace(());
        change
    }

    /// Changes the holder's record. Where it is absent although the lease is unbroken, it is
    /// created as it was first.
    fn change_or_create(
        &self,
        lease: &Lease,
        next: impl FnOnce(Duration, Record) -> Record,
    ) -> Change {
        let mut state = self.lock();
        if lease.unbroken && state.present(&lease.id).is_none() {
            let record = Record::held(state.now, lease);
            state.records.insert(lease.id, record);
        }
        let change = state.change(&lease.id, &lease.token, |now, record| {
            Some(next(now, record))
        });
        drop(state);
        self.0.changed.send_replace(());
        change
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The record, unless its time is over.
    fn present(&mut self, id: &RecordId) -> Option<&mut Record> {
        if self.records.get(id)?.absent_from <= self.now {
            self.records.remove(id);
        }
        self.records.get_mut(id)
    }

    /// Lets the holder of a running record change it; `None` forgets it.
    fn change(
        &mut self,
        id: &RecordId,
        token: &Token,
        next: impl FnOnce(Duration, Record) -> Option<Record>,
    ) -> Change {
        match self.present(id).map(|record| &record.life) {
            Some(Life::Running { holder, .. }) if *holder == Some(*token) => {}
            _ => return Change::LeaseLost,
        }
        let changed = self
            .records
            .remove(id)
            .and_then(|record| next(self.now, record));
        if let Some(record) = changed {
            self.records.insert(*id, record);
        }
        Change::Applied
    }
}

impl Life {
    fn running(now: Duration, token: Token, lease: Duration, retention: Duration) -> Self {
        Self::Running {
            holder: Some(token),
            lease_until: now.saturating_add(lease),
            retention,
        }
    }
}

impl Record {
    fn held(now: Duration, lease: &Lease) -> Self {
        Self {
            fingerprint: lease.fingerprint,
            attempt: lease.attempt,
            life: Life::running(now, lease.token, lease.duration, lease.retention),
            operation: lease.operation,
            claimed_at: now,
            steps: Vec::new(),
            absent_from: end(now, lease.duration, lease.retention),
        }
    }

    /// As an operator sees it.
    fn state(&self, now: Duration) -> RecordState {
        match &self.life {
            Life::Running { lease_until, .. } if *lease_until > now => RecordState::Running,
            Life::Running { .. } => RecordState::Crashed,
            Life::Suspended => RecordState::Suspended,
            Life::Finished { .. } => RecordState::Finished,
        }
    }

    fn lease_left(&self, now: Duration) -> Option<Duration> {
        match &self.life {
            Life::Running { lease_until, .. } => Some(lease_until.saturating_sub(now)),
            Life::Suspended | Life::Finished { .. } => None,
        }
        .filter(|left| !left.is_zero())
    }

    fn listed(&self, id: RecordId, now: Duration) -> Listed {
        let kept_for = self.absent_from - now;
        let mut listed = Listed::new(id, self.state(now), self.attempt, kept_for);
        listed.operation = self.operation;
        listed.claimed_at = time(self.claimed_at);
        listed.lease_left = self.lease_left(now);
        listed.bytes = match &self.life {
            Life::Finished { outcome, .. } => outcome.len(),
            Life::Running { .. } | Life::Suspended => self.steps.len(),
        };
        listed
    }

    fn suspended(self, now: Duration) -> Self {
        let Life::Running { retention, .. } = self.life else {
            return self;
        };
        Self {
            life: Life::Suspended,
            absent_from: now.saturating_add(retention),
            ..self
        }
    }

    /// The next attempt, with what the ones before it have finished.
    fn take_over(&mut self, now: Duration, claim: &Claim) -> Claimed {
        let attempt = self.attempt.saturating_add(1);
        let steps = std::mem::take(&mut self.steps);
        let handed = Bytes::from(steps.clone());
        *self = Self {
            steps,
            ..Self::held(now, &Lease::of(claim, attempt))
        };
        Claimed::Acquired {
            attempt,
            steps: handed,
        }
    }
}

/// A time of the store's clock.
fn time(since_start: Duration) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(since_start)
}

fn end(now: Duration, lease: Duration, retention: Duration) -> Duration {
    now.saturating_add(lease).saturating_add(retention)
}

#[async_trait]
impl Store for ReferenceStore {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let mut state = self.lock();
        let now = state.now;
        let Some(record) = state.present(&claim.id) else {
            let record = Record::held(now, &Lease::of(claim, 1));
            state.records.insert(claim.id, record);
            return Ok(Claimed::acquired(1));
        };
        let attempt = record.attempt;
        if record.fingerprint != claim.fingerprint {
            return Ok(Claimed::Mismatch);
        }
        Ok(match &record.life {
            Life::Finished { outcome, .. } => Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: claim.ask_retention.then(|| record.absent_from - now),
                claimed_at: time(record.claimed_at),
            },
            Life::Running { holder, .. } if *holder == Some(claim.token) => Claimed::Acquired {
                attempt,
                steps: Bytes::copy_from_slice(&record.steps),
            },
            Life::Running { lease_until, .. } if *lease_until > now => Claimed::InFlight {
                lease_left: *lease_until - now,
            },
            Life::Running { .. } => match claim.on_crash {
                OnCrash::Refuse => Claimed::OutcomeUnknown { attempt },
                OnCrash::Rerun => record.take_over(now, claim),
            },
            Life::Suspended => record.take_over(now, claim),
        })
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        Ok(self.change_or_create(lease, |now, record| Record {
            life: Life::running(now, lease.token, lease.duration, lease.retention),
            absent_from: end(now, lease.duration, lease.retention),
            ..record
        }))
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        if let Some(Record {
            life: Life::Finished { by, .. },
            ..
        }) = self.lock().present(&lease.id)
            && *by == lease.token
        {
            return Ok(Change::Applied);
        }
        Ok(self.change_or_create(lease, |now, record| Record {
            life: Life::Finished {
                by: lease.token,
                outcome,
            },
            steps: Vec::new(),
            absent_from: now.saturating_add(lease.retention),
            ..record
        }))
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.change(id, token, |now, record| {
            let has_steps = !record.steps.is_empty();
            has_steps.then(|| record.suspended(now))
        }))
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.change(id, token, |now, record| {
            let Life::Running {
                lease_until,
                retention,
                ..
            } = record.life
            else {
                return Some(record);
            };
            let lease_until = lease_until.min(now);
            Some(Record {
                life: Life::Running {
                    holder: None,
                    lease_until,
                    retention,
                },
                absent_from: lease_until.saturating_add(retention),
                ..record
            })
        }))
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let mut state = self.lock();
        let now = state.now;
        Ok(state.present(id).map(|record| {
            let phase = match &record.life {
                Life::Finished { outcome, .. } => Phase::Finished {
                    outcome: outcome.clone(),
                },
                Life::Running { .. } => Phase::Running {
                    lease_left: record.lease_left(now),
                },
                Life::Suspended => Phase::Suspended,
            };
            Inspection::new(record.fingerprint, record.attempt, phase)
                .claimed(record.operation, time(record.claimed_at))
                .steps(Bytes::copy_from_slice(&record.steps))
                .kept_for(record.absent_from.saturating_sub(now))
        }))
    }

    async fn watch(&self, _id: &RecordId) -> Result<Watch, StoreError> {
        let mut changed = self.0.changed.subscribe();
        Ok(Watch::new(async move {
            // An error is the store's end, and whoever waits for it had better look.
            let _ = changed.changed().await;
        }))
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let mut has_lost_some = false;
        let change = self.change(&lease.id, &lease.token, |_, mut record| {
            has_lost_some = record.steps.len() < at;
            if let Some(missing) = record.steps.len().checked_sub(at)
                && missing < steps.len()
            {
                record.steps.extend_from_slice(&steps[missing..]);
            }
            Some(record)
        });
        Ok(match has_lost_some {
            true => Change::LeaseLost,
            false => change,
        })
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.change(id, token, |now, record| Some(record.suspended(now))))
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        let mut state = self.lock();
        let now = state.now;
        state.records.retain(|_, record| record.absent_from > now);
        let after = listing.after.as_ref().map(|after| after.as_str().parse());
        let after: Option<RecordId> = after.transpose().ok().flatten();
        let mut records: Vec<_> = state
            .records
            .iter()
            .filter(|(id, _)| after.is_none_or(|after| **id > after))
            .map(|(id, record)| record.listed(*id, now))
            .filter(|listed| listing.includes(listed.state, &listed.operation))
            .collect();
        records.sort_unstable_by_key(|listed| listed.id);
        let more = records.len() > listing.limit();
        records.truncate(listing.limit());
        let last = records.last().filter(|_| more);
        let next = last.map(|last| Cursor::new(last.id.to_string()));
        Ok(Page::new(records, next))
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        Ok(self.forget_if(id, None))
    }
}

#[async_trait]
impl Maintenance for ReferenceStore {
    async fn time(&self) -> Result<SystemTime, StoreError> {
        let now = self.lock().now;
        Ok(time(now).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        Ok(Vec::new())
    }

    async fn sweep(&self, _max_records: u32) -> Result<Swept, StoreError> {
        Ok(Swept::ByServer)
    }

    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        let holder = match self.lock().present(id) {
            Some(Record {
                attempt: newest,
                life: Life::Running { holder, .. },
                ..
            }) if *newest == attempt => *holder,
            _ => None,
        };
        match holder {
            Some(token) => self.abandon(id, &token).await,
            None => Ok(Change::LeaseLost),
        }
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        Ok(self.forget_if(id, Some(seen)))
    }
}

impl ReferenceStore {
    fn forget_if(&self, id: &RecordId, seen: Option<Seen>) -> Forgotten {
        let mut state = self.lock();
        let now = state.now;
        let Some(record) = state.present(id) else {
            return Forgotten::Absent;
        };
        if let Some(lease_left) = record.lease_left(now) {
            return Forgotten::Running { lease_left };
        }
        let listed = record.listed(*id, now);
        if seen.is_some_and(|seen| seen != Seen::new(listed.attempt, listed.state)) {
            return Forgotten::NotAsSeen;
        }
        state.records.remove(id);
        drop(state);
        self.0.changed.send_replace(());
        Forgotten::Removed
    }
}
