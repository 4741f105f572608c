//! A refusal's response: in the API's own shape where it has one, else `application/problem+json`
//! (RFC 9457).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LINK, RETRY_AFTER};
use http::{HeaderValue, Response};

use super::problem::Problem;
use super::request::RequestIdentity;
use super::settings::HttpSettings;

impl Problem {
    /// The answer, complete, where the request is not known. Its [`ProblemKind`](super::ProblemKind) is among its
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
        hints.of_refusal(response.headers_mut(), self.retryable);
        response
    }

    fn as_problem_json(&self, settings: &HttpSettings) -> Response<Bytes> {
        let (word, status, title) = self.kind.facts();
        let body = serde_json::json!({
            "type": format!("{}{word}", settings.problem_base),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
            "retryable": self.retryable,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::error::Error;
    use crate::http::problem::ProblemKind;
    use crate::key::KeyError;
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
