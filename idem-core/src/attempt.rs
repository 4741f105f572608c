//! One run of a body, as the body knows it and as its owner does.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::runtime;
use tokio::time::Instant;

use crate::call::Call;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::observe::Observers;
use crate::policy::Policy;
use crate::record::{Lease, OperationName, RecordId, Token};
use crate::steps::Steps;

/// One run of a body: its number, its lease, and the keys derived from its record.
#[derive(Clone)]
pub struct Attempt(Protection);

#[derive(Clone)]
enum Protection {
    Lease(Arc<OwnedLease>),
    Other(Arc<WithoutLease>),
}

/// What an attempt is, whatever protects it.
#[derive(Debug)]
struct State {
    /// The attempt whose body has begun this one.
    parent: Option<Attempt>,
    released: AtomicBool,
    /// A call that the body made was refused.
    refused_within: AtomicBool,
    /// A step was not run or not kept.
    step_failed: AtomicBool,
    /// Another attempt may run.
    lost: AtomicBool,
    /// The body has ended: what is learnt of its lease from here on says nothing any more.
    ending: AtomicBool,
}

impl State {
    const fn new(parent: Option<Attempt>) -> Self {
        Self {
            parent,
            released: AtomicBool::new(false),
            refused_within: AtomicBool::new(false),
            step_failed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }
    }
}

/// An attempt that a transaction protects, or nothing.
struct WithoutLease {
    state: State,
    number: u32,
    /// `None` where no record stands behind the attempt.
    call: Option<Call>,
    /// What makes downstream keys where there is no record.
    salt: Option<Token>,
    deadline: Option<Instant>,
}

/// What protects an attempt from another one.
pub(crate) enum Protected<'a> {
    Lease(&'a Arc<OwnedLease>),
    Transaction,
    Nothing,
}

/// Who tells the store of finished steps.
pub(crate) trait StepKeeper: Send + Sync {
    /// What the steps of a record may take, in bytes.
    fn max_bytes(&self) -> usize;

    /// Who is told of finished steps.
    fn observers(&self) -> &Observers;

    /// The engine itself.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;

    /// Tells the store of all steps that it has not acknowledged, for as long as the lease holds.
    fn keep_steps(self: Arc<Self>, lease: Arc<OwnedLease>)
    -> BoxFuture<'static, Result<(), Error>>;
}

impl Attempt {
    pub(crate) fn protected(&self) -> Protected<'_> {
        match &self.0 {
            Protection::Lease(lease) => Protected::Lease(lease),
            Protection::Other(other) if other.call.is_some() => Protected::Transaction,
            Protection::Other(_) => Protected::Nothing,
        }
    }

    pub(crate) fn leased(lease: &Arc<OwnedLease>) -> Self {
        Self(Protection::Lease(Arc::clone(lease)))
    }

    /// One that a transaction protects.
    pub(crate) fn in_transaction(number: u32, call: &Call, parent: Option<Self>) -> Self {
        Self::without_lease(number, Some(call.clone()), parent)
    }

    /// An attempt without a record behind it; its downstream keys are its own.
    pub(crate) fn unprotected(parent: Option<Self>) -> Self {
        Self::without_lease(1, None, parent)
    }

    fn without_lease(number: u32, call: Option<Call>, parent: Option<Self>) -> Self {
        Self(Protection::Other(Arc::new(WithoutLease {
            state: State::new(parent),
            number,
            salt: call.is_none().then(Token::random),
            deadline: call.as_ref().map(|call| after(call.policy.body_limit())),
            call,
        })))
    }

    /// The attempt's number: 1 for the first run of the record, one more after every crash.
    ///
    /// It grows with every takeover, which makes it a fencing token: a resource that remembers
    /// the highest number it has seen can refuse the writes of an attempt that was overtaken. It
    /// begins at 1 again when the key was freed or its record forgotten.
    pub fn number(&self) -> u32 {
        match &self.0 {
            Protection::Lease(lease) => lease.number,
            Protection::Other(other) => other.number,
        }
    }

    /// The operation whose body runs. `None` without a record.
    pub(crate) fn operation(&self) -> Option<&str> {
        self.call().map(|call| &*call.operation)
    }

    /// Whether a record stands behind this attempt. `false` outside of a body, for a request
    /// that came without a key under `required = false`, and after a store failure under
    /// `fail_open`.
    pub fn is_protected(&self) -> bool {
        self.identity().is_some()
    }

    /// How long the body may still take before it is stopped, at its deadline. `None` where nothing
    /// stops it: outside of a body, and without protection.
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.0 {
            Protection::Lease(lease) => lease.deadline.get().copied(),
            Protection::Other(other) => other.deadline,
        }
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
        if let Some((id, fingerprint)) = self.identity() {
            hash.update(id.as_bytes());
            hash.update(fingerprint.to_bytes());
        }
        if let Protection::Other(other) = &self.0
            && let Some(salt) = &other.salt
        {
            hash.update(salt.as_bytes());
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
        self.state().released.store(true, Ordering::Release);
    }

    /// Whether this attempt can no longer be sure that it is the only one: the store said that
    /// another holds the record, or the lease could not be renewed in time.
    ///
    /// Ask before an effect that must not happen twice. The outcome of an attempt that was
    /// overtaken is not stored. In a transaction, which is the record's lock, it says whether the
    /// database was seen to have ended the transaction's session.
    pub fn lease_lost(&self) -> bool {
        match &self.0 {
            Protection::Lease(lease) => lease.is_lost(),
            Protection::Other(other) => other.state.lost.load(Ordering::Acquire),
        }
    }

    pub(crate) fn note_refusal_within(&self) {
        self.state().refused_within.store(true, Ordering::Release);
    }

    pub(crate) fn was_refused_within(&self) -> bool {
        self.state().refused_within.load(Ordering::Acquire)
    }

    pub(crate) fn note_failed_step(&self) {
        self.state().step_failed.store(true, Ordering::Release);
    }

    pub(crate) fn has_failed_step(&self) -> bool {
        self.state().step_failed.load(Ordering::Acquire)
    }

    pub(crate) fn is_released(&self) -> bool {
        self.state().released.load(Ordering::Acquire)
    }

    pub(crate) fn lose(&self) {
        self.state().lost.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.state().ending.store(true, Ordering::Release);
    }

    /// Whether this is an attempt of the record, or runs within one.
    pub(crate) fn is_within(&self, id: &RecordId) -> bool {
        let mut attempt = self;
        loop {
            if attempt.identity().is_some_and(|(own, _)| own == *id) {
                return true;
            }
            match &attempt.state().parent {
                Some(parent) => attempt = parent,
                None => return false,
            }
        }
    }

    fn state(&self) -> &State {
        match &self.0 {
            Protection::Lease(lease) => &lease.state,
            Protection::Other(other) => &other.state,
        }
    }

    fn call(&self) -> Option<&Call> {
        match &self.0 {
            Protection::Lease(lease) => Some(&lease.call),
            Protection::Other(other) => other.call.as_ref(),
        }
    }

    fn identity(&self) -> Option<(RecordId, Fingerprint)> {
        self.call().map(|call| (call.id, call.fingerprint))
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("operation", &self.operation())
            .field("number", &self.number())
            .field("is_protected", &self.is_protected())
            .field("lease_lost", &self.lease_lost())
            .finish_non_exhaustive()
    }
}

/// What an acknowledged claim says of its attempt.
pub(crate) struct Acquired {
    pub(crate) number: u32,
    pub(crate) token: Token,
    /// What the attempts before it have finished.
    pub(crate) steps: Bytes,
}

/// A lease from its acknowledged claim to its attempt's end, as this process sees it: times are of
/// this process's monotonic clock, counted from before each request was sent.
pub(crate) struct OwnedLease {
    state: State,
    pub(crate) keeper: Arc<dyn StepKeeper>,
    /// What the attempts before this one have finished.
    handed_steps: Bytes,
    steps: OnceLock<Box<Steps>>,
    pub(crate) call: Call,
    pub(crate) number: u32,
    token: Token,
    /// Until when the store has promised the lease.
    held_until: Mutex<Instant>,
    /// The lease was found over once, whatever was renewed since.
    broken: AtomicBool,
    /// The attempt ends without an outcome: nothing of it creates the record again.
    given_up: AtomicBool,
    /// A call that may create the record is on its way, or was not answered.
    late_calls: AtomicBool,
    renewal: Mutex<Renewal>,
    /// When the body is stopped, once it has begun.
    deadline: OnceLock<Instant>,
}

impl fmt::Debug for OwnedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedLease")
            .field("call", &self.call)
            .field("number", &self.number)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// Whether and when a lease is to be renewed.
#[derive(Debug, Default)]
struct Renewal {
    /// The runtime whose keeper renews it. `None`: it is not renewed.
    kept_in: Option<runtime::Id>,
    /// `None` while a renewal is on its way.
    due: Option<Instant>,
}

impl OwnedLease {
    pub(crate) fn new(
        keeper: Arc<dyn StepKeeper>,
        call: Call,
        claimed: Acquired,
        held_until: Instant,
        parent: Option<Attempt>,
    ) -> Self {
        let Acquired {
            number,
            token,
            steps,
        } = claimed;
        Self {
            state: State::new(parent),
            keeper,
            handed_steps: steps,
            steps: OnceLock::new(),
            call,
            number,
            token,
            held_until: Mutex::new(held_until),
            broken: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            late_calls: AtomicBool::new(false),
            renewal: Mutex::new(Renewal {
                kept_in: None,
                due: None,
            }),
            deadline: OnceLock::new(),
        }
    }

    /// The body begins, and is stopped then.
    pub(crate) fn begin(&self) -> Instant {
        *self
            .deadline
            .get_or_init(|| after(self.call.policy.body_limit()))
    }

    /// The steps, once one is begun.
    pub(crate) fn steps(&self) -> &Steps {
        let handed = || Box::new(Steps::handed(&self.handed_steps));
        self.steps.get_or_init(handed)
    }

    /// The names of the finished steps.
    pub(crate) fn finished_steps(&self) -> Vec<String> {
        match self.handed_steps.is_empty() && self.steps.get().is_none() {
            true => Vec::new(),
            false => self.steps().names(),
        }
    }

    /// All finished steps, as the record keeps them.
    pub(crate) fn step_bytes(&self) -> Bytes {
        match self.steps.get() {
            Some(steps) => steps.bytes(),
            None => self.handed_steps.clone(),
        }
    }

    /// Whether a step has run whose value is not kept.
    pub(crate) fn has_lost_a_step(&self) -> bool {
        self.steps.get().is_some_and(|steps| steps.has_lost_one())
    }

    /// As its owner tells the store, now. A lease that was found over once may have been another's
    /// meanwhile.
    pub(crate) fn told(&self) -> Lease {
        if self.is_lost() {
            self.broken.store(true, Ordering::Release);
        }
        let policy = &self.call.policy;
        Lease {
            id: self.call.id,
            token: self.token,
            fingerprint: self.call.fingerprint,
            attempt: self.number,
            duration: policy.lease,
            retention: policy.ttl,
            operation: OperationName::new(&self.call.operation),
            unbroken: !self.broken.load(Ordering::Acquire) && !self.given_up.load(Ordering::SeqCst),
        }
    }

    /// Whether another may hold the record.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.lost.load(Ordering::Acquire) || Instant::now() >= self.held_until()
    }

    pub(crate) fn lose(&self) {
        self.state.lost.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.state.ending.store(true, Ordering::Release);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.state.ending.load(Ordering::Acquire)
    }

    pub(crate) fn held_until(&self) -> Instant {
        *lock(&self.held_until)
    }

    pub(crate) fn hold_until(&self, until: Instant) {
        *lock(&self.held_until) = until;
    }

    /// The attempt ends without an outcome.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// A call that may create the record may arrive after the attempt's end.
    pub(crate) fn expect_late_calls(&self, expected: bool) {
        self.late_calls.store(expected, Ordering::SeqCst);
    }

    pub(crate) fn may_have_late_calls(&self) -> bool {
        self.late_calls.load(Ordering::SeqCst)
    }

    pub(crate) fn keep_in(&self, runtime: runtime::Id, due: Instant) {
        *lock(&self.renewal) = Renewal {
            kept_in: Some(runtime),
            due: Some(due),
        };
    }

    pub(crate) fn stop_renewing(&self) {
        *lock(&self.renewal) = Renewal::default();
    }

    pub(crate) fn is_kept_in(&self, runtime: runtime::Id) -> bool {
        lock(&self.renewal).kept_in == Some(runtime)
    }

    pub(crate) fn renewal_due(&self) -> Option<Instant> {
        lock(&self.renewal).due
    }

    /// Whether it is to be renewed before then. If so, nobody else is told so until the renewal
    /// [has been answered](Self::renew_again_at).
    pub(crate) fn take_renewal(&self, before: Instant) -> bool {
        let mut renewal = lock(&self.renewal);
        renewal.due.take_if(|due| *due <= before).is_some()
    }

    pub(crate) fn renew_again_at(&self, due: Instant) {
        let mut renewal = lock(&self.renewal);
        if renewal.kept_in.is_some() {
            renewal.due = Some(due);
        }
    }
}

/// As far from now as clocks can count.
pub(crate) fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time.min(Policy::MAX)).unwrap_or(now)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            let call = Call {
                operation: "charges".into(),
                policy: Policy::new(Duration::from_secs(60)),
                id: id(record),
                flight_key: id(record),
                fingerprint: request(requested),
                attaches: false,
            };
            Attempt::in_transaction(number, &call, None).downstream_key(label)
        };
        assert_eq!(key(1, 1, 1, "charge"), key(2, 1, 1, "charge"));
        assert_ne!(key(1, 1, 1, "charge"), key(1, 1, 1, "mail"));
        assert_ne!(key(1, 1, 1, "charge"), key(1, 2, 1, "charge"));
        // A freed key that comes back with another amount.
        assert_ne!(key(1, 1, 1, "charge"), key(1, 1, 2, "charge"));
        let uuid: Uuid = key(1, 1, 1, "charge").parse().unwrap();
        assert_eq!(uuid.get_version_num(), 8);
    }
}
