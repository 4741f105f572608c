//! Refusals: their kinds, and what each says.

use std::time::Duration;

use http::StatusCode;

use super::request::BodyError;
use crate::error::{Error, whole_seconds};
use crate::key::KeyError;

/// When a client is told to come back after the store was away.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(1);

const UNSETTLED: &str = "the request may have been executed; retry with the same key to find out";

/// What is wrong, as the last part of a problem's `type` URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// 400: a key is required.
    KeyMissing,
    /// 400: the key is malformed.
    KeyInvalid,
    /// 400: the scope that the key belongs to could not be derived.
    ScopeInvalid,
    /// 400: the request's body could not be read.
    BodyUnreadable,
    /// 413: the request's body is over the limit.
    BodyTooLarge,
    /// 422: the key was used for another request.
    Mismatch,
    /// 409 with `Retry-After`: an attempt is running.
    InFlight,
    /// 409: an attempt crashed and is not run again.
    OutcomeUnknown,
    /// 409: executed, and the answer was not kept.
    NotReplayable,
    /// 500: executed, and this version cannot read the answer.
    Undecodable,
    /// 500: the handler panicked, or a step of it could not be run or kept.
    Crashed,
    /// 500: the database refused to commit what the handler wrote; everything was rolled back.
    CommitRefused,
    /// 500: the server's own mistake: no engine, a name used twice, a runtime without timers.
    Misconfigured,
    /// 503 with `Retry-After`: the store cannot answer, so this request was not executed.
    StoreUnavailable,
    /// 503: the handler took longer than its deadline, and was stopped.
    DeadlineExceeded,
    /// 503 with `Retry-After`: whether a transaction was committed, or a step will be kept, is not
    /// known yet.
    Unsettled,
}

impl ProblemKind {
    /// The word in the `type` URI.
    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// The answer's status.
    pub const fn status(self) -> StatusCode {
        self.facts().1
    }

    /// Whether the request that is answered so may have had an effect. Of every other kind, this
    /// request has had none.
    pub const fn may_have_executed(self) -> bool {
        matches!(
            self,
            Self::Crashed | Self::DeadlineExceeded | Self::Unsettled
        )
    }

    /// The problem's title: what is wrong in a few words, the same for every problem of the kind.
    pub const fn title(self) -> &'static str {
        self.facts().2
    }

    /// Whether the same request with the same key can get another answer, without anyone setting
    /// something right before. After a panic it runs again, or is refused as `on_crash` says.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::InFlight
                | Self::Crashed
                | Self::DeadlineExceeded
                | Self::StoreUnavailable
                | Self::Unsettled
        )
    }

    pub(super) const fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::KeyMissing => (
                "key-missing",
                StatusCode::BAD_REQUEST,
                "Idempotency key is missing",
            ),
            Self::KeyInvalid => (
                "key-invalid",
                StatusCode::BAD_REQUEST,
                "Idempotency key is invalid",
            ),
            Self::ScopeInvalid => (
                "scope-invalid",
                StatusCode::BAD_REQUEST,
                "Scope of the idempotency key is invalid",
            ),
            Self::BodyUnreadable => (
                "body-unreadable",
                StatusCode::BAD_REQUEST,
                "Request body could not be read",
            ),
            Self::BodyTooLarge => (
                "body-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "Request body is too large",
            ),
            Self::Mismatch => (
                "mismatch",
                StatusCode::UNPROCESSABLE_ENTITY,
                "Idempotency key was used for another request",
            ),
            Self::InFlight => (
                "in-flight",
                StatusCode::CONFLICT,
                "A request with this idempotency key is being processed",
            ),
            Self::OutcomeUnknown => (
                "outcome-unknown",
                StatusCode::CONFLICT,
                "The outcome of this request is unknown",
            ),
            Self::NotReplayable => (
                "not-replayable",
                StatusCode::CONFLICT,
                "The answer to this request was not kept",
            ),
            Self::Undecodable => (
                "undecodable",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The stored answer cannot be read",
            ),
            Self::Crashed => (
                "crashed",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The request failed unexpectedly",
            ),
            Self::CommitRefused => (
                "commit-refused",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The request could not be committed",
            ),
            Self::Misconfigured => (
                "misconfigured",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Idempotency is not set up",
            ),
            Self::StoreUnavailable => (
                "store-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "Idempotency store is unavailable",
            ),
            Self::DeadlineExceeded => (
                "deadline-exceeded",
                StatusCode::SERVICE_UNAVAILABLE,
                "The request took too long",
            ),
            Self::Unsettled => (
                "unsettled",
                StatusCode::SERVICE_UNAVAILABLE,
                "Whether this request was executed is not known yet",
            ),
        }
    }
}

/// A refusal, ready to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// What is wrong.
    pub kind: ProblemKind,
    /// What happened and what to do, in one sentence for the client's developer.
    pub detail: String,
    /// When a retry makes sense.
    pub retry_after: Option<Duration>,
    /// Whether a retry can get another answer: [`ProblemKind::is_retryable`], but for an attempt that
    /// ended without an outcome under `on_crash = "refuse"`.
    pub retryable: bool,
}

impl Problem {
    /// A problem without `Retry-After`.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            retry_after: None,
            retryable: kind.is_retryable(),
        }
    }

    /// The same of a key that is looked for in `place`, such as "the header `idempotency-key`".
    #[doc(hidden)]
    #[must_use]
    pub fn of_a_key_in(mut self, place: &str) -> Self {
        match self.kind {
            ProblemKind::KeyMissing => {
                self.detail =
                    format!("{place} is missing; send it with a key, the same on every retry");
            }
            ProblemKind::KeyInvalid => self.detail = format!("{place}: {}", self.detail),
            _ => {}
        }
        self
    }

    /// The handler panicked. What it said stays in the server's log.
    pub fn crashed() -> Self {
        Self::new(
            ProblemKind::Crashed,
            "the request failed while it was executed, and may have had an effect; a retry with the same key runs it again or is refused, as the operation says",
        )
    }

    /// The same of an attempt that ended without an outcome, where a crash is followed by no other run.
    #[must_use]
    pub fn not_run_again(mut self) -> Self {
        self.detail = "the request failed while it was executed, and may have had an effect; it is not run again until somebody has said what happened".to_owned();
        self.retry_after = None;
        self.retryable = false;
        self
    }

    /// The handler panicked in a transaction.
    pub fn rolled_back() -> Self {
        Self::new(
            ProblemKind::Crashed,
            "the request failed while it was executed, and everything it had written was rolled back; a retry with the same key runs it again",
        )
    }

    /// The store, or the database that a transaction was in, failed before the commit, and what the
    /// handler had written is rolled back.
    pub fn not_committed(error: &Error) -> Self {
        let mut problem = Self::from(error);
        if problem.kind == ProblemKind::StoreUnavailable {
            problem.detail =
                "this request was executed, and everything it had written was rolled back; retry with the same key"
                    .to_owned();
        }
        problem
    }

    /// A transaction's commit was sent, and nobody waits for its answer any more.
    pub fn unsettled() -> Self {
        Self {
            kind: ProblemKind::Unsettled,
            detail: UNSETTLED.to_owned(),
            retry_after: Some(STORE_RETRY_AFTER),
            retryable: true,
        }
    }

    /// The seconds to wait before a retry, as `Retry-After` has them: rounded up, and at least 1.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(whole_seconds)
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Key(KeyError::Missing) => ProblemKind::KeyMissing,
            Error::Key(_) => ProblemKind::KeyInvalid,
            Error::Scope(_) => ProblemKind::ScopeInvalid,
            Error::Mismatch => ProblemKind::Mismatch,
            Error::InFlight { .. } => ProblemKind::InFlight,
            Error::OutcomeUnknown { .. } => ProblemKind::OutcomeUnknown,
            Error::NotReplayable(_) => ProblemKind::NotReplayable,
            Error::Undecodable(_) => ProblemKind::Undecodable,
            Error::Store(_) => ProblemKind::StoreUnavailable,
            Error::Unsettled(_) | Error::StepNotStored(_) | Error::LeaseLost => {
                ProblemKind::Unsettled
            }
            Error::Step(_) => ProblemKind::Crashed,
            Error::DeadlineExceeded { .. } => ProblemKind::DeadlineExceeded,
            Error::CommitRefused(_) => ProblemKind::CommitRefused,
            Error::Fingerprint(_)
            | Error::Policy(_)
            | Error::NoEngine
            | Error::NoRuntime
            | Error::NoTimers
            | Error::ClaimedByLayer
            | Error::NameTaken(_) => ProblemKind::Misconfigured,
        };
        let detail = match error {
            // How the server is built and run is not the client's to know.
            Error::Store(_) => "this request was not executed; whether an earlier one with this key was is not known; retry with the same key".to_owned(),
            Error::Unsettled(_) | Error::StepNotStored(_) | Error::LeaseLost => {
                UNSETTLED.to_owned()
            }
            Error::Step(_) => {
                "the request stopped half-way; the server's log says why".to_owned()
            }
            Error::CommitRefused(_) => {
                "the request was executed, and everything it had written was rolled back; the server's log says why".to_owned()
            }
            _ if kind == ProblemKind::Misconfigured => {
                "this request was not executed; the server's log says why".to_owned()
            }
            error => error.to_string(),
        };
        let retry_after = match error {
            Error::InFlight { retry_after } => Some(*retry_after),
            Error::Store(_)
            | Error::Unsettled(_)
            | Error::StepNotStored(_)
            | Error::LeaseLost
            | Error::DeadlineExceeded { .. } => Some(STORE_RETRY_AFTER),
            _ => None,
        };
        Self {
            kind,
            detail,
            retry_after,
            retryable: kind.is_retryable(),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let kind = match error {
            BodyError::TooLarge { .. } => ProblemKind::BodyTooLarge,
            BodyError::Unreadable => ProblemKind::BodyUnreadable,
        };
        Self::new(kind, error.to_string())
    }
}
