//! Priority. A permit is the right to use one of a fixed number of connections.
//!
//! Lease holders go before all other calls, and renewals before all else: a claim that waits is refused at
//! worst, but if a renewal waits too long, its body runs a second time. Some permits are never given to
//! other calls, so that their statements, however long they take, do not block lease holders. The queue
//! of the other calls is bounded: when it is full, the next call fails at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use idem_core::StoreError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::errors::WaitedTooLong;

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Renewing a lease.
    Renewal,
    /// Ending an attempt.
    End,
    /// Everything else.
    Other,
}

pub(crate) struct Gate {
    state: Mutex<State>,
    max_others: usize,
    max_waiting: usize,
}

#[derive(Default)]
struct State {
    free: usize,
    /// Permits that other calls have.
    others: usize,
    /// The calls that wait, by lane, in the order of arrival.
    queues: [BTreeMap<u64, oneshot::Sender<Permit>>; 3],
    next_number: u64,
}

/// The queue of the other calls is full.
#[derive(Debug)]
pub(crate) struct QueueFull;

impl Gate {
    /// A gate with this many permits, of which other calls have at most `max_others`. At most
    /// `max_waiting` other calls wait.
    pub(crate) fn new(permits: usize, max_others: usize, max_waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: permits,
                ..State::default()
            }),
            max_others,
            max_waiting,
        })
    }

    /// Waits for a permit, and says until when its call may take. The time of a lease holder's call begins
    /// with its permit: its caller bounds the wait, which takes nothing from its statement. Other calls are
    /// given up in the queue while there is time left for an answer.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        store: &'static str,
        lane: Lane,
        timeout: Duration,
    ) -> Result<(Permit, Instant), StoreError> {
        let arrived = Instant::now();
        let permit = self.acquire(lane);
        let permit = match lane {
            Lane::Other => {
                let in_queue = deadline(arrived, timeout * 3 / 4);
                let permit = timeout_at(in_queue, permit).await;
                permit.map_err(|_| StoreError::not_sent(store, WaitedTooLong))?
            }
            Lane::Renewal | Lane::End => permit.await,
        };
        let permit = permit.map_err(|_| StoreError::Overloaded { store })?;
        let began = match lane {
            Lane::Other => arrived,
            Lane::Renewal | Lane::End => Instant::now(),
        };
        Ok((permit, deadline(began, timeout)))
    }

    /// Waits for a permit.
    pub(crate) async fn acquire(self: &Arc<Self>, lane: Lane) -> Result<Permit, QueueFull> {
        let mut waiting = {
            let mut state = self.state();
            if state.is_next(lane, self.max_others) {
                state.take(lane);
                return Ok(self.new_permit(lane));
            }
            let queue = &mut state.queues[lane as usize];
            if lane == Lane::Other && queue.len() >= self.max_waiting {
                return Err(QueueFull);
            }
            let (given, permit) = oneshot::channel();
            let number = state.next_number;
            state.next_number += 1;
            state.queues[lane as usize].insert(number, given);
            QueuedCall {
                gate: self,
                lane,
                number,
                permit,
            }
        };
        // The gate lives, and drops no call in its queues.
        (&mut waiting.permit).await.map_err(|_| QueueFull)
    }

    /// A permit, if one is free and no lease holder waits for it.
    #[cfg(feature = "postgres")]
    pub(crate) fn try_acquire_free(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state();
        state.is_next(Lane::End, self.max_others).then(|| {
            state.take(Lane::End);
            self.new_permit(Lane::End)
        })
    }

    fn new_permit(self: &Arc<Self>, lane: Lane) -> Permit {
        Permit {
            gate: Some(Arc::clone(self)),
            lane,
        }
    }

    fn release(self: &Arc<Self>, lane: Lane) {
        let mut state = self.state();
        state.put_back(lane);
        while let Some((lane, waiter)) = state.next(self.max_others) {
            state.take(lane);
            if let Err(mut unclaimed) = waiter.send(self.new_permit(lane)) {
                // The caller has gone. Dropping the permit would release it a second time.
                unclaimed.gate = None;
                state.put_back(lane);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const LANES: [Lane; 3] = [Lane::Renewal, Lane::End, Lane::Other];

    /// Whether a call that arrives now gets a permit at once.
    fn is_next(&self, lane: Lane, max_others: usize) -> bool {
        let none_before = self.queues[..=lane as usize].iter().all(BTreeMap::is_empty);
        self.free > 0 && none_before && (lane != Lane::Other || self.others < max_others)
    }

    fn next(&mut self, max_others: usize) -> Option<(Lane, oneshot::Sender<Permit>)> {
        if self.free == 0 {
            return None;
        }
        for lane in Self::LANES {
            if lane == Lane::Other && self.others >= max_others {
                return None;
            }
            if let Some((_, waiter)) = self.queues[lane as usize].pop_first() {
                return Some((lane, waiter));
            }
        }
        None
    }

    fn take(&mut self, lane: Lane) {
        self.free -= 1;
        self.others += usize::from(lane == Lane::Other);
    }

    fn put_back(&mut self, lane: Lane) {
        self.free += 1;
        self.others -= usize::from(lane == Lane::Other);
    }
}

/// The time after `then`, as far as clocks can count.
pub(crate) fn deadline(then: Instant, time: Duration) -> Instant {
    then.checked_add(time)
        .unwrap_or_else(|| then + Duration::from_secs(u32::MAX.into()))
}

/// The right to use a connection, until it is dropped.
pub(crate) struct Permit {
    gate: Option<Arc<Gate>>,
    lane: Lane,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.release(self.lane);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.lane).finish()
    }
}

/// A call in a queue. Dropping it leaves the queue.
struct QueuedCall<'a> {
    gate: &'a Gate,
    lane: Lane,
    number: u64,
    permit: oneshot::Receiver<Permit>,
}

impl Drop for QueuedCall<'_> {
    fn drop(&mut self) {
        let given = self.gate.state().queues[self.lane as usize].remove(&self.number);
        drop(given);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;

    type Acquiring = BoxFuture<'static, Result<Permit, QueueFull>>;

    /// Acquires, and waits in the queue.
    fn waits(gate: &Arc<Gate>, lane: Lane) -> Acquiring {
        let gate = Arc::clone(gate);
        let mut acquiring = async move { gate.acquire(lane).await }.boxed();
        assert!((&mut acquiring).now_or_never().is_none(), "it has to wait");
        acquiring
    }

    fn given(acquiring: &mut Acquiring) -> Option<Permit> {
        acquiring.now_or_never().map(Result::unwrap)
    }

    fn acquire(gate: &Arc<Gate>, lane: Lane) -> Permit {
        gate.acquire(lane).now_or_never().unwrap().unwrap()
    }

    #[test]
    fn renewals_go_before_ends_and_both_before_others() {
        let gate = Gate::new(1, 1, 10);
        let first = acquire(&gate, Lane::Other);
        let mut other = waits(&gate, Lane::Other);
        let mut end = waits(&gate, Lane::End);
        let mut renewal = waits(&gate, Lane::Renewal);
        drop(first);
        assert!(given(&mut other).is_none() && given(&mut end).is_none());
        drop(given(&mut renewal).unwrap());
        assert!(given(&mut other).is_none());
        drop(given(&mut end).unwrap());
        drop(given(&mut other).unwrap());
    }

    #[test]
    fn other_calls_leave_some_permits_to_lease_holders() {
        let gate = Gate::new(3, 2, 10);
        let others = [acquire(&gate, Lane::Other), acquire(&gate, Lane::Other)];
        let mut third = waits(&gate, Lane::Other);
        let holder = acquire(&gate, Lane::End);
        drop(holder);
        assert!(
            given(&mut third).is_none(),
            "this permit is for lease holders"
        );
        // Lease holders may have all permits.
        drop(others);
        let third = given(&mut third).unwrap();
        let holders = [acquire(&gate, Lane::Renewal), acquire(&gate, Lane::End)];
        let mut late = waits(&gate, Lane::Renewal);
        drop(third);
        assert!(given(&mut late).is_some());
        drop(holders);
    }

    #[test]
    fn a_full_queue_fails_other_calls_at_once_and_no_others() {
        let gate = Gate::new(1, 1, 2);
        let first = acquire(&gate, Lane::Other);
        let mut waiting = [waits(&gate, Lane::Other), waits(&gate, Lane::Other)];
        for _ in 0..3 {
            assert!(gate.acquire(Lane::Other).now_or_never().unwrap().is_err());
        }
        let mut holders: Vec<_> = (0..100).map(|_| waits(&gate, Lane::End)).collect();
        drop(first);
        for holder in &mut holders {
            drop(given(holder).unwrap());
        }
        for other in &mut waiting {
            drop(given(other).unwrap());
        }
    }

    #[test]
    fn a_call_that_leaves_the_queue_makes_room_and_takes_no_permit_along() {
        let gate = Gate::new(1, 1, 1);
        let first = acquire(&gate, Lane::Other);
        drop(waits(&gate, Lane::Other));
        let mut second = waits(&gate, Lane::Other);
        let leaves = waits(&gate, Lane::Renewal);
        // The permit is given, and never taken.
        drop(first);
        drop(leaves);
        let second = given(&mut second).unwrap();
        drop(second);
        assert_eq!(gate.state().free, 1);
        assert_eq!(gate.state().others, 0);
    }
}
