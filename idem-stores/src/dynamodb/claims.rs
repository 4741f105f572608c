//! Claims: one write where the record is absent, finished, held or another request's, and one more where it
//! is taken over.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use bytes::Bytes;
use idem_core::{Claim, Claimed, Lease, OnCrash, StoreError};

use super::calls::{Answer, Began, Calls, Expression, Write};
use super::changes::{self, changing};
use super::clock;
use super::record::{self, Record, State};

/// How often a record may change under a claim's hands before that gives up.
const TRIES: usize = 8;

pub(super) async fn claim(calls: &Calls, claim: &Claim) -> Result<Claimed, StoreError> {
    let _permit = calls.lanes.claim().await?;
    let mut found = None;
    for _ in 0..TRIES {
        let (written, attempt) = match &found {
            None => (create(calls, claim, Expression::absent()).await?, 1),
            Some((record, date)) => match judge(claim, record, *date) {
                Next::Create => {
                    let written = create(calls, claim, Expression::as_read(record));
                    (written.await?, 1)
                }
                Next::TakeOver => {
                    let written = take_over(calls, claim, record).await?;
                    (written, record.attempt.saturating_add(1))
                }
                Next::Recognise => return recognised(calls, claim, record, *date).await,
                Next::Answer(answer) => return told(calls, answer, found),
            },
        };
        if let Some(claimed) = acquired(calls, claim, &written, attempt).await? {
            return Ok(claimed);
        }
        let date = written.date();
        found = match written.value {
            Write::Unmet(Some(record)) => Some((record, date)),
            Write::Unmet(None) => None,
            Write::Done(_) => return Err(changing()),
        };
    }
    Err(changing())
}

/// What a claim does about a record.
enum Next {
    /// It is over: a first attempt takes its place.
    Create,
    TakeOver,
    /// It is this very claim's, whose answer was lost.
    Recognise,
    Answer(Standing),
}

/// Why a record stays as it is.
#[derive(Clone, Copy)]
enum Standing {
    Mismatch,
    InFlight,
    OutcomeUnknown,
    Finished,
}

fn judge(claim: &Claim, record: &Record, date: i64) -> Next {
    if record.is_expired(date) {
        return Next::Create;
    }
    if record.fingerprint != claim.fingerprint {
        return Next::Answer(Standing::Mismatch);
    }
    match record.state {
        State::Finished => Next::Answer(Standing::Finished),
        State::Suspended => Next::TakeOver,
        State::Running if record.is_held_by(&claim.token) => Next::Recognise,
        State::Running if record.is_leased(date) => Next::Answer(Standing::InFlight),
        State::Running | State::Abandoned => match claim.on_crash {
            OnCrash::Rerun => Next::TakeOver,
            _ => Next::Answer(Standing::OutcomeUnknown),
        },
    }
}

fn told(
    calls: &Calls,
    standing: Standing,
    found: Option<(Record, i64)>,
) -> Result<Claimed, StoreError> {
    let (record, _) = found.ok_or_else(changing)?;
    Ok(match standing {
        Standing::Mismatch => Claimed::Mismatch,
        Standing::InFlight => Claimed::InFlight {
            lease_left: record.lease_left(calls.now()?),
        },
        Standing::OutcomeUnknown => Claimed::OutcomeUnknown {
            attempt: record.attempt,
        },
        Standing::Finished => Claimed::Finished {
            retention_left: Some(record.retention_left(calls.now()?)),
            claimed_at: record.claimed_at(),
            outcome: record.outcome()?,
        },
    })
}

async fn create(
    calls: &Calls,
    claim: &Claim,
    condition: Expression,
) -> Result<Answer<Write>, StoreError> {
    let began = calls.begin()?;
    let item = record::claimed(claim, began.now);
    calls
        .put(&calls.claims, &claim.id, item, began, condition)
        .await
}

async fn take_over(
    calls: &Calls,
    claim: &Claim,
    record: &Record,
) -> Result<Answer<Write>, StoreError> {
    let began @ Began { now, .. } = calls.begin()?;
    let mut text =
        "SET t = :t, s = :s, n = :n, l = :l, expires = :x, k = :k, c = :c, unfinished = :i"
            .to_owned();
    let lease = Lease::of(claim, record.attempt.saturating_add(1));
    let named = !claim.operation.as_str().is_empty();
    if named {
        text.push_str(", o = :o");
    }
    let mut update = changes::with_lifetime(Expression::new(text), &lease, now)
        .value(":t", record::binary(claim.token.as_bytes().as_slice()))
        .value(":s", State::Running.value())
        .value(":n", record::number(lease.attempt.into()))
        .value(":c", record::number(now.middle()))
        .value(":i", record::index_value(&claim.id));
    if named {
        let name = AttributeValue::S(claim.operation.as_str().to_owned());
        update = update.value(":o", name);
    }
    let condition = Expression::as_read(record);
    let all = ReturnValue::AllNew;
    calls
        .update(&calls.claims, &claim.id, began, update, condition, all)
        .await
}

/// The right to run, where the write was made.
async fn acquired(
    calls: &Calls,
    claim: &Claim,
    written: &Answer<Write>,
    attempt: u32,
) -> Result<Option<Claimed>, StoreError> {
    let steps = match &written.value {
        Write::Unmet(_) => return Ok(None),
        Write::Done(None) => Bytes::new(),
        Write::Done(Some(item)) => Record::read(item.clone())?.steps()?,
    };
    if !written.is_proven() {
        prove(calls, claim, attempt).await?;
    }
    Ok(Some(Claimed::Acquired { attempt, steps }))
}

/// A claim whose first answer was lost. Its lease was written then; the caller may count it from a later
/// moment, which is before the server's next second.
async fn recognised(
    calls: &Calls,
    claim: &Claim,
    record: &Record,
    date: i64,
) -> Result<Claimed, StoreError> {
    let next_second = clock::Now {
        earliest: date.saturating_mul(1000),
        latest: date.saturating_add(1).saturating_mul(1000),
    };
    // Without the second that the margin has for the header, which is in `next_second`.
    let needed = clock::lease_end(next_second, claim.lease).saturating_sub(2);
    if record.lease_end.is_none_or(|end| end < needed) {
        prove(calls, claim, record.attempt).await?;
    }
    Ok(Claimed::Acquired {
        attempt: record.attempt,
        steps: record.steps()?,
    })
}

/// Writes a lease again that may end before its owner gives it up.
async fn prove(calls: &Calls, claim: &Claim, attempt: u32) -> Result<(), StoreError> {
    let lease = Lease::of(claim, attempt);
    match changes::extend(calls, &calls.claims, &lease).await?.value {
        Write::Done(_) => Ok(()),
        // Somebody took it for over, and has it now. No body has run under this claim.
        Write::Unmet(_) => Err(changing()),
    }
}
