//! The table at [`Store`], in the plainest code that keeps it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::fingerprint::Fingerprint;
use crate::record::{Change, Claim, Claimed, Inspection, OnCrash, Phase, RecordId, Token};
use crate::store::{Store, StoreError, Watch};

/// A store for tests: one lock, no bound, and a clock that only moves by hand. Clones share
/// their records. Whoever writes a store may read this one first.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), idem_core::StoreError> {
/// use std::time::Duration;
///
/// use idem_core::conformance::ReferenceStore;
/// use idem_core::{Claim, Claimed, Fingerprint, OnCrash, RecordId, Store, Token};
///
/// let store = ReferenceStore::default();
/// let claim = Claim {
///     id: RecordId::from_bytes([7; 32]),
///     token: Token::random(),
///     fingerprint: Fingerprint::from_bytes([1; Fingerprint::LEN]),
///     lease: Duration::from_secs(30),
///     retention: Duration::from_secs(3600),
///     on_crash: OnCrash::Rerun,
///     ask_retention: false,
/// };
/// assert_eq!(store.claim(&claim).await?, Claimed::Acquired { attempt: 1 });
///
/// store.advance(Duration::from_secs(30));
/// let next = Claim { token: Token::random(), ..claim };
/// assert_eq!(store.claim(&next).await?, Claimed::Acquired { attempt: 2 });
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
    fn acquired(now: Duration, attempt: u32, claim: &Claim) -> Self {
        Self {
            fingerprint: claim.fingerprint,
            attempt,
            life: Life::running(now, claim.token, claim.lease, claim.retention),
            absent_from: end(now, claim.lease, claim.retention),
        }
    }
}

fn end(now: Duration, lease: Duration, retention: Duration) -> Duration {
    now.saturating_add(lease).saturating_add(retention)
}

#[async_trait]
impl Store for ReferenceStore {
    fn name(&self) -> &'static str {
        "reference"
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let mut state = self.lock();
        let now = state.now;
        let Some(record) = state.present(&claim.id) else {
            let record = Record::acquired(now, 1, claim);
            state.records.insert(claim.id, record);
            return Ok(Claimed::Acquired { attempt: 1 });
        };
        let attempt = record.attempt;
        if record.fingerprint != claim.fingerprint {
            return Ok(Claimed::Mismatch);
        }
        Ok(match &record.life {
            Life::Finished { outcome, .. } => Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: claim.ask_retention.then(|| record.absent_from - now),
            },
            Life::Running { holder, .. } if *holder == Some(claim.token) => {
                Claimed::Acquired { attempt }
            }
            Life::Running { lease_until, .. } if *lease_until > now => Claimed::InFlight {
                lease_left: *lease_until - now,
            },
            Life::Running { .. } => match claim.on_crash {
                OnCrash::Refuse => Claimed::OutcomeUnknown { attempt },
                OnCrash::Rerun => {
                    let attempt = attempt.saturating_add(1);
                    *record = Record::acquired(now, attempt, claim);
                    Claimed::Acquired { attempt }
                }
            },
        })
    }

    async fn renew(
        &self,
        id: &RecordId,
        token: &Token,
        lease: Duration,
        retention: Duration,
    ) -> Result<Change, StoreError> {
        Ok(self.change(id, token, |now, record| {
            Some(Record {
                life: Life::running(now, *token, lease, retention),
                absent_from: end(now, lease, retention),
                ..record
            })
        }))
    }

    async fn complete(
        &self,
        id: &RecordId,
        token: &Token,
        outcome: Bytes,
        retention: Duration,
    ) -> Result<Change, StoreError> {
        let mut state = self.lock();
        if let Some(Record {
            life: Life::Finished { by, .. },
            ..
        }) = state.present(id)
            && by == token
        {
            return Ok(Change::Applied);
        }
        let change = state.change(id, token, |now, record| {
            Some(Record {
                life: Life::Finished {
                    by: *token,
                    outcome,
                },
                absent_from: now.saturating_add(retention),
                ..record
            })
        });
        drop(state);
        self.0.changed.send_replace(());
        Ok(change)
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        Ok(self.change(id, token, |_, _| None))
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
        Ok(state.present(id).map(|record| Inspection {
            fingerprint: record.fingerprint,
            attempt: record.attempt,
            phase: match &record.life {
                Life::Finished { outcome, .. } => Phase::Finished {
                    outcome: outcome.clone(),
                },
                Life::Running { lease_until, .. } => Phase::Running {
                    lease_left: Some(lease_until.saturating_sub(now))
                        .filter(|left| !left.is_zero()),
                },
            },
        }))
    }

    async fn watch(&self, _id: &RecordId) -> Result<Watch, StoreError> {
        let mut changed = self.0.changed.subscribe();
        Ok(Watch::new(async move {
            // An error is the store's end, and whoever waits for it had better look.
            let _ = changed.changed().await;
        }))
    }
}
