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
    pub async fn extract(self, engine: Option<Engine>) -> Result<(Captured<()>, B), Response> {
        let mut request = self.inner;
        let body = match engine.map_or_else(|| engine_of(&request.head), Ok) {
            Ok(engine) => request.read(engine.http()).await?,
            // The engine may be named by what is read here; without any, `admit` refuses.
            Err(_) => request.read(&HttpSettings::default()).await?,
        };
        let Inner { head, last, .. } = *request;
        let value = match last {
            Last::Ready(value) => value,
            Last::Deferred(extract) => {
                extract(Request::from_parts(head.clone(), Body::from(body.clone()))).await?
            }
        };
        let rest = Captured {
            inner: Box::new(Inner {
                head,
                body: RequestBody::Read(body),
                last: Last::Ready(()),
            }),
        };
        Ok((rest, value))
    }

    /// Decides whether the handler runs. An `Err` is the answer without it.
    pub async fn admit(self, plan: Plan) -> Result<Admitted<B>, Response> {
        let mut request = self.inner;
        let engine = match plan.engine.map_or_else(|| engine_of(&request.head), Ok) {
            Ok(engine) => engine,
            Err(error) => return Err(refuse(&error, &HttpSettings::default())),
        };
        let settings = engine.http();
        let refuse = |error: Error| refuse(&error, settings);

        let key = match plan.key {
            KeySource::Value(key) => key,
            KeySource::Header(name) => {
                parse_key(request.head.headers.get_all(name), settings.accepted_keys())
                    .and_then(|key| Key::of(&key))
            }
        };
        let operation =
            operation(Ok(engine.clone()), plan.name, plan.policy, plan.scope).map_err(refuse)?;
        if !plan.required && key == Err(KeyError::Missing) {
            let permit = Permit::Unprotected(operation.unprotected());
            return Ok(Admitted {
                permit,
                engine,
                request,
            });
        }
        let keyed = operation.keyed(key).map_err(refuse)?;
        let body = request.read(settings).await?;
        let identity = RequestIdentity {
            method: &request.head.method,
            uri: original_uri(&request.head),
            headers: &request.head.headers,
        };
        let fingerprint = match plan.fingerprint {
            Some(parts) => {
                let parts = parts.map_err(|error| refuse(error.into()))?;
                identity.fingerprint_of(operation.has_scope(), parts)
            }
            None => identity.fingerprint(operation.has_scope(), &body),
        };
        // Boxed: it is large, and gone before the handler runs.
        let begun = Box::pin(keyed.begin(fingerprint)).await;
        let permit = match begun.map_err(refuse)? {
            Begun::Execute(execution) => Permit::Execute(execution, plan.release),
            Begun::Unprotected(unprotected) => Permit::Unprotected(unprotected),
            Begun::Replay(outcome) => {
                return Err(match replay(&outcome) {
                    Ok(response) => response.map(Body::from),
                    Err(error) => refuse(error.into()),
                });
            }
        };
        Ok(Admitted {
            permit,
            engine,
            request,
        })
    }
}

/// The right to run the handler.
pub struct Admitted<B> {
    permit: Permit,
    engine: Engine,
    request: Box<Inner<B>>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "the rare variant is the small one"
)]
enum Permit {
    /// Once, and store the response unless its status is listed.
    Execute(Execution, &'static [u16]),
    /// As if the attribute were not there.
    Unprotected(Unprotected),
}

impl<B: Send + 'static> Admitted<B> {
    /// Runs the last extractor, then the handler, on a task of their own, and answers. The
    /// handler's future is boxed where it is made, and never moved again.
    pub async fn run<F, Fut>(self, handler: F) -> Response
    where
        F: FnOnce(B) -> Fut + Send + 'static,
        Fut: Future<Output: IntoResponse> + Send + 'static,
    {
        let Self {
            permit,
            engine,
            request,
        } = self;
        let settings = engine.clone();
        let respond = async move {
            let last = request.extract().await?;
            Ok::<_, Response>(Box::pin(handler(last)).await.into_response())
        };
        let ended = match permit {
            Permit::Unprotected(unprotected) => {
                let body = async move { respond.await.unwrap_or_else(|rejection| rejection) };
                unprotected.drive_detached(Box::pin(body)).await
            }
            Permit::Execute(execution, release) => {
                let body = async move {
                    let response = match respond.await {
                        Ok(response) => response,
                        Err(rejection) => return (Verdict::Released, rejection),
                    };
                    let limit = engine.max_outcome_bytes();
                    let (verdict, response) =
                        capture(response, release, limit, engine.http()).await;
                    (verdict, response.map(Body::new))
                };
                execution.drive_detached(Box::pin(body)).await
            }
        };
        // The panic's message has gone to the panic hook, and is not for clients.
        ended.unwrap_or_else(|_| answer(Problem::crashed(), settings.http()))
    }
}

impl<B> Inner<B> {
    /// The request's body, read up to the limit.
    async fn read(&mut self, settings: &HttpSettings) -> Result<Bytes, Response> {
        let body = match &mut self.body {
            RequestBody::Read(bytes) => return Ok(bytes.clone()),
            RequestBody::Unread(body) => std::mem::take(body),
        };
        match collect_body(body, settings.request_limit()).await {
            Ok(bytes) => {
                self.body = RequestBody::Read(bytes.clone());
                Ok(bytes)
            }
            Err(error) => Err(answer(error.into(), settings)),
        }
    }

    async fn extract(self: Box<Self>) -> Result<B, Response> {
        let Self { head, body, last } = *self;
        match last {
            Last::Ready(value) => Ok(value),
            Last::Deferred(extract) => {
                let body = match body {
                    RequestBody::Unread(body) => body,
                    RequestBody::Read(bytes) => Body::from(bytes),
                };
                extract(Request::from_parts(head, body)).await
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

fn refuse(error: &Error, settings: &HttpSettings) -> Response {
    crate::report_misconfiguration(error);
    answer(error.into(), settings)
}

fn answer(problem: Problem, settings: &HttpSettings) -> Response {
    problem.into_response(settings).map(Body::from)
}
