//! Local flights: where duplicates meet inside one process.
//!
//! The first call for a record leads a flight from before its claim until its end is stored.
//! Every duplicate that arrives meanwhile joins it and causes no store traffic. When the leader
//! ends without an answer for the others, one of them leads on, and the others stay where they
//! are. A flight decides nothing: it tells what its leader knows, and [`super::begin`] judges.

use std::any::Any;
use std::collections::{HashMap, hash_map};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::Span;

use super::activity::{Activity, Ongoing};
use crate::attempt::OwnedLease;
use crate::fingerprint::Fingerprint;
use crate::observe;
use crate::record::{RecordHasher, RecordId};
use crate::store::StoreError;

const SHARDS: usize = 64;

type Shard = HashMap<RecordId, (Arc<Flight>, Ongoing), RecordHasher>;

/// All flights of an engine.
#[derive(Debug)]
pub(crate) struct Flights {
    shards: Box<[Mutex<Shard>]>,
    activity: Arc<Activity>,
}

/// What a call finds when it enters.
pub(crate) enum Entry {
    Leader(FlightGuard),
    Duplicate(Joined),
}

impl Flights {
    pub(crate) fn new(activity: Arc<Activity>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            activity,
        }
    }

    pub(crate) fn enter(self: &Arc<Self>, id: RecordId, fingerprint: Fingerprint) -> Entry {
        match self.shard(&id).entry(id) {
            hash_map::Entry::Vacant(place) => Entry::Leader(self.lead_in(place, fingerprint)),
            hash_map::Entry::Occupied(present) => {
                let (flight, _) = present.get();
                let may_lead = flight.fingerprint == fingerprint;
                if may_lead {
                    flight.successors.fetch_add(1, Ordering::Relaxed);
                }
                Entry::Duplicate(Joined {
                    flights: Arc::clone(self),
                    id,
                    flight: Arc::clone(flight),
                    may_lead,
                })
            }
        }
    }

    /// Leads a new flight. `None` where there is one.
    pub(super) fn lead(
        self: &Arc<Self>,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> Option<FlightGuard> {
        match self.shard(&id).entry(id) {
            hash_map::Entry::Vacant(place) => Some(self.lead_in(place, fingerprint)),
            hash_map::Entry::Occupied(_) => None,
        }
    }

    fn lead_in(
        self: &Arc<Self>,
        place: hash_map::VacantEntry<'_, RecordId, (Arc<Flight>, Ongoing)>,
        fingerprint: Fingerprint,
    ) -> FlightGuard {
        let id = *place.key();
        let flight = Arc::new(Flight {
            fingerprint,
            state: AtomicU8::new(CLAIMING),
            ending: OnceLock::new(),
            answered: Notify::new(),
            ended: Notify::new(),
            successors: AtomicUsize::new(0),
            held: Mutex::default(),
        });
        place.insert((Arc::clone(&flight), self.activity.begin()));
        FlightGuard {
            flights: Arc::clone(self),
            id,
            flight,
        }
    }

    /// Looks at every lease that an attempt of this engine holds.
    pub(super) fn leases(&self, mut look: impl FnMut(&Arc<OwnedLease>)) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (flight, _) in shard.values() {
                if let Some(lease) = &flight.held().lease {
                    look(lease);
                }
            }
        }
    }

    fn shard(&self, id: &RecordId) -> MutexGuard<'_, Shard> {
        // A byte that the map's own hash does not use.
        let shard = &self.shards[usize::from(id.as_bytes()[31]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader is gone, or whoever was to follow. The flight goes on with a successor, or ends.
    fn pass_on(&self, id: &RecordId, flight: &Flight, mut shard: MutexGuard<'_, Shard>) {
        let ends = flight.ending.get().is_some() || flight.successors.load(Ordering::Relaxed) == 0;
        if !ends {
            flight.state.store(VACANT, Ordering::Release);
            drop(shard);
            flight.answered.notify_waiters();
            flight.ended.notify_one();
            return;
        }
        flight.ending.get_or_init(|| Ending::Unknown);
        // Out of the map before anybody wakes, so that who looks again finds a new flight.
        let entry = shard.remove(id);
        drop(shard);
        flight.answered.notify_waiters();
        flight.ended.notify_waiters();
        drop(entry);
    }
}

/// The leader has no answer to its claim yet.
const CLAIMING: u8 = 0;
/// The store has said that an attempt with this fingerprint is running, here or in another process.
const OCCUPIED: u8 = 1;
/// Nobody leads: one who has joined is to.
const VACANT: u8 = 2;

/// One record's flight.
#[derive(Debug)]
struct Flight {
    fingerprint: Fingerprint,
    /// Becomes vacant, and is led again, under the shard's lock.
    state: AtomicU8,
    ending: OnceLock<Ending>,
    /// Notifies those who wait for the claim's answer: of it, of the end, and of a vacancy.
    answered: Notify,
    /// Notifies those who wait for the end: all of it, and one of a vacancy.
    ended: Notify,
    /// How many have joined who may lead. Changes under the shard's lock.
    successors: AtomicUsize,
    /// Changes with the leader.
    held: Mutex<Held>,
}

/// What the leader's attempt holds.
#[derive(Debug, Default)]
struct Held {
    /// For whoever renews it.
    lease: Option<Arc<OwnedLease>>,
    /// For duplicates that attach to it.
    live: Option<LiveAnswer>,
    /// For the spans of duplicates: the one that the attempt was claimed in, where somebody listens. It
    /// stays when the attempt has left an outcome.
    span: Option<Arc<Span>>,
}

/// An answer that is on its way while its attempt runs. Who shares it and who attaches to it agree on
/// its type.
#[doc(hidden)]
pub type LiveAnswer = Arc<dyn Any + Send + Sync>;

impl Flight {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a flight ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// The record is finished with this outcome.
    Outcome(Bytes),
    /// Nothing is known of the record any more: ask the store.
    Unknown,
    /// The leader was refused because another process runs an attempt.
    InFlightElsewhere,
    /// The record has another fingerprint than the flight.
    Mismatch,
    /// An attempt crashed, and is not run again.
    OutcomeUnknown { attempt: u32 },
    /// The store did not answer the claim.
    Failed(StoreError),
}

/// What is known of a flight now.
pub(crate) enum Progress<'a> {
    /// There is no answer to a claim yet.
    Claiming,
    Occupied,
    Ended(&'a Ending),
}

/// A duplicate in a flight that another call leads.
pub(crate) struct Joined {
    flights: Arc<Flights>,
    id: RecordId,
    flight: Arc<Flight>,
    /// Whether it is of the same request, and so may lead in its turn.
    may_lead: bool,
}

/// Why a duplicate waits no longer.
pub(crate) enum Woken {
    /// What it waited for has come.
    Reached,
    /// The leader has ended without an answer, and this call leads in its place.
    Leads(FlightGuard),
}

impl Joined {
    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.flight.fingerprint
    }

    pub(crate) fn progress(&self) -> Progress<'_> {
        if let Some(ending) = self.flight.ending.get() {
            return Progress::Ended(ending);
        }
        match self.flight.state.load(Ordering::Acquire) {
            OCCUPIED => Progress::Occupied,
            _ => Progress::Claiming,
        }
    }

    /// Resolves when the leader's claim has been answered.
    pub(crate) async fn answered(&mut self) -> Woken {
        let flight = Arc::clone(&self.flight);
        self.until(&flight.answered, |progress| {
            !matches!(progress, Progress::Claiming)
        })
        .await
    }

    /// Resolves when the flight has ended, or, for who attaches, when an answer is on its way.
    pub(crate) async fn ended(&mut self, attaches: bool) -> Woken {
        let flight = Arc::clone(&self.flight);
        self.until(&flight.ended, |progress| {
            matches!(progress, Progress::Ended(_)) || (attaches && flight.held().live.is_some())
        })
        .await
    }

    /// The answer that is on its way.
    pub(crate) fn live(&self) -> Option<LiveAnswer> {
        self.flight.held().live.clone()
    }

    /// Links the span of this call to the one of the attempt, where both are known.
    pub(crate) fn link(&self) {
        // Thousands may be woken at once, and the span is behind a lock.
        if !observe::somebody_listens() {
            return;
        }
        let of_attempt = self.flight.held().span.clone();
        let Some(of_attempt) = of_attempt else {
            return;
        };
        let here = Span::current();
        // One span may have both calls in it.
        if here != *of_attempt {
            here.follows_from(&*of_attempt);
        }
    }

    async fn until(&mut self, news: &Notify, reached: impl Fn(Progress<'_>) -> bool) -> Woken {
        loop {
            // Looked at before anything is registered: whoever is woken, mostly has what it waits for,
            // and of many that are woken at once none takes the lock of the others again.
            if reached(self.progress()) {
                return Woken::Reached;
            }
            let changed = news.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if reached(self.progress()) {
                return Woken::Reached;
            }
            if let Some(guard) = self.lead() {
                return Woken::Leads(guard);
            }
            changed.await;
        }
    }

    /// Leads the flight where nobody else does.
    fn lead(&mut self) -> Option<FlightGuard> {
        if !self.may_lead || self.flight.state.load(Ordering::Acquire) != VACANT {
            return None;
        }
        let _shard = self.flights.shard(&self.id);
        if self.flight.state.load(Ordering::Relaxed) != VACANT {
            return None;
        }
        self.flight.state.store(CLAIMING, Ordering::Release);
        self.flight.successors.fetch_sub(1, Ordering::Relaxed);
        self.may_lead = false;
        Some(FlightGuard {
            flights: Arc::clone(&self.flights),
            id: self.id,
            flight: Arc::clone(&self.flight),
        })
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // Where the flight has ended, nobody asks for successors any more.
        if !self.may_lead || self.flight.ending.get().is_some() {
            return;
        }
        let shard = self.flights.shard(&self.id);
        self.flight.successors.fetch_sub(1, Ordering::Relaxed);
        // It may be the one that was told.
        if self.flight.state.load(Ordering::Relaxed) == VACANT {
            self.flights.pass_on(&self.id, &self.flight, shard);
        }
    }
}

/// The leader's side. Dropped without an end it leaves the flight to one who has joined, if any has.
#[derive(Debug)]
pub(crate) struct FlightGuard {
    flights: Arc<Flights>,
    id: RecordId,
    flight: Arc<Flight>,
}

impl FlightGuard {
    /// An attempt with this flight's fingerprint is running.
    pub(crate) fn occupy(&self) {
        if self.flight.state.swap(OCCUPIED, Ordering::AcqRel) != OCCUPIED {
            self.flight.answered.notify_waiters();
        }
    }

    /// The leader holds this lease, until the flight ends or another leads.
    pub(super) fn hold(&self, lease: &Arc<OwnedLease>) {
        let span = observe::span_here();
        let mut held = self.flight.held();
        held.lease = Some(Arc::clone(lease));
        held.span = span;
    }

    /// The leader runs an attempt whose lease a database holds.
    pub(super) fn run_in_transaction(&self) {
        self.flight.held().span = observe::span_here();
    }

    /// Duplicates may attach to this answer from now on, until the flight ends or another leads.
    #[cfg(feature = "http")]
    pub(super) fn share(&self, live: LiveAnswer) {
        self.flight.held().live = Some(live);
        self.flight.ended.notify_waiters();
    }

    /// The caller has its answer, and its span is to close: an end that the store does not take can wait
    /// for hours.
    pub(super) fn unlink(&self) {
        let of_caller = self.flight.held().span.take();
        drop(of_caller);
    }

    /// Nobody attaches any more: the answer breaks off.
    pub(super) fn unshare(&self) {
        self.flight.held().live = None;
    }

    pub(crate) fn end(self, ending: Ending) {
        // The drop below sees what is set here.
        let _ = self.flight.ending.set(ending);
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        let has_outcome = matches!(self.flight.ending.get(), Some(Ending::Outcome(_)));
        let mut held = self.flight.held();
        let mut before = std::mem::take(&mut *held);
        if has_outcome {
            held.span = before.span.take();
        }
        drop(held);
        drop(before);
        let shard = self.flights.shard(&self.id);
        self.flights.pass_on(&self.id, &self.flight, shard);
    }
}
