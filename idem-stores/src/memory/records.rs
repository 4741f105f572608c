//! The records, running and finished, and what each transition does to one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use idem_core::{
    Claim, Claimed, Fingerprint, Lease, OnCrash, OperationName, Phase, RecordId, RecordState, Token,
};
use moka::Expiry;
use tokio::sync::watch;

/// The bytes of a record beside its outcome: the measured memory of the maps.
pub(super) const RECORD_BYTES: u64 = 640;

pub(super) struct Running {
    pub(super) fingerprint: Fingerprint,
    /// `None` if the attempt was abandoned.
    pub(super) token: Option<Token>,
    pub(super) attempt: u32,
    pub(super) lease_until: Duration,
    /// When the record expires unless it is claimed.
    pub(super) expires_at: Duration,
    pub(super) operation: OperationName,
    pub(super) claimed_at: Duration,
    pub(super) steps: Vec<u8>,
    /// No attempt holds it, and the next one goes on with its steps.
    pub(super) is_suspended: bool,
    /// Dropped at every change, which wakes all watches.
    pub(super) watched: Option<watch::Sender<()>>,
}

impl Running {
    pub(super) fn of(lease: &Lease, now: Duration) -> Self {
        let mut record = Self {
            fingerprint: lease.fingerprint,
            token: Some(lease.token),
            attempt: lease.attempt,
            lease_until: now,
            expires_at: now,
            operation: lease.operation,
            claimed_at: now,
            steps: Vec::new(),
            is_suspended: false,
            watched: None,
        };
        record.set_lease(now, lease.duration, lease.retention);
        record
    }

    pub(super) fn lease_left(&self, now: Duration) -> Option<Duration> {
        self.token?;
        self.lease_until
            .checked_sub(now)
            .filter(|left| !left.is_zero())
    }

    /// A claim that finds this record.
    pub(super) fn claim(&mut self, claim: &Claim, now: Duration) -> Claimed {
        if self.fingerprint != claim.fingerprint {
            return Claimed::Mismatch;
        }
        if self.token == Some(claim.token) {
            return self.acquired();
        }
        if let Some(lease_left) = self.lease_left(now) {
            return Claimed::InFlight { lease_left };
        }
        if claim.on_crash == OnCrash::Refuse && !self.is_suspended {
            return Claimed::OutcomeUnknown {
                attempt: self.attempt,
            };
        }
        self.attempt = self.attempt.saturating_add(1);
        self.token = Some(claim.token);
        self.operation = claim.operation;
        self.claimed_at = now;
        self.is_suspended = false;
        self.set_lease(now, claim.lease, claim.retention);
        self.acquired()
    }

    fn acquired(&self) -> Claimed {
        Claimed::Acquired {
            attempt: self.attempt,
            steps: Bytes::copy_from_slice(&self.steps),
        }
    }

    /// Nobody holds it from now on, and its watches wake.
    pub(super) fn end_lease(&mut self, now: Duration, is_suspended: bool) {
        let retention = self.expires_at.saturating_sub(self.lease_until);
        self.token = None;
        self.is_suspended = is_suspended;
        self.watched = None;
        if is_suspended {
            self.lease_until = now;
            self.expires_at = now.saturating_add(retention);
        }
    }

    pub(super) fn phase(&self, now: Duration) -> Phase {
        match self.is_suspended {
            true => Phase::Suspended,
            false => Phase::Running {
                lease_left: self.lease_left(now),
            },
        }
    }

    pub(super) fn state(&self, now: Duration) -> RecordState {
        match self.lease_left(now) {
            Some(_) => RecordState::Running,
            None if self.is_suspended => RecordState::Suspended,
            None => RecordState::Crashed,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        RECORD_BYTES + self.steps.len() as u64
    }

    pub(super) fn set_lease(&mut self, now: Duration, lease: Duration, retention: Duration) {
        self.lease_until = now.saturating_add(lease);
        self.expires_at = self.lease_until.saturating_add(retention);
    }
}

pub(super) struct Finished {
    pub(super) fingerprint: Fingerprint,
    pub(super) token: Token,
    pub(super) attempt: u32,
    pub(super) outcome: Bytes,
    pub(super) operation: OperationName,
    pub(super) claimed_at: Duration,
    pub(super) expires_at: Duration,
    pub(super) retention: Duration,
}

impl Finished {
    pub(super) fn bytes(&self) -> u64 {
        RECORD_BYTES + self.outcome.len() as u64
    }
}

/// Lets moka free expired records. Whether a record has expired is decided by the store's clock at every
/// look; moka only frees the memory.
pub(super) struct Retention {
    pub(super) applies: bool,
}

impl Retention {
    fn of(&self, record: &Finished) -> Option<Duration> {
        self.applies.then_some(record.retention)
    }
}

impl Expiry<RecordId, Arc<Finished>> for Retention {
    fn expire_after_create(
        &self,
        _: &RecordId,
        record: &Arc<Finished>,
        _: Instant,
    ) -> Option<Duration> {
        self.of(record)
    }

    fn expire_after_update(
        &self,
        _: &RecordId,
        record: &Arc<Finished>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.of(record)
    }
}
