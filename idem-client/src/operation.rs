//! One operation, from its first try to its outcome. Knows no transport, and asks no clock.

use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, StatusCode};

use crate::key::IdempotencyKey;
use crate::outcome::{Tries, TryEnd, Unknown, UnknownReason};
use crate::policy::{Policy, Verdict};
use crate::problem::Problem;
use crate::wait::retry_after;

/// One operation's tries. For transports that have no integration here: it says when to send, and
/// what an answer means, and the transport does the rest.
///
/// ```
/// use std::time::Instant;
/// use http::{HeaderMap, StatusCode};
/// use idem_client::{IdempotencyKey, Next, Operation, Policy, TryEnd};
///
/// let policy = Policy::new();
/// let mut operation = Operation::new(&policy, IdempotencyKey::random(), "api.example.com", Instant::now());
/// operation.begin_try(Instant::now());
/// let Next::Wait(_) = operation.lost(TryEnd::TimedOut, Instant::now()) else { panic!() };
/// operation.begin_try(Instant::now()); // the same key, the same bytes
/// let end = operation.answered(StatusCode::CREATED, &HeaderMap::new(), None, Instant::now());
/// let Next::Answered(tries) = end else { panic!() };
/// assert_eq!(tries.count, 2);
/// ```
#[derive(Clone, Debug)]
pub struct Operation {
    policy: Policy,
    key: IdempotencyKey,
    host: Box<str>,
    begun: Instant,
    tries: u32,
    may_have_executed: bool,
    last: Option<TryEnd>,
}

/// What comes next.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Next {
    /// Wait so long, then send the same request again.
    Wait(Duration),
    /// The last answer is the operation's, or a refusal.
    Answered(Tries),
    /// Give up.
    Unknown(Unknown),
}

impl Operation {
    /// An operation that was never sent. `host` is whose budget pays for its retries.
    pub fn new(policy: &Policy, key: IdempotencyKey, host: &str, now: Instant) -> Self {
        policy.budget.deposit(host, now);
        Self {
            policy: policy.clone(),
            key,
            host: host.into(),
            begun: now,
            tries: 0,
            may_have_executed: false,
            last: None,
        }
    }

    /// One that may have been sent before, by a process that is no more. Its deadline begins anew.
    #[must_use]
    pub fn resumed(mut self) -> Self {
        self.may_have_executed = true;
        self
    }

    /// The request is sent now. How long its answer may take.
    pub fn begin_try(&mut self, now: Instant) -> Duration {
        self.tries = self.tries.saturating_add(1);
        self.policy.try_timeout.min(self.patience(now))
    }

    /// There is an answer, and `problem` is what its body says.
    pub fn answered(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        problem: Option<&Problem>,
        now: Instant,
    ) -> Next {
        let tries = |refused| Tries {
            count: self.tries,
            replayed: headers.contains_key("idempotent-replayed"),
            refused,
        };
        match Policy::judge(status, headers, problem, self.may_have_executed) {
            Verdict::Answered => Next::Answered(tries(None)),
            Verdict::Refused(refusal) => Next::Answered(tries(Some(refusal))),
            Verdict::Unknown(reason) => {
                self.last = Some(TryEnd::Status(status));
                self.may_have_executed = true;
                self.give_up(reason, now)
            }
            Verdict::Retry { may_have_executed } => {
                self.last = Some(TryEnd::Status(status));
                self.may_have_executed |= may_have_executed;
                self.again(retry_after(headers, SystemTime::now()), now)
            }
        }
    }

    /// The try ended without a whole answer.
    pub fn lost(&mut self, end: TryEnd, now: Instant) -> Next {
        self.last = Some(end);
        self.may_have_executed |= end != TryEnd::NotSent;
        self.again(None, now)
    }

    /// The transport failed in a way that no retry mends: what that means for the operation, or `None`
    /// where it was never carried out, and the transport's error is all there is to say.
    pub fn failed(&self, now: Instant) -> Option<Unknown> {
        self.may_have_executed
            .then(|| self.unknown(UnknownReason::TransportFailed, now))
    }

    /// What to say of an operation that the journal has held for too long.
    #[cfg(feature = "journal")]
    pub(crate) fn expired(&self, now: Instant) -> Unknown {
        self.unknown(UnknownReason::Expired, now)
    }

    fn patience(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.begun);
        self.policy.deadline.saturating_sub(passed)
    }

    fn again(&self, asked_for: Option<Duration>, now: Instant) -> Next {
        if self.tries >= self.policy.max_tries {
            return self.give_up(UnknownReason::TriesSpent, now);
        }
        let patience = self.patience(now);
        let wait = self.policy.backoff.draw(self.tries, asked_for);
        if wait >= patience {
            return self.give_up(UnknownReason::Deadline, now);
        }
        // A try that begins at the deadline has no time for an answer.
        let patience = patience.saturating_sub(Duration::from_millis(1));
        match self.policy.budget.withdraw(&self.host, now, patience) {
            Some(paid_in) => Next::Wait(wait.max(paid_in)),
            None => self.give_up(UnknownReason::BudgetSpent, now),
        }
    }

    fn give_up(&self, reason: UnknownReason, now: Instant) -> Next {
        Next::Unknown(self.unknown(reason, now))
    }

    fn unknown(&self, reason: UnknownReason, now: Instant) -> Unknown {
        Unknown {
            key: self.key.clone(),
            reason,
            may_have_executed: self.may_have_executed,
            tries: self.tries,
            elapsed: now.saturating_duration_since(self.begun),
            last: self.last,
        }
    }
}
