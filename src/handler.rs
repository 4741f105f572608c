//! What every handler form shares: a request is admitted, or answered without its handler; a
//! handler's response is judged, stored, and answered.
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

use bytes::Bytes;
use http::{Extensions, Response};
use http_body::Body;
use idem_core::http::{
    BodyError, Captured, CapturedBody, FlowingResponse, HttpSettings, Problem, ProblemKind,
    Recording, RequestIdentity, capture, parse_key,
};
use tracing::Instrument;

use idem_core::{
    Begun, Caller, Driven, EndedIn, Engine, Error, Execution, ExecutionError, ExecutionIn,
    Fingerprint, FingerprintError, Fingerprinter, Flow, FormerFingerprint, Granted, Key, KeyError,
    Lent, Operation, Running, Transactional, Unprotected, Verdict, Writes,
};

use crate::__private::{KeySource, Plan, operation};
use crate::refusals::Refusals;

/// A request on its way to an idempotent handler. Its body waits.
pub(crate) trait CapturedRequest {
    /// What of its head counts.
    fn identity(&self) -> RequestIdentity<'_>;

    /// The engine that it carries.
    fn engine(&self) -> Option<Engine>;

    /// Its body, whole, and kept for the handler.
    async fn read(&mut self, limit: usize) -> Result<Bytes, BodyError>;

    /// It is refused: what its client still writes is read out beside the answer, which a closed
    /// connection would cut off.
    fn leave(&mut self);
}

/// The request's engine, else the installed one.
pub(crate) fn engine_of(request: &impl CapturedRequest) -> Result<Engine, Error> {
    request.engine().map_or_else(Engine::installed, Ok)
}

/// Reads the body before anything else, because what counts is named by what it says. Nothing is
/// claimed yet.
pub(crate) async fn read_early(
    request: &mut impl CapturedRequest,
    engine: Option<Engine>,
) -> Result<Bytes, Response<Bytes>> {
    let engine = engine.map_or_else(|| engine_of(request), Ok);
    // The engine may be named by what is read here; without any, `admit` refuses.
    let fallback = HttpSettings::default();
    let settings = engine.as_ref().map_or(&fallback, Engine::http);
    let body = read(request, settings).await;
    if body.is_err() {
        request.leave();
    }
    body
}

async fn read(
    request: &mut impl CapturedRequest,
    settings: &HttpSettings,
) -> Result<Bytes, Response<Bytes>> {
    let body = request.read(settings.request_limit()).await;
    body.map_err(|error| Problem::from(error).into_response_to(&request.identity(), settings))
}

/// Decides whether the handler runs. An `Err` is the answer without it.
pub(crate) async fn admit(
    plan: Plan,
    request: &mut impl CapturedRequest,
) -> Result<Admitted, Response<Bytes>> {
    let admitted = judge(plan, request).await;
    if admitted.is_err() {
        request.leave();
    }
    admitted
}

async fn judge(
    plan: Plan,
    request: &mut impl CapturedRequest,
) -> Result<Admitted, Response<Bytes>> {
    let required = plan.required;
    let release = plan.release.clone();
    let identified = identify(plan, request)?;
    if !required && identified.key == Err(KeyError::Missing) {
        if !Caller::begin() {
            // Nobody is told.
            return Err(Response::new(Bytes::new()));
        }
        return Ok(Admitted {
            permit: Permit::Unprotected(identified.operation.unprotected()),
            #[cfg(feature = "tower")]
            lent: Lent::NONE,
            refusals: identified.refusals,
        });
    }
    let (keyed, counted) = identified.keyed(Operation::keyed)?;
    #[cfg(feature = "tower")]
    let lent = keyed.lend();
    if keyed.is_lent() {
        return Ok(Admitted {
            permit: Permit::Within,
            #[cfg(feature = "tower")]
            lent,
            refusals: counted.refusals,
        });
    }
    let (counted, refusals) = counted.fingerprint(request).await?;
    // Boxed: it is large, and gone before the handler runs.
    let begun = Box::pin(keyed.begin_as(counted.fingerprint, counted.former)).await;
    let permit = match begun.map_err(|error| refusals.error(&error))? {
        Begun::Execute(execution) => Permit::Execute(execution, release),
        Begun::Unprotected(unprotected) => Permit::Unprotected(unprotected),
        Begun::Replay(outcome) => return Err(refusals.given_back(&outcome)),
    };
    Ok(Admitted {
        permit,
        #[cfg(feature = "tower")]
        lent,
        refusals,
    })
}

/// Decides whether the handler runs in a transaction of the database.
pub(crate) async fn admit_in<D: Transactional>(
    plan: Plan,
    database: D,
    request: &mut impl CapturedRequest,
) -> Result<AdmittedIn<D>, Response<Bytes>> {
    let admitted = judge_in(plan, database, request).await;
    if admitted.is_err() {
        request.leave();
    }
    admitted
}

async fn judge_in<D: Transactional>(
    plan: Plan,
    database: D,
    request: &mut impl CapturedRequest,
) -> Result<AdmittedIn<D>, Response<Bytes>> {
    let release = plan.release.clone();
    let identified = identify(plan, request)?;
    let (keyed, counted) =
        identified.keyed(|operation, key| operation.clone().in_database(database).keyed(key))?;
    let (counted, refusals) = counted.fingerprint(request).await?;
    let granted = Box::pin(keyed.begin_as(counted.fingerprint, counted.former)).await;
    match granted.map_err(|error| refusals.error(&error))? {
        Granted::Run(execution) => Ok(AdmittedIn {
            execution,
            release,
            refusals,
        }),
        Granted::Replay(outcome) => Err(refusals.given_back(&outcome)),
    }
}

/// What needs no more than the request's head.
fn identify(plan: Plan, request: &impl CapturedRequest) -> Result<Identified, Response<Bytes>> {
    let engine = plan
        .engine
        .map_or_else(|| engine_of(request), Ok)
        .map_err(|error| {
            // Without an engine there are no settings.
            crate::report_misconfiguration(&error);
            Problem::from(&error).into_response(&HttpSettings::default())
        })?;
    let settings = engine.http();
    let key = match plan.key {
        KeySource::Value(key) => key,
        KeySource::Header(name) => {
            let lines = request.identity().headers.get_all(name);
            parse_key(lines, settings.accepted_keys()).and_then(|key| Key::of(&key))
        }
    };
    let refusals = Refusals::to(request, engine.clone());
    let operation = operation(Ok(engine), plan.name, plan.policy, plan.scope)
        .map_err(|error| refusals.error(&error))?;
    Ok(Identified {
        refusals,
        operation,
        key,
        fingerprint: plan.fingerprint,
    })
}

/// A request whose operation and key are known.
struct Identified {
    refusals: Refusals,
    operation: Operation,
    key: Result<Key, KeyError>,
    fingerprint: Option<Result<Fingerprinter, FingerprintError>>,
}

/// A request whose key is acceptable.
struct Counted {
    refusals: Refusals,
    has_scope: bool,
    fingerprint: Option<Result<Fingerprinter, FingerprintError>>,
}

impl Identified {
    /// Puts the operation under its key. Refused keys cost no look at the body.
    fn keyed<K>(
        self,
        keyed: impl FnOnce(&Operation, Result<Key, KeyError>) -> Result<K, Error>,
    ) -> Result<(K, Counted), Response<Bytes>> {
        let keyed =
            keyed(&self.operation, self.key).map_err(|error| self.refusals.error(&error))?;
        let counted = Counted {
            has_scope: self.operation.has_scope(),
            refusals: self.refusals,
            fingerprint: self.fingerprint,
        };
        Ok((keyed, counted))
    }
}

/// What a request is compared by.
struct Fingerprints {
    fingerprint: Fingerprint,
    /// What a record of an earlier version may have in its place.
    former: Option<FormerFingerprint>,
}

impl Counted {
    async fn fingerprint(
        self,
        request: &mut impl CapturedRequest,
    ) -> Result<(Fingerprints, Refusals), Response<Bytes>> {
        let body = read(request, self.refusals.settings()).await?;
        let identity = request.identity();
        let fingerprints = match self.fingerprint {
            Some(parts) => {
                let parts = parts.map_err(|error| self.refusals.error(&error.into()))?;
                Fingerprints {
                    fingerprint: identity.fingerprint_of(self.has_scope, parts),
                    former: None,
                }
            }
            None => Fingerprints {
                fingerprint: identity.fingerprint(self.has_scope, &body),
                former: identity.former_fingerprint(self.has_scope, &body),
            },
        };
        Ok((fingerprints, self.refusals))
    }
}

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

type Answer<B, E> = Result<Response<CapturedBody<B>>, E>;

/// The right to run the handler.
pub(crate) struct Admitted {
    permit: Permit,
    #[cfg(feature = "tower")]
    lent: Lent,
    refusals: Refusals,
}

#[allow(
    clippy::large_enum_variant,
    reason = "the rare variant is the small one"
)]
enum Permit {
    /// Once, and store the response unless its status is listed.
    Execute(Execution, Cow<'static, [u16]>),
    /// As if the attribute were not there.
    Unprotected(Unprotected),
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
    pub(crate) const fn lent(&self) -> Lent {
        self.lent
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
            Permit::Within => return Lent::NONE.during(passed(respond)).await,
            Permit::Unprotected(unprotected) => {
                let body = unprotected.drive(Box::pin(passed(respond)));
                let body = std::panic::AssertUnwindSafe(body);
                let ended = futures_util::FutureExt::catch_unwind(body).await;
                ended.map_err(ExecutionError::Panicked)
            }
            Permit::Execute(execution, release) => {
                let judged = judged(respond, release, refusals.engine().clone());
                // Boxed, so that what encloses it moves a pointer.
                let body = Box::pin(async move { judged.await.driven(read_on) });
                execution.drive_flowing(body).await
            }
        };
        ended.unwrap_or_else(|error| Ok(unanswered(&error, &refusals)))
    }

    /// Runs the handler on a task of its own: a client that hangs up does not stop it.
    pub(crate) async fn run_detached<B, E, F>(self, respond: F) -> Answer<B, E>
    where
        B: Body<Data = Bytes, Error: Send> + Send + 'static,
        E: Send + 'static,
        F: Future<Output = Responded<B, E>> + Send + 'static,
    {
        let Self {
            permit, refusals, ..
        } = self;
        let ended = match permit {
            Permit::Within => return Lent::NONE.during(passed(respond)).await,
            Permit::Unprotected(unprotected) => {
                let ended = unprotected.drive_detached(Box::pin(passed(respond)));
                ended.await.map_err(ExecutionError::Panicked)
            }
            Permit::Execute(execution, release) => {
                let judged = judged(respond, release, refusals.engine().clone());
                let body = async move { judged.await.driven(Recording::spawn) };
                execution.drive_flowing_detached(Box::pin(body)).await
            }
        };
        ended.unwrap_or_else(|error| Ok(unanswered(&error, &refusals)))
    }
}

async fn passed<B, E>(respond: impl Future<Output = Responded<B, E>>) -> Answer<B, E>
where
    B: Body<Data = Bytes>,
{
    match respond.await {
        Responded::Answered(response) => Ok(response.map(CapturedBody::passed)),
        Responded::Rejected(response) => Ok(rejected(response)),
        #[cfg(feature = "tower")]
        Responded::Refused(response, _) => Ok(response.map(CapturedBody::passed)),
        Responded::Failed(error) => Err(error),
        #[cfg(feature = "tower")]
        Responded::NotCalled(error) => Err(error),
    }
}

async fn judged<B, E>(
    respond: impl Future<Output = Responded<B, E>>,
    release: Cow<'static, [u16]>,
    engine: Engine,
) -> Judged<B, E>
where
    B: Body<Data = Bytes>,
{
    let (verdict, answer) = match respond.await {
        Responded::Answered(response) if Refused::by(response.extensions()).is_some() => {
            // An operation within has refused, after whatever this one had done before.
            (Verdict::Crashed, Ok(response.map(CapturedBody::passed)))
        }
        Responded::Answered(response) => {
            let limit = engine.max_outcome_bytes();
            match capture(response, &release, limit, engine.http()).await {
                Captured::Ended(verdict, response) => (verdict, Ok(response)),
                Captured::Flows(response) => return Judged::Flows(response),
            }
        }
        Responded::Rejected(response) => (Verdict::Released, Ok(rejected(response))),
        #[cfg(feature = "tower")]
        Responded::Refused(response, refused) => {
            let verdict = match refused {
                Refused::NotExecuted => Verdict::Released,
                Refused::Unknown => Verdict::Crashed,
            };
            (verdict, Ok(response.map(CapturedBody::passed)))
        }
        Responded::Failed(error) => (Verdict::Crashed, Err(error)),
        #[cfg(feature = "tower")]
        Responded::NotCalled(error) => (Verdict::Released, Err(error)),
    };
    Judged::Ended(verdict, answer)
}

/// What a handler has come to.
enum Judged<B: Body<Data = Bytes>, E> {
    Ended(Verdict, Answer<B, E>),
    Flows(FlowingResponse<B>),
}

impl<B: Body<Data = Bytes>, E> Judged<B, E> {
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
    execution: ExecutionIn<D>,
    release: Cow<'static, [u16]>,
    refusals: Refusals,
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
            let judged = judged(std::future::ready(responded), release, engine).await;
            // What flows is read before the commit, of which it is a part.
            let (verdict, answer) = judged.collected().await;
            (transaction, verdict, writes, answer)
        };
        match Box::pin(execution.drive(body)).await {
            Ok(EndedIn::Value(answer)) => answer,
            Ok(EndedIn::Replay(outcome)) => Ok(whole(refusals.given_back(&outcome))),
            Ok(EndedIn::Refused(error)) => {
                crate::report_misconfiguration(&error);
                Ok(whole(refusals.problem(Problem::not_committed(&error))))
            }
            // The panic's message has gone to the panic hook, and is not for clients.
            Err(_) => Ok(whole(refusals.problem(Problem::rolled_back()))),
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
            Ok(whole(refusals.problem(match commit.was_sent() {
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
    whole(match error {
        ExecutionError::NotRun(error) => refusals.error(error),
        // The panic's message has gone to the panic hook, and is not for clients.
        ExecutionError::Panicked(_) => refusals.problem(Problem::crashed()),
    })
}

/// An answer that no handler has made.
pub(crate) fn whole<B: Body<Data = Bytes>>(response: Response<Bytes>) -> Response<CapturedBody<B>> {
    response.map(CapturedBody::whole)
}
