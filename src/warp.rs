//! warp 0.4: the key as a filter, and a reply that is stored.
//!
//! ```
//! use idem::idempotent;
//! use idem::warp::{IdempotencyKey, Reply};
//! use serde::{Deserialize, Serialize};
//! use warp::Filter;
//! use warp::http::StatusCode;
//!
//! #[derive(Serialize, Deserialize)]
//! struct NewCharge {
//!     amount: u64,
//! }
//!
//! #[idempotent(key = key, ttl = "24h")]
//! async fn create(key: IdempotencyKey, order: NewCharge) -> Reply {
//!     if order.amount == 0 {
//!         return Reply::of(StatusCode::BAD_REQUEST);
//!     }
//!     let charge = warp::reply::json(&order);
//!     Reply::of(warp::reply::with_status(charge, StatusCode::CREATED))
//! }
//!
//! let route = warp::path("charges")
//!     .and(warp::post())
//!     .and(idem::warp::key())
//!     .and(warp::body::json())
//!     .then(|key, order| idem::warp::detached(create(key, order)));
//! # fn is_filter(_: impl Filter<Error = warp::Rejection>) {}
//! # is_filter(route);
//! ```
//!
//! warp hands its functions what filters have made of a request, not the request, so this is the
//! function form: the arguments count, and are `Serialize` or skipped (`skip(bank)`).
//!
//! - **Key.** [`key`] never rejects, so that a missing or a malformed key is answered as a problem
//!   like everything else that is refused. [`header`] reads it from another header.
//! - **What counts.** The arguments, of which the key stands for the request's method, path, query
//!   and content type; and without a `scope`, host and `Authorization`: another caller with the same
//!   key is refused, and never gets this one's response. Filters run before the function, so what
//!   authenticates comes first.
//! - **Reply.** [`Reply::of`] takes any reply: its status, headers and body are stored, and given
//!   back with `Idempotent-Replayed: true`. 401, 408, 425, 429 and 503 free the key. A rejection is
//!   made of no response that could be stored: answer errors with replies.
//! - **Panics** of the function are answered with 500 `crashed`; the next attempt follows `on_crash`.
//! - **Hang-ups.** warp drops a function with its client's connection. In [`detached`] a body that
//!   has begun goes on, and its outcome is stored.
//!
//! The engine is the one of `engine = …`, else the installed one. The filters read the key by the
//! settings of an [`Engine`] among the request's extensions, else of the installed one.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Response, Uri};
use http_body::Body as _;
use idem_core::http::{Problem, RequestIdentity};
use idem_core::{
    AfterCrash, Engine, Error, Key, KeyError, KeyPart, Outcome, Replayable, Settings, Verdict,
};
use serde::{Serialize, Serializer};
use warp::Filter;
use warp::filters::path::FullPath;

pub use crate::reply::KeyText;

use crate::reply::{
    self, Content, Head, keeps_writes, replayed_response, settings, verdict, verdict_of_installed,
};

/// A filter for the header `Idempotency-Key`. It never rejects: see [`IdempotencyKey`].
pub fn key() -> impl Filter<Extract = (IdempotencyKey,), Error = Infallible> + Clone {
    header("idempotency-key")
}

/// The same for another header.
pub fn header(
    name: &'static str,
) -> impl Filter<Extract = (IdempotencyKey,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    // One that warp rejects, such as a host in the target and another in the header, counts by its
    // header.
    let authority = warp::host::optional().or(warp::any().map(|| None)).unify();
    warp::method()
        .and(authority)
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Engine>())
        .map(
            move |method: Method,
                  authority: Option<Authority>,
                  path: FullPath,
                  query: String,
                  headers: HeaderMap,
                  engine: Option<Engine>| {
                let target = match &*query {
                    "" => path.as_str().to_owned(),
                    query => format!("{}?{query}", path.as_str()),
                };
                let mut uri = Uri::builder().path_and_query(target);
                if let Some(authority) = authority {
                    uri = uri.scheme(Scheme::HTTP).authority(authority);
                }
                let identity = RequestIdentity {
                    method: &method,
                    uri: &uri.build().unwrap_or_default(),
                    headers: &headers,
                };
                IdempotencyKey(Head::of(identity, name, engine.as_ref()))
            },
        )
}

/// The idempotency key of a request, or why there is none.
///
/// As an argument it is a part of the fingerprint, as a digest of the request's method, path,
/// query and content type; the quoted and the bare form of a key are one. As the key it says what is
/// asked for and who asks: method, path and query, and without a `scope` a digest of
/// host and `Authorization`, take part in the fingerprint whatever `fingerprint(…)` and `skip(…)` say.
#[derive(Clone)]
pub struct IdempotencyKey(Head);

impl IdempotencyKey {
    /// The key in this header of a request, by the settings of the [`Engine`] among its extensions,
    /// else of the installed one: as the filters make it, for whoever has a request and no filter,
    /// such as a test of an idempotent function.
    ///
    /// ```
    /// # use idem::warp::{IdempotencyKey, Reply};
    /// # async fn create(key: IdempotencyKey, amount: u64) -> Reply { Reply::of(amount.to_string()) }
    /// # async fn example() -> Result<(), warp::http::Error> {
    /// let request = warp::http::Request::post("/charges").header("Idempotency-Key", "a");
    /// let (head, ()) = request.body(())?.into_parts();
    /// let key = IdempotencyKey::in_header("idempotency-key", &head);
    /// let reply = create(key, 1999).await;
    /// # Ok(drop(reply))
    /// # }
    /// ```
    pub fn in_header(name: &str, head: &Parts) -> Self {
        let identity = RequestIdentity {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
        };
        Self(Head::of(identity, name, head.extensions.get()))
    }

    /// The key's text, in its one form.
    ///
    /// # Errors
    /// Why there is none.
    pub fn key(&self) -> Result<KeyText<'_>, KeyError> {
        self.0.key()
    }
}

impl KeyPart for IdempotencyKey {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.0.append_to(key)
    }
}

impl Serialize for IdempotencyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKey").finish_non_exhaustive()
    }
}

/// Runs an idempotent function on a task of its own, at once: a client that hangs up does not stop
/// its body, and any panic is answered with 500, where warp would close the connection. A call that
/// still waits for another's attempt when its client hangs up ends, and does not run.
pub fn detached<F>(function: F) -> impl Future<Output = warp::reply::Response> + Send + use<F>
where
    F: Future<Output: warp::Reply> + Send + 'static,
{
    let answer = async move { warp::Reply::into_response(function.await) };
    let running = idem_core::detached(answer);
    async move {
        match AssertUnwindSafe(running).catch_unwind().await {
            Ok(response) => response,
            // The panic's message has gone to the panic hook, and is not for clients.
            Err(_) => settings(None, |settings| {
                Problem::crashed().into_response(settings).map(Into::into)
            }),
        }
    }
}

/// A response that an idempotent function can store and give back.
///
/// A body whose length is known is stored, up to the engine's limit;
/// a longer one and a stream reach the first caller, and no retry gets them.
pub struct Reply {
    /// With its body, where that was not read.
    response: warp::reply::Response,
    content: Content,
}

impl Reply {
    /// The reply's response, ready to be stored.
    pub fn of(reply: impl warp::Reply) -> Self {
        let (head, body) = reply.into_response().into_parts();
        let (content, body) = read(body);
        Self {
            response: Response::from_parts(head, body),
            content,
        }
    }

    fn made(response: Response<Bytes>) -> Self {
        Self {
            content: Content::Buffered(response.body().clone()),
            response: response.map(Into::into),
        }
    }

    fn head(&self) -> Response<Content> {
        let mut head = Response::new(self.content.clone());
        *head.status_mut() = self.response.status();
        *head.headers_mut() = self.response.headers().clone();
        *head.extensions_mut() = self.response.extensions().clone();
        head
    }
}

type Body = <warp::reply::Response as ReplyBody>::Body;

/// The type of warp's bodies, which has no public name.
trait ReplyBody {
    type Body;
}

impl<B> ReplyBody for Response<B> {
    type Body = B;
}

/// Takes what a body holds already. warp's bodies of a known length hold it all.
fn read(mut body: Body) -> (Content, Body) {
    match body.size_hint().exact() {
        None => return (Content::Unread(None), body),
        Some(0) => return (Content::Buffered(Bytes::new()), body),
        Some(_) => {}
    }
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match Pin::new(&mut body).poll_frame(&mut cx) {
        Poll::Pending => (Content::Unread(None), body),
        Poll::Ready(Some(Ok(frame))) if body.is_end_stream() && frame.is_data() => {
            let bytes = frame.into_data().unwrap_or_default();
            (Content::Buffered(bytes.clone()), bytes.into())
        }
        Poll::Ready(_) => (Content::Broken, body),
    }
}

#[diagnostic::do_not_recommend]
impl<Errors> Replayable<Errors> for Reply {
    fn verdict(&self) -> Verdict {
        verdict_of_installed(self.head())
    }

    fn replay(outcome: &Outcome) -> Result<Self, Error> {
        settings(None, |settings| replayed_response(outcome, settings)).map(Self::made)
    }

    fn replay_under(outcome: &Outcome, settings: &Settings) -> Result<Self, Error> {
        replayed_response(outcome, settings.http()).map(Self::made)
    }

    fn refused(error: Error) -> Self {
        settings(None, |settings| {
            Self::made(Problem::from(&error).into_response(settings))
        })
    }

    fn verdict_under(&self, settings: &Settings) -> Verdict {
        verdict(self.head(), settings)
    }

    fn refused_under(error: Error, settings: &Settings) -> Self {
        Self::made(Problem::from(&error).into_response(settings.http()))
    }

    fn crashed(settings: &Settings, next: AfterCrash) -> Option<Self> {
        Some(Self::made(
            reply::crashed(next).into_response(settings.http()),
        ))
    }

    fn keeps_writes(&self, _: &Outcome) -> bool {
        keeps_writes(self.response.status())
    }
}

impl warp::Reply for Reply {
    fn into_response(self) -> warp::reply::Response {
        self.response
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply")
            .field(&self.response.status())
            .finish()
    }
}
