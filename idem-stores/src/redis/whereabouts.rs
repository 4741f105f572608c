//! Where the primary is, as the connections of one store have found it. They must agree: what is
//! claimed on one server and ended on another, such as a primary that was overtaken in its sleep and
//! has not heard of it, would be running for ever on the first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::ConnectionAddr;

#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    /// Counts the connections that have failed: what was found before may be another's by now.
    doubts: AtomicU64,
    /// What sentinels have named last.
    named: Mutex<Option<ConnectionAddr>>,
}

/// What was known when a connection was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) doubts: u64,
    /// The server that sentinels named for it.
    pub(super) named: Option<ConnectionAddr>,
}

impl Whereabouts {
    /// How often there was doubt so far.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Acquire)
    }

    /// Every connection that is there is to be opened anew before it is used again.
    pub(super) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn name(&self, primary: &ConnectionAddr) {
        *self.named() = Some(primary.clone());
    }

    /// Whether a connection leads where all of them do.
    pub(super) fn is_there(&self, found: &Found) -> bool {
        found.doubts == self.doubts() && (found.named.is_none() || found.named == *self.named())
    }

    fn named(&self) -> MutexGuard<'_, Option<ConnectionAddr>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_elsewhere_after_a_doubt_and_when_another_server_is_named() {
        let whereabouts = Whereabouts::default();
        let address = |host: &str| ConnectionAddr::Tcp(host.to_owned(), 1);
        let mut found = Found::default();
        assert!(whereabouts.is_there(&found));
        whereabouts.name(&address("one"));
        // One that nobody named goes where its URL says.
        assert!(whereabouts.is_there(&found));
        found.named = Some(address("one"));
        assert!(whereabouts.is_there(&found));
        whereabouts.name(&address("other"));
        assert!(!whereabouts.is_there(&found));
        found.named = Some(address("other"));
        assert!(whereabouts.is_there(&found));
        whereabouts.doubt();
        assert!(!whereabouts.is_there(&found));
        found.doubts = whereabouts.doubts();
        assert!(whereabouts.is_there(&found));
    }
}
