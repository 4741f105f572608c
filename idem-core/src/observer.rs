//! What happens to records, for whoever wants to know: an application's own audit log, for example.

use std::time::SystemTime;

use crate::record::RecordId;

/// Is told of everything that happens to the records of an engine's operations.
///
/// It is called where it happens, before the call goes on: it must neither block nor take long. It is
/// told in the order of one attempt, and of several attempts at once. What it is told is what this
/// process knows: a process that is killed says nothing of the attempts that die with it.
///
/// A panic in it is caught and logged.
///
/// ```
/// use idem_core::{Event, EventKind, Observer};
///
/// struct Audit;
///
/// impl Observer for Audit {
///     fn observe(&self, event: &Event<'_>) {
///         if let EventKind::Finished { attempt } = event.kind {
///             println!("{} {:?}: attempt {attempt}", event.operation, event.record);
///         }
///     }
/// }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Something has happened.
    fn observe(&self, event: &Event<'_>);
}

/// Something that has happened. It never holds keys, scopes, bodies or outcomes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The operation's name.
    pub operation: &'a str,
    /// The record. `None` for a call that has none: its key is missing or not acceptable.
    pub record: Option<RecordId>,
    /// What has happened.
    pub kind: EventKind<'a>,
}

/// What has happened to a record, or to a call.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum EventKind<'a> {
    /// It was decided what a call may do.
    Decided {
        /// What.
        decision: Decision,
        /// Of a replay, when the attempt that finished was claimed, by the store's clock. `None` for
        /// any other decision, and where the outcome was found in this process.
        first_claimed_at: Option<SystemTime>,
    },
    /// An attempt has its lease, or its transaction, and its body begins.
    Started {
        /// The attempt's number. Above 1, an earlier one has ended without an outcome.
        attempt: u32,
    },
    /// A step has finished, or was finished before.
    Step {
        /// The attempt's number.
        attempt: u32,
        /// The step's name.
        name: &'a str,
        /// Whether an earlier attempt had finished it, and its value was given back.
        given_back: bool,
    },
    /// The outcome is stored.
    Finished {
        /// The attempt's number.
        attempt: u32,
    },
    /// The key is free again: nothing has happened.
    Released {
        /// The attempt's number.
        attempt: u32,
    },
    /// The attempt ended without an outcome, after finished steps: the next one continues.
    Suspended {
        /// The attempt's number.
        attempt: u32,
    },
    /// The attempt ended, and nobody knows how far it came: by a panic, at its deadline, or because its
    /// caller dropped it.
    Crashed {
        /// The attempt's number.
        attempt: u32,
        /// `"panic"`, `"deadline"`, `"dropped"` or `"no outcome"`.
        how: &'static str,
    },
    /// Another attempt may run beside this one, whose outcome is not stored any more.
    LeaseLost {
        /// The attempt's number.
        attempt: u32,
    },
    /// The store has not taken a change of an attempt that holds the record, and is asked again.
    ChangeRetried {
        /// The change: `"complete"`, `"release"`, `"suspend"`, `"abandon"`, `"checkpoint"` or
        /// `"commit"`.
        change: &'static str,
    },
    /// The store has not taken the end of an attempt in time, and is asked no more.
    ChangeGivenUp {
        /// The change, as in [`ChangeRetried`](Self::ChangeRetried).
        change: &'static str,
    },
}

/// How a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// The body ran.
    Executed,
    /// A stored outcome was given back at once.
    Replayed,
    /// The call waited for a running attempt and got its outcome.
    Waited,
    /// The call joined a response that is on its way.
    Attached,
    /// Refused: another attempt is running.
    InFlight,
    /// Refused: the key belongs to another request.
    Mismatch,
    /// Refused: an attempt crashed and nobody has resolved it.
    OutcomeUnknown,
    /// Refused: there is no key.
    KeyMissing,
    /// Refused: the key or the scope is not acceptable.
    KeyInvalid,
    /// Refused: the store cannot answer.
    StoreUnavailable,
    /// Refused: the outcome was not kept, or cannot be read.
    NotReplayable,
    /// The body ran without a record: no key was sent, or the engine fails open.
    Unprotected,
}

impl Decision {
    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Replayed => "replayed",
            Self::Waited => "waited",
            Self::Attached => "attached",
            Self::InFlight => "in_flight",
            Self::Mismatch => "mismatch",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::KeyMissing => "key_missing",
            Self::KeyInvalid => "key_invalid",
            Self::StoreUnavailable => "store_unavailable",
            Self::NotReplayable => "not_replayable",
            Self::Unprotected => "unprotected",
        }
    }
}
