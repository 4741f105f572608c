//! Tells the log of outcomes that no retry will get, at once and not when the first retry comes, and of
//! what is seldom meant: once for each operation.
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

/// What is seldom meant.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A server error is stored.
    FailureKept,
    /// The answer to one origin's script is stored.
    OriginKept,
    /// A response is stored that is encoded as its first client asked.
    EncodingKept,
    /// A request's body is compared as it was encoded.
    EncodedRequest,
}

#[cfg(feature = "http")]
impl Notice {
    const fn bit(self) -> u64 {
        16 << self as u64
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::FailureKept => {
                "a response with a status of 500 or more is stored, and every retry gets it for the whole ttl, because it may have had an effect: where it had none, list the status in `release`, or call `idem::attempt().release()`"
            }
            Self::OriginKept => {
                "a response for one origin (`Access-Control-Allow-Origin`) is stored, and is given back to every origin: put the CORS layer outside of the protection"
            }
            Self::EncodingKept => {
                "an encoded response (`Content-Encoding`, `Vary: accept-encoding`) is stored, and is given back whatever a retry accepts: put the compression layer outside of the protection"
            }
            Self::EncodedRequest => {
                "a request's encoded body (`Content-Encoding`) is compared as it was sent, so that a retry which is encoded otherwise is refused: put the decompression layer outside of the protection"
            }
        }
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

    #[cfg(feature = "http")]
    pub(super) fn notice(&self, operation: &str, notice: Notice) {
        if self.tells(operation, notice.bit()) {
            observe::noticed(operation, notice.as_str());
        }
    }

    /// Looks at what is left behind for retries.
    pub(super) fn check_tombstone(&self, operation: &str, reason: NotReplayable) {
        if self.tells(operation, bit(reason)) {
            observe::not_kept(operation, reason, None);
        }
    }
}
