//! The statements, one per transition, and what their rows say.
//!
//! Each is prepared once per connection and is a transaction of its own: one round trip, and
//! nothing to clean up. The server's `now()`, the start of that transaction, is the only clock.

use std::time::Duration;

use bytes::Bytes;
use idem_core::{Claim, Claimed, Fingerprint, Inspection, Lease, OnCrash, Phase, RecordId, Token};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{Error, Row};

use super::connections::Statement;

/// The longest time that is counted with: added to any date it still makes a date.
const LONGEST: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);
const SHORTEST: Duration = Duration::from_millis(1);

const MICROS_PER_DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// A duration as the server counts: in microseconds, rounded up.
fn interval(duration: Duration) -> PgInterval {
    let micros = duration.clamp(SHORTEST, LONGEST).as_nanos().div_ceil(1000);
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(micros).unwrap_or(i64::MAX),
    }
}

/// What lies between two times of the server; nothing where the later one is past.
fn duration(interval: PgInterval) -> Duration {
    // A difference of two times has days, and no months.
    let days = i64::from(interval.days).saturating_mul(MICROS_PER_DAY);
    let micros = days.saturating_add(interval.microseconds);
    Duration::from_micros(micros.try_into().unwrap_or(0))
}

pub(super) fn claim(claim: &Claim) -> Statement<'_> {
    sqlx::query(include_str!("statements/claim.sql"))
        .bind(claim.id.as_bytes())
        .bind(claim.fingerprint.to_bytes())
        .bind(claim.token.as_bytes())
        .bind(interval(claim.lease))
        .bind(interval(claim.retention))
        .bind(claim.on_crash == OnCrash::Rerun)
}

/// `None` is to ask again.
pub(super) fn claimed(row: Option<PgRow>) -> Result<Option<Claimed>, Error> {
    let Some(row) = row else { return Ok(None) };
    let attempt = attempt(&row)?;
    if !row.try_get("same")? {
        return Ok(Some(Claimed::Mismatch));
    }
    if let Some(outcome) = outcome(&row)? {
        return Ok(Some(Claimed::Finished {
            outcome,
            retention_left: row.try_get::<Option<_>, _>("kept")?.map(duration),
        }));
    }
    if row.try_get::<Option<bool>, _>("own")? == Some(true) {
        return Ok(Some(Claimed::Acquired { attempt }));
    }
    Ok(Some(match lease_left(&row)? {
        Some(lease_left) => Claimed::InFlight { lease_left },
        None => Claimed::OutcomeUnknown { attempt },
    }))
}

pub(super) fn renew(lease: &Lease) -> Statement<'_> {
    of_holder(
        include_str!("statements/renew.sql"),
        &lease.id,
        &lease.token,
    )
    .bind(interval(lease.duration))
    .bind(interval(lease.retention))
}

pub(super) fn complete<'q>(lease: &'q Lease, outcome: &'q [u8]) -> Statement<'q> {
    of_holder(
        include_str!("statements/complete.sql"),
        &lease.id,
        &lease.token,
    )
    .bind(outcome)
    .bind(interval(lease.retention))
}

pub(super) fn release<'q>(id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    of_holder(include_str!("statements/release.sql"), id, token)
}

pub(super) fn abandon<'q>(id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    of_holder(include_str!("statements/abandon.sql"), id, token)
}

fn of_holder<'q>(statement: &'static str, id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    sqlx::query(statement)
        .bind(id.as_bytes())
        .bind(token.as_bytes())
}

pub(super) fn inspect(id: &RecordId) -> Statement<'_> {
    sqlx::query(include_str!("statements/inspect.sql")).bind(id.as_bytes())
}

pub(super) fn inspection(row: &PgRow) -> Result<Inspection, Error> {
    let fingerprint: &[u8] = row.try_get("fingerprint")?;
    let fingerprint = fingerprint
        .try_into()
        .map_err(|error| Error::Decode(Box::new(error)))?;
    let phase = match outcome(row)? {
        Some(outcome) => Phase::Finished { outcome },
        None => Phase::Running {
            lease_left: lease_left(row)?,
        },
    };
    let fingerprint = Fingerprint::from_bytes(fingerprint);
    Ok(Inspection::new(fingerprint, attempt(row)?, phase))
}

pub(super) fn watch(id: &RecordId) -> Statement<'_> {
    sqlx::query(include_str!("statements/watch.sql")).bind(id.as_bytes())
}

/// The one value of a row. `None` is to ask again.
pub(super) fn answer(row: Option<PgRow>) -> Result<Option<bool>, Error> {
    row.map(|row| row.try_get(0)).transpose()
}

/// Not prepared: its plan depends on how much there is to sweep.
pub(super) fn sweep(batch: u32, from: Option<&str>) -> Statement<'_> {
    sqlx::query(include_str!("statements/sweep.sql"))
        .bind(i64::from(batch))
        .bind(from)
        .persistent(false)
}

fn attempt(row: &PgRow) -> Result<u32, Error> {
    let attempt: i32 = row.try_get("attempt")?;
    u32::try_from(attempt).map_err(|error| Error::Decode(Box::new(error)))
}

fn outcome(row: &PgRow) -> Result<Option<Bytes>, Error> {
    let outcome: Option<&[u8]> = row.try_get("outcome")?;
    Ok(outcome.map(Bytes::copy_from_slice))
}

/// `None` when the lease is over.
fn lease_left(row: &PgRow) -> Result<Option<Duration>, Error> {
    let left: Option<PgInterval> = row.try_get("lease_left")?;
    Ok(left.map(duration).filter(|left| !left.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_bounded() {
        let micros = |duration| interval(duration).microseconds;
        assert_eq!(micros(Duration::ZERO), 1000);
        assert_eq!(micros(Duration::from_nanos(1_000_001)), 1001);
        assert_eq!(micros(Duration::MAX), micros(LONGEST));
    }

    #[test]
    fn what_is_past_is_nothing() {
        let between = |days, microseconds| {
            duration(PgInterval {
                months: 0,
                days,
                microseconds,
            })
        };
        assert_eq!(between(0, -1), Duration::ZERO);
        assert_eq!(between(-1, 5), Duration::ZERO);
        assert_eq!(between(1, 5), Duration::from_micros(86_400_000_005));
    }
}
