//! Claims: one plain command where it is enough, and a script where it found a record that is
//! running.

use std::time::Duration;

use idem_core::{Claim, Claimed, Lease, OnCrash, StoreError};
use redis::{Value, cmd};

use super::Inner;
use super::errors::{CallError, UNREADABLE};
use super::lanes::Turn;
use super::record::{self, Record};
use super::scripts::set_if_absent;

impl Inner {
    pub(super) async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let turn = self.lanes.claim().await?;
        let key = self.key(&claim.id);
        let fresh = record::running(&Lease::of(claim, 1));
        let millis = record::lifetime(claim.lease, claim.retention);
        loop {
            let set = set_if_absent(&key, &fresh, millis);
            let refused = match turn.send(&set).await {
                Ok(Value::Nil) => return Ok(Claimed::Acquired { attempt: 1 }),
                Ok(found) => {
                    if let Some(answer) = record_of(found)?.answer_alone(claim) {
                        return Ok(answer);
                    }
                    None
                }
                // Changes of what is there pass the memory bound.
                Err(error) if error.is_out_of_memory() => Some(error),
                Err(error) if error.refuses_writes() => {
                    return read_instead(&turn, &key, claim, error).await;
                }
                Err(error) => return Err(error.into()),
            };
            let rerun: &[u8] = match claim.on_crash {
                OnCrash::Rerun => b"1",
                _ => b"0",
            };
            let to_keep = millis.to_string();
            let arguments = [&fresh[..], to_keep.as_bytes(), rerun];
            let found = turn.run(&self.scripts.claim, &key, &arguments).await;
            match (found.map_err(StoreError::from)?, refused) {
                (Value::Int(attempt), _) => {
                    let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
                    return Ok(Claimed::Acquired { attempt });
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
