//! Whether an idempotent handler runs: the request's key, its fingerprint, and the engine's decision.

#![allow(
    clippy::result_large_err,
    reason = "the error is the answer, and is moved once"
)]

use std::borrow::Cow;
use std::future::Future;

use bytes::Bytes;
use http::{HeaderName, Response};
#[cfg(feature = "tower")]
use idem_core::EnclosingAttempt;
use idem_core::http::{
    Attached, HttpSettings, Problem, RequestIdentity, notice_request, parse_key,
};
use idem_core::{
    Begun, Caller, Engine, Error, Fingerprint, FingerprintError, Fingerprinter, FormerFingerprint,
    Granted, Key, KeyError, Keyed, Operation, Transactional,
};

use crate::captured_request::CapturedRequest;
use crate::handler::{Admitted, AdmittedIn, Permit};
use crate::plan::{KeySource, Plan, operation};
use crate::refusals::Refusals;

/// Reads the body before anything else, because what counts is named by what it says. Nothing is
/// claimed yet.
pub(crate) async fn read_early(
    request: &mut impl CapturedRequest,
    engine: Option<Engine>,
) -> Result<Bytes, Response<Bytes>> {
    let engine = Engine::resolve(engine, || request.engine());
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
pub(crate) fn admit<R: CapturedRequest>(
    plan: Plan,
    request: &mut R,
) -> impl Future<Output = Result<Admitted, Response<Bytes>>> {
    // Before the future, which would hold the plan beside what is made of it.
    let entered = enter(plan, request);
    decide(entered, request)
}

/// Decides the rest of what [`enter`] has begun.
pub(crate) async fn decide(
    entered: Entered,
    request: &mut impl CapturedRequest,
) -> Result<Admitted, Response<Bytes>> {
    let admitted = match entered {
        Entered::WithKey(keyed) => keyed.decide(request).await,
        Entered::Admitted(admitted) => Ok(*admitted),
        Entered::Refused(refused) => Err(*refused),
    };
    if admitted.is_err() {
        request.leave();
    }
    admitted
}

/// What the request's head decides. Boxed: futures hold it.
pub(crate) enum Entered {
    /// The body and the store decide.
    WithKey(Box<KeyedRequest>),
    /// The handler runs without a record of its own.
    Admitted(Box<Admitted>),
    /// This is the answer without it.
    Refused(Box<Response<Bytes>>),
}

/// A request under its key.
pub(crate) struct KeyedRequest {
    keyed: Keyed,
    accepted: Accepted,
    release: Cow<'static, [u16]>,
}

/// Decides what needs no more than the request's head.
pub(crate) fn enter(plan: Plan, request: &impl CapturedRequest) -> Entered {
    try_enter(plan, request).unwrap_or_else(|refused| Entered::Refused(Box::new(refused)))
}

fn try_enter(plan: Plan, request: &impl CapturedRequest) -> Result<Entered, Response<Bytes>> {
    let required = plan.required;
    let release = plan.release.clone();
    let identified = identify(plan, request)?;
    if !required && identified.key == Err(KeyError::Missing) {
        if !Caller::begin() {
            // Nobody is told.
            return Err(Response::new(Bytes::new()));
        }
        return Ok(Entered::Admitted(Box::new(Admitted {
            permit: Permit::Unprotected(identified.operation.unprotected()),
            #[cfg(feature = "tower")]
            enclosing: EnclosingAttempt::NONE,
            refusals: identified.refusals,
        })));
    }
    let (keyed, accepted) = identified.keyed(Operation::keyed)?;
    if keyed.is_lent() {
        return Ok(Entered::Admitted(Box::new(Admitted {
            permit: Permit::Within,
            #[cfg(feature = "tower")]
            enclosing: keyed.enclosing_attempt(),
            refusals: accepted.refusals,
        })));
    }
    Ok(Entered::WithKey(Box::new(KeyedRequest {
        keyed,
        accepted,
        release,
    })))
}

impl KeyedRequest {
    async fn decide(
        self: Box<Self>,
        request: &mut impl CapturedRequest,
    ) -> Result<Admitted, Response<Bytes>> {
        let body = read(request, self.accepted.refusals.settings()).await?;
        let Self {
            keyed,
            accepted,
            release,
        } = *self;
        #[cfg(feature = "tower")]
        let enclosing = keyed.enclosing_attempt();
        let counted = accepted.count(&request.identity(), body)?;
        let granted = match keyed.begin_at_once(counted.fingerprint) {
            Ok(granted) => granted,
            Err(keyed) => {
                let former = counted.former(&request.identity());
                // Boxed: it is large, and gone before the handler runs.
                let begun = Box::pin(keyed.begin_or_attach(counted.fingerprint, former)).await;
                begun.map_err(|error| counted.refusals.error(&error))?
            }
        };
        let refusals = counted.refusals;
        let permit = match granted {
            Granted::Run(Begun::Execute(execution)) => Permit::Execute(execution, release),
            Granted::Run(Begun::Unprotected(unprotected)) => Permit::Unprotected(unprotected),
            Granted::Run(Begun::Replay(outcome)) | Granted::Replay(outcome) => {
                return Err(refusals.replayed_response(&outcome));
            }
            Granted::Attach(live) => match Attached::to(live) {
                Some(attached) => Permit::Attached(attached),
                None => return Err(refusals.in_flight()),
            },
        };
        Ok(Admitted {
            permit,
            #[cfg(feature = "tower")]
            enclosing,
            refusals,
        })
    }
}

/// Decides whether the handler runs in a transaction of the database.
pub(crate) async fn admit_in<D: Transactional>(
    plan: Plan,
    database: D,
    request: &mut impl CapturedRequest,
) -> Result<AdmittedIn<D>, Response<Bytes>> {
    let admitted = decide_in(plan, database, request).await;
    if admitted.is_err() {
        request.leave();
    }
    admitted
}

async fn decide_in<D: Transactional>(
    plan: Plan,
    database: D,
    request: &mut impl CapturedRequest,
) -> Result<AdmittedIn<D>, Response<Bytes>> {
    let release = plan.release.clone();
    let identified = identify(plan, request)?;
    let (keyed, accepted) =
        identified.keyed(|operation, key| operation.clone().in_database(database).keyed(key))?;
    let body = read(request, accepted.refusals.settings()).await?;
    let counted = accepted.count(&request.identity(), body)?;
    let former = counted.former(&request.identity());
    let granted = Box::pin(keyed.begin_as(counted.fingerprint, former)).await;
    let refusals = counted.refusals;
    match granted.map_err(|error| refusals.error(&error))? {
        Granted::Run(execution) => Ok(AdmittedIn {
            execution,
            release,
            refusals,
        }),
        Granted::Replay(outcome) => Err(refusals.replayed_response(&outcome)),
        Granted::Attach(_) => Err(refusals.in_flight()),
    }
}

/// What needs no more than the request's head.
fn identify(plan: Plan, request: &impl CapturedRequest) -> Result<Identified, Response<Bytes>> {
    let engine = Engine::resolve(plan.engine, || request.engine()).map_err(|error| {
        // Without an engine there are no settings.
        crate::report_misconfiguration(&error);
        Problem::from(&error).into_response(&HttpSettings::default())
    })?;
    let settings = engine.http();
    let (key, header) = match plan.key {
        KeySource::Value(key) => (key, None),
        KeySource::Header(name) => {
            let lines = request.identity().headers.get_all(&name);
            let key = parse_key(lines, settings.accepted_keys()).and_then(|key| Key::of(&key));
            (key, Some(name))
        }
    };
    let refusals = Refusals::to(request, engine.clone(), plan.policy.runs_again());
    let operation = operation(Ok(engine), plan.name, plan.policy, plan.scope)
        .map_err(|error| refusals.error(&error))?;
    if plan.fingerprint.is_none() {
        notice_request(&operation, request.identity().headers);
    }
    Ok(Identified {
        refusals,
        operation,
        key,
        header,
        fingerprint: plan.fingerprint,
    })
}

/// A request whose operation and key are known.
struct Identified {
    refusals: Refusals,
    operation: Operation,
    key: Result<Key, KeyError>,
    /// Where the key was looked for, if it was in a header.
    header: Option<HeaderName>,
    fingerprint: Option<Result<Fingerprinter, FingerprintError>>,
}

/// A request whose key is acceptable.
struct Accepted {
    refusals: Refusals,
    has_scope: bool,
    fingerprint: Option<Result<Fingerprinter, FingerprintError>>,
}

impl Identified {
    /// Puts the operation under its key. Refused keys cost no look at the body.
    fn keyed<K>(
        self,
        keyed: impl FnOnce(&Operation, Result<Key, KeyError>) -> Result<K, Error>,
    ) -> Result<(K, Accepted), Response<Bytes>> {
        let keyed = keyed(&self.operation, self.key)
            .map_err(|error| self.refusals.error_of_key(&error, self.header.as_ref()))?;
        let accepted = Accepted {
            has_scope: self.operation.has_scope(),
            refusals: self.refusals,
            fingerprint: self.fingerprint,
        };
        Ok((keyed, accepted))
    }
}

/// A request that is compared by its fingerprint.
struct Counted {
    refusals: Refusals,
    has_scope: bool,
    fingerprint: Fingerprint,
    /// `None` where the operation has named what counts.
    body: Option<Bytes>,
}

impl Accepted {
    fn count(
        self,
        identity: &RequestIdentity<'_>,
        body: Bytes,
    ) -> Result<Counted, Response<Bytes>> {
        let Self {
            refusals,
            has_scope,
            fingerprint,
        } = self;
        let (fingerprint, body) = match fingerprint {
            Some(parts) => {
                let parts = parts.map_err(|error| refusals.error(&error.into()))?;
                (identity.fingerprint_of(has_scope, parts), None)
            }
            None => (identity.fingerprint(has_scope, &body), Some(body)),
        };
        Ok(Counted {
            refusals,
            has_scope,
            fingerprint,
            body,
        })
    }
}

impl Counted {
    /// What a record of an earlier version may have in the fingerprint's place.
    fn former(&self, identity: &RequestIdentity<'_>) -> Option<FormerFingerprint> {
        let body = self.body.as_ref()?;
        identity.former_fingerprint(self.has_scope, body)
    }
}
