//! The engine without the attribute: an operation, its rules, and its calls.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use super::at_once::begin_at_once;
use super::begin::begin;
use super::decision::{Begun, Granted, Report, Unprotected};
use super::execution::ExecutionError;
use super::handle::Engine;
#[cfg(feature = "http")]
use super::replays::Notice;
use crate::call::Call;
#[cfg(feature = "http")]
use crate::current::CURRENT;
use crate::current::EnclosingAttempt;
use crate::error::Error;
use crate::fingerprint::{Fingerprint, FormerFingerprint};
use crate::key::{Key, KeyError, KeyPart};
use crate::observer::{Decision, Event};
use crate::policy::{InFlight, Policy};
use crate::record::{OnCrash, RecordId};
use crate::replay::{AfterCrash, ReleaseErrors, Replayable, StoreErrors};

/// One operation and its rules, ready to be called under a key.
///
/// ```
/// use std::time::Duration;
/// use idem_core::{Engine, Error, Fingerprint};
///
/// # async fn example(engine: Engine) -> Result<(), Error> {
/// let order = ("EUR", 1999);
/// let receipt: Result<String, Error> = engine
///     .operation("charges.create")
///     .ttl(Duration::from_secs(24 * 60 * 60))
///     .scope("tenant 7")
///     .run("key from the client", Fingerprint::of(&order)?, async {
///         Ok("charged once".to_owned())
///     })
///     .await;
/// # receipt.map(drop)
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Operation {
    pub(super) engine: Engine,
    name: Cow<'static, str>,
    policy: Policy,
    scope: Result<Option<Key>, KeyError>,
}

impl Engine {
    /// An operation of this name. The name is part of every record's identity: it must stay the
    /// same across deploys, and belong to one operation.
    pub fn operation(&self, name: impl Into<Cow<'static, str>>) -> Operation {
        Operation::new(self.clone(), name.into())
    }
}

/// An operation under a key: the first half of a call.
#[derive(Debug)]
#[must_use]
pub struct Keyed {
    engine: Engine,
    operation: Cow<'static, str>,
    policy: Policy,
    id: RecordId,
}

impl Keyed {
    /// Decides what the call may do: run the body, give an outcome back, or neither.
    ///
    /// Waits for a running attempt when the policy says so. Dropping this future claims
    /// nothing, or frees in the background what it claimed.
    ///
    /// # Errors
    /// Why the body must not run in this call.
    pub async fn begin(self, fingerprint: Fingerprint) -> Result<Begun, Error> {
        let (engine, call) = self.into_call(fingerprint);
        let granted = begin(engine.clone(), call, None).await?;
        granted.into_begun(&engine)
    }

    /// The same for who can attach to an answer that is on its way, where the policy says so, and for a
    /// request of which an earlier algorithm has made another fingerprint: a record under that one is
    /// this request's, too.
    #[doc(hidden)]
    pub fn begin_or_attach(
        self,
        fingerprint: Fingerprint,
        former: Option<FormerFingerprint>,
    ) -> impl Future<Output = Result<Granted<Begun>, Error>> + Send {
        let attaches = matches!(self.policy.in_flight, InFlight::Attach(_));
        let (engine, mut call) = self.into_call(fingerprint);
        call.attaches = attaches;
        begin(engine, call, former)
    }

    /// [`begin_or_attach`](Self::begin_or_attach) where it needs no wait. An `Err` has changed nothing.
    ///
    /// # Errors
    /// The caller has to wait.
    #[doc(hidden)]
    #[allow(clippy::result_large_err, reason = "it is moved once")]
    pub fn begin_at_once(self, fingerprint: Fingerprint) -> Result<Granted<Begun>, Self> {
        let (engine, call) = self.into_call(fingerprint);
        begin_at_once(&engine, &call).ok_or(Self {
            engine,
            operation: call.operation,
            policy: call.policy,
            id: call.id,
        })
    }

    /// Whether this record's attempt is lent to what runs here, by a layer of the same operation
    /// name.
    #[doc(hidden)]
    pub fn is_lent(&self) -> bool {
        EnclosingAttempt::includes(&self.id)
    }

    /// For a layer, which lends its attempt.
    #[doc(hidden)]
    pub const fn enclosing_attempt(&self) -> EnclosingAttempt {
        EnclosingAttempt::of(self.id)
    }

    pub(super) fn into_call(self, fingerprint: Fingerprint) -> (Engine, Call) {
        let call = Call {
            operation: self.operation,
            policy: self.policy,
            id: self.id,
            flight_key: self.id,
            fingerprint,
            attaches: false,
        };
        (self.engine, call)
    }
}

impl Operation {
    pub(super) fn new(engine: Engine, name: Cow<'static, str>) -> Self {
        Self {
            engine,
            name,
            policy: Policy::new(Duration::from_secs(24 * 60 * 60)),
            scope: Ok(None),
        }
    }

    /// Replaces all rules at once.
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// See [`Policy::ttl`]; 24 hours unless given.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.policy = self.policy.ttl(ttl);
        self
    }

    /// See [`Policy::lease`].
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.policy = self.policy.lease(lease);
        self
    }

    /// See [`Policy::deadline`]; the ttl unless given.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.policy = self.policy.deadline(deadline);
        self
    }

    /// See [`Policy::in_flight`].
    pub const fn in_flight(mut self, in_flight: InFlight) -> Self {
        self.policy = self.policy.in_flight(in_flight);
        self
    }

    /// See [`Policy::on_crash`].
    pub const fn on_crash(mut self, on_crash: OnCrash) -> Self {
        self.policy = self.policy.on_crash(on_crash);
        self
    }

    /// The principal inside which keys are unique. `None` is no scope.
    pub fn scope<K: KeyPart + ?Sized>(self, scope: &K) -> Self {
        self.encoded_scope(Some(Key::of(scope)))
    }

    /// [`scope`](Self::scope) for one that was encoded before.
    #[doc(hidden)]
    pub fn encoded_scope(mut self, scope: Option<Result<Key, KeyError>>) -> Self {
        self.scope = match scope {
            None | Some(Err(KeyError::Missing)) => Ok(None),
            Some(scope) => scope.map(Some),
        };
        self
    }

    /// Whether a scope was given and is not `None`.
    pub const fn has_scope(&self) -> bool {
        matches!(self.scope, Ok(Some(_)))
    }

    /// Runs the body once for `key`, or gives its stored value back. An `Err` frees the key.
    ///
    /// The body runs on the caller's task. Dropping this future while the body runs abandons
    /// the attempt: the next claim follows `on_crash`. A panic of the body is resumed after the
    /// attempt has been abandoned.
    pub async fn run<K, F, T>(&self, key: &K, fingerprint: Fingerprint, body: F) -> T
    where
        K: KeyPart + ?Sized,
        F: Future<Output = T>,
        T: Replayable<ReleaseErrors>,
    {
        self.replay_or_run(Key::of(key), fingerprint, Box::pin(body))
            .await
    }

    /// Like [`run`](Self::run), and an `Err` is stored and given back too.
    pub async fn run_storing_errors<K, F, T>(&self, key: &K, fingerprint: Fingerprint, body: F) -> T
    where
        K: KeyPart + ?Sized,
        F: Future<Output = T>,
        T: Replayable<StoreErrors>,
    {
        self.replay_or_run(Key::of(key), fingerprint, Box::pin(body))
            .await
    }

    /// [`run`](Self::run) for a key that was encoded before, and a body that is boxed already.
    #[doc(hidden)]
    pub async fn replay_or_run<F, T, Errors>(
        &self,
        key: Result<Key, KeyError>,
        fingerprint: Fingerprint,
        body: F,
    ) -> T
    where
        F: Future<Output = T> + Unpin,
        T: Replayable<Errors>,
    {
        let keyed = self.keyed(key);
        #[allow(clippy::result_large_err, reason = "it is moved once")]
        let at_once = keyed.map(|keyed| keyed.begin_at_once(fingerprint));
        let begun = match at_once {
            Ok(Ok(granted)) => granted.into_begun(&self.engine),
            Ok(Err(keyed)) => {
                let (engine, call) = keyed.into_call(fingerprint);
                // Boxed: it is large, and gone before the body runs.
                let granted = Box::pin(begin(engine, call, None)).await;
                granted.and_then(|granted| granted.into_begun(&self.engine))
            }
            Err(error) => Err(error),
        };
        let replayed: Result<T, Error> = match begun {
            Err(error) => Err(error),
            Ok(Begun::Replay(outcome)) => T::replay_under(&outcome, &self.engine.inner.settings),
            Ok(Begun::Unprotected(unprotected)) => return unprotected.drive(body).await,
            Ok(Begun::Execute(execution)) => {
                let judged = async {
                    let value = body.await;
                    let verdict = value.verdict_under(&self.engine.inner.settings);
                    self.engine
                        .inner
                        .replays
                        .check_value(&self.name, &value, &verdict);
                    (verdict, value)
                };
                // Boxed: it holds the whole run, and a waiting duplicate needs none of it.
                match Box::pin(execution.drive(judged)).await {
                    Ok(value) => return value,
                    Err(ExecutionError::NotRun(error) | ExecutionError::Stopped(error)) => {
                        Err(error)
                    }
                    Err(ExecutionError::Panicked(panic)) => {
                        let next = match self.policy.runs_again() {
                            true => AfterCrash::RunsAgain,
                            false => AfterCrash::Refuses,
                        };
                        let crashed = T::crashed(&self.engine.inner.settings, next);
                        return crashed.unwrap_or_else(|| std::panic::resume_unwind(panic));
                    }
                }
            }
        };
        replayed.unwrap_or_else(|error| T::refused_under(error, &self.engine.inner.settings))
    }

    /// A run without a record, for a request that has no key where none is required.
    pub fn unprotected(&self) -> Unprotected {
        self.tell(Decision::Unprotected);
        Unprotected::without_key(self.engine.inner.activity.begin())
    }

    /// This operation under a key, for adapters; [`run`](Self::run) does everything at once.
    ///
    /// # Errors
    /// [`Error::Policy`] when the rules promise nothing, [`Error::Key`] and [`Error::Scope`] when the
    /// key or the scope is not acceptable.
    pub fn keyed(&self, key: Result<Key, KeyError>) -> Result<Keyed, Error> {
        let promises = self.policy.check().map_err(Error::Policy);
        let id = promises.and_then(|()| self.derive_id(key));
        if let Err(error) = &id {
            self.tell(Decision::of(error));
        }
        Ok(Keyed {
            engine: self.engine.clone(),
            operation: self.name.clone(),
            policy: self.policy,
            id: id?,
        })
    }

    /// The identity of the record under `key`.
    ///
    /// # Errors
    /// [`Error::Key`] and [`Error::Scope`] when the key or the scope is not acceptable.
    pub fn record_id<K: KeyPart + ?Sized>(&self, key: &K) -> Result<RecordId, Error> {
        self.derive_id(Key::of(key))
    }

    /// Tells observers of a call without a record.
    fn tell(&self, decision: Decision) {
        self.engine.inner.observers.tell(&Event {
            operation: &self.name,
            record: None,
            kind: Report::from(decision).into(),
        });
    }

    pub(super) fn name(&self) -> &Cow<'static, str> {
        &self.name
    }

    pub(super) const fn rules(&self) -> &Policy {
        &self.policy
    }

    fn derive_id(&self, key: Result<Key, KeyError>) -> Result<RecordId, Error> {
        let key = key.map_err(Error::Key)?;
        let scope = self.scope.as_ref().map_err(|error| Error::Scope(*error))?;
        let namespace = &self.engine.inner.settings.namespace;
        Ok(RecordId::derive(
            namespace,
            &self.name,
            scope.as_ref(),
            &key,
        ))
    }
}

#[cfg(feature = "http")]
impl Operation {
    /// Tells the log, once, what was noticed of a call.
    pub(crate) fn notice(&self, notice: Notice) {
        self.engine.inner.replays.notice(&self.name, notice);
    }
}

#[cfg(feature = "http")]
impl Engine {
    /// Tells the log, once for each operation, what was noticed in the attempt that runs here.
    pub(crate) fn notice_here(&self, notice: Notice) {
        let _ = CURRENT.try_with(|attempt| {
            if let Some(operation) = attempt.operation() {
                self.inner.replays.notice(operation, notice);
            }
        });
    }
}
