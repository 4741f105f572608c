//! Claims: one plain command where that is enough, and a script where the command found a running
//! record.

use bytes::Bytes;
use idem_core::{Claim, Claimed, Lease, OnCrash, StoreError};
use redis::Value;

use super::NAME;
use super::appendix;
use super::backend::Backend;
use super::command::{Number, Word};
use super::connection::Written;
use super::durability::{Confirmation, NotReplicated};
use super::errors::{CallError, UNREADABLE};
use super::lanes::Permit;
use super::record::{self, EncodedId, Running, record_and_ttl, record_of};
use super::scripts::flag;
use super::v1::{self, Fenced};

/// `at` is when, in milliseconds of the server's clock, or 0.
pub(super) async fn claim(
    backend: &Backend,
    claim: &Claim,
    at: u64,
) -> Result<Claimed, StoreError> {
    let permit = backend.lanes.claim().await?;
    let crashed = match backend.may_have_v1_records() {
        false => 0,
        true => {
            let fenced = v1::fence(&permit, &backend.scripts, &backend.prefix, claim);
            match Box::pin(fenced).await? {
                Fenced::Free { crashed_attempts } => crashed_attempts,
                Fenced::Answered(answer) => return Ok(answer),
            }
        }
    };
    let first = crashed.saturating_add(1);
    let claiming = Claiming {
        backend,
        claim,
        permit: &permit,
        id: record::encoded_id(&claim.id),
        fresh: Running::claimed(&Lease::of(claim, first), at),
        millis: Number::new(record::lifetime(claim.lease, claim.retention)),
        first,
    };
    loop {
        let rare = match claiming.set().await {
            Ok(Written {
                answer: Value::Nil,
                confirmation: Confirmation::Confirmed,
            }) => {
                backend.own_claims.remember(&claim.token, at);
                return Ok(Claimed::acquired(first));
            }
            Ok(Written {
                answer: Value::Nil,
                confirmation,
            }) => Rare::Unconfirmed(confirmation),
            Ok(Written { answer, .. }) => match record_of(answer)?.answer_without_ttl(claim) {
                Some(Claimed::Acquired { attempt, steps }) if permit.is_durable() => {
                    Rare::SentBefore { attempt, steps }
                }
                Some(answer) => return Ok(answer),
                None => Rare::Running { refused: None },
            },
            // Changes of existing records pass the memory bound.
            Err(error) if error.is_out_of_memory() => Rare::Running {
                refused: Some(error),
            },
            Err(error) if error.refuses_writes() => Rare::NotWritable(error),
            Err(error) => return Err(error.into()),
        };
        // Apart, so that the common ways are small.
        if let Some(answer) = Box::pin(claiming.goes_on(rare)).await? {
            return Ok(answer);
        }
    }
}

/// What a first look may find, seldom.
enum Rare {
    /// The claim was written, and not confirmed.
    Unconfirmed(Confirmation),
    /// The claim was sent before. Whether it was replicated then is not known.
    SentBefore { attempt: u32, steps: Bytes },
    /// A running record; or whatever there is, where the server takes no new record.
    Running { refused: Option<CallError> },
    /// The server takes no writes.
    NotWritable(CallError),
}

struct Claiming<'a> {
    backend: &'a Backend,
    claim: &'a Claim,
    permit: &'a Permit<'a>,
    id: EncodedId,
    /// The record and the lifetime of a first attempt, and its number.
    fresh: Running,
    millis: Number,
    first: u32,
}

impl Claiming<'_> {
    async fn set(&self) -> Result<Written, CallError> {
        let key = self.backend.key(&self.id);
        self.permit
            .set_if_absent(key, self.fresh.as_bytes(), &self.millis)
            .await
    }

    /// The answer, or `None` where the record has ended meanwhile.
    async fn goes_on(&self, rare: Rare) -> Result<Option<Claimed>, StoreError> {
        let (backend, permit, claim) = (self.backend, self.permit, self.claim);
        let key = backend.key(&self.id);
        let (taken, confirmation) = match rare {
            Rare::Unconfirmed(confirmation) => (Taken::first(self.first), confirmation),
            Rare::SentBefore { attempt, steps } => {
                let taken = Taken {
                    attempt,
                    steps,
                    was_suspended: false,
                };
                match touch(backend, permit, key, claim).await? {
                    Some(confirmation) => (taken, confirmation),
                    None => return Ok(None),
                }
            }
            Rare::NotWritable(error) => {
                return read_instead(permit, key, claim, error).await.map(Some);
            }
            Rare::Running { refused } => {
                let rerun = flag(claim.on_crash == OnCrash::Rerun);
                let arguments = [
                    self.fresh.as_bytes().into(),
                    self.millis.as_bytes().into(),
                    rerun,
                ];
                let call = backend.scripts.claim.on(key, &arguments);
                let written = permit.run_writing(&call, Taken::is_said_by);
                let Written {
                    answer,
                    confirmation,
                } = written.await?;
                match (answer, refused) {
                    (Value::Nil, Some(refused)) => return Err(refused.into()),
                    // The record ended between the two looks, and is free.
                    (Value::Nil, None) => return Ok(None),
                    (taken, _) if Taken::is_said_by(&taken) => (Taken::read(taken)?, confirmation),
                    (found, _) => {
                        let (record, ttl) = record_and_ttl(found)?;
                        let answer = record.answer_with_ttl(claim, ttl);
                        return answer.ok_or(UNREADABLE).map(Some);
                    }
                }
            }
        };
        let acquired = acquired(backend, key, claim, taken, confirmation).await;
        acquired.map(Some)
    }
}

/// A record that a claim has got.
struct Taken {
    attempt: u32,
    steps: Bytes,
    was_suspended: bool,
}

impl Taken {
    const fn first(attempt: u32) -> Self {
        Self {
            attempt,
            steps: Bytes::new(),
            was_suspended: false,
        }
    }

    /// Whether the script has answered with one.
    fn is_said_by(answer: &Value) -> bool {
        match answer {
            Value::Int(_) => true,
            Value::Array(parts) => matches!(parts.first(), Some(Value::Int(_))),
            _ => false,
        }
    }

    fn read(answer: Value) -> Result<Self, StoreError> {
        let number = |attempt: i64| u32::try_from(attempt).unwrap_or(u32::MAX);
        match answer {
            Value::Int(attempt) => Ok(Self::first(number(attempt))),
            Value::Array(parts) => match &parts[..] {
                [
                    Value::Int(attempt),
                    Value::BulkString(steps),
                    Value::BulkString(state),
                ] => Ok(Self {
                    attempt: number(*attempt),
                    steps: appendix::steps_of(steps).ok_or(UNREADABLE)?,
                    was_suspended: state == b"s",
                }),
                _ => Err(UNREADABLE),
            },
            _ => Err(UNREADABLE),
        }
    }
}

/// The answer to a claim that was written. An unconfirmed claim is undone: it must not run, and where
/// it is still known it would keep others out.
async fn acquired(
    backend: &Backend,
    key: Word<'_>,
    claim: &Claim,
    taken: Taken,
    confirmation: Confirmation,
) -> Result<Claimed, StoreError> {
    let Taken { attempt, steps, .. } = taken;
    let Err(error) = confirmation.check() else {
        return Ok(Claimed::Acquired { attempt, steps });
    };
    let script = match attempt {
        _ if taken.was_suspended => &backend.scripts.suspend,
        1 => &backend.scripts.release,
        // The crash before it must stay known.
        _ => &backend.scripts.abandon,
    };
    let token = record::encoded_token(&claim.token);
    let is_undone = match backend.lanes.end(0).await {
        Ok(permit) => {
            let undone = permit.run(&script.on(key, &[token[..].into()])).await;
            undone.is_ok()
        }
        Err(_) => false,
    };
    Err(match is_undone {
        true => error,
        false => StoreError::unavailable(NAME, NotReplicated),
    })
}

/// Writes a running record as it is, so that the write can be confirmed. `None` if this claim does
/// not hold the record any more.
async fn touch(
    backend: &Backend,
    permit: &Permit<'_>,
    key: Word<'_>,
    claim: &Claim,
) -> Result<Option<Confirmation>, StoreError> {
    let token = record::encoded_token(&claim.token);
    let is_written = |answer: &Value| matches!(answer, Value::Int(1));
    let script = &backend.scripts.touch;
    let written = permit
        .run_writing(&script.on(key, &[token[..].into()]), is_written)
        .await?;
    Ok(is_written(&written.answer).then_some(written.confirmation))
}

/// Answers a claim on a server that takes no writes now. A finished record is replayed. A running one
/// may be another attempt's on the server that takes writes.
async fn read_instead(
    permit: &Permit<'_>,
    key: Word<'_>,
    claim: &Claim,
    refused: CallError,
) -> Result<Claimed, StoreError> {
    match permit.send(&["GET".into(), key][..]).await {
        Ok(found @ Value::BulkString(_)) => {
            let answer = record_of(found)?.final_answer(claim);
            answer.ok_or_else(|| refused.into())
        }
        _ => Err(refused.into()),
    }
}
