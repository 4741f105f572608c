//! Who goes first: whoever holds a lease. Knows nothing of records.
//!
//! | calls | connection | at once | when there are more |
//! |---|---|---|---|
//! | renewals | the holders' | as many as there are leases | – |
//! | completions, releases, abandonments | the holders' | 4 MiB, so that a renewal behind them is in time | wait in line |
//! | claims, inspections, watches | the claims' | [`DEFAULT_CLAIMS`] | so many wait in line as is set, the next is refused |
//!
//! Where writes wait for replicas the ends have a connection of their own, so that a renewal waits
//! for nobody. Who is refused, or waits in line until its time is over, has sent nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use idem_core::StoreError;
use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::connection::{Link, Write, Written};
use super::durability::Durability;
use super::errors::CallError;
use super::scripts::Script;
use super::target::Target;

/// How many claims are under way at once. Enough for a server that is 5 ms away to be asked fifty
/// thousand times a second.
pub(super) const DEFAULT_CLAIMS: usize = 256;

/// How many claims wait for their turn. A server that answers ten thousand a second has them done in
/// 0.4 s, well within the time of a call.
pub(super) const DEFAULT_WAITING: usize = 4096;

/// How many bytes of ends are under way at once, and what each counts for at least.
const END_BYTES: usize = 4 * 1024 * 1024;
const LEAST_END_BYTES: usize = 16 * 1024;

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
    holders: Link,
    /// The connection of ends, where it is not the holders'.
    enders: Option<Link>,
    /// Bytes of ends that may still be sent.
    ends: Semaphore,
    claims: Link,
    turns: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
    durability: Durability,
}

impl Lanes {
    pub(super) fn new(target: &Arc<Target>, bounds: Bounds, durability: Durability) -> Self {
        let link = || Link::new(Arc::clone(target));
        Self {
            holders: link(),
            enders: durability.is_asked().then(link),
            durability,
            ends: Semaphore::new(END_BYTES),
            claims: link(),
            turns: Semaphore::new(bounds.claims.clamp(1, Semaphore::MAX_PERMITS)),
            waiting: AtomicUsize::new(0),
            max_waiting: bounds.waiting,
        }
    }

    /// Opens the connections.
    pub(super) async fn open(&self) -> Result<(), CallError> {
        let enders = async {
            match &self.enders {
                Some(enders) => enders.open().await,
                None => Ok(()),
            }
        };
        tokio::try_join!(self.claims.open(), self.holders.open(), enders).map(drop)
    }

    /// The connection of claims, for what is asked once.
    pub(super) const fn claims(&self) -> &Link {
        &self.claims
    }

    pub(super) fn renewal(&self) -> Turn<'_> {
        self.turn(&self.holders, self.holders.deadline(), None)
    }

    /// A turn to end an attempt with an outcome of so many bytes.
    pub(super) async fn end(&self, bytes: usize) -> Result<Turn<'_>, StoreError> {
        let link = self.enders.as_ref().unwrap_or(&self.holders);
        let deadline = link.deadline();
        let bytes = bytes.clamp(LEAST_END_BYTES, END_BYTES);
        let permits = self
            .ends
            .acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX));
        let permit = granted(timeout_at(deadline, permits).await)?;
        Ok(self.turn(link, deadline, Some(permit)))
    }

    /// A turn to claim or to look. Half of a call's time is left for the call itself.
    pub(super) async fn claim(&self) -> Result<Turn<'_>, StoreError> {
        let (now, deadline) = (Instant::now(), self.claims.deadline());
        let permit = match self.turns.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = self.wait_in_line()?;
                let until = now + (deadline - now) / 2;
                granted(timeout_at(until, self.turns.acquire()).await)?
            }
        };
        Ok(self.turn(&self.claims, deadline, Some(permit)))
    }

    const fn turn<'a>(
        &'a self,
        link: &'a Link,
        deadline: Instant,
        permit: Option<SemaphorePermit<'a>>,
    ) -> Turn<'a> {
        Turn {
            link,
            deadline,
            durability: &self.durability,
            _permit: permit,
        }
    }

    fn wait_in_line(&self) -> Result<Place<'_>, StoreError> {
        let entered = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < self.max_waiting).then_some(waiting + 1)
            });
        match entered {
            Ok(_) => Ok(Place(&self.waiting)),
            Err(_) => Err(StoreError::Overloaded { store: NAME }),
        }
    }
}

/// A place in the line, until this is dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn granted<'a, E, F>(
    waited: Result<Result<SemaphorePermit<'a>, E>, F>,
) -> Result<SemaphorePermit<'a>, StoreError> {
    match waited {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(StoreError::not_sent(NAME, NoTurn)),
    }
}

/// The right to use a connection, until a call's time is over.
pub(super) struct Turn<'a> {
    link: &'a Link,
    deadline: Instant,
    durability: &'a Durability,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Turn<'_> {
    /// Whether writes wait for replicas or files.
    pub(super) const fn is_durable(&self) -> bool {
        self.durability.is_asked()
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, CallError> {
        self.link
            .call(self.deadline, async |connection| {
                connection.send(command).await
            })
            .await
    }

    /// Sends a command, and where it has written, waits until everybody has it.
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

    /// Runs a script on one record, and where it has written, waits until everybody has it.
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
struct NoTurn;

impl fmt::Display for NoTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it waited for its turn until its time was over")
    }
}

impl std::error::Error for NoTurn {}
