//! A middleware for [`reqwest`], through [`reqwest_middleware`].
//!
//! ```no_run
//! use idem_client::reqwest_middleware::{IdempotencyMiddleware, outcome};
//! use idem_client::{IdempotencyKey, Outcome, Policy};
//!
//! # async fn pay() -> Result<(), Box<dyn std::error::Error>> {
//! let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
//!     .with(IdempotencyMiddleware::new(Policy::new()))
//!     .build();
//!
//! let key = IdempotencyKey::derived("orders.pay", ["order-17"]);
//! let sent = client.post("https://api.example.com/charges").with_extension(key).body("{}").send();
//! match outcome(sent.await)? {
//!     Outcome::Answered(answer) => println!("{} after {} tries", answer.response.status(), answer.tries.count),
//!     Outcome::Refused(answer) => println!("refused: {:?}", answer.tries.refused),
//!     Outcome::Unknown(unknown) => println!("we do not know yet: {unknown}"),
//!     _ => {}
//! }
//! # Ok(())
//! # }
//! ```
//!
//! * Requests with POST and PATCH get a key, unless they have one: as an extension
//!   ([`with_extension`](reqwest_middleware::RequestBuilder::with_extension)) or as the header. Others
//!   are sent as they are, unless they have a key.
//! * The new key is left among the request's extensions, so that a middleware further out that tries
//!   again does it with the same one.
//! * Middlewares further in see every try. One that adds a signature or a fresh token signs each try;
//!   one that changes the body breaks the promise.
//! * Redirects are followed by reqwest, as its own policy says.

use std::fmt;

use http::Extensions;
use reqwest::{Body, Request, Response, ResponseBuilderExt, Url};
#[cfg(feature = "journal")]
use reqwest_middleware::RequestBuilder;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next, Result};

use crate::answer_body::AnswerBody;
use crate::driver::{Failed, NoAnswer, Resumed, Transport, drive, key_of, now};
use crate::key::{IdempotencyKey, KeyError};
use crate::operation::Operation;
use crate::outcome::{Outcome, Tries, TryEnd, Unknown};
use crate::policy::Policy;

/// Sends operations with their key, until they have an outcome.
///
/// A [`Response`] has [`Tries`] among its extensions. Where there is none, the error is an
/// [`Unknown`]; [`outcome`] tells them apart. A request that cannot be sent twice, or whose key is
/// malformed, is a [`RequestError`] before anything is sent.
///
/// **Cancellation.** Dropped, it sends nothing more. What was sent may be carried out.
#[derive(Clone, Debug, Default)]
pub struct IdempotencyMiddleware {
    policy: Policy,
}

impl IdempotencyMiddleware {
    /// A middleware under this policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }
}

/// Why a request is not sent at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// Its key.
    Key(KeyError),
    /// Its body is a stream, which cannot be sent a second time. Give the whole body.
    BodyNotRepeatable,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::BodyNotRepeatable => f.write_str(
                "the request's body is a stream, which cannot be sent again; give the whole body",
            ),
        }
    }
}

impl std::error::Error for RequestError {}

/// What became of an operation.
///
/// # Errors
/// With a [`RequestError`] and with errors of reqwest nothing was carried out: the request could not be
/// built, or its address is none. An error of another middleware, further in, is given as it is; what was
/// sent before it only that one knows.
pub fn outcome(sent: Result<Response>) -> Result<Outcome<Response>> {
    match sent {
        Ok(response) => Ok(tries(&response).unwrap_or(ONE).outcome(response)),
        Err(Error::Middleware(error)) => match error.downcast::<Unknown>() {
            Ok(unknown) => Ok(Outcome::Unknown(unknown)),
            Err(error) => Err(Error::Middleware(error)),
        },
        Err(error) => Err(error),
    }
}

/// What was sent as it is.
const ONE: Tries = Tries {
    count: 1,
    replayed: false,
    refused: None,
};

fn tries(response: &Response) -> Option<Tries> {
    response.extensions().get().copied()
}

#[async_trait::async_trait]
impl Middleware for IdempotencyMiddleware {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let policy = &self.policy;
        let given = extensions.get::<IdempotencyKey>();
        let method = request.method().clone();
        let key = key_of(policy, &method, request.headers_mut(), given)
            .map_err(|error| Error::middleware(RequestError::Key(error)))?;
        let Some(key) = key else {
            return next.run(request, extensions).await;
        };
        if request.try_clone().is_none() {
            return Err(Error::middleware(RequestError::BodyNotRepeatable));
        }
        extensions.insert(key.clone());
        let host = request.url().authority().to_owned();
        let mut operation = Operation::new(policy, key, &host, now());
        if extensions.get::<Resumed>().is_some() {
            operation = operation.resumed();
        }
        let mut url = request.url().clone();
        let tries = Requests {
            request,
            extensions,
            next,
            url: &mut url,
        };
        match drive(policy, operation, tries).await {
            Ok(answer) => Ok(respond(answer, url)),
            Err(NoAnswer::Unknown(unknown)) => Err(Error::middleware(unknown)),
            Err(NoAnswer::Transport(error)) => Err(error),
        }
    }
}

/// One request, sent over and over.
struct Requests<'a> {
    request: Request,
    extensions: &'a mut Extensions,
    next: Next<'a>,
    /// Where the last answer came from.
    url: &'a mut Url,
}

impl Transport for Requests<'_> {
    type Body = Body;
    type Error = Error;

    async fn send(&mut self) -> Result<http::Response<Body>> {
        let Some(request) = self.request.try_clone() else {
            return Err(Error::middleware(RequestError::BodyNotRepeatable));
        };
        let response = self.next.clone().run(request, self.extensions).await?;
        response.url().clone_into(self.url);
        Ok(response.into())
    }

    fn judge(&self, error: &Error) -> Failed {
        match error {
            Error::Reqwest(error) if error.is_builder() || error.is_redirect() => Failed::ForGood,
            Error::Reqwest(error) if error.is_connect() => Failed::Try(TryEnd::NotSent),
            Error::Reqwest(error) if error.is_timeout() => Failed::Try(TryEnd::TimedOut),
            Error::Reqwest(_) => Failed::Try(TryEnd::Broken),
            Error::Middleware(_) => Failed::ForGood,
        }
    }
}

fn respond(answer: http::Response<AnswerBody<Body>>, url: Url) -> Response {
    let (mut head, body) = answer.into_parts();
    // reqwest keeps the address among the extensions, under a type of its own.
    if let Ok(addressed) = http::Response::builder().url(url).body(()) {
        head.extensions.extend(addressed.into_parts().0.extensions);
    }
    let body = match body.whole() {
        Some(whole) => Body::from(whole),
        None => Body::wrap(body),
    };
    http::Response::from_parts(head, body).into()
}

/// A client that has the middleware, which the `journal` asks for: through one without it an operation
/// would be sent without its key.
#[derive(Clone, Debug)]
pub struct IdempotentClient(ClientWithMiddleware);

impl IdempotentClient {
    /// A client over reqwest's.
    pub fn new(client: reqwest::Client, policy: Policy) -> Self {
        Self::build(ClientBuilder::new(client), policy)
    }

    /// A client with the builder's middlewares, and ours further in.
    pub fn build(builder: ClientBuilder, policy: Policy) -> Self {
        Self(builder.with(IdempotencyMiddleware::new(policy)).build())
    }

    /// The client itself.
    pub fn client(&self) -> &ClientWithMiddleware {
        &self.0
    }
}

#[cfg(feature = "journal")]
impl crate::journal::Transport for IdempotentClient {
    type Response = Response;
    type Error = Error;

    async fn send(&self, recorded: crate::journal::Recorded) -> Result<Outcome<Response>> {
        let request = Request::try_from(recorded.request).map_err(Error::Reqwest)?;
        let mut request = RequestBuilder::from_parts(self.0.clone(), request);
        request.extensions().insert(recorded.key);
        if recorded.resumed {
            request.extensions().insert(Resumed);
        }
        outcome(request.send().await)
    }
}
