//! What a store has not taken yet: ends of attempts, and claims that may still be on their way.
//! Both are seen to in the background, bounded in number and bytes; at the bound new claims are
//! refused unsent.

use std::fmt;
use std::iter::successors;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use super::activity::Ongoing;
use super::backoff::Backoff;
use super::handle::Engine;
use super::settlement::Settlement;
use crate::attempt::after;
use crate::call::Call;
use crate::observer::EventKind;
use crate::record::{Change, Lease, OnCrash};
use crate::store::StoreError;

/// Pauses between tries: doubled from the first to the last. The last is longer where the store
/// refuses, which takes somebody to set right.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE_REFUSED: Duration = Duration::from_secs(30);

/// How long a call may still be on its way after its store has answered another one: what lies in
/// the buffers of a connection when a server that was paused goes on.
const LATE_CALL_WINDOW: Duration = Duration::from_secs(5);

/// The same where a crash refuses, and what arrives later would be a crash for somebody to resolve:
/// a lease, but no longer than this, because a shutdown waits for it.
const LONGEST_LATE_CALL_WINDOW: Duration = Duration::from_secs(60);

/// When a late call is looked for, after the store's first answer. The last look is at the window's
/// end.
fn looks(window: Duration) -> impl Iterator<Item = Duration> {
    let first = [Duration::from_millis(500), Duration::from_secs(2)];
    let later = successors(Some(LATE_CALL_WINDOW), |look| Some(*look * 2));
    let before_the_last = first.into_iter().chain(later);
    let before_the_last = before_the_last.take_while(move |look| *look < window);
    before_the_last.chain([window])
}

/// One end or claim that is unsettled, until this is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    engine: Engine,
    bytes: usize,
    _ongoing: Ongoing,
}

impl Entry {
    pub(super) fn new(engine: &Engine, settlement: &Settlement) -> Self {
        let bytes = match settlement {
            Settlement::Complete(bytes) | Settlement::Suspend(bytes) => bytes.len(),
            Settlement::Release | Settlement::Abandon => 0,
        };
        let unsettled = &engine.inner.unsettled;
        unsettled.attempts.fetch_add(1, Ordering::AcqRel);
        unsettled.bytes.fetch_add(bytes, Ordering::AcqRel);
        Self {
            engine: engine.clone(),
            bytes,
            _ongoing: engine.inner.activity.begin(),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let unsettled = &self.engine.inner.unsettled;
        unsettled.attempts.fetch_sub(1, Ordering::AcqRel);
        unsettled.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Engine {
    /// # Errors
    /// When so much is unsettled that nothing new may be claimed.
    pub(super) fn refuse_where_too_much_is_unsettled(&self) -> Result<(), StoreError> {
        match self.inner.unsettled.is_full() {
            true => Err(StoreError::not_sent(self.store().name(), TooMuchUnsettled)),
            false => Ok(()),
        }
    }

    /// Offers the end of an attempt to the store until it takes it, or until the given time and one
    /// last try. Repeating is safe: only the token's holder changes the record.
    pub(super) async fn settle_until(
        &self,
        call: &Call,
        lease: impl Fn() -> Lease,
        settlement: &Settlement,
        until: Instant,
    ) -> Option<Change> {
        let mut backoff = Backoff::new(FIRST_PAUSE);
        loop {
            let last = Instant::now() >= until;
            let lease = lease();
            let longest = match in_background(self, self.settle(call, &lease, settlement)).await {
                Ok(change) => return Some(change),
                Err(_) if last => return None,
                Err(error) => {
                    self.tell(
                        call,
                        EventKind::ChangeRetried {
                            change: settlement.as_str(),
                        },
                    );
                    longest_pause(&error)
                }
            };
            sleep_until(after(backoff.pause(longest)).min(until)).await;
        }
    }

    /// Undoes in the background what a call of this lease's token does that was not answered and may still
    /// be on its way, whenever it arrives: until the store has answered for as long as a call can be
    /// late. Under [`OnCrash::Refuse`] that is however long the store is away, and a lease longer,
    /// because a claim that arrives then would be a crash for somebody to resolve; else it is for a
    /// lease at most, after which nothing is left to undo.
    ///
    /// `once` says that one such call is on its way at most, and is done with when it was undone.
    pub(super) fn undo_late_calls(
        &self,
        runtime: &Handle,
        call: &Call,
        lease: Lease,
        settlement: Settlement,
        once: bool,
    ) {
        let entry = Entry::new(self, &settlement);
        let call = call.clone();
        let lease_time = call.policy.lease;
        let (until, window) = match call.policy.on_crash {
            OnCrash::Refuse => {
                let window = lease_time.clamp(LATE_CALL_WINDOW, LONGEST_LATE_CALL_WINDOW);
                (None, window)
            }
            _ => (Some(after(lease_time)), LATE_CALL_WINDOW),
        };
        runtime.spawn(async move {
            let engine = &entry.engine;
            let mut answering_since = None;
            let mut due = looks(window);
            let mut backoff = Backoff::new(FIRST_PAUSE);
            loop {
                let undone = engine.settle(&call, &lease, &settlement);
                let next = match in_background(engine, undone).await {
                    Ok(Change::Applied) if once => return,
                    Ok(_) => {
                        let since = *answering_since.get_or_insert_with(Instant::now);
                        match due.next() {
                            Some(look) => since + look,
                            None => return,
                        }
                    }
                    // What is late may be later still.
                    Err(error) => {
                        answering_since = None;
                        due = looks(window);
                        after(backoff.pause(longest_pause(&error)))
                    }
                };
                if until.is_some_and(|until| next > until && answering_since.is_none()) {
                    return;
                }
                sleep_until(next).await;
            }
        });
    }
}

/// A call whose caller is not waiting: a few at once.
async fn in_background<T>(engine: &Engine, call: impl Future<Output = T>) -> T {
    // Never closed.
    let _permit = engine.inner.unsettled.calls.acquire().await;
    call.await
}

fn longest_pause(error: &StoreError) -> Duration {
    match error.is_lasting() {
        true => LAST_PAUSE_REFUSED,
        false => LAST_PAUSE,
    }
}

/// Too many attempts have ended whose ends the store has not taken.
#[derive(Debug)]
struct TooMuchUnsettled;

impl fmt::Display for TooMuchUnsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the store has not taken the ends of so many earlier attempts that nothing new is claimed",
        )
    }
}

impl std::error::Error for TooMuchUnsettled {}
