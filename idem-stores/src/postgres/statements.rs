//! The statements, one per transition, and how their rows are read.
//!
//! Each is a transaction of its own: one round trip, and nothing to clean up. The only clock is the
//! server's `now()`, the start of that transaction. Each returns exactly one row.

use std::time::Duration;

use bytes::Bytes;
use idem_core::{Claim, Claimed, Fingerprint, Inspection, Lease, OnCrash, Phase, RecordId, Token};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

use super::statement::{Statement, Text, Value, bytes_of, text};

/// The longest duration that a record holds. The server can still add it to any date.
const MAX_DURATION: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);
const MIN_DURATION: Duration = Duration::from_millis(1);

static CLAIM: Text = text!("claim 1", "statements/claim.sql");
static FINISHED: Text = text!("finished 1", "statements/finished.sql");
static RENEW: Text = text!("renew 1", "statements/renew.sql");
static COMPLETE: Text = text!("complete 1", "statements/complete.sql");
static RECREATE: Text = text!("recreate 1", "statements/recreate.sql");
static RELEASE: Text = text!("release 1", "statements/release.sql");
static ABANDON: Text = text!("abandon 1", "statements/abandon.sql");
static INSPECT: Text = text!("inspect 1", "statements/inspect.sql");
static WATCH: Text = text!("watch 1", "statements/watch.sql");
static SWEEP: Text = text!("sweep 1", "statements/sweep.sql");

/// A duration in microseconds, rounded up.
fn micros(duration: Duration) -> Value<'static> {
    let micros = duration
        .clamp(MIN_DURATION, MAX_DURATION)
        .as_nanos()
        .div_ceil(1000);
    Value::Bigint(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// The time until a later moment; zero if that is past.
fn duration(micros: i64) -> Duration {
    Duration::from_micros(micros.try_into().unwrap_or(0))
}

pub(super) fn claim(claim: &Claim) -> Statement<'_> {
    Statement::new(
        &CLAIM,
        [
            Value::Bytes(claim.id.as_bytes()),
            Value::Fingerprint(claim.fingerprint.to_bytes()),
            Value::Bytes(claim.token.as_bytes()),
            micros(claim.lease),
            micros(claim.retention),
            Value::Boolean(claim.on_crash == OnCrash::Rerun),
        ],
    )
}

/// A claim on a server that takes no writes: it finds finished records only.
pub(super) fn finished(claim: &Claim) -> Statement<'_> {
    Statement::new(
        &FINISHED,
        [
            Value::Bytes(claim.id.as_bytes()),
            Value::Fingerprint(claim.fingerprint.to_bytes()),
        ],
    )
}

/// `None`: run it again, or nothing is finished.
pub(super) fn claimed(row: &PgRow) -> Result<Option<Claimed>, Error> {
    let Some(attempt) = attempt(row)? else {
        return Ok(None);
    };
    if !row.try_get("same")? {
        return Ok(Some(Claimed::Mismatch));
    }
    if let Some(outcome) = outcome(row)? {
        return Ok(Some(Claimed::Finished {
            outcome,
            retention_left: row.try_get::<Option<_>, _>("kept")?.map(duration),
            claimed_at: None,
        }));
    }
    if row.try_get::<Option<bool>, _>("own")? == Some(true) {
        return Ok(Some(Claimed::acquired(attempt)));
    }
    Ok(Some(match lease_left(row)? {
        Some(lease_left) => Claimed::InFlight { lease_left },
        None => Claimed::OutcomeUnknown { attempt },
    }))
}

pub(super) fn renew(lease: &Lease) -> Statement<'_> {
    Statement::new(
        &RENEW,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            micros(lease.duration),
            micros(lease.retention),
        ],
    )
}

pub(super) fn complete<'q>(lease: &'q Lease, outcome: &'q [u8]) -> Statement<'q> {
    Statement::new(
        &COMPLETE,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            Value::Bytes(outcome),
            micros(lease.retention),
        ],
    )
}

/// Creates a record again that the server has forgotten: running, or finished if there is an outcome.
pub(super) fn recreate<'q>(lease: &'q Lease, outcome: Option<&'q [u8]>) -> Statement<'q> {
    let kept = match outcome {
        Some(_) => lease.retention,
        None => lease.duration.saturating_add(lease.retention),
    };
    Statement::new(
        &RECREATE,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Fingerprint(lease.fingerprint.to_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            Value::Integer(i32::try_from(lease.attempt).unwrap_or(i32::MAX)),
            micros(kept),
            micros(lease.duration),
            Value::MaybeBytes(outcome),
        ],
    )
}

pub(super) fn release<'q>(id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    of_holder(&RELEASE, id, token)
}

pub(super) fn abandon<'q>(id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    of_holder(&ABANDON, id, token)
}

fn of_holder<'q>(text: &'static Text, id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    let values = [Value::Bytes(id.as_bytes()), Value::Bytes(token.as_bytes())];
    Statement::new(text, values)
}

/// Whether the change was made. `None`: run it again.
pub(super) fn applied(row: &PgRow) -> Result<Option<bool>, Error> {
    row.try_get("applied")
}

pub(super) fn inspect(id: &RecordId) -> Statement<'_> {
    Statement::new(&INSPECT, [Value::Bytes(id.as_bytes())])
}

#[allow(clippy::unnecessary_wraps, reason = "as every reader of a row")]
pub(super) fn inspection(row: &PgRow) -> Result<Option<Option<Inspection>>, Error> {
    let Some(attempt) = attempt(row)? else {
        return Ok(Some(None));
    };
    let fingerprint = bytes_of(row, "fingerprint")?.unwrap_or_default();
    let fingerprint = fingerprint[..]
        .try_into()
        .map_err(|error| Error::Decode(Box::new(error)))?;
    let phase = match outcome(row)? {
        Some(outcome) => Phase::Finished { outcome },
        None => Phase::Running {
            lease_left: lease_left(row)?,
        },
    };
    let fingerprint = Fingerprint::from_bytes(fingerprint);
    Ok(Some(Some(Inspection::new(fingerprint, attempt, phase))))
}

pub(super) fn watch(id: &RecordId) -> Statement<'_> {
    Statement::new(&WATCH, [Value::Bytes(id.as_bytes())])
}

/// Whether the watched record is running. `None`: run it again.
pub(super) fn is_running(row: &PgRow) -> Result<Option<bool>, Error> {
    row.try_get("runs")
}

/// Deletes expired records, from where an earlier sweep ended.
pub(super) fn sweep(batch: u32, from: Option<i64>) -> Statement<'static> {
    let values = [Value::Bigint(batch.into()), Value::MaybeBigint(from)];
    Statement::new(&SWEEP, values).replanned()
}

fn attempt(row: &PgRow) -> Result<Option<u32>, Error> {
    let attempt: Option<i32> = row.try_get("attempt")?;
    let unsigned = |attempt| u32::try_from(attempt).map_err(|error| Error::Decode(Box::new(error)));
    attempt.map(unsigned).transpose()
}

fn outcome(row: &PgRow) -> Result<Option<Bytes>, Error> {
    bytes_of(row, "outcome")
}

/// `None` if the lease is over.
fn lease_left(row: &PgRow) -> Result<Option<Duration>, Error> {
    let left: Option<i64> = row.try_get("lease_left")?;
    Ok(left.map(duration).filter(|left| !left.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_bounded() {
        let micros = |duration| match micros(duration) {
            Value::Bigint(micros) => micros,
            other => panic!("{other:?}"),
        };
        assert_eq!(micros(Duration::ZERO), 1000);
        assert_eq!(micros(Duration::from_nanos(1_000_001)), 1001);
        assert_eq!(micros(Duration::MAX), micros(MAX_DURATION));
    }

    #[test]
    fn what_is_past_is_nothing() {
        assert_eq!(duration(-1), Duration::ZERO);
        assert_eq!(duration(5), Duration::from_micros(5));
    }

    #[test]
    fn every_statement_calls_itself_by_its_name() {
        let texts = [
            &CLAIM, &FINISHED, &RENEW, &COMPLETE, &RECREATE, &RELEASE, &ABANDON, &INSPECT, &WATCH,
            &SWEEP,
        ];
        for Text { name, sql, .. } in texts {
            let said = format!("SELECT '{name}' AS statement");
            let compared = format!("$1 = '{name}'");
            assert!(sql.contains(&said) && sql.contains(&compared), "{name}");
        }
    }
}
