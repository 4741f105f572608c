//! A record as a row, and its answer to a claim that changes nothing.

use std::time::Duration;

use bytes::Bytes;
use idem_core::{Claim, Claimed, Fingerprint, Inspection, OnCrash, Phase, Token};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// The longest duration that a record holds. Longer ones overflow the arithmetic of the statements.
const MAX_DURATION: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);

/// A duration in the store's milliseconds, rounded up.
pub(super) fn millis(duration: Duration) -> i64 {
    let millis = duration.min(MAX_DURATION).as_nanos().div_ceil(1_000_000);
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// A record that was read and has not expired.
#[derive(Debug)]
pub(super) struct Record {
    fingerprint: Fingerprint,
    attempt: u32,
    token: Option<Token>,
    state: State,
}

#[derive(Debug)]
enum State {
    Running {
        lease_left: Option<Duration>,
    },
    Finished {
        /// Empty if it was not read.
        outcome: Bytes,
        left: Duration,
    },
}

impl Record {
    /// Reads what `look.sql` answers.
    ///
    /// # Errors
    /// When this version does not write such a row.
    pub(super) fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let left = |column| Ok::<_, sqlx::Error>(positive(row.try_get(column)?));
        Ok(Self {
            fingerprint: Fingerprint::from_bytes(array(row.try_get("fingerprint")?)?),
            attempt: attempt(row)?,
            token: token(row)?,
            state: if row.try_get("is_finished")? {
                State::Finished {
                    outcome: row
                        .try_get::<Option<Vec<u8>>, _>("outcome")?
                        .map_or_else(Bytes::new, Bytes::from),
                    left: left("left")?.unwrap_or_default(),
                }
            } else {
                State::Running {
                    lease_left: left("lease_left")?,
                }
            },
        })
    }

    /// The answer to a claim that leaves the record as it is. `None`: the claim must be written.
    pub(super) fn answer(self, claim: &Claim) -> Option<Claimed> {
        if self.fingerprint != claim.fingerprint {
            return Some(Claimed::Mismatch);
        }
        let attempt = self.attempt;
        match self.state {
            State::Finished { outcome, left } => Some(Claimed::Finished {
                outcome,
                retention_left: claim.ask_retention.then_some(left),
                claimed_at: None,
            }),
            State::Running { .. } if self.token == Some(claim.token) => {
                Some(Claimed::acquired(attempt))
            }
            State::Running {
                lease_left: Some(lease_left),
            } => Some(Claimed::InFlight { lease_left }),
            State::Running { lease_left: None } => match claim.on_crash {
                OnCrash::Rerun => None,
                _ => Some(Claimed::OutcomeUnknown { attempt }),
            },
        }
    }

    /// The number of the attempt after this one.
    pub(super) const fn next_attempt(&self) -> u32 {
        self.attempt.saturating_add(1)
    }

    pub(super) fn inspection(self) -> Inspection {
        let phase = match self.state {
            State::Running { lease_left } => Phase::Running { lease_left },
            State::Finished { outcome, .. } => Phase::Finished { outcome },
        };
        Inspection::new(self.fingerprint, self.attempt, phase)
    }
}

/// An attempt's number in an answer.
pub(super) fn attempt(row: &SqliteRow) -> Result<u32, sqlx::Error> {
    let attempt: i64 = row.try_get("attempt")?;
    u32::try_from(attempt).map_err(undecodable)
}

/// A token in an answer. `None` if the attempt was abandoned.
pub(super) fn token(row: &SqliteRow) -> Result<Option<Token>, sqlx::Error> {
    let token: Option<&[u8]> = row.try_get("token")?;
    token
        .map(|token| Ok(Token::from_bytes(array(token)?)))
        .transpose()
}

/// Bytes of a fixed length in an answer.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], sqlx::Error> {
    bytes.try_into().map_err(undecodable)
}

fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

fn positive(millis: i64) -> Option<Duration> {
    u64::try_from(millis)
        .ok()
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_bounded() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_nanos(1_000_001)), 2);
        assert_eq!(millis(Duration::MAX), millis(MAX_DURATION));
    }
}
