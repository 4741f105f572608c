//! The messages, one per transition, and how their answers are read.
//!
//! Each statement is a transaction of its own, and only one of a message changes a record: the row is locked
//! while its condition is judged and the change is made, so that every message is correct in every race, at
//! every isolation level. What is read behind a change is read for the answer. The only clock is the
//! server's `UTC_TIMESTAMP(6)`, the start of each statement.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use idem_core::{
    Claim, Claimed, Cursor, Fingerprint, Forgotten, Inspection, Lease, Listed, Listing, OnCrash,
    OperationName, Page, Phase, RecordId, RecordState, Seen, Token,
};
use sqlx::Error;
use sqlx::mysql::MySqlRow;

use super::message::{
    Answer, Message, Text, Value, bytes_of, is, maybe_number, number, text, word,
};

/// The longest duration that a record holds. The server can still add it to any date.
const MAX_DURATION: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);
const MIN_DURATION: Duration = Duration::from_millis(1);

static CLAIM: Text = text!("statements/claim.sql");
static FINISHED: Text = text!("statements/finished.sql");
static RENEW: Text = text!("statements/renew.sql");
static COMPLETE: Text = text!("statements/complete.sql");
static HELD: Text = text!("statements/held.sql");
static RECREATE: Text = text!("statements/recreate.sql");
static RELEASE: Text = text!("statements/release.sql");
static ABANDON: Text = text!("statements/abandon.sql");
static CHECKPOINT: Text = text!("statements/checkpoint.sql");
static SUSPEND: Text = text!("statements/suspend.sql");
static INSPECT: Text = text!("statements/inspect.sql");
static FORGET: Text = text!("statements/forget.sql");
static LIST: Text = text!("statements/list.sql");
static REVOKE: Text = text!("statements/revoke.sql");
static TIME: Text = text!("statements/time.sql");
static SWEEP_LOOK: Text = text!("statements/sweep_look.sql");

/// A duration in microseconds, rounded up.
pub(super) fn micros(duration: Duration) -> Value<'static> {
    let micros = duration
        .clamp(MIN_DURATION, MAX_DURATION)
        .as_nanos()
        .div_ceil(1000);
    Value::Number(u64::try_from(micros).unwrap_or(u64::MAX))
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

pub(super) fn claim(claim: &Claim) -> Message {
    Message::new(
        &CLAIM,
        [
            Value::Bytes(claim.id.as_bytes()),
            Value::Bytes(&claim.fingerprint.to_bytes()),
            Value::Bytes(claim.token.as_bytes()),
            micros(claim.lease),
            micros(claim.retention),
            Value::Boolean(claim.on_crash == OnCrash::Rerun),
            name(&claim.operation),
        ],
    )
}

/// A claim on a server that takes no writes: it finds finished records only.
pub(super) fn finished(claim: &Claim) -> Message {
    Message::new(
        &FINISHED,
        [
            Value::Bytes(claim.id.as_bytes()),
            Value::Bytes(&claim.fingerprint.to_bytes()),
        ],
    )
}

/// The answer to a claim that reruns after a crash, or refuses. `None`: send it again, or nothing is
/// finished.
pub(super) fn claimed(answer: &Answer, on_crash: OnCrash) -> Result<Option<Claimed>, Error> {
    let Some(row) = answer.rows().first() else {
        return Ok(None);
    };
    if !is(row, "same")? {
        return Ok(Some(Claimed::Mismatch));
    }
    let attempt = attempt(row)?;
    Ok(match word(row, "state")? {
        "finished" => Some(Claimed::Finished {
            outcome: bytes_of(row, "outcome")?.ok_or(Error::RowNotFound)?,
            retention_left: Some(duration(number(row, "kept")?)),
            claimed_at: claimed_at(row)?,
        }),
        "running" if is(row, "own")? => Some(Claimed::Acquired {
            attempt,
            steps: bytes_of(row, "steps")?.unwrap_or_default(),
        }),
        "running" => match lease_left(row)? {
            Some(lease_left) => Some(Claimed::InFlight { lease_left }),
            None if on_crash == OnCrash::Rerun => None,
            None => Some(Claimed::OutcomeUnknown { attempt }),
        },
        "suspended" => None,
        _ => return Err(Error::RowNotFound),
    })
}

pub(super) fn renew(lease: &Lease) -> Message {
    Message::new(
        &RENEW,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            micros(lease.duration),
            micros(lease.retention),
        ],
    )
}

pub(super) fn complete(lease: &Lease, outcome: &[u8]) -> Message {
    Message::new(
        &COMPLETE,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            Value::Bytes(outcome),
            micros(lease.retention),
        ],
    )
}

pub(super) fn held(id: &RecordId, token: &Token) -> Message {
    of_holder(&HELD, id, token)
}

/// What a change found that was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The token does not hold the record.
    No,
    /// It does, so that the change can be made.
    Runs,
    /// It has finished it.
    Finished,
}

pub(super) fn read_held(answer: &Answer) -> Result<Held, Error> {
    let Some(row) = answer.rows().first() else {
        return Ok(Held::No);
    };
    match word(row, "state")? {
        "finished" => Ok(Held::Finished),
        "running" => Ok(Held::Runs),
        _ => Err(Error::RowNotFound),
    }
}

/// Creates a record again that the server has forgotten: running, or finished if there is an outcome.
pub(super) fn recreate(lease: &Lease, outcome: Option<&[u8]>) -> Message {
    let (kept, state) = match outcome {
        Some(_) => (lease.retention, "finished"),
        None => (lease.duration.saturating_add(lease.retention), "running"),
    };
    Message::new(
        &RECREATE,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Bytes(&lease.fingerprint.to_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            Value::Number(lease.attempt.into()),
            micros(kept),
            micros(lease.duration),
            Value::MaybeWord(Some(state)),
            Value::MaybeBytes(outcome),
            name(&lease.operation),
        ],
    )
}

pub(super) fn release(id: &RecordId, token: &Token) -> Message {
    of_holder(&RELEASE, id, token)
}

pub(super) fn abandon(id: &RecordId, token: &Token) -> Message {
    of_holder(&ABANDON, id, token)
}

pub(super) fn suspend(id: &RecordId, token: &Token) -> Message {
    of_holder(&SUSPEND, id, token)
}

pub(super) fn checkpoint(lease: &Lease, at: usize, steps: &[u8]) -> Message {
    Message::new(
        &CHECKPOINT,
        [
            Value::Bytes(lease.id.as_bytes()),
            Value::Bytes(lease.token.as_bytes()),
            Value::Number(u64::try_from(at).unwrap_or(u64::MAX)),
            Value::Bytes(steps),
        ],
    )
}

fn of_holder(text: &Text, id: &RecordId, token: &Token) -> Message {
    Message::new(
        text,
        [Value::Bytes(id.as_bytes()), Value::Bytes(token.as_bytes())],
    )
}

pub(super) fn inspect(id: &RecordId) -> Message {
    Message::new(&INSPECT, [Value::Bytes(id.as_bytes())])
}

pub(super) fn inspection(answer: &Answer) -> Result<Option<Inspection>, Error> {
    let Some(row) = answer.rows().first() else {
        return Ok(None);
    };
    let fingerprint = bytes_of(row, "fingerprint")?.unwrap_or_default();
    let fingerprint = fingerprint[..]
        .try_into()
        .map_err(|error| Error::Decode(Box::new(error)))?;
    let phase = match word(row, "state")? {
        "finished" => Phase::Finished {
            outcome: bytes_of(row, "outcome")?.ok_or(Error::RowNotFound)?,
        },
        "suspended" => Phase::Suspended,
        "running" => Phase::Running {
            lease_left: lease_left(row)?,
        },
        _ => return Err(Error::RowNotFound),
    };
    let found = Inspection::new(Fingerprint::from_bytes(fingerprint), attempt(row)?, phase)
        .claimed(operation(row)?, claimed_at(row)?)
        .steps(bytes_of(row, "steps")?.unwrap_or_default())
        .kept_for(duration(number(row, "kept")?));
    Ok(Some(found))
}

/// A page, and one record more if there are more. `None`: there is no record behind the page before.
pub(super) fn list(listing: &Listing) -> Option<Message> {
    let limit = u64::try_from(listing.limit() + 1).unwrap_or(u64::MAX);
    let operation = listing.operation.as_ref().map(name);
    Some(Message::new(
        &LIST,
        [
            Value::Bytes(&listed_from(listing)?),
            Value::Number(limit),
            Value::MaybeWord(listing.state.map(RecordState::as_str)),
            operation.unwrap_or(Value::MaybeBytes(None)),
        ],
    ))
}

/// The first id of a page: the one behind the last one of the page before. From the beginning if the cursor
/// is not one of this store's.
fn listed_from(listing: &Listing) -> Option<[u8; 32]> {
    let last = |cursor: &Cursor| cursor.as_str().parse().ok();
    let last: Option<RecordId> = listing.after.as_ref().and_then(last);
    let Some(last) = last else {
        return Some([0; 32]);
    };
    let mut id = *last.as_bytes();
    for byte in id.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(id);
        }
    }
    None
}

pub(super) fn page(answer: &Answer, listing: &Listing) -> Result<Page, Error> {
    let rows = answer.rows();
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
    let cursor = next.map(|next| Cursor::new(next.to_string()));
    Ok(Page::new(records, cursor))
}

fn listed(id: RecordId, row: &MySqlRow) -> Result<Listed, Error> {
    let state = word(row, "word")?;
    let state = RecordState::ALL
        .into_iter()
        .find(|known| known.as_str() == state);
    let state = state.ok_or(Error::RowNotFound)?;
    let kept_for = duration(number(row, "kept")?);
    let mut listed = Listed::new(id, state, attempt(row)?, kept_for);
    listed.operation = operation(row)?;
    listed.claimed_at = claimed_at(row)?;
    listed.lease_left = match state {
        RecordState::Running => lease_left(row)?,
        _ => None,
    };
    listed.bytes = usize::try_from(number(row, "bytes")?).unwrap_or_default();
    Ok(listed)
}

pub(super) fn id(row: &MySqlRow, column: &str) -> Result<Option<RecordId>, Error> {
    let id = bytes_of(row, column)?.map(|id| {
        let id = id[..].try_into();
        id.map(RecordId::from_bytes)
            .map_err(|error| Error::Decode(Box::new(error)))
    });
    id.transpose()
}

/// `None` was seen: whatever it says.
pub(super) fn forget(id: &RecordId, seen: Option<Seen>) -> Message {
    let values = [
        Value::Bytes(id.as_bytes()),
        Value::Number(seen.map_or(0, |seen| seen.attempt.into())),
        Value::MaybeWord(seen.map(|seen| seen.state.as_str())),
    ];
    Message::new(&FORGET, values)
}

/// What became of the record. `None`: send it again.
pub(super) fn forgotten(answer: &Answer) -> Result<Option<Forgotten>, Error> {
    if answer.affected_by(0) > 0 {
        return Ok(Some(Forgotten::Removed));
    }
    let Some(row) = answer.rows().first() else {
        return Ok(Some(Forgotten::Absent));
    };
    if let Some(lease_left) = lease_left(row)? {
        return Ok(Some(Forgotten::Running { lease_left }));
    }
    let is_as_seen = number(row, "is_as_seen")? != 0;
    Ok((!is_as_seen).then_some(Forgotten::NotAsSeen))
}

/// Ends the lease of this attempt.
pub(super) fn revoke(id: &RecordId, attempt: u32) -> Message {
    let values = [Value::Bytes(id.as_bytes()), Value::Number(attempt.into())];
    Message::new(&REVOKE, values)
}

pub(super) fn time() -> Message {
    Message::new(&TIME, [])
}

/// The server's time.
pub(super) fn read_time(answer: &Answer) -> Result<Option<SystemTime>, Error> {
    answer.rows().first().map_or(Ok(None), claimed_at)
}

/// Locks expired records, from where an earlier sweep ended.
pub(super) fn sweep_look(batch: u32, from: Option<i64>) -> Message {
    let from = from.and_then(|from| u64::try_from(from).ok());
    Message::new(
        &SWEEP_LOOK,
        [
            Value::Number(batch.into()),
            Value::Number(from.unwrap_or_default()),
        ],
    )
}

/// The most ids of one statement. MariaDB makes a table of a thousand, and scans the records for it.
const MAX_DELETED: usize = 250;

/// Deletes records that are locked, and commits.
///
/// They are found by their ids: a scan would wait for rows that others have locked. Only this form of a
/// deletion takes the hint.
pub(super) fn sweep_delete(ids: &[RecordId]) -> Message {
    let mut sql = String::with_capacity(200 + 70 * ids.len());
    for ids in ids.chunks(MAX_DELETED) {
        sql.push_str(
            "DELETE idem_records FROM idem_records FORCE INDEX (PRIMARY) \
             WHERE expires_at <= UTC_TIMESTAMP(6) AND id IN (",
        );
        for (place, id) in ids.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let _ = write!(sql, "{comma}x'{id}'");
        }
        sql.push_str("); ");
    }
    sql.push_str("COMMIT");
    Message::plain(sql)
}

fn attempt(row: &MySqlRow) -> Result<u32, Error> {
    u32::try_from(number(row, "attempt")?).map_err(|error| Error::Decode(Box::new(error)))
}

fn operation(row: &MySqlRow) -> Result<OperationName, Error> {
    let name = bytes_of(row, "operation")?.unwrap_or_default();
    Ok(OperationName::new(&String::from_utf8_lossy(&name)))
}

/// When the newest attempt was claimed.
pub(super) fn claimed_at(row: &MySqlRow) -> Result<Option<SystemTime>, Error> {
    let at = maybe_number(row, "claimed_at")?;
    let at = at.and_then(|micros| u64::try_from(micros).ok());
    Ok(at.and_then(|micros| SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))))
}

/// `None` if the lease is over.
fn lease_left(row: &MySqlRow) -> Result<Option<Duration>, Error> {
    let left = maybe_number(row, "lease_left")?;
    Ok(left.map(duration).filter(|left| !left.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_bounded() {
        let micros = |duration| match micros(duration) {
            Value::Number(micros) => micros,
            other => panic!("{other:?}"),
        };
        assert_eq!(micros(Duration::ZERO), 1000);
        assert_eq!(micros(Duration::from_nanos(1_000_001)), 1001);
        assert_eq!(micros(Duration::MAX), micros(MAX_DURATION));
    }

    #[test]
    fn a_page_begins_behind_the_one_before() {
        let from = |id: [u8; 32]| {
            let cursor = Cursor::new(RecordId::from_bytes(id).to_string());
            listed_from(&Listing::new(1).after(cursor))
        };
        let ending = |last: [u8; 2]| {
            let mut id = [7; 32];
            id[30..].copy_from_slice(&last);
            id
        };
        assert_eq!(from(ending([0, 0])), Some(ending([0, 1])));
        assert_eq!(from(ending([3, 255])), Some(ending([4, 0])));
        assert_eq!(from([255; 32]), None);
        assert_eq!(listed_from(&Listing::new(1)), Some([0; 32]));
    }
}
