//! The calls of one connection: what is to be sent, who waits for which reply, and until when.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use redis::{RedisError, Value};
use tokio::runtime::Id;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A larger buffer is given back when it is empty.
pub(super) const KEPT_BUFFER: usize = 64 * 1024;

/// The calls of one connection.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<usize>,
    /// What the transport has not taken yet, and whose it is, with its length.
    pub(super) unsent: Vec<u8>,
    pub(super) unsent_calls: Vec<(usize, usize)>,
    /// How much of it nobody waits for.
    pub(super) withdrawn: usize,
    /// Those who get the next replies, in this order.
    pub(super) sent: VecDeque<usize>,
    /// The transport, if it waits for calls.
    pub(super) transport: Option<Waker>,
    pub(super) watches: Vec<Watch>,
    pub(super) ended: Option<RedisError>,
}

pub(super) struct Slot {
    pub(super) state: SlotState,
    pub(super) deadline: Instant,
    pub(super) runtime: Id,
    pub(super) is_overdue: bool,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Stage {
    Unsent {
        length: usize,
    },
    /// A reply is expected.
    Sent,
    /// There is a reply, or none will come.
    Over,
}

pub(super) enum SlotState {
    Waiting(Option<Waker>),
    Answered(Result<Value, RedisError>),
    /// Nobody waits, and a reply may come.
    Left,
    Free,
}

/// Who looks after the deadlines of one runtime's calls.
pub(super) struct Watch {
    pub(super) runtime: Id,
    pub(super) looks_at: Instant,
    pub(super) sooner: Arc<Notify>,
}

pub(super) fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Calls {
    pub(super) fn occupy(&mut self, length: usize, deadline: Instant, runtime: Id) -> usize {
        let slot = Slot {
            state: SlotState::Waiting(None),
            deadline,
            runtime,
            is_overdue: false,
            stage: Stage::Unsent { length },
        };
        match self.free.pop() {
            Some(free) => {
                self.slots[free] = slot;
                free
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        }
    }

    /// Ends the waiting for a reply. Returns who must be woken.
    pub(super) fn answer(
        &mut self,
        slot: usize,
        answer: Result<Value, RedisError>,
    ) -> Option<Waker> {
        let before = &mut self.slots[slot].state;
        match before {
            SlotState::Waiting(waker) => {
                let waker = waker.take();
                *before = SlotState::Answered(answer);
                waker
            }
            SlotState::Answered(_) | SlotState::Left | SlotState::Free => None,
        }
    }

    /// The reply was read, or will not come.
    pub(super) fn replied(
        &mut self,
        slot: usize,
        reply: Result<Value, RedisError>,
    ) -> Option<Waker> {
        self.slots[slot].stage = Stage::Over;
        let waker = self.answer(slot, reply);
        self.free_if_over(slot);
        waker
    }

    /// Its caller has its answer, or has gone.
    pub(super) fn leave(&mut self, slot: usize) {
        let is_waiting = matches!(self.slots[slot].state, SlotState::Waiting(_));
        self.slots[slot].state = SlotState::Left;
        if is_waiting {
            self.withdraw(slot);
        }
        self.free_if_over(slot);
    }

    pub(super) fn free_if_over(&mut self, slot: usize) {
        let Slot { state, stage, .. } = &mut self.slots[slot];
        if matches!(state, SlotState::Left) && *stage == Stage::Over {
            *state = SlotState::Free;
            self.free.push(slot);
        }
    }

    /// Nobody waits for this call any more. If it is unsent, it will not be sent.
    pub(super) fn withdraw(&mut self, slot: usize) {
        if let Stage::Unsent { length } = self.slots[slot].stage {
            self.withdrawn += length;
            // Often enough to be bounded, and seldom enough to be cheap.
            if self.withdrawn > KEPT_BUFFER && self.withdrawn > self.unsent.len() / 2 {
                self.forget_withdrawn();
            }
        }
    }

    /// Removes what was withdrawn from what is to be sent.
    pub(super) fn forget_withdrawn(&mut self) {
        if self.withdrawn == 0 {
            return;
        }
        let mut kept = Vec::with_capacity(self.unsent.len().saturating_sub(self.withdrawn));
        let (mut kept_calls, mut start) = (Vec::new(), 0);
        for (slot, length) in std::mem::take(&mut self.unsent_calls) {
            let end = start + length;
            if matches!(self.slots[slot].state, SlotState::Waiting(_)) {
                kept.extend_from_slice(&self.unsent[start..end]);
                kept_calls.push((slot, length));
            } else {
                self.slots[slot].stage = Stage::Over;
                self.free_if_over(slot);
            }
            start = end;
        }
        (self.unsent, self.unsent_calls, self.withdrawn) = (kept, kept_calls, 0);
    }

    /// Swaps what is to be sent into an empty buffer.
    pub(super) fn take_unsent(&mut self, into: &mut Vec<u8>) {
        std::mem::swap(into, &mut self.unsent);
        for (slot, _) in self.unsent_calls.drain(..) {
            self.slots[slot].stage = Stage::Sent;
            self.sent.push_back(slot);
        }
    }

    /// How many calls wait, or have left and may still get a reply.
    pub(super) fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn watch(&self, runtime: Id) -> Option<&Watch> {
        self.watches.iter().find(|watch| watch.runtime == runtime)
    }

    /// Has the calls of this runtime woken whose time is over. Returns the next deadline. Whether they end
    /// is decided when they run: a reply that is there by then is one.
    pub(super) fn wake_overdue(
        &mut self,
        runtime: Id,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Instant> {
        let mut next = None;
        for slot in &mut self.slots {
            let SlotState::Waiting(waker) = &mut slot.state else {
                continue;
            };
            if slot.runtime != runtime || slot.is_overdue {
                continue;
            }
            if slot.deadline <= now {
                slot.is_overdue = true;
                wakers.extend(waker.take());
            } else {
                next = Some(next.map_or(slot.deadline, |next: Instant| next.min(slot.deadline)));
            }
        }
        next
    }

    /// Nothing is sent or answered any more.
    pub(super) fn end(&mut self, error: &RedisError) -> Vec<Waker> {
        if self.ended.is_some() {
            return Vec::new();
        }
        self.ended = Some(error.clone());
        (self.unsent, self.withdrawn) = (Vec::new(), 0);
        let unsent = self.unsent_calls.drain(..).map(|(slot, _)| slot);
        let all: Vec<_> = self.sent.drain(..).chain(unsent).collect();
        let replied = |slot| self.replied(slot, Err(error.clone()));
        all.into_iter().filter_map(replied).collect()
    }
}
