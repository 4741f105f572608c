//! What a store must do. Stores only move records; every policy is the engine's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::fingerprint::Fingerprint;
use crate::listing::{Forgotten, Listing, Page, Seen};
use crate::maintenance::{Finding, Swept};
use crate::record::{Change, Claim, Claimed, Inspection, Lease, RecordId, Token};

/// Keeps records.
///
/// Every transition is one atomic step, judged by the store's own clock. The table, whose
/// first row that fits counts, as the module `conformance` checks it:
///
/// | state | event | next |
/// |---|---|---|
/// | absent | claim | running, attempt 1 |
/// | running, suspended or finished, other fingerprint | claim | unchanged, [`Claimed::Mismatch`] |
/// | running, own token, lease alive or over | claim | unchanged, [`Claimed::Acquired`] with the same number |
/// | running, lease alive | claim | unchanged, [`Claimed::InFlight`] |
/// | running, lease over | claim to rerun | running, next attempt, new token and lease |
/// | running, lease over | claim to refuse | unchanged, [`Claimed::OutcomeUnknown`] |
/// | finished | claim | unchanged, [`Claimed::Finished`] |
/// | suspended, same fingerprint | claim, to rerun or to refuse | running, next attempt, new token and lease, with its steps |
/// | running, right token | renew, complete, abandon | lease extended, finished, lease over at once |
/// | running, right token, without steps | release | absent |
/// | running, right token, with steps | release | suspended: nobody's, with its steps |
/// | running, right token | suspend | suspended, with and without steps |
/// | running, right token, its steps end at `at` or after it | checkpoint | what is not there yet is appended; the lease is as before |
/// | running, this attempt | [`revoke`](Maintenance::revoke) | lease over at once: nobody's |
/// | lease over, suspended or finished, this attempt in this state | [`forget_seen`](Maintenance::forget_seen) | absent |
/// | finished, by this token | complete | unchanged, [`Change::Applied`]: its answer was lost |
/// | absent, lease unbroken | renew, complete | created again with this attempt, token and fingerprint: running with a new lease, or finished |
/// | any other | renew, complete, release, abandon, suspend, checkpoint | unchanged, [`Change::LeaseLost`] |
/// | finished, retention over | any | absent |
/// | running or suspended, lease over for longer than the retention | any | absent |
///
/// The steps are bytes that only grow while the record is not finished. Whoever takes a record over
/// is handed them; only a completion drops them.
///
/// The right token still changes a record whose lease is over, as long as nobody has claimed
/// it since: a late outcome is worth more than a doubt. An abandoned or suspended record is nobody's:
/// no token changes it.
///
/// What an error says of the call's effect stands at [`StoreError`]. The engine sends a claim
/// again with the same token, and treats every other change as safe to repeat. Dropping a
/// method's future is like losing its answer: the call may take effect later, even after a call
/// that was made after it.
///
/// Load must never cost a lease. Calls of those who hold one (`renew`, `complete`, `release`,
/// `abandon`, `suspend`, `checkpoint`) go before all others, with connections of their own where the store has
/// connections. The others wait in a bounded queue; one that finds it full fails at once, unsent,
/// with [`StoreError::Overloaded`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// A short name for logs and errors, such as `"memory"`. Never an address.
    fn name(&self) -> &'static str;

    /// The calls that this store answers at once, if it keeps its records in this process. The engine
    /// then makes no future for them.
    fn immediate(&self) -> Option<&dyn ImmediateStore> {
        None
    }

    /// What operators ask this store for, if it can be asked.
    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    /// The longest outcome that one of its records can hold, in bytes, and the most bytes of steps. `None`
    /// where nothing in the store bounds them. A longer outcome leaves a tombstone, and is not sent; so the
    /// store that passes calls on to another one passes this on, too.
    fn max_outcome_bytes(&self) -> Option<usize> {
        None
    }

    /// Asks for the right to run one attempt.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError>;

    /// Makes the lease hold for its duration from now, and the record stay for its retention after
    /// that.
    async fn renew(&self, lease: &Lease) -> Result<Change, StoreError>;

    /// Stores the outcome for the lease's retention from now.
    ///
    /// A store with a bound accepts a completion past it: the effect has happened.
    async fn complete(&self, lease: &Lease, outcome: Bytes) -> Result<Change, StoreError>;

    /// Forgets the record: the attempt had no effect. A record with steps is suspended instead: an
    /// earlier attempt may have had one, and whoever releases need not know.
    async fn release(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError>;

    /// Ends the lease at once: the attempt crashed.
    async fn abandon(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError>;

    /// Appends to the record's steps: from byte `at` of them on, they are these bytes. What is there
    /// already is not appended again, so that a call may be repeated, and one that arrives late
    /// changes nothing. Steps are appended in order: a record that has fewer than `at` bytes of them
    /// has lost some, and answers [`Change::LeaseLost`].
    ///
    /// A store with a bound accepts steps past it: their effects have happened.
    async fn checkpoint(
        &self,
        lease: &Lease,
        at: usize,
        steps: Bytes,
    ) -> Result<Change, StoreError>;

    /// Ends the lease at once: the attempt ended without an outcome, and the next one goes on with
    /// its steps. The record stays for its retention from now.
    async fn suspend(&self, id: &RecordId, token: &Token) -> Result<Change, StoreError>;

    /// The record as it stands, or `None` when it is absent. Changes nothing.
    async fn inspect(&self, id: &RecordId) -> Result<Option<Inspection>, StoreError>;

    /// Starts to watch a record. Every change after this method has returned wakes the
    /// [`Watch`], as far as the store can tell; the caller polls as well, seldom.
    async fn watch(&self, id: &RecordId) -> Result<Watch, StoreError>;

    /// One page of the records, in an order of the store's own. Changes nothing, and keeps no claim
    /// waiting.
    ///
    /// A record that stands from the first page to the last is on one of them, and no record is on
    /// two, as far as the store can tell: it says in its own documentation where it cannot. What
    /// comes, changes or goes meanwhile may be seen or not.
    async fn list(&self, listing: &Listing) -> Result<Page, StoreError>;

    /// Forgets a record that no lease protects, whatever it says: the next claim is a first one.
    async fn forget(&self, id: &RecordId) -> Result<Forgotten, StoreError>;
}

/// What an operator asks of a [`Store`]: see [`Store::maintenance`].
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// The time by the clock that leases are judged by.
    async fn time(&self) -> Result<SystemTime, StoreError>;

    /// Looks at the server's settings, the login's rights and what the records take. It tries what it
    /// cannot look up: with records of its own, which it removes.
    ///
    /// # Errors
    /// When the store cannot answer. What it answers and should not is a [`Finding`].
    async fn examine(&self) -> Result<Vec<Finding>, StoreError>;

    /// Deletes records whose retention is over, so many at most, in short transactions.
    ///
    /// # Errors
    /// When the store cannot be written. What was deleted before stays deleted.
    async fn sweep(&self, max_records: u32) -> Result<Swept, StoreError>;

    /// Takes the lease from the attempt with this number, whoever holds it and however long it still
    /// holds: no token changes the record any more, and it is as after a crash. Its owner learns of it
    /// at its next call. [`Change::LeaseLost`]: this attempt does not hold the record.
    ///
    /// The body of an owner that lives goes on. Ending its lease lets another attempt run beside it.
    async fn revoke(&self, id: &RecordId, attempt: u32) -> Result<Change, StoreError>;

    /// [`Store::forget`] for who has looked at the record: one that is not as it was seen stays. A running
    /// record whose lease is over is [crashed](crate::RecordState::Crashed) here, too.
    ///
    /// Numbers of attempts begin anew after a record was absent, so that one which was forgotten, claimed
    /// again and left in the same state is not told apart.
    async fn forget_seen(&self, id: &RecordId, seen: Seen) -> Result<Forgotten, StoreError>;
}

/// What a [`Store`] that keeps its records in this process does without a wait: the usual cases of its
/// methods, each one atomic step. Where the answer is no, nothing has changed, and the engine asks the
/// method itself.
pub trait ImmediateStore {
    /// The outcome of a record that is finished, for this fingerprint: what
    /// [`claim`](Store::claim) answers with [`Claimed::Finished`].
    fn find_finished(&self, id: &RecordId, fingerprint: &Fingerprint) -> Option<Bytes>;

    /// [`claim`](Store::claim) of a record that is absent. `false` if it is not, or if there is no room
    /// for another one.
    fn claim_absent(&self, claim: &Claim) -> bool;

    /// [`complete`](Store::complete). `false` where its answer would not be [`Change::Applied`].
    fn complete_held(&self, lease: &Lease, outcome: &Bytes) -> bool;
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
/// | variant | did the call take effect? | an outage? |
/// |---|---|---|
/// | `Unavailable`, `TimedOut` | not known | yes |
/// | `NotSent`, `NotReady`, `Full` | no | yes |
/// | `Overloaded`, `Busy`, `Rejected`, `Unreadable` | no | no |
///
/// Only an outage lets an engine that fails open run a body without its claim.
///
/// Messages name the store and never hold addresses, credentials, keys or outcomes; the
/// driver's own error is the [`source`](std::error::Error::source).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The call was sent, or may have been, and was not answered. Worth another try.
    Unavailable {
        /// The store's name.
        store: &'static str,
        /// The driver's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store did not answer in time. The call may take effect later.
    TimedOut {
        /// The store's name.
        store: &'static str,
        /// The time it was given.
        after: Duration,
    },
    /// The call was not sent: there was no connection to the store, or no time left to use it.
    NotSent {
        /// The store's name.
        store: &'static str,
        /// Why not.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The call was not sent: as many calls as may wait for the store wait already.
    Overloaded {
        /// The store's name.
        store: &'static str,
    },
    /// The server answered that it does not serve now: it starts or stops, takes no writes, or has
    /// no room for a connection. Worth another try, perhaps of another server.
    NotReady {
        /// The store's name.
        store: &'static str,
        /// The driver's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store answered that something else was in the way: a lock, or another transaction. Worth
    /// another try, later.
    Busy {
        /// The store's name.
        store: &'static str,
        /// The driver's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store refused what it was asked for, and will again: it does not let this login, is too
    /// old, or has other tables. Somebody must set it right.
    Rejected {
        /// The store's name.
        store: &'static str,
        /// The driver's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
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

macro_rules! with_source {
    ($($(#[$doc:meta])* $name:ident => $variant:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(
            store: &'static str,
            source: impl std::error::Error + Send + Sync + 'static,
        ) -> Self {
            Self::$variant {
                store,
                source: Arc::new(source),
            }
        }
    )*};
}

impl StoreError {
    with_source! {
        /// The call was not answered; see [`Self::Unavailable`].
        unavailable => Unavailable;
        /// The call was not sent; see [`Self::NotSent`].
        not_sent => NotSent;
        /// The server does not serve now; see [`Self::NotReady`].
        not_ready => NotReady;
        /// Something else was in the way; see [`Self::Busy`].
        busy => Busy;
        /// The store refused, and will again; see [`Self::Rejected`].
        rejected => Rejected;
    }

    /// Whether the call may have taken effect, or may take it later.
    pub const fn may_have_effect(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TimedOut { .. })
    }

    /// Whether the store may be away, as opposed to there and unwilling.
    pub const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::TimedOut { .. }
                | Self::NotSent { .. }
                | Self::NotReady { .. }
                | Self::Full { .. }
        )
    }

    /// Whether the same call may succeed at once.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NotReady { .. })
    }

    /// Whether it was not sent because there was no connection.
    pub(crate) const fn is_unsent(&self) -> bool {
        matches!(self, Self::NotSent { .. })
    }

    /// Whether it fails until somebody has set something right.
    pub(crate) const fn is_lasting(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Unreadable { .. })
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { store, .. } => write!(f, "the {store} store cannot be reached"),
            Self::TimedOut { store, after } => {
                write!(f, "the {store} store did not answer within {after:?}")
            }
            Self::NotSent { store, .. } => write!(
                f,
                "the {store} store was not asked: no connection to it could be had in time"
            ),
            Self::Overloaded { store } => write!(
                f,
                "the {store} store was not asked: too many calls wait for it already"
            ),
            Self::NotReady { store, .. } => {
                write!(f, "the server of the {store} store does not serve now")
            }
            Self::Busy { store, .. } => write!(
                f,
                "the {store} store could not do it now: another transaction was in the way"
            ),
            Self::Rejected { store, .. } => write!(
                f,
                "the {store} store refuses what it is asked for; see its login's rights, its tables and its version"
            ),
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
            Self::Unavailable { source, .. }
            | Self::NotSent { source, .. }
            | Self::NotReady { source, .. }
            | Self::Busy { source, .. }
            | Self::Rejected { source, .. } => Some(&**source),
            Self::TimedOut { .. }
            | Self::Overloaded { .. }
            | Self::Full { .. }
            | Self::Unreadable { .. } => None,
        }
    }
}
