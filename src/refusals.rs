//! Answers that are the library's own, to one request: by its engine's settings, and with its head
//! where the API renders refusals itself.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Response, Uri};
use idem_core::http::{HttpSettings, Problem, RequestIdentity, replay_under};
use idem_core::{Engine, Error, Outcome};

use crate::captured_request::CapturedRequest;

/// Answers one request, also when its handler has taken it.
#[derive(Clone)]
pub(crate) struct Refusals {
    engine: Engine,
    /// Whether a crash is followed by another run.
    runs_again: bool,
    /// Kept only where a renderer may ask for it.
    head: Option<Arc<Head>>,
}

struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn identity(&self) -> RequestIdentity<'_> {
        RequestIdentity {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
        }
    }
}

impl Refusals {
    pub(crate) fn to(request: &impl CapturedRequest, engine: Engine, runs_again: bool) -> Self {
        let head = engine.http().renders_refusals().then(|| {
            let identity = request.identity();
            Arc::new(Head {
                method: identity.method.clone(),
                uri: identity.uri.clone(),
                headers: identity.headers.clone(),
            })
        });
        Self {
            engine,
            runs_again,
            head,
        }
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn settings(&self) -> &HttpSettings {
        self.engine.http()
    }

    pub(crate) fn problem(&self, problem: Problem) -> Response<Bytes> {
        match &self.head {
            Some(head) => problem.into_response_to(&head.identity(), self.settings()),
            None => problem.into_response(self.settings()),
        }
    }

    /// The attempt ended without an outcome.
    pub(crate) fn crashed(&self, problem: Problem) -> Response<Bytes> {
        self.problem(match self.runs_again {
            true => problem,
            false => problem.not_run_again(),
        })
    }

    /// Another attempt is running.
    pub(crate) fn in_flight(&self) -> Response<Bytes> {
        self.error(&self.engine.in_flight())
    }

    pub(crate) fn error(&self, error: &Error) -> Response<Bytes> {
        crate::report_misconfiguration(error);
        self.problem(Problem::from(error))
    }

    /// The same, where a key that is wrong comes from this header.
    pub(crate) fn error_of_key(
        &self,
        error: &Error,
        header: Option<&HeaderName>,
    ) -> Response<Bytes> {
        let Some(header) = header else {
            return self.error(error);
        };
        crate::report_misconfiguration(error);
        self.problem(Problem::from(error).of_a_key_in(&format!("the header `{header}`")))
    }

    /// A stored outcome as an answer.
    pub(crate) fn replayed_response(&self, outcome: &Outcome) -> Response<Bytes> {
        replay_under(outcome, self.settings()).unwrap_or_else(|error| self.error(&error.into()))
    }
}
