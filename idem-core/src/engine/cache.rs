//! The local cache: finished outcomes that a replay finds without asking the store.
//!
//! A finished record never changes until its retention ends, so that a copy is as good as the
//! record until then. It is kept for no longer than the store has promised to, counted from
//! before the store was asked. (A store that loses what it acknowledged is contradicted by the
//! copy, which is what the first caller was answered.) Without the feature `cache` there is nothing here.

use bytes::Bytes;
use tokio::time::Instant;

use crate::fingerprint::Fingerprint;
use crate::record::RecordId;

/// What a cached record says to a call.
#[cfg_attr(not(feature = "cache"), allow(dead_code, reason = "nothing is found"))]
pub(super) enum Cached {
    /// Finished, for this request.
    Outcome(Bytes),
    /// Finished, for another request.
    Mismatch,
}

#[cfg(not(feature = "cache"))]
#[derive(Default)]
pub(super) struct Cache(());

#[cfg(not(feature = "cache"))]
impl Cache {
    pub(super) const fn is_on(&self) -> bool {
        false
    }

    pub(super) const fn find(&self, _: &RecordId, _: &Fingerprint) -> Option<Cached> {
        None
    }

    pub(super) fn keep(&self, _: RecordId, _: Fingerprint, _: Bytes, _: Option<Instant>) {}
}

#[cfg(feature = "cache")]
pub(super) use on_moka::Cache;

#[cfg(feature = "cache")]
mod on_moka {
    use std::sync::Arc;
    use std::time::Duration;

    use moka::Expiry;

    use super::{Bytes, Cached, Fingerprint, Instant, RecordId};
    use crate::record::RecordHasher;

    /// What an entry is taken to weigh beside its outcome.
    const ENTRY_BYTES: usize = 512;

    struct Entry {
        fingerprint: Fingerprint,
        outcome: Bytes,
        until: Instant,
    }

    impl Entry {
        fn bytes(&self) -> usize {
            ENTRY_BYTES + self.outcome.len()
        }
    }

    /// Off unless it was given a bound.
    #[derive(Default)]
    pub(in super::super) struct Cache {
        entries: Option<moka::sync::Cache<RecordId, Arc<Entry>, RecordHasher>>,
        max_bytes: u64,
    }

    impl Cache {
        pub(in super::super) fn bounded(max_bytes: u64) -> Self {
            let entries = moka::sync::Cache::builder()
                .max_capacity(max_bytes)
                .weigher(|_, entry: &Arc<Entry>| u32::try_from(entry.bytes()).unwrap_or(u32::MAX))
                .expire_after(UntilItsEnd)
                .build_with_hasher(RecordHasher::default());
            Self {
                entries: Some(entries),
                max_bytes,
            }
        }

        pub(in super::super) const fn is_on(&self) -> bool {
            self.entries.is_some()
        }

        pub(in super::super) fn find(
            &self,
            id: &RecordId,
            fingerprint: &Fingerprint,
        ) -> Option<Cached> {
            let entry = self.entries.as_ref()?.get(id)?;
            if entry.until <= Instant::now() {
                return None;
            }
            Some(if entry.fingerprint == *fingerprint {
                Cached::Outcome(entry.outcome.clone())
            } else {
                Cached::Mismatch
            })
        }

        /// Keeps an outcome until then. `None` is not known, and not kept.
        pub(in super::super) fn keep(
            &self,
            id: RecordId,
            fingerprint: Fingerprint,
            outcome: Bytes,
            until: Option<Instant>,
        ) {
            if let (Some(entries), Some(until)) = (&self.entries, until) {
                let entry = Entry {
                    fingerprint,
                    outcome,
                    until,
                };
                let bytes = entry.bytes() as u64;
                if bytes > self.max_bytes {
                    return;
                }
                entries.insert(id, Arc::new(entry));
                // moka makes room when it gets round to it: before many large ones have come.
                if bytes > self.max_bytes / 64 {
                    entries.run_pending_tasks();
                }
            }
        }
    }

    /// Gives the memory back; whether an entry is over is judged at every look.
    struct UntilItsEnd;

    impl UntilItsEnd {
        fn of(entry: &Entry) -> Option<Duration> {
            Some(entry.until.saturating_duration_since(Instant::now()))
        }
    }

    impl Expiry<RecordId, Arc<Entry>> for UntilItsEnd {
        fn expire_after_create(
            &self,
            _: &RecordId,
            entry: &Arc<Entry>,
            _: std::time::Instant,
        ) -> Option<Duration> {
            Self::of(entry)
        }

        fn expire_after_update(
            &self,
            _: &RecordId,
            entry: &Arc<Entry>,
            _: std::time::Instant,
            _: Option<Duration>,
        ) -> Option<Duration> {
            Self::of(entry)
        }
    }
}
