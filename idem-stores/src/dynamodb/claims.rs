//! Claims: one write where the record is absent, finished, held or another request's, and one more where it
//! is taken over.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use bytes::Bytes;
use idem_core::{Claim, Claimed, Lease, OnCrash, StoreError};

use super::NAME;
use super::calls::{Answer, Began, Calls, Expression, Write};
use super::changes::{self, changing};
use super::errors::Said;
use super::record::{self, Record, State};

/// How often a record may change under a claim's hands before that gives up.
const TRIES: usize = 8;

pub(super) async fn claim(calls: &Calls, claim: &Claim) -> Result<Claimed, StoreError> {
    let _permit = calls.lanes.claim().await?;
    let mut seen: Option<Seen> = None;
    for _ in 0..TRIES {
        let (written, attempt) = match seen {
            None => (create(calls, claim, Expression::absent()).await?, 1),
            Some(found) => match judge(claim, &found) {
                Next::Create => {
                    let written = create(calls, claim, Expression::as_read(&found.record));
                    (written.await?, 1)
                }
                Next::TakeOver => {
                    // Whoever takes it over must be able to go on with them.
                    let _ = found.record.steps()?;
                    let written = take_over(calls, claim, &found.record).await?;
                    (written, found.record.attempt.saturating_add(1))
                }
                Next::Recognise => return recognised(calls, claim, found).await,
                Next::Answer(standing) => return told(calls, standing, found.record),
            },
        };
        let (date, is_proven) = (written.date(), written.is_proven());
        let record = match written.value {
            Write::Done(item) => {
                if !is_proven {
                    prove(calls, claim, attempt).await?;
                }
                let steps = match item {
                    Some(item) => Record::read(item)
                        .and_then(|record| record.steps())
                        .map_err(|error| after_a_write(&error))?,
                    None => Bytes::new(),
                };
                return Ok(Claimed::Acquired { attempt, steps });
            }
            Write::Unmet(record) => record,
        };
        seen = record.map(|record| Seen {
            record,
            date,
            is_proven,
        });
    }
    Err(changing())
}

/// A record that was in a claim's way.
struct Seen {
    record: Box<Record>,
    /// The second of the answer that carried it.
    date: i64,
    /// Whether that answer proves that this process's clock was not late.
    is_proven: bool,
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

fn judge(claim: &Claim, Seen { record, date, .. }: &Seen) -> Next {
    let date = *date;
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

fn told(calls: &Calls, standing: Standing, record: Box<Record>) -> Result<Claimed, StoreError> {
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
    calls.put(&claim.id, item, began, condition).await
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

/// A claim whose first answer was lost. Its lease stays as it was written then, unless this process's clock is
/// known to be late.
async fn recognised(
    calls: &Calls,
    claim: &Claim,
    Seen {
        record, is_proven, ..
    }: Seen,
) -> Result<Claimed, StoreError> {
    if !is_proven {
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
    let written = changes::extend(calls, &calls.claims, &lease).await;
    match written.map_err(|error| after_a_write(&error))?.value {
        Write::Done(_) => Ok(()),
        // Somebody took it for over, and has it now. No body has run under this claim.
        Write::Unmet(_) => Err(changing()),
    }
}

/// The error of a claim that was made, whatever came after it: it has to be undone.
fn after_a_write(error: &StoreError) -> StoreError {
    let why = format!("the claim was made, and then: {error}");
    StoreError::unavailable(NAME, Said::new(why))
}
