//! Who goes first. A turn is the right to use one of so many connections.
//!
//! Those who hold a lease go before all others, and renewals before all else: a claim that waits is
//! refused at worst, and a renewal that waits too long has its body run a second time. Some turns
//! are never given to others, so that their statements, however long they take, do not keep holders
//! waiting. The line of the others is bounded: who comes when it is full is told so at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// A lease that runs out.
    Renewal,
    /// The end of an attempt.
    End,
    /// Everything else.
    Other,
}

pub(super) struct Gate {
    state: Mutex<State>,
    max_others: usize,
    max_waiting: usize,
}

#[derive(Default)]
struct State {
    free: usize,
    /// Turns that others have.
    others: usize,
    /// Who waits, in the order of coming.
    lines: [BTreeMap<u64, oneshot::Sender<Turn>>; 3],
    next_number: u64,
}

/// As many calls wait as may.
#[derive(Debug)]
pub(super) struct LineIsFull;

impl Gate {
    /// `turns` in all, of which others have so many at once at most, and so many others wait.
    pub(super) fn new(turns: usize, max_others: usize, max_waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: turns,
                ..State::default()
            }),
            max_others,
            max_waiting,
        })
    }

    /// Waits for a turn.
    pub(super) async fn turn(self: &Arc<Self>, lane: Lane) -> Result<Turn, LineIsFull> {
        let mut waiting = {
            let mut state = self.state();
            if state.is_next(lane, self.max_others) {
                state.take(lane);
                return Ok(self.turn_of(lane));
            }
            let line = &mut state.lines[lane as usize];
            if lane == Lane::Other && line.len() >= self.max_waiting {
                return Err(LineIsFull);
            }
            let (given, turn) = oneshot::channel();
            let number = state.next_number;
            state.next_number += 1;
            state.lines[lane as usize].insert(number, given);
            Waiting {
                gate: self,
                lane,
                number,
                turn,
            }
        };
        // The gate lives, and drops no one in its lines.
        (&mut waiting.turn).await.map_err(|_| LineIsFull)
    }

    /// A turn that nobody else is waiting for, if there is one.
    pub(super) fn free_turn(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state();
        state.is_next(Lane::End, self.max_others).then(|| {
            state.take(Lane::End);
            self.turn_of(Lane::End)
        })
    }

    fn turn_of(self: &Arc<Self>, lane: Lane) -> Turn {
        Turn {
            gate: Some(Arc::clone(self)),
            lane,
        }
    }

    fn give_back(self: &Arc<Self>, lane: Lane) {
        let mut state = self.state();
        state.put_back(lane);
        while let Some((lane, waiter)) = state.next(self.max_others) {
            state.take(lane);
            if let Err(mut unclaimed) = waiter.send(self.turn_of(lane)) {
                // Who waited has gone; dropped, it would come here again.
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

    /// Whether who comes now has a turn at once.
    fn is_next(&self, lane: Lane, max_others: usize) -> bool {
        let none_before = self.lines[..=lane as usize].iter().all(BTreeMap::is_empty);
        self.free > 0 && none_before && (lane != Lane::Other || self.others < max_others)
    }

    fn next(&mut self, max_others: usize) -> Option<(Lane, oneshot::Sender<Turn>)> {
        if self.free == 0 {
            return None;
        }
        for lane in Self::LANES {
            if lane == Lane::Other && self.others >= max_others {
                return None;
            }
            if let Some((_, waiter)) = self.lines[lane as usize].pop_first() {
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

/// The right to use a connection, until it is dropped.
pub(super) struct Turn {
    gate: Option<Arc<Gate>>,
    lane: Lane,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.give_back(self.lane);
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turn").field(&self.lane).finish()
    }
}

/// One in a line. Dropped, it leaves it.
struct Waiting<'a> {
    gate: &'a Gate,
    lane: Lane,
    number: u64,
    turn: oneshot::Receiver<Turn>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let given = self.gate.state().lines[self.lane as usize].remove(&self.number);
        drop(given);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;

    type Asked = BoxFuture<'static, Result<Turn, LineIsFull>>;

    /// Asks, and stands in line.
    fn asks(gate: &Arc<Gate>, lane: Lane) -> Asked {
        let gate = Arc::clone(gate);
        let mut asked = async move { gate.turn(lane).await }.boxed();
        assert!((&mut asked).now_or_never().is_none(), "it has to wait");
        asked
    }

    fn given(asked: &mut Asked) -> Option<Turn> {
        asked.now_or_never().map(Result::unwrap)
    }

    fn turn(gate: &Arc<Gate>, lane: Lane) -> Turn {
        gate.turn(lane).now_or_never().unwrap().unwrap()
    }

    #[test]
    fn renewals_go_before_ends_and_both_before_others() {
        let gate = Gate::new(1, 1, 10);
        let first = turn(&gate, Lane::Other);
        let mut other = asks(&gate, Lane::Other);
        let mut end = asks(&gate, Lane::End);
        let mut renewal = asks(&gate, Lane::Renewal);
        drop(first);
        assert!(given(&mut other).is_none() && given(&mut end).is_none());
        drop(given(&mut renewal).unwrap());
        assert!(given(&mut other).is_none());
        drop(given(&mut end).unwrap());
        drop(given(&mut other).unwrap());
    }

    #[test]
    fn others_leave_some_turns_to_holders() {
        let gate = Gate::new(3, 2, 10);
        let others = [turn(&gate, Lane::Other), turn(&gate, Lane::Other)];
        let mut third = asks(&gate, Lane::Other);
        let holder = turn(&gate, Lane::End);
        drop(holder);
        assert!(given(&mut third).is_none(), "a holder's turn is no other's");
        // Holders may have them all.
        drop(others);
        let third = given(&mut third).unwrap();
        let holders = [turn(&gate, Lane::Renewal), turn(&gate, Lane::End)];
        let mut late = asks(&gate, Lane::Renewal);
        drop(third);
        assert!(given(&mut late).is_some());
        drop(holders);
    }

    #[test]
    fn a_full_line_is_said_at_once_and_only_to_others() {
        let gate = Gate::new(1, 1, 2);
        let first = turn(&gate, Lane::Other);
        let mut waiting = [asks(&gate, Lane::Other), asks(&gate, Lane::Other)];
        for _ in 0..3 {
            assert!(gate.turn(Lane::Other).now_or_never().unwrap().is_err());
        }
        let mut holders: Vec<_> = (0..100).map(|_| asks(&gate, Lane::End)).collect();
        drop(first);
        for holder in &mut holders {
            drop(given(holder).unwrap());
        }
        for other in &mut waiting {
            drop(given(other).unwrap());
        }
    }

    #[test]
    fn who_leaves_makes_room_and_takes_no_turn_along() {
        let gate = Gate::new(1, 1, 1);
        let first = turn(&gate, Lane::Other);
        drop(asks(&gate, Lane::Other));
        let mut second = asks(&gate, Lane::Other);
        let leaves = asks(&gate, Lane::Renewal);
        // Given, and never taken.
        drop(first);
        drop(leaves);
        let second = given(&mut second).unwrap();
        drop(second);
        assert_eq!(gate.state().free, 1);
        assert_eq!(gate.state().others, 0);
    }
}
