//! What the attribute writes calls to: a request captured, admitted, and run.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};
use idem_core::http::{BodyError, CapturedBody, Recording, RequestIdentity, collect_body, drain};
use idem_core::{Engine, Transactional};
use salvo_core::http::{ReqBody, ResBody};
use salvo_core::{Depot, Request};

use super::answer::{Reply, put};
use crate::admission;
use crate::captured_request::CapturedRequest;
use crate::handler::{self};
use crate::plan::Plan;

/// What a call owns until it ends.
#[derive(Default)]
pub struct Parts {
    pub request: Request,
    pub depot: Depot,
    pub response: salvo_core::Response,
}

/// Runs a whole call on a task of its own, which owns its parts, and gives them back. A panic that
/// is not the handler's goes on in the caller, as if the task were not there.
pub async fn detached<C, F>(
    request: &mut Request,
    depot: &mut Depot,
    response: &mut salvo_core::Response,
    call: C,
) where
    C: FnOnce(Parts) -> F,
    F: Future<Output = Parts> + Send + 'static,
{
    let parts = Parts {
        request: std::mem::take(request),
        depot: std::mem::take(depot),
        response: std::mem::take(response),
    };
    let parts = idem_core::detached(Box::pin(call(parts))).await;
    *request = parts.request;
    *depot = parts.depot;
    *response = parts.response;
}

/// What of a request counts, apart from the request, which an extracted value may borrow.
pub struct Captured {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    engine: Option<Engine>,
    body: Held,
}

enum Held {
    Unread(ReqBody),
    Read(Bytes),
    /// The request keeps it.
    Cached(Bytes),
}

impl Captured {
    pub async fn of(request: &mut Request, depot: &Depot) -> Result<Self, Response<Bytes>> {
        let own = request.extensions().get().cloned();
        let engine: Option<Engine> = own.or_else(|| depot.get_typed().ok().cloned());
        let body = if request.body().is_none() {
            // An extractor or a hoop may have read it; nothing is waited for here.
            let payload = request.payload_with_max_size(usize::MAX).await;
            Held::Cached(payload.cloned().unwrap_or_default())
        } else {
            Held::Unread(request.take_body())
        };
        let captured = Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            engine,
            body,
        };
        match &captured.body {
            Held::Cached(bytes)
                if bytes.is_empty() && announces_body(request.version(), &captured.headers) =>
            {
                // Its fingerprint would be that of no body at all.
                tracing::error!(
                    target: "idem",
                    "a hoop or an argument before the last one has taken the request's body: the argument that reads the body goes last"
                );
                let body = "the server is set up wrongly; this request was not executed";
                let mut response = Response::new(Bytes::from_static(body.as_bytes()));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                Err(response)
            }
            _ => Ok(captured),
        }
    }

    /// Reads the body now: the last extractor may read no more than the head, or what it binds is
    /// named by the key, the scope, the fingerprint or the engine. Nothing is claimed yet.
    pub async fn read_early(
        &mut self,
        request: &mut Request,
        engine: Option<Engine>,
    ) -> Result<(), Response<Bytes>> {
        admission::read_early(self, engine).await?;
        self.lend(request);
        Ok(())
    }

    /// Gives the body to who reads it next.
    pub fn lend(&mut self, request: &mut Request) {
        match &mut self.body {
            Held::Read(bytes) => {
                request.replace_body(ReqBody::Once(bytes.clone()));
            }
            // Nothing had to know what it says.
            Held::Unread(body) => {
                request.replace_body(body.take());
            }
            Held::Cached(_) => {}
        }
    }

    /// Decides whether the handler runs. An `Err` is the answer without it.
    pub async fn admit(&mut self, plan: Plan) -> Result<Admitted, Response<Bytes>> {
        admission::admit(plan, self).await.map(Admitted)
    }

    /// Decides whether the handler runs in a transaction of the database.
    pub async fn admit_in<D: Transactional>(
        &mut self,
        (plan, database): (Plan, D),
    ) -> Result<AdmittedIn<D>, Response<Bytes>> {
        let admitted = admission::admit_in(plan, database, self).await;
        admitted.map(AdmittedIn)
    }
}

fn announces_body(version: Version, headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    // Since HTTP/2 a body of unknown length is announced by nothing but its type.
    let by_type =
        length.is_none() && version >= Version::HTTP_2 && headers.contains_key(CONTENT_TYPE);
    by_type
        || length.is_some_and(|length| !handler::is_no_length(length.as_bytes()))
        || headers.contains_key(TRANSFER_ENCODING)
}

impl CapturedRequest for Captured {
    fn identity(&self) -> RequestIdentity<'_> {
        RequestIdentity {
            method: &self.method,
            // Salvo's routers take nothing away.
            uri: &self.uri,
            headers: &self.headers,
        }
    }

    fn engine(&self) -> Option<Engine> {
        self.engine.clone()
    }

    async fn read(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let body = match &mut self.body {
            Held::Read(bytes) => return Ok(bytes.clone()),
            Held::Cached(bytes) if bytes.len() > limit => {
                return Err(BodyError::TooLarge { limit: Some(limit) });
            }
            Held::Cached(bytes) => return Ok(bytes.clone()),
            Held::Unread(body) => body,
        };
        let bytes = collect_body(body, limit).await?;
        self.body = Held::Read(bytes.clone());
        Ok(bytes)
    }

    fn leave(&mut self) {
        if let Held::Unread(body) = &mut self.body {
            drain(body.take(), &self.headers);
        }
    }
}

/// The right to run the handler.
pub struct Admitted(handler::Admitted);

impl Admitted {
    /// Runs the last extractor, then the handler.
    pub async fn run<F>(self, respond: F) -> Answer
    where
        F: Future<Output = Reply>,
    {
        let respond = async move { Box::pin(respond).await.0 };
        Answer(self.0.run(respond, Recording::spawn).await)
    }
}

/// The right to run the handler in a transaction.
pub struct AdmittedIn<D: Transactional>(handler::AdmittedIn<D>);

impl<D: Transactional> AdmittedIn<D> {
    /// Runs the last extractor, then the handler, and commits.
    pub async fn run<H, F>(self, handler: H) -> Answer
    where
        H: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, Reply)>,
    {
        let respond = move |transaction| async move {
            let (transaction, reply) = handler(transaction).await;
            (transaction, reply.0)
        };
        Answer(self.0.run(respond).await)
    }
}

/// What goes out.
#[must_use]
pub struct Answer(Result<Response<CapturedBody<ResBody>>, Infallible>);

impl Answer {
    /// `before` is what hoops had set before the handler.
    pub async fn put(self, response: &mut salvo_core::Response, before: HeaderMap) {
        match self.0 {
            Ok(answer) => put(response, before, answer).await,
            Err(never) => match never {},
        }
    }
}
