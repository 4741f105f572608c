//! A record's key and bytes, version 2, and what they say.
//!
//! The key is the store's prefix and the record's id in base64url, 43 characters. The first
//! character of a record tells its version and its state.
//!
//! A running record is printable, so that a server error that repeats one can be read. The scripts
//! beside this file read and write the same places:
//!
//! | characters | |
//! |---|---|
//! | 0 | `r` running, `a` abandoned: nobody's |
//! | 1 | `w` when somebody watches; `c` when its owner has created it again; else `-` |
//! | 2–23 | token, base64url; of an abandoned attempt dashes |
//! | 24–67 | fingerprint, base64url |
//! | 68–77 | attempt |
//! | 78–90 | lease in milliseconds |
//! | 91–103 | retention in milliseconds |
//! | 104–116 | when it was claimed, in milliseconds of the server's clock; zeros where that is not kept |
//! | 117–124 | the first 8 hexadecimal digits of the SHA-1 of all of this |
//! | 125– | what later versions append, such as the operation's name or finished steps, each with a checksum of its own; kept as it is, and never taken over by this version |
//!
//! When a lease is over needs no clock but the server's: a running record is kept for lease and
//! retention, so what is left of the lease is what is left to live, less the retention.
//!
//! A finished record is compact, and its owner makes all of it:
//!
//! | bytes | |
//! |---|---|
//! | 0 | `f` |
//! | 1–5 | when it was claimed, in hundredths of a second of the server's clock; zeros where that is not kept |
//! | 6–11 | the token, folded: it recognises its own completion |
//! | 12–44 | fingerprint |
//! | 45– | attempt, 7 bits to a byte, the lowest first |
//! | | length of the operation's name, and the name; empty where it is not kept |
//! | | the outcome |
//! | last 4 | CRC-32 of all but when it was claimed |
//!
//! Numbers in it are big-endian.

use std::ops::Range;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use idem_core::{Claim, Claimed, Fingerprint, Inspection, Lease, OnCrash, Phase, RecordId, Token};
use sha1::{Digest, Sha1};

const RUNNING: u8 = b'r';
const ABANDONED: u8 = b'a';
const FINISHED: u8 = b'f';

const CREATED: u8 = b'c';

/// The length of a running record, and where its parts are.
const RUNNING_LEN: usize = 125;
const TOKEN: Range<usize> = 2..24;
const FINGERPRINT: Range<usize> = 24..68;
const ATTEMPT: Range<usize> = 68..78;
const LEASE: Range<usize> = 78..91;
const RETENTION: Range<usize> = 91..104;
const CLAIMED: Range<usize> = 104..117;
const SEALED_LEN: usize = 117;

/// Where a finished record's token is.
const FOLDED: Range<usize> = 6..12;

/// Where a finished record's attempt begins, and how long its checksum is.
const FINISHED_HEAD: usize = 45;
const CHECKSUM_LEN: usize = 4;

/// The longest time that is counted with: beyond it the server's own arithmetic ends.
const LONGEST: Duration = Duration::from_secs(200 * 365 * 24 * 60 * 60);

/// A duration in the server's milliseconds: rounded up, and never 0.
pub(super) fn millis(duration: Duration) -> u64 {
    let millis = duration.min(LONGEST).as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

/// How long the server keeps a running record.
pub(super) fn lifetime(lease: Duration, retention: Duration) -> u64 {
    millis(lease) + millis(retention)
}

/// The key of a record, which is the name of its channel as well.
pub(super) fn key(prefix: &[u8], id: &RecordId) -> Vec<u8> {
    let mut printed = [0; 43];
    encode(id.as_bytes(), &mut printed);
    [prefix, &printed].concat()
}

/// A token as a running record holds it.
pub(super) fn printed(token: &Token) -> [u8; 22] {
    let mut printed = [0; 22];
    encode(token.as_bytes(), &mut printed);
    printed
}

/// The record of a running attempt, as it is claimed.
pub(super) fn running(lease: &Lease) -> [u8; RUNNING_LEN] {
    marked(lease, b'-')
}

/// The record of a running attempt, as its owner creates it again.
pub(super) fn created(lease: &Lease) -> [u8; RUNNING_LEN] {
    marked(lease, CREATED)
}

fn marked(lease: &Lease, mark: u8) -> [u8; RUNNING_LEN] {
    let mut record = [0; RUNNING_LEN];
    (record[0], record[1]) = (RUNNING, mark);
    encode(lease.token.as_bytes(), &mut record[TOKEN]);
    encode(&lease.fingerprint.to_bytes(), &mut record[FINGERPRINT]);
    digits(lease.attempt.into(), &mut record[ATTEMPT]);
    digits(millis(lease.duration), &mut record[LEASE]);
    digits(millis(lease.retention), &mut record[RETENTION]);
    digits(0, &mut record[CLAIMED]);
    let seal = seal(&record[..SEALED_LEN]);
    record[SEALED_LEN..].copy_from_slice(&seal);
    record
}

fn encode(bytes: &[u8], into: &mut [u8]) {
    // There is room for exactly so much.
    let _ = BASE64.encode_slice(bytes, into);
}

fn digits(mut number: u64, into: &mut [u8]) {
    for place in into.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn seal(record: &[u8]) -> [u8; RUNNING_LEN - SEALED_LEN] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha1::digest(record);
    std::array::from_fn(|place| {
        let byte = digest[place / 2];
        HEX[usize::from(if place % 2 == 0 {
            byte >> 4
        } else {
            byte & 0xf
        })]
    })
}

/// The record of an attempt that ended with this outcome.
pub(super) fn finished(lease: &Lease, outcome: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(FINISHED_HEAD + 6 + outcome.len() + CHECKSUM_LEN);
    record.extend_from_slice(&[FINISHED, 0, 0, 0, 0, 0]);
    record.extend_from_slice(&folded(&lease.token));
    record.extend_from_slice(&lease.fingerprint.to_bytes());
    let mut attempt = lease.attempt;
    while attempt > 0x7f {
        record.push(attempt as u8 | 0x80);
        attempt >>= 7;
    }
    record.push(attempt as u8);
    record.push(0);
    record.extend_from_slice(outcome);
    let checksum = checksum(&record);
    record.extend_from_slice(&checksum);
    record
}

/// Six bytes that differ where tokens differ in one bit.
fn folded(token: &Token) -> [u8; 6] {
    let mut folded = [0; 6];
    for (place, byte) in token.as_bytes().iter().enumerate() {
        folded[place % 6] ^= byte;
    }
    folded
}

/// How much of a record tells whether it was created by its owner.
pub(super) const CREATED_LEN: usize = TOKEN.end;

/// Whether a record is one that this token's owner has created again, or finished. As it was claimed
/// it is not.
pub(super) fn is_created(record: &[u8], token: &Token) -> bool {
    match record {
        [RUNNING, CREATED, ..] => record.get(TOKEN) == Some(&printed(token)[..]),
        [FINISHED, ..] => record.get(FOLDED) == Some(&folded(token)[..]),
        _ => false,
    }
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&record[..1]);
    crc.update(&record[6..]);
    crc.finalize().to_be_bytes()
}

/// A record as it was found.
#[derive(Debug)]
pub(super) struct Record {
    attempt: u32,
    fingerprint: Fingerprint,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Running {
        /// `None` when the attempt was abandoned.
        token: Option<Token>,
        retention: Duration,
        /// A later version has appended something.
        has_more: bool,
    },
    Finished {
        outcome: Bytes,
    },
}

impl Record {
    /// `None` for bytes that were damaged, or are of another version, or of nobody.
    pub(super) fn decode(bytes: Vec<u8>) -> Option<Self> {
        match bytes.first()? {
            &RUNNING | &ABANDONED => Self::decode_running(&bytes),
            &FINISHED => Self::decode_finished(Bytes::from(bytes)),
            _ => None,
        }
    }

    fn decode_running(bytes: &[u8]) -> Option<Self> {
        let (head, more) = bytes.split_first_chunk::<RUNNING_LEN>()?;
        if head[SEALED_LEN..] != seal(&head[..SEALED_LEN]) {
            return None;
        }
        Some(Self {
            attempt: u32::try_from(number(&head[ATTEMPT])?).ok()?,
            fingerprint: Fingerprint::from_bytes(decoded(&head[FINGERPRINT])?),
            life: Life::Running {
                token: match head[0] {
                    RUNNING => Some(Token::from_bytes(decoded(&head[TOKEN])?)),
                    _ => None,
                },
                retention: Duration::from_millis(number(&head[RETENTION])?),
                has_more: !more.is_empty(),
            },
        })
    }

    fn decode_finished(bytes: Bytes) -> Option<Self> {
        let end = bytes.len().checked_sub(CHECKSUM_LEN)?;
        if end <= FINISHED_HEAD || bytes[end..] != checksum(&bytes[..end]) {
            return None;
        }
        let (mut attempt, mut place) = (0, FINISHED_HEAD);
        loop {
            let byte = *bytes[..end].get(place)?;
            let shift = 7 * u32::try_from(place - FINISHED_HEAD).ok()?;
            attempt |= u32::from(byte & 0x7f).checked_shl(shift)?;
            place += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let name = usize::from(*bytes[..end].get(place)?);
        let outcome = place + 1 + name;
        if outcome > end {
            return None;
        }
        Some(Self {
            attempt,
            fingerprint: Fingerprint::from_bytes(bytes[12..FINISHED_HEAD].try_into().ok()?),
            life: Life::Finished {
                outcome: bytes.slice(outcome..end),
            },
        })
    }

    /// The answer to a claim that is the same for all time: of a finished record, and where another
    /// request has the key.
    pub(super) fn final_answer(&self, claim: &Claim) -> Option<Claimed> {
        if self.fingerprint != claim.fingerprint {
            return Some(Claimed::Mismatch);
        }
        match &self.life {
            Life::Finished { outcome } => Some(Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: None,
            }),
            Life::Running { .. } => None,
        }
    }

    /// The answer to a claim, where the record alone says it. `None` is to ask with the time that is
    /// left.
    pub(super) fn answer_alone(&self, claim: &Claim) -> Option<Claimed> {
        match (self.final_answer(claim), &self.life) {
            (Some(Claimed::Finished { .. }), _) if claim.ask_retention => None,
            (None, Life::Running { token, .. }) if *token == Some(claim.token) => {
                Some(Claimed::Acquired {
                    attempt: self.attempt,
                })
            }
            (answer, _) => answer,
        }
    }

    /// The answer to a claim that changed nothing, `left` before the record ends. `None` where the
    /// claim should have taken the record over, and this version cannot.
    pub(super) fn answer(&self, claim: &Claim, left: Duration) -> Option<Claimed> {
        if let Some(answer) = self.answer_alone(claim) {
            return Some(answer);
        }
        match (&self.life, self.lease_left(left)) {
            (Life::Finished { outcome }, _) => Some(Claimed::Finished {
                outcome: outcome.clone(),
                retention_left: Some(left),
            }),
            (Life::Running { .. }, Some(lease_left)) => Some(Claimed::InFlight { lease_left }),
            (Life::Running { has_more: true, .. }, None) if claim.on_crash == OnCrash::Rerun => {
                None
            }
            (Life::Running { .. }, None) => Some(Claimed::OutcomeUnknown {
                attempt: self.attempt,
            }),
        }
    }

    pub(super) fn inspection(self, left: Duration) -> Inspection {
        let lease_left = self.lease_left(left);
        let phase = match self.life {
            Life::Finished { outcome } => Phase::Finished { outcome },
            Life::Running { .. } => Phase::Running { lease_left },
        };
        Inspection::new(self.fingerprint, self.attempt, phase)
    }

    fn lease_left(&self, left: Duration) -> Option<Duration> {
        match &self.life {
            Life::Running {
                token: Some(_),
                retention,
                ..
            } => left
                .checked_sub(*retention)
                .filter(|lease_left| !lease_left.is_zero()),
            Life::Running { token: None, .. } | Life::Finished { .. } => None,
        }
    }
}

fn decoded<const LEN: usize>(printed: &[u8]) -> Option<[u8; LEN]> {
    BASE64.decode(printed).ok()?.try_into().ok()
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
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

    #[test]
    fn a_running_record_round_trips_and_is_printable() {
        let claim = claim();
        let bytes = running(&Lease::of(&claim, 7));
        assert_eq!(bytes.len(), RUNNING_LEN);
        assert!(bytes.iter().all(u8::is_ascii_graphic), "{bytes:?}");
        assert!(key(b"idem:", &claim.id).iter().all(u8::is_ascii_graphic));
        let record = Record::decode(bytes.into()).unwrap();
        assert_eq!(
            record.answer_alone(&claim),
            Some(Claimed::Acquired { attempt: 7 })
        );
        let other = claim.by_another();
        assert_eq!(record.answer_alone(&other), None);
        let left = Duration::from_secs(3600 + 20);
        assert_eq!(
            record.answer(&other, left),
            Some(Claimed::InFlight {
                lease_left: Duration::from_secs(20)
            })
        );
        assert_eq!(
            record.answer(&other, Duration::from_secs(3600)),
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
                assert_eq!(
                    record.answer_alone(&claim.by_another()),
                    Some(Claimed::Finished {
                        outcome: Bytes::copy_from_slice(outcome),
                        retention_left: None
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
        let answer = record.answer(&other, left);
        assert!(matches!(answer, Some(Claimed::InFlight { .. })));
        assert_eq!(record.answer(&other, Duration::from_secs(3600)), None);

        let mut finished = finished(&Lease::of(&claim, 1), b"outcome");
        finished.truncate(finished.len() - CHECKSUM_LEN);
        finished[46] = 4;
        finished.splice(47..47, *b"name");
        let sum = checksum(&finished);
        finished.extend_from_slice(&sum);
        // When it was claimed, which decides nothing.
        finished[1..6].copy_from_slice(b"12345");
        let record = Record::decode(finished).unwrap();
        assert_eq!(
            record.answer_alone(&other),
            Some(Claimed::Finished {
                outcome: Bytes::from_static(b"outcome"),
                retention_left: None
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
            let answer = answer.and_then(|record| record.answer_alone(&claim));
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
        assert!(is_created(&created(&lease)[..CREATED_LEN], &claim.token));
        assert!(is_created(&finished(&lease, b"outcome"), &claim.token));
        assert!(!is_created(&running(&lease), &claim.token));
        assert!(!is_created(&created(&lease), &other.token));
        assert!(!is_created(&finished(&lease, b"outcome"), &other.token));
        assert!(!is_created(b"", &claim.token));
        let record = Record::decode(created(&lease).into()).unwrap();
        let answer = record.answer_alone(&claim);
        assert_eq!(answer, Some(Claimed::Acquired { attempt: 2 }));
    }

    #[test]
    fn another_version_is_unreadable() {
        let claim = claim();
        let mut record = running(&Lease::of(&claim, 1));
        for state in [b's', b'1', 0] {
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
        assert_eq!(millis(Duration::MAX), millis(LONGEST));
        let mut lease = Lease::of(&claim(), u32::MAX);
        (lease.duration, lease.retention) = (Duration::MAX, Duration::MAX);
        let record = running(&lease);
        assert_eq!(number(&record[ATTEMPT]), Some(u32::MAX.into()));
        assert_eq!(number(&record[RETENTION]), Some(millis(LONGEST)));
    }
}
