//! Records of version 1. A deployment may still have them, and processes that write them, while this
//! version is rolled out.
//!
//! They lie under other keys: the prefix and the record's id as it is, 32 bytes. A store that finds
//! some when it starts looks there before every claim. What version 1 has finished is given back,
//! what it runs is in flight. Where it knows nothing it is kept from beginning: a value that it
//! cannot read takes the place of its record, and its claims are refused. So neither runs what the
//! other has claimed.
//!
//! The bytes of version 1, numbers big-endian: `1`; `R` running, `A` abandoned, `F` finished; the
//! attempt, 4; the fingerprint, 33; the token, 16; and then the outcome, or whether somebody watches,
//! 1, and the retention in milliseconds, 8.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use idem_core::{Claim, Claimed, Fingerprint, Inspection, OnCrash, Phase, RecordId, StoreError};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{RedisError, Value, cmd, pipe};

use super::errors::{CallError, UNREADABLE};
use super::flag;
use super::lanes::Turn;
use super::record;
use super::scripts::{Scripts, set_if_absent};
use super::target::Target;

/// What version 1 cannot read.
const FENCE: &[u8] = b"2";

/// How many keys a server looks at in one step.
const SCANNED_AT_ONCE: usize = 1000;

const HEAD: usize = 55;

/// The key of version 1.
pub(super) fn key(prefix: &[u8], id: &RecordId) -> Vec<u8> {
    [prefix, id.as_bytes()].concat()
}

/// What version 1 knows of a record.
pub(super) enum Known {
    /// Nothing, and it will not begin; after so many attempts that crashed.
    Nothing { crashed: u32 },
    /// Enough to answer the claim.
    Answer(Claimed),
}

/// Asks what version 1 knows of a claim's record.
pub(super) async fn ask(
    turn: &Turn<'_>,
    scripts: &Scripts,
    prefix: &[u8],
    claim: &Claim,
) -> Result<Known, StoreError> {
    let key = key(prefix, &claim.id);
    // Longer than the record of version 2 that will be claimed under its protection.
    let kept = record::lifetime(claim.lease, claim.retention) + record::millis(claim.retention);
    let fence = set_if_absent(&key, FENCE, kept);
    loop {
        let found = match turn.send(&fence).await {
            Ok(found) => found,
            Err(error) if error.refuses_writes() => {
                return read_instead(turn, &key, claim, error).await;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(record) = Record::of(found)? else {
            return Ok(Known::Nothing { crashed: 0 });
        };
        if let Some(answer) = record.final_answer(claim)
            && !claim.ask_retention
        {
            return Ok(Known::Answer(answer));
        }
        let (fingerprint, kept) = (claim.fingerprint.to_bytes(), kept.to_string());
        let rerun = flag(claim.on_crash == OnCrash::Rerun);
        let arguments = [&fingerprint[..], FENCE, kept.as_bytes(), rerun];
        match turn.run(&scripts.older, &key, &arguments).await? {
            Value::Int(crashed) => {
                let crashed = u32::try_from(crashed).unwrap_or(u32::MAX);
                return Ok(Known::Nothing { crashed });
            }
            // It ended between the two looks.
            Value::Nil => {}
            found => {
                let (record, left) = record_and_time(found)?;
                return Ok(match record {
                    Some(record) => Known::Answer(record.answer(claim, left)),
                    None => Known::Nothing { crashed: 0 },
                });
            }
        }
    }
}

/// A server that takes no writes now takes none of version 1 either: what is finished is given back.
async fn read_instead(
    turn: &Turn<'_>,
    key: &[u8],
    claim: &Claim,
    refused: CallError,
) -> Result<Known, StoreError> {
    match turn.send(cmd("GET").arg(key)).await {
        Ok(found) => match Record::of(found)? {
            None => Ok(Known::Nothing { crashed: 0 }),
            Some(record) => match record.final_answer(claim) {
                Some(answer) => Ok(Known::Answer(answer)),
                None => Err(refused.into()),
            },
        },
        Err(_) => Err(refused.into()),
    }
}

/// What version 1 holds under this key.
pub(super) async fn inspect(
    turn: &Turn<'_>,
    scripts: &Scripts,
    key: &[u8],
) -> Result<Option<Inspection>, StoreError> {
    match turn.run(&scripts.inspect, key, &[]).await? {
        Value::Nil => Ok(None),
        found => {
            let (record, left) = record_and_time(found)?;
            Ok(record.map(|record| record.inspection(left)))
        }
    }
}

/// A record of version 1 as it was found.
#[derive(Debug)]
struct Record {
    attempt: u32,
    fingerprint: Fingerprint,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Running { retention: Duration },
    Abandoned,
    Finished { outcome: Bytes },
}

impl Record {
    /// `None` where there is none, or only what keeps version 1 out.
    fn of(found: Value) -> Result<Option<Self>, StoreError> {
        match found {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) if bytes == FENCE => Ok(None),
            Value::BulkString(bytes) => Self::decode(bytes).map(Some).ok_or(UNREADABLE),
            _ => Err(UNREADABLE),
        }
    }

    fn decode(bytes: Vec<u8>) -> Option<Self> {
        let bytes = Bytes::from(bytes);
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let life = match (&head[..2], rest) {
            (b"1F", _) => Life::Finished {
                outcome: bytes.slice(HEAD..),
            },
            (b"1R", [_watched, retention @ ..]) => Life::Running {
                retention: Duration::from_millis(u64::from_be_bytes(retention.try_into().ok()?)),
            },
            (b"1A", _) => Life::Abandoned,
            _ => return None,
        };
        Some(Self {
            attempt: u32::from_be_bytes(head[2..6].try_into().ok()?),
            fingerprint: Fingerprint::from_bytes(head[6..39].try_into().ok()?),
            life,
        })
    }

    fn final_answer(&self, claim: &Claim) -> Option<Claimed> {
        match &self.life {
            _ if self.fingerprint != claim.fingerprint => Some(Claimed::Mismatch),
            Life::Finished { outcome } => Some(Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: None,
            }),
            Life::Running { .. } | Life::Abandoned => None,
        }
    }

    fn answer(&self, claim: &Claim, left: Duration) -> Claimed {
        match (self.final_answer(claim), self.lease_left(left)) {
            (Some(Claimed::Finished { outcome, .. }), _) => Claimed::Finished {
                outcome,
                retention_left: Some(left),
            },
            (Some(answer), _) => answer,
            (None, Some(lease_left)) => Claimed::InFlight { lease_left },
            (None, None) => Claimed::OutcomeUnknown {
                attempt: self.attempt,
            },
        }
    }

    fn inspection(self, left: Duration) -> Inspection {
        let lease_left = self.lease_left(left);
        let phase = match self.life {
            Life::Finished { outcome } => Phase::Finished { outcome },
            Life::Running { .. } | Life::Abandoned => Phase::Running { lease_left },
        };
        Inspection::new(self.fingerprint, self.attempt, phase)
    }

    fn lease_left(&self, left: Duration) -> Option<Duration> {
        match self.life {
            Life::Running { retention } => left
                .checked_sub(retention)
                .filter(|lease_left| !lease_left.is_zero()),
            Life::Abandoned | Life::Finished { .. } => None,
        }
    }
}

fn record_and_time(found: Value) -> Result<(Option<Record>, Duration), StoreError> {
    let Value::Array(found) = found else {
        return Err(UNREADABLE);
    };
    let Ok([record, Value::Int(left)]) = <[Value; 2]>::try_from(found) else {
        return Err(UNREADABLE);
    };
    let left = u64::try_from(left).map_err(|_| UNREADABLE)?;
    Ok((Record::of(record)?, Duration::from_millis(left)))
}

/// The key that says, where it is there, that nothing is left of version 1.
pub(super) fn marker(prefix: &[u8]) -> Vec<u8> {
    [prefix, b"format"].concat()
}

/// What that key holds.
pub(super) const NOTHING_OLDER: &[u8] = b"2";

/// Looks through all keys for a record of version 1.
///
/// # Errors
/// When that cannot be done.
pub(super) async fn are_there(target: &Arc<Target>, prefix: &[u8]) -> Result<bool, RedisError> {
    for mut node in target.primaries().await? {
        node.set_response_timeout(target.command_timeout);
        if is_on(&mut node, prefix).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn is_on(node: &mut MultiplexedConnection, prefix: &[u8]) -> Result<bool, RedisError> {
    let pattern = pattern(prefix);
    let mut cursor = b"0".to_vec();
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern);
        scan.arg("COUNT").arg(SCANNED_AT_ONCE);
        let page = node.req_packed_command(&scan).await?.extract_error()?;
        let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(page)?;
        // A key of that length may be anybody's, and what keeps version 1 out is no record.
        let mut looks = pipe();
        for key in &keys {
            looks.cmd("GETRANGE").arg(key).arg(0).arg(1);
        }
        if !keys.is_empty() {
            let states = node.req_packed_commands(&looks, 0, keys.len()).await?;
            let is_record = |state: &Value| {
                let states: [&[u8]; 3] = [b"1R", b"1A", b"1F"];
                matches!(state, Value::BulkString(state) if states.contains(&&state[..]))
            };
            if states.iter().any(is_record) {
                return Ok(true);
            }
        }
        if next == b"0" {
            return Ok(false);
        }
        cursor = next;
    }
}

/// Matches the prefix and 32 bytes.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(2 * prefix.len() + 32);
    for byte in prefix {
        if b"*?[]^\\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.extend_from_slice(&[b'?'; 32]);
    pattern
}
