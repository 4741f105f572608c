//! What every handler form shares: a request is admitted, or answered without its handler; a
//! handler's response is captured, stored, and answered.
//!
//! An adapter brings its request as a [`CapturedRequest`] and its framework's responses as
//! `http::Response`, and gets such responses back.

#![allow(
    clippy::result_large_err,
    reason = "the error is the answer, and is moved once"
)]

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::{Either, FutureExt, TryFutureExt, ready};
use http::{Extensions, Response};
use http_body::Body;
use idem_core::http::{
    Attached, Captured, CapturedBody, FlowingResponse, Problem, ProblemKind, Recording, capture,
    notice_response,
};
use tracing::Instrument;

use idem_core::{
    Driven, EnclosingAttempt, Engine, Execution, ExecutionError, Flow, Running, Transactional,
    Unprotected, Verdict, Writes, transactional,
};

use crate::refusals::Refusals;

/// What a handler ended with.
pub(crate) enum Responded<B: Body<Data = Bytes>, E = Infallible> {
    /// Its response.
    Answered(Response<B>),
    /// It did not run: its last extractor refused, with this response.
    Rejected(Response<CapturedBody<B>>),
    /// An operation within has refused: no answer of this one, which nobody may keep.
    #[cfg(feature = "tower")]
    Refused(Response<B>, Refused),
    /// An error that is no response. Nobody knows what happened before it.
    Failed(E),
    /// The same before anything happened.
    #[cfg(feature = "tower")]
    NotCalled(E),
}

/// What leads to a response. It is of one type for all handlers of a framework, so that what is done with
/// it is compiled once.
pub(crate) type Responding<B, E = Infallible> =
    Pin<Box<dyn Future<Output = Responded<B, E>> + Send>>;

type Answer<B, E> = Result<Response<CapturedBody<B>>, E>;

/// The right to run the handler.
pub(crate) struct Admitted {
    pub(crate) permit: Permit,
    #[cfg(feature = "tower")]
    pub(crate) enclosing: EnclosingAttempt,
    pub(crate) refusals: Refusals,
}

#[allow(
    clippy::large_enum_variant,
    reason = "the rare variant is the small one"
)]
pub(crate) enum Permit {
    /// Once, and store the response unless its status is listed.
    Execute(Execution, Cow<'static, [u16]>),
    /// As if the attribute were not there.
    Unprotected(Unprotected),
    /// Not at all: the response of the attempt that runs already is on its way.
    Attached(Attached),
    /// As a part of the attempt that runs already, under the same record: a layer around the
    /// handler has claimed it.
    Within,
}

impl Admitted {
    /// For what else is refused on the way to the handler, and after it.
    pub(crate) const fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// For what a layer calls.
    #[cfg(feature = "tower")]
    pub(crate) const fn enclosing_attempt(&self) -> EnclosingAttempt {
        self.enclosing
    }

    /// Runs the handler on the caller's task, which must not end with the client's connection.
    /// `read_on` reads what is left of a response that flows when the client has gone.
    #[cfg(any(feature = "actix", feature = "poem", feature = "salvo"))]
    pub(crate) async fn run<B, E, F>(self, respond: F, read_on: fn(Recording<B>)) -> Answer<B, E>
    where
        B: Body<Data = Bytes>,
        F: Future<Output = Responded<B, E>>,
    {
        let Self {
            permit, refusals, ..
        } = self;
        let ended = match permit {
            Permit::Attached(attached) => return Ok(attached.into_response()),
            Permit::Within => return EnclosingAttempt::NONE.scope(run_unrecorded(respond)).await,
            Permit::Unprotected(unprotected) => {
                let body = unprotected.drive(Box::pin(run_unrecorded(respond)));
                let body = std::panic::AssertUnwindSafe(body);
                let ended = futures_util::FutureExt::catch_unwind(body).await;
                ended.map_err(ExecutionError::Panicked)
            }
            Permit::Execute(execution, release) => {
                let engine = refusals.engine().clone();
                let body = run_and_capture(respond, release, engine, move |outgoing| {
                    outgoing.driven(read_on)
                });
                // Boxed, so that what encloses it moves a pointer.
                execution.drive_flowing(Box::pin(body)).await
            }
        };
        ended.unwrap_or_else(|error| Ok(unanswered(&error, &refusals)))
    }

    /// Runs the handler. A client that hangs up does not stop it: it goes on on a task of its own.
    ///
    /// Futures here are small, and hold boxes: what encloses them moves them, and is itself boxed by
    /// frameworks.
    pub(crate) fn run_detached<B, E>(
        self,
        respond: Responding<B, E>,
    ) -> impl Future<Output = Answer<B, E>> + Send
    where
        B: Body<Data = Bytes, Error: Send> + Send + 'static,
        E: Send + 'static,
    {
        let Self {
            permit, refusals, ..
        } = self;
        let ended = match permit {
            Permit::Execute(execution, release) => {
                let engine = refusals.engine().clone();
                let body = run_and_capture(respond, release, engine, |outgoing| {
                    outgoing.driven(Recording::spawn)
                });
                let body = Box::pin(EnclosingAttempt::NONE.scope(body));
                Either::Left(execution.drive_flowing_detached(body))
            }
            Permit::Attached(attached) => {
                Either::Right(ready(Ok(Ok(attached.into_response()))).boxed())
            }
            Permit::Within => {
                let body = EnclosingAttempt::NONE.scope(run_unrecorded(respond));
                Either::Right(body.map(Ok).boxed())
            }
            Permit::Unprotected(unprotected) => {
                let body = EnclosingAttempt::NONE.scope(run_unrecorded(respond));
                let body = unprotected.drive_detached(body);
                Either::Right(body.map_err(ExecutionError::Panicked).boxed())
            }
        };
        ended.map(move |ended| ended.unwrap_or_else(|error| Ok(unanswered(&error, &refusals))))
    }
}

async fn run_unrecorded<B, E>(respond: impl Future<Output = Responded<B, E>>) -> Answer<B, E>
where
    B: Body<Data = Bytes>,
{
    match respond.await {
        Responded::Answered(response) => Ok(response.map(CapturedBody::streamed)),
        Responded::Rejected(response) => Ok(rejected(response)),
        #[cfg(feature = "tower")]
        Responded::Refused(response, _) => Ok(response.map(CapturedBody::streamed)),
        Responded::Failed(error) => Err(error),
        #[cfg(feature = "tower")]
        Responded::NotCalled(error) => Err(error),
    }
}

/// `then` is done here and not in another future around this one, which is large.
async fn run_and_capture<B, E, T>(
    respond: impl Future<Output = Responded<B, E>>,
    release: Cow<'static, [u16]>,
    engine: Engine,
    then: impl FnOnce(Outgoing<B, E>) -> T,
) -> T
where
    B: Body<Data = Bytes>,
{
    let (verdict, answer) = match respond.await {
        Responded::Answered(response) if Refused::by(response.extensions()).is_some() => {
            // An operation or a step within has refused, after whatever this one had done before.
            (
                Verdict::of_one_stopped_within(),
                Ok(response.map(CapturedBody::streamed)),
            )
        }
        Responded::Answered(response) => {
            if !release.contains(&response.status().as_u16()) {
                notice_response(&engine, response.status(), response.headers());
            }
            let limit = engine.max_outcome_bytes();
            match capture(response, &release, limit, engine.http()).await {
                Captured::Ended(verdict, response) => (verdict, Ok(response)),
                Captured::Flows(response) => return then(Outgoing::Flows(response)),
            }
        }
        Responded::Rejected(response) => (Verdict::Released, Ok(rejected(response))),
        #[cfg(feature = "tower")]
        Responded::Refused(response, refused) => {
            let verdict = match refused {
                Refused::NotExecuted => Verdict::Released,
                Refused::Unknown => Verdict::Crashed,
            };
            (verdict, Ok(response.map(CapturedBody::streamed)))
        }
        Responded::Failed(error) => (Verdict::Crashed, Err(error)),
        #[cfg(feature = "tower")]
        Responded::NotCalled(error) => (Verdict::Released, Err(error)),
    };
    then(Outgoing::Ended(verdict, answer))
}

/// What a handler has come to.
enum Outgoing<B: Body<Data = Bytes>, E> {
    Ended(Verdict, Answer<B, E>),
    Flows(FlowingResponse<B>),
}

impl<B: Body<Data = Bytes>, E> Outgoing<B, E> {
    /// A response that flows goes to the client, and ends the attempt.
    fn driven(self, read_on: fn(Recording<B>)) -> Driven<Answer<B, E>, Flowing<B>> {
        match self {
            Self::Ended(verdict, answer) => Driven::Ended(verdict, answer),
            Self::Flows(response) => Driven::Flows(Flowing { response, read_on }),
        }
    }

    /// Reads a response that flows before the attempt ends.
    async fn collected(self) -> (Verdict, Answer<B, E>) {
        match self {
            Self::Ended(verdict, answer) => (verdict, answer),
            Self::Flows(response) => {
                let (verdict, response) = response.collected().await;
                (verdict, Ok(response))
            }
        }
    }
}

/// A response that is recorded while it flows.
struct Flowing<B: Body<Data = Bytes>> {
    response: FlowingResponse<B>,
    read_on: fn(Recording<B>),
}

impl<B: Body<Data = Bytes>, E> Flow<Answer<B, E>> for Flowing<B> {
    fn begin(self, running: Running) -> Answer<B, E> {
        Ok(self.response.recorded(running, self.read_on))
    }
}

/// The right to run the handler in a transaction.
pub(crate) struct AdmittedIn<D: Transactional> {
    pub(crate) execution: transactional::Execution<D>,
    pub(crate) release: Cow<'static, [u16]>,
    pub(crate) refusals: Refusals,
}

impl<D: Transactional> AdmittedIn<D> {
    /// For what else is refused on the way to the handler, and after it.
    pub(crate) const fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Runs the handler on the caller's task, which must not end with the client's connection;
    /// commits, and answers.
    pub(crate) async fn run<B, E, H, F>(self, handler: H) -> Answer<B, E>
    where
        B: Body<Data = Bytes>,
        H: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, Responded<B, E>)>,
    {
        let Self {
            execution,
            release,
            refusals,
        } = self;
        let engine = refusals.engine().clone();
        let body = move |transaction| async move {
            let (transaction, responded) = Box::pin(handler(transaction)).await;
            let writes = match &responded {
                Responded::Answered(response)
                    if !response.status().is_client_error()
                        && !response.status().is_server_error() =>
                {
                    Writes::Keep
                }
                _ => Writes::Discard,
            };
            let responded = std::future::ready(responded);
            let outgoing = run_and_capture(responded, release, engine, |outgoing| outgoing).await;
            // What flows is read before the commit, of which it is a part.
            let (verdict, answer) = outgoing.collected().await;
            (transaction, verdict, writes, answer)
        };
        match Box::pin(execution.drive(body)).await {
            Ok(transactional::Ended::Value(answer)) => answer,
            Ok(transactional::Ended::Replay(outcome)) => {
                Ok(buffered(refusals.replayed_response(&outcome)))
            }
            Ok(transactional::Ended::Refused(error)) => {
                crate::report_misconfiguration(&error);
                Ok(buffered(refusals.problem(Problem::not_committed(&error))))
            }
            // The panic's message has gone to the panic hook, and is not for clients.
            Err(_) => Ok(buffered(refusals.problem(Problem::rolled_back()))),
        }
    }

    /// Runs the handler on a task of its own; commits, and answers.
    pub(crate) async fn run_detached<B, E, H, F>(self, handler: H) -> Answer<B, E>
    where
        B: Body<Data = Bytes, Error: Send> + Send + 'static,
        E: Send + 'static,
        H: FnOnce(D::Transaction) -> F + Send + 'static,
        F: Future<Output = (D::Transaction, Responded<B, E>)> + Send + 'static,
    {
        let refusals = self.refusals.clone();
        let commit = self.execution.commit_sent();
        let running = tokio::spawn(self.run(handler).in_current_span());
        running.await.unwrap_or_else(|_| {
            // The runtime shuts down.
            Ok(buffered(refusals.problem(match commit.was_sent() {
                true => Problem::unsettled(),
                false => Problem::rolled_back(),
            })))
        })
    }
}

/// Whether a `Content-Length` says that there is no body: any number of zeros, and any number of
/// times, as intermediaries may join lines.
#[cfg(any(feature = "actix", feature = "salvo"))]
pub(crate) fn is_no_length(content_length: &[u8]) -> bool {
    content_length.split(|byte| *byte == b',').all(|number| {
        let number = number.trim_ascii();
        !number.is_empty() && number.iter().all(|digit| *digit == b'0')
    })
}

/// What an answer says that is no outcome of the operation that it came from.
#[derive(Clone, Copy)]
pub(crate) enum Refused {
    /// Its handler did not run, for this request.
    NotExecuted,
    /// It may have had an effect.
    Unknown,
}

/// Marks the framework's own answer where an extractor has refused.
#[derive(Clone, Copy)]
struct Rejected;

impl Refused {
    /// By what marks a response.
    pub(crate) fn by(extensions: &Extensions) -> Option<Self> {
        let kind = extensions.get::<ProblemKind>();
        let known = kind.map(|kind| match kind.may_have_executed() {
            false => Self::NotExecuted,
            true => Self::Unknown,
        });
        let rejected = || extensions.get::<Rejected>().map(|_| Self::NotExecuted);
        known.or_else(rejected)
    }
}

/// For a layer around the handler, which cannot tell a rejection from an answer.
fn rejected<B>(mut response: Response<B>) -> Response<B> {
    response.extensions_mut().insert(Rejected);
    response
}

/// The answer where a handler has left none.
fn unanswered<B: Body<Data = Bytes>>(
    error: &ExecutionError,
    refusals: &Refusals,
) -> Response<CapturedBody<B>> {
    buffered(match error {
        ExecutionError::NotRun(error) => refusals.error(error),
        ExecutionError::Stopped(error) => refusals.crashed(Problem::from(error)),
        // The panic's message has gone to the panic hook, and is not for clients.
        ExecutionError::Panicked(_) => refusals.crashed(Problem::crashed()),
    })
}

/// An answer that no handler has made.
pub(crate) fn buffered<B: Body<Data = Bytes>>(
    response: Response<Bytes>,
) -> Response<CapturedBody<B>> {
    response.map(CapturedBody::buffered)
}
