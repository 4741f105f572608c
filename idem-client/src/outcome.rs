//! How an operation ends: answered, refused, or unknown.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::key::IdempotencyKey;
use crate::problem::Refusal;

/// How an operation ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<R> {
    /// The operation's own answer: what every retry with its key gets. It may well be a failure,
    /// such as a card that was declined.
    Answered(Answer<R>),
    /// The server refused, and has not carried the operation out. A new try with the same key and
    /// request is refused again.
    Refused(Answer<R>),
    /// There is no answer, and the operation may have been carried out.
    Unknown(Unknown),
}

/// An answer, and what it took to get it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer<R> {
    /// The answer.
    pub response: R,
    /// What it took.
    pub tries: Tries,
}

/// What it took to get an answer. Integrations leave it among the response's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tries {
    /// How many times the request was sent. 1 where the first try was answered.
    pub count: u32,
    /// Whether the server marked the answer as a replay: an earlier try had made it.
    pub replayed: bool,
    /// The refusal, where the answer is one.
    pub refused: Option<Refusal>,
}

impl Tries {
    /// The response as an outcome.
    pub(crate) fn outcome<R>(self, response: R) -> Outcome<R> {
        let answer = Answer {
            response,
            tries: self,
        };
        match self.refused {
            Some(_) => Outcome::Refused(answer),
            None => Outcome::Answered(answer),
        }
    }
}

impl<R> Outcome<R> {
    /// The outcome with its response changed.
    pub fn map<T>(self, change: impl FnOnce(R) -> T) -> Outcome<T> {
        match self {
            Self::Answered(answer) => answer.tries.outcome(change(answer.response)),
            Self::Refused(answer) => answer.tries.outcome(change(answer.response)),
            Self::Unknown(unknown) => Outcome::Unknown(unknown),
        }
    }

    /// Whether nothing is left to be asked: the outcome is not [`Outcome::Unknown`].
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// No answer. What to show a person: "we do not know yet whether this has worked; do not do it again,
/// look here later", and not "it failed".
///
/// Keep [`Unknown::key`]: the same request with the same key finds the outcome, for as long as the
/// server keeps it. Its texts name neither the key nor the request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unknown {
    /// The operation's key.
    pub key: IdempotencyKey,
    /// Why nothing more was tried.
    pub reason: UnknownReason,
    /// Whether the operation may have been carried out. `false` only where no try can have reached
    /// the server's handler: nothing could be sent, or every answer said that it was not executed.
    pub may_have_executed: bool,
    /// How many times the request was sent.
    pub tries: u32,
    /// How long it took.
    pub elapsed: Duration,
    /// How the last try ended.
    pub last: Option<TryEnd>,
}

/// Why an operation's outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownReason {
    /// The deadline passed, or the next try would have begun after it.
    Deadline,
    /// The policy allows no more tries.
    TriesSpent,
    /// The host's retries are spent for longer than the deadline.
    BudgetSpent,
    /// The server knows that an attempt crashed, and runs it no more until somebody has looked.
    CrashedOnServer,
    /// It was carried out, and its answer is not kept.
    AnswerLost,
    /// The last try was refused, and an earlier one may have been carried out.
    RefusedLater(StatusCode),
    /// The transport failed in a way that no retry mends, after an earlier try may have been carried
    /// out.
    TransportFailed,
    /// The journal holds it for longer than the server keeps keys: a try could carry it out again.
    Expired,
}

/// How a try ended that brought no final answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryEnd {
    /// With an answer that says "later".
    Status(StatusCode),
    /// No byte of the request was sent: there was no connection.
    NotSent,
    /// The connection broke, or the answer did.
    Broken,
    /// The answer took longer than a try may.
    TimedOut,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tries, elapsed, .. } = self;
        let noun = if *tries == 1 { "try" } else { "tries" };
        write!(f, "no outcome after {tries} {noun} in {elapsed:.1?}: ")?;
        match self.reason {
            UnknownReason::Deadline => f.write_str("the deadline passed"),
            UnknownReason::TriesSpent => f.write_str("the policy allows no more"),
            UnknownReason::BudgetSpent => f.write_str("the host's budget of retries is spent"),
            UnknownReason::CrashedOnServer => {
                f.write_str("an attempt crashed in the server, and no other runs before somebody there has said what it did")
            }
            UnknownReason::AnswerLost => f.write_str("the server has not kept the answer"),
            UnknownReason::RefusedLater(status) => {
                write!(f, "the last one was refused with {}", status.as_u16())
            }
            UnknownReason::TransportFailed => f.write_str("the transport failed"),
            UnknownReason::Expired => f.write_str("the server may have forgotten the key"),
        }?;
        match self.last {
            Some(TryEnd::Status(status)) => write!(f, " (last answer: {})", status.as_u16()),
            Some(TryEnd::NotSent) => f.write_str(" (last try: no connection)"),
            Some(TryEnd::Broken) => f.write_str(" (last try: the connection broke)"),
            Some(TryEnd::TimedOut) => f.write_str(" (last try: no answer in time)"),
            None => Ok(()),
        }?;
        match (self.reason, self.may_have_executed) {
            (UnknownReason::AnswerLost, _) => f.write_str("; the operation was carried out"),
            (_, true) => f.write_str(
                "; the operation may have been carried out: ask again with the same key",
            ),
            (_, false) => f.write_str("; the operation was not carried out by these tries"),
        }
    }
}

impl std::error::Error for Unknown {}
