//! Which server is the primary, as the connections of one store have found it. All connections must
//! agree. A primary that was demoted while it slept does not know of it: what is claimed on one server
//! and ended on the other would run for ever on the first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::ConnectionAddr;

/// What is known of the primary.
#[derive(Debug, Default)]
pub(super) struct Primary {
    /// Counts the failures of connections. After a failure an older connection may lead elsewhere.
    epoch: AtomicU64,
    /// The server that the sentinels have named last.
    named: Mutex<Option<ConnectionAddr>>,
}

/// What was known when a connection was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Origin {
    pub(super) epoch: u64,
    /// The server that the sentinels named for it.
    pub(super) named: Option<ConnectionAddr>,
}

impl Primary {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Makes every open connection be opened anew before its next use.
    pub(super) fn start_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn set_named(&self, primary: &ConnectionAddr) {
        *self.named() = Some(primary.clone());
    }

    /// Whether a connection of this origin leads to where new connections lead.
    pub(super) fn is_current(&self, origin: &Origin) -> bool {
        origin.epoch == self.epoch() && (origin.named.is_none() || origin.named == *self.named())
    }

    fn named(&self) -> MutexGuard<'_, Option<ConnectionAddr>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_outdated_in_a_new_epoch_and_when_another_server_is_named() {
        let primary = Primary::default();
        let address = |host: &str| ConnectionAddr::Tcp(host.to_owned(), 1);
        let mut origin = Origin::default();
        assert!(primary.is_current(&origin));
        primary.set_named(&address("one"));
        // Without sentinels a connection leads to where its URL says.
        assert!(primary.is_current(&origin));
        origin.named = Some(address("one"));
        assert!(primary.is_current(&origin));
        primary.set_named(&address("other"));
        assert!(!primary.is_current(&origin));
        origin.named = Some(address("other"));
        assert!(primary.is_current(&origin));
        primary.start_epoch();
        assert!(!primary.is_current(&origin));
        origin.epoch = primary.epoch();
        assert!(primary.is_current(&origin));
    }
}
