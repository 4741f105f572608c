//! The statements, one per transition, and how their rows are read.
//!
//! Each is a transaction of its own: one round trip, and nothing to clean up. The only clock is the
//! server's `now()`, the start of that transaction. Each returns exactly one row, and a listing more.
//!
//! A record has finished steps, and no outcome, where `steps` is not null and `outcome` is `'steps'`, or
//! `'suspended'`. Programs of before only look whether `outcome` is null: they take such a record for a
//! finished one whose outcome they cannot read, and leave it as it is. Either column alone says nothing:
//! such a program leaves `steps` as they are when it writes over an expired record, and any bytes may be
//! an outcome. Whoever holds a record has written both itself.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use idem_core::{
    Claim, Claimed, Cursor, Fingerprint, Forgotten, Inspection, Lease, Listed, Listing, OnCrash,
    OperationName, Page, Phase, RecordId, RecordState, Seen, Token,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

use super::statement::{Statement, Text, Value, bytes_of, text};

/// The longest duration that a record holds. The server can still add it to any date.
const MAX_DURATION: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);
const MIN_DURATION: Duration = Duration::from_millis(1);

static CLAIM: Text = text!("claim 2", "statements/claim.sql");
static FINISHED: Text = text!("finished 2", "statements/finished.sql");
static RENEW: Text = text!("renew 2", "statements/renew.sql");
static COMPLETE: Text = text!("complete 2", "statements/complete.sql");
static RECREATE: Text = text!("recreate 2", "statements/recreate.sql");
static RELEASE: Text = text!("release 2", "statements/release.sql");
static ABANDON: Text = text!("abandon 2", "statements/abandon.sql");
static INSPECT: Text = text!("inspect 3", "statements/inspect.sql");
static CHECKPOINT: Text = text!("checkpoint 1", "statements/checkpoint.sql");
static SUSPEND: Text = text!("suspend 1", "statements/suspend.sql");
static FORGET: Text = text!("forget 2", "statements/forget.sql");
static LIST: Text = text!("list 1", "statements/list.sql");
static WATCH: Text = text!("watch 2", "statements/watch.sql");
static REVOKE: Text = text!("revoke 1", "statements/revoke.sql");
static TIME: Text = text!("time 1", "statements/time.sql");
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

/// The name that a record says. Null: not known.
pub(super) fn name(operation: &OperationName) -> Value<'_> {
    let name = operation.as_str().as_bytes();
    Value::MaybeBytes(Some(name).filter(|name| !name.is_empty()))
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
            name(&claim.operation),
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
            claimed_at: claimed_at(row)?,
        }));
    }
    if row.try_get::<Option<bool>, _>("own")? == Some(true) {
        return Ok(Some(Claimed::Acquired {
            attempt,
            steps: bytes_of(row, "steps")?.unwrap_or_default(),
        }));
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
            name(&lease.operation),
        ],
    )
}

pub(super) fn release<'q>(id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    of_holder(&RELEASE, id, token)
}

pub(super) fn abandon<'q>(id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    of_holder(&ABANDON, id, token)
}

pub(super) fn suspend<'q>(id: &'q RecordId, token: &'q Token) -> Statement<'q> {
    of_holder(&SUSPEND, id, token)
}

pub(super) fn checkpoint<'q>(lease: &'q Lease, at: usize, steps: &'q [u8]) -> Statement<'q> {
    Statement::new(
        &CHECKPOINT,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            // No record has so many.
            Value::Integer(i32::try_from(at).unwrap_or(i32::MAX)),
            Value::Bytes(steps),
        ],
    )
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
    let is_suspended = row.try_get::<Option<bool>, _>("suspended")? == Some(true);
    let phase = match outcome(row)? {
        Some(outcome) => Phase::Finished { outcome },
        None if is_suspended => Phase::Suspended,
        None => Phase::Running {
            lease_left: lease_left(row)?,
        },
    };
    let found = Inspection::new(Fingerprint::from_bytes(fingerprint), attempt, phase)
        .claimed(operation(row)?, claimed_at(row)?)
        .steps(bytes_of(row, "steps")?.unwrap_or_default())
        .kept_for(duration(row.try_get("kept")?));
    Ok(Some(Some(found)))
}

/// A page, and one record more if there are more.
pub(super) fn list<'q>(listing: &'q Listing, after: &'q [u8]) -> Statement<'q> {
    let limit = listing.limit() + 1;
    let operation = listing.operation.as_ref().map(name);
    Statement::new(
        &LIST,
        [
            Value::Bytes(after),
            Value::Bigint(i64::try_from(limit).unwrap_or(i64::MAX)),
            Value::MaybeWord(listing.state.map(RecordState::as_str)),
            operation.unwrap_or(Value::MaybeBytes(None)),
        ],
    )
}

/// The id that a listing goes on behind: that of a page's last record. From the beginning if the cursor is
/// not one of this store's.
pub(super) fn listed_to(listing: &Listing) -> Vec<u8> {
    let id = |cursor: &Cursor| cursor.as_str().parse().ok();
    let id: Option<RecordId> = listing.after.as_ref().and_then(id);
    id.map(|id| id.as_bytes().to_vec()).unwrap_or_default()
}

pub(super) fn page(rows: &[PgRow], listing: &Listing) -> Result<Page, Error> {
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
    Ok(Page::new(
        records,
        next.map(|next| Cursor::new(next.to_string())),
    ))
}

fn listed(id: RecordId, row: &PgRow) -> Result<Listed, Error> {
    let state: &str = row.try_get("state")?;
    let state = RecordState::ALL
        .into_iter()
        .find(|known| known.as_str() == state);
    let state = state.ok_or(Error::RowNotFound)?;
    let attempt = attempt(row)?.unwrap_or_default();
    let kept_for = duration(row.try_get("kept")?);
    let mut listed = Listed::new(id, state, attempt, kept_for);
    listed.operation = operation(row)?;
    listed.claimed_at = claimed_at(row)?;
    listed.lease_left = lease_left(row)?;
    let bytes: i32 = row.try_get("bytes")?;
    listed.bytes = usize::try_from(bytes).unwrap_or_default();
    Ok(listed)
}

fn id(row: &PgRow, column: &str) -> Result<Option<RecordId>, Error> {
    let id = bytes_of(row, column)?.map(|id| {
        let id = id[..].try_into();
        id.map(RecordId::from_bytes)
            .map_err(|error| Error::Decode(Box::new(error)))
    });
    id.transpose()
}

/// `None` was seen: whatever it says.
pub(super) fn forget(id: &RecordId, seen: Option<Seen>) -> Statement<'_> {
    let number = seen.map_or(0, |seen| attempt_number(seen.attempt));
    let values = [
        Value::Bytes(id.as_bytes()),
        Value::Integer(number),
        Value::MaybeWord(seen.map(|seen| seen.state.as_str())),
    ];
    Statement::new(&FORGET, values)
}

/// What became of the record. `None`: run it again.
pub(super) fn forgotten(row: &PgRow) -> Result<Option<Forgotten>, Error> {
    if row.try_get("removed")? {
        return Ok(Some(Forgotten::Removed));
    }
    if !row.try_get::<bool, _>("stood")? {
        return Ok(Some(Forgotten::Absent));
    }
    if let Some(lease_left) = lease_left(row)? {
        return Ok(Some(Forgotten::Running { lease_left }));
    }
    let is_as_seen: bool = row.try_get("is_as_seen")?;
    Ok((!is_as_seen).then_some(Forgotten::NotAsSeen))
}

pub(super) fn revoke(id: &RecordId, attempt: u32) -> Statement<'_> {
    let attempt = attempt_number(attempt);
    let values = [Value::Bytes(id.as_bytes()), Value::Integer(attempt)];
    Statement::new(&REVOKE, values)
}

/// As the column has it. No record has so many that they do not fit.
fn attempt_number(attempt: u32) -> i32 {
    i32::try_from(attempt).unwrap_or(i32::MAX)
}

pub(super) fn time() -> Statement<'static> {
    Statement::new(&TIME, [])
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

fn operation(row: &PgRow) -> Result<OperationName, Error> {
    let name = bytes_of(row, "operation")?.unwrap_or_default();
    Ok(OperationName::new(&String::from_utf8_lossy(&name)))
}

/// When the newest attempt was claimed.
pub(super) fn claimed_at(row: &PgRow) -> Result<Option<SystemTime>, Error> {
    let at: Option<i64> = row.try_get("claimed_at")?;
    let at = at.and_then(|micros| u64::try_from(micros).ok());
    Ok(at.and_then(|micros| SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))))
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
            &CLAIM,
            &FINISHED,
            &RENEW,
            &COMPLETE,
            &RECREATE,
            &RELEASE,
            &ABANDON,
            &CHECKPOINT,
            &SUSPEND,
            &INSPECT,
            &LIST,
            &FORGET,
            &WATCH,
            &REVOKE,
            &TIME,
            &SWEEP,
        ];
        for Text { name, sql, .. } in texts {
            let said = format!("SELECT '{name}' AS statement");
            let compared = format!("$1 = '{name}'");
            assert!(sql.contains(&said) && sql.contains(&compared), "{name}");
        }
    }
}
