//! Tells the log of outcomes that no retry will get: at once and not when the first retry comes, once
//! for each operation.
//!
//! That a value is written says nothing of whether it can be read again. It is tried with an
//! operation's first value, and with ever fewer of those that follow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::observe;
use crate::outcome::{NotReplayable, Outcome, Verdict};
use crate::replay::Replayable;

/// Operations that are kept count of. Names may come from requests: more are not counted.
const MOST_OPERATIONS: usize = 4096;

#[derive(Default)]
pub(super) struct Replays {
    operations: RwLock<HashMap<String, Seen>>,
}

#[derive(Default)]
struct Seen {
    values: AtomicU64,
    /// What was told, a bit each.
    told: AtomicU64,
}

const UNREADABLE: u64 = 1;

const fn bit(reason: NotReplayable) -> u64 {
    match reason {
        NotReplayable::TooLarge => 2,
        NotReplayable::Streamed => 4,
        NotReplayable::NotCaptured => 8,
    }
}

impl Replays {
    fn of<T>(&self, operation: &str, look: impl Fn(&Seen) -> T) -> Option<T> {
        {
            let operations = self
                .operations
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(seen) = operations.get(operation) {
                return Some(look(seen));
            }
        }
        let mut operations = self
            .operations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if operations.len() >= MOST_OPERATIONS && !operations.contains_key(operation) {
            return None;
        }
        Some(look(operations.entry(operation.to_owned()).or_default()))
    }

    /// Whether this is to be told, and was not before.
    fn tells(&self, operation: &str, what: u64) -> bool {
        let before = self.of(operation, |seen| {
            seen.told.fetch_or(what, Ordering::Relaxed)
        });
        before.is_some_and(|before| before & what == 0)
    }

    /// The first value, the second, the fourth, the eighth, …
    fn tries(&self, operation: &str) -> bool {
        let values = self.of(operation, |seen| {
            seen.values.fetch_add(1, Ordering::Relaxed)
        });
        values.is_some_and(|before| (before + 1).is_power_of_two())
    }

    /// Looks at a value that a body has returned.
    pub(super) fn check_value<T, Errors>(&self, operation: &str, value: &T, verdict: &Verdict)
    where
        T: Replayable<Errors>,
    {
        let Verdict::Final(outcome) = verdict else {
            return;
        };
        if let Outcome::NotReplayable(reason) = outcome {
            if self.tells(operation, bit(*reason)) {
                observe::not_kept(operation, *reason, value.why_not_kept().as_deref());
            }
        } else if self.tries(operation)
            && let Some(why) = T::why_not_given_back(outcome)
            && self.tells(operation, UNREADABLE)
        {
            observe::not_given_back(operation, &why);
        }
    }

    /// Looks at what is left behind for retries.
    pub(super) fn check_tombstone(&self, operation: &str, reason: NotReplayable) {
        if self.tells(operation, bit(reason)) {
            observe::not_kept(operation, reason, None);
        }
    }
}
