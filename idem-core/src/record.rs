//! The words a record is made of: its id, the lease's token, and what a claim asks for.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::fingerprint::Fingerprint;
use crate::key::Key;

/// The identity of a record: SHA-256 over length-delimited namespace, operation name, scope
/// and key. Bounded in size, injection-free, and no personal data at rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId([u8; 32]);

impl Hash for RecordId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A part of a SHA-256 is a hash already.
        state.write(&self.0[..RecordHasher::BYTES]);
    }
}

/// Hashes record ids for maps in memory: one multiplication, seeded, because clients choose the
/// keys that ids are made of and could look for ids that collide.
#[derive(Clone, Debug)]
pub struct RecordHasher {
    seeds: [u64; 2],
    hash: u64,
}

impl RecordHasher {
    const BYTES: usize = 16;
}

impl Default for RecordHasher {
    fn default() -> Self {
        Self {
            seeds: rand::random(),
            hash: 0,
        }
    }
}

impl BuildHasher for RecordHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        self.clone()
    }
}

impl Hasher for RecordHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(Self::BYTES) {
            let mut halves = [0; Self::BYTES];
            halves[..chunk.len()].copy_from_slice(chunk);
            let whole = u128::from_le_bytes(halves);
            let (low, high) = (whole as u64, (whole >> 64) as u64);
            let product =
                u128::from(low ^ self.seeds[0] ^ self.hash) * u128::from(high ^ self.seeds[1]);
            self.hash = (product as u64) ^ ((product >> 64) as u64);
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

impl RecordId {
    /// Derives the id. An absent scope and an empty one are different.
    pub fn derive(namespace: &str, operation: &str, scope: Option<&Key>, key: &Key) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"idem record 1");
        let mut part = |tag: u8, bytes: &[u8]| {
            hash.update([tag]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(b'n', namespace.as_bytes());
        part(b'o', operation.as_bytes());
        if let Some(scope) = scope {
            part(b's', scope.encoded());
        }
        part(b'k', key.encoded());
        Self(hash.finalize().into())
    }

    /// What is under this id in one database of several.
    pub(crate) fn within(&self, database_id: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"idem place 1");
        hash.update(self.0);
        hash.update(database_id);
        Self(hash.finalize().into())
    }

    /// The id's bytes, as a store keeps them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// An id from bytes that a store kept.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// Text that is no record's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARecordId(());

impl fmt::Display for NotARecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record's id is 64 hexadecimal digits, as log lines have it")
    }
}

impl std::error::Error for NotARecordId {}

impl FromStr for RecordId {
    type Err = NotARecordId;

    fn from_str(text: &str) -> Result<Self, NotARecordId> {
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotARecordId(()));
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
            *byte = value(digits[0]) << 4 | value(digits[1]);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({self})")
    }
}

/// The random 128-bit secret of one lease. Only its holder changes the record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; 16]);

impl Token {
    /// A new token from the thread's cryptographic generator.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The token's bytes, as a store keeps them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A token from bytes that a store kept.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a claim does with a running record whose lease is over: the attempt that held it
/// crashed, and whether it had an effect is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnCrash {
    /// Run the body again, as the next attempt: at least once.
    #[default]
    Rerun,
    /// Refuse until an operator resolves the record: at most once.
    Refuse,
}

/// The name of an operation as records keep it, for people who look for records: its last 80 bytes,
/// and all of it where it is no longer. Empty where it is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OperationName {
    length: u8,
    bytes: [u8; Self::MAX_BYTES],
}

impl OperationName {
    /// The longest name that a record keeps whole, in bytes.
    pub const MAX_BYTES: usize = 80;

    /// Of a record that does not say.
    pub const UNKNOWN: Self = Self {
        length: 0,
        bytes: [0; Self::MAX_BYTES],
    };

    /// The end of the name, where names that are paths differ.
    pub fn new(name: &str) -> Self {
        let mut start = name.len().saturating_sub(Self::MAX_BYTES);
        while !name.is_char_boundary(start) {
            start += 1;
        }
        let kept = &name.as_bytes()[start..];
        let mut bytes = [0; Self::MAX_BYTES];
        bytes[..kept.len()].copy_from_slice(kept);
        Self {
            length: kept.len() as u8,
            bytes,
        }
    }

    /// The name. Empty: not known.
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.length)];
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A request for the right to run one attempt.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The record.
    pub id: RecordId,
    /// The token the lease will be held by. A claim sent again after its answer was lost
    /// carries the same token, and so recognises itself.
    pub token: Token,
    /// What the request must be equal to on a retry.
    pub fingerprint: Fingerprint,
    /// How long the lease holds without renewal, by the store's clock.
    pub lease: Duration,
    /// How long a running record is kept after its lease is over, so that a crash is seen.
    pub retention: Duration,
    /// What to do when the lease of a running record is over.
    pub on_crash: OnCrash,
    /// Whether a finished record should say how long it is still kept. It costs some stores one
    /// more look.
    pub ask_retention: bool,
    /// What the record says of its operation.
    pub operation: OperationName,
}

impl Claim {
    /// A claim with a random token that asks to rerun after a crash.
    pub fn new(
        id: RecordId,
        fingerprint: Fingerprint,
        lease: Duration,
        retention: Duration,
    ) -> Self {
        Self {
            id,
            token: Token::random(),
            fingerprint,
            lease,
            retention,
            on_crash: OnCrash::Rerun,
            ask_retention: false,
            operation: OperationName::UNKNOWN,
        }
    }

    /// The same claim by another caller, with a token of its own.
    #[must_use]
    pub fn by_another(mut self) -> Self {
        self.token = Token::random();
        self
    }

    /// With another length of the lease.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// With another retention.
    #[must_use]
    pub const fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// With the name of its operation.
    #[must_use]
    pub const fn operation(mut self, operation: OperationName) -> Self {
        self.operation = operation;
        self
    }

    /// With another answer to a crash.
    #[must_use]
    pub const fn on_crash(mut self, on_crash: OnCrash) -> Self {
        self.on_crash = on_crash;
        self
    }
}

/// An attempt's right to change its record, as its owner knows it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Lease {
    /// The record.
    pub id: RecordId,
    /// The secret that the claim was made with.
    pub token: Token,
    /// The claim's fingerprint.
    pub fingerprint: Fingerprint,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// How long the lease holds from each renewal, by the store's clock.
    pub duration: Duration,
    /// How long a running record is kept after its lease is over, and a finished one from its
    /// completion.
    pub retention: Duration,
    /// Whether the lease has held without a break since the claim, by the owner's own monotonic
    /// clock, counted from before each request was sent. Then nobody else can have held the record
    /// rightfully, and a record that is absent was forgotten by its store, in a failover: a renewal
    /// or a completion creates it again.
    pub unbroken: bool,
    /// What the record says of its operation.
    pub operation: OperationName,
}

impl Lease {
    /// The lease that `claim` asks for, as `attempt`.
    pub const fn of(claim: &Claim, attempt: u32) -> Self {
        Self {
            id: claim.id,
            token: claim.token,
            fingerprint: claim.fingerprint,
            attempt,
            duration: claim.lease,
            retention: claim.retention,
            unbroken: true,
            operation: claim.operation,
        }
    }
}

/// The store's answer to a [`Claim`]. Its `Debug` form shows no outcome.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claimed {
    /// The caller holds the lease and runs the body.
    Acquired {
        /// The attempt's number, from 1.
        attempt: u32,
        /// What the attempts before it have appended with `checkpoint`, and, where the claim's own
        /// answer was lost, this one. Empty for a first attempt.
        steps: Bytes,
    },
    /// Another attempt holds the lease.
    InFlight {
        /// How much of that lease is left, by the store's clock.
        lease_left: Duration,
    },
    /// The record belongs to a request with another fingerprint.
    Mismatch,
    /// The lease is over and the claim asked to refuse.
    OutcomeUnknown {
        /// The attempt that crashed.
        attempt: u32,
    },
    /// The record is finished.
    Finished {
        /// The stored outcome, byte for byte.
        outcome: Bytes,
        /// How much of the retention is left, by the store's clock. `None` where the claim did
        /// not ask or the store cannot tell.
        retention_left: Option<Duration>,
        /// When the attempt that finished it was claimed, by the store's clock. `None` where the
        /// store does not know.
        claimed_at: Option<SystemTime>,
    },
}

impl Claimed {
    /// The right to run an attempt that is handed no steps.
    pub const fn acquired(attempt: u32) -> Self {
        Self::Acquired {
            attempt,
            steps: Bytes::new(),
        }
    }

    /// A finished record.
    pub const fn finished(outcome: Bytes) -> Self {
        Self::Finished {
            outcome,
            retention_left: None,
            claimed_at: None,
        }
    }
}

/// The store's answer to a change that needs the lease's token.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The record is as the caller asked.
    Applied,
    /// The token does not hold the record; nothing was changed.
    LeaseLost,
}

/// A record as an operator or a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// What the record's requests must be equal to.
    pub fingerprint: Fingerprint,
    /// The newest attempt's number, from 1.
    pub attempt: u32,
    /// Running, suspended or finished.
    pub phase: Phase,
    /// The operation's name. Empty where a former version has written the record.
    pub operation: OperationName,
    /// When the newest attempt was claimed, by the store's clock. `None` where it is not known.
    pub claimed_at: Option<SystemTime>,
    /// What `checkpoint` has appended. Empty once the record is finished.
    pub steps: Bytes,
    /// How long the record is still kept unless something changes it. `None` where the store does not
    /// say.
    pub kept_for: Option<Duration>,
}

impl Inspection {
    /// A record as a store found it.
    pub const fn new(fingerprint: Fingerprint, attempt: u32, phase: Phase) -> Self {
        Self {
            fingerprint,
            attempt,
            phase,
            operation: OperationName::UNKNOWN,
            claimed_at: None,
            steps: Bytes::new(),
            kept_for: None,
        }
    }

    /// The names of its finished steps, in the order in which they finished. Empty where this version
    /// cannot read them.
    pub fn finished_steps(&self) -> Vec<String> {
        crate::steps::names(&self.steps)
    }

    /// The same steps, each with its value, as JSON. `None` where this version cannot read them.
    pub fn finished_step_values(&self) -> Option<Vec<(String, Bytes)>> {
        crate::steps::values(&self.steps)
    }

    /// With what it says of its claim.
    #[must_use]
    pub const fn claimed(
        mut self,
        operation: OperationName,
        claimed_at: Option<SystemTime>,
    ) -> Self {
        self.operation = operation;
        self.claimed_at = claimed_at;
        self
    }

    /// With finished steps.
    #[must_use]
    pub fn steps(mut self, steps: Bytes) -> Self {
        self.steps = steps;
        self
    }

    /// With what is left until it is forgotten.
    #[must_use]
    pub const fn kept_for(mut self, kept_for: Duration) -> Self {
        self.kept_for = Some(kept_for);
        self
    }
}

/// Where a present record is in its life. Its `Debug` form shows no outcome.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// An attempt is running, or has crashed.
    Running {
        /// What is left of its lease; `None` when the lease is over.
        lease_left: Option<Duration>,
    },
    /// The newest attempt ended without an outcome and left finished steps: the next claim goes on
    /// with them.
    Suspended,
    /// The outcome is stored.
    Finished {
        /// The stored outcome.
        outcome: Bytes,
    },
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acquired { attempt, steps } if steps.is_empty() => {
                write!(f, "Acquired(attempt {attempt})")
            }
            Self::Acquired { attempt, steps } => {
                write!(
                    f,
                    "Acquired(attempt {attempt}, {} bytes of steps)",
                    steps.len()
                )
            }
            Self::InFlight { lease_left } => write!(f, "InFlight({lease_left:?} left)"),
            Self::Mismatch => f.write_str("Mismatch"),
            Self::OutcomeUnknown { attempt } => write!(f, "OutcomeUnknown(attempt {attempt})"),
            Self::Finished { outcome, .. } => write!(f, "Finished({} bytes)", outcome.len()),
        }
    }
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running {
                lease_left: Some(left),
            } => write!(f, "Running({left:?} left)"),
            Self::Running { lease_left: None } => f.write_str("Crashed"),
            Self::Suspended => f.write_str("Suspended"),
            Self::Finished { outcome } => write!(f, "Finished({} bytes)", outcome.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        let id = RecordId::from_bytes(std::array::from_fn(|place| place as u8 * 7));
        assert_eq!(id.to_string().parse(), Ok(id));
        let long = "é".repeat(32);
        for other in ["", "7f", &"x".repeat(64), &long, &"+1".repeat(32)] {
            assert_eq!(other.parse::<RecordId>(), Err(NotARecordId(())), "{other}");
        }
    }

    #[test]
    fn a_long_name_is_kept_by_its_end() {
        assert_eq!(
            OperationName::new("orders.create").as_str(),
            "orders.create"
        );
        assert_eq!(OperationName::new("").as_str(), "");
        let long = format!("{}é{}", "a".repeat(40), "b".repeat(79));
        assert_eq!(OperationName::new(&long).as_str(), "b".repeat(79));
        let long = format!("{}é{}", "a".repeat(40), "b".repeat(78));
        assert_eq!(
            OperationName::new(&long).as_str(),
            format!("é{}", "b".repeat(78))
        );
    }

    #[test]
    fn ids_spread_over_a_map_and_differently_in_every_map() {
        let (one, other) = (RecordHasher::default(), RecordHasher::default());
        let ids: Vec<_> = (0..4096_u16)
            .map(|n| RecordId::derive("", "spread", None, &Key::of(&n).unwrap()))
            .collect();
        let hashes: HashSet<_> = ids.iter().map(|id| one.hash_one(id)).collect();
        assert_eq!(hashes.len(), ids.len());
        let buckets: HashSet<_> = hashes.iter().map(|hash| hash % 64).collect();
        assert_eq!(buckets.len(), 64);
        assert!(ids.iter().any(|id| one.hash_one(id) != other.hash_one(id)));
    }
}
