//! What a body can know of the attempt it runs in.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::engine::Call;
use crate::fingerprint::Fingerprint;
use crate::observe;
use crate::record::{Lease, RecordId, Token};

tokio::task_local! {
    pub(crate) static CURRENT: Attempt;

    /// The record whose attempt a layer has lent to what it calls.
    static LENT: Option<RecordId>;
}

/// An attempt that a layer lends to the handler within, which has the same operation name: it
/// runs as a part of it. A handler lends to nobody: if its body calls its own operation under its
/// own key, that is another call.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Lent(Option<RecordId>);

impl Lent {
    /// To nobody.
    pub const NONE: Self = Self(None);

    pub(crate) const fn of(id: RecordId) -> Self {
        Self(Some(id))
    }

    pub(crate) fn includes(id: &RecordId) -> bool {
        LENT.try_with(|lent| lent.as_ref() == Some(id))
            .unwrap_or(false)
    }

    /// Runs what it is lent to.
    pub async fn during<F: Future>(self, within: F) -> F::Output {
        LENT.scope(self.0, within).await
    }
}

/// The attempt whose body is running on this task.
///
/// Work that the body moves to other tasks does not inherit it: clone it into them. Outside
/// of a body the answer is an attempt of its own that nothing else shares, and a warning in the
/// log; see [`Attempt::is_protected`].
pub fn attempt() -> Attempt {
    current().unwrap_or_else(|| {
        observe::outside_of_any_body();
        Attempt::unprotected()
    })
}

/// The attempt whose body is running on this task, if one is.
pub(crate) fn current() -> Option<Attempt> {
    CURRENT.try_with(Attempt::clone).ok()
}

/// One run of a body: its number, its lease, and the keys derived from its record.
#[derive(Clone)]
pub struct Attempt {
    shared: Arc<Shared>,
}

struct Shared {
    number: u32,
    id: RecordId,
    /// `None` where no record stands behind the attempt.
    fingerprint: Option<Fingerprint>,
    /// The attempt whose body has begun this one.
    parent: Option<Attempt>,
    released: AtomicBool,
    /// The store has said that another attempt holds the record.
    lost: AtomicBool,
    /// The lease was found over once, by this process's clock, whatever was renewed since.
    broken: AtomicBool,
    /// The body has ended: what its renewal learns from here on says nothing any more.
    ending: AtomicBool,
    /// The attempt ends without an outcome: nothing of it creates the record again.
    given_up: AtomicBool,
    /// A call that may create the record is on its way, or was not answered.
    late_calls: AtomicBool,
    /// Until when the store has promised the lease, by this process's monotonic clock,
    /// counted from before the request was sent. `None`: there is no lease to lose.
    held_until: Option<Mutex<Instant>>,
}

impl Attempt {
    pub(crate) fn protected(
        number: u32,
        id: RecordId,
        fingerprint: Fingerprint,
        held_until: Instant,
    ) -> Self {
        Self::new(number, id, Some(fingerprint), Some(held_until))
    }

    /// One that a transaction protects: there is no lease to lose.
    pub(crate) fn in_transaction(number: u32, id: RecordId, fingerprint: Fingerprint) -> Self {
        Self::new(number, id, Some(fingerprint), None)
    }

    /// An attempt without a record behind it; its downstream keys are its own.
    pub(crate) fn unprotected() -> Self {
        let mut id = [0; 32];
        id[..16].copy_from_slice(Token::random().as_bytes());
        Self::new(1, RecordId::from_bytes(id), None, None)
    }

    fn new(
        number: u32,
        id: RecordId,
        fingerprint: Option<Fingerprint>,
        held_until: Option<Instant>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                number,
                id,
                fingerprint,
                parent: current(),
                released: AtomicBool::new(false),
                lost: AtomicBool::new(false),
                broken: AtomicBool::new(false),
                ending: AtomicBool::new(false),
                given_up: AtomicBool::new(false),
                late_calls: AtomicBool::new(false),
                held_until: held_until.map(Mutex::new),
            }),
        }
    }

    /// The attempt's number: 1 for the first run of the record, one more after every crash.
    ///
    /// It grows with every takeover, which makes it a fencing token: a resource that remembers
    /// the highest number it has seen can refuse the writes of an attempt that was overtaken. It
    /// begins at 1 again when the key was freed or its record forgotten.
    pub fn number(&self) -> u32 {
        self.shared.number
    }

    /// Whether a record stands behind this attempt. `false` outside of a body, for a request
    /// that came without a key under `required = false`, and after a store failure under
    /// `fail_open`.
    pub fn is_protected(&self) -> bool {
        self.shared.fingerprint.is_some()
    }

    /// A key for a call to another service: the same on every attempt of this record, different for
    /// every label, record and request. A key that was freed and comes back with another request
    /// is another one downstream, too.
    ///
    /// It has the form of a UUID (36 characters), which every provider's limit admits, and
    /// reveals nothing of the client's key. Without protection it is random, per attempt.
    pub fn downstream_key(&self, label: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(b"idem downstream 2");
        hash.update(self.shared.id.as_bytes());
        if let Some(fingerprint) = &self.shared.fingerprint {
            hash.update(fingerprint.to_bytes());
        }
        hash.update(label);
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes)
            .into_uuid()
            .to_string()
    }

    /// Says that nothing happened: when the body ends, its key is freed and its outcome is
    /// not stored, whatever it returns. In a transaction it makes it true: all is rolled back.
    pub fn release(&self) {
        self.shared.released.store(true, Ordering::Release);
    }

    /// Whether this attempt can no longer be sure that it is the only one: the store said that
    /// another holds the record, or the lease could not be renewed in time.
    ///
    /// Ask before an effect that must not happen twice. The outcome of an attempt that was
    /// overtaken is not stored. In a transaction, which is the record's lock, it says whether the
    /// database was seen to have ended the transaction's session.
    pub fn lease_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Acquire)
            || self
                .held_until()
                .is_some_and(|held_until| Instant::now() >= held_until)
    }

    pub(crate) fn is_released(&self) -> bool {
        self.shared.released.load(Ordering::Acquire)
    }

    pub(crate) fn lose(&self) {
        self.shared.lost.store(true, Ordering::Release);
    }

    /// Whether this is an attempt of the record, or runs within one.
    pub(crate) fn is_within(&self, id: &RecordId) -> bool {
        let mut attempt = self;
        loop {
            if attempt.shared.id == *id {
                return true;
            }
            match &attempt.shared.parent {
                Some(parent) => attempt = parent,
                None => return false,
            }
        }
    }

    /// What its owner knows of its lease, now. A lease that was found over once may have been
    /// another's meanwhile.
    pub(crate) fn lease(&self, call: &Call, token: Token) -> Lease {
        if self.lease_lost() {
            self.shared.broken.store(true, Ordering::Release);
        }
        let unbroken = !self.shared.broken.load(Ordering::Acquire)
            && !self.shared.given_up.load(Ordering::SeqCst);
        Lease {
            id: call.id,
            token,
            fingerprint: call.fingerprint,
            attempt: self.number(),
            duration: call.policy.lease,
            retention: call.policy.ttl,
            unbroken,
        }
    }

    /// The attempt ends without an outcome.
    pub(crate) fn give_up(&self) {
        self.shared.given_up.store(true, Ordering::SeqCst);
    }

    /// A call that may create the record may arrive after the attempt's end.
    pub(crate) fn expect_late_calls(&self, expected: bool) {
        self.shared.late_calls.store(expected, Ordering::SeqCst);
    }

    pub(crate) fn may_have_late_calls(&self) -> bool {
        self.shared.late_calls.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.shared.ending.store(true, Ordering::Release);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.shared.ending.load(Ordering::Acquire)
    }

    pub(crate) fn hold_until(&self, until: Instant) {
        if let Some(held_until) = &self.shared.held_until {
            *held_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }

    pub(crate) fn held_until(&self) -> Option<Instant> {
        let held_until = self.shared.held_until.as_ref()?;
        Some(*held_until.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("number", &self.number())
            .field("is_protected", &self.is_protected())
            .field("lease_lost", &self.lease_lost())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn downstream_keys_are_equal_on_every_attempt_and_differ_by_label_record_and_request() {
        let id = |byte| RecordId::from_bytes([byte; 32]);
        let request = |byte| Fingerprint::from_bytes([byte; Fingerprint::LEN]);
        let key = |number, record, requested, label| {
            Attempt::protected(number, id(record), request(requested), Instant::now())
                .downstream_key(label)
        };
        assert_eq!(key(1, 1, 1, "charge"), key(2, 1, 1, "charge"));
        assert_ne!(key(1, 1, 1, "charge"), key(1, 1, 1, "mail"));
        assert_ne!(key(1, 1, 1, "charge"), key(1, 2, 1, "charge"));
        // A freed key that comes back with another amount.
        assert_ne!(key(1, 1, 1, "charge"), key(1, 1, 2, "charge"));
        let uuid: Uuid = key(1, 1, 1, "charge").parse().unwrap();
        assert_eq!(uuid.get_version_num(), 8);
    }

    #[test]
    fn outside_of_a_body_nothing_is_shared() {
        let here = attempt();
        assert!(!here.is_protected());
        assert!(!here.lease_lost());
        assert_eq!(here.downstream_key("a"), here.downstream_key("a"));
        assert_ne!(here.downstream_key("a"), attempt().downstream_key("a"));
    }
}
