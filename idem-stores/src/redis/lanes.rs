//! Priority: calls of lease holders go before claims. Knows nothing of records.
//!
//! | calls | connection | at once | when there are more |
//! |---|---|---|---|
//! | renewals | the lease holders' | as many as there are leases | – |
//! | completions, releases, abandonments | the lease holders' | 4 MiB, so that a renewal behind them is in time | wait in the queue |
//! | claims, inspections, watches | the claims' | [`DEFAULT_CLAIMS`] | wait in the queue; refused when it is full |
//!
//! If writes wait for replicas, the ends of attempts have a connection of their own, so that a renewal
//! never waits for them. A call that is refused, or waits until its time is over, was not sent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use idem_core::StoreError;
use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::connection::{Write, Written};
use super::durability::Durability;
use super::errors::CallError;
use super::link::Link;
use super::scripts::Script;
use super::target::Target;

/// How many claims are under way at once. With a server that is 5 ms away these are fifty thousand
/// calls a second.
pub(super) const DEFAULT_CLAIMS: usize = 256;

/// How many claims wait in the queue. A server that answers ten thousand a second serves them in 0.4 s,
/// well within the time of a call.
pub(super) const DEFAULT_WAITING: usize = 4096;

/// How many bytes of outcomes are under way at once, and what the end of an attempt weighs at least.
const MAX_END_BYTES: usize = 4 * 1024 * 1024;
const MIN_END_BYTES: usize = 16 * 1024;

/// Bounds on claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) claims: usize,
    pub(super) waiting: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            claims: DEFAULT_CLAIMS,
            waiting: DEFAULT_WAITING,
        }
    }
}

pub(super) struct Lanes {
    holder_link: Link,
    /// The connection for ends of attempts, if it is not the lease holders'.
    end_link: Option<Link>,
    /// Bytes of outcomes that may still be sent.
    end_bytes: Semaphore,
    claim_link: Link,
    claims: Semaphore,
    /// Claims in the queue.
    waiting: AtomicUsize,
    max_waiting: usize,
    durability: Durability,
}

impl Lanes {
    pub(super) fn new(target: &Arc<Target>, bounds: Bounds, durability: Durability) -> Self {
        let link = || Link::new(Arc::clone(target));
        Self {
            holder_link: link(),
            end_link: durability.is_required().then(link),
            durability,
            end_bytes: Semaphore::new(MAX_END_BYTES),
            claim_link: link(),
            claims: Semaphore::new(bounds.claims.clamp(1, Semaphore::MAX_PERMITS)),
            waiting: AtomicUsize::new(0),
            max_waiting: bounds.waiting,
        }
    }

    /// Opens the connections.
    pub(super) async fn open(&self) -> Result<(), CallError> {
        let end_link = async {
            match &self.end_link {
                Some(link) => link.open().await,
                None => Ok(()),
            }
        };
        tokio::try_join!(self.claim_link.open(), self.holder_link.open(), end_link).map(drop)
    }

    /// The connection of claims, for calls that are made once.
    pub(super) const fn claim_link(&self) -> &Link {
        &self.claim_link
    }

    pub(super) fn renewal(&self) -> Permit<'_> {
        self.permit(&self.holder_link, self.holder_link.deadline(), None)
    }

    /// A permit to end an attempt with an outcome of this many bytes.
    pub(super) async fn end(&self, bytes: usize) -> Result<Permit<'_>, StoreError> {
        let link = self.end_link.as_ref().unwrap_or(&self.holder_link);
        let deadline = link.deadline();
        let bytes = bytes.clamp(MIN_END_BYTES, MAX_END_BYTES);
        let permits = self
            .end_bytes
            .acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX));
        let permit = granted(timeout_at(deadline, permits).await)?;
        Ok(self.permit(link, deadline, Some(permit)))
    }

    /// A permit to claim or to look. Half of a call's time is left for the call itself.
    pub(super) async fn claim(&self) -> Result<Permit<'_>, StoreError> {
        let (now, deadline) = (Instant::now(), self.claim_link.deadline());
        let permit = match self.claims.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = self.enter_queue()?;
                let until = now + (deadline - now) / 2;
                granted(timeout_at(until, self.claims.acquire()).await)?
            }
        };
        Ok(self.permit(&self.claim_link, deadline, Some(permit)))
    }

    const fn permit<'a>(
        &'a self,
        link: &'a Link,
        deadline: Instant,
        permit: Option<SemaphorePermit<'a>>,
    ) -> Permit<'a> {
        Permit {
            link,
            deadline,
            durability: &self.durability,
            _permit: permit,
        }
    }

    fn enter_queue(&self) -> Result<QueuePlace<'_>, StoreError> {
        let entered = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < self.max_waiting).then_some(waiting + 1)
            });
        match entered {
            Ok(_) => Ok(QueuePlace(&self.waiting)),
            Err(_) => Err(StoreError::Overloaded { store: NAME }),
        }
    }
}

/// A place in the queue of claims, until it is dropped.
struct QueuePlace<'a>(&'a AtomicUsize);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn granted<'a, E, F>(
    waited: Result<Result<SemaphorePermit<'a>, E>, F>,
) -> Result<SemaphorePermit<'a>, StoreError> {
    match waited {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(StoreError::not_sent(NAME, WaitedTooLong)),
    }
}

/// The right to use a connection, until a call's time is over.
pub(super) struct Permit<'a> {
    link: &'a Link,
    deadline: Instant,
    durability: &'a Durability,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Permit<'_> {
    /// Whether writes are confirmed by replicas or files.
    pub(super) const fn is_durable(&self) -> bool {
        self.durability.is_required()
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, CallError> {
        self.link
            .call(self.deadline, async |connection| {
                connection.send(command).await
            })
            .await
    }

    /// Sends a command. If it has written, waits until the write is confirmed.
    pub(super) async fn write(
        &self,
        key: &[u8],
        command: &Cmd,
        has_written: fn(&Value) -> bool,
    ) -> Result<Written, CallError> {
        let write = self.write_of(key, has_written);
        self.link
            .call(self.deadline, async |connection| {
                connection.write(command, &write).await
            })
            .await
    }

    /// Runs a script on one record. If it has written, waits until the write is confirmed.
    pub(super) async fn run_writing(
        &self,
        script: &Script,
        key: &[u8],
        arguments: &[&[u8]],
        has_written: fn(&Value) -> bool,
    ) -> Result<Written, CallError> {
        let write = self.write_of(key, has_written);
        self.link
            .call(self.deadline, async |connection| {
                script.write(connection, arguments, &write).await
            })
            .await
    }

    const fn write_of<'w>(&'w self, key: &'w [u8], has_written: fn(&Value) -> bool) -> Write<'w> {
        Write {
            key,
            has_written,
            durability: self.durability,
        }
    }

    /// Runs a script on one record.
    pub(super) async fn run(
        &self,
        script: &Script,
        key: &[u8],
        arguments: &[&[u8]],
    ) -> Result<Value, CallError> {
        self.link
            .call(self.deadline, async |connection| {
                script.run(connection, key, arguments).await
            })
            .await
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct WaitedTooLong;

impl fmt::Display for WaitedTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call waited in the queue until its time was over")
    }
}

impl std::error::Error for WaitedTooLong {}
