//! What a store must do. Stores only move records; every policy is the engine's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::record::{Change, Claim, Claimed, Inspection, RecordId, Token};

/// Keeps records.
///
/// Every transition is one atomic step, judged by the store's own clock. The table, whose
/// first row that fits counts, as the module `conformance` checks it:
///
/// | state | event | next |
/// |---|---|---|
/// | absent | claim | running, attempt 1 |
/// | running or finished, other fingerprint | claim | unchanged, [`Claimed::Mismatch`] |
/// | running, own token, lease alive or over | claim | unchanged, [`Claimed::Acquired`] with the same number |
/// | running, lease alive | claim | unchanged, [`Claimed::InFlight`] |
/// | running, lease over | claim to rerun | running, next attempt, new token and lease |
/// | running, lease over | claim to refuse | unchanged, [`Claimed::OutcomeUnknown`] |
/// | finished | claim | unchanged, [`Claimed::Finished`] |
/// | running, right token | renew, complete, release, abandon | lease extended, finished, absent, lease over at once |
/// | finished, by this token | complete | unchanged, [`Change::Applied`]: its answer was lost |
/// | any other | renew, complete, release, abandon | unchanged, [`Change::LeaseLost`] |
/// | finished, retention over | any | absent |
/// | running, lease over for longer than the retention | any | absent |
///
/// The right token still changes a record whose lease is over, as long as nobody has claimed
/// it since: a late outcome is worth more than a doubt. An abandoned record is nobody's: no
/// token changes it.
///
/// A method that returns an error may or may not have had its effect. The engine sends a
/// claim again with the same token, and treats every other change as safe to repeat.
/// Dropping a method's future is like losing its answer.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// A short name for logs and errors, such as `"memory"`. Never an address.
    fn name(&self) -> &'static str;

    /// Asks for the right to run one attempt.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError>;

    /// Makes the lease hold for `lease` from now, and the record stay for `retention` after it.
    async fn renew(
        &self,
        id: &RecordId,
        token: &Token,
        lease: Duration,
        retention: Duration,
    ) -> Result<Change, StoreError>;

    /// Stores the outcome for `retention` from now.
    ///
    /// A store with a bound accepts a completion past it: the effect has happened.
    async fn complete(
        &self,
        id: &RecordId,
        token: &Token,
        outcome: Bytes,
        retention: Duration,
    ) -> Result<Change, StoreError>;

    /// Forgets the record: the attempt had no effect.
    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError>;

    /// Ends the lease at once: the attempt crashed.
    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError>;

    /// The record as it stands, or `None` when it is absent. Changes nothing.
    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError>;

    /// Starts to watch a record. Every change after this method has returned wakes the
    /// [`Watch`], as far as the store can tell; the caller polls as well, seldom.
    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError>;
}

/// Resolves when a watched record may have changed. Waking without a change is allowed.
#[must_use = "a watch does nothing unless awaited"]
pub struct Watch(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Watch {
    /// A watch that resolves with `changed`.
    pub fn new(changed: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Box::pin(changed))
    }

    /// The watch of a store without notifications: its waiters only poll.
    pub fn never() -> Self {
        Self::new(std::future::pending())
    }
}

impl Future for Watch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Why a store did not do what it was asked.
///
/// Messages name the store and never hold addresses, credentials, keys or outcomes; the
/// driver's own error is the [`source`](std::error::Error::source).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The store could not be reached, or did not answer. Worth another try.
    Unavailable {
        /// The store's name.
        store: &'static str,
        /// The driver's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store refused what it was asked for, and will again: it does not let this login, or is
    /// too old. Somebody must set it right.
    Rejected {
        /// The store's name.
        store: &'static str,
        /// The driver's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store did not answer in time.
    TimedOut {
        /// The store's name.
        store: &'static str,
        /// The time it was given.
        after: Duration,
    },
    /// The store is at its bound and takes no new record. It never drops one to make room.
    Full {
        /// The store's name.
        store: &'static str,
        /// The bound, in bytes, where it is known.
        max_bytes: Option<u64>,
    },
    /// A record is present that this version cannot read.
    Unreadable {
        /// The store's name.
        store: &'static str,
    },
}

impl StoreError {
    /// The store could not be reached, or did not answer.
    pub fn unavailable(
        store: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Unavailable {
            store,
            source: Arc::new(source),
        }
    }

    /// The store refused what it was asked for, and will again.
    pub fn rejected(
        store: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Rejected {
            store,
            source: Arc::new(source),
        }
    }

    /// Whether the store may be away, as opposed to there and unwilling.
    pub(crate) const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Full { .. }
        )
    }

    /// Whether the same call may succeed at once.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { store, .. } => write!(f, "the {store} store cannot be reached"),
            Self::Rejected { store, .. } => write!(
                f,
                "the {store} store refuses what it is asked for; see its login's rights and its version"
            ),
            Self::TimedOut { store, after } => {
                write!(f, "the {store} store did not answer within {after:?}")
            }
            Self::Full { store, max_bytes } => {
                write!(f, "the {store} store is full")?;
                if let Some(max_bytes) = max_bytes {
                    write!(f, " with {max_bytes} bytes")?;
                }
                f.write_str(" and takes no new record; raise its bound or shorten the ttl")
            }
            Self::Unreadable { store } => write!(
                f,
                "the {store} store holds a record that this version cannot read"
            ),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable { source, .. } | Self::Rejected { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
