//! What the attribute writes calls to: a request of the crate `http` captured, admitted, and run.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use idem_core::http::{BodyError, CapturedBody, RequestIdentity, collect_body, drain};
use idem_core::{Engine, Transactional};

use crate::admission;
use crate::captured_request::CapturedRequest;
use crate::handler::{self, Responded, buffered};
use crate::plan::Plan;
use crate::refusals::Refusals;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body as a server hands it over.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no request body of an idempotent function",
    label = "not an `http_body::Body<Data = Bytes>` that can be sent to another task"
)]
pub trait Incoming: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<B> Incoming for B where B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

/// A request's body as an idempotent function takes it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold a body that was read whole",
    label = "the request's body has been read when the function runs",
    note = "write `http::Request<bytes::Bytes>`; the function that the attribute makes accepts a request with any body"
)]
pub trait Taken: From<Vec<u8>> + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<B: From<Vec<u8>> + Send + 'static> Taken for B {}

/// What an idempotent function of a request returns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer of an idempotent function of a request",
    label = "neither an `http::Response<B>` nor a `Result` of one",
    note = "return `http::Response<B>` or `Result<http::Response<B>, E>`, where `B: http_body::Body<Data = bytes::Bytes>`"
)]
pub trait Respond {
    type Body: Body<Data = Bytes>;
    type Error;
    /// What the generated function returns.
    type Answer;

    fn respond(self) -> Result<Response<Self::Body>, Self::Error>;
    fn answer(answer: Result<Response<CapturedBody<Self::Body>>, Self::Error>) -> Self::Answer;

    fn refused(response: Response<Bytes>) -> Self::Answer {
        Self::answer(Ok(buffered(response)))
    }
}

impl<B: Body<Data = Bytes>> Respond for Response<B> {
    type Body = B;
    type Error = Infallible;
    type Answer = Response<CapturedBody<B>>;

    fn respond(self) -> Result<Self, Infallible> {
        Ok(self)
    }

    fn answer(answer: Result<Response<CapturedBody<B>>, Infallible>) -> Self::Answer {
        match answer {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl<B: Body<Data = Bytes>, E> Respond for Result<Response<B>, E> {
    type Body = B;
    type Error = E;
    type Answer = Result<Response<CapturedBody<B>>, E>;

    fn respond(self) -> Self {
        self
    }

    fn answer(answer: Result<Response<CapturedBody<B>>, E>) -> Self::Answer {
        answer
    }
}

/// A request on its way to an idempotent function that takes a `Request<B>`.
pub struct Captured<B> {
    inner: Box<Inner>,
    taken_as: PhantomData<fn() -> B>,
}

struct Inner {
    head: Parts,
    /// The target that counts, where a router has taken a prefix away from the head's.
    original: Option<Uri>,
    body: RequestBody,
}

enum RequestBody {
    Unread(Pin<Box<dyn Body<Data = Bytes, Error = Broken> + Send>>),
    Read(Bytes),
}

impl<B> Captured<B>
where
    B: Taken,
{
    pub fn of(request: Request<impl Incoming>) -> Self {
        let (head, body) = request.into_parts();
        Self::new(Inner {
            head,
            original: None,
            body: RequestBody::Unread(Box::pin(Unread(Box::pin(body)))),
        })
    }

    #[cfg(feature = "tower")]
    pub(crate) fn sent_to(mut self, original: Option<Uri>) -> Self {
        self.inner.original = original;
        self
    }

    #[cfg(feature = "tower")]
    pub(crate) const fn head(&self) -> &Parts {
        &self.inner.head
    }

    fn new(inner: Inner) -> Self {
        Self {
            inner: Box::new(inner),
            taken_as: PhantomData,
        }
    }

    /// The request now, because the key, the scope, the fingerprint or the engine names it. Nothing
    /// is claimed yet.
    pub async fn extract(
        self,
        engine: Option<Engine>,
    ) -> Result<(Captured<Bytes>, Request<B>), Response<Bytes>> {
        let mut request = self.inner;
        let body = admission::read_early(&mut *request, engine).await?;
        let value = Request::from_parts(request.head.clone(), Vec::from(body).into());
        Ok((Captured::new(*request), value))
    }

    /// Decides whether the function runs. An `Err` is the answer without it.
    pub async fn admit(self, plan: Plan) -> Result<Admitted<B>, Response<Bytes>> {
        let mut request = self.inner;
        let admitted = admission::admit(plan, &mut *request).await?;
        Ok(Admitted {
            admitted,
            request: Captured::new(*request),
        })
    }

    /// Decides whether the function runs in a transaction of the database.
    pub async fn admit_in<D: Transactional>(
        self,
        (plan, database): (Plan, D),
    ) -> Result<AdmittedIn<B, D>, Response<Bytes>> {
        let mut request = self.inner;
        let admitted = admission::admit_in(plan, database, &mut *request).await?;
        Ok(AdmittedIn {
            admitted,
            request: Captured::new(*request),
        })
    }

    /// With its body, which the engine that admitted it bounds.
    pub(crate) async fn request(self, refusals: &Refusals) -> Result<Request<B>, Response<Bytes>> {
        let mut request = self.inner;
        let body = request.read(refusals.settings().request_limit()).await;
        let body = body.map_err(|error| refusals.problem(error.into()))?;
        let Inner { head, .. } = *request;
        // Nobody else has the bytes now, so that most need not be copied.
        Ok(Request::from_parts(head, Vec::from(body).into()))
    }
}

impl CapturedRequest for Inner {
    fn identity(&self) -> RequestIdentity<'_> {
        RequestIdentity {
            method: &self.head.method,
            uri: self.original.as_ref().unwrap_or(&self.head.uri),
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
        let none = RequestBody::Read(Bytes::new());
        if let RequestBody::Unread(body) = std::mem::replace(&mut self.body, none) {
            drain(body, &self.head.headers);
        }
    }
}

/// A request's body that has failed.
#[derive(Debug)]
struct Broken(BoxError);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body could not be read to its end")
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// A body whose errors are all of one type.
struct Unread<B>(Pin<Box<B>>);

impl<B: Incoming> Body for Unread<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = self.0.as_mut().poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| Broken(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The right to run the function.
pub struct Admitted<B> {
    admitted: handler::Admitted,
    request: Captured<B>,
}

impl<B: Taken> Admitted<B> {
    #[cfg(feature = "tower")]
    pub(crate) fn into_parts(self) -> (handler::Admitted, Captured<B>) {
        (self.admitted, self.request)
    }

    /// Runs the function, and answers. A client that hangs up does not stop it.
    pub async fn run<F, Fut, R>(self, function: F) -> R::Answer
    where
        F: FnOnce(Request<B>) -> Fut + Send + 'static,
        Fut: Future<Output = R> + Send + 'static,
        R: Respond<Body: Body<Error: Send> + Send + 'static, Error: Send + 'static>,
    {
        let Self { admitted, request } = self;
        let refusals = admitted.refusals().clone();
        let respond = async move {
            match request.request(&refusals).await {
                Ok(request) => responded(function(request).await),
                Err(rejection) => Responded::Rejected(buffered(rejection)),
            }
        };
        R::answer(admitted.run_detached(Box::pin(respond)).await)
    }
}

/// The right to run the function in a transaction.
pub struct AdmittedIn<B, D: Transactional> {
    admitted: handler::AdmittedIn<D>,
    request: Captured<B>,
}

impl<B: Taken, D: Transactional> AdmittedIn<B, D> {
    /// Runs the function on a task of its own; commits, and answers.
    pub async fn run<F, Fut, R>(self, function: F) -> R::Answer
    where
        F: FnOnce(Request<B>, D::Transaction) -> Fut + Send + 'static,
        Fut: Future<Output = (D::Transaction, R)> + Send + 'static,
        R: Respond<Body: Body<Error: Send> + Send + 'static, Error: Send + 'static>,
    {
        let Self { admitted, request } = self;
        let refusals = admitted.refusals().clone();
        let respond = move |transaction| async move {
            let request = match request.request(&refusals).await {
                Ok(request) => request,
                Err(rejection) => return (transaction, Responded::Rejected(buffered(rejection))),
            };
            let (transaction, answer) = Box::pin(function(request, transaction)).await;
            (transaction, responded(answer))
        };
        R::answer(admitted.run_detached(respond).await)
    }
}

fn responded<R: Respond>(answer: R) -> Responded<R::Body, R::Error> {
    match answer.respond() {
        Ok(response) => Responded::Answered(response),
        Err(error) => Responded::Failed(error),
    }
}
