//! Claims: one plain command where it is enough, and a script where it found a record that is
//! running.

use std::time::Duration;

use idem_core::{Claim, Claimed, Lease, OnCrash, StoreError};
use redis::{Value, cmd};

use super::connection::Written;
use super::durability::{NotEverybody, Reach};
use super::errors::{CallError, UNREADABLE};
use super::lanes::Turn;
use super::older::{self, Known};
use super::record::{self, Record};
use super::scripts::set_if_absent;
use super::{Inner, NAME, flag};

impl Inner {
    pub(super) async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let turn = self.lanes.claim().await?;
        let crashed = match self.has_older() {
            false => 0,
            true => match older::ask(&turn, &self.scripts, &self.prefix, claim).await? {
                Known::Nothing { crashed } => crashed,
                Known::Answer(answer) => return Ok(answer),
            },
        };
        let first = crashed.saturating_add(1);
        let key = self.key(&claim.id);
        let fresh = record::running(&Lease::of(claim, first));
        let millis = record::lifetime(claim.lease, claim.retention);
        let set = set_if_absent(&key, &fresh, millis);
        loop {
            let is_absent = |answer: &Value| matches!(answer, Value::Nil);
            let refused = match turn.write(&key, &set, is_absent).await {
                Ok(Written {
                    answer: Value::Nil,
                    reach,
                }) => return self.acquired(&key, claim, first, reach).await,
                Ok(Written { answer, .. }) => match record_of(answer)?.answer_alone(claim) {
                    // Sent again: whom it reached is not known.
                    Some(Claimed::Acquired { attempt }) if turn.is_durable() => {
                        match self.touched(&turn, &key, claim).await? {
                            Some(reach) => return self.acquired(&key, claim, attempt, reach).await,
                            None => continue,
                        }
                    }
                    Some(answer) => return Ok(answer),
                    None => None,
                },
                // Changes of what is there pass the memory bound.
                Err(error) if error.is_out_of_memory() => Some(error),
                Err(error) if error.refuses_writes() => {
                    return read_instead(&turn, &key, claim, error).await;
                }
                Err(error) => return Err(error.into()),
            };
            let to_keep = millis.to_string();
            let rerun = flag(claim.on_crash == OnCrash::Rerun);
            let arguments = [&fresh[..], to_keep.as_bytes(), rerun];
            let is_taken_over = |answer: &Value| matches!(answer, Value::Int(_));
            let Written { answer, reach } = turn
                .run_writing(&self.scripts.claim, &key, &arguments, is_taken_over)
                .await?;
            match (answer, refused) {
                (Value::Int(attempt), _) => {
                    let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
                    return self.acquired(&key, claim, attempt, reach).await;
                }
                (Value::Nil, Some(refused)) => return Err(refused.into()),
                // It ended between the two looks, and is free.
                (Value::Nil, None) => {}
                (found, _) => {
                    let (record, left) = record_and_time(found)?;
                    return record.answer(claim, left).ok_or(UNREADABLE);
                }
            }
        }
    }

    /// The answer to a claim that was written. One that has not reached everybody is undone: where
    /// it was not forgotten it would keep others out, and it must not run.
    async fn acquired(
        &self,
        key: &[u8],
        claim: &Claim,
        attempt: u32,
        reach: Reach,
    ) -> Result<Claimed, StoreError> {
        let Err(error) = reach.check() else {
            return Ok(Claimed::Acquired { attempt });
        };
        let script = match attempt {
            1 => &self.scripts.release,
            // What crashed before it stays known.
            _ => &self.scripts.abandon,
        };
        let token = record::printed(&claim.token);
        let undone = match self.lanes.end(0).await {
            Ok(turn) => turn.run(script, key, &[&token]).await.is_ok(),
            Err(_) => false,
        };
        Err(match undone {
            true => error,
            false => StoreError::unavailable(NAME, NotEverybody),
        })
    }

    /// Writes a running record as it is. `None` where this claim does not hold it any more.
    async fn touched(
        &self,
        turn: &Turn<'_>,
        key: &[u8],
        claim: &Claim,
    ) -> Result<Option<Reach>, StoreError> {
        let token = record::printed(&claim.token);
        let is_written = |answer: &Value| matches!(answer, Value::Int(1));
        let touch = &self.scripts.touch;
        let written = turn.run_writing(touch, key, &[&token], is_written).await?;
        Ok(is_written(&written.answer).then_some(written.reach))
    }
}

/// The answer of a server that takes no writes now: what is finished is given back, and what is
/// running may be another's on the server that does take them.
async fn read_instead(
    turn: &Turn<'_>,
    key: &[u8],
    claim: &Claim,
    refused: CallError,
) -> Result<Claimed, StoreError> {
    match turn.send(cmd("GET").arg(key)).await {
        Ok(found @ Value::BulkString(_)) => {
            let answer = record_of(found)?.final_answer(claim);
            answer.ok_or_else(|| refused.into())
        }
        _ => Err(refused.into()),
    }
}

pub(super) fn record_of(found: Value) -> Result<Record, StoreError> {
    match found {
        Value::BulkString(bytes) => Record::decode(bytes).ok_or(UNREADABLE),
        _ => Err(UNREADABLE),
    }
}

/// What the scripts `claim` and `inspect` answer of a record that they left as it is.
pub(super) fn record_and_time(found: Value) -> Result<(Record, Duration), StoreError> {
    let Value::Array(found) = found else {
        return Err(UNREADABLE);
    };
    let Ok([record, Value::Int(left)]) = <[Value; 2]>::try_from(found) else {
        return Err(UNREADABLE);
    };
    // A record without an end (-1) is not one of ours.
    let left = u64::try_from(left).map_err(|_| UNREADABLE)?;
    Ok((record_of(record)?, Duration::from_millis(left)))
}
