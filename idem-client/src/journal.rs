//! A durable outbox of operations, in an SQLite file: what was begun is finished after a crash, with
//! the same key and the same bytes.
//!
//! An operation is on the disk before its first byte is sent, and stays there until its answer is final
//! *and taken*. A process that died in between goes on with [`Journal::resume`]:
//!
#![cfg_attr(feature = "reqwest-middleware", doc = "```no_run")]
#![cfg_attr(not(feature = "reqwest-middleware"), doc = "```ignore")]
//! use bytes::Bytes;
//! use idem_client::journal::Journal;
//! use idem_client::reqwest_middleware::IdempotentClient;
//! use idem_client::{IdempotencyKey, Outcome, Policy};
//!
//! # async fn pay() -> Result<(), Box<dyn std::error::Error>> {
//! let client = IdempotentClient::new(reqwest::Client::new(), Policy::new());
//! let journal = Journal::open("payments.outbox").await?;
//!
//! // At start-up: what the last process left.
//! let mut left = journal.resume(&client).await?;
//! while let Some(settled) = left.next().await {
//!     let settled = settled?;
//!     println!("{}: final: {}", settled.pending().uri, settled.outcome().is_final());
//!     settled.take().await?;
//! }
//!
//! let key = IdempotencyKey::derived("orders.pay", ["order-17"]);
//! let request = http::Request::post("https://api.example.com/charges").body(Bytes::from("{}"))?;
//! let settled = journal.send(&client, key, request).await?;
//! // Book the outcome here: after a crash before `take` it is asked for again.
//! if let Outcome::Unknown(unknown) = settled.take().await? {
//!     println!("we do not know yet, and `resume` will ask again: {unknown}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! * **One process has the file.** Another one that opens it is refused ([`JournalError::InUse`]); the
//!   system frees it when the process ends, however that happens.
//! * **Credentials are not written.** A request with `Authorization`, `Cookie` or another sensitive header
//!   is refused; let the client add them (reqwest: `default_headers`).
//! * **Keys are forgotten by servers.** An operation that is older than
//!   [`JournalBuilder::keys_last`] is not sent any more, because that could carry it out again:
//!   its outcome is [`UnknownReason::Expired`](crate::UnknownReason::Expired).
//! * It is bounded: 10,000 operations, of 1 MiB each.

mod entry;
mod error;
mod file;
mod transport;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Request;
use tokio::task::JoinSet;

use crate::key::IdempotencyKey;
use crate::operation::Operation;
use crate::outcome::Outcome;
use crate::policy::Policy;

use entry::Entry;
pub use entry::Pending;
pub use error::{JournalError, SendError};
use file::File;
pub use transport::{Recorded, Transport};

/// How many operations of a journal are sent at once by [`Journal::resume`].
const RESUMED_AT_ONCE: usize = 16;

/// Settings of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalBuilder {
    keys_last: Duration,
    max_operations: u32,
    max_request_bytes: usize,
}

/// A durable outbox. Clones are the same journal.
#[derive(Clone)]
pub struct Journal {
    file: File,
    settings: JournalBuilder,
    running: Arc<Mutex<HashSet<IdempotencyKey>>>,
}

/// An operation and its outcome. It stays in the journal until [`Settled::take`].
#[must_use = "an outcome that is not taken is asked for again by `Journal::resume`"]
pub struct Settled<R> {
    pending: Pending,
    outcome: Outcome<R>,
    journal: Journal,
    _running: Running,
}

/// What [`Journal::resume`] goes on with. Dropped, it sends nothing more.
pub struct Resumed<T: Transport> {
    journal: Journal,
    transport: T,
    left: std::vec::IntoIter<IdempotencyKey>,
    /// Tasks: they go on while a caller is busy with an outcome.
    sending: JoinSet<GoneOn<T>>,
}

/// `None` where there was nothing to go on with.
type GoneOn<T> =
    Result<Option<Settled<<T as Transport>::Response>>, SendError<<T as Transport>::Error>>;

impl Default for JournalBuilder {
    fn default() -> Self {
        Self {
            keys_last: Duration::from_secs(23 * 60 * 60),
            max_operations: 10_000,
            max_request_bytes: 1024 * 1024,
        }
    }
}

impl JournalBuilder {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long after it was written down an operation may still be sent. 23 hours unless given: less
    /// than the 24 hours that most servers keep keys, by more than the policy's deadline.
    #[must_use]
    pub fn keys_last(mut self, keys_last: Duration) -> Self {
        self.keys_last = keys_last;
        self
    }

    /// How many operations may be in the journal. 10,000 unless given.
    #[must_use]
    pub fn max_operations(mut self, operations: u32) -> Self {
        self.max_operations = operations;
        self
    }

    /// The longest request, in bytes: address, headers and body. 1 MiB unless given.
    #[must_use]
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Opens a journal, or begins one.
    ///
    /// # Errors
    /// When another process has it open, the file is no journal, a newer version has written it, or it
    /// cannot be written.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<Journal, JournalError> {
        Ok(Journal {
            file: File::open(path.as_ref()).await?,
            settings: self,
            running: Arc::default(),
        })
    }
}

impl Journal {
    /// Opens a journal with the default settings, or begins one.
    ///
    /// # Errors
    /// As [`JournalBuilder::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        JournalBuilder::new().open(path).await
    }

    /// Writes an operation down, then sends it until it has an outcome.
    ///
    /// An operation that the journal already has is gone on with, as [`Journal::resume`] would.
    ///
    /// **Cancellation.** Dropped, it sends nothing more; the operation stays in the journal once it is
    /// written down, and [`Journal::resume`] goes on with it.
    ///
    /// # Errors
    /// With [`SendError::Journal`] nothing was sent. With [`SendError::Transport`] the client cannot send
    /// such a request, and the operation stays in the journal: [`Journal::forget`] it, or mend the
    /// client.
    pub async fn send<T: Transport>(
        &self,
        transport: &T,
        key: IdempotencyKey,
        request: Request<Bytes>,
    ) -> Result<Settled<T::Response>, SendError<T::Error>> {
        let running = self.run(&key)?;
        let entry = Entry::of(&request, self.settings.max_request_bytes)?;
        let now = SystemTime::now();
        let fresh = self
            .file
            .record(&key, &entry, now, self.settings.max_operations)
            .await?;
        let recorded_at = if fresh {
            now
        } else {
            let found = self.file.find(&key).await?.ok_or(JournalError::Damaged)?;
            if found.entry != entry {
                return Err(JournalError::OtherRequest.into());
            }
            found.recorded_at
        };
        self.settle(transport, key, entry, recorded_at, !fresh, running)
            .await
    }

    /// Goes on with every operation that is in the journal and that nobody is sending, 16 at once.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn resume<T: Transport + Clone>(
        &self,
        transport: &T,
    ) -> Result<Resumed<T>, JournalError> {
        Ok(Resumed {
            journal: self.clone(),
            transport: transport.clone(),
            left: self.file.keys().await?.into_iter(),
            sending: JoinSet::new(),
        })
    }

    /// What is in the journal, the oldest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn pending(&self) -> Result<Vec<Pending>, JournalError> {
        self.file.list().await
    }

    /// Takes an operation out of the journal, whatever became of it: for a person who has found out.
    /// Whether it was there.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn forget(&self, key: &IdempotencyKey) -> Result<bool, JournalError> {
        self.file.remove(key).await
    }

    /// Closes the file, so that another process can open it.
    pub async fn close(self) {
        self.file.close().await;
    }

    /// What another process left, or `None` where it is gone or being sent.
    async fn go_on<T: Transport>(
        self,
        transport: &T,
        key: IdempotencyKey,
    ) -> Result<Option<Settled<T::Response>>, SendError<T::Error>> {
        let Ok(running) = self.run(&key) else {
            return Ok(None);
        };
        let Some(found) = self.file.find(&key).await? else {
            return Ok(None);
        };
        let settled = self.settle(
            transport,
            key,
            found.entry,
            found.recorded_at,
            true,
            running,
        );
        settled.await.map(Some)
    }

    async fn settle<T: Transport>(
        &self,
        transport: &T,
        key: IdempotencyKey,
        entry: Entry,
        recorded_at: SystemTime,
        resumed: bool,
        running: Running,
    ) -> Result<Settled<T::Response>, SendError<T::Error>> {
        let request = entry.request()?;
        let pending = Pending {
            key: key.clone(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            recorded_at,
        };
        // A clock that was set back makes nothing older.
        let age = recorded_at.elapsed().unwrap_or_default();
        let outcome = if age >= self.settings.keys_last {
            let now = Instant::now();
            let operation = Operation::new(&Policy::new(), key, "", now).resumed();
            Outcome::Unknown(operation.expired(now))
        } else {
            let recorded = Recorded {
                key: key.clone(),
                request,
                resumed,
            };
            match transport.send(recorded).await {
                Ok(outcome) => outcome,
                Err(error) => return Err(SendError::Transport(error)),
            }
        };
        Ok(Settled {
            pending,
            outcome,
            journal: self.clone(),
            _running: running,
        })
    }

    /// Nobody else of this process sends it meanwhile.
    fn run(&self, key: &IdempotencyKey) -> Result<Running, JournalError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match running.insert(key.clone()) {
            true => Ok(Running {
                key: key.clone(),
                all: Arc::clone(&self.running),
            }),
            false => Err(JournalError::Running),
        }
    }
}

impl<T: Transport + Clone> Resumed<T> {
    /// The next outcome, in the order in which they come. `None` when all is done.
    ///
    /// # Errors
    /// As [`Journal::send`], for one operation, which stays in the journal; the others go on.
    pub async fn next(&mut self) -> Option<Result<Settled<T::Response>, SendError<T::Error>>> {
        loop {
            while self.sending.len() < RESUMED_AT_ONCE
                && let Some(key) = self.left.next()
            {
                let (journal, transport) = (self.journal.clone(), self.transport.clone());
                self.sending
                    .spawn(async move { journal.go_on(&transport, key).await });
            }
            match self.sending.join_next().await? {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(settled))) => return Some(Ok(settled)),
                Ok(Err(error)) => return Some(Err(error)),
                Err(ended) => match ended.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime ends.
                    Err(_) => return None,
                },
            }
        }
    }
}

impl<R> Settled<R> {
    /// Which operation it is.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// What became of it.
    pub fn outcome(&self) -> &Outcome<R> {
        &self.outcome
    }

    /// Takes the outcome. A final one takes the operation out of the journal; an unknown one leaves it
    /// there.
    ///
    /// # Errors
    /// When the journal cannot be written. Then the operation stays, and is answered again later.
    pub async fn take(self) -> Result<Outcome<R>, JournalError> {
        if self.outcome.is_final() {
            self.journal.file.remove(&self.pending.key).await?;
        }
        Ok(self.outcome)
    }
}

/// An operation that is being sent.
struct Running {
    key: IdempotencyKey,
    all: Arc<Mutex<HashSet<IdempotencyKey>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.key);
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let journal = &mut f.debug_struct("Journal");
        journal
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<R: fmt::Debug> fmt::Debug for Settled<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settled")
            .field("pending", &self.pending)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl<T: Transport> fmt::Debug for Resumed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resumed = &mut f.debug_struct("Resumed");
        resumed
            .field("left", &self.left.len())
            .finish_non_exhaustive()
    }
}
