//! What the attribute writes calls to: a request captured, admitted, and run.
//!
//! This file translates between axum's types and [`idem_core::http`]; it decides nothing.

use std::future::Future;
use std::pin::Pin;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, OriginalUri, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use idem_core::http::{
    HttpSettings, Problem, RequestIdentity, capture, collect_body, parse_key, replay,
};
use idem_core::{Begun, Engine, Error, Execution, Key, KeyError, Unprotected, Verdict};

use crate::__private::{KeySource, Plan, operation};

/// A request on its way to an idempotent handler: its head has been read by the head
/// extractors, its body waits. `B` is the handler's last extractor.
pub struct Captured<B> {
    inner: Box<Inner<B>>,
}

pub struct Inner<B> {
    head: Parts,
    body: RequestBody,
    last: Last<B>,
}

enum RequestBody {
    Unread(Body),
    Read(Bytes),
}

type Extracting<B> = Pin<Box<dyn Future<Output = Result<B, Response>> + Send>>;

/// The last extractor: it has run with the head, or waits for the whole request.
pub enum Last<B> {
    Ready(B),
    Deferred(Box<dyn FnOnce(Request) -> Extracting<B> + Send>),
}

/// Marks a last extractor that reads the request's head only: it runs with the others.
#[derive(Debug)]
pub struct Head;

/// Marks a last extractor that reads the whole request: it is deferred.
#[derive(Debug)]
pub struct Whole;

impl<S, B> FromRequest<S, Head> for Captured<B>
where
    S: Send + Sync,
    B: FromRequestParts<S> + Send,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut head, body) = request.into_parts();
        match B::from_request_parts(&mut head, state).await {
            Ok(value) => Ok(Self::new(head, body, Last::Ready(value))),
            Err(rejection) => Err(rejection.into_response()),
        }
    }
}

impl<S, B> FromRequest<S, Whole> for Captured<B>
where
    S: Clone + Send + Sync + 'static,
    B: FromRequest<S> + 'static,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (head, body) = request.into_parts();
        let state = state.clone();
        let last = Last::Deferred(Box::new(move |request| {
            Box::pin(async move {
                B::from_request(request, &state)
                    .await
                    .map_err(IntoResponse::into_response)
            })
        }));
        Ok(Self::new(head, body, last))
    }
}

impl<B> Captured<B> {
    fn new(head: Parts, body: Body, last: Last<B>) -> Self {
        Self {
            inner: Box::new(Inner {
                head,
                body: RequestBody::Unread(body),
                last,
            }),
        }
    }
}

pub mod debug_handler_goes_below_idempotent {
    //! The path is the message: it is all that `#[debug_handler]` above `#[idempotent]` shows of
    //! a handler without arguments, which has one when it is expanded.

    use super::{FromRequestParts, Parts};

    /// The last extractor of a handler that has none.
    #[derive(Debug)]
    pub struct NoArgument;

    impl<S: Send + Sync> FromRequestParts<S> for NoArgument {
        type Rejection = std::convert::Infallible;

        async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
            Ok(Self)
        }
    }
}

impl<B: Send + 'static> Captured<B> {
    /// Runs the last extractor now, because the key, the scope, the fingerprint or the engine
    /// names what it binds. Nothing is claimed yet.
    pub async fn extract(self) -> Result<(Captured<()>, B), Response> {
        let Inner { head, body, last } = *self.inner;
        let body = match engine_of(&head) {
            Ok(engine) => read(body, engine.http()).await?,
            Err(_) => read(body, &HttpSettings::default()).await?,
        };
        let value = match last {
            Last::Ready(value) => value,
            Last::Deferred(extract) => {
                extract(Request::from_parts(head.clone(), Body::from(body.clone()))).await?
            }
        };
        let inner = Inner {
            head,
            body: RequestBody::Read(body),
            last: Last::Ready(()),
        };
        let rest = Captured {
            inner: Box::new(inner),
        };
        Ok((rest, value))
    }

    /// Decides whether the handler runs. An `Err` is the answer without it.
    pub async fn admit(self, plan: Plan) -> Result<Admitted<B>, Response> {
        let Inner { head, body, last } = *self.inner;
        let engine = match plan.engine.map_or_else(|| engine_of(&head), Ok) {
            Ok(engine) => engine,
            Err(error) => return Err(refuse(&error, &HttpSettings::default())),
        };
        let settings = engine.http();
        let refuse = |error: Error| refuse(&error, settings);

        let key = match plan.key {
            KeySource::Value(key) => key,
            KeySource::Header(name) => {
                parse_key(head.headers.get_all(name), settings.accepted_keys())
                    .and_then(|key| Key::of(&key))
            }
        };
        if !plan.required && key == Err(KeyError::Missing) {
            return Ok(Admitted::Unprotected(
                Unprotected::without_key(),
                Box::new(Inner { head, body, last }),
            ));
        }
        let operation =
            operation(Ok(engine.clone()), plan.name, plan.policy, plan.scope).map_err(refuse)?;
        let keyed = operation.keyed(key).map_err(refuse)?;
        let identity = RequestIdentity {
            method: &head.method,
            uri: original_uri(&head),
            headers: &head.headers,
        };
        let (fingerprint, body) = match plan.fingerprint {
            Some(parts) => {
                let parts = parts.map_err(|error| refuse(error.into()))?;
                (identity.fingerprint_of(operation.has_scope(), parts), body)
            }
            None => {
                let body = read(body, settings).await?;
                let fingerprint = identity.fingerprint(operation.has_scope(), &body);
                (fingerprint, RequestBody::Read(body))
            }
        };
        match keyed.begin(fingerprint).await.map_err(refuse)? {
            Begun::Replay(outcome) => match replay(&outcome) {
                Ok(response) => Err(response.map(Body::from)),
                Err(error) => Err(refuse(error.into())),
            },
            Begun::Unprotected(unprotected) => Ok(Admitted::Unprotected(
                unprotected,
                Box::new(Inner { head, body, last }),
            )),
            Begun::Execute(execution) => Ok(Admitted::Execute(Box::new(Executable {
                execution,
                engine,
                release: plan.release,
                request: Inner { head, body, last },
            }))),
        }
    }
}

/// The right to run the handler.
pub enum Admitted<B> {
    /// Once, on a task of its own, and store its response.
    Execute(Box<Executable<B>>),
    /// As if the attribute were not there.
    Unprotected(Unprotected, Box<Inner<B>>),
}

pub struct Executable<B> {
    execution: Execution,
    engine: Engine,
    release: &'static [u16],
    request: Inner<B>,
}

impl<B: Send + 'static> Admitted<B> {
    /// Runs the last extractor, then the handler, and answers. The handler's future is boxed
    /// where it is made, and never moved again.
    pub fn run<F, Fut>(self, handler: F) -> impl Future<Output = Response> + Send
    where
        F: FnOnce(B) -> Fut + Send + 'static,
        Fut: Future<Output: IntoResponse> + Send + 'static,
    {
        let answer: Pin<Box<dyn Future<Output = Response> + Send>> = match self {
            Self::Execute(executable) => Box::pin(executable.run(handler)),
            Self::Unprotected(unprotected, request) => Box::pin(unprotected.drive(async move {
                match request.extract().await {
                    Ok(last) => Box::pin(handler(last)).await.into_response(),
                    Err(rejection) => rejection,
                }
            })),
        };
        answer
    }
}

impl<B: Send + 'static> Executable<B> {
    fn run<F, Fut>(self, handler: F) -> impl Future<Output = Response> + Send
    where
        F: FnOnce(B) -> Fut + Send + 'static,
        Fut: Future<Output: IntoResponse> + Send + 'static,
    {
        let Self {
            execution,
            engine,
            release,
            request,
        } = self;
        let settings = engine.clone();
        let running = execution.drive_detached(async move {
            let last = match request.extract().await {
                Ok(last) => last,
                Err(rejection) => return (Verdict::Released, rejection),
            };
            let response = Box::pin(handler(last)).await.into_response();
            let limit = engine.max_outcome_bytes();
            let (verdict, response) = capture(response, release, limit, engine.http()).await;
            (verdict, response.map(Body::new))
        });
        async move {
            match running.await {
                Ok(response) => response,
                // The panic's message has gone to the panic hook, and is not for clients.
                Err(_) => answer(Problem::crashed(), settings.http()),
            }
        }
    }
}

impl<B> Inner<B> {
    async fn extract(self) -> Result<B, Response> {
        match self.last {
            Last::Ready(value) => Ok(value),
            Last::Deferred(extract) => {
                let body = match self.body {
                    RequestBody::Unread(body) => body,
                    RequestBody::Read(bytes) => Body::from(bytes),
                };
                extract(Request::from_parts(self.head, body)).await
            }
        }
    }
}

/// The engine of a request's extensions, else the installed one.
fn engine_of(head: &Parts) -> Result<Engine, Error> {
    head.extensions
        .get::<Engine>()
        .cloned()
        .map_or_else(Engine::installed, Ok)
}

/// The path before any router took a prefix away.
fn original_uri(head: &Parts) -> &Uri {
    head.extensions
        .get::<OriginalUri>()
        .map_or(&head.uri, |OriginalUri(uri)| uri)
}

async fn read(body: RequestBody, settings: &HttpSettings) -> Result<Bytes, Response> {
    match body {
        RequestBody::Read(bytes) => Ok(bytes),
        RequestBody::Unread(body) => collect_body(body, settings.request_limit())
            .await
            .map_err(|error| answer(error.into(), settings)),
    }
}

fn refuse(error: &Error, settings: &HttpSettings) -> Response {
    crate::report_misconfiguration(error);
    answer(error.into(), settings)
}

fn answer(problem: Problem, settings: &HttpSettings) -> Response {
    problem.into_response(settings).map(Body::from)
}
