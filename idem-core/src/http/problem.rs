//! Refusals as `application/problem+json` (RFC 9457).

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LINK, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::request::RequestIdentity;
use super::settings::HttpSettings;
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
    /// 500: the handler panicked.
    Crashed,
    /// 500: the database refused to commit what the handler wrote; everything was rolled back.
    CommitRefused,
    /// 500: the server's own mistake: no engine, a name used twice, a runtime without timers.
    Misconfigured,
    /// 503 with `Retry-After`: the store cannot answer, so this request was not executed.
    StoreUnavailable,
    /// 503 with `Retry-After`: whether a transaction was committed is not known yet.
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
        matches!(self, Self::Crashed | Self::Unsettled)
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
            Self::InFlight | Self::Crashed | Self::StoreUnavailable | Self::Unsettled
        )
    }

    const fn facts(self) -> (&'static str, StatusCode, &'static str) {
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
}

impl Problem {
    /// A problem without `Retry-After`.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The handler panicked. What it said stays in the server's log.
    pub fn crashed() -> Self {
        Self::new(
            ProblemKind::Crashed,
            "the request failed while it was executed, and may have had an effect; a retry with the same key runs it again or is refused, as the operation says",
        )
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
        }
    }

    /// The seconds to wait before a retry, as `Retry-After` has them: rounded up, and at least 1.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(whole_seconds)
    }

    /// The answer, complete, where the request is not known. Its [`ProblemKind`] is among its
    /// extensions: by it a layer, or an operation whose handler passes the answer on, knows that it is
    /// a refusal, and keeps none.
    pub fn into_response(self, settings: &HttpSettings) -> Response<Bytes> {
        self.respond(None, settings)
    }

    /// The same to a request, whose head the API's [renderer](HttpSettings::refusals) is given.
    pub fn into_response_to(
        self,
        request: &RequestIdentity<'_>,
        settings: &HttpSettings,
    ) -> Response<Bytes> {
        self.respond(Some(request), settings)
    }

    fn respond(
        &self,
        request: Option<&RequestIdentity<'_>>,
        settings: &HttpSettings,
    ) -> Response<Bytes> {
        let renderer = settings.renderer.as_ref();
        let rendered = renderer.and_then(|renderer| renderer.render(self, request));
        let mut response = rendered.unwrap_or_else(|| self.as_problem_json(settings));
        response.extensions_mut().insert(self.kind);
        let hints = &settings.retry_hints;
        hints.of_refusal(response.headers_mut(), self.kind.is_retryable());
        response
    }

    fn as_problem_json(&self, settings: &HttpSettings) -> Response<Bytes> {
        let (word, status, title) = self.kind.facts();
        let body = serde_json::json!({
            "type": format!("{}{word}", settings.problem_base),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
            "retryable": self.kind.is_retryable(),
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let link = settings
            .documentation
            .as_ref()
            .map(|url| HeaderValue::try_from(format!("<{url}>; rel=\"describedby\"")));
        if let Some(Ok(link)) = link {
            headers.insert(LINK, link);
        }
        response
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
            Error::Unsettled(_) => ProblemKind::Unsettled,
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
            Error::Unsettled(_) => UNSETTLED.to_owned(),
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
            Error::Store(_) | Error::Unsettled(_) => Some(STORE_RETRY_AFTER),
            _ => None,
        };
        Self {
            kind,
            detail,
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{NotReplayable, Undecodable};
    use crate::store::StoreError;

    #[test]
    fn every_refusal_has_its_status_and_type() {
        let in_flight = Error::InFlight {
            retry_after: Duration::from_millis(1500),
        };
        let refused = Error::CommitRefused(std::sync::Arc::new(std::fmt::Error));
        let full = Error::Store(StoreError::Full {
            store: "memory",
            max_bytes: Some(7),
        });
        let cases = [
            (Error::Key(KeyError::Missing), 400, "key-missing", None),
            (Error::Key(KeyError::Malformed), 400, "key-invalid", None),
            (Error::Scope(KeyError::Rejected), 400, "scope-invalid", None),
            (Error::Mismatch, 422, "mismatch", None),
            (in_flight, 409, "in-flight", Some("2")),
            (
                Error::OutcomeUnknown { attempt: 1 },
                409,
                "outcome-unknown",
                None,
            ),
            (
                Error::NotReplayable(NotReplayable::Streamed),
                409,
                "not-replayable",
                None,
            ),
            (Error::Undecodable(Undecodable), 500, "undecodable", None),
            (full, 503, "store-unavailable", Some("1")),
            (refused, 500, "commit-refused", None),
            (Error::NoEngine, 500, "misconfigured", None),
        ];
        let settings = HttpSettings::new()
            .problem_base("https://api.example/p/")
            .documentation("https://api.example/docs");
        for (error, status, word, retry_after) in cases {
            let response = Problem::from(&error).into_response(&settings);
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(body["status"], status);
            assert_eq!(body["type"], format!("https://api.example/p/{word}"));
            assert!(body["title"].is_string() && body["detail"].is_string());
            let header = |name| {
                response
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap())
            };
            assert_eq!(header(CONTENT_TYPE), Some("application/problem+json"));
            assert_eq!(header(RETRY_AFTER), retry_after);
            assert_eq!(
                header(LINK),
                Some("<https://api.example/docs>; rel=\"describedby\"")
            );
        }
    }

    #[test]
    fn a_renderer_shapes_the_answer_and_not_what_it_is() {
        let settings = HttpSettings::new()
            .retry_hint(http::HeaderName::from_static("x-should-retry"))
            .refusals(|problem, request| {
                assert!(request.is_none(), "a panic of the renderer");
                let mut response = Response::new(Bytes::from(problem.kind.title()));
                *response.status_mut() = StatusCode::IM_A_TEAPOT;
                response
            });
        let rendered = Problem::from(&Error::Mismatch).into_response(&settings);
        assert_eq!(rendered.status(), 418);
        assert_eq!(
            rendered.body(),
            "Idempotency key was used for another request"
        );
        assert!(rendered.headers().get(CONTENT_TYPE).is_none());
        assert_eq!(rendered.headers()["x-should-retry"], "false");
        let marked = rendered.extensions().get::<ProblemKind>();
        assert_eq!(marked, Some(&ProblemKind::Mismatch));

        let head = http::Request::new(()).into_parts().0;
        let request = RequestIdentity {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
        };
        let fallen_back = Problem::from(&Error::Mismatch).into_response_to(&request, &settings);
        assert_eq!(fallen_back.status(), 422);
        assert_eq!(
            fallen_back.headers()[CONTENT_TYPE],
            "application/problem+json"
        );
        let marked = fallen_back.extensions().get::<ProblemKind>();
        assert_eq!(marked, Some(&ProblemKind::Mismatch));
    }

    #[test]
    fn a_hint_says_whether_a_retry_can_help() {
        let settings = HttpSettings::new()
            .retry_hint(http::HeaderName::from_static("stripe-should-retry"))
            .retry_hint(http::HeaderName::from_static("x-should-retry"));
        let in_flight = Error::InFlight {
            retry_after: Duration::ZERO,
        };
        let overloaded = Error::Store(StoreError::Overloaded { store: "memory" });
        let away = StoreError::TimedOut {
            store: "memory",
            after: Duration::from_secs(5),
        };
        for (error, hint) in [
            (in_flight, "true"),
            (overloaded, "true"),
            (Error::Unsettled(away), "true"),
            (Error::Mismatch, "false"),
            (Error::OutcomeUnknown { attempt: 1 }, "false"),
            (Error::NotReplayable(NotReplayable::TooLarge), "false"),
            (Error::Key(KeyError::Missing), "false"),
        ] {
            let response = Problem::from(&error).into_response(&settings);
            assert_eq!(response.headers()["stripe-should-retry"], hint, "{error}");
            assert_eq!(response.headers()["x-should-retry"], hint, "{error}");
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["retryable"].to_string(), hint, "{error}");
            let after = response.headers().get(RETRY_AFTER);
            assert_eq!(after.is_some(), hint == "true", "{error}");
            assert!(after.is_none_or(|after| after == "1"));
        }
    }

    #[test]
    fn a_refusal_says_what_this_request_did() {
        let away = Error::Store(StoreError::TimedOut {
            store: "memory",
            after: Duration::from_secs(5),
        });
        let detail = |problem: Problem| problem.detail;
        for error in [&away, &Error::NoEngine] {
            let detail = detail(Problem::from(error));
            assert!(
                detail.starts_with("this request was not executed"),
                "{detail}"
            );
        }
        assert!(away.to_string().starts_with("this call was not executed"));
        let rolled_back = detail(Problem::not_committed(&away));
        assert!(rolled_back.contains("rolled back"), "{rolled_back}");
        // Any other refusal says the same before and after a body.
        let mismatch = Problem::not_committed(&Error::Mismatch);
        assert_eq!(mismatch, Problem::from(&Error::Mismatch));
    }
}
