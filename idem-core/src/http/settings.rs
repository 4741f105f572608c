//! What an engine is told of the HTTP contract.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, Response};

use super::key::KeySyntax;
use super::problem::Problem;
use super::renderer::{Renderer, RetryHints};
use super::request::RequestIdentity;

/// Settings of the HTTP contract.
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpSettings {
    pub(crate) key_syntax: KeySyntax,
    pub(crate) max_request_bytes: usize,
    pub(crate) problem_base: Cow<'static, str>,
    pub(crate) documentation: Option<String>,
    pub(crate) keep_set_cookie: bool,
    pub(super) renderer: Option<Renderer>,
    pub(super) retry_hints: RetryHints,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            key_syntax: KeySyntax::Lenient,
            max_request_bytes: 2 * 1024 * 1024,
            problem_base: Cow::Borrowed("urn:idem:problem:"),
            documentation: None,
            keep_set_cookie: false,
            renderer: None,
            retry_hints: RetryHints::default(),
        }
    }
}

impl HttpSettings {
    /// Every setting at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which forms of the key header are accepted; [`KeySyntax::Lenient`] unless given.
    pub const fn key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.key_syntax = syntax;
        self
    }

    /// The longest request body, in bytes; 2 MiB unless given. A longer one is answered with
    /// 413 before anything is claimed. A framework's own limit applies as well.
    pub const fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// What the `type` URIs of problems begin with; `urn:idem:problem:` unless given. A base of
    /// `https://api.example.com/problems/` gives `https://api.example.com/problems/mismatch`.
    pub fn problem_base(mut self, base: impl Into<Cow<'static, str>>) -> Self {
        self.problem_base = base.into();
        self
    }

    /// Where the API's rules for keys are documented: every problem then carries
    /// `Link: <url>; rel="describedby"`.
    pub fn documentation(mut self, url: impl Into<String>) -> Self {
        self.documentation = Some(url.into());
        self
    }

    /// Whether `Set-Cookie` of the first response is stored and replayed. `false` unless given:
    /// a cookie is a credential.
    pub const fn keep_set_cookie(mut self, keep: bool) -> Self {
        self.keep_set_cookie = keep;
        self
    }

    /// Renders refusals in the API's own shape, in place of problem+json: status, headers and body
    /// are what `render` returns, also for a panic of the handler. It is given the refusal and the
    /// request's head.
    ///
    /// The head is `None` in warp, whose functions do not see the request. gRPC has statuses of its own
    /// and is not rendered.
    ///
    /// `Retry-After` and `Link` are the renderer's to set, too; [`Problem::retry_after_seconds`] has
    /// the value. Whatever is returned, no operation and no layer stores it. A renderer that panics
    /// is answered for with problem+json. It runs on the server's thread and must not block.
    ///
    /// An envelope as Stripe has it. Its clients raise their `IdempotencyError` for a 400 of this
    /// `type`, and an error of the API for a 409. They retry a 409 a few times within some seconds, and
    /// do not look at `Retry-After`: with them take `in_flight = "wait 5s"`, or longer, where a handler
    /// takes longer than a second. The crates `bytes`, `http` and `serde_json` are yours to add:
    ///
    /// ```
    /// # use idem_core as idem;
    /// use idem::http::{HttpSettings, Problem, ProblemKind};
    /// # use bytes::Bytes;
    /// # use http::{Response, StatusCode};
    ///
    /// fn as_stripe(problem: &Problem) -> Response<Bytes> {
    ///     let (status, error_type) = match problem.kind {
    ///         ProblemKind::Mismatch | ProblemKind::OutcomeUnknown | ProblemKind::NotReplayable => {
    ///             (StatusCode::BAD_REQUEST, "idempotency_error")
    ///         }
    ///         ProblemKind::InFlight => (StatusCode::CONFLICT, "idempotency_error"),
    ///         kind if kind.status().is_server_error() => (kind.status(), "api_error"),
    ///         kind => (kind.status(), "invalid_request_error"),
    ///     };
    ///     let code = match problem.kind {
    ///         ProblemKind::InFlight => "idempotency_key_in_use".to_owned(),
    ///         kind => format!("idempotency_{}", kind.as_str().replace('-', "_")),
    ///     };
    ///     let error = serde_json::json!({
    ///         "error": { "type": error_type, "code": code, "message": problem.detail },
    ///     });
    ///     let mut response = Response::new(Bytes::from(error.to_string()));
    ///     *response.status_mut() = status;
    ///     let headers = response.headers_mut();
    ///     headers.insert("content-type", "application/json".parse().unwrap());
    ///     if let Some(seconds) = problem.retry_after_seconds() {
    ///         headers.insert("retry-after", seconds.into());
    ///     }
    ///     response
    /// }
    ///
    /// let settings = HttpSettings::new()
    ///     .retry_hint(http::HeaderName::from_static("stripe-should-retry"))
    ///     .refusals(|problem, _| as_stripe(problem));
    /// let mismatch = Problem::new(ProblemKind::Mismatch, "the key was used before");
    /// let response = mismatch.into_response(&settings);
    /// assert_eq!(response.status(), 400);
    /// assert_eq!(response.headers()["stripe-should-retry"], "false");
    /// # let body = std::str::from_utf8(response.body()).unwrap();
    /// # assert!(body.contains("\"type\":\"idempotency_error\""), "{body}");
    /// # let in_flight = idem_core::Error::InFlight { retry_after: std::time::Duration::from_millis(1) };
    /// # let response = Problem::from(&in_flight).into_response(&settings);
    /// # assert_eq!(response.status(), 409);
    /// # assert_eq!(response.headers()["retry-after"], "1");
    /// # assert_eq!(response.headers()["stripe-should-retry"], "true");
    /// ```
    ///
    /// The flat error of the Agentic Commerce Protocol (ACP), with the codes that it names for keys:
    ///
    /// ```
    /// # use idem_core as idem;
    /// use idem::http::{HttpSettings, Problem, ProblemKind};
    /// # use bytes::Bytes;
    /// # use http::Response;
    ///
    /// fn as_acp(problem: &Problem) -> Response<Bytes> {
    ///     let status = problem.kind.status();
    ///     let code = match problem.kind {
    ///         ProblemKind::KeyMissing => "idempotency_key_required",
    ///         ProblemKind::Mismatch => "idempotency_conflict",
    ///         ProblemKind::InFlight => "idempotency_in_flight",
    ///         kind => kind.as_str(),
    ///     };
    ///     let error_type = match status.as_u16() {
    ///         503 => "service_unavailable",
    ///         500.. => "processing_error",
    ///         _ => "invalid_request",
    ///     };
    ///     let error = serde_json::json!({
    ///         "type": error_type, "code": code, "message": problem.detail,
    ///     });
    ///     let mut response = Response::new(Bytes::from(error.to_string()));
    ///     *response.status_mut() = status;
    ///     let headers = response.headers_mut();
    ///     headers.insert("content-type", "application/json".parse().unwrap());
    ///     if let Some(seconds) = problem.retry_after_seconds() {
    ///         headers.insert("retry-after", seconds.into());
    ///     }
    ///     response
    /// }
    ///
    /// let settings = HttpSettings::new().refusals(|problem, _| as_acp(problem));
    /// # let mismatch = Problem::new(ProblemKind::Mismatch, "the key was used before");
    /// # let response = mismatch.into_response(&settings);
    /// # assert_eq!(response.status(), 422);
    /// # let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    /// # assert_eq!(body["type"], "invalid_request");
    /// # assert_eq!(body["code"], "idempotency_conflict");
    /// # assert_eq!(body["message"], "the key was used before");
    /// ```
    pub fn refusals(
        mut self,
        render: impl Fn(&Problem, Option<&RequestIdentity<'_>>) -> Response<Bytes>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.renderer = Some(Renderer::new(render));
        self
    }

    /// Adds a response header that tells clients whether a retry can help: `true` or `false` on
    /// every refusal, as [`ProblemKind::is_retryable`] says, and `false` on the replay of a stored
    /// 5xx. None unless given; may be called for several names, such as `stripe-should-retry` and
    /// `x-should-retry`. A renderer that sets the header itself has the last word.
    ///
    /// [`ProblemKind::is_retryable`]: super::ProblemKind::is_retryable
    pub fn retry_hint(mut self, header: HeaderName) -> Self {
        self.retry_hints.add(header);
        self
    }

    /// Whether refusals are rendered by the API, which may ask for the request's head.
    #[doc(hidden)]
    pub const fn renders_refusals(&self) -> bool {
        self.renderer.is_some()
    }

    /// The longest request body, in bytes.
    pub const fn request_limit(&self) -> usize {
        self.max_request_bytes
    }

    /// The accepted key syntax.
    pub const fn accepted_keys(&self) -> KeySyntax {
        self.key_syntax
    }
}
