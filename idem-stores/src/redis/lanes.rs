//! Priority: calls of lease holders go before claims. Knows nothing of records.
//!
//! | calls | connection | at once | when there are more |
//! |---|---|---|---|
//! | renewals | the lease holders' | as many as there are leases | – |
//! | ends of attempts, checkpoints | the claims', while few claims are under way and it answers; else the lease holders' | 4 MiB, so that a renewal behind them is in time | wait in the queue |
//! | claims, inspections, watches, forgetting | the claims' | [`DEFAULT_CLAIMS`] | wait in the queue; refused when it is full |
//! | pages of records | one of their own | [`MAX_LISTINGS`] | wait until their time is over |
//!
//! The end of an attempt shares the claims' connection while that costs it nothing, because what leaves
//! together costs both sides one system call, and what comes together one wake-up. Renewals never do:
//! what is asked for with the claims may be large.
//!
//! If writes wait for replicas, the ends of attempts have a connection of their own, so that a renewal
//! never waits for them. A call that is refused, or waits until its time is over, was not sent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use idem_core::StoreError;
use redis::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::command::{Command, Number, Word};
use super::connection::{Write, Written};
use super::durability::{Confirmation, Durability};
use super::errors::CallError;
use super::link::Link;
use super::scripts::{ScriptCall, set_if_absent};
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

/// How many pages of records are read at once, each over a connection of its own.
const MAX_LISTINGS: usize = 2;

/// With so many claims under way, and such a silence, ends of attempts keep to their own connection.
const MANY_CLAIMS: usize = 16;
const SILENCE: Duration = Duration::from_millis(20);

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
    max_claims: usize,
    /// Claims in the queue.
    waiting: AtomicUsize,
    max_waiting: usize,
    listings: Semaphore,
    durability: Durability,
}

impl Lanes {
    pub(super) fn new(target: &Arc<Target>, bounds: Bounds, durability: Durability) -> Self {
        let link = || Link::new(Arc::clone(target));
        let max_claims = bounds.claims.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            holder_link: link(),
            end_link: durability.is_required().then(link),
            durability,
            end_bytes: Semaphore::new(MAX_END_BYTES),
            claim_link: link(),
            claims: Semaphore::new(max_claims),
            max_claims,
            waiting: AtomicUsize::new(0),
            max_waiting: bounds.waiting,
            listings: Semaphore::new(MAX_LISTINGS),
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

    /// What must have a write before it is confirmed.
    pub(super) const fn durability(&self) -> &Durability {
        &self.durability
    }

    pub(super) fn renewal(&self) -> Permit<'_> {
        self.permit(&self.holder_link, self.holder_link.deadline(), None)
    }

    /// A permit to end an attempt with an outcome of this many bytes.
    pub(super) async fn end(&self, bytes: usize) -> Result<Permit<'_>, StoreError> {
        let deadline = self.holder_link.deadline();
        let bytes = bytes.clamp(MIN_END_BYTES, MAX_END_BYTES);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = match self.end_bytes.try_acquire_many(bytes) {
            Ok(permit) => permit,
            Err(_) => {
                let permits = self.end_bytes.acquire_many(bytes);
                granted(Box::pin(timeout_at(deadline, permits)).await)?
            }
        };
        let link = match &self.end_link {
            Some(link) => link,
            None if bytes as usize <= MIN_END_BYTES && self.claims_are_few() => &self.claim_link,
            None => &self.holder_link,
        };
        Ok(self.permit(link, deadline, Some(permit)))
    }

    /// A permit to read a page of records.
    pub(super) async fn listing(
        &self,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>, StoreError> {
        granted(timeout_at(deadline, self.listings.acquire()).await)
    }

    fn claims_are_few(&self) -> bool {
        let under_way = self
            .max_claims
            .saturating_sub(self.claims.available_permits());
        under_way < MANY_CLAIMS && self.claim_link.answers_within(SILENCE)
    }

    /// A connection that the permit is not for.
    pub(super) fn other_link(&self, permit: &Permit<'_>) -> &Link {
        match std::ptr::eq(permit.link, &self.claim_link) {
            true => &self.holder_link,
            false => &self.claim_link,
        }
    }

    /// A permit to claim or to look. Half of a call's time is left for the call itself.
    pub(super) async fn claim(&self) -> Result<Permit<'_>, StoreError> {
        let (now, deadline) = (Instant::now(), self.claim_link.deadline());
        let permit = match self.claims.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = self.enter_queue()?;
                let until = now + (deadline - now) / 2;
                granted(Box::pin(timeout_at(until, self.claims.acquire())).await)?
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

    pub(super) async fn send(&self, command: &(impl Command + ?Sized)) -> Result<Value, CallError> {
        let deadline = self.deadline;
        self.link
            .call(deadline, async |connection| {
                connection.send(command, deadline).await
            })
            .await
    }

    /// Writes a record where there is none, and says what there is. If it has written, waits until
    /// the write is confirmed.
    pub(super) async fn set_if_absent(
        &self,
        key: Word<'_>,
        record: &[u8],
        millis: &Number,
    ) -> Result<Written, CallError> {
        let deadline = self.deadline;
        self.link
            .call(deadline, async |connection| {
                if self.is_durable() {
                    let is_absent = |answer: &Value| matches!(answer, Value::Nil);
                    let write = self.write_of(key, is_absent);
                    let set = set_if_absent(key, record, millis);
                    let written =
                        Box::pin(async move { connection.write(&set[..], &write, deadline).await });
                    return written.await;
                }
                let answer = connection.ask(&set_if_absent(key, record, millis)[..], deadline);
                Ok(Written {
                    answer: answer.await?.extract_error()?,
                    confirmation: Confirmation::Confirmed,
                })
            })
            .await
    }

    /// Runs a script on one record. If it has written, waits until the write is confirmed.
    pub(super) async fn run_writing(
        &self,
        call: &ScriptCall<'_>,
        has_written: fn(&Value) -> bool,
    ) -> Result<Written, CallError> {
        if self.is_durable() {
            return Box::pin(self.run_confirmed(call, has_written)).await;
        }
        Ok(Written {
            answer: self.run(call).await?,
            confirmation: Confirmation::Confirmed,
        })
    }

    async fn run_confirmed(
        &self,
        call: &ScriptCall<'_>,
        has_written: fn(&Value) -> bool,
    ) -> Result<Written, CallError> {
        let (write, deadline) = (self.write_of(call.key(), has_written), self.deadline);
        self.link
            .call(deadline, async |connection| {
                call.write(connection, &write, deadline).await
            })
            .await
    }

    const fn write_of<'w>(&'w self, key: Word<'w>, has_written: fn(&Value) -> bool) -> Write<'w> {
        Write {
            key,
            has_written,
            durability: self.durability,
        }
    }

    /// Runs a script on one record.
    pub(super) async fn run(&self, call: &ScriptCall<'_>) -> Result<Value, CallError> {
        let deadline = self.deadline;
        self.link
            .call(deadline, async |connection| {
                call.run(connection, deadline).await
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
