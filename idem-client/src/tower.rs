//! A tower layer for HTTP clients: hyper-util's, or any `Service<http::Request<B>>`.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use idem_client::tower::{IdempotencyLayer, outcome};
//! use idem_client::{IdempotencyKey, Outcome, Policy};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a program: `hyper_util::client::legacy::Client`.
//! let client = service_fn(async |_: Request<Full<Bytes>>| {
//!     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"charged"))))
//! });
//! let mut client = ServiceBuilder::new().layer(IdempotencyLayer::new(Policy::new())).service(client);
//!
//! let request = Request::post("http://127.0.0.1:3000/charges")
//!     .extension(IdempotencyKey::derived("orders.pay", ["order-17"]))
//!     .body(Full::new(Bytes::from_static(b"{}")))?;
//! let Outcome::Answered(answer) = outcome(client.ready().await?.call(request).await)? else { panic!() };
//! assert_eq!(answer.tries.count, 1);
//! # Ok(())
//! # }
//! ```
//!
//! A request's body is cloned for each try, so it has to be a type that can be: `Full<Bytes>`,
//! `String`. **A stream does not compile.** Keep one clone of the client for one clone of the layer: the
//! budget of retries is shared by all clones of a [`Policy`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::answer_body::AnswerBody;
use crate::driver::{Failed, NoAnswer, Resumed, Transport, drive, key_of, now};
use crate::key::{IdempotencyKey, KeyError};
use crate::operation::Operation;
use crate::outcome::{Outcome, Tries, TryEnd, Unknown};
use crate::policy::Policy;

/// Whether an error says that nothing was sent.
type NotSent<E> = Arc<dyn Fn(&E) -> bool + Send + Sync>;

/// Sends operations with their key, until they have an outcome.
///
/// `E` is the client's error. Every error is one of a connection, and is retried.
pub struct IdempotencyLayer<E> {
    policy: Policy,
    not_sent: NotSent<E>,
}

/// The service of an [`IdempotencyLayer`].
///
/// **Cancellation.** A future that is dropped sends nothing more. What was sent may be carried out.
pub struct Idempotency<S, E> {
    inner: S,
    policy: Policy,
    not_sent: NotSent<E>,
}

/// Why there is no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// There is none, and the operation may have been carried out.
    Unknown(Unknown),
    /// The request was not sent, because of its key.
    Key(KeyError),
    /// The client failed with a request that is no operation.
    Client(E),
}

impl<E> IdempotencyLayer<E> {
    /// A layer under this policy.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            not_sent: Arc::new(|_| false),
        }
    }

    /// Which errors say that no byte of the request was sent, such as hyper-util's
    /// `client::legacy::Error::is_connect`. None unless given: then an operation whose every connection
    /// was refused counts as one that may have been carried out.
    #[must_use]
    pub fn not_sent_where(mut self, not_sent: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.not_sent = Arc::new(not_sent);
        self
    }
}

impl<S, E> Layer<S> for IdempotencyLayer<E> {
    type Service = Idempotency<S, E>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotency {
            inner,
            policy: self.policy.clone(),
            not_sent: Arc::clone(&self.not_sent),
        }
    }
}

/// What became of an operation.
///
/// # Errors
/// When the request was not sent because of its key, or is no operation and failed.
pub fn outcome<R, E>(
    sent: Result<Response<R>, Error<E>>,
) -> Result<Outcome<Response<R>>, Error<E>> {
    match sent {
        Ok(response) => {
            let tries = response.extensions().get::<Tries>().copied();
            let one = Tries {
                count: 1,
                replayed: false,
                refused: None,
            };
            Ok(tries.unwrap_or(one).outcome(response))
        }
        Err(Error::Unknown(unknown)) => Ok(Outcome::Unknown(unknown)),
        Err(error) => Err(error),
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S, S::Error>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Clone + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send,
{
    type Response = Response<AnswerBody<R>>;
    type Error = Error<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Client)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is used; its clone gets ready for the next call.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let policy = self.policy.clone();
        let not_sent = Arc::clone(&self.not_sent);
        Box::pin(call(policy, not_sent, ready, request))
    }
}

async fn call<S, B, R>(
    policy: Policy,
    not_sent: NotSent<S::Error>,
    mut service: S,
    request: Request<B>,
) -> Result<Response<AnswerBody<R>>, Error<S::Error>>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send,
    S::Future: Send,
    S::Error: Send,
    B: Clone + Send,
    R: Body<Data = Bytes> + Send,
{
    let (mut head, body) = request.into_parts();
    let given = head.extensions.get::<IdempotencyKey>();
    let key = key_of(&policy, &head.method, &mut head.headers, given).map_err(Error::Key)?;
    let Some(key) = key else {
        let sent = service.call(Request::from_parts(head, body)).await;
        return match sent {
            Ok(response) => Ok(response.map(AnswerBody::flowing)),
            Err(error) => Err(Error::Client(error)),
        };
    };
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => head
            .headers
            .get(http::header::HOST)
            .map_or(&[][..], |it| it.as_bytes()),
    };
    let host = String::from_utf8_lossy(host).into_owned();
    let mut operation = Operation::new(&policy, key, &host, now());
    if head.extensions.get::<Resumed>().is_some() {
        operation = operation.resumed();
    }
    let requests = Requests {
        service: service.clone(),
        ready: Some(service),
        request: Request::from_parts(head, body),
        not_sent,
    };
    match drive(&policy, operation, requests).await {
        Ok(response) => Ok(response),
        Err(NoAnswer::Unknown(unknown)) => Err(Error::Unknown(unknown)),
        Err(NoAnswer::Transport(error)) => Err(Error::Client(error)),
    }
}

#[cfg(feature = "journal")]
impl<S, R> crate::journal::Transport for Idempotency<S, S::Error>
where
    S: Service<Request<http_body_util::Full<Bytes>>, Response = Response<R>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send,
{
    type Response = Response<AnswerBody<R>>;
    type Error = Error<S::Error>;

    async fn send(
        &self,
        recorded: crate::journal::Recorded,
    ) -> Result<Outcome<Self::Response>, Self::Error> {
        let mut service = self.clone();
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        let mut request = recorded.request.map(http_body_util::Full::new);
        request.extensions_mut().insert(recorded.key);
        if recorded.resumed {
            request.extensions_mut().insert(Resumed);
        }
        outcome(service.call(request).await)
    }
}

/// One request, sent over and over.
struct Requests<S, B, E> {
    service: S,
    ready: Option<S>,
    request: Request<B>,
    not_sent: NotSent<E>,
}

impl<S, B, R> Transport for Requests<S, B, S::Error>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send,
    S::Future: Send,
    S::Error: Send,
    B: Clone + Send,
    R: Body<Data = Bytes> + Send,
{
    type Body = R;
    type Error = S::Error;

    async fn send(&mut self) -> Result<Response<R>, S::Error> {
        let mut service = match self.ready.take() {
            Some(ready) => ready,
            None => {
                let mut service = self.service.clone();
                std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
                service
            }
        };
        service.call(self.request.clone()).await
    }

    fn judge(&self, error: &S::Error) -> Failed {
        Failed::Try(match (self.not_sent)(error) {
            true => TryEnd::NotSent,
            false => TryEnd::Broken,
        })
    }
}

impl<E> Clone for IdempotencyLayer<E> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            not_sent: Arc::clone(&self.not_sent),
        }
    }
}

impl<S: Clone, E> Clone for Idempotency<S, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            policy: self.policy.clone(),
            not_sent: Arc::clone(&self.not_sent),
        }
    }
}

impl<E> fmt::Debug for IdempotencyLayer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = &mut f.debug_struct("IdempotencyLayer");
        layer.field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, E> fmt::Debug for Idempotency<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<E> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(unknown) => unknown.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::Client(_) => f.write_str("the request failed"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unknown(_) => None,
            Self::Key(error) => Some(error),
            Self::Client(error) => Some(error),
        }
    }
}
