//! An item: the attributes that a record consists of, and what they say.
//!
//! | attribute | type | holds | where |
//! |---|---|---|---|
//! | `id` | B | the record's id, 32 bytes: the table's partition key | always |
//! | `v` | N | the item's version: 1 | always |
//! | `s` | S | `r` running, `a` abandoned, `s` suspended, `f` finished | always |
//! | `f` | B | the fingerprint | always |
//! | `n` | N | the newest attempt's number | always |
//! | `t` | B | the newest attempt's token. It changes a record only while that runs | always |
//! | `expires` | N | the last second at which the record is kept: the table's TTL attribute | always |
//! | `k` | N | the retention in seconds, rounded up | not finished |
//! | `l` | N | the last second at which the lease is alive | running |
//! | `c` | N | when the newest attempt was claimed, in milliseconds | unless it was created again |
//! | `o` | S | the operation's name | where it is known |
//! | `z` | N | the length of the steps, or of the outcome | always |
//! | `p` | L of B | the steps, one element for each checkpoint | where there are some |
//! | `b` | B | the outcome | finished |
//! | `unfinished` | B | the first four bytes of the id: the partition key of the sparse index | not finished |
//!
//! Names count towards an item's size, so those that no table definition mentions are a letter. All
//! times are of the server's clock, in seconds since 1970 where nothing else is said.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use idem_core::{
    Claim, Fingerprint, Inspection, Lease, Listed, OperationName, Phase, RecordId, RecordState,
    Seen, StoreError, Token,
};

use super::clock::{self, Now};
use super::errors::UNREADABLE;

/// The longest outcome that an item can hold, and the most steps, in bytes. An item has at most 400 KiB
/// (409,600 bytes); the rest is for its other attributes and for 4 bytes that each checkpoint adds.
pub const MAX_OUTCOME_BYTES: usize = 400_000;

pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) const ID: &str = "id";
pub(super) const EXPIRES: &str = "expires";
pub(super) const UNFINISHED: &str = "unfinished";
pub(super) const VERSION: &str = "v";
pub(super) const STATE: &str = "s";
pub(super) const FINGERPRINT: &str = "f";
pub(super) const ATTEMPT: &str = "n";
pub(super) const TOKEN: &str = "t";
pub(super) const RETENTION: &str = "k";
pub(super) const LEASE_END: &str = "l";
pub(super) const CLAIMED: &str = "c";
pub(super) const OPERATION: &str = "o";
pub(super) const LENGTH: &str = "z";
pub(super) const STEPS: &str = "p";
pub(super) const OUTCOME: &str = "b";

/// All that a page of a listing needs of an item.
pub(super) const LISTED: &str = "id, v, s, n, expires, l, c, o, z, t, f";

const FORMAT: &str = "1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Abandoned,
    Suspended,
    Finished,
}

impl State {
    pub(super) const fn letter(self) -> &'static str {
        match self {
            Self::Running => "r",
            Self::Abandoned => "a",
            Self::Suspended => "s",
            Self::Finished => "f",
        }
    }

    fn of(letter: &str) -> Option<Self> {
        [
            Self::Running,
            Self::Abandoned,
            Self::Suspended,
            Self::Finished,
        ]
        .into_iter()
        .find(|state| state.letter() == letter)
    }

    pub(super) fn value(self) -> AttributeValue {
        AttributeValue::S(self.letter().to_owned())
    }

    /// What a record in this state says where nothing has to be known of a lease. No record says that it
    /// is running and has none.
    pub(super) fn without_a_lease(state: RecordState) -> AttributeValue {
        match state {
            RecordState::Crashed => Self::Abandoned.value(),
            RecordState::Suspended => Self::Suspended.value(),
            RecordState::Finished => Self::Finished.value(),
            _ => AttributeValue::S("-".to_owned()),
        }
    }
}

pub(super) fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn binary(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

pub(super) fn id_value(id: &RecordId) -> AttributeValue {
    binary(id.as_bytes().as_slice())
}

pub(super) fn key(id: &RecordId) -> Item {
    Item::from([(ID.to_owned(), id_value(id))])
}

/// The key of an item in the index.
pub(super) fn index_value(id: &RecordId) -> AttributeValue {
    binary(&id.as_bytes()[..4])
}

/// A retention in whole seconds, rounded up.
pub(super) fn whole_seconds(retention: Duration) -> i64 {
    let seconds = retention
        .as_secs()
        .saturating_add(u64::from(retention.subsec_nanos() > 0));
    // Half of what fits, so that sums do, too.
    i64::try_from(seconds).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// What every item of this version says.
fn base(
    id: &RecordId,
    token: &Token,
    fingerprint: &Fingerprint,
    attempt: u32,
    operation: &OperationName,
) -> Item {
    let mut item = Item::from([
        (ID.to_owned(), id_value(id)),
        (VERSION.to_owned(), AttributeValue::N(FORMAT.to_owned())),
        (
            FINGERPRINT.to_owned(),
            binary(fingerprint.to_bytes().as_slice()),
        ),
        (ATTEMPT.to_owned(), number(attempt.into())),
        (TOKEN.to_owned(), binary(token.as_bytes().as_slice())),
    ]);
    if !operation.as_str().is_empty() {
        let name = AttributeValue::S(operation.as_str().to_owned());
        item.insert(OPERATION.to_owned(), name);
    }
    item
}

fn running(item: &mut Item, id: &RecordId, now: Now, lease: Duration, retention: Duration) {
    let kept = lease
        .saturating_add(clock::MARGIN)
        .saturating_add(retention);
    item.extend([
        (STATE.to_owned(), State::Running.value()),
        (LEASE_END.to_owned(), number(clock::lease_end(now, lease))),
        (EXPIRES.to_owned(), number(clock::second_after(now, kept))),
        (RETENTION.to_owned(), number(whole_seconds(retention))),
        (LENGTH.to_owned(), number(0)),
        (UNFINISHED.to_owned(), index_value(id)),
    ]);
}

/// The item of a first attempt.
pub(super) fn claimed(claim: &Claim, now: Now) -> Item {
    let mut item = base(
        &claim.id,
        &claim.token,
        &claim.fingerprint,
        1,
        &claim.operation,
    );
    running(&mut item, &claim.id, now, claim.lease, claim.retention);
    item.insert(CLAIMED.to_owned(), number(now.middle()));
    item
}

/// The item of an attempt whose record was forgotten while it runs.
pub(super) fn running_again(lease: &Lease, now: Now) -> Item {
    let mut item = base_of(lease);
    running(&mut item, &lease.id, now, lease.duration, lease.retention);
    item
}

/// The item of an attempt whose record was forgotten before its end was stored.
pub(super) fn finished_again(lease: &Lease, outcome: &Bytes, now: Now) -> Item {
    let mut item = base_of(lease);
    let expires = clock::second_after(now, lease.retention);
    item.extend([
        (STATE.to_owned(), State::Finished.value()),
        (EXPIRES.to_owned(), number(expires)),
        (LENGTH.to_owned(), length(outcome.len())),
        (OUTCOME.to_owned(), binary(outcome.to_vec())),
    ]);
    item
}

fn base_of(lease: &Lease) -> Item {
    base(
        &lease.id,
        &lease.token,
        &lease.fingerprint,
        lease.attempt,
        &lease.operation,
    )
}

pub(super) fn length(length: usize) -> AttributeValue {
    number(i64::try_from(length).unwrap_or(i64::MAX))
}

/// An item, read.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: RecordId,
    pub(super) state: State,
    pub(super) fingerprint: Fingerprint,
    pub(super) attempt: u32,
    pub(super) token: Token,
    /// The last second at which it is kept.
    pub(super) expires: i64,
    /// The last second at which its lease is alive.
    pub(super) lease_end: Option<i64>,
    claimed_at: Option<SystemTime>,
    operation: OperationName,
    pub(super) length: usize,
    steps: Option<Bytes>,
    outcome: Option<Bytes>,
}

impl Record {
    /// # Errors
    /// [`StoreError::Unreadable`] where it is not what this version, or a former one, has written.
    pub(super) fn read(item: Item) -> Result<Self, StoreError> {
        Self::parse(item).ok_or(UNREADABLE)
    }

    fn parse(mut item: Item) -> Option<Self> {
        let mut take = |name: &str| item.remove(name);
        let version = take(VERSION)?;
        if version.as_n().ok()? != FORMAT {
            return None;
        }
        let state = State::of(take(STATE)?.as_s().ok()?)?;
        let lease_end = match take(LEASE_END) {
            Some(end) => Some(whole(&end)?),
            None => None,
        };
        // A running record whose lease has no end would be held for ever.
        if lease_end.is_none() && state == State::Running {
            return None;
        }
        let claimed_at = match take(CLAIMED) {
            Some(millis) => {
                let millis = u64::try_from(whole(&millis)?).ok()?;
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
            }
            None => None,
        };
        let operation = match take(OPERATION) {
            Some(name) => OperationName::new(name.as_s().ok()?),
            None => OperationName::UNKNOWN,
        };
        Some(Self {
            id: RecordId::from_bytes(bytes(take(ID)?)?.try_into().ok()?),
            state,
            fingerprint: Fingerprint::from_bytes(bytes(take(FINGERPRINT)?)?.try_into().ok()?),
            attempt: u32::try_from(whole(&take(ATTEMPT)?)?).ok()?,
            token: Token::from_bytes(bytes(take(TOKEN)?)?.try_into().ok()?),
            expires: whole(&take(EXPIRES)?)?,
            lease_end,
            claimed_at,
            operation,
            length: usize::try_from(whole(&take(LENGTH)?)?).ok()?,
            steps: match take(STEPS) {
                Some(steps) => Some(joined(steps)?),
                None => None,
            },
            outcome: match take(OUTCOME) {
                Some(outcome) => Some(bytes(outcome)?.into()),
                None => None,
            },
        })
    }

    pub(super) const fn is_expired(&self, date: i64) -> bool {
        clock::is_over(self.expires, date)
    }

    /// Whether an attempt holds its lease.
    pub(super) fn is_leased(&self, date: i64) -> bool {
        self.state == State::Running && self.lease_end.is_some_and(|end| !clock::is_over(end, date))
    }

    /// Whether this token changes it.
    pub(super) fn is_held_by(&self, token: &Token) -> bool {
        self.state == State::Running && self.token == *token
    }

    /// Whether the attempt with this token has finished it.
    pub(super) fn was_finished_by(&self, token: &Token) -> bool {
        self.state == State::Finished && self.token == *token
    }

    pub(super) fn lease_left(&self, now: Now) -> Duration {
        clock::left_of(self.lease_end.unwrap_or_default(), now)
    }

    pub(super) fn retention_left(&self, now: Now) -> Duration {
        let left = self.expires.saturating_mul(1000) - now.latest;
        Duration::from_millis(u64::try_from(left).unwrap_or_default())
    }

    pub(super) const fn claimed_at(&self) -> Option<SystemTime> {
        self.claimed_at
    }

    /// The steps, which a record that is not finished has as long as it says.
    pub(super) fn steps(&self) -> Result<Bytes, StoreError> {
        let steps = self.steps.clone().unwrap_or_default();
        (steps.len() == self.length)
            .then_some(steps)
            .ok_or(UNREADABLE)
    }

    pub(super) fn outcome(self) -> Result<Bytes, StoreError> {
        self.outcome
            .filter(|outcome| outcome.len() == self.length)
            .ok_or(UNREADABLE)
    }

    pub(super) fn inspection(self, date: i64, now: Now) -> Result<Inspection, StoreError> {
        let phase = match self.state {
            State::Running if self.is_leased(date) => Phase::Running {
                lease_left: Some(self.lease_left(now)),
            },
            State::Running | State::Abandoned => Phase::Running { lease_left: None },
            State::Suspended => Phase::Suspended,
            State::Finished => {
                let Self {
                    fingerprint,
                    attempt,
                    operation,
                    claimed_at,
                    ..
                } = self;
                let kept_for = self.retention_left(now);
                let outcome = self.outcome()?;
                let phase = Phase::Finished { outcome };
                return Ok(Inspection::new(fingerprint, attempt, phase)
                    .claimed(operation, claimed_at)
                    .kept_for(kept_for));
            }
        };
        let kept_for = self.retention_left(now);
        let steps = self.steps()?;
        Ok(Inspection::new(self.fingerprint, self.attempt, phase)
            .claimed(self.operation, self.claimed_at)
            .steps(steps)
            .kept_for(kept_for))
    }

    pub(super) fn seen(&self, date: i64) -> Seen {
        Seen::new(self.attempt, self.record_state(date))
    }

    pub(super) fn record_state(&self, date: i64) -> RecordState {
        match self.state {
            State::Running if self.is_leased(date) => RecordState::Running,
            State::Running | State::Abandoned => RecordState::Crashed,
            State::Suspended => RecordState::Suspended,
            State::Finished => RecordState::Finished,
        }
    }

    pub(super) fn listed(&self, date: i64, now: Now) -> Listed {
        let state = self.record_state(date);
        let mut listed = Listed::new(self.id, state, self.attempt, self.retention_left(now));
        listed.operation = self.operation;
        listed.claimed_at = self.claimed_at;
        listed.lease_left = (state == RecordState::Running).then(|| self.lease_left(now));
        listed.bytes = self.length;
        listed
    }
}

fn whole(value: &AttributeValue) -> Option<i64> {
    value.as_n().ok()?.parse().ok()
}

fn bytes(value: AttributeValue) -> Option<Vec<u8>> {
    match value {
        AttributeValue::B(blob) => Some(blob.into_inner()),
        _ => None,
    }
}

fn joined(steps: AttributeValue) -> Option<Bytes> {
    let AttributeValue::L(parts) = steps else {
        return None;
    };
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&bytes(part)?);
    }
    Some(all.into())
}
