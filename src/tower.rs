//! The HTTP contract as a [`tower`](https://docs.rs/tower) layer, for a whole router or service.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use idem::tower::IdempotencyLayer;
//! use tower::ServiceBuilder;
//!
//! # fn example(engine: idem::Engine) {
//! let idempotent = IdempotencyLayer::new("charges", Duration::from_secs(24 * 60 * 60))
//!     .engine(engine)
//!     .scope(|request| request.extensions.get::<Tenant>().map(|tenant| tenant.0));
//!
//! let service = ServiceBuilder::new().layer(idempotent).service_fn(charge);
//! # fn is_service<S: tower::Service<Request<Full<Bytes>>>>(_: S) {}
//! # is_service(service);
//! # }
//! # async fn charge(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//! #     Ok(Response::new("charged".into()))
//! # }
//! # #[derive(Clone)] struct Tenant(u64);
//! ```
//!
//! Under axum's router use `idem::axum::layer`: it makes each route an operation, and knows the path
//! before a nested router took its prefix away. This one takes each request's target as it finds it:
//! within two nested routers `/charges` and `/refunds`, both are `/` to it, and a key that is used at
//! both is answered with what the first one did, unless [`original_uri`] says more or each has an
//! operation name of its own.
//!
//! [`original_uri`]: IdempotencyLayer::original_uri
//!
//! It says the same words as the attribute and writes the same records, so that one operation may
//! move from one to the other, given the same operation name; a handler with the attribute and the
//! same operation name under the layer runs within the layer's attempt; one whose claim is in a
//! transaction cannot, and is refused with the reason. One with another name keeps a record of its own.
//!
//! Put what authenticates around it: a layer sees requests before any handler does, and a replay
//! goes out without one. What the inner service answers is judged by its status, extractors'
//! rejections too: a 400 or 422 of an extractor is final here, where the attribute frees the key. But
//! no refusal of an annotated handler within, and no rejection of its extractors, is kept: they are
//! known by an extension of the response ([`ProblemKind`](crate::http::ProblemKind)), which what stands
//! between has to leave there. They free the key; where the handler may have had an effect (a panic),
//! the layer's attempt counts as crashed.
//! A timeout belongs around the layer as well: one within it stops the handler half-way, and the 408
//! that it answers with says "not processed".

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use idem_core::http::{BodyError, CapturedBody, DEFAULT_RELEASE, RequestIdentity};
use idem_core::{Caller, Engine, InFlight, Key, KeyError, KeyPart, OnCrash, Policy};
use tower_layer::Layer;
use tower_service::Service;

use crate::admission;
use crate::captured_request::CapturedRequest;
use crate::handler::{self, Refused, Responded, buffered};
use crate::http::private::{Captured, Incoming};
use crate::plan::{KeySource, Plan};

/// Makes the requests to a service safe to retry, those with the given methods.
#[derive(Clone)]
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct IdempotencyLayer {
    settings: Arc<Settings>,
}

type FromHead<T> = Arc<dyn Fn(&Parts) -> T + Send + Sync>;

type OriginalUri = dyn Fn(&Parts) -> &Uri + Send + Sync;

/// An operation name.
#[derive(Clone)]
enum Name {
    OfAll(Cow<'static, str>),
    OfEach(FromHead<Cow<'static, str>>),
}

#[derive(Clone)]
struct Settings {
    engine: Option<Engine>,
    methods: Vec<Method>,
    key: HeaderName,
    scope: Option<FromHead<Result<Key, KeyError>>>,
    name: Name,
    original_uri: Option<Arc<OriginalUri>>,
    /// Whether a router has found no route for a request, where one stands around the layer.
    is_unrouted: Option<fn(&Parts) -> bool>,
    policy: Policy,
    release: Cow<'static, [u16]>,
    required: bool,
}

impl IdempotencyLayer {
    /// A layer that makes all requests one operation of this name, so that a key that is used for
    /// two paths or methods is a mismatch. Finished records are kept for `ttl`; everything else is at
    /// its default.
    ///
    /// The name is a part of every record's identity: two layers share one only where they protect
    /// the same requests.
    pub fn new(name: impl Into<Cow<'static, str>>, ttl: Duration) -> Self {
        Self::named(Name::OfAll(name.into()), ttl)
    }

    /// A layer that finds the operation name of each request in its head, such as the route that a
    /// router has matched: each name has keys of its own.
    ///
    /// A name is a part of every record's identity and a label in metrics: never derive it from the
    /// path that a client sends.
    pub fn named_by<N: Into<Cow<'static, str>>>(
        name: impl Fn(&Parts) -> N + Send + Sync + 'static,
        ttl: Duration,
    ) -> Self {
        let name: FromHead<_> = Arc::new(move |head| name(head).into());
        Self::named(Name::OfEach(name), ttl)
    }

    fn named(name: Name, ttl: Duration) -> Self {
        Self {
            settings: Arc::new(Settings {
                engine: None,
                methods: vec![Method::POST, Method::PATCH],
                key: HeaderName::from_static("idempotency-key"),
                scope: None,
                name,
                original_uri: None,
                is_unrouted: None,
                policy: Policy::new(ttl),
                release: Cow::Borrowed(DEFAULT_RELEASE),
                required: true,
            }),
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// The engine; the request's extension, else the installed one, unless given.
    pub fn engine(self, engine: Engine) -> Self {
        self.set(|settings| settings.engine = Some(engine))
    }

    /// The methods to protect; POST and PATCH unless given. All others pass.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set(|settings| settings.methods = methods.into_iter().collect())
    }

    /// The header that holds the key; `Idempotency-Key` unless given.
    pub fn key(self, header: HeaderName) -> Self {
        self.set(|settings| settings.key = header)
    }

    /// The principal inside which keys are unique: from the request's head, where a layer around
    /// this one has left it. `None` is no scope: host and `Authorization` header then take part in the
    /// fingerprint, as they do where this is not called.
    pub fn scope<K: KeyPart>(self, scope: impl Fn(&Parts) -> K + Send + Sync + 'static) -> Self {
        let scope: FromHead<_> = Arc::new(move |head| Key::of(&scope(head)));
        self.set(|settings| settings.scope = Some(scope))
    }

    /// One operation name for all requests, in the place of the one before: a handler with the
    /// attribute and this `name` runs within the layer's attempt.
    pub fn name(self, name: impl Into<Cow<'static, str>>) -> Self {
        let name = Name::OfAll(name.into());
        self.set(|settings| settings.name = name)
    }

    /// Where a request's target stands as the client sent it; in the head unless given. For routers
    /// that take a prefix away before this layer sees the request.
    pub fn original_uri(
        self,
        original_uri: impl Fn(&Parts) -> &Uri + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.original_uri = Some(Arc::new(original_uri)))
    }

    /// For a router whose own 404 and 405 are no answers of an operation.
    #[cfg(feature = "axum")]
    pub(crate) fn within_router(self, is_unrouted: fn(&Parts) -> bool) -> Self {
        self.set(|settings| settings.is_unrouted = Some(is_unrouted))
    }

    /// How long finished records are kept, in the place of what was given first.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.set(|settings| settings.policy = settings.policy.ttl(ttl))
    }

    /// See [`Policy::deadline`].
    pub fn deadline(self, deadline: Duration) -> Self {
        self.set(|settings| settings.policy = settings.policy.deadline(deadline))
    }

    /// See [`Policy::lease`].
    pub fn lease(self, lease: Duration) -> Self {
        self.set(|settings| settings.policy = settings.policy.lease(lease))
    }

    /// See [`Policy::in_flight`].
    pub fn in_flight(self, in_flight: InFlight) -> Self {
        self.set(|settings| settings.policy = settings.policy.in_flight(in_flight))
    }

    /// See [`Policy::on_crash`].
    pub fn on_crash(self, on_crash: OnCrash) -> Self {
        self.set(|settings| settings.policy = settings.policy.on_crash(on_crash))
    }

    /// The statuses that say "not processed", and free the key; 307, 308, 401, 408, 425, 429 and 503
    /// unless given.
    ///
    /// This layer does not know whether a 404 or 405 is a router's or a handler's, and keeps it: who
    /// guesses paths fills the store. List them where no handler answers so after an effect.
    /// `idem::axum::layer` knows, and keeps none of the router's.
    ///
    /// # Panics
    /// When one is no status of a refusal, 300 to 599: a 2xx says that the request was processed, and
    /// to free its key would be to run it again.
    #[allow(
        clippy::panic,
        reason = "a program that is wrong says so when it starts, as routers do"
    )]
    pub fn release(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        let statuses: Vec<_> = statuses.into_iter().collect();
        if let Some(wrong) = statuses
            .iter()
            .find(|status| !(300..=599).contains(*status))
        {
            panic!(
                "`release` takes the statuses of refusals, 300 to 599: {wrong} does not say \"not processed\""
            );
        }
        self.set(|settings| settings.release = statuses.into())
    }

    /// Whether a request without a key is refused with 400, which is the default, or passes
    /// unprotected. A malformed key is always refused.
    pub fn required(self, required: bool) -> Self {
        self.set(|settings| settings.required = required)
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("methods", &self.settings.methods)
            .field("key", &self.settings.key)
            .field("policy", &self.settings.policy)
            .field("required", &self.settings.required)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency {
            inner,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// A service in an [`IdempotencyLayer`].
///
/// The request's body is read whole, up to the limit of [`HttpSettings`](crate::http::HttpSettings), where it is protected: it
/// is of a type `From<Vec<u8>>`, such as `axum::body::Body` or `http_body_util::Full<Bytes>`. The response's
/// body is in a [`CapturedBody`]. A client that hangs up does not stop the inner service: it goes on
/// on a task of its own. Its error is no response: it goes to the caller as it is, and the attempt
/// counts as crashed.
///
/// It is always ready. What bounds requests within, such as a `ConcurrencyLimit`, is asked once a
/// request is admitted, and a request that waits for another's attempt takes none of its room. To bound
/// the requests that wait, put a limit around the layer. An inner service that fails to become ready
/// was not called: its error goes to the caller, and the key is freed.
#[derive(Clone)]
pub struct Idempotency<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Incoming + From<Vec<u8>>,
    R: Body<Data = Bytes, Error: Send> + Send + 'static,
{
    type Response = Response<CapturedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    /// Always ready: a request takes the room that the inner service may have for it once it is
    /// admitted, so that those who wait for another's attempt leave it to others.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut inner = self.inner.clone();
        let settings = &self.settings;
        if !settings.methods.contains(request.method()) {
            return Box::pin(async move {
                poll_fn(|cx| inner.poll_ready(cx)).await?;
                Ok(inner.call(request).await?.map(CapturedBody::streamed))
            });
        }
        let settings = Arc::clone(settings);
        Box::pin(async move {
            if !settings.required && !request.headers().contains_key(&settings.key) {
                let (head, body) = request.into_parts();
                let plan = settings.plan(&head);
                let admitted = match admission::admit(plan, &mut Unread(&head)).await {
                    Ok(admitted) => admitted,
                    Err(refusal) => return Ok(buffered(refusal)),
                };
                // It passes as it is, also a body of any length.
                let respond = async move {
                    let request = Request::from_parts(head, body);
                    answered(&mut inner, request, Routed::NotKnown).await
                };
                return run(admitted, respond).await;
            }
            let captured = Captured::<B>::of(request);
            let original_uri = settings.original_uri.as_ref();
            let original_uri = original_uri.map(|of| of(captured.head()).clone());
            let captured = captured.sent_to(original_uri);
            let plan = settings.plan(captured.head());
            let routed = settings.routed(captured.head());
            let admitted = match captured.admit(plan).await {
                Ok(admitted) => admitted,
                Err(refusal) => return Ok(buffered(refusal)),
            };
            let (admitted, request) = admitted.into_parts();
            let (lent, refusals) = (admitted.enclosing_attempt(), admitted.refusals().clone());
            let respond = async move {
                match request.request(&refusals).await {
                    Ok(request) => lent.scope(answered(&mut inner, request, routed)).await,
                    Err(refusal) => Responded::Rejected(buffered(refusal)),
                }
            };
            run(admitted, respond).await
        })
    }
}

/// Runs the inner service. A client that hangs up does not stop it, once it is called.
async fn run<R, E>(
    admitted: handler::Admitted,
    respond: impl Future<Output = Responded<R, E>> + Send + 'static,
) -> Result<Response<CapturedBody<R>>, E>
where
    R: Body<Data = Bytes, Error: Send> + Send + 'static,
    E: Send + 'static,
{
    let (waiting, caller) = Caller::new();
    let answer = admitted.run_detached(Box::pin(caller.scope(respond))).await;
    drop(waiting);
    answer
}

/// What is known of the way that a request has taken.
#[derive(Clone, Copy)]
enum Routed {
    NotKnown,
    /// A router has looked, and found a route or none.
    Known {
        found: bool,
    },
}

impl Routed {
    /// Whether a response is the router's own, because no route answers such a request.
    fn is_unanswered(self, status: StatusCode) -> bool {
        match (self, status) {
            (Self::Known { found }, StatusCode::NOT_FOUND) => !found,
            // axum names the methods that there are outside of all layers: until then its own is not to
            // be told from a handler's, which says the same.
            (Self::Known { .. }, StatusCode::METHOD_NOT_ALLOWED) => true,
            _ => false,
        }
    }
}

impl Settings {
    fn routed(&self, head: &Parts) -> Routed {
        match self.is_unrouted {
            None => Routed::NotKnown,
            Some(is_unrouted) => Routed::Known {
                found: !is_unrouted(head),
            },
        }
    }

    fn plan(&self, head: &Parts) -> Plan {
        Plan {
            // Without any engine the plan is refused for that.
            engine: Engine::resolve(self.engine.clone(), || head.extensions.get().cloned()).ok(),
            name: Ok(match &self.name {
                Name::OfAll(name) => name.clone(),
                Name::OfEach(name) => name(head),
            }),
            policy: self.policy,
            key: KeySource::Header(self.key.clone()),
            scope: self.scope.as_ref().map(|scope| scope(head)),
            fingerprint: None,
            release: self.release.clone(),
            required: self.required,
        }
    }
}

async fn answered<S, B, R>(
    service: &mut S,
    request: Request<B>,
    routed: Routed,
) -> Responded<R, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    match ready(service).await {
        Some(Ok(())) if Caller::begin() => {}
        Some(Err(error)) => return Responded::NotCalled(error),
        _ => return Responded::Rejected(buffered(Response::new(Bytes::new()))),
    }
    match service.call(request).await {
        Ok(response) => match Refused::by(response.extensions()) {
            Some(refused) => Responded::Refused(response, refused),
            None if routed.is_unanswered(response.status()) => {
                Responded::Refused(response, Refused::NotExecuted)
            }
            None => Responded::Answered(response),
        },
        Err(error) => Responded::Failed(error),
    }
}

/// Waits for room. `None` is that the client has gone meanwhile.
async fn ready<S: Service<Request>, Request>(service: &mut S) -> Option<Result<(), S::Error>> {
    let mut gone = pin!(Caller::gone());
    poll_fn(|cx| match gone.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => service.poll_ready(cx).map(Some),
    })
    .await
}

/// A request without a key where none is required, whose body nobody looks at.
struct Unread<'a>(&'a Parts);

impl CapturedRequest for Unread<'_> {
    fn identity(&self) -> RequestIdentity<'_> {
        RequestIdentity {
            method: &self.0.method,
            uri: &self.0.uri,
            headers: &self.0.headers,
        }
    }

    fn engine(&self) -> Option<Engine> {
        self.0.extensions.get().cloned()
    }

    async fn read(&mut self, _: usize) -> Result<Bytes, BodyError> {
        Err(BodyError::Unreadable)
    }

    fn leave(&mut self) {}
}
