//! A record's bytes, and what they say.
//!
//! | bytes | running | finished |
//! |---|---|---|
//! | 0 | version, `1` | |
//! | 1 | state: `R` running, `A` abandoned | `F` |
//! | 2–5 | attempt | |
//! | 6–38 | fingerprint | |
//! | 39–54 | token | |
//! | 55 | 1 when somebody watches | the outcome, |
//! | 56–63 | retention in milliseconds | to the end |
//!
//! Numbers are big-endian. When a lease is over needs no clock but the server's: a running record
//! is kept for lease and retention, so what is left of the lease is what is left to live, less
//! the retention. The scripts beside this file read and write the same places.

use std::time::Duration;

use bytes::Bytes;
use idem_core::{Claim, Claimed, Fingerprint, Inspection, Phase, Token};

const VERSION: u8 = b'1';
const RUNNING: u8 = b'R';
const ABANDONED: u8 = b'A';
const FINISHED: u8 = b'F';

/// What every record begins with.
const HEAD: usize = 55;
const RUNNING_LEN: usize = 64;

/// The longest time that is counted with: beyond it the server's own arithmetic ends.
const LONGEST: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);

/// A duration in the server's milliseconds: rounded up, and never 0.
pub(super) fn millis(duration: Duration) -> u64 {
    let millis = duration.min(LONGEST).as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

/// How long the server keeps a running record.
pub(super) fn lifetime(lease: Duration, retention: Duration) -> u64 {
    millis(lease) + millis(retention)
}

/// A retention as a running record holds it.
pub(super) fn stored(retention: Duration) -> [u8; 8] {
    millis(retention).to_be_bytes()
}

/// The first attempt's record.
pub(super) fn first_attempt(claim: &Claim) -> [u8; RUNNING_LEN] {
    let mut record = [0; RUNNING_LEN];
    record[0] = VERSION;
    record[1] = RUNNING;
    record[2..6].copy_from_slice(&1_u32.to_be_bytes());
    record[6..39].copy_from_slice(&claim.fingerprint.to_bytes());
    record[39..55].copy_from_slice(claim.token.as_bytes());
    record[56..].copy_from_slice(&stored(claim.retention));
    record
}

/// A record as it was found.
#[derive(Debug)]
pub(super) struct Record {
    attempt: u32,
    fingerprint: Fingerprint,
    token: Token,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Running { retention: Duration },
    Abandoned,
    Finished { outcome: Bytes },
}

impl Record {
    /// `None` for bytes of another version, or of nobody.
    pub(super) fn decode(bytes: Vec<u8>) -> Option<Self> {
        let bytes = Bytes::from(bytes);
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        if head[0] != VERSION {
            return None;
        }
        let life = match head[1] {
            FINISHED => Life::Finished {
                outcome: bytes.slice(HEAD..),
            },
            RUNNING => Life::Running {
                retention: match rest {
                    [_watched, retention @ ..] => {
                        let retention = u64::from_be_bytes(retention.try_into().ok()?);
                        Duration::from_millis(retention)
                    }
                    [] => return None,
                },
            },
            ABANDONED => Life::Abandoned,
            _ => return None,
        };
        Some(Self {
            attempt: u32::from_be_bytes(head[2..6].try_into().ok()?),
            fingerprint: Fingerprint::from_bytes(head[6..39].try_into().ok()?),
            token: Token::from_bytes(head[39..].try_into().ok()?),
            life,
        })
    }

    /// The answer to a claim, where the record alone says it. `None` is to ask with the time that is
    /// left.
    pub(super) fn answer_alone(&self, claim: &Claim) -> Option<Claimed> {
        if self.fingerprint != claim.fingerprint {
            return Some(Claimed::Mismatch);
        }
        match &self.life {
            Life::Finished { outcome } if !claim.ask_retention => Some(Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: None,
            }),
            Life::Running { .. } if self.token == claim.token => Some(Claimed::Acquired {
                attempt: self.attempt,
            }),
            Life::Running { .. } | Life::Abandoned | Life::Finished { .. } => None,
        }
    }

    /// The answer to a claim that changed nothing, `left` before the record ends.
    pub(super) fn answer(&self, claim: &Claim, left: Duration) -> Claimed {
        if let Some(answer) = self.answer_alone(claim) {
            return answer;
        }
        match (&self.life, self.lease_left(left)) {
            (Life::Finished { outcome }, _) => Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: Some(left),
            },
            (_, Some(lease_left)) => Claimed::InFlight { lease_left },
            (_, None) => Claimed::OutcomeUnknown {
                attempt: self.attempt,
            },
        }
    }

    pub(super) fn inspection(self, left: Duration) -> Inspection {
        let lease_left = self.lease_left(left);
        let phase = match self.life {
            Life::Finished { outcome } => Phase::Finished { outcome },
            Life::Running { .. } | Life::Abandoned => Phase::Running { lease_left },
        };
        Inspection::new(self.fingerprint, self.attempt, phase)
    }

    fn lease_left(&self, left: Duration) -> Option<Duration> {
        match self.life {
            Life::Running { retention } => left
                .checked_sub(retention)
                .filter(|lease_left| !lease_left.is_zero()),
            Life::Abandoned | Life::Finished { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use idem_core::RecordId;

    use super::*;

    fn claim() -> Claim {
        Claim::new(
            RecordId::from_bytes([1; 32]),
            Fingerprint::from_bytes(std::array::from_fn(|n| n as u8)),
            Duration::from_secs(30),
            Duration::from_secs(3600),
        )
    }

    #[test]
    fn a_record_round_trips() {
        let claim = claim();
        let record = Record::decode(first_attempt(&claim).into()).unwrap();
        assert_eq!(
            record.answer_alone(&claim),
            Some(Claimed::Acquired { attempt: 1 })
        );
        let other = claim.by_another();
        assert_eq!(record.answer_alone(&other), None);
        let left = Duration::from_secs(3600 + 20);
        assert_eq!(
            record.answer(&other, left),
            Claimed::InFlight {
                lease_left: Duration::from_secs(20)
            }
        );
        assert_eq!(
            record.answer(&other, Duration::from_secs(3600)),
            Claimed::OutcomeUnknown { attempt: 1 }
        );
    }

    #[test]
    fn every_shorter_record_is_unreadable() {
        let running = first_attempt(&claim());
        for len in 0..running.len() {
            assert!(Record::decode(running[..len].into()).is_none(), "{len}");
        }
        let mut finished = running.to_vec();
        finished[1] = FINISHED;
        assert!(Record::decode(finished[..HEAD].into()).is_some());
        assert!(Record::decode(finished[..HEAD - 1].into()).is_none());
    }

    #[test]
    fn another_version_is_unreadable() {
        let mut record = first_attempt(&claim());
        record[0] = b'2';
        assert!(Record::decode(record.into()).is_none());
        record[0] = VERSION;
        record[1] = b'X';
        assert!(Record::decode(record.into()).is_none());
    }

    #[test]
    fn times_are_rounded_up_and_bounded() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_nanos(1_000_001)), 2);
        assert_eq!(millis(Duration::MAX), millis(LONGEST));
    }
}
