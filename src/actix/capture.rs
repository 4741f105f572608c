//! What the attribute writes calls to: a request captured, admitted, and run.
//!
//! actix-web has types of its own for heads and bodies; what of them counts is translated.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::marker::PhantomData;
use std::rc::Rc;

use actix_web::dev::Payload;
use actix_web::http::{Version, header};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, Responder};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use idem_core::http::{
    BodyError, CapturedBody, Incomplete, Problem, ProblemKind, Recording, RequestIdentity,
    collect_body,
};
use idem_core::{Engine, Transactional};
use tracing::Instrument;

use super::body::{Incoming, Outgoing, answer};
use crate::admission;
use crate::captured_request::CapturedRequest;
use crate::handler::{self, Responded};
use crate::plan::Plan;

/// A request on its way to an idempotent handler: its body waits. `B` is the handler's last
/// extractor.
pub struct Captured<B> {
    inner: Box<Inner>,
    last: PhantomData<fn() -> B>,
}

struct Inner {
    request: HttpRequest,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: RequestBody,
}

enum RequestBody {
    Unread(Payload),
    Read(Bytes),
}

impl<B> FromRequest for Captured<B> {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = payload.take();
        if matches!(body, Payload::None) && announces_body(request) {
            // Its fingerprint would be that of no body at all.
            tracing::error!(
                target: "idem",
                "an argument before the last one has read the request's body: the argument that reads the body goes last"
            );
            return ready(Err(actix_web::error::ErrorInternalServerError(
                "the server is set up wrongly; this request was not executed",
            )));
        }
        ready(match Inner::new(request, body) {
            Some(inner) => Ok(Self::new(inner)),
            None => Err(actix_web::error::ErrorBadRequest("malformed request")),
        })
    }
}

fn announces_body(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH);
    // Since HTTP/2 a body of unknown length is announced by nothing but its type.
    let by_type = length.is_none()
        && request.version() >= Version::HTTP_2
        && headers.contains_key(header::CONTENT_TYPE);
    by_type
        || length.is_some_and(|length| !handler::is_no_length(length.as_bytes()))
        || headers.contains_key(header::TRANSFER_ENCODING)
}

/// The last extractor of a handler that has none.
#[derive(Debug)]
pub struct NoArgument;

impl FromRequest for NoArgument {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self))
    }
}

impl Inner {
    fn new(request: &HttpRequest, body: Payload) -> Option<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers() {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
            headers.try_append(name, value).ok()?;
        }
        Some(Self {
            method: Method::from_bytes(request.method().as_str().as_bytes()).ok()?,
            // The head keeps the path that the client sent.
            uri: request.head().uri.to_string().parse().ok()?,
            headers,
            body: RequestBody::Unread(body),
            request: request.clone(),
        })
    }

    async fn extract<B: FromRequest>(self) -> Result<(HttpRequest, B), HttpResponse> {
        let mut payload = match self.body {
            RequestBody::Unread(payload) => payload,
            RequestBody::Read(bytes) => payload_of(bytes),
        };
        match B::from_request(&self.request, &mut payload).await {
            Ok(value) => Ok((self.request, value)),
            Err(error) => Err(HttpResponse::from_error(error)),
        }
    }
}

fn payload_of(bytes: Bytes) -> Payload {
    Payload::Stream {
        payload: Box::pin(futures_util::stream::once(ready(Ok(bytes)))),
    }
}

impl CapturedRequest for Inner {
    fn identity(&self) -> RequestIdentity<'_> {
        RequestIdentity {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
        }
    }

    fn engine(&self) -> Option<Engine> {
        let request = &self.request;
        let own = request.extensions().get::<Engine>().cloned();
        own.or_else(|| {
            let data = request.app_data::<Data<Engine>>();
            data.map(|data| Engine::clone(data))
        })
        .or_else(|| request.app_data::<Engine>().cloned())
    }

    async fn read(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let payload = match &mut self.body {
            RequestBody::Read(bytes) => return Ok(bytes.clone()),
            RequestBody::Unread(payload) => payload.take(),
        };
        let announced = self.headers.get(http::header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(BodyError::TooLarge { limit: Some(limit) });
        }
        let bytes = collect_body(Incoming(payload), limit).await?;
        self.body = RequestBody::Read(bytes.clone());
        Ok(bytes)
    }

    /// actix itself reads out what nobody has read.
    fn leave(&mut self) {}
}

impl<B> Captured<B> {
    fn new(inner: Inner) -> Self {
        Self {
            inner: Box::new(inner),
            last: PhantomData,
        }
    }
}

impl<B: FromRequest + 'static> Captured<B> {
    /// Runs the last extractor now: it may read no more than the head, or what it binds is named by
    /// the key, the scope, the fingerprint or the engine. Nothing is claimed yet.
    pub async fn extract(
        self,
        engine: Option<Engine>,
    ) -> Result<(Captured<NoArgument>, B), HttpResponse> {
        let mut request = *self.inner;
        let body = admission::read_early(&mut request, engine).await;
        let body = body.map_err(from_bytes)?;
        let rest = Inner {
            request: request.request.clone(),
            method: request.method.clone(),
            uri: request.uri.clone(),
            headers: std::mem::take(&mut request.headers),
            body: RequestBody::Read(body),
        };
        let (_, value) = request.extract().await?;
        Ok((Captured::new(rest), value))
    }

    /// Decides whether the handler runs. An `Err` is the answer without it.
    pub async fn admit(self, plan: Plan) -> Result<Admitted<B>, HttpResponse> {
        let mut request = self;
        let admitted = admission::admit(plan, &mut *request.inner).await;
        let admitted = admitted.map_err(from_bytes)?;
        Ok(Admitted { admitted, request })
    }

    /// Decides whether the handler runs in a transaction of the database.
    pub async fn admit_in<D: Transactional>(
        self,
        (plan, database): (Plan, D),
    ) -> Result<AdmittedIn<B, D>, HttpResponse> {
        let mut request = self;
        let admitted = admission::admit_in(plan, database, &mut *request.inner).await;
        let admitted = admitted.map_err(from_bytes)?;
        Ok(AdmittedIn { admitted, request })
    }
}

/// The right to run the handler.
pub struct Admitted<B> {
    admitted: handler::Admitted,
    request: Captured<B>,
}

impl<B: FromRequest + 'static> Admitted<B> {
    /// Runs the last extractor, then the handler, on a local task of their own, and answers.
    pub async fn run<F, Fut>(self, handler: F) -> HttpResponse
    where
        F: FnOnce(B) -> Fut + 'static,
        Fut: Future<Output: Responder> + 'static,
    {
        let Self { admitted, request } = self;
        let refusals = admitted.refusals().clone();
        let running = async move {
            let heads = Heads::default();
            let kept = heads.clone();
            let respond = async move {
                match request.inner.extract().await {
                    Ok((request, last)) => {
                        let answer = Box::pin(handler(last)).await;
                        Responded::Answered(kept.part(answer.respond_to(&request)))
                    }
                    Err(rejection) => rejected(&kept, rejection),
                }
            };
            heads.join(admitted.run(respond, Recording::spawn_local).await)
        };
        let ended = actix_web::rt::spawn(running.in_current_span()).await;
        ended.unwrap_or_else(|_| from_bytes(refusals.problem(Problem::crashed())))
    }
}

/// The right to run the handler in a transaction.
pub struct AdmittedIn<B, D: Transactional> {
    admitted: handler::AdmittedIn<D>,
    request: Captured<B>,
}

impl<B: FromRequest + 'static, D: Transactional> AdmittedIn<B, D> {
    /// Runs the last extractor, then the handler, on a local task of their own; commits, and
    /// answers.
    pub async fn run<F, Fut, R>(self, handler: F) -> HttpResponse
    where
        F: FnOnce(B, D::Transaction) -> Fut + 'static,
        Fut: Future<Output = (D::Transaction, R)> + 'static,
        R: Responder,
    {
        let Self { admitted, request } = self;
        let refusals = admitted.refusals().clone();
        let running = async move {
            let heads = Heads::default();
            let kept = heads.clone();
            let respond = move |transaction| async move {
                let (request, last) = match request.inner.extract().await {
                    Ok(extracted) => extracted,
                    Err(rejection) => return (transaction, rejected(&kept, rejection)),
                };
                let (transaction, answer) = Box::pin(handler(last, transaction)).await;
                let response = kept.part(answer.respond_to(&request));
                (transaction, Responded::Answered(response))
            };
            heads.join(admitted.run(respond).await)
        };
        let ended = actix_web::rt::spawn(running.in_current_span()).await;
        ended.unwrap_or_else(|_| from_bytes(refusals.problem(Problem::rolled_back())))
    }
}

/// Keeps the head of the handler's response as actix knows it, with its error and what it says of
/// the connection, while the response is judged.
#[derive(Clone, Default)]
struct Heads(Rc<RefCell<Option<HttpResponse<()>>>>);

/// Marks the response whose head is kept.
#[derive(Clone)]
struct Kept;

impl Heads {
    fn part(
        &self,
        response: HttpResponse<impl actix_web::body::MessageBody + 'static>,
    ) -> Response<Outgoing> {
        let (head, body) = response.map_into_boxed_body().into_parts();
        let mut response = Response::new(Outgoing::of(body));
        if let Ok(status) = StatusCode::from_u16(head.status().as_u16()) {
            *response.status_mut() = status;
        }
        for (name, value) in head.headers() {
            let name = HeaderName::from_bytes(name.as_str().as_bytes());
            let value = HeaderValue::from_bytes(value.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value)
                && response.headers_mut().try_append(name, value).is_err()
            {
                // What would be stored is not the whole response.
                response.extensions_mut().insert(Incomplete);
                break;
            }
        }
        // A handler may pass on what another has refused.
        if let Some(kind) = head.extensions().get::<ProblemKind>() {
            response.extensions_mut().insert(*kind);
        }
        response.extensions_mut().insert(Kept);
        self.0.replace(Some(head));
        response
    }

    fn join(&self, ended: Result<Response<CapturedBody<Outgoing>>, Infallible>) -> HttpResponse {
        let response = match ended {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let is_kept = response.extensions().get::<Kept>().is_some();
        match self.0.take() {
            Some(head) if is_kept => head.set_body(answer(response.into_body())),
            _ => {
                let (head, body) = response.into_parts();
                from_parts(&head, answer(body))
            }
        }
    }
}

fn rejected(heads: &Heads, rejection: HttpResponse) -> Responded<Outgoing> {
    Responded::Rejected(heads.part(rejection).map(CapturedBody::streamed))
}

fn from_bytes(response: Response<Bytes>) -> HttpResponse {
    let (head, body) = response.into_parts();
    from_parts(&head, actix_web::body::BoxBody::new(body))
}

fn from_parts(head: &http::response::Parts, body: actix_web::body::BoxBody) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(head.status.as_u16());
    let status = status.unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::with_body(status, body);
    for (name, value) in &head.headers {
        let name = header::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = header::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers_mut().append(name, value);
        }
    }
    if let Some(kind) = head.extensions.get::<ProblemKind>() {
        response.extensions_mut().insert(*kind);
    }
    response
}
