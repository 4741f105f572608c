//! What an answer means, and how often and how long to try.

use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, Method, StatusCode};

use crate::budget::RetryBudget;
use crate::key::KeyForm;
use crate::outcome::UnknownReason;
use crate::problem::{Meaning, Problem, Refusal};
use crate::wait::Backoff;

/// No wait between two tries is longer than this because of backoff.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60 * 60);

/// Headers in which servers say whether a retry helps: Stripe's, and that of generated SDKs.
const HINTS: [HeaderName; 2] = [
    HeaderName::from_static("stripe-should-retry"),
    HeaderName::from_static("x-should-retry"),
];

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How operations are sent: the key's header, when to retry, and for how long.
///
/// ```
/// use std::time::Duration;
/// use idem_client::{KeyForm, Policy, RetryBudget};
///
/// let policy = Policy::new()
///     .deadline(Duration::from_secs(60))
///     .try_timeout(Duration::from_secs(10))
///     .key_form(KeyForm::Bare)
///     .budget(RetryBudget::new(0.1));
/// ```
///
/// Clones share the budget.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) header: HeaderName,
    pub(crate) form: KeyForm,
    pub(crate) deadline: Duration,
    pub(crate) try_timeout: Duration,
    pub(crate) max_tries: u32,
    pub(crate) backoff: Backoff,
    pub(crate) budget: RetryBudget,
    pub(crate) problem_base: String,
    pub(crate) max_answer_bytes: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

/// What an answer means for its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is the operation's own answer.
    Answered,
    /// It is a refusal: not carried out, and no retry helps.
    Refused(Refusal),
    /// Nobody who can be asked knows more.
    Unknown(UnknownReason),
    /// The same request with the same key may get another answer.
    Retry {
        /// Whether this try may have been carried out.
        may_have_executed: bool,
    },
}

impl Policy {
    /// The defaults: `Idempotency-Key`, quoted; a deadline of two minutes, 30 seconds and 10 tries at
    /// most; backoff between 250 ms and 10 s; [`RetryBudget::default`].
    pub fn new() -> Self {
        Self {
            header: HeaderName::from_static("idempotency-key"),
            form: KeyForm::Quoted,
            deadline: Duration::from_secs(120),
            try_timeout: Duration::from_secs(30),
            max_tries: 10,
            backoff: Backoff {
                first: Duration::from_millis(250),
                last: Duration::from_secs(10),
            },
            budget: RetryBudget::default(),
            problem_base: "urn:idem:problem:".to_owned(),
            max_answer_bytes: 1024 * 1024,
        }
    }

    /// The header that carries the key. `Idempotency-Key` unless given.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// How the key stands in its header. Quoted unless given.
    #[must_use]
    pub fn key_form(mut self, form: KeyForm) -> Self {
        self.form = form;
        self
    }

    /// How long an operation may take, all tries and waits together. Then its outcome is
    /// [`Unknown`](crate::Unknown). Two minutes unless given. A deadline longer than the server keeps
    /// keys would let a late try carry the operation out again.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one try may take, until its answer is whole. 30 seconds unless given.
    #[must_use]
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.try_timeout = timeout;
        self
    }

    /// How many times a request is sent at most. 10 unless given; 0 counts as 1.
    #[must_use]
    pub fn max_tries(mut self, tries: u32) -> Self {
        self.max_tries = tries.max(1);
        self
    }

    /// The longest wait after the first try, which doubles with each try, and the longest wait of all.
    /// A wait is drawn between nothing and that. 250 ms and 10 s unless given; an hour at most.
    #[must_use]
    pub fn backoff(mut self, first: Duration, last: Duration) -> Self {
        self.backoff = Backoff {
            first: first.min(LONGEST_BACKOFF),
            last: last.min(LONGEST_BACKOFF),
        };
        self
    }

    /// How many retries each host gets. [`RetryBudget::default`] unless given.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// What the types of the server's problems begin with. `urn:idem:problem:` unless given; the
    /// server's setting is `HttpSettings::problem_base`.
    #[must_use]
    pub fn problem_base(mut self, base: impl Into<String>) -> Self {
        self.problem_base = base.into();
        self
    }

    /// An answer counts when its body is whole, and up to so many bytes are read for that: a body that
    /// breaks off is a lost answer, and is asked for again. What is longer, and `text/event-stream`,
    /// flows to the caller, who sees it break. 1 MiB unless given.
    #[must_use]
    pub fn max_answer_bytes(mut self, bytes: usize) -> Self {
        self.max_answer_bytes = bytes;
        self
    }

    /// Whether a request is an operation that needs a key though none was given: POST and PATCH.
    /// Others are sent as they are, unless they have a key.
    pub fn is_operation(method: &Method) -> bool {
        method == Method::POST || method == Method::PATCH
    }

    /// What an answer means.
    ///
    /// `problem` is what [`Problem::read`] says of its body. `after_an_effect` says whether an earlier
    /// try, with the same key, may have been carried out: a refusal speaks of its own try alone, and a
    /// 409 of a server that names no problem types is "in flight" only if something can be.
    ///
    /// The table, first match counts:
    ///
    /// | answer | verdict |
    /// |---|---|
    /// | 1xx, 2xx, 3xx; `Idempotent-Replayed: true` | answered |
    /// | a problem type of the contract: `in-flight`; `unsettled`, `crashed`, `deadline-exceeded`, unless not `retryable` | retry, may have executed |
    /// | `store-unavailable` | retry, not executed |
    /// | `crashed`, `deadline-exceeded`, not `retryable`; `outcome-unknown` | unknown |
    /// | `not-replayable`, `undecodable` | unknown: the answer is lost |
    /// | every other one | refused; unknown after an effect |
    /// | 408, 409, 425, 429, 5xx, where `retryable` of another problem, `Stripe-Should-Retry` or `X-Should-Retry` is `false` | answered |
    /// | the same, where it is `true` | retry |
    /// | 408, 425, 429 | retry, not executed |
    /// | 409 with `Retry-After`, or after an effect | retry |
    /// | 5xx but for 501 and 505 | retry |
    /// | 401, 407 after an effect | unknown |
    /// | every other one, 422 among them | answered |
    pub fn judge(
        status: StatusCode,
        headers: &HeaderMap,
        problem: Option<&Problem>,
        after_an_effect: bool,
    ) -> Verdict {
        if status.as_u16() < 400 || is_true(headers, &REPLAYED) == Some(true) {
            return Verdict::Answered;
        }
        let retryable = problem.and_then(|it| it.retryable);
        if let Some(refusal) = problem.and_then(|it| it.refusal) {
            return of_refusal(refusal, status, retryable, after_an_effect);
        }
        let hint = retryable.or_else(|| HINTS.iter().find_map(|name| is_true(headers, name)));
        let not_begun = matches!(status.as_u16(), 408 | 425 | 429);
        let retry = Verdict::Retry {
            may_have_executed: !not_begun,
        };
        match (status, hint) {
            _ if !may_change(status) => of_refused_caller(status, after_an_effect),
            (_, Some(false)) => Verdict::Answered,
            (_, Some(true)) => retry,
            (StatusCode::CONFLICT, None) => {
                let in_flight = after_an_effect || headers.contains_key(http::header::RETRY_AFTER);
                if in_flight { retry } else { Verdict::Answered }
            }
            (StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED, None) => {
                Verdict::Answered
            }
            (_, None) => retry,
        }
    }
}

/// Statuses after which another try can get another answer. Never 422 and other 4xx, whatever a hint
/// says.
fn may_change(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 425 | 429) || status.is_server_error()
}

fn of_refusal(
    refusal: Refusal,
    status: StatusCode,
    retryable: Option<bool>,
    after_an_effect: bool,
) -> Verdict {
    let again = retryable != Some(false) && may_change(status);
    match refusal.meaning() {
        Meaning::Begun if again => Verdict::Retry {
            may_have_executed: true,
        },
        Meaning::NotNow if again => Verdict::Retry {
            may_have_executed: false,
        },
        Meaning::Begun | Meaning::NobodyKnows => Verdict::Unknown(UnknownReason::CrashedOnServer),
        Meaning::AnswerLost => Verdict::Unknown(UnknownReason::AnswerLost),
        Meaning::NotNow | Meaning::Refused if after_an_effect => {
            Verdict::Unknown(UnknownReason::RefusedLater(status))
        }
        Meaning::NotNow | Meaning::Refused => Verdict::Refused(refusal),
    }
}

/// Who is not let in learns nothing of what an earlier try did, for which the credentials were good.
fn of_refused_caller(status: StatusCode, after_an_effect: bool) -> Verdict {
    let not_let_in = matches!(status.as_u16(), 401 | 407);
    match not_let_in && after_an_effect {
        true => Verdict::Unknown(UnknownReason::RefusedLater(status)),
        false => Verdict::Answered,
    }
}

fn is_true(headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
    let value = headers.get(name)?.as_bytes().trim_ascii();
    match value {
        _ if value.eq_ignore_ascii_case(b"true") => Some(true),
        _ if value.eq_ignore_ascii_case(b"false") => Some(false),
        _ => None,
    }
}
