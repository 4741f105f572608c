//! A store that fails on demand, for tests of what stands above a store.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), idem_core::StoreError> {
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use idem_core::conformance::ReferenceStore;
//! use idem_core::conformance::faults::{Fault, FaultyStore, Method};
//! use idem_core::{Claim, Claimed, Fingerprint, Lease, RecordId, Store};
//!
//! let store = FaultyStore::new(Arc::new(ReferenceStore::default()));
//! let claim = Claim::new(
//!     RecordId::from_bytes([7; 32]),
//!     Fingerprint::from_bytes([1; Fingerprint::LEN]),
//!     Duration::from_secs(30),
//!     Duration::from_secs(3600),
//! );
//!
//! // The claim takes effect, and its caller never learns of it.
//! store.fail(Method::Claim, 1, Fault::LoseAnswer);
//! assert!(store.claim(&claim).await.is_err());
//! // Sent again, it recognises itself.
//! assert_eq!(store.claim(&claim).await?, Claimed::acquired(1));
//! assert_eq!(store.calls(Method::Claim), 2);
//!
//! // A completion is on its way when the owner releases: the order is the test's to choose.
//! let gate = store.hold(Method::Complete);
//! let completion = tokio::spawn({
//!     let store = store.clone();
//!     let mut lease = Lease::of(&claim, 1);
//!     lease.unbroken = false; // it would be created again
//!     async move { store.complete(&lease, "done".into()).await }
//! });
//! gate.arrived(1).await;
//! assert_eq!(store.release(&claim.id, &claim.token).await?, idem_core::Change::Applied);
//! gate.open();
//! assert_eq!(completion.await.unwrap()?, idem_core::Change::LeaseLost);
//! # Ok(())
//! # }
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use crate::listing::{Forgotten, Listing, Page, Seen};
use crate::maintenance::{Finding, Swept};
use crate::record::{Change, Claim, Claimed, Inspection, Lease, RecordId, Token};
use crate::store::{Maintenance, Store, StoreError, Watch};

/// A method of [`Store`] that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// [`Store::claim`].
    Claim,
    /// [`Store::renew`].
    Renew,
    /// [`Store::complete`].
    Complete,
    /// [`Store::release`].
    Release,
    /// [`Store::abandon`].
    Abandon,
    /// [`Store::inspect`].
    Inspect,
    /// [`Store::watch`].
    Watch,
    /// [`Store::checkpoint`].
    Checkpoint,
    /// [`Store::suspend`].
    Suspend,
    /// [`Store::list`].
    List,
    /// [`Store::forget`] and [`Maintenance::forget_seen`].
    Forget,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 11] = [
        Self::Claim,
        Self::Renew,
        Self::Complete,
        Self::Release,
        Self::Abandon,
        Self::Inspect,
        Self::Watch,
        Self::Checkpoint,
        Self::Suspend,
        Self::List,
        Self::Forget,
    ];
}

/// What befalls a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It does not reach the store, and answers [`StoreError::Unavailable`].
    Unavailable,
    /// It does not reach the store, and answers this error.
    Error(StoreError),
    /// It takes effect, and answers [`StoreError::Unavailable`].
    LoseAnswer,
    /// It does not reach the store, and never answers.
    Hang,
    /// It takes effect, and never answers.
    HangAfterEffect,
    /// It answers [`StoreError::Unavailable`], and takes effect when the test
    /// [delivers](FaultyStore::deliver_late) it: after calls that were made later.
    Late,
}

/// A store that passes every call on to another one, unless the test says otherwise. Clones
/// share their faults and counts, so that a test keeps one and gives one away.
///
/// A call is counted, waits at its method's gate if there is [one](Self::hold), takes its
/// fault, and reaches the store, in this order: what befalls a call that is held may be said
/// while it is. Calls that wait or hang may be dropped at any time; one dropped at a gate has
/// had no effect.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    script: Arc<[Script; Method::ALL.len()]>,
    late: Arc<Mutex<Vec<Late>>>,
}

/// A call that is still on its way.
type Late = BoxFuture<'static, ()>;

/// What is to befall the calls of one method.
#[derive(Debug, Default)]
struct Script {
    calls: watch::Sender<u64>,
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    next: VecDeque<Fault>,
    always: Option<Fault>,
    gate: Option<Arc<Barrier>>,
}

impl Script {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_fault(&self) -> Option<Fault> {
        let mut plan = self.plan();
        plan.next.pop_front().or_else(|| plan.always.clone())
    }
}

impl FaultyStore {
    /// A store that does not fail yet.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            script: Arc::default(),
            late: Arc::default(),
        }
    }

    /// How many calls of `method` were made, whatever befell them. One trip to the store each.
    pub fn calls(&self, method: Method) -> u64 {
        *self.of(method).calls.borrow()
    }

    /// How many calls of all methods were made.
    pub fn all_calls(&self) -> u64 {
        Method::ALL.iter().map(|method| self.calls(*method)).sum()
    }

    /// Resolves when at least `calls` calls of `method` were made since the store was built.
    pub async fn called(&self, method: Method, calls: u64) {
        let mut made = self.of(method).calls.subscribe();
        // The sender lives as long as `self`.
        let _ = made.wait_for(|made| *made >= calls).await;
    }

    /// Lets `fault` befall the next `times` calls of `method`, after those that an earlier
    /// `fail` has set aside.
    pub fn fail(&self, method: Method, times: usize, fault: Fault) {
        let faults = std::iter::repeat_n(fault, times);
        self.of(method).plan().next.extend(faults);
    }

    /// Lets `fault` befall every call of `method`, until [`heal`](Self::heal). What
    /// [`fail`](Self::fail) has set aside comes first.
    pub fn fail_always(&self, method: Method, fault: Fault) {
        self.of(method).plan().always = Some(fault);
    }

    /// Lets `fault` befall every call of every method: an outage.
    pub fn fail_everything(&self, fault: &Fault) {
        for method in Method::ALL {
            self.fail_always(method, fault.clone());
        }
    }

    /// Forgets the faults of `method`. Calls that hang already go on hanging, and a gate stays.
    pub fn heal(&self, method: Method) {
        let mut plan = self.of(method).plan();
        plan.next.clear();
        plan.always = None;
    }

    /// Forgets the faults of every method.
    pub fn heal_everything(&self) {
        for method in Method::ALL {
            self.heal(method);
        }
    }

    /// Puts a gate before `method`, shut: calls wait there, without effect, until it opens. A
    /// gate put there before keeps the calls that wait at it.
    pub fn hold(&self, method: Method) -> Gate {
        let barrier = Arc::new(Barrier::default());
        self.of(method).plan().gate = Some(Arc::clone(&barrier));
        Gate(barrier)
    }

    fn of(&self, method: Method) -> &Script {
        &self.script[method as usize]
    }

    /// Lets the calls that are [late](Fault::Late) take effect now, in the order in which they were
    /// made, and says how many they were. Nobody learns of their answers.
    pub async fn deliver_late(&self) -> usize {
        let late = std::mem::take(&mut *self.late());
        let calls = late.len();
        for call in late {
            call.await;
        }
        calls
    }

    fn late(&self) -> MutexGuard<'_, Vec<Late>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `call` makes the call, of the store that it is given.
    async fn call<T: Send + 'static>(
        &self,
        method: Method,
        call: impl FnOnce(Arc<dyn Store>) -> BoxFuture<'static, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let script = self.of(method);
        let call = call(Arc::clone(&self.inner));
        script.calls.send_modify(|calls| *calls += 1);
        let gate = script.plan().gate.clone();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        match script.take_fault() {
            None => call.await,
            Some(Fault::Unavailable) => Err(self.unavailable()),
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::Hang) => pending().await,
            Some(Fault::LoseAnswer) => match call.await {
                Ok(_) => Err(self.unavailable()),
                Err(error) => Err(error),
            },
            Some(Fault::HangAfterEffect) => {
                let _ = call.await;
                pending().await
            }
            Some(Fault::Late) => {
                self.late().push(call.map(drop).boxed());
                Err(self.unavailable())
            }
        }
    }

    fn unavailable(&self) -> StoreError {
        StoreError::unavailable(self.inner.name(), Injected)
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore")
            .field("inner", &self.inner.name())
            .field("script", &self.script)
            .finish()
    }
}

#[async_trait]
impl Store for FaultyStore {
    /// The name of the store inside.
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    /// That of the store inside. Of its calls only [`Maintenance::forget_seen`] takes faults, as
    /// [`Method::Forget`].
    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.inner.maintenance().map(|_| self as &dyn Maintenance)
    }

    fn max_outcome_bytes(&self) -> Option<usize> {
        self.inner.max_outcome_bytes()
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let claim = *claim;
        self.call(Method::Claim, move |store| {
            async move { store.claim(&claim).await }.boxed()
        })
        .await
    }

    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError> {
        let lease = *lease;
        self.call(Method::Renew, move |store| {
            async move { store.renew(&lease).await }.boxed()
        })
        .await
    }

    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError> {
        let lease = *lease;
        self.call(Method::Complete, move |store| {
            async move { store.complete(&lease, outcome).await }.boxed()
        })
        .await
    }

    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let (id, token) = (*id, *token);
        self.call(Method::Release, move |store| {
            async move { store.release(&id, &token).await }.boxed()
        })
        .await
    }

    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let (id, token) = (*id, *token);
        self.call(Method::Abandon, move |store| {
            async move { store.abandon(&id, &token).await }.boxed()
        })
        .await
    }

    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let id = *id;
        self.call(Method::Inspect, move |store| {
            async move { store.inspect(&id).await }.boxed()
        })
        .await
    }

    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError> {
        let id = *id;
        self.call(Method::Watch, move |store| {
            async move { store.watch(&id).await }.boxed()
        })
        .await
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError> {
        let lease = *lease;
        self.call(Method::Checkpoint, move |store| {
            async move { store.checkpoint(&lease, at, steps).await }.boxed()
        })
        .await
    }

    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError> {
        let (id, token) = (*id, *token);
        self.call(Method::Suspend, move |store| {
            async move { store.suspend(&id, &token).await }.boxed()
        })
        .await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        let listing = listing.clone();
        self.call(Method::List, move |store| {
            async move { store.list(&listing).await }.boxed()
        })
        .await
    }

    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError> {
        let id = *id;
        self.call(Method::Forget, move |store| {
            async move { store.forget(&id).await }.boxed()
        })
        .await
    }
}

impl FaultyStore {
    fn operated(&self) -> Result<&dyn Maintenance, StoreError> {
        offered(&*self.inner)
    }
}

fn offered(store: &dyn Store) -> Result<&dyn Maintenance, StoreError> {
    let refused = || StoreError::rejected(store.name(), NotOffered);
    store.maintenance().ok_or_else(refused)
}

#[async_trait]
impl Maintenance for FaultyStore {
    async fn time(&self) -> Result<SystemTime, StoreError> {
        self.operated()?.time().await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.operated()?.examine().await
    }

    async fn sweep(&self, max_records: u32) -> Result<Swept, StoreError> {
        self.operated()?.sweep(max_records).await
    }

    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError> {
        self.operated()?.revoke(id, attempt).await
    }

    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError> {
        let id = *id;
        self.call(Method::Forget, move |store| {
            async move { offered(&*store)?.forget_seen(&id, seen).await }.boxed()
        })
        .await
    }
}

/// A shut gate before a method, made by [`FaultyStore::hold`]. Dropped, it opens.
#[derive(Debug)]
#[must_use = "a gate opens when it is dropped"]
pub struct Gate(Arc<Barrier>);

impl Gate {
    /// Resolves when at least `calls` calls wait at the gate.
    pub async fn arrived(&self, calls: usize) {
        let mut waiting = self.0.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|waiting| *waiting >= calls).await;
    }

    /// Lets `calls` calls through, those that wait first, in the order in which they came.
    pub fn admit(&self, calls: usize) {
        self.0.permits.add_permits(calls);
    }

    /// Lets everybody through from now on.
    pub fn open(self) {
        drop(self);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.permits.close();
    }
}

#[derive(Debug)]
struct Barrier {
    /// Closed when the gate is open.
    permits: Semaphore,
    waiting: watch::Sender<usize>,
}

impl Default for Barrier {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(0),
            waiting: watch::Sender::default(),
        }
    }
}

impl Barrier {
    async fn pass(&self) {
        let _waiting = Waiting::new(&self.waiting);
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
    }
}

/// One caller at a gate, until it goes on or is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

#[derive(Debug)]
struct Injected;

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the test asked for this fault")
    }
}

impl std::error::Error for Injected {}

#[derive(Debug)]
struct NotOffered;

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store takes no orders of operators")
    }
}

impl std::error::Error for NotOffered {}
