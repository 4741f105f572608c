//! Records of version 1. A deployment may still have them, and processes that write them, while this
//! version is rolled out.
//!
//! Their keys are the prefix and the 32 raw bytes of the record's id. A store that finds such records
//! when it starts looks for them before every claim. It replays what version 1 has finished, and reports
//! in flight what version 1 runs. Where version 1 has no record, it is fenced off: a value that it
//! cannot read takes the place of its record, and its claims are refused. So neither version runs what
//! the other has claimed.
//!
//! The bytes of version 1, numbers big-endian: `1`; `R` running, `A` abandoned, `F` finished; the
//! attempt, 4; the fingerprint, 33; the token, 16; then the outcome, or whether it is watched, 1, and
//! the retention in milliseconds, 8.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use idem_core::{
    Claim, Claimed, Fingerprint, Inspection, OnCrash, Phase, RecordId, RecordState, StoreError,
};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{RedisError, Value, cmd, pipe};

use super::command::Number;
use super::errors::{CallError, UNREADABLE};
use super::lanes::Permit;
use super::record;
use super::scripts::{Scripts, flag, set_if_absent};
use super::target::Target;

/// A value that version 1 cannot read.
const FENCE: &[u8] = b"2";

/// How many keys one `SCAN` looks at.
const KEYS_PER_SCAN: usize = 1000;

/// The length of what every record begins with.
const HEAD_LEN: usize = 55;

/// The key of version 1.
pub(super) fn key(prefix: &[u8], id: &RecordId) -> Vec<u8> {
    [prefix, id.as_bytes()].concat()
}

/// What became of a record of version 1.
pub(super) enum Fenced {
    /// There is none, and version 1 is fenced off. Its attempts may have crashed before.
    Free { crashed_attempts: u32 },
    /// It answers the claim.
    Answered(Claimed),
}

/// Answers a claim from the record of version 1, or fences version 1 off.
pub(super) async fn fence(
    permit: &Permit<'_>,
    scripts: &Scripts,
    prefix: &[u8],
    claim: &Claim,
) -> Result<Fenced, StoreError> {
    let key = key(prefix, &claim.id);
    // Longer than the record of version 2 that it protects.
    let kept = record::lifetime(claim.lease, claim.retention) + record::millis(claim.retention);
    let kept = Number::new(kept);
    let fence = set_if_absent(key[..].into(), FENCE, &kept);
    loop {
        let found = match permit.send(&fence[..]).await {
            Ok(found) => found,
            Err(error) if error.refuses_writes() => {
                return read_instead(permit, &key, claim, error).await;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(record) = Record::of(found)? else {
            return Ok(Fenced::Free {
                crashed_attempts: 0,
            });
        };
        if let Some(answer) = record.final_answer(claim)
            && !claim.ask_retention
        {
            return Ok(Fenced::Answered(answer));
        }
        let fingerprint = claim.fingerprint.to_bytes();
        let rerun = flag(claim.on_crash == OnCrash::Rerun);
        let arguments = [
            fingerprint[..].into(),
            FENCE.into(),
            kept.as_bytes().into(),
            rerun,
        ];
        let call = scripts.v1_claim.on(key[..].into(), &arguments);
        match permit.run(&call).await? {
            Value::Int(crashed) => {
                let crashed_attempts = u32::try_from(crashed).unwrap_or(u32::MAX);
                return Ok(Fenced::Free { crashed_attempts });
            }
            // It ended between the two looks.
            Value::Nil => {}
            found => {
                let (record, ttl) = record_and_ttl(found)?;
                return Ok(match record {
                    Some(record) => Fenced::Answered(record.answer(claim, ttl)),
                    None => Fenced::Free {
                        crashed_attempts: 0,
                    },
                });
            }
        }
    }
}

/// Answers a claim on a server that takes no writes now, and so none of version 1 either.
async fn read_instead(
    permit: &Permit<'_>,
    key: &[u8],
    claim: &Claim,
    refused: CallError,
) -> Result<Fenced, StoreError> {
    match permit.send(&*cmd("GET").arg(key)).await {
        Ok(found) => match Record::of(found)? {
            None => Ok(Fenced::Free {
                crashed_attempts: 0,
            }),
            Some(record) => match record.final_answer(claim) {
                Some(answer) => Ok(Fenced::Answered(answer)),
                None => Err(refused.into()),
            },
        },
        Err(_) => Err(refused.into()),
    }
}

/// The record of version 1 under this key.
pub(super) async fn inspect(
    permit: &Permit<'_>,
    scripts: &Scripts,
    key: &[u8],
) -> Result<Option<Inspection>, StoreError> {
    match permit.run(&scripts.inspect.on(key.into(), &[])).await? {
        Value::Nil => Ok(None),
        found => {
            let (record, ttl) = record_and_ttl(found)?;
            Ok(record.map(|record| record.inspection(ttl)))
        }
    }
}

/// The letters of a state. Nothing was suspended in version 1.
pub(super) const fn letters(state: RecordState) -> &'static str {
    match state {
        RecordState::Crashed => "RA",
        RecordState::Finished => "F",
        _ => "",
    }
}

/// A record of version 1 that was read.
#[derive(Debug)]
struct Record {
    attempt: u32,
    fingerprint: Fingerprint,
    state: State,
}

#[derive(Debug)]
enum State {
    Running { retention: Duration },
    Abandoned,
    Finished { outcome: Bytes },
}

impl Record {
    /// `None` if there is none, or only the fence.
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
        let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        let state = match (&head[..2], rest) {
            (b"1F", _) => State::Finished {
                outcome: bytes.slice(HEAD_LEN..),
            },
            (b"1R", [_watched, retention @ ..]) => State::Running {
                retention: Duration::from_millis(u64::from_be_bytes(retention.try_into().ok()?)),
            },
            (b"1A", _) => State::Abandoned,
            _ => return None,
        };
        Some(Self {
            attempt: u32::from_be_bytes(head[2..6].try_into().ok()?),
            fingerprint: Fingerprint::from_bytes(head[6..39].try_into().ok()?),
            state,
        })
    }

    fn final_answer(&self, claim: &Claim) -> Option<Claimed> {
        match &self.state {
            _ if self.fingerprint != claim.fingerprint => Some(Claimed::Mismatch),
            State::Finished { outcome } => Some(Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: None,
                claimed_at: None,
            }),
            State::Running { .. } | State::Abandoned => None,
        }
    }

    fn answer(&self, claim: &Claim, ttl: Duration) -> Claimed {
        match (self.final_answer(claim), self.lease_left(ttl)) {
            (Some(Claimed::Finished { outcome, .. }), _) => Claimed::Finished {
                outcome,
                retention_left: Some(ttl),
                claimed_at: None,
            },
            (Some(answer), _) => answer,
            (None, Some(lease_left)) => Claimed::InFlight { lease_left },
            (None, None) => Claimed::OutcomeUnknown {
                attempt: self.attempt,
            },
        }
    }

    fn inspection(self, ttl: Duration) -> Inspection {
        let lease_left = self.lease_left(ttl);
        let phase = match self.state {
            State::Finished { outcome } => Phase::Finished { outcome },
            State::Running { .. } | State::Abandoned => Phase::Running { lease_left },
        };
        Inspection::new(self.fingerprint, self.attempt, phase).kept_for(ttl)
    }

    fn lease_left(&self, ttl: Duration) -> Option<Duration> {
        match self.state {
            State::Running { retention } => ttl
                .checked_sub(retention)
                .filter(|lease_left| !lease_left.is_zero()),
            State::Abandoned | State::Finished { .. } => None,
        }
    }
}

fn record_and_ttl(found: Value) -> Result<(Option<Record>, Duration), StoreError> {
    let Value::Array(found) = found else {
        return Err(UNREADABLE);
    };
    let Ok([record, Value::Int(ttl)]) = <[Value; 2]>::try_from(found) else {
        return Err(UNREADABLE);
    };
    let ttl = u64::try_from(ttl).map_err(|_| UNREADABLE)?;
    Ok((Record::of(record)?, Duration::from_millis(ttl)))
}

/// The key that says that no records of version 1 are left.
pub(super) fn marker(prefix: &[u8]) -> Vec<u8> {
    [prefix, b"format"].concat()
}

/// The value of that key.
pub(super) const NO_V1_RECORDS: &[u8] = b"2";

/// Whether any key holds a record of version 1.
///
/// # Errors
/// When the keys cannot be read.
pub(super) async fn has_records(target: &Arc<Target>, prefix: &[u8]) -> Result<bool, RedisError> {
    for mut node in target.primaries().await? {
        node.set_response_timeout(target.command_timeout);
        if has_records_on(&mut node, prefix).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn has_records_on(
    node: &mut MultiplexedConnection,
    prefix: &[u8],
) -> Result<bool, RedisError> {
    let pattern = pattern(prefix);
    let mut cursor = b"0".to_vec();
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern);
        scan.arg("COUNT").arg(KEYS_PER_SCAN);
        let page = node.req_packed_command(&scan).await?.extract_error()?;
        let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(page)?;
        // Other keys may have that length, too, and the fence is no record.
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

/// A glob pattern of the prefix and 32 bytes.
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
