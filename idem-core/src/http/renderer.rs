//! What the API sets of refusals: their own shape, and the headers that tell a client whether to
//! retry.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response};

use super::problem::Problem;
use super::request::RequestIdentity;

type Render = dyn Fn(&Problem, Option<&RequestIdentity<'_>>) -> Response<Bytes> + Send + Sync;

/// The API's own shape of refusals.
#[derive(Clone)]
pub(super) struct Renderer(Arc<Render>);

impl Renderer {
    pub(super) fn new(
        render: impl Fn(&Problem, Option<&RequestIdentity<'_>>) -> Response<Bytes>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(render))
    }

    /// The response, unless the renderer panics.
    pub(super) fn render(
        &self,
        problem: &Problem,
        request: Option<&RequestIdentity<'_>>,
    ) -> Option<Response<Bytes>> {
        let rendered = catch_unwind(AssertUnwindSafe(|| (self.0)(problem, request)));
        if rendered.is_err() {
            // The panic's message has gone to the panic hook.
            tracing::error!(
                target: "idem",
                refusal = problem.kind.as_str(),
                "the renderer of refusals panicked; the answer is problem+json instead"
            );
        }
        rendered.ok()
    }
}

impl fmt::Debug for Renderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renderer")
    }
}

/// The headers that say whether a retry can help.
#[derive(Clone, Debug, Default)]
pub(super) struct RetryHints(Vec<HeaderName>);

impl RetryHints {
    pub(super) fn add(&mut self, name: HeaderName) {
        if !self.0.contains(&name) {
            self.0.push(name);
        }
    }

    /// Says it of a refusal, unless its renderer has.
    pub(super) fn of_refusal(&self, headers: &mut HeaderMap, is_retryable: bool) {
        for name in &self.0 {
            if !headers.contains_key(name) {
                Self::put(headers, name, is_retryable);
            }
        }
    }

    /// Says of a stored failure that a retry gets it again.
    pub(super) fn of_replay<B>(&self, response: &mut Response<B>) {
        if response.status().is_server_error() {
            for name in &self.0 {
                Self::put(response.headers_mut(), name, false);
            }
        }
    }

    fn put(headers: &mut HeaderMap, name: &HeaderName, is_retryable: bool) {
        let value = match is_retryable {
            true => "true",
            false => "false",
        };
        // A response with as many headers as there can be goes without a hint.
        let _ = headers.try_insert(name.clone(), HeaderValue::from_static(value));
    }
}
