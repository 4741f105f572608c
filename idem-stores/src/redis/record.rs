//! A record's key and bytes, version 2, and what they say.
//!
//! The key is the store's prefix and the record's id in base64url, 43 characters. The first
//! character of a record tells its version and its state.
//!
//! A running record is printable, so that a server error that repeats one can be read. The scripts
//! beside this file read and write the same positions:
//!
//! | characters | |
//! |---|---|
//! | 0 | `r` running; `a` abandoned, `s` suspended: no attempt holds it |
//! | 1 | `w` if it is watched; `c` if its owner has recreated it; else `-` |
//! | 2–23 | token, base64url; dashes where no attempt holds it |
//! | 24–67 | fingerprint, base64url |
//! | 68–77 | attempt |
//! | 78–90 | lease in milliseconds |
//! | 91–103 | retention in milliseconds |
//! | 104–116 | when it was claimed, in milliseconds of the server's clock; zeros if unknown |
//! | 117–124 | the first 8 hexadecimal digits of the SHA-1 of all of this |
//! | 125– | the operation's name and finished steps; see `appendix`. What a later version appends is kept as it is, and never taken over by this one |
//!
//! No clock but the server's is needed. A running record lives for its lease and its retention, so
//! what is left of the lease is the record's time to live, less the retention. A suspended record lives
//! for its retention. When it was claimed is what the claiming process knows of the server's clock (see
//! `clock`), because a plain command writes it.
//!
//! A finished record is compact, and its owner makes the whole of it:
//!
//! | bytes | |
//! |---|---|
//! | 0 | `f` |
//! | 1–5 | when it was claimed, in hundredths of a second of the server's clock; zeros if unknown |
//! | 6–11 | the token, folded: it recognises its own completion |
//! | 12–44 | fingerprint |
//! | 45– | attempt, 7 bits to a byte, the lowest first |
//! | | length of the operation's name, and the name; empty if unknown |
//! | | the outcome |
//! | last 4 | CRC-32 of all but when it was claimed |
//!
//! Numbers in it are big-endian.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use idem_core::{
    Claim, Claimed, Fingerprint, Inspection, Lease, Listed, OnCrash, OperationName, Phase,
    RecordId, RecordState, Seen, StoreError, Token,
};
use redis::Value;

use super::appendix::{self, Appendix, MAX_NAME_SECTION};
use super::command::Word;
use super::digits::{digits, number, seal};
use super::errors::UNREADABLE;

const RUNNING: u8 = b'r';
const ABANDONED: u8 = b'a';
const SUSPENDED: u8 = b's';
const FINISHED: u8 = b'f';

const RECREATED: u8 = b'c';

/// The length of a running record, and where its parts are.
pub(super) const HEAD_LEN: usize = 125;
const TOKEN: Range<usize> = 2..24;
const FINGERPRINT: Range<usize> = 24..68;
const ATTEMPT: Range<usize> = 68..78;
const LEASE: Range<usize> = 78..91;
const RETENTION: Range<usize> = 91..104;
const CLAIMED: Range<usize> = 104..117;
const SEALED_LEN: usize = 117;

/// Where a finished record's folded token is.
const FOLDED_TOKEN: Range<usize> = 6..12;

/// Where a finished record's attempt begins, and how long its checksum is.
const FINISHED_HEAD: usize = 45;
const CHECKSUM_LEN: usize = 4;

/// The longest duration that a record holds. Longer ones overflow the server's arithmetic.
const MAX_DURATION: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);

/// A duration in the server's milliseconds: rounded up, and never 0.
pub(super) fn millis(duration: Duration) -> u64 {
    let millis = duration.min(MAX_DURATION).as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

/// How long the server keeps a running record.
pub(super) fn lifetime(lease: Duration, retention: Duration) -> u64 {
    millis(lease) + millis(retention)
}

/// A record's id as its key ends with it.
pub(super) type EncodedId = [u8; 43];

pub(super) fn encoded_id(id: &RecordId) -> EncodedId {
    let mut encoded = [0; 43];
    encode(id.as_bytes(), &mut encoded);
    encoded
}

/// The key of a record, which is the name of its channel as well.
pub(super) fn key(prefix: &[u8], id: &RecordId) -> Vec<u8> {
    [prefix, &encoded_id(id)].concat()
}

/// A token as a running record holds it.
pub(super) fn encoded_token(token: &Token) -> [u8; 22] {
    let mut encoded = [0; 22];
    encode(token.as_bytes(), &mut encoded);
    encoded
}

/// What was seen of a record, as records have it: the letters of its state, and its attempt.
pub(super) struct SeenAs {
    letters: &'static str,
    attempt: [u8; 10],
    length: usize,
}

impl SeenAs {
    pub(super) fn of(seen: Seen) -> Self {
        let mut attempt = [0; 10];
        let (letters, length) = match seen.state {
            RecordState::Finished => ("f", compact(seen.attempt, &mut attempt)),
            state => {
                digits(seen.attempt.into(), &mut attempt);
                let letters = match state {
                    RecordState::Crashed => "ra",
                    RecordState::Suspended => "s",
                    // Its lease protects it.
                    _ => "",
                };
                (letters, attempt.len())
            }
        };
        Self {
            letters,
            attempt,
            length,
        }
    }

    pub(super) fn words(&self) -> [Word<'_>; 2] {
        [self.letters.into(), self.attempt[..self.length].into()]
    }
}

/// An attempt's number in a finished record, and how many bytes that takes: 7 bits to a byte, the lowest
/// first.
fn compact(mut attempt: u32, into: &mut [u8]) -> usize {
    let mut length = 0;
    for byte in into {
        length += 1;
        if attempt <= 0x7f {
            *byte = attempt as u8;
            break;
        }
        *byte = attempt as u8 | 0x80;
        attempt >>= 7;
    }
    length
}

/// The record of a running attempt, without steps.
pub(super) struct Running {
    bytes: [u8; HEAD_LEN + MAX_NAME_SECTION],
    length: u8,
}

impl Running {
    /// As a claim writes it; and when, in milliseconds of the server's clock, or 0.
    pub(super) fn claimed(lease: &Lease, at: u64) -> Self {
        Self::with_mark(lease, b'-', at)
    }

    /// As its owner recreates it.
    pub(super) fn recreated(lease: &Lease) -> Self {
        Self::with_mark(lease, RECREATED, 0)
    }

    fn with_mark(lease: &Lease, mark: u8, claimed: u64) -> Self {
        let mut record = [0; HEAD_LEN + MAX_NAME_SECTION];
        (record[0], record[1]) = (RUNNING, mark);
        encode(lease.token.as_bytes(), &mut record[TOKEN]);
        encode(&lease.fingerprint.to_bytes(), &mut record[FINGERPRINT]);
        digits(lease.attempt.into(), &mut record[ATTEMPT]);
        digits(millis(lease.duration), &mut record[LEASE]);
        digits(millis(lease.retention), &mut record[RETENTION]);
        digits(claimed, &mut record[CLAIMED]);
        let seal = seal(&record[..SEALED_LEN]);
        record[SEALED_LEN..HEAD_LEN].copy_from_slice(&seal);
        let name = appendix::write_name(&lease.operation, &mut record[HEAD_LEN..]);
        Self {
            bytes: record,
            length: (HEAD_LEN + name) as u8,
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

fn encode(bytes: &[u8], into: &mut [u8]) {
    // The length of `into` is the length of the encoding.
    let _ = BASE64.encode_slice(bytes, into);
}

/// The record of an attempt that ended with an outcome: what comes before the outcome, and after it. Its state
/// and when it was claimed are written by the script, or set by [`claimed_at`](Self::claimed_at).
pub(super) struct Finished {
    before: [u8; FINISHED_HEAD + 6 + OperationName::MAX_BYTES],
    length: u8,
    checksum: [u8; CHECKSUM_LEN],
}

/// How much of a finished record the script writes.
const SCRIPTS_PART: usize = 6;

impl Finished {
    pub(super) fn new(lease: &Lease, outcome: &[u8]) -> Self {
        let mut before = [0; FINISHED_HEAD + 6 + OperationName::MAX_BYTES];
        before[0] = FINISHED;
        let mut length = SCRIPTS_PART;
        let mut push = |bytes: &[u8]| {
            before[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        push(&folded(&lease.token));
        push(&lease.fingerprint.to_bytes());
        let mut attempt = [0; 5];
        let attempt_length = compact(lease.attempt, &mut attempt);
        push(&attempt[..attempt_length]);
        let name = lease.operation.as_str().as_bytes();
        push(&[name.len() as u8]);
        push(name);
        Self {
            checksum: checksum([&before[SCRIPTS_PART..length], outcome]),
            before,
            length: length as u8,
        }
    }

    /// Says when it was claimed, in milliseconds of the server's clock, or 0.
    pub(super) fn claimed_at(&mut self, at: u64) {
        let [_, _, _, hundredths @ ..] = (at / 10).to_be_bytes();
        self.before[1..SCRIPTS_PART].copy_from_slice(&hundredths);
    }

    /// What the script is given.
    pub(super) fn with<'a>(&'a self, outcome: &'a [u8]) -> Word<'a> {
        let before = &self.before[SCRIPTS_PART..usize::from(self.length)];
        Word::joined([before, outcome, &self.checksum])
    }

    /// All of it.
    pub(super) fn whole<'a>(&'a self, outcome: &'a [u8]) -> Word<'a> {
        let before = &self.before[..usize::from(self.length)];
        Word::joined([before, outcome, &self.checksum])
    }
}

/// Six bytes that differ where tokens differ in one bit.
fn folded(token: &Token) -> [u8; 6] {
    let mut folded = [0; 6];
    for (at, byte) in token.as_bytes().iter().enumerate() {
        folded[at % 6] ^= byte;
    }
    folded
}

/// How much of a record [`is_recreated`] needs.
pub(super) const OWNER_PREFIX_LEN: usize = TOKEN.end;

/// Whether the owner of this token has recreated or finished the record. `false` for the record that
/// its claim wrote.
pub(super) fn is_recreated(record: &[u8], token: &Token) -> bool {
    match record {
        [RUNNING, RECREATED, ..] => record.get(TOKEN) == Some(&encoded_token(token)[..]),
        [FINISHED, ..] => record.get(FOLDED_TOKEN) == Some(&folded(token)[..]),
        _ => false,
    }
}

/// Of a finished record, in two parts, without what the script writes.
fn checksum(parts: [&[u8]; 2]) -> [u8; CHECKSUM_LEN] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[FINISHED]);
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize().to_be_bytes()
}

/// A record that was read.
#[derive(Debug)]
pub(super) struct Record {
    attempt: u32,
    fingerprint: Fingerprint,
    claimed_at: Option<SystemTime>,
    state: State,
}

#[derive(Debug)]
enum State {
    Running {
        /// `None` if the attempt was abandoned.
        token: Option<Token>,
        retention: Duration,
        /// `None` if a later version has appended something.
        appendix: Option<Appendix>,
    },
    Suspended {
        appendix: Option<Appendix>,
    },
    Finished {
        operation: OperationName,
        outcome: Bytes,
    },
}

impl Record {
    /// `None` if the bytes are damaged, of another version, or not a record at all.
    pub(super) fn decode(bytes: Vec<u8>) -> Option<Self> {
        match bytes.first()? {
            &RUNNING | &ABANDONED | &SUSPENDED => {
                let (head, more) = bytes.split_first_chunk::<HEAD_LEN>()?;
                Self::decode_head(head, Appendix::decode(more))
            }
            &FINISHED => Self::decode_finished(Bytes::from(bytes)),
            _ => None,
        }
    }

    fn decode_head(head: &[u8; HEAD_LEN], appendix: Option<Appendix>) -> Option<Self> {
        if head[SEALED_LEN..] != seal(&head[..SEALED_LEN]) {
            return None;
        }
        Some(Self {
            attempt: u32::try_from(number(&head[ATTEMPT])?).ok()?,
            fingerprint: Fingerprint::from_bytes(decoded(&head[FINGERPRINT])?),
            claimed_at: time_of_millis(number(&head[CLAIMED])?),
            state: match head[0] {
                SUSPENDED => State::Suspended { appendix },
                state => State::Running {
                    token: match state {
                        RUNNING => Some(Token::from_bytes(decoded(&head[TOKEN])?)),
                        _ => None,
                    },
                    retention: Duration::from_millis(number(&head[RETENTION])?),
                    appendix,
                },
            },
        })
    }

    fn decode_finished(bytes: Bytes) -> Option<Self> {
        let end = bytes.len().checked_sub(CHECKSUM_LEN)?;
        if end <= FINISHED_HEAD || bytes[end..] != checksum([&bytes[SCRIPTS_PART..end], b""]) {
            return None;
        }
        let (record, outcome) = Self::decode_finished_head(&bytes[..end])?;
        let State::Finished { operation, .. } = record.state else {
            return None;
        };
        Some(Self {
            state: State::Finished {
                operation,
                outcome: bytes.slice(outcome..end),
            },
            ..record
        })
    }

    /// All but the outcome, and where that begins.
    fn decode_finished_head(bytes: &[u8]) -> Option<(Self, usize)> {
        let (mut attempt, mut at) = (0, FINISHED_HEAD);
        loop {
            let byte = *bytes.get(at)?;
            let shift = 7 * u32::try_from(at - FINISHED_HEAD).ok()?;
            attempt |= u32::from(byte & 0x7f).checked_shl(shift)?;
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let name_length = usize::from(*bytes.get(at)?);
        let name = bytes.get(at + 1..at + 1 + name_length)?;
        let hundredths = bytes[1..6]
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        let record = Self {
            attempt,
            fingerprint: Fingerprint::from_bytes(bytes[12..FINISHED_HEAD].try_into().ok()?),
            claimed_at: time_of_millis(hundredths * 10),
            state: State::Finished {
                operation: OperationName::new(std::str::from_utf8(name).unwrap_or_default()),
                outcome: Bytes::new(),
            },
        };
        Some((record, at + 1 + name_length))
    }

    /// The answer to a claim that no time changes: a finished record, or another request's key.
    pub(super) fn final_answer(&self, claim: &Claim) -> Option<Claimed> {
        if self.fingerprint != claim.fingerprint {
            return Some(Claimed::Mismatch);
        }
        match &self.state {
            State::Finished { outcome, .. } => Some(Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: None,
                claimed_at: self.claimed_at,
            }),
            State::Running { .. } | State::Suspended { .. } => None,
        }
    }

    /// The answer to a claim, if the record alone tells it. `None`: ask with the time to live.
    pub(super) fn answer_without_ttl(&self, claim: &Claim) -> Option<Claimed> {
        match (self.final_answer(claim), &self.state) {
            (Some(Claimed::Finished { .. }), _) if claim.ask_retention => None,
            (
                None,
                State::Running {
                    token,
                    appendix: Some(appendix),
                    ..
                },
            ) if *token == Some(claim.token) => Some(Claimed::Acquired {
                attempt: self.attempt,
                steps: appendix.steps.clone(),
            }),
            (answer, _) => answer,
        }
    }

    /// The answer to a claim that changed nothing, of a record with this time to live. `None` if the
    /// claim should have got the record, and this version cannot read what is in it.
    pub(super) fn answer_with_ttl(&self, claim: &Claim, ttl: Duration) -> Option<Claimed> {
        match (self.answer_without_ttl(claim), &self.state) {
            (Some(answer), _) => Some(answer),
            (None, State::Finished { outcome, .. }) => Some(Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: Some(ttl),
                claimed_at: self.claimed_at,
            }),
            (None, State::Suspended { .. }) => None,
            (None, State::Running { token, .. }) if *token == Some(claim.token) => None,
            (None, State::Running { appendix, .. }) => match self.lease_left(ttl) {
                Some(lease_left) => Some(Claimed::InFlight { lease_left }),
                None if appendix.is_none() && claim.on_crash == OnCrash::Rerun => None,
                None => Some(Claimed::OutcomeUnknown {
                    attempt: self.attempt,
                }),
            },
        }
    }

    /// `None` if this version cannot read what is in it.
    pub(super) fn inspection(self, ttl: Duration) -> Option<Inspection> {
        let lease_left = self.lease_left(ttl);
        let (phase, operation, steps) = match self.state {
            State::Finished { operation, outcome } => {
                (Phase::Finished { outcome }, operation, Bytes::new())
            }
            State::Running { appendix, .. } => {
                let appendix = appendix?;
                let phase = Phase::Running { lease_left };
                (phase, appendix.operation, appendix.steps)
            }
            State::Suspended { appendix } => {
                let appendix = appendix?;
                (Phase::Suspended, appendix.operation, appendix.steps)
            }
        };
        let inspection = Inspection::new(self.fingerprint, self.attempt, phase);
        let inspection = inspection.claimed(operation, self.claimed_at);
        Some(inspection.steps(steps).kept_for(ttl))
    }

    fn lease_left(&self, ttl: Duration) -> Option<Duration> {
        match &self.state {
            State::Running {
                token: Some(_),
                retention,
                ..
            } => ttl
                .checked_sub(*retention)
                .filter(|lease_left| !lease_left.is_zero()),
            State::Running { token: None, .. }
            | State::Suspended { .. }
            | State::Finished { .. } => None,
        }
    }
}

/// What a listing says of a record, by its beginning, which has all but its outcome and its steps, its
/// length, its last bytes and its time to live. `None` if it cannot be read. The checksum of an outcome is not looked at.
pub(super) fn listed(
    id: RecordId,
    head: &[u8],
    length: usize,
    tail: &[u8],
    ttl: Duration,
) -> Option<Listed> {
    let (record, operation, bytes) = match head.first()? {
        &FINISHED => {
            let (record, outcome) = Record::decode_finished_head(head)?;
            let State::Finished { operation, .. } = record.state else {
                return None;
            };
            (
                record,
                operation,
                length.checked_sub(outcome + CHECKSUM_LEN)?,
            )
        }
        &RUNNING | &ABANDONED | &SUSPENDED => {
            let (head, sections) = head.split_first_chunk::<HEAD_LEN>()?;
            let operation = Appendix::operation(sections);
            let bytes = match length - HEAD_LEN - appendix::length_of_name(sections) {
                0 => 0,
                _ => appendix::length_of_steps(tail).unwrap_or_default(),
            };
            (Record::decode_head(head, None)?, operation, bytes)
        }
        _ => return None,
    };
    let lease_left = record.lease_left(ttl);
    let state = match (&record.state, lease_left) {
        (State::Finished { .. }, _) => RecordState::Finished,
        (State::Suspended { .. }, _) => RecordState::Suspended,
        (State::Running { .. }, Some(_)) => RecordState::Running,
        (State::Running { .. }, None) => RecordState::Crashed,
    };
    let mut listed = Listed::new(id, state, record.attempt, ttl);
    listed.operation = operation;
    listed.claimed_at = record.claimed_at;
    listed.lease_left = lease_left;
    listed.bytes = bytes;
    Some(listed)
}

/// The id of a record's key, if it is one.
pub(super) fn id_of(prefix: &[u8], key: &[u8]) -> Option<RecordId> {
    Some(RecordId::from_bytes(decoded(key.strip_prefix(prefix)?)?))
}

fn time_of_millis(millis: u64) -> Option<SystemTime> {
    match millis {
        0 => None,
        millis => SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)),
    }
}

pub(super) fn record_of(found: Value) -> Result<Record, StoreError> {
    match found {
        Value::BulkString(bytes) => Record::decode(bytes).ok_or(UNREADABLE),
        _ => Err(UNREADABLE),
    }
}

/// What the scripts `claim` and `inspect` answer for a record that they have not changed: the record
/// and its time to live.
pub(super) fn record_and_ttl(found: Value) -> Result<(Record, Duration), StoreError> {
    let Value::Array(found) = found else {
        return Err(UNREADABLE);
    };
    let Ok([record, Value::Int(ttl)]) = <[Value; 2]>::try_from(found) else {
        return Err(UNREADABLE);
    };
    // A record without an end (-1) is not the store's.
    let ttl = u64::try_from(ttl).map_err(|_| UNREADABLE)?;
    Ok((record_of(record)?, Duration::from_millis(ttl)))
}

fn decoded<const LEN: usize>(encoded: &[u8]) -> Option<[u8; LEN]> {
    BASE64.decode(encoded).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    fn claim() -> Claim {
        Claim::new(
            RecordId::from_bytes([1; 32]),
            Fingerprint::from_bytes(std::array::from_fn(|n| n as u8)),
            Duration::from_secs(30),
            Duration::from_secs(3600),
        )
    }

    /// As the script writes it where it does not know when the record was claimed.
    fn finished(lease: &Lease, outcome: &[u8]) -> Vec<u8> {
        let mut record = vec![FINISHED, 0, 0, 0, 0, 0];
        record.extend(Finished::new(lease, outcome).with(outcome).to_vec());
        record
    }

    fn running(lease: &Lease) -> [u8; HEAD_LEN] {
        Running::claimed(lease, 0).as_bytes().try_into().unwrap()
    }

    fn recreated(lease: &Lease) -> [u8; HEAD_LEN] {
        Running::recreated(lease).as_bytes().try_into().unwrap()
    }

    #[test]
    fn a_running_record_round_trips_and_is_printable() {
        let claim = claim();
        let bytes = running(&Lease::of(&claim, 7));
        assert_eq!(bytes.len(), HEAD_LEN);
        assert!(bytes.iter().all(u8::is_ascii_graphic), "{bytes:?}");
        assert!(key(b"idem:", &claim.id).iter().all(u8::is_ascii_graphic));
        let record = Record::decode(bytes.into()).unwrap();
        assert_eq!(
            record.answer_without_ttl(&claim),
            Some(Claimed::acquired(7))
        );
        let other = claim.by_another();
        assert_eq!(record.answer_without_ttl(&other), None);
        let left = Duration::from_secs(3600 + 20);
        assert_eq!(
            record.answer_with_ttl(&other, left),
            Some(Claimed::InFlight {
                lease_left: Duration::from_secs(20)
            })
        );
        assert_eq!(
            record.answer_with_ttl(&other, Duration::from_secs(3600)),
            Some(Claimed::OutcomeUnknown { attempt: 7 })
        );
    }

    #[test]
    fn a_finished_record_round_trips_whatever_its_attempt() {
        let claim = claim();
        for attempt in [1, 127, 128, 16_384, u32::MAX] {
            for outcome in [&b""[..], b"outcome", &[0x80; 300]] {
                let record = Record::decode(finished(&Lease::of(&claim, attempt), outcome));
                let record = record.unwrap();
                assert_eq!(record.attempt, attempt);
                let seen = SeenAs::of(Seen::new(attempt, RecordState::Finished));
                let [letters, number] = seen.words().map(Word::to_vec);
                let stored = finished(&Lease::of(&claim, attempt), outcome);
                assert_eq!(letters, stored[..1]);
                assert!(stored[FINISHED_HEAD..].starts_with(&number));
                assert_eq!(
                    record.answer_without_ttl(&claim.by_another()),
                    Some(Claimed::Finished {
                        outcome: Bytes::copy_from_slice(outcome),
                        retention_left: None,
                        claimed_at: None,
                    })
                );
            }
        }
    }

    #[test]
    fn a_finished_record_with_its_key_is_at_most_100_bytes_beside_the_outcome() {
        let claim = claim();
        let record = finished(&Lease::of(&claim, 16_383), b"");
        assert!(key(b"idem:", &claim.id).len() + record.len() <= 100);
    }

    #[test]
    fn what_a_later_version_adds_is_read_over_and_never_taken_over() {
        let claim = claim();
        let mut running = running(&Lease::of(&claim, 1)).to_vec();
        running.extend_from_slice(b"steps");
        let record = Record::decode(running).unwrap();
        let other = claim.by_another();
        let left = Duration::from_secs(3600 + 20);
        let answer = record.answer_with_ttl(&other, left);
        assert!(matches!(answer, Some(Claimed::InFlight { .. })));
        assert_eq!(
            record.answer_with_ttl(&other, Duration::from_secs(3600)),
            None
        );

        let mut finished = finished(&Lease::of(&claim, 1), b"outcome");
        finished.truncate(finished.len() - CHECKSUM_LEN);
        finished[46] = 4;
        finished.splice(47..47, *b"name");
        let sum = checksum([&finished[SCRIPTS_PART..], b""]);
        finished.extend_from_slice(&sum);
        // When it was claimed, which decides nothing.
        finished[1..6].copy_from_slice(b"12345");
        let record = Record::decode(finished).unwrap();
        let hundredths = u64::from_be_bytes(*b"\0\0\x0012345");
        assert_eq!(
            record.answer_without_ttl(&other),
            Some(Claimed::Finished {
                outcome: Bytes::from_static(b"outcome"),
                retention_left: None,
                claimed_at: time_of_millis(hundredths * 10),
            })
        );
    }

    /// What a disk, a cable or a hand may do to a record.
    fn damaged(record: &[u8]) -> Vec<u8> {
        let mut rng = rand::rng();
        let mut damaged = record.to_vec();
        while damaged == record {
            let at = rng.random_range(0..record.len());
            match rng.random_range(0..5) {
                0 => damaged[at] ^= 1 << rng.random_range(0..8),
                1 => damaged[at] = rng.random(),
                2 => damaged.truncate(at),
                3 => damaged.insert(at, rng.random()),
                _ => {
                    let other = rng.random_range(0..record.len());
                    damaged.swap(at, other);
                }
            }
        }
        damaged
    }

    #[test]
    fn a_damaged_record_is_unreadable_and_never_another_one() {
        let claim = claim();
        let lease = Lease::of(&claim, 3);
        let running = running(&lease);
        let outcome = b"an outcome of some length";
        let finished = finished(&lease, outcome);
        for _ in 0..10_000 {
            let bytes = damaged(&running);
            // A byte more than a record is what a later version adds.
            if !bytes.starts_with(&running) {
                assert!(Record::decode(bytes.clone()).is_none(), "{bytes:?}");
            }
            let bytes = damaged(&finished);
            let answer = Record::decode(bytes.clone());
            let answer = answer.and_then(|record| record.answer_without_ttl(&claim));
            // Only when it was claimed, which decides nothing, may differ.
            match answer {
                None => {}
                Some(Claimed::Finished { outcome: kept, .. }) => assert_eq!(kept, outcome[..]),
                other => panic!("{other:?}: {bytes:?}"),
            }
        }
    }

    #[test]
    fn what_an_owner_creates_again_is_told_from_what_it_has_claimed() {
        let (claim, other) = (claim(), claim().by_another());
        let lease = Lease::of(&claim, 2);
        assert!(is_recreated(
            &recreated(&lease)[..OWNER_PREFIX_LEN],
            &claim.token
        ));
        assert!(is_recreated(&finished(&lease, b"outcome"), &claim.token));
        assert!(!is_recreated(&running(&lease), &claim.token));
        assert!(!is_recreated(&recreated(&lease), &other.token));
        assert!(!is_recreated(&finished(&lease, b"outcome"), &other.token));
        assert!(!is_recreated(b"", &claim.token));
        let record = Record::decode(recreated(&lease).into()).unwrap();
        let answer = record.answer_without_ttl(&claim);
        assert_eq!(answer, Some(Claimed::acquired(2)));
    }

    #[test]
    fn another_version_is_unreadable() {
        let claim = claim();
        let mut record = running(&Lease::of(&claim, 1));
        for state in [b't', b'1', 0] {
            record[0] = state;
            let seal = seal(&record[..SEALED_LEN]);
            record[SEALED_LEN..].copy_from_slice(&seal);
            assert!(Record::decode(record.into()).is_none());
        }
        assert!(Record::decode(Vec::new()).is_none());
    }

    #[test]
    fn tokens_that_differ_in_one_bit_are_folded_differently() {
        let token: [u8; 16] = rand::random();
        for bit in 0..128 {
            let mut other = token;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(
                folded(&Token::from_bytes(token)),
                folded(&Token::from_bytes(other))
            );
        }
    }

    #[test]
    fn times_are_rounded_up_and_bounded() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_nanos(1_000_001)), 2);
        assert_eq!(millis(Duration::MAX), millis(MAX_DURATION));
        let mut lease = Lease::of(&claim(), u32::MAX);
        (lease.duration, lease.retention) = (Duration::MAX, Duration::MAX);
        let record = running(&lease);
        assert_eq!(number(&record[ATTEMPT]), Some(u32::MAX.into()));
        assert_eq!(number(&record[RETENTION]), Some(millis(MAX_DURATION)));
    }
}
