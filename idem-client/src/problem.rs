//! The wire words: what a refusal of the server half says of itself (RFC 9457).

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// What a refusal says, read from an `application/problem+json` body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The refusal, where its `type` is one of the contract's.
    pub refusal: Option<Refusal>,
    /// The member `retryable`: whether the same request with the same key can get another answer.
    pub retryable: Option<bool>,
}

/// A refusal of the contract: an answer that is the server library's own, and not the operation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// `key-missing`: the server wants a key, and got none.
    KeyMissing,
    /// `key-invalid`: the server takes no such key.
    KeyInvalid,
    /// `scope-invalid`: whose key it is could not be told.
    ScopeInvalid,
    /// `body-unreadable`: the body broke off on its way.
    BodyUnreadable,
    /// `body-too-large`: the body is over the server's limit.
    BodyTooLarge,
    /// `mismatch`: the key was used for another request.
    Mismatch,
    /// `in-flight`: an attempt of this operation is running.
    InFlight,
    /// `outcome-unknown`: an attempt crashed, and nobody has said yet what it did.
    OutcomeUnknown,
    /// `not-replayable`: executed, and its answer was not kept.
    NotReplayable,
    /// `undecodable`: executed, and its answer cannot be read.
    Undecodable,
    /// `crashed`: the handler failed half-way.
    Crashed,
    /// `commit-refused`: everything was rolled back.
    CommitRefused,
    /// `misconfigured`: the server's own mistake; not executed.
    Misconfigured,
    /// `store-unavailable`: this request was not executed.
    StoreUnavailable,
    /// `deadline-exceeded`: the handler was stopped half-way.
    DeadlineExceeded,
    /// `unsettled`: whether it was executed is not known yet.
    Unsettled,
}

/// What a refusal means for the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// This try was not executed, and no later one will be.
    Refused,
    /// This try was not executed; a later one may be.
    NotNow,
    /// An attempt has begun, and has an outcome later.
    Begun,
    /// It has been executed, and what it answered is lost.
    AnswerLost,
    /// It may have been executed, and only a person can say.
    NobodyKnows,
}

impl Refusal {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::ScopeInvalid,
        Self::BodyUnreadable,
        Self::BodyTooLarge,
        Self::Mismatch,
        Self::InFlight,
        Self::OutcomeUnknown,
        Self::NotReplayable,
        Self::Undecodable,
        Self::Crashed,
        Self::CommitRefused,
        Self::Misconfigured,
        Self::StoreUnavailable,
        Self::DeadlineExceeded,
        Self::Unsettled,
    ];

    /// The last part of the problem's `type`.
    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    pub(crate) const fn meaning(self) -> Meaning {
        self.facts().1
    }

    const fn facts(self) -> (&'static str, Meaning) {
        match self {
            Self::KeyMissing => ("key-missing", Meaning::Refused),
            Self::KeyInvalid => ("key-invalid", Meaning::Refused),
            Self::ScopeInvalid => ("scope-invalid", Meaning::Refused),
            Self::BodyUnreadable => ("body-unreadable", Meaning::Refused),
            Self::BodyTooLarge => ("body-too-large", Meaning::Refused),
            Self::Mismatch => ("mismatch", Meaning::Refused),
            Self::InFlight => ("in-flight", Meaning::Begun),
            Self::OutcomeUnknown => ("outcome-unknown", Meaning::NobodyKnows),
            Self::NotReplayable => ("not-replayable", Meaning::AnswerLost),
            Self::Undecodable => ("undecodable", Meaning::AnswerLost),
            Self::Crashed => ("crashed", Meaning::Begun),
            Self::CommitRefused => ("commit-refused", Meaning::Refused),
            Self::Misconfigured => ("misconfigured", Meaning::Refused),
            Self::StoreUnavailable => ("store-unavailable", Meaning::NotNow),
            Self::DeadlineExceeded => ("deadline-exceeded", Meaning::Begun),
            Self::Unsettled => ("unsettled", Meaning::Begun),
        }
    }
}

impl Problem {
    /// Whether an answer with these headers has a problem as its body.
    pub fn is_announced_by(headers: &HeaderMap) -> bool {
        let value = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let essence = value.and_then(|it| it.split(';').next());
        essence.is_some_and(|it| it.trim().eq_ignore_ascii_case("application/problem+json"))
    }

    /// Reads an answer's body. `None` where it is no problem.
    pub fn read(headers: &HeaderMap, body: &[u8], type_base: &str) -> Option<Self> {
        if !Self::is_announced_by(headers) {
            return None;
        }
        let problem: Value = serde_json::from_slice(body).ok()?;
        let problem = problem.as_object()?;
        let word = problem
            .get("type")
            .and_then(Value::as_str)
            .and_then(|it| it.strip_prefix(type_base));
        let known = |word| Refusal::ALL.into_iter().find(|it| it.as_str() == word);
        Some(Self {
            refusal: word.and_then(known),
            retryable: problem.get("retryable").and_then(Value::as_bool),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use idem_core::http::{HttpSettings, Problem as Served, ProblemKind};

    use super::*;

    #[test]
    fn every_refusal_that_the_server_sends_is_read() {
        let kinds = [
            ProblemKind::KeyMissing,
            ProblemKind::KeyInvalid,
            ProblemKind::ScopeInvalid,
            ProblemKind::BodyUnreadable,
            ProblemKind::BodyTooLarge,
            ProblemKind::Mismatch,
            ProblemKind::InFlight,
            ProblemKind::OutcomeUnknown,
            ProblemKind::NotReplayable,
            ProblemKind::Undecodable,
            ProblemKind::Crashed,
            ProblemKind::CommitRefused,
            ProblemKind::Misconfigured,
            ProblemKind::StoreUnavailable,
            ProblemKind::DeadlineExceeded,
            ProblemKind::Unsettled,
        ];
        assert_eq!(kinds.len(), Refusal::ALL.len());
        for base in ["urn:idem:problem:", "https://api.example/problems/"] {
            let settings = HttpSettings::new().problem_base(base);
            for (kind, refusal) in kinds.into_iter().zip(Refusal::ALL) {
                let answer = Served::new(kind, "").into_response(&settings);
                let problem = Problem::read(answer.headers(), answer.body(), base).unwrap();
                assert_eq!(problem.refusal, Some(refusal));
                assert_eq!(problem.retryable, Some(kind.is_retryable()));
                let tried_again = matches!(refusal.meaning(), Meaning::NotNow | Meaning::Begun);
                assert_eq!(tried_again, kind.is_retryable(), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_no_problem_is_none() {
        let headers =
            |value| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
        let problem = headers("Application/Problem+JSON; charset=utf-8");
        let body = br#"{"type":"urn:idem:problem:mismatch","retryable":"no"}"#;
        let read = Problem::read(&problem, body, "urn:idem:problem:").unwrap();
        assert_eq!(
            (read.refusal, read.retryable),
            (Some(Refusal::Mismatch), None)
        );
        let read = Problem::read(&problem, body, "https://other/").unwrap();
        assert_eq!(read.refusal, None);
        for (headers, body) in [
            (headers("application/json"), &body[..]),
            (HeaderMap::new(), &body[..]),
            (problem.clone(), &b"{"[..]),
            (problem, &b"[]"[..]),
        ] {
            assert_eq!(Problem::read(&headers, body, "urn:idem:problem:"), None);
        }
    }
}
