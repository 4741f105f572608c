//! What the threads of a run share.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How long clients may take to get their last answers. A store's timeout is 5 seconds, and so
/// is that of the ledger for SQLite's lock.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(60);

/// What clients and killer tell each other.
#[derive(Default)]
pub(crate) struct Signals {
    /// Kills so far.
    pub(crate) kills: AtomicU64,
    /// Final answers so far.
    pub(crate) answers: AtomicU64,
    /// When nothing new is begun, in milliseconds since the start; 0 is not yet.
    pub(crate) closing: AtomicU64,
}
