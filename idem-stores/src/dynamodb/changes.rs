//! What a lease holder does with its record: each one write. One that finds another record than it expects
//! reads its answer in that.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use bytes::Bytes;
use idem_core::{Change, Forgotten, Lease, RecordId, Seen, StoreError, Token};

use super::NAME;
use super::calls::{Answer, Began, Calls, Expression, Write};
use super::clock::{self, Now};
use super::errors::Said;
use super::record::{self, Record, State};

/// How often a record may change under a call's hands before that gives up.
const TRIES: usize = 8;

/// The error of a record that changes as often as it is looked at.
pub(super) fn changing() -> StoreError {
    StoreError::busy(NAME, Said::new("the record changes all the time"))
}

/// The running record of this token.
fn held(token: &Token, now: Now) -> Expression {
    Expression::new("t = :held AND s = :running AND expires >= :date")
        .value(":held", record::binary(token.as_bytes().as_slice()))
        .value(":running", State::Running.value())
        .value(":date", record::number(now.earliest / 1000))
}

/// The values of a lease that begins now: `:l`, `:x` and `:k`.
pub(super) fn with_lifetime(update: Expression, lease: &Lease, now: Now) -> Expression {
    let kept = lease
        .duration
        .saturating_add(clock::MARGIN)
        .saturating_add(lease.retention);
    let retention = record::whole_seconds(lease.retention);
    update
        .value(":l", record::number(clock::lease_end(now, lease.duration)))
        .value(":x", record::number(clock::second_after(now, kept)))
        .value(":k", record::number(retention))
}

/// What an owner finds where its record does not fit.
enum Found {
    /// The token holds it: it fits now.
    Own(Box<Record>),
    /// This token's attempt has finished it.
    Finished,
    /// Somebody else's, or nobody's.
    Other(Box<Record>),
    /// Absent, or expired: what a record that takes its place must meet.
    Absent(Expression),
}

fn found(token: &Token, record: Option<Box<Record>>, date: i64) -> Found {
    match record {
        None => Found::Absent(Expression::absent()),
        Some(record) if record.is_expired(date) => Found::Absent(Expression::as_read(&record)),
        Some(record) if record.is_held_by(token) => Found::Own(record),
        Some(record) if record.was_finished_by(token) => Found::Finished,
        Some(record) => Found::Other(record),
    }
}

/// The answer of a write, as its owner takes it. `None`: it was made.
fn missed(token: &Token, written: Answer<Write>) -> Option<Found> {
    let date = written.date();
    match written.value {
        Write::Done(_) => None,
        Write::Unmet(record) => Some(found(token, record, date)),
    }
}

/// Writes the lease of a running record anew, from now on.
pub(super) async fn extend(
    calls: &Calls,
    client: &Client,
    lease: &Lease,
) -> Result<Answer<Write>, StoreError> {
    let began @ Began { now, .. } = calls.begin()?;
    let update = with_lifetime(
        Expression::new("SET l = :l, expires = :x, k = :k"),
        lease,
        now,
    );
    let condition = held(&lease.token, now);
    let nothing = ReturnValue::None;
    calls
        .update(client, &lease.id, began, update, condition, nothing)
        .await
}

pub(super) async fn renew(calls: &Calls, lease: &Lease) -> Result<Change, StoreError> {
    let _permit = calls.lanes.renewal().await?;
    let client = &calls.holders;
    // Once more where the answer does not prove the lease.
    let mut is_written = false;
    for _ in 0..TRIES {
        let extended = extend(calls, client, lease).await?;
        let is_proven = extended.is_proven();
        let place = match missed(&lease.token, extended) {
            None if is_proven || is_written => return Ok(Change::Applied),
            None => {
                is_written = true;
                continue;
            }
            Some(Found::Own(_)) => continue,
            Some(Found::Absent(place)) if lease.unbroken => place,
            Some(_) => return Ok(Change::LeaseLost),
        };
        let began = calls.begin()?;
        let item = record::running_again(lease, began.now);
        let written = calls.put(&lease.id, item, began, place).await?;
        if matches!(written.value, Write::Done(_)) && written.is_proven() {
            return Ok(Change::Applied);
        }
    }
    Err(changing())
}

pub(super) async fn complete(
    calls: &Calls,
    lease: &Lease,
    outcome: &Bytes,
) -> Result<Change, StoreError> {
    let _permit = calls.lanes.end().await?;
    let client = &calls.holders;
    for _ in 0..TRIES {
        let began @ Began { now, .. } = calls.begin()?;
        let expires = clock::second_after(now, lease.retention);
        let update =
            Expression::new("SET s = :s, b = :b, z = :z, expires = :x REMOVE l, p, k, unfinished")
                .value(":s", State::Finished.value())
                .value(":b", record::binary(outcome.to_vec()))
                .value(":z", record::length(outcome.len()))
                .value(":x", record::number(expires));
        let condition = held(&lease.token, now);
        let nothing = ReturnValue::None;
        let written = calls
            .update(client, &lease.id, began, update, condition, nothing)
            .await?;
        let is_proven = written.is_proven();
        let place = match missed(&lease.token, written) {
            None if is_proven => return Ok(Change::Applied),
            None => return keep_finished(calls, lease).await,
            Some(Found::Own(_)) => continue,
            Some(Found::Finished) => return Ok(Change::Applied),
            Some(Found::Absent(place)) if lease.unbroken => place,
            Some(Found::Absent(_) | Found::Other(_)) => return Ok(Change::LeaseLost),
        };
        let began = calls.begin()?;
        let item = record::finished_again(lease, outcome, began.now);
        let written = calls.put(&lease.id, item, began, place).await?;
        if matches!(written.value, Write::Done(_)) {
            return match written.is_proven() {
                true => Ok(Change::Applied),
                false => keep_finished(calls, lease).await,
            };
        }
    }
    Err(changing())
}

/// Writes the retention of a finished record again, which was counted from a clock that was late.
async fn keep_finished(calls: &Calls, lease: &Lease) -> Result<Change, StoreError> {
    let began = calls.begin()?;
    let expires = clock::second_after(began.now, lease.retention);
    let update = Expression::new("SET expires = :x").value(":x", record::number(expires));
    let condition = Expression::new("t = :held AND s = :finished")
        .value(":held", record::binary(lease.token.as_bytes().as_slice()))
        .value(":finished", State::Finished.value());
    let nothing = ReturnValue::None;
    let written = calls
        .update(&calls.holders, &lease.id, began, update, condition, nothing)
        .await?;
    match written.value {
        Write::Done(_) => Ok(Change::Applied),
        // Its retention was over already, and somebody has claimed it since.
        Write::Unmet(_) => Ok(Change::LeaseLost),
    }
}

/// Deletes a record without steps, and suspends one with steps.
pub(super) async fn release(
    calls: &Calls,
    id: &RecordId,
    token: &Token,
) -> Result<Change, StoreError> {
    let permit = calls.lanes.end().await?;
    let client = &calls.holders;
    for _ in 0..TRIES {
        let condition = held(token, calls.now()?)
            .and("z = :zero")
            .value(":zero", record::number(0));
        let written = calls.delete(client, id, condition).await?;
        let may_be_done = written.earlier_may_have_effect;
        match missed(token, written) {
            None => return Ok(Change::Applied),
            Some(Found::Own(record)) if record.length > 0 => {
                drop(permit);
                return end(calls, id, token, State::Suspended).await;
            }
            Some(Found::Own(_)) => {}
            // An earlier try of this call has deleted it and its answer was lost, or there was nothing. Who
            // undoes a claim that may still be on its way must not take this for proof.
            Some(Found::Absent(_)) if may_be_done => {
                let said = Said::new("its answer was lost, and now there is no record");
                return Err(StoreError::unavailable(NAME, said));
            }
            Some(_) => return Ok(Change::LeaseLost),
        }
    }
    Err(changing())
}

/// Ends a lease without an outcome: the record is [`State::Abandoned`] or [`State::Suspended`] then.
pub(super) async fn end(
    calls: &Calls,
    id: &RecordId,
    token: &Token,
    state: State,
) -> Result<Change, StoreError> {
    let _permit = calls.lanes.end().await?;
    let client = &calls.holders;
    for _ in 0..TRIES {
        let began @ Began { now, .. } = calls.begin()?;
        let update = match state {
            State::Suspended => Expression::new("SET s = :s, expires = k + :now REMOVE l")
                .value(":now", record::number(now.latest / 1000 + 1)),
            _ => Expression::new("SET s = :s REMOVE l"),
        };
        let update = update.value(":s", state.value());
        let condition = held(token, now);
        let nothing = ReturnValue::None;
        let written = calls
            .update(client, id, began, update, condition, nothing)
            .await?;
        let may_be_done = written.earlier_may_have_effect;
        return Ok(match missed(token, written) {
            None => Change::Applied,
            Some(Found::Own(_)) => continue,
            // An earlier try of this call has ended it, and its answer was lost.
            Some(Found::Other(record))
                if may_be_done && record.token == *token && record.state == state =>
            {
                Change::Applied
            }
            Some(_) => Change::LeaseLost,
        });
    }
    Err(changing())
}

/// Takes the lease from the attempt with this number.
pub(super) async fn revoke(
    calls: &Calls,
    id: &RecordId,
    attempt: u32,
) -> Result<Change, StoreError> {
    let _permit = calls.lanes.claim().await?;
    let began @ Began { now, .. } = calls.begin()?;
    let update = Expression::new("SET s = :s REMOVE l").value(":s", State::Abandoned.value());
    let condition = Expression::new("n = :n AND s = :running AND expires >= :date")
        .value(":n", record::number(attempt.into()))
        .value(":running", State::Running.value())
        .value(":date", record::number(now.earliest / 1000));
    let nothing = ReturnValue::None;
    let written = calls
        .update(&calls.claims, id, began, update, condition, nothing)
        .await?;
    Ok(match written.value {
        Write::Done(_) => Change::Applied,
        Write::Unmet(_) => Change::LeaseLost,
    })
}

pub(super) async fn checkpoint(
    calls: &Calls,
    lease: &Lease,
    at: usize,
    steps: &Bytes,
) -> Result<Change, StoreError> {
    let _permit = calls.lanes.end().await?;
    let client = &calls.holders;
    let end = at.saturating_add(steps.len());
    // How long the steps in the record are.
    let mut there = at;
    for _ in 0..TRIES {
        let missing = steps.slice(there.saturating_sub(at).min(steps.len())..);
        let began @ Began { now, .. } = calls.begin()?;
        let update = match missing.is_empty() {
            true => Expression::new("SET z = :end"),
            false => {
                Expression::new("SET z = :end, p = list_append(if_not_exists(p, :none), :more)")
                    .value(":none", AttributeValue::L(Vec::new()))
                    .value(
                        ":more",
                        AttributeValue::L(vec![record::binary(missing.to_vec())]),
                    )
            }
        };
        let update = update.value(":end", record::length(end));
        let condition = held(&lease.token, now)
            .and("z = :there")
            .value(":there", record::length(there));
        let nothing = ReturnValue::None;
        let written = calls
            .update(client, &lease.id, began, update, condition, nothing)
            .await?;
        match missed(&lease.token, written) {
            None => return Ok(Change::Applied),
            Some(Found::Own(record)) if record.length >= end => return Ok(Change::Applied),
            Some(Found::Own(record)) if record.length >= at => there = record.length,
            Some(_) => return Ok(Change::LeaseLost),
        }
    }
    Err(changing())
}

/// `None` was seen: whatever it says.
pub(super) async fn forget(
    calls: &Calls,
    id: &RecordId,
    seen: Option<Seen>,
) -> Result<Forgotten, StoreError> {
    let _permit = calls.lanes.claim().await?;
    let mut condition = match seen {
        None => Expression::new("attribute_exists(id) AND s <> :running")
            .value(":running", State::Running.value()),
        Some(seen) => Expression::new("n = :seen_n AND s = :seen_s")
            .value(":seen_n", record::number(seen.attempt.into()))
            .value(":seen_s", State::without_a_lease(seen.state)),
    };
    for _ in 0..TRIES {
        let deleted = calls.delete(&calls.claims, id, condition).await?;
        let date = deleted.date();
        let record = match deleted.value {
            Write::Done(item) => {
                // One that cannot be read is forgotten, too.
                let record = item.and_then(|item| Record::read(item).ok());
                let was_over = record.is_some_and(|record| record.is_expired(date));
                return Ok(match was_over {
                    true => Forgotten::Absent,
                    false => Forgotten::Removed,
                });
            }
            Write::Unmet(None) if deleted.earlier_may_have_effect => {
                return Ok(Forgotten::Removed);
            }
            Write::Unmet(None) => return Ok(Forgotten::Absent),
            Write::Unmet(Some(record)) => record,
        };
        if record.is_leased(date) && !record.is_expired(date) {
            let lease_left = record.lease_left(calls.now()?);
            return Ok(Forgotten::Running { lease_left });
        }
        if seen.is_some_and(|seen| seen != record.seen(date)) && !record.is_expired(date) {
            return Ok(Forgotten::NotAsSeen);
        }
        condition = Expression::as_read(&record);
    }
    Err(changing())
}
