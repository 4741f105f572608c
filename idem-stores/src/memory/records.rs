//! One record, running, suspended or finished, and what each transition does to it.

use std::time::Duration;

use bytes::Bytes;
use idem_core::{
    Claim, Claimed, Fingerprint, Inspection, Lease, Listed, OnCrash, OperationName, Phase,
    RecordId, RecordState, Seen, Token,
};
use tokio::sync::watch;

use super::clock::Clock;

/// The bytes of a record beside its outcome: the measured memory of record and maps, just after these
/// have grown.
pub(super) const RECORD_BYTES: u64 = 512;

pub(super) struct Record {
    fingerprint: Fingerprint,
    /// Of the attempt that holds the record, or has finished it. `None` if nobody does.
    token: Option<Token>,
    attempt: u32,
    operation: OperationName,
    claimed_at: Duration,
    state: State,
    /// When the record expires unless it changes.
    pub(super) expires_at: Duration,
}

enum State {
    Unfinished(Unfinished),
    Finished(Bytes),
}

struct Unfinished {
    lease_until: Duration,
    steps: Vec<u8>,
    /// No attempt holds it, and the next one goes on with its steps.
    is_suspended: bool,
    /// Dropped when the attempt ends, which wakes all watches.
    watched: Option<watch::Sender<()>>,
}

impl Record {
    pub(super) fn of(lease: &Lease, now: Duration) -> Self {
        let mut record = Self {
            fingerprint: lease.fingerprint,
            token: Some(lease.token),
            attempt: lease.attempt,
            operation: lease.operation,
            claimed_at: now,
            state: State::Unfinished(Unfinished {
                lease_until: now,
                steps: Vec::new(),
                is_suspended: false,
                watched: None,
            }),
            expires_at: now,
        };
        record.set_lease(now, lease.duration, lease.retention);
        record
    }

    /// What it counts for at the store's bound.
    pub(super) fn bytes(&self) -> u64 {
        RECORD_BYTES + self.content_bytes() as u64
    }

    fn content_bytes(&self) -> usize {
        match &self.state {
            State::Unfinished(unfinished) => unfinished.steps.len(),
            State::Finished(outcome) => outcome.len(),
        }
    }

    pub(super) fn is_held_by(&self, token: &Token) -> bool {
        matches!(self.state, State::Unfinished(_)) && self.token == Some(*token)
    }

    /// Whether the attempt with this number holds it.
    pub(super) fn is_held_as(&self, attempt: u32) -> bool {
        matches!(self.state, State::Unfinished(_))
            && self.token.is_some()
            && self.attempt == attempt
    }

    pub(super) fn is_finished_by(&self, token: &Token) -> bool {
        matches!(self.state, State::Finished(_)) && self.token == Some(*token)
    }

    /// The outcome, for a request with this fingerprint.
    pub(super) fn finished(&self, fingerprint: &Fingerprint) -> Option<Bytes> {
        match &self.state {
            State::Finished(outcome) if self.fingerprint == *fingerprint => Some(outcome.clone()),
            _ => None,
        }
    }

    pub(super) fn has_steps(&self) -> bool {
        matches!(&self.state, State::Unfinished(unfinished) if !unfinished.steps.is_empty())
    }

    pub(super) fn lease_left(&self, now: Duration) -> Option<Duration> {
        match &self.state {
            State::Unfinished(unfinished) if self.token.is_some() => {
                let left = unfinished.lease_until.checked_sub(now);
                left.filter(|left| !left.is_zero())
            }
            _ => None,
        }
    }

    /// A claim that finds this record.
    pub(super) fn claim(&mut self, claim: &Claim, now: Duration, clock: &dyn Clock) -> Claimed {
        if self.fingerprint != claim.fingerprint {
            return Claimed::Mismatch;
        }
        let lease_left = self.lease_left(now);
        let unfinished = match &mut self.state {
            State::Unfinished(unfinished) => unfinished,
            State::Finished(outcome) => {
                return Claimed::Finished {
                    outcome: outcome.clone(),
                    retention_left: claim.ask_retention.then(|| self.expires_at - now),
                    claimed_at: clock.time(self.claimed_at),
                };
            }
        };
        if self.token != Some(claim.token) {
            if let Some(lease_left) = lease_left {
                return Claimed::InFlight { lease_left };
            }
            if claim.on_crash == OnCrash::Refuse && !unfinished.is_suspended {
                return Claimed::OutcomeUnknown {
                    attempt: self.attempt,
                };
            }
            unfinished.is_suspended = false;
            self.attempt = self.attempt.saturating_add(1);
            self.token = Some(claim.token);
            self.operation = claim.operation;
            self.claimed_at = now;
            self.set_lease(now, claim.lease, claim.retention);
        }
        Claimed::Acquired {
            attempt: self.attempt,
            steps: self.steps(),
        }
    }

    fn steps(&self) -> Bytes {
        match &self.state {
            State::Unfinished(unfinished) => Bytes::copy_from_slice(&unfinished.steps),
            State::Finished(_) => Bytes::new(),
        }
    }

    pub(super) fn set_lease(&mut self, now: Duration, lease: Duration, retention: Duration) {
        if let State::Unfinished(unfinished) = &mut self.state {
            unfinished.lease_until = now.saturating_add(lease);
            self.expires_at = unfinished.lease_until.saturating_add(retention);
        }
    }

    /// Nobody holds it from now on, and its watches wake.
    pub(super) fn end_lease(&mut self, now: Duration, is_suspended: bool) {
        self.token = None;
        let State::Unfinished(unfinished) = &mut self.state else {
            return;
        };
        unfinished.is_suspended = is_suspended;
        unfinished.watched = None;
        if is_suspended {
            let retention = self.expires_at.saturating_sub(unfinished.lease_until);
            unfinished.lease_until = now;
            self.expires_at = now.saturating_add(retention);
        }
    }

    /// Appends what is missing of the steps from byte `at` on, and says how much that is. `None` if
    /// the record has lost some before.
    pub(super) fn append(&mut self, at: usize, steps: &[u8]) -> Option<usize> {
        let State::Unfinished(Unfinished { steps: kept, .. }) = &mut self.state else {
            return None;
        };
        let missing = steps.get(kept.len().checked_sub(at)?..).unwrap_or_default();
        kept.extend_from_slice(missing);
        Some(missing.len())
    }

    pub(super) fn finish(&mut self, outcome: Bytes, now: Duration, retention: Duration) {
        self.state = State::Finished(outcome);
        self.expires_at = now.saturating_add(retention);
    }

    /// Resolves when the attempt ends; `None` where none runs.
    pub(super) fn watch(&mut self) -> Option<watch::Receiver<()>> {
        let State::Unfinished(unfinished) = &mut self.state else {
            return None;
        };
        let watched = &mut unfinished.watched;
        let sender = watched.get_or_insert_with(|| watch::Sender::new(()));
        Some(sender.subscribe())
    }

    pub(super) fn inspect(&self, now: Duration, clock: &dyn Clock) -> Inspection {
        let phase = match &self.state {
            State::Unfinished(unfinished) if unfinished.is_suspended => Phase::Suspended,
            State::Unfinished(_) => Phase::Running {
                lease_left: self.lease_left(now),
            },
            State::Finished(outcome) => Phase::Finished {
                outcome: outcome.clone(),
            },
        };
        Inspection::new(self.fingerprint, self.attempt, phase)
            .claimed(self.operation, clock.time(self.claimed_at))
            .steps(self.steps())
            .kept_for(self.expires_at.saturating_sub(now))
    }

    /// What is seen of it now.
    pub(super) fn seen(&self, now: Duration) -> Seen {
        let state = match (&self.state, self.lease_left(now)) {
            (State::Finished(_), _) => RecordState::Finished,
            (_, Some(_)) => RecordState::Running,
            (State::Unfinished(unfinished), _) if unfinished.is_suspended => RecordState::Suspended,
            _ => RecordState::Crashed,
        };
        Seen::new(self.attempt, state)
    }

    pub(super) fn listed(&self, id: RecordId, now: Duration, clock: &dyn Clock) -> Listed {
        let lease_left = self.lease_left(now);
        let Seen { state, .. } = self.seen(now);
        let mut listed = Listed::new(id, state, self.attempt, self.expires_at - now);
        listed.operation = self.operation;
        listed.claimed_at = clock.time(self.claimed_at);
        listed.lease_left = lease_left;
        listed.bytes = self.content_bytes();
        listed
    }
}
