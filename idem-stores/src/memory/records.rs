//! The records, running and finished, and what each transition does to one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use idem_core::{Claim, Claimed, Fingerprint, Lease, OnCrash, RecordId, Token};
use moka::Expiry;
use tokio::sync::watch;

/// What a record is taken to weigh beside its outcome: the maps' own memory, measured.
pub(super) const RECORD_BYTES: u64 = 640;

pub(super) struct Running {
    pub(super) fingerprint: Fingerprint,
    /// `None` once the attempt was abandoned: nobody's record.
    pub(super) token: Option<Token>,
    pub(super) attempt: u32,
    pub(super) lease_until: Duration,
    /// When the record is forgotten if nobody claims it.
    pub(super) gone_at: Duration,
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
            gone_at: now,
            watched: None,
        };
        record.hold(now, lease.duration, lease.retention);
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
            return Claimed::Acquired {
                attempt: self.attempt,
            };
        }
        if let Some(lease_left) = self.lease_left(now) {
            return Claimed::InFlight { lease_left };
        }
        if claim.on_crash == OnCrash::Refuse {
            return Claimed::OutcomeUnknown {
                attempt: self.attempt,
            };
        }
        self.attempt = self.attempt.saturating_add(1);
        self.token = Some(claim.token);
        self.hold(now, claim.lease, claim.retention);
        Claimed::Acquired {
            attempt: self.attempt,
        }
    }

    pub(super) fn hold(&mut self, now: Duration, lease: Duration, retention: Duration) {
        self.lease_until = now.saturating_add(lease);
        self.gone_at = self.lease_until.saturating_add(retention);
    }
}

pub(super) struct Finished {
    pub(super) fingerprint: Fingerprint,
    pub(super) token: Token,
    pub(super) attempt: u32,
    pub(super) outcome: Bytes,
    pub(super) until: Duration,
    pub(super) retention: Duration,
}

impl Finished {
    pub(super) fn bytes(&self) -> u64 {
        RECORD_BYTES + self.outcome.len() as u64
    }
}

/// Lets moka free what is over. What counts as over is decided by the store's clock, at every
/// look; moka only gives the memory back.
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
