//! What the engine tells the world: tracing events always, metrics behind their feature.
//!
//! Operation names and decisions are labels; keys, scopes, record contents and errors of the
//! user's code are not.

use tracing::{debug, error, warn};

use crate::error::Error;
use crate::key::KeyError;
use crate::outcome::NotReplayable;
use crate::record::RecordId;
use crate::registry::NameTaken;
use crate::store::StoreError;

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Decision {
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
    pub(crate) const fn as_str(self) -> &'static str {
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

impl Decision {
    /// The decision that an error stands for.
    pub(crate) const fn of(error: &Error) -> Self {
        match error {
            Error::Key(KeyError::Missing) => Self::KeyMissing,
            Error::Key(_) | Error::Scope(_) | Error::Fingerprint(_) => Self::KeyInvalid,
            Error::InFlight { .. } => Self::InFlight,
            Error::Mismatch => Self::Mismatch,
            Error::OutcomeUnknown { .. } => Self::OutcomeUnknown,
            Error::NotReplayable(_) | Error::Undecodable(_) => Self::NotReplayable,
            Error::Store(_)
            | Error::Unsettled(_)
            | Error::DeadlineExceeded { .. }
            | Error::CommitRefused(_)
            | Error::Step(_)
            | Error::StepNotStored(_)
            | Error::LeaseLost
            | Error::Policy(_)
            | Error::NoEngine
            | Error::NoRuntime
            | Error::NoTimers
            | Error::ClaimedByLayer
            | Error::NameTaken(_) => Self::StoreUnavailable,
        }
    }
}

/// The span of a store call. Bodies get none: it would hide the user's own from them.
pub(crate) fn store_call(operation: &str, call: &'static str) -> tracing::Span {
    tracing::debug_span!(target: "idem", "store call", operation, call)
}

/// At an engine's start.
pub(crate) fn name_taken(taken: &NameTaken) {
    error!(
        target: "idem",
        operation = taken.name(),
        "{taken}; no call of either runs"
    );
}

pub(crate) fn failing_open(operation: &str, error: &StoreError) {
    warn!(
        target: "idem",
        operation,
        error = error as &dyn std::error::Error,
        "running WITHOUT protection: the store cannot answer, and the engine fails open"
    );
}

pub(crate) fn decided(operation: &str, decision: Decision) {
    debug!(target: "idem", operation, decision = decision.as_str(), "idempotency decision");
    #[cfg(feature = "metrics")]
    metrics::counter!("idem_requests_total", "operation" => operation.to_owned(), "decision" => decision.as_str())
        .increment(1);
}

pub(crate) fn store_failed(operation: &str, call: &'static str, error: &StoreError) {
    warn!(
        target: "idem",
        operation,
        call,
        error = error as &dyn std::error::Error,
        "store call failed"
    );
}

pub(crate) fn started(operation: &str, id: &RecordId, attempt: u32) {
    debug!(target: "idem", operation, record = %id, attempt, "attempt started");
    if attempt > 1 {
        taken_over(operation, id, attempt);
    }
}

fn taken_over(operation: &str, id: &RecordId, attempt: u32) {
    warn!(target: "idem", operation, record = %id, attempt, "an earlier attempt crashed; running again");
    #[cfg(feature = "metrics")]
    metrics::counter!("idem_takeovers_total", "operation" => operation.to_owned()).increment(1);
}

/// What became of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StepDecision {
    Executed,
    GivenBack,
}

impl StepDecision {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::GivenBack => "given_back",
        }
    }
}

pub(crate) fn step(
    operation: &str,
    id: &RecordId,
    attempt: u32,
    step: &str,
    decision: StepDecision,
) {
    let decision = decision.as_str();
    debug!(target: "idem", operation, record = %id, attempt, step, decision, "step");
    #[cfg(feature = "metrics")]
    metrics::counter!("idem_steps_total", "operation" => operation.to_owned(), "decision" => decision)
        .increment(1);
}

pub(crate) fn step_failed(operation: &str, id: &RecordId, attempt: u32, error: &Error) {
    let error = error as &dyn std::error::Error;
    error!(target: "idem", operation, record = %id, attempt, error, "a step was not run or not kept");
}

pub(crate) fn lease_lost(operation: &str, id: &RecordId, attempt: u32) {
    error!(
        target: "idem",
        operation,
        record = %id,
        attempt,
        "lease lost: another attempt may be running; this one's outcome is not stored"
    );
    #[cfg(feature = "metrics")]
    metrics::counter!("idem_lease_lost_total", "operation" => operation.to_owned()).increment(1);
}

pub(crate) fn session_ended(operation: &str, id: &RecordId, attempt: u32) {
    error!(
        target: "idem",
        operation,
        record = %id,
        attempt,
        "the database has ended the session of a running transaction: another attempt may begin; this one's commit will fail"
    );
    #[cfg(feature = "metrics")]
    metrics::counter!("idem_lease_lost_total", "operation" => operation.to_owned()).increment(1);
}

pub(crate) fn commit_refused(
    operation: &str,
    id: &RecordId,
    error: &(dyn std::error::Error + 'static),
) {
    error!(
        target: "idem",
        operation,
        record = %id,
        error,
        "the database refused to commit what the body wrote; everything was rolled back, and a retry fails alike until the application is set right"
    );
}

pub(crate) fn settling_again(operation: &str, id: &RecordId, change: &'static str) {
    warn!(target: "idem", operation, record = %id, change, "the store did not take the end of an attempt; trying again");
    #[cfg(feature = "metrics")]
    metrics::counter!("idem_completion_retries_total", "operation" => operation.to_owned())
        .increment(1);
}

pub(crate) fn settling_gave_up(operation: &str, id: &RecordId, change: &'static str) {
    error!(
        target: "idem",
        operation,
        record = %id,
        change,
        "the store did not take the end of an attempt in time; it is given up, and the next claim follows on_crash"
    );
}

pub(crate) fn crashed(operation: &str, id: &RecordId, attempt: u32, how: &'static str) {
    warn!(target: "idem", operation, record = %id, attempt, how, "attempt abandoned; the next claim follows on_crash");
}

pub(crate) fn outcome_unknown(operation: &str, id: &RecordId, attempt: u32) {
    warn!(
        target: "idem",
        operation,
        record = %id,
        attempt,
        "the outcome of an attempt that crashed is unknown; retries are refused until Operation::resolve, or Operation::resolve_record with this record, says what happened"
    );
}

/// Once for each operation.
pub(crate) fn not_kept(operation: &str, reason: NotReplayable, why: Option<&str>) {
    warn!(
        target: "idem",
        operation,
        why,
        "retries of this operation will be refused: {reason}"
    );
}

/// Once for each operation.
pub(crate) fn not_given_back(operation: &str, why: &str) {
    warn!(
        target: "idem",
        operation,
        why,
        "retries of this operation will fail: its value is stored, and cannot be read again as the type that the function returns"
    );
}

/// Once for each operation.
#[cfg(feature = "http")]
pub(crate) fn noticed(operation: &str, what: &str) {
    warn!(target: "idem", operation, "{what}");
}

pub(crate) fn outside_of_any_body() {
    warn!(target: "idem", "`idem::attempt()` was called outside of an idempotent body, where it knows no attempt: take it in the body, and move it into the tasks that the body spawns");
}

/// When something began; read only where somebody measures.
pub(crate) struct Clock {
    #[cfg(feature = "metrics")]
    started: std::time::Instant,
}

pub(crate) fn clock() -> Clock {
    Clock {
        #[cfg(feature = "metrics")]
        started: std::time::Instant::now(),
    }
}

pub(crate) fn body_took(operation: &str, clock: &Clock) {
    #[cfg(feature = "metrics")]
    metrics::histogram!("idem_body_seconds", "operation" => operation.to_owned())
        .record(clock.started.elapsed().as_secs_f64());
    let _ = (operation, clock);
}

pub(crate) fn store_call_took(store: &'static str, call: &'static str, clock: &Clock) {
    #[cfg(feature = "metrics")]
    metrics::histogram!("idem_store_call_seconds", "store" => store, "call" => call)
        .record(clock.started.elapsed().as_secs_f64());
    let _ = (store, call, clock);
}

pub(crate) fn outcome_size(operation: &str, bytes: usize) {
    #[cfg(feature = "metrics")]
    #[allow(clippy::cast_precision_loss)]
    metrics::histogram!("idem_record_bytes", "operation" => operation.to_owned())
        .record(bytes as f64);
    let _ = (operation, bytes);
}
