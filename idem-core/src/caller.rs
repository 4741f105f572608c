//! Whether anybody still waits for a call that goes on a task of its own.
//!
//! Such a task outlives the client that it works for, because a body that has begun goes on. A call
//! whose body has not begun is of no use to anybody then, and ends.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Nothing has begun, and somebody waits.
const WAITING: u8 = 0;
/// A body has begun: it goes on, whoever goes.
const BEGUN: u8 = 1;
/// Nothing had begun when the last one who waited went.
const GONE: u8 = 2;

tokio::task_local! {
    static CALLER: Caller;
}

/// Who waits for the work of a task, as that task knows it.
#[derive(Clone, Debug)]
#[doc(hidden)]
pub struct Caller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    went: Notify,
}

/// Held by who waits for the work. Dropped, they have gone.
#[derive(Debug)]
#[doc(hidden)]
#[must_use = "who drops it has gone"]
pub struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if swap(&self.0.state, GONE) {
            self.0.went.notify_waiters();
        }
    }
}

fn swap(state: &AtomicU8, to: u8) -> bool {
    state
        .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

impl Caller {
    /// The two sides of a call that goes to a task of its own.
    pub fn new() -> (Waiting, Self) {
        let shared = Arc::new(Shared {
            state: AtomicU8::new(WAITING),
            went: Notify::new(),
        });
        (Waiting(Arc::clone(&shared)), Self(shared))
    }

    /// Runs the task's work.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CALLER.scope(self, work).await
    }

    fn has_gone(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == GONE
    }

    async fn went(&self) {
        let went = self.0.went.notified();
        tokio::pin!(went);
        // Registered before the look, so that nobody goes between the two.
        went.as_mut().enable();
        if !self.has_gone() {
            went.await;
        }
    }

    /// Resolves when nobody waits any more for a call on this task that has not begun. Never, where
    /// the caller's own task runs the call: it is dropped with its caller.
    pub async fn gone() {
        match CALLER.try_with(Self::clone) {
            Ok(caller) => caller.went().await,
            Err(_) => std::future::pending().await,
        }
    }

    /// A body begins now: it goes on, whoever goes. `false` says that nobody waits for it, and that
    /// it must not begin.
    pub fn begin() -> bool {
        CALLER
            .try_with(|caller| swap(&caller.0.state, BEGUN) || !caller.has_gone())
            .unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_goes_stops_nothing_that_has_begun() {
        let (waiting, caller) = Caller::new();
        let work = async {
            assert!(Caller::begin());
            drop(waiting);
            // A call within the body goes on as well.
            assert!(Caller::begin());
            tokio::select! {
                biased;
                () = Caller::gone() => panic!("it has begun"),
                () = std::future::ready(()) => {}
            }
        };
        caller.scope(work).await;
    }

    #[tokio::test]
    async fn who_goes_before_ends_the_call() {
        let (waiting, caller) = Caller::new();
        let (before, after) = (caller.clone(), caller);
        let waits = tokio::spawn(before.scope(Caller::gone()));
        tokio::task::yield_now().await;
        drop(waiting);
        waits.await.unwrap();
        after.scope(async { assert!(!Caller::begin()) }).await;
    }
}
