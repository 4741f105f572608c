//! Local flights: where duplicates meet inside one process.
//!
//! The first call for a record leads a flight from before its claim until its end is stored.
//! Every duplicate that arrives meanwhile joins it and causes no store traffic. A flight
//! decides nothing: it tells what its leader knows, and [`super::begin`] judges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::fingerprint::Fingerprint;
use crate::record::{RecordHasher, RecordId};
use crate::store::StoreError;

const SHARDS: usize = 64;

type Shard = HashMap<RecordId, Arc<Flight>, RecordHasher>;

/// All flights of an engine.
#[derive(Debug)]
pub(crate) struct Flights {
    shards: Box<[Mutex<Shard>]>,
    /// Notified whenever a flight has ended.
    ended: Notify,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            ended: Notify::new(),
        }
    }
}

/// What a call finds when it enters.
pub(crate) enum Entry {
    Leader(FlightGuard),
    Duplicate(Arc<Flight>),
}

impl Flights {
    pub(crate) fn enter(self: &Arc<Self>, id: RecordId, fingerprint: Fingerprint) -> Entry {
        let mut shard = self.shard(&id);
        if let Some(flight) = shard.get(&id) {
            return Entry::Duplicate(Arc::clone(flight));
        }
        let flight = Arc::new(Flight {
            fingerprint,
            occupied: OnceLock::new(),
            ending: OnceLock::new(),
            changed: Notify::new(),
        });
        shard.insert(id, Arc::clone(&flight));
        Entry::Leader(FlightGuard {
            flights: Arc::clone(self),
            id,
            flight,
        })
    }

    /// Resolves when no flight is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.shards.iter().all(|shard| lock(shard).is_empty()) {
                return;
            }
            ended.await;
        }
    }

    fn shard(&self, id: &RecordId) -> MutexGuard<'_, Shard> {
        // A byte that the map's own hash does not use.
        lock(&self.shards[usize::from(id.as_bytes()[31]) % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One record's flight.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) fingerprint: Fingerprint,
    /// Set when the store has said that an attempt with this fingerprint is running, here or
    /// in another process.
    occupied: OnceLock<()>,
    ending: OnceLock<Ending>,
    changed: Notify,
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
    /// The leader has no answer to its claim yet.
    Claiming,
    Occupied,
    Ended(&'a Ending),
}

impl Flight {
    pub(crate) fn progress(&self) -> Progress<'_> {
        match (self.ending.get(), self.occupied.get()) {
            (Some(ending), _) => Progress::Ended(ending),
            (None, Some(())) => Progress::Occupied,
            (None, None) => Progress::Claiming,
        }
    }

    /// Resolves when the leader's claim has been answered.
    pub(crate) async fn answered(&self) {
        self.until(|progress| !matches!(progress, Progress::Claiming))
            .await;
    }

    /// Resolves when the flight has ended.
    pub(crate) async fn ended(&self) {
        self.until(|progress| matches!(progress, Progress::Ended(_)))
            .await;
    }

    async fn until(&self, reached: impl Fn(Progress<'_>) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if reached(self.progress()) {
                return;
            }
            changed.await;
        }
    }
}

/// The leader's side. Dropped without an end, the flight ends as [`Ending::Unknown`].
#[derive(Debug)]
pub(crate) struct FlightGuard {
    flights: Arc<Flights>,
    id: RecordId,
    flight: Arc<Flight>,
}

impl FlightGuard {
    /// An attempt with this flight's fingerprint is running.
    pub(crate) fn occupy(&self) {
        if self.flight.occupied.set(()).is_ok() {
            self.flight.changed.notify_waiters();
        }
    }

    pub(crate) fn end(self, ending: Ending) {
        // The drop below sets what is not set here.
        let _ = self.flight.ending.set(ending);
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        self.flight.ending.get_or_init(|| Ending::Unknown);
        // Out of the map before anybody wakes, so that who looks again finds a new flight.
        self.flights.shard(&self.id).remove(&self.id);
        self.flight.changed.notify_waiters();
        self.flights.ended.notify_waiters();
    }
}
