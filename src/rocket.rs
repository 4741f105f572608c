//! Rocket 0.5: the key as a request guard, and a reply that is stored.
//!
//! ```
//! use idem::idempotent;
//! use idem::rocket::{IdempotencyKey, Reply};
//! use rocket::http::Status;
//! use rocket::post;
//! use rocket::serde::{Deserialize, Serialize, json::Json};
//!
//! #[derive(Serialize, Deserialize)]
//! struct NewCharge {
//!     amount: u64,
//! }
//!
//! #[post("/charges", data = "<order>")]
//! #[idempotent(key = key, ttl = "24h")]
//! async fn create<'r>(key: IdempotencyKey<'r>, order: Json<NewCharge>) -> Reply<'r> {
//!     if order.amount == 0 {
//!         return key.reply((Status::BadRequest, "the amount is zero")).await;
//!     }
//!     key.reply((Status::Created, Json(order.into_inner()))).await
//! }
//! ```
//!
//! Rocket hands its routes what their guards and data guards have made of a request, not the
//! request, so this is the function form, below Rocket's attribute: the arguments count. What is
//! neither `Serialize` nor a `Json` or `Form` of that is skipped: `skip(bank)`.
//!
//! - **Key.** [`IdempotencyKey`] reads the header `Idempotency-Key`; it never fails, so that a
//!   missing or a malformed key is answered as a problem like everything else that is refused.
//! - **What counts.** The arguments, of which the key's guard stands for the request's method, path,
//!   query and content type; and without a `scope`, host and `Authorization`: another caller with the
//!   same key is refused, and never gets this one's response. The guards run before the attribute, so
//!   what authenticates comes first.
//! - **Reply.** [`IdempotencyKey::reply`] makes any responder a [`Reply`]: its status, headers and
//!   body are stored, and given back with `Idempotent-Replayed: true`. 401, 408, 425, 429 and 503
//!   free the key. An error status without a response of its own is answered by the catcher that
//!   is registered for it, and what the catcher answers is stored. What Rocket and its fairings add
//!   to a response after that, cookies of the jar among it, is not.
//! - **Hang-ups.** Rocket serves every request on a task of its own, which goes on when the client
//!   has gone, and says so to nobody. One that waits (`in_flight = "wait 5s"`) waits on, and runs if
//!   the one before it has freed the key: let it wait for seconds, not for as long as it takes.
//! - **Panics** of the function are answered with 500 `crashed`; the next attempt follows `on_crash`.
//!
//! The engine is the one of `engine = …`, else the installed one. The guard reads the key by the
//! settings of an [`Engine`] in Rocket's managed state, else of the installed one.
//!
//! Rocket drops header lines that are not UTF-8 before anyone sees them: such a key is missing
//! rather than malformed.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use idem_core::http::{HttpSettings, Problem, ProblemKind, RequestIdentity};
use idem_core::{
    AfterCrash, Engine, Error, Key, KeyError, KeyPart, Outcome, Replayable, Settings, Verdict,
};
use rocket::Catcher;
use rocket::form::Form;
use rocket::http::Status;
use rocket::request::{self, FromRequest, Request};
use rocket::response::{self, Responder, Response};
use rocket::serde::json::Json;
use serde::{Serialize, Serializer};

pub use crate::reply::KeyText;

use crate::__private::Fingerprintable;

use crate::reply::{
    self, Content, Head, keeps_writes, replayed_response, settings, verdict, verdict_of_installed,
};

/// The idempotency key of a request, or why there is none: a request guard that never fails.
///
/// As an argument it is a part of the fingerprint, as a digest of the request's method, path,
/// query and content type; the quoted and the bare form of a key are one. As the key it says what is
/// asked for and who asks: method, path and query, and without a `scope` a digest of
/// host and `Authorization`, take part in the fingerprint whatever `fingerprint(…)` and `skip(…)` say.
#[derive(Clone)]
pub struct IdempotencyKey<'r> {
    head: Head,
    request: &'r (dyn Answering<'r> + 'r),
    engine: Option<&'r Engine>,
}

impl<'r> IdempotencyKey<'r> {
    /// The key in another header. For a guard of one's own:
    ///
    /// ```
    /// use idem::rocket::IdempotencyKey;
    /// use rocket::request::{FromRequest, Outcome, Request};
    ///
    /// #[derive(serde::Serialize)]
    /// struct TransferId<'r>(IdempotencyKey<'r>);
    ///
    /// #[rocket::async_trait]
    /// impl<'r> FromRequest<'r> for TransferId<'r> {
    ///     type Error = std::convert::Infallible;
    ///
    ///     async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Self::Error> {
    ///         Outcome::Success(Self(IdempotencyKey::in_header("Transfer-Id", request)))
    ///     }
    /// }
    /// ```
    pub fn in_header(name: &str, request: &'r Request<'_>) -> Self {
        let engine = request.rocket().state::<Engine>();
        Self {
            head: with_identity(request, |identity| Head::of(identity, name, engine)),
            request,
            engine,
        }
    }

    /// The key's text, in its one form.
    ///
    /// # Errors
    /// Why there is none.
    pub fn key(&self) -> Result<KeyText<'_>, KeyError> {
        self.head.key()
    }

    /// The responder's answer to this request, ready to be stored. A body of a known length up to
    /// the engine's limit is read whole; a longer one and a stream are passed on to this caller,
    /// and no retry gets them.
    pub fn reply<'o: 'r, 'a, R>(
        &self,
        responder: R,
    ) -> impl Future<Output = Reply<'r>> + Send + use<'r, 'o, 'a, R>
    where
        R: Responder<'r, 'o> + 'a,
    {
        let request = self.request;
        let limit = self.engine.map(Engine::max_outcome_bytes);
        request.refused(None);
        let answered = request.respond(Box::new(move |request| responder.respond_to(request)));
        let refused = request.refused(None);
        async move {
            let response = match answered {
                Ok(response) => response,
                Err(status) => request.catch(status).await,
            };
            Reply::read(response, limit, refused).await
        }
    }
}

impl KeyPart for IdempotencyKey<'_> {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.head.append_to(key)
    }
}

impl Serialize for IdempotencyKey<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.head.serialize(serializer)
    }
}

impl fmt::Debug for IdempotencyKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKey").finish_non_exhaustive()
    }
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for IdempotencyKey<'r> {
    type Error = Infallible;

    async fn from_request(request: &'r Request<'_>) -> request::Outcome<Self, Infallible> {
        request::Outcome::Success(Self::in_header("idempotency-key", request))
    }
}

/// A request without its second lifetime, which is invariant and which no guard can name.
trait Answering<'r>: Send + Sync {
    /// Notes that a reply has become a response in which an operation refuses, or takes the note.
    fn refused(&'r self, refused: Option<ProblemKind>) -> Option<ProblemKind>;

    fn respond(&'r self, respond: Respond<'r, '_>) -> response::Result<'r>;

    /// What Rocket would answer for a status without a response.
    fn catch(&'r self, status: Status) -> Pin<Box<dyn Future<Output = Response<'r>> + Send + 'r>>;
}

type Respond<'r, 'a> = Box<dyn for<'i> FnOnce(&'r Request<'i>) -> response::Result<'r> + 'a>;

/// What a reply of this request has said last. Rocket's responses have no extensions.
#[derive(Default)]
struct LastRefused(Mutex<Option<ProblemKind>>);

impl LastRefused {
    fn replace(request: &Request<'_>, refused: Option<ProblemKind>) -> Option<ProblemKind> {
        let last = request.local_cache(Self::default);
        std::mem::replace(
            &mut last.0.lock().unwrap_or_else(PoisonError::into_inner),
            refused,
        )
    }
}

impl<'r> Answering<'r> for Request<'_> {
    fn refused(&'r self, refused: Option<ProblemKind>) -> Option<ProblemKind> {
        LastRefused::replace(self, refused)
    }

    fn respond(&'r self, respond: Respond<'r, '_>) -> response::Result<'r> {
        respond(self)
    }

    fn catch(&'r self, status: Status) -> Pin<Box<dyn Future<Output = Response<'r>> + Send + 'r>> {
        Box::pin(async move {
            let default = Catcher::default();
            // As Rocket does: a catcher that fails is an internal error itself.
            for status in [status, Status::InternalServerError] {
                let catcher = registered(self, status).unwrap_or(&default);
                if let Ok(response) = catcher.handler.handle(status, self).await {
                    return response;
                }
            }
            Response::build()
                .status(Status::InternalServerError)
                .finalize()
        })
    }
}

/// The catcher that Rocket would choose: the one of the longest base, and of several with that
/// base the one for this very status.
fn registered<'r>(request: &'r Request<'_>, status: Status) -> Option<&'r Catcher> {
    let path = request.uri().path();
    let catchers = request.rocket().catchers();
    let fitting = catchers.filter(|catcher| {
        catcher.code.is_none_or(|code| code == status.code)
            && catcher.base.path().segments().prefix_of(path.segments())
    });
    fitting.max_by_key(|catcher| {
        let depth = catcher.base.path().segments().len();
        (depth, catcher.code.is_some())
    })
}

/// A response that an idempotent function can store and give back. See [`IdempotencyKey::reply`].
pub struct Reply<'r>(Kind<'r>);

#[allow(
    clippy::large_enum_variant,
    reason = "one value for each request, moved twice"
)]
enum Kind<'r> {
    /// A responder's response, whole for its caller, and what of its body is known.
    Given(Response<'r>, Content, Option<ProblemKind>),
    /// A stored response.
    Stored(http::Response<Bytes>),
    /// A refusal, which is rendered when the request is at hand again.
    Refused(Box<(Problem, HttpSettings)>),
}

impl<'r> Reply<'r> {
    fn refusal(problem: Problem, settings: &HttpSettings) -> Self {
        Self(Kind::Refused(Box::new((problem, settings.clone()))))
    }

    async fn read(
        mut response: Response<'r>,
        limit: Option<usize>,
        refused: Option<ProblemKind>,
    ) -> Self {
        let limit = limit
            .or_else(|| Engine::installed().ok().map(|it| it.max_outcome_bytes()))
            .unwrap_or(usize::MAX);
        let content = match response.body_mut().size().await {
            Some(length) if length <= limit => match response.body_mut().to_bytes().await {
                // One that ends early is no whole answer.
                Ok(body) if body.len() == length => {
                    let body = Bytes::from(body);
                    response.set_sized_body(body.len(), Cursor::new(body.clone()));
                    Content::Buffered(body)
                }
                Ok(_) | Err(_) => Content::Broken,
            },
            length => Content::Unread(length.map(|length| length as u64)),
        };
        let content = match headers(response.headers()) {
            Some(_) => content,
            // What would be stored is not the whole response.
            None => Content::Unread(None),
        };
        Self(Kind::Given(response, content, refused))
    }

    fn head(&self) -> http::Response<Content> {
        match &self.0 {
            Kind::Given(response, content, refused) => {
                let mut head = http::Response::new(content.clone());
                *head.status_mut() = StatusCode::from_u16(response.status().code)
                    .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                *head.headers_mut() = headers(response.headers()).unwrap_or_default();
                if let Some(refused) = refused {
                    head.extensions_mut().insert(*refused);
                }
                head
            }
            Kind::Stored(response) => response.clone().map(Content::Buffered),
            Kind::Refused(refusal) => {
                let kind = refusal.0.kind;
                let mut head = http::Response::new(Content::Buffered(Bytes::new()));
                *head.status_mut() = kind.status();
                head.extensions_mut().insert(kind);
                head
            }
        }
    }
}

/// A request's head as the crate `http` knows it.
fn with_identity<T>(request: &Request<'_>, use_it: impl FnOnce(RequestIdentity<'_>) -> T) -> T {
    // Servers take far fewer lines than there is room for.
    let mut headers = headers(request.headers()).unwrap_or_default();
    // HTTP/2 has it in the request's target, of which Rocket keeps the path and the query.
    if let Some(host) = request.host()
        && !headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::try_from(host.to_string())
    {
        headers.insert(HOST, host);
    }
    let method = Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or_default();
    let uri = Uri::try_from(request.uri().to_string()).unwrap_or_default();
    use_it(RequestIdentity {
        method: &method,
        uri: &uri,
        headers: &headers,
    })
}

/// Header lines as the crate `http` knows them; what is no header there is left out. `None` is that
/// there are more names than it has room for.
fn headers(lines: &rocket::http::HeaderMap<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines.iter() {
        let name = HeaderName::from_bytes(line.name().as_str().as_bytes());
        let value = HeaderValue::from_bytes(line.value().as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.try_append(name, value).ok()?;
        }
    }
    Some(headers)
}

#[diagnostic::do_not_recommend]
impl<Errors> Replayable<Errors> for Reply<'_> {
    fn verdict(&self) -> Verdict {
        verdict_of_installed(self.head())
    }

    fn replay(outcome: &Outcome) -> Result<Self, Error> {
        let replayed_response = settings(None, |settings| replayed_response(outcome, settings));
        replayed_response.map(|response| Self(Kind::Stored(response)))
    }

    fn replay_under(outcome: &Outcome, settings: &Settings) -> Result<Self, Error> {
        replayed_response(outcome, settings.http()).map(|response| Self(Kind::Stored(response)))
    }

    fn refused(error: Error) -> Self {
        settings(None, |settings| {
            Self::refusal(Problem::from(&error), settings)
        })
    }

    fn verdict_under(&self, settings: &Settings) -> Verdict {
        verdict(self.head(), settings)
    }

    fn refused_under(error: Error, settings: &Settings) -> Self {
        Self::refusal(Problem::from(&error), settings.http())
    }

    fn crashed(settings: &Settings, next: AfterCrash) -> Option<Self> {
        Some(Self::refusal(reply::crashed(next), settings.http()))
    }

    fn keeps_writes(&self, _: &Outcome) -> bool {
        keeps_writes(self.head().status())
    }
}

impl<'r> Responder<'r, 'r> for Reply<'r> {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'r> {
        let made = match self.0 {
            Kind::Given(_, Content::Broken, _) => return Err(Status::InternalServerError),
            Kind::Given(response, _, refused) => {
                LastRefused::replace(request, refused);
                return Ok(response);
            }
            Kind::Stored(stored) => stored,
            Kind::Refused(refusal) => {
                let (problem, settings) = *refusal;
                with_identity(request, |identity| {
                    problem.into_response_to(&identity, &settings)
                })
            }
        };
        LastRefused::replace(request, made.extensions().get().copied());
        let (head, body) = made.into_parts();
        let mut response = Response::new();
        response.set_status(Status::new(head.status.as_u16()));
        for (name, value) in &head.headers {
            if let Ok(value) = std::str::from_utf8(value.as_bytes()) {
                response.adjoin_raw_header(name.as_str().to_owned(), value.to_owned());
            }
        }
        response.set_sized_body(body.len(), Cursor::new(body));
        Ok(response)
    }
}

impl fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").field(&self.head().status()).finish()
    }
}

/// Rocket's wrappers count as what is in them.
#[doc(hidden)]
#[derive(Debug)]
pub enum ViaRocket {}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Fingerprintable<ViaRocket> for Json<T> {
    type Compared = T;

    fn compared(&self) -> &T {
        &self.0
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Fingerprintable<ViaRocket> for Form<T> {
    type Compared = T;

    fn compared(&self) -> &T {
        self
    }
}
