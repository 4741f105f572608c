//! What happened on the wire during one call: the SDK sends a request again by itself, and what a failed
//! call may have done depends on all of its tries.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
    FinalizerInterceptorContextRef, InterceptorContext,
};
use aws_sdk_dynamodb::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::{BoxError, ConnectorError};
use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};

use super::clock::Reading;

/// Watches the tries of one call. Clones are of the same call.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness(Arc<Mutex<Tries>>);

/// What the tries of a call came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    /// A try before the last one may have taken effect.
    pub(super) earlier_may_have_effect: bool,
    /// The last try may have been sent.
    pub(super) last_was_sent: bool,
    /// The last answer.
    pub(super) reading: Option<Reading>,
    sent: Option<Instant>,
    /// The last try was answered with an error of the request's: it did nothing.
    last_did_nothing: bool,
}

impl Tries {
    /// One that may have been sent: what is known of a call that nobody watched.
    pub(super) fn one() -> Self {
        Self {
            last_was_sent: true,
            ..Self::default()
        }
    }
}

impl Witness {
    pub(super) fn tries(&self) -> Tries {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Tries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a connection could not be opened at all.
pub(super) fn is_connecting(error: &ConnectorError) -> bool {
    let mut next = Some(error as &(dyn Error + 'static));
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        next = error.source();
    }
    false
}

/// Seconds since 1970, of a `Date` header.
fn seconds_of(header: &str) -> Option<i64> {
    let date = DateTime::from_str(header, DateTimeFormat::HttpDate).ok()?;
    let since = SystemTime::try_from(date)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    i64::try_from(since.as_secs()).ok()
}

impl Intercept for Witness {
    fn name(&self) -> &'static str {
        "idem"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut tries = self.lock();
        tries.earlier_may_have_effect |= tries.last_was_sent && !tries.last_did_nothing;
        tries.last_was_sent = true;
        tries.last_did_nothing = false;
        tries.reading = None;
        tries.sent = Some(Instant::now());
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let received = Instant::now();
        let response = context.response();
        let mut tries = self.lock();
        // Of its own errors a server cannot say that they came before the write.
        tries.last_did_nothing = response.status().is_client_error();
        let date = response.headers().get("date").and_then(seconds_of);
        tries.reading = tries.sent.zip(date).map(|(sent, date)| Reading {
            sent,
            received,
            date,
        });
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let connector_error = match context.output_or_error() {
            Some(Err(error)) => error.as_connector_error(),
            _ => None,
        };
        if connector_error.is_some_and(is_connecting) {
            self.lock().last_was_sent = false;
        }
        Ok(())
    }
}

/// Lets the SDK send a request again only where the try before did nothing: it was not sent, or the service has
/// answered so. A second copy of a write that creates a record could arrive when its attempt is over.
#[derive(Debug)]
pub(super) struct NothingTwiceUnseen;

impl ClassifyRetry for NothingTwiceUnseen {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else {
            return RetryAction::NoActionIndicated;
        };
        let was_refused = context
            .response()
            .is_some_and(|response| response.status().is_client_error());
        let was_unsent = error.as_connector_error().is_some_and(is_connecting);
        match was_refused || was_unsent {
            true => RetryAction::NoActionIndicated,
            false => RetryAction::RetryForbidden,
        }
    }

    fn name(&self) -> &'static str {
        "idem"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_as_seconds() {
        assert_eq!(
            seconds_of("Sun, 29 Nov 2026 16:50:46 GMT"),
            Some(1_795_971_046)
        );
        assert_eq!(seconds_of("yesterday"), None);
    }
}
