//! What an error of the service or of the SDK means to the caller: the one table.
//!
//! | what happened | error |
//! |---|---|
//! | no connection could be opened; credentials could not be fetched; no time was left | `NotSent` |
//! | the connection broke, bytes that are no answer, an answer without a `Date`, HTTP 5xx | `Unavailable` |
//! | no answer within the store's timeout | `TimedOut` |
//! | throttled: `ProvisionedThroughputExceededException`, `ThrottlingException`, `RequestLimitExceeded` | `NotReady` |
//! | another region writes the record: `ReplicatedWriteConflictException` | `Busy` |
//! | an item that this version cannot read | `Unreadable` |
//! | any other error that the service answers: no table, another key, a right is missing, a wrong signature; no credentials at all; an untrusted certificate | `Rejected` |
//!
//! What is no error here is a condition that does not hold: it is an answer.
//!
//! The SDK sends a request again that was throttled, and a lease holder's change that was not answered. Where one of the earlier tries may have
//! taken effect, an error of the last one that says that it did nothing says nothing of the call: then it is
//! `Unavailable`.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use idem_core::StoreError;

use super::NAME;
use super::witness::{Tries, is_connecting};

pub(super) const UNREADABLE: StoreError = StoreError::Unreadable { store: NAME };

/// What was said, as text: the SDK's own error has the whole answer in its `Debug` form, items included.
#[derive(Debug)]
pub(super) struct Said(String);

impl Said {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn by(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Said {}

/// Codes of answers that ask for patience.
const THROTTLED: [&str; 4] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
];

/// What a failed call means, given all of its tries.
pub(super) fn store_error<E>(
    error: &SdkError<E, HttpResponse>,
    tries: &Tries,
    timeout: Duration,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let what = last_error(error, tries, timeout);
    if tries.earlier_may_have_effect && !what.may_have_effect() {
        return StoreError::unavailable(NAME, Said::by(error));
    }
    what
}

fn last_error<E>(error: &SdkError<E, HttpResponse>, tries: &Tries, timeout: Duration) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status();
            answered(answer.err(), status.is_server_error())
        }
        _ if has_no_credentials(error) => StoreError::rejected(NAME, Said::by(error)),
        // No outage: no body may run because of it.
        _ if !tries.last_was_sent && is_untrusted_certificate(error) => {
            StoreError::rejected(NAME, Said::by(error))
        }
        _ if !tries.last_was_sent => StoreError::not_sent(NAME, Said::by(error)),
        SdkError::TimeoutError(_) => StoreError::TimedOut {
            store: NAME,
            after: timeout,
        },
        SdkError::DispatchFailure(failure)
            if failure.as_connector_error().is_some_and(is_connecting) =>
        {
            StoreError::not_sent(NAME, Said::by(error))
        }
        _ => StoreError::unavailable(NAME, Said::by(error)),
    }
}

fn answered<E: ProvideErrorMetadata>(error: &E, is_the_servers: bool) -> StoreError {
    let code = error.code().unwrap_or("an error without a code");
    let said = Said(match error.message() {
        Some(message) => format!("{code}: {message}"),
        None => code.to_owned(),
    });
    match code {
        _ if THROTTLED.contains(&code) => StoreError::not_ready(NAME, said),
        "ReplicatedWriteConflictException" => StoreError::busy(NAME, said),
        _ if is_the_servers => StoreError::unavailable(NAME, said),
        _ => StoreError::rejected(NAME, said),
    }
}

/// Whether none of the places where credentials may be has any. It fails until somebody sets it right.
fn has_no_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            return matches!(error, CredentialsError::CredentialsNotLoaded(_));
        }
        next = error.source();
    }
    false
}

/// Whether a handshake failed over a certificate. Of the errors of a connection it alone says that the
/// data is invalid.
fn is_untrusted_certificate(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // One that is made of another one says nothing of its kind, nor gives it as its source.
        let mut io = error.downcast_ref::<io::Error>();
        while let Some(error) = io {
            if error.kind() == io::ErrorKind::InvalidData {
                return true;
            }
            io = error.get_ref().and_then(|inner| inner.downcast_ref());
        }
        next = error.source();
    }
    false
}

/// The code of the service's answer that the error is made of.
pub(super) fn code_of(error: &StoreError) -> Option<&str> {
    let said = error.source()?.downcast_ref::<Said>()?;
    said.0.split(':').next()
}

/// The error of an answer without a `Date`: whatever the call did, its lease cannot be judged.
pub(super) fn no_date() -> StoreError {
    let why = "the answer has no Date header, without which no lease can be judged; see what stands between";
    StoreError::unavailable(NAME, Said::new(why))
}
