//! What sends the journal's operations.

use bytes::Bytes;
use http::Request;

use crate::key::IdempotencyKey;
use crate::outcome::Outcome;

/// An operation that is on the disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// Its key.
    pub key: IdempotencyKey,
    /// Its request, without the key.
    pub request: Request<Bytes>,
    /// Whether an earlier process may have sent it: [`Operation::resumed`](crate::Operation::resumed).
    pub resumed: bool,
}

/// Sends an operation until it has an outcome. Implemented by `reqwest_middleware::IdempotentClient`, and by
/// `tower::Idempotency` over a client whose requests have `Full<Bytes>` as their body.
pub trait Transport: Send + Sync + 'static {
    /// The answer.
    type Response: Send + 'static;
    /// Why a request cannot be sent at all. It must not be returned for an operation that was sent:
    /// that one is [`Outcome::Unknown`].
    type Error: Send + 'static;

    /// Sends it.
    fn send(
        &self,
        recorded: Recorded,
    ) -> impl Future<Output = Result<Outcome<Self::Response>, Self::Error>> + Send;
}
