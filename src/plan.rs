//! What an attribute says of an operation, as its generated code gives it.

use std::borrow::Cow;

#[cfg(feature = "http")]
use http::HeaderName;
use idem_core::{Engine, Error, FingerprintError, Fingerprinter, Key, KeyError, Operation, Policy};

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
    #[cfg(feature = "http")]
    Header(HeaderName),
    Value(Result<Key, KeyError>),
}

impl KeySource {
    /// The header of this name, in lower case, which the attribute has looked at.
    #[cfg(feature = "http")]
    pub const fn header(name: &'static str) -> Self {
        Self::Header(HeaderName::from_static(name))
    }
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
