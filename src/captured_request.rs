//! A request on its way to an idempotent handler, as each framework's adapter brings it.

use bytes::Bytes;
use idem_core::Engine;
use idem_core::http::{BodyError, RequestIdentity};

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
