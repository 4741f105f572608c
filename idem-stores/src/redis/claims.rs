//! Claims: one plain command where that is enough, and a script where the command found a running
//! record.

use idem_core::{Claim, Claimed, Lease, OnCrash, StoreError};
use redis::Value;

use super::NAME;
use super::backend::Backend;
use super::command::{Number, Word};
use super::connection::Written;
use super::durability::{Confirmation, NotReplicated};
use super::errors::{CallError, UNREADABLE};
use super::lanes::Permit;
use super::record::{self, EncodedId, RUNNING_LEN, record_and_ttl, record_of};
use super::scripts::flag;
use super::v1::{self, Fenced};

pub(super) async fn claim(backend: &Backend, claim: &Claim) -> Result<Claimed, StoreError> {
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
        fresh: record::running(&Lease::of(claim, first)),
        millis: Number::new(record::lifetime(claim.lease, claim.retention)),
        first,
    };
    loop {
        let rare = match claiming.set().await {
            Ok(Written {
                answer: Value::Nil,
                confirmation: Confirmation::Confirmed,
            }) => return Ok(Claimed::acquired(first)),
            Ok(Written {
                answer: Value::Nil,
                confirmation,
            }) => Rare::Unconfirmed(confirmation),
            Ok(Written { answer, .. }) => match record_of(answer)?.answer_without_ttl(claim) {
                Some(Claimed::Acquired { attempt, .. }) if permit.is_durable() => {
                    Rare::SentBefore { attempt }
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
    SentBefore { attempt: u32 },
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
    fresh: [u8; RUNNING_LEN],
    millis: Number,
    first: u32,
}

impl Claiming<'_> {
    async fn set(&self) -> Result<Written, CallError> {
        let key = self.backend.key(&self.id);
        self.permit
            .set_if_absent(key, &self.fresh, &self.millis)
            .await
    }

    /// The answer, or `None` where the record has ended meanwhile.
    async fn goes_on(&self, rare: Rare) -> Result<Option<Claimed>, StoreError> {
        let (backend, permit, claim) = (self.backend, self.permit, self.claim);
        let key = backend.key(&self.id);
        let (attempt, confirmation) = match rare {
            Rare::Unconfirmed(confirmation) => (self.first, confirmation),
            Rare::SentBefore { attempt } => match touch(backend, permit, key, claim).await? {
                Some(confirmation) => (attempt, confirmation),
                None => return Ok(None),
            },
            Rare::NotWritable(error) => {
                return read_instead(permit, key, claim, error).await.map(Some);
            }
            Rare::Running { refused } => {
                let rerun = flag(claim.on_crash == OnCrash::Rerun);
                let arguments = [self.fresh[..].into(), self.millis.as_bytes().into(), rerun];
                let is_taken_over = |answer: &Value| matches!(answer, Value::Int(_));
                let call = backend.scripts.claim.on(key, &arguments);
                let written = permit.run_writing(&call, is_taken_over);
                let Written {
                    answer,
                    confirmation,
                } = written.await?;
                match (answer, refused) {
                    (Value::Int(attempt), _) => {
                        (u32::try_from(attempt).unwrap_or(u32::MAX), confirmation)
                    }
                    (Value::Nil, Some(refused)) => return Err(refused.into()),
                    // The record ended between the two looks, and is free.
                    (Value::Nil, None) => return Ok(None),
                    (found, _) => {
                        let (record, ttl) = record_and_ttl(found)?;
                        let answer = record.answer_with_ttl(claim, ttl);
                        return answer.ok_or(UNREADABLE).map(Some);
                    }
                }
            }
        };
        let acquired = acquired(backend, key, claim, attempt, confirmation).await;
        acquired.map(Some)
    }
}

/// The answer to a claim that was written. An unconfirmed claim is undone: it must not run, and where
/// it is still known it would keep others out.
async fn acquired(
    backend: &Backend,
    key: Word<'_>,
    claim: &Claim,
    attempt: u32,
    confirmation: Confirmation,
) -> Result<Claimed, StoreError> {
    let Err(error) = confirmation.check() else {
        return Ok(Claimed::acquired(attempt));
    };
    let script = match attempt {
        1 => &backend.scripts.release,
        // The crash before it must stay known.
        _ => &backend.scripts.abandon,
    };
    let token = record::encoded_token(&claim.token);
    let is_undone = match backend.lanes.end(0).await {
        Ok(permit) => permit
            .run(&script.on(key, &[token[..].into()]))
            .await
            .is_ok(),
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
