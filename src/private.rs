//! What the attributes write calls to. Not public: it changes with any release.

use serde::Serialize;

pub use idem_core::__register_operation as register_operation;
pub use idem_core::{
    DeclaredOperation, Engine, Error, Fingerprint, FingerprintError, Fingerprinter, InFlight, Key,
    KeyError, KeyRequest, Location, OnCrash, Operation, Policy, ReleaseErrors, Replayable,
    StoreErrors, TransactionSource, Transactional,
};

pub use crate::call::{FunctionCall, KeyArgument};
pub use crate::plan::{KeySource, Plan};

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
    type Compared: Serialize + ?Sized;

    fn compared(&self) -> &Self::Compared;
}

/// By the value's own `Serialize`. Frameworks have markers of their own, for what wraps a value
/// and has none.
#[derive(Debug)]
pub enum ViaSerialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Fingerprintable<ViaSerialize> for T {
    type Compared = T;

    fn compared(&self) -> &T {
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
pub fn added_by_reference(
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
    parts.value(name, value.compared())?;
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
