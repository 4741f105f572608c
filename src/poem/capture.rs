//! What the attribute writes calls to: a request captured, admitted, and run.

#![allow(
    clippy::result_large_err,
    reason = "the error is the answer, and is moved once"
)]

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use idem_core::http::{BodyError, CapturedBody, Recording, RequestIdentity, collect_body, drain};
use idem_core::{Engine, Transactional};
use poem::error::IntoResult;
use poem::{IntoResponse, Request, RequestBody};

use crate::admission;
use crate::captured_request::CapturedRequest;
use crate::handler::{self, Responded};
use crate::plan::Plan;

type Body = BoxBody<Bytes, io::Error>;

/// Runs a whole call on a task of its own, which owns the request. A panic that is not the
/// handler's goes on in the caller, as if the task were not there.
pub async fn detached<F>(call: F) -> poem::Result<poem::Response>
where
    F: Future<Output = poem::Result<poem::Response>> + Send + 'static,
{
    idem_core::detached(Box::pin(call)).await
}

/// A request's head, which arguments borrow, and its body, which waits.
pub fn split(request: Request) -> (Request, Captured) {
    let (request, body) = request.split();
    (request, Captured(BodyState::Unread(body)))
}

/// The body of a request on its way to an idempotent handler.
pub struct Captured(BodyState);

enum BodyState {
    Unread(RequestBody),
    Read(Bytes),
}

impl Captured {
    /// For one extractor.
    pub fn lend(&mut self) -> LentBody<'_> {
        match &mut self.0 {
            BodyState::Unread(body) => LentBody::Unread(body),
            BodyState::Read(bytes) => LentBody::Read(RequestBody::new(bytes.clone().into())),
        }
    }

    /// Reads the body now: the last extractor may read no more than the head, or what it binds is
    /// named by the key, the scope, the fingerprint or the engine. Nothing is claimed yet.
    pub async fn read_early(
        &mut self,
        request: &Request,
        engine: Option<Engine>,
    ) -> Result<(), poem::Response> {
        let mut buffered = RequestWithBody::of(request, self)?;
        let read = admission::read_early(&mut buffered, engine).await;
        read.map(drop).map_err(from_bytes)
    }
}

/// A body that an extractor may take.
pub enum LentBody<'a> {
    Unread(&'a mut RequestBody),
    Read(RequestBody),
}

impl LentBody<'_> {
    pub fn body(&mut self) -> &mut RequestBody {
        match self {
            Self::Unread(body) => body,
            Self::Read(body) => body,
        }
    }
}

/// Head and body.
struct RequestWithBody<'a> {
    request: &'a Request,
    body: &'a mut BodyState,
}

impl<'a> RequestWithBody<'a> {
    fn of(request: &'a Request, captured: &'a mut Captured) -> Result<Self, poem::Response> {
        if matches!(&captured.0, BodyState::Unread(body) if body.is_none()) {
            // Its fingerprint would be that of no body at all.
            tracing::error!(
                target: "idem",
                "an argument before the last one has read the request's body: the argument that reads the body goes last"
            );
            let response = poem::Response::builder()
                .status(poem::http::StatusCode::INTERNAL_SERVER_ERROR)
                .body("the server is set up wrongly; this request was not executed");
            return Err(response);
        }
        Ok(Self {
            request,
            body: &mut captured.0,
        })
    }
}

impl CapturedRequest for RequestWithBody<'_> {
    fn identity(&self) -> RequestIdentity<'_> {
        let original = self.request.original_uri();
        RequestIdentity {
            method: self.request.method(),
            // One that no server has received, as in tests, has no original.
            uri: if *original == Uri::default() {
                self.request.uri()
            } else {
                original
            },
            headers: self.request.headers(),
        }
    }

    fn engine(&self) -> Option<Engine> {
        self.request.data().cloned()
    }

    async fn read(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let body = match &mut *self.body {
            BodyState::Read(bytes) => return Ok(bytes.clone()),
            BodyState::Unread(body) => body.take().map_err(|_| BodyError::Unreadable)?,
        };
        let mut body = Body::from(body);
        let read = collect_body(&mut body, limit).await;
        *self.body = match &read {
            Ok(bytes) => BodyState::Read(bytes.clone()),
            Err(_) => BodyState::Unread(RequestBody::new(body.into())),
        };
        read
    }

    fn leave(&mut self) {
        if let BodyState::Unread(body) = &mut *self.body
            && let Ok(body) = body.take()
        {
            drain(Body::from(body), self.request.headers());
        }
    }
}

/// Decides whether the handler runs. An `Err` is the answer without it.
pub async fn admit(
    request: &Request,
    body: &mut Captured,
    plan: Plan,
) -> Result<Admitted, poem::Response> {
    let mut buffered = RequestWithBody::of(request, body)?;
    let admitted = admission::admit(plan, &mut buffered).await;
    admitted.map(Admitted).map_err(from_bytes)
}

/// Decides whether the handler runs in a transaction of the database.
pub async fn admit_in<D: Transactional>(
    request: &Request,
    body: &mut Captured,
    (plan, database): (Plan, D),
) -> Result<AdmittedIn<D>, poem::Response> {
    let mut buffered = RequestWithBody::of(request, body)?;
    let admitted = admission::admit_in(plan, database, &mut buffered).await;
    admitted.map(AdmittedIn).map_err(from_bytes)
}

/// What came of running the last extractor and the handler.
pub struct Reply(Responded<Body>);

impl Reply {
    pub fn answered<T: IntoResponse>(value: impl IntoResult<T>) -> Self {
        let response = match value.into_result() {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        };
        Self(Responded::Answered(into_http(response)))
    }

    /// The last extractor refused. Poem's middleware shall see its error.
    pub fn rejected(error: poem::Error) -> Self {
        let mut response = Response::new(CapturedBody::buffered(Bytes::new()));
        let kept = Kept(Arc::new(Mutex::new(Some(error))));
        response.extensions_mut().insert(kept);
        Self(Responded::Rejected(response))
    }
}

/// The error of the last extractor, under the response that stands for it.
#[derive(Clone)]
struct Kept(Arc<Mutex<Option<poem::Error>>>);

/// The right to run the handler.
pub struct Admitted(handler::Admitted);

impl Admitted {
    /// Runs the last extractor, then the handler, and answers.
    pub async fn run<F>(self, respond: F) -> poem::Result<poem::Response>
    where
        F: Future<Output = Reply>,
    {
        let respond = async move { Box::pin(respond).await.0 };
        answer(self.0.run(respond, Recording::spawn).await)
    }
}

/// The right to run the handler in a transaction.
pub struct AdmittedIn<D: Transactional>(handler::AdmittedIn<D>);

impl<D: Transactional> AdmittedIn<D> {
    /// Runs the last extractor, then the handler; commits, and answers.
    pub async fn run<H, F>(self, handler: H) -> poem::Result<poem::Response>
    where
        H: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, Reply)>,
    {
        let respond = move |transaction| async move {
            let (transaction, reply) = handler(transaction).await;
            (transaction, reply.0)
        };
        answer(self.0.run(respond).await)
    }
}

fn answer(ended: Result<Response<CapturedBody<Body>>, Infallible>) -> poem::Result<poem::Response> {
    let mut response = match ended {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if let Some(Kept(kept)) = response.extensions_mut().remove()
        && let Some(error) = kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        return Err(error);
    }
    Ok(from_http(response.map(|body| match body.into_streamed() {
        Ok(body) => poem::Body::from(body),
        Err(read) => poem::Body::from(Body::new(read.map_err(io::Error::from))),
    })))
}

fn into_http(response: poem::Response) -> Response<Body> {
    response.into()
}

fn from_bytes(response: Response<Bytes>) -> poem::Response {
    from_http(response.map(poem::Body::from))
}

/// Poem's own conversion forgets how long the body is.
fn from_http(response: Response<poem::Body>) -> poem::Response {
    let (head, body) = response.into_parts();
    let head = poem::ResponseParts {
        status: head.status,
        version: head.version,
        headers: head.headers,
        extensions: head.extensions,
    };
    poem::Response::from_parts(head, body)
}
