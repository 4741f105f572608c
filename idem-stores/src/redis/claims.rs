//! Claims: one plain command where that is enough, and a script where the command found a running
//! record.

use idem_core::{Claim, Claimed, Lease, OnCrash, StoreError};
use redis::{Value, cmd};

use super::NAME;
use super::backend::Backend;
use super::connection::Written;
use super::durability::{Confirmation, NotReplicated};
use super::errors::{CallError, UNREADABLE};
use super::lanes::Permit;
use super::record::{self, record_and_ttl, record_of};
use super::scripts::{flag, set_if_absent};
use super::v1::{self, Fenced};

pub(super) async fn claim(backend: &Backend, claim: &Claim) -> Result<Claimed, StoreError> {
    let permit = backend.lanes.claim().await?;
    let crashed = match backend.may_have_v1_records() {
        false => 0,
        true => match v1::fence(&permit, &backend.scripts, &backend.prefix, claim).await? {
            Fenced::Free { crashed_attempts } => crashed_attempts,
            Fenced::Answered(answer) => return Ok(answer),
        },
    };
    let first = crashed.saturating_add(1);
    let key = backend.key(&claim.id);
    let fresh = record::running(&Lease::of(claim, first));
    let millis = record::lifetime(claim.lease, claim.retention);
    let set = set_if_absent(&key, &fresh, millis);
    loop {
        let is_absent = |answer: &Value| matches!(answer, Value::Nil);
        let refused = match permit.write(&key, &set, is_absent).await {
            Ok(Written {
                answer: Value::Nil,
                confirmation,
            }) => return acquired(backend, &key, claim, first, confirmation).await,
            Ok(Written { answer, .. }) => match record_of(answer)?.answer_without_ttl(claim) {
                // The claim was sent before. Whether it was replicated then is not known.
                Some(Claimed::Acquired { attempt, .. }) if permit.is_durable() => {
                    match touch(backend, &permit, &key, claim).await? {
                        Some(confirmation) => {
                            return acquired(backend, &key, claim, attempt, confirmation).await;
                        }
                        None => continue,
                    }
                }
                Some(answer) => return Ok(answer),
                None => None,
            },
            // Changes of existing records pass the memory bound.
            Err(error) if error.is_out_of_memory() => Some(error),
            Err(error) if error.refuses_writes() => {
                return read_instead(&permit, &key, claim, error).await;
            }
            Err(error) => return Err(error.into()),
        };
        let to_keep = millis.to_string();
        let rerun = flag(claim.on_crash == OnCrash::Rerun);
        let arguments = [&fresh[..], to_keep.as_bytes(), rerun];
        let is_taken_over = |answer: &Value| matches!(answer, Value::Int(_));
        let script = &backend.scripts.claim;
        let Written {
            answer,
            confirmation,
        } = permit
            .run_writing(script, &key, &arguments, is_taken_over)
            .await?;
        match (answer, refused) {
            (Value::Int(attempt), _) => {
                let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
                return acquired(backend, &key, claim, attempt, confirmation).await;
            }
            (Value::Nil, Some(refused)) => return Err(refused.into()),
            // The record ended between the two looks, and is free.
            (Value::Nil, None) => {}
            (found, _) => {
                let (record, ttl) = record_and_ttl(found)?;
                return record.answer_with_ttl(claim, ttl).ok_or(UNREADABLE);
            }
        }
    }
}

/// The answer to a claim that was written. An unconfirmed claim is undone: it must not run, and where
/// it is still known it would keep others out.
async fn acquired(
    backend: &Backend,
    key: &[u8],
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
        Ok(permit) => permit.run(script, key, &[&token]).await.is_ok(),
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
    key: &[u8],
    claim: &Claim,
) -> Result<Option<Confirmation>, StoreError> {
    let token = record::encoded_token(&claim.token);
    let is_written = |answer: &Value| matches!(answer, Value::Int(1));
    let script = &backend.scripts.touch;
    let written = permit
        .run_writing(script, key, &[&token], is_written)
        .await?;
    Ok(is_written(&written.answer).then_some(written.confirmation))
}

/// Answers a claim on a server that takes no writes now. A finished record is replayed. A running one
/// may be another attempt's on the server that takes writes.
async fn read_instead(
    permit: &Permit<'_>,
    key: &[u8],
    claim: &Claim,
    refused: CallError,
) -> Result<Claimed, StoreError> {
    match permit.send(cmd("GET").arg(key)).await {
        Ok(found @ Value::BulkString(_)) => {
            let answer = record_of(found)?.final_answer(claim);
            answer.ok_or_else(|| refused.into())
        }
        _ => Err(refused.into()),
    }
}
