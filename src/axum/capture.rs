//! What the attribute writes calls to: a request captured, admitted, and run.
//!
//! This file translates between axum's types and [`idem_core::http`]; it decides nothing.

#![allow(
    clippy::result_large_err,
    reason = "the error is the answer, and is moved once"
)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::future::{FutureExt, TryFutureExt};
use idem_core::http::{BodyError, CapturedBody, RequestIdentity, collect_body, drain};
use idem_core::{Engine, Transactional};

use super::original_uri;
use crate::admission;
use crate::captured_request::CapturedRequest;
use crate::handler::{self, Responded, Responding};
use crate::plan::Plan;

/// A request on its way to an idempotent handler: its head has been read by the head
/// extractors, its body waits. `B` is the handler's last extractor.
pub struct Captured<B> {
    /// Boxed, as everything here that futures hold.
    request: Box<Waiting>,
    last: Last<B>,
}

/// What is the same for every handler.
pub struct Waiting {
    head: Parts,
    body: RequestBody,
}

enum RequestBody {
    Unread(Body),
    Read(Bytes),
}

type Extracting<B> = Pin<Box<dyn Future<Output = Result<B, Response>> + Send>>;

/// The last extractor: it has run with the head, or waits for the whole request.
pub enum Last<B> {
    Ready(Box<B>),
    Deferred(Box<dyn FnOnce(Box<Waiting>) -> Extracting<B> + Send>),
}

/// Marks a last extractor that reads the request's head only: it runs with the others.
#[derive(Debug)]
pub struct Head;

/// Marks a last extractor that reads the whole request: it is deferred.
#[derive(Debug)]
pub struct ReadsRequest;

impl<S, B> FromRequest<S, Head> for Captured<B>
where
    S: Send + Sync,
    B: FromRequestParts<S> + Send,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut head, body) = request.into_parts();
        match B::from_request_parts(&mut head, state).await {
            Ok(value) => Ok(Self::new(head, body, Last::Ready(Box::new(value)))),
            Err(rejection) => Err(rejection.into_response()),
        }
    }
}

impl<S, B> FromRequest<S, ReadsRequest> for Captured<B>
where
    S: Clone + Send + Sync + 'static,
    B: FromRequest<S> + 'static,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (head, body) = request.into_parts();
        let state = state.clone();
        let last = Last::Deferred(Box::new(move |request: Box<Waiting>| {
            Box::pin(async move {
                B::from_request(request.into_request(), &state)
                    .await
                    .map_err(IntoResponse::into_response)
            })
        }));
        Ok(Self::new(head, body, last))
    }
}

impl<B> Captured<B> {
    fn new(head: Parts, body: Body, last: Last<B>) -> Self {
        let body = RequestBody::Unread(body);
        Self {
            request: Box::new(Waiting { head, body }),
            last,
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
        let Self { mut request, last } = self;
        let body = admission::read_early(&mut *request, engine).await;
        let body = body.map_err(answer)?;
        let value = match last {
            Last::Ready(value) => *value,
            Last::Deferred(extract) => {
                let request = Waiting {
                    head: request.head.clone(),
                    body: RequestBody::Read(body),
                };
                extract(Box::new(request)).await?
            }
        };
        let rest = Captured {
            request,
            last: Last::Ready(Box::new(())),
        };
        Ok((rest, value))
    }

    /// Decides whether the handler runs. An `Err` is the answer without it.
    pub fn admit(self, plan: Plan) -> impl Future<Output = Result<Admitted<B>, Response>> + Send {
        let Self { request, last } = self;
        admit(plan, request).map_ok(|(admitted, request)| Admitted {
            admitted,
            rest: Captured { request, last },
        })
    }

    /// Decides whether the handler runs in a transaction of the database.
    pub async fn admit_in<D: Transactional>(
        self,
        (plan, database): (Plan, D),
    ) -> Result<AdmittedIn<B, D>, Response> {
        let mut rest = self;
        let admitted = admission::admit_in(plan, database, &mut *rest.request).await;
        let admitted = admitted.map_err(answer)?;
        Ok(AdmittedIn { admitted, rest })
    }

    async fn value(self) -> Result<B, Response> {
        match self.last {
            Last::Ready(value) => Ok(*value),
            Last::Deferred(extract) => extract(self.request).await,
        }
    }
}

impl Waiting {
    fn into_request(self) -> Request {
        let body = match self.body {
            RequestBody::Unread(body) => body,
            RequestBody::Read(bytes) => Body::from(bytes),
        };
        Request::from_parts(self.head, body)
    }
}

impl CapturedRequest for Waiting {
    fn identity(&self) -> RequestIdentity<'_> {
        RequestIdentity {
            method: &self.head.method,
            uri: original_uri(&self.head),
            headers: &self.head.headers,
        }
    }

    fn engine(&self) -> Option<Engine> {
        self.head.extensions.get().cloned()
    }

    async fn read(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let bytes = match &mut self.body {
            RequestBody::Read(bytes) => return Ok(bytes.clone()),
            RequestBody::Unread(body) => collect_body(body, limit).await?,
        };
        self.body = RequestBody::Read(bytes.clone());
        Ok(bytes)
    }

    fn leave(&mut self) {
        if let RequestBody::Unread(body) = &mut self.body {
            drain(std::mem::take(body), &self.head.headers);
        }
    }
}

/// The right to run the handler.
pub struct Admitted<B> {
    admitted: handler::Admitted,
    rest: Captured<B>,
}

impl<B: Send + 'static> Admitted<B> {
    /// Runs the last extractor, then the handler, and answers. A client that hangs up stops neither.
    pub fn run<F, Fut>(self, handler: F) -> impl Future<Output = Response> + Send
    where
        F: FnOnce(B) -> Fut + Send + 'static,
        Fut: Future<Output: IntoResponse> + Send + 'static,
    {
        let Self { admitted, rest } = self;
        let respond = async move {
            match rest.value().await {
                Ok(last) => Responded::Answered(handler(last).await.into_response()),
                Err(rejection) => rejected(rejection),
            }
        };
        run(admitted, Box::pin(respond))
    }
}

// Not generic: compiled once, and not for every handler. With combinators where it can be: an `async`
// block that awaits a future that it was given holds it twice.

fn admit(
    plan: Plan,
    mut request: Box<Waiting>,
) -> impl Future<Output = Result<(handler::Admitted, Box<Waiting>), Response>> + Send {
    let entered = admission::enter(plan, &*request);
    async move {
        let admitted = admission::decide(entered, &mut *request).await;
        Ok((admitted.map_err(answer)?, request))
    }
}

fn run(
    admitted: handler::Admitted,
    respond: Responding<Body>,
) -> impl Future<Output = Response> + Send {
    admitted.run_detached(respond).map(answered)
}

/// The right to run the handler in a transaction.
pub struct AdmittedIn<B, D: Transactional> {
    admitted: handler::AdmittedIn<D>,
    rest: Captured<B>,
}

impl<B: Send + 'static, D: Transactional> AdmittedIn<B, D> {
    /// Runs the last extractor, then the handler, on a task of their own; commits, and answers.
    pub async fn run<F, Fut, R>(self, handler: F) -> Response
    where
        F: FnOnce(B, D::Transaction) -> Fut + Send + 'static,
        Fut: Future<Output = (D::Transaction, R)> + Send + 'static,
        R: IntoResponse,
    {
        let Self { admitted, rest } = self;
        let respond = move |transaction| async move {
            let last = match rest.value().await {
                Ok(last) => last,
                Err(rejection) => return (transaction, rejected(rejection)),
            };
            let (transaction, response) = Box::pin(handler(last, transaction)).await;
            (transaction, Responded::Answered(response.into_response()))
        };
        answered(admitted.run_detached(respond).await)
    }
}

fn rejected(rejection: Response) -> Responded<Body> {
    Responded::Rejected(rejection.map(CapturedBody::streamed))
}

fn answer(response: Response<Bytes>) -> Response {
    response.map(Body::from)
}

fn answered(answer: Result<Response<CapturedBody<Body>>, Infallible>) -> Response {
    match answer {
        Ok(response) => response.map(|body| body.into_streamed().unwrap_or_else(Body::new)),
        Err(never) => match never {},
    }
}
