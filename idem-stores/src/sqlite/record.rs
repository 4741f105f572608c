//! A record as a row, and its answer to a claim that changes nothing.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use idem_core::{
    Claim, Claimed, Cursor, Fingerprint, Inspection, Listed, Listing, OnCrash, OperationName, Page,
    Phase, RecordId, RecordState, Seen, Token,
};
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
    operation: OperationName,
    claimed_at: Option<SystemTime>,
    /// Empty if they were not read.
    steps: Bytes,
    state: State,
    /// Until the record is gone.
    left: Duration,
}

#[derive(Debug)]
enum State {
    Running {
        lease_left: Option<Duration>,
    },
    Suspended,
    Finished {
        /// Empty if it was not read.
        outcome: Bytes,
    },
}

impl Record {
    /// Reads what `look.sql` answers.
    ///
    /// # Errors
    /// When this version does not write such a row.
    pub(super) fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let left = |column| Ok::<_, sqlx::Error>(positive(row.try_get(column)?));
        let state = match state(row)? {
            RecordState::Finished => State::Finished {
                outcome: bytes(row, "outcome")?,
            },
            RecordState::Suspended => State::Suspended,
            _ => State::Running {
                lease_left: left("lease_left")?,
            },
        };
        let has_steps = !matches!(state, State::Finished { .. });
        Ok(Self {
            fingerprint: Fingerprint::from_bytes(array(row.try_get("fingerprint")?)?),
            attempt: attempt(row)?,
            token: token(row)?,
            operation: operation(row)?,
            claimed_at: claimed_at(row)?,
            steps: match has_steps {
                true => bytes(row, "steps")?,
                false => Bytes::new(),
            },
            left: left("left")?.unwrap_or_default(),
            state,
        })
    }

    /// The answer to a claim that leaves the record as it is. `None`: the claim must be written.
    pub(super) fn answer(self, claim: &Claim) -> Option<Claimed> {
        if self.fingerprint != claim.fingerprint {
            return Some(Claimed::Mismatch);
        }
        let attempt = self.attempt;
        match self.state {
            State::Finished { outcome } => Some(Claimed::Finished {
                outcome,
                retention_left: claim.ask_retention.then_some(self.left),
                claimed_at: self.claimed_at,
            }),
            State::Running { .. } if self.token == Some(claim.token) => Some(Claimed::Acquired {
                attempt,
                steps: self.steps,
            }),
            State::Suspended => None,
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
            State::Suspended => Phase::Suspended,
            State::Finished { outcome } => Phase::Finished { outcome },
        };
        Inspection::new(self.fingerprint, self.attempt, phase)
            .claimed(self.operation, self.claimed_at)
            .steps(self.steps)
            .kept_for(self.left)
    }

    /// What is seen of it now.
    pub(super) const fn seen(&self) -> Seen {
        let state = match self.state {
            State::Finished { .. } => RecordState::Finished,
            State::Suspended => RecordState::Suspended,
            State::Running { .. } if self.lease_left().is_some() => RecordState::Running,
            State::Running { .. } => RecordState::Crashed,
        };
        Seen::new(self.attempt, state)
    }

    /// What is left of the lease that an attempt holds.
    pub(super) const fn lease_left(&self) -> Option<Duration> {
        match self.state {
            State::Running { lease_left } if self.token.is_some() => lease_left,
            _ => None,
        }
    }
}

/// Reads what `list.sql` answers.
///
/// # Errors
/// When this version does not write such a row.
pub(super) fn page(rows: &[SqliteRow], listing: &Listing) -> Result<Page, sqlx::Error> {
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(id) = id(row, "id")? {
            records.push(listed(id, row)?);
        }
    }
    let next = match records.get(listing.limit()) {
        Some(_) => records.get(listing.limit() - 1).map(|last| last.id),
        None => match rows.first() {
            Some(first) => id(first, "looked_to")?,
            None => None,
        },
    };
    records.truncate(listing.limit());
    let next = next.map(|next| Cursor::new(next.to_string()));
    Ok(Page::new(records, next))
}

/// The id that a listing goes on behind: that of a page's last record. From the beginning if the cursor is
/// not one of this store's.
pub(super) fn listed_to(listing: &Listing) -> Vec<u8> {
    let id = |cursor: &Cursor| cursor.as_str().parse().ok();
    let id: Option<RecordId> = listing.after.as_ref().and_then(id);
    id.map(|id| id.as_bytes().to_vec()).unwrap_or_default()
}

fn listed(id: RecordId, row: &SqliteRow) -> Result<Listed, sqlx::Error> {
    let state = state(row)?;
    let kept_for = positive(row.try_get("kept")?).unwrap_or_default();
    let mut listed = Listed::new(id, state, attempt(row)?, kept_for);
    listed.operation = operation(row)?;
    listed.claimed_at = claimed_at(row)?;
    if state == RecordState::Running {
        listed.lease_left = positive(row.try_get("lease_left")?);
    }
    let bytes: i64 = row.try_get("bytes")?;
    listed.bytes = usize::try_from(bytes).unwrap_or_default();
    Ok(listed)
}

fn id(row: &SqliteRow, column: &str) -> Result<Option<RecordId>, sqlx::Error> {
    let id: Option<&[u8]> = row.try_get(column)?;
    id.map(|id| Ok(RecordId::from_bytes(array(id)?)))
        .transpose()
}

fn state(row: &SqliteRow) -> Result<RecordState, sqlx::Error> {
    let state: &str = row.try_get("state")?;
    let state = RecordState::ALL
        .into_iter()
        .find(|known| known.as_str() == state);
    state.ok_or(sqlx::Error::RowNotFound)
}

fn operation(row: &SqliteRow) -> Result<OperationName, sqlx::Error> {
    let name: Option<&str> = row.try_get("operation")?;
    Ok(name.map_or(OperationName::UNKNOWN, OperationName::new))
}

/// When the newest attempt was claimed.
fn claimed_at(row: &SqliteRow) -> Result<Option<SystemTime>, sqlx::Error> {
    let at: Option<i64> = row.try_get("claimed_at")?;
    let at = at.and_then(|millis| u64::try_from(millis).ok());
    Ok(at.and_then(|millis| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))))
}

/// The bytes of a column; none if they were not read.
pub(super) fn bytes(row: &SqliteRow, column: &str) -> Result<Bytes, sqlx::Error> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    Ok(bytes.map_or_else(Bytes::new, Bytes::from))
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
