//! What the attributes write calls to. Not public: it changes with any release.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use serde::Serialize;

pub use idem_core::__register_operation as register_operation;
pub use idem_core::{
    DeclaredOperation, Engine, Error, Fingerprint, FingerprintError, Fingerprinter, InFlight, Key,
    KeyError, KeyRequest, OnCrash, Operation, Place, Policy, ReleaseErrors, Replayable,
    StoreErrors, TransactionSource, Transactional,
};

#[cfg(feature = "actix")]
pub use crate::actix::private as actix;
#[cfg(feature = "axum")]
pub use crate::axum::private as axum;
#[cfg(feature = "http")]
pub use crate::http::private as http;
#[cfg(feature = "poem")]
pub use crate::poem::private as poem;
#[cfg(feature = "salvo")]
pub use crate::salvo::private as salvo;
#[cfg(feature = "tonic")]
pub use crate::tonic::private as tonic;
#[cfg(feature = "http")]
pub use idem_core::http::DEFAULT_RELEASE;

/// A value that can be part of a fingerprint.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of the fingerprint",
    label = "this does not implement `serde::Serialize`",
    note = "derive `serde::Serialize`, leave it out with `skip(…)`, or name what must be equal with `fingerprint(…)`",
    note = "over a handler of a web framework use that framework's form, such as `idem::axum::idempotent`"
)]
pub trait Fingerprintable<Via> {
    type Counted: Serialize + ?Sized;

    fn counted(&self) -> &Self::Counted;
}

/// By the value's own `Serialize`. Frameworks have markers of their own, for what wraps a value
/// and has none.
#[derive(Debug)]
pub enum ViaSerialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Fingerprintable<ViaSerialize> for T {
    type Counted = T;

    fn counted(&self) -> &T {
        self
    }
}

/// A value that can be part of a fingerprint, where it was taken out of what looks like a web
/// framework's extractor.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of the fingerprint: over a handler of a web framework use that framework's form, such as `idem::axum::idempotent`",
    label = "an extractor's value, which does not implement `serde::Serialize`",
    note = "the handler form compares the request as it came and stores the response as it goes; it asks nothing of their types",
    note = "where this is no handler, leave it out with `skip(…)`, or derive `serde::Serialize`"
)]
pub trait FingerprintableExtract<Via>: Fingerprintable<Via> {}

#[diagnostic::do_not_recommend]
impl<Via, T: Fingerprintable<Via> + ?Sized> FingerprintableExtract<Via> for T {}

/// [`fingerprint`] for such a value.
pub fn fingerprint_of_extracted<Via, T: FingerprintableExtract<Via> + ?Sized>(
    parts: Fingerprinter,
    name: &str,
    value: &T,
) -> Result<Fingerprinter, FingerprintError> {
    fingerprint(parts, name, value)
}

/// What an expression of an attribute gives: it sees the arguments by reference, because the body
/// needs them.
pub fn evaluated_by_reference<T>(mut expression: impl FnMut() -> T) -> T {
    expression()
}

/// The same for a part of the fingerprint.
pub fn evaluated_by_reference_and_counted(
    parts: Result<Fingerprinter, FingerprintError>,
    mut add: impl FnMut(Fingerprinter) -> Result<Fingerprinter, FingerprintError>,
) -> Result<Fingerprinter, FingerprintError> {
    parts.and_then(&mut add)
}

/// Adds one named value.
pub fn fingerprint<Via, T: Fingerprintable<Via> + ?Sized>(
    mut parts: Fingerprinter,
    name: &str,
    value: &T,
) -> Result<Fingerprinter, FingerprintError> {
    parts.value(name, value.counted())?;
    Ok(parts)
}

/// A value of a branch that is never taken.
pub fn no_value<T>() -> T {
    unreachable!("the attribute's code names a type here, and never comes here")
}

/// The engine that an attribute names.
pub fn given_engine(engine: &Engine) -> Option<Engine> {
    Some(engine.clone())
}

/// The database that `transaction = …` names.
pub fn database<Via, S: TransactionSource<Via> + ?Sized>(source: &S) -> S::Database {
    source.database()
}

/// Whether the argument that the key is made of is among those that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyArgument {
    Counts,
    IsLeftOut,
}

/// One call of an annotated function, before its body.
#[derive(Debug)]
pub struct FunctionCall {
    operation: Result<Operation, Error>,
    key: Result<Key, KeyError>,
    fingerprint: Result<Fingerprint, FingerprintError>,
}

impl FunctionCall {
    pub fn new(
        engine: Option<Engine>,
        name: Result<&'static str, Error>,
        policy: Policy,
        key: Result<Key, KeyError>,
        scope: Option<Result<Key, KeyError>>,
        fingerprint: Result<Fingerprinter, FingerprintError>,
        key_argument: KeyArgument,
    ) -> Self {
        let operation = operation(
            engine.map_or_else(Engine::installed, Ok),
            name.map(Cow::Borrowed),
            policy,
            scope,
        );
        // As in the handler form: what is asked for counts always, who asks without a scope.
        let has_scope = operation.as_ref().is_ok_and(Operation::has_scope);
        let request = key.as_ref().ok().and_then(Key::request);
        let fingerprint = fingerprint.map(|mut parts| {
            if let Some(KeyRequest { target, caller }) = request {
                if key_argument == KeyArgument::IsLeftOut {
                    parts.bytes("target", &target.to_bytes());
                }
                if !has_scope {
                    parts.bytes("caller", &caller.to_bytes());
                }
            }
            parts.finish()
        });
        Self {
            operation,
            key,
            fingerprint,
        }
    }

    pub async fn run<T, Errors, F>(self, body: Pin<Box<F>>) -> T
    where
        T: Replayable<Errors>,
        F: Future<Output = T>,
    {
        match self.ready() {
            Ok((operation, key, fingerprint)) => {
                operation.replay_or_run(key, fingerprint, body).await
            }
            Err(error) => T::refused(error),
        }
    }

    /// The same in a transaction, which the body gives back.
    pub async fn run_in<T, Errors, D, B, F>((call, database): (Self, D), body: B) -> T
    where
        T: Replayable<Errors>,
        D: Transactional,
        B: FnOnce(D::Transaction) -> F,
        F: Future<Output = (D::Transaction, T)>,
    {
        match call.ready() {
            Ok((operation, key, fingerprint)) => {
                let operation = operation.in_database(database);
                operation.run_encoded(key, fingerprint, body).await
            }
            Err(error) => T::refused(error),
        }
    }

    fn ready(self) -> Result<(Operation, Result<Key, KeyError>, Fingerprint), Error> {
        let ready = self
            .operation
            .and_then(|operation| Ok((operation, self.fingerprint?)));
        if let Err(error) = &ready {
            crate::report_misconfiguration(error);
        }
        let (operation, fingerprint) = ready?;
        Ok((operation, self.key, fingerprint))
    }
}

/// The operation of an annotated function.
pub(crate) fn operation(
    engine: Result<Engine, Error>,
    name: Result<Cow<'static, str>, Error>,
    policy: Policy,
    scope: Option<Result<Key, KeyError>>,
) -> Result<Operation, Error> {
    Ok(engine?.operation(name?).policy(policy).encoded_scope(scope))
}

/// Where a handler's key comes from.
#[derive(Debug)]
pub enum KeySource {
    Header(&'static str),
    Value(Result<Key, KeyError>),
}

/// What the attribute over a handler says.
#[derive(Debug)]
pub struct Plan {
    pub engine: Option<Engine>,
    pub name: Result<Cow<'static, str>, Error>,
    pub policy: Policy,
    pub key: KeySource,
    pub scope: Option<Result<Key, KeyError>>,
    pub fingerprint: Option<Result<Fingerprinter, FingerprintError>>,
    pub release: Cow<'static, [u16]>,
    pub required: bool,
}
