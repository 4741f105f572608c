//! What the attribute writes calls to: a request captured, admitted, and run.
//!
//! This file translates between axum's types and [`idem_core::http`]; it decides nothing.

#![allow(
    clippy::result_large_err,
    reason = "the error is the answer, and is moved once"
)]

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
use idem_core::{
    Begun, EndedIn, Engine, Error, Execution, ExecutionIn, Fingerprint, FingerprintError,
    Fingerprinter, Granted, Key, KeyError, Operation, Outcome, Transactional, Unprotected, Verdict,
    Writes,
};

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
        let (required, release) = (plan.required, plan.release);
        let identified = self.identify(plan)?;
        if !required && identified.key == Err(KeyError::Missing) {
            let permit = Permit::Unprotected(identified.operation.unprotected());
            let Identified {
                engine, request, ..
            } = identified;
            return Ok(Admitted {
                permit,
                engine,
                request,
            });
        }
        let (keyed, counted) = identified.keyed(Operation::keyed)?;
        let (fingerprint, engine, request) = counted.fingerprint().await?;
        // Boxed: it is large, and gone before the handler runs.
        let begun = Box::pin(keyed.begin(fingerprint)).await;
        let permit = match begun.map_err(|error| refuse(&error, engine.http()))? {
            Begun::Execute(execution) => Permit::Execute(execution, release),
            Begun::Unprotected(unprotected) => Permit::Unprotected(unprotected),
            Begun::Replay(outcome) => return Err(given_back(&outcome, engine.http())),
        };
        Ok(Admitted {
            permit,
            engine,
            request,
        })
    }

    /// Decides whether the handler runs in a transaction of the database.
    pub async fn admit_in<D: Transactional>(
        self,
        (plan, database): (Plan, D),
    ) -> Result<AdmittedIn<B, D>, Response> {
        let release = plan.release;
        let identified = self.identify(plan)?;
        let (keyed, counted) = identified
            .keyed(|operation, key| operation.clone().in_database(database).keyed(key))?;
        let (fingerprint, engine, request) = counted.fingerprint().await?;
        let granted = Box::pin(keyed.begin(fingerprint)).await;
        match granted.map_err(|error| refuse(&error, engine.http()))? {
            Granted::Run(execution) => Ok(AdmittedIn {
                execution,
                release,
                engine,
                request,
            }),
            Granted::Replay(outcome) => Err(given_back(&outcome, engine.http())),
        }
    }

    /// What needs no more than the request's head.
    fn identify(self, plan: Plan) -> Result<Identified<B>, Response> {
        let request = self.inner;
        let engine = plan
            .engine
            .map_or_else(|| engine_of(&request.head), Ok)
            .map_err(|error| refuse(&error, &HttpSettings::default()))?;
        let settings = engine.http();
        let key = match plan.key {
            KeySource::Value(key) => key,
            KeySource::Header(name) => {
                parse_key(request.head.headers.get_all(name), settings.accepted_keys())
                    .and_then(|key| Key::of(&key))
            }
        };
        let operation = operation(Ok(engine.clone()), plan.name, plan.policy, plan.scope)
            .map_err(|error| refuse(&error, settings))?;
        Ok(Identified {
            engine,
            operation,
            key,
            fingerprint: plan.fingerprint,
            request,
        })
    }
}

/// A request whose operation and key are known.
struct Identified<B> {
    engine: Engine,
    operation: Operation,
    key: Result<Key, KeyError>,
    fingerprint: Option<Result<Fingerprinter, FingerprintError>>,
    request: Box<Inner<B>>,
}

/// A request whose key is acceptable.
struct Counted<B> {
    engine: Engine,
    has_scope: bool,
    fingerprint: Option<Result<Fingerprinter, FingerprintError>>,
    request: Box<Inner<B>>,
}

impl<B> Identified<B> {
    /// Puts the operation under its key. Refused keys cost no look at the body.
    fn keyed<K>(
        self,
        keyed: impl FnOnce(&Operation, Result<Key, KeyError>) -> Result<K, Error>,
    ) -> Result<(K, Counted<B>), Response> {
        let keyed =
            keyed(&self.operation, self.key).map_err(|error| refuse(&error, self.engine.http()))?;
        let counted = Counted {
            has_scope: self.operation.has_scope(),
            engine: self.engine,
            fingerprint: self.fingerprint,
            request: self.request,
        };
        Ok((keyed, counted))
    }
}

impl<B> Counted<B> {
    async fn fingerprint(mut self) -> Result<(Fingerprint, Engine, Box<Inner<B>>), Response> {
        let settings = self.engine.http();
        let body = self.request.read(settings).await?;
        let head = &self.request.head;
        let identity = RequestIdentity {
            method: &head.method,
            uri: original_uri(head),
            headers: &head.headers,
        };
        let fingerprint = match self.fingerprint {
            Some(parts) => {
                let parts = parts.map_err(|error| refuse(&error.into(), settings))?;
                identity.fingerprint_of(self.has_scope, parts)
            }
            None => identity.fingerprint(self.has_scope, &body),
        };
        Ok((fingerprint, self.engine, self.request))
    }
}

/// A stored outcome as an answer.
fn given_back(outcome: &Outcome, settings: &HttpSettings) -> Response {
    match replay(outcome) {
        Ok(response) => response.map(Body::from),
        Err(error) => refuse(&error.into(), settings),
    }
}

/// The right to run the handler in a transaction.
pub struct AdmittedIn<B, D: Transactional> {
    execution: ExecutionIn<D>,
    release: &'static [u16],
    engine: Engine,
    request: Box<Inner<B>>,
}

impl<B: Send + 'static, D: Transactional> AdmittedIn<B, D> {
    /// Runs the last extractor, then the handler, on a task of their own; commits, and answers.
    pub async fn run<F, Fut, R>(self, handler: F) -> Response
    where
        F: FnOnce(B, D::Transaction) -> Fut + Send + 'static,
        Fut: Future<Output = (D::Transaction, R)> + Send + 'static,
        R: IntoResponse,
    {
        let Self {
            execution,
            release,
            engine,
            request,
        } = self;
        let settings = engine.clone();
        let body = move |transaction| async move {
            let last = match request.extract().await {
                Ok(last) => last,
                Err(rejection) => {
                    return (transaction, Verdict::Released, Writes::Discard, rejection);
                }
            };
            let (transaction, response) = Box::pin(handler(last, transaction)).await;
            let response = response.into_response();
            let status = response.status();
            let writes = if status.is_client_error() || status.is_server_error() {
                Writes::Discard
            } else {
                Writes::Keep
            };
            let limit = engine.max_outcome_bytes();
            let (verdict, response) = capture(response, release, limit, engine.http()).await;
            (transaction, verdict, writes, response.map(Body::new))
        };
        match Box::pin(execution.drive_detached(body)).await {
            Ok(EndedIn::Value(response)) => response,
            Ok(EndedIn::Replay(outcome)) => given_back(&outcome, settings.http()),
            Ok(EndedIn::Refused(error)) => refuse(&error, settings.http()),
            // The panic's message has gone to the panic hook, and is not for clients.
            Err(_) => answer(Problem::rolled_back(), settings.http()),
        }
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
