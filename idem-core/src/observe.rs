//! What the engine tells the world: tracing events always, metrics behind their feature.
//!
//! Operation names and decisions are labels; keys, scopes, record contents and errors of the
//! user's code are not.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::level_filters::LevelFilter;
use tracing::{Span, debug, error, warn};

use crate::error::Error;
use crate::key::KeyError;
use crate::observer::{Decision, Event, EventKind, Observer};
use crate::outcome::NotReplayable;
use crate::record::RecordId;
use crate::registry::NameTaken;
use crate::store::StoreError;

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
pub(crate) fn store_call(operation: &str, call: &'static str) -> Span {
    tracing::debug_span!(target: "idem", "store call", operation, call)
}

/// Whether anybody wants that span: it costs something even where nobody does.
pub(crate) fn store_call_is_traced() -> bool {
    tracing::span_enabled!(target: "idem", tracing::Level::DEBUG)
}

/// Whether spans and events go anywhere at all.
pub(crate) fn somebody_listens() -> bool {
    LevelFilter::current() != LevelFilter::OFF
}

/// The caller's span, for the spans of its duplicates. `None` where nobody listens, or it has none.
pub(crate) fn span_here() -> Option<Arc<Span>> {
    if !somebody_listens() {
        return None;
    }
    let span = Span::current();
    (!span.is_none()).then(|| Arc::new(span))
}

/// At an engine's start.
pub(crate) fn name_taken(taken: &NameTaken) {
    error!(
        target: "idem",
        operation = taken.name(),
        "{taken}; no call of either runs"
    );
}

/// Everybody who is told: the log, the metrics, and who was given.
#[derive(Default)]
pub(crate) struct Observers {
    given: Vec<Arc<dyn Observer>>,
}

impl Observers {
    pub(crate) fn add(&mut self, observer: Arc<dyn Observer>) {
        self.given.push(observer);
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        Logs.observe(event);
        #[cfg(feature = "metrics")]
        Metrics.observe(event);
        for observer in &self.given {
            let told = AssertUnwindSafe(|| observer.observe(event));
            if std::panic::catch_unwind(told).is_err() {
                let operation = event.operation;
                error!(target: "idem", operation, "an observer panicked; it is told of what comes next all the same");
            }
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.given.len())
    }
}

/// Tells the log.
struct Logs;

impl Observer for Logs {
    fn observe(&self, event: &Event<'_>) {
        let operation = event.operation;
        let record = event.record.as_ref().map(tracing::field::display);
        match event.kind {
            EventKind::Decided {
                decision,
                first_claimed_at,
            } => {
                let decision = decision.as_str();
                let first_claimed_at = first_claimed_at.map(seconds);
                let span = Span::current();
                span.record("idem.record", &record);
                span.record("idem.decision", decision);
                span.record("idem.first_claimed_at", first_claimed_at);
                debug!(target: "idem", operation, record, decision, first_claimed_at, "idempotency decision");
            }
            EventKind::Started {
                attempt: attempt @ 1,
            } => {
                debug!(target: "idem", operation, record, attempt, "attempt started");
            }
            EventKind::Started { attempt } => {
                warn!(target: "idem", operation, record, attempt, "an earlier attempt ended without an outcome; running again");
            }
            EventKind::Step {
                attempt,
                name,
                given_back,
            } => {
                debug!(target: "idem", operation, record, attempt, step = name, given_back, "step");
            }
            EventKind::Finished { attempt } => {
                debug!(target: "idem", operation, record, attempt, "attempt finished");
            }
            EventKind::Released { attempt } => {
                debug!(target: "idem", operation, record, attempt, "key freed: nothing has happened");
            }
            EventKind::Suspended { attempt } => {
                warn!(target: "idem", operation, record, attempt, "attempt suspended after finished steps; the next one continues");
            }
            EventKind::Crashed { attempt, how } => {
                warn!(target: "idem", operation, record, attempt, how, "attempt abandoned; the next claim follows on_crash");
            }
            EventKind::LeaseLost { attempt } => error!(
                target: "idem",
                operation,
                record,
                attempt,
                "lease lost: another attempt may be running; this one's outcome is not stored"
            ),
            EventKind::ChangeRetried { change } => {
                warn!(target: "idem", operation, record, change, "the store did not take a change of an attempt; trying again");
            }
            EventKind::ChangeGivenUp { change } => error!(
                target: "idem",
                operation,
                record,
                change,
                "the store did not take the end of an attempt in time; it is given up, and the next claim follows on_crash"
            ),
        }
    }
}

/// Since 1970, as logs of every format can hold it.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Counts.
#[cfg(feature = "metrics")]
struct Metrics;

#[cfg(feature = "metrics")]
impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        let operation = event.operation.to_owned();
        match event.kind {
            EventKind::Decided { decision, .. } => {
                let decision = decision.as_str();
                metrics::counter!("idem_requests_total", "operation" => operation, "decision" => decision)
                    .increment(1);
            }
            EventKind::Started { attempt: 2.. } => {
                metrics::counter!("idem_takeovers_total", "operation" => operation).increment(1);
            }
            EventKind::Step { given_back, .. } => {
                let decision = if given_back { "given_back" } else { "executed" };
                metrics::counter!("idem_steps_total", "operation" => operation, "decision" => decision)
                    .increment(1);
            }
            EventKind::LeaseLost { .. } => {
                metrics::counter!("idem_lease_lost_total", "operation" => operation).increment(1);
            }
            EventKind::ChangeRetried { .. } => {
                metrics::counter!("idem_completion_retries_total", "operation" => operation)
                    .increment(1);
            }
            _ => {}
        }
    }
}

pub(crate) fn failing_open(operation: &str, error: &StoreError) {
    warn!(
        target: "idem",
        operation,
        error = error as &dyn std::error::Error,
        "running WITHOUT protection: the store cannot answer, and the engine fails open"
    );
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

pub(crate) fn step_failed(operation: &str, id: &RecordId, attempt: u32, error: &Error) {
    let error = error as &dyn std::error::Error;
    error!(target: "idem", operation, record = %id, attempt, error, "a step was not run or not kept");
}

pub(crate) fn session_ended(operation: &str, id: &RecordId, attempt: u32) {
    error!(
        target: "idem",
        operation,
        record = %id,
        attempt,
        "the database has ended the session of a running transaction: another attempt may begin; this one's commit will fail"
    );
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

pub(crate) fn outcome_unknown(operation: &str, id: &RecordId, attempt: u32) {
    warn!(
        target: "idem",
        operation,
        record = %id,
        attempt,
        "the outcome of an attempt that crashed is unknown; retries are refused until somebody says what happened: with the tool, `idem resolve` or `idem release` and this record, or in a program Operation::resolve_record"
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
