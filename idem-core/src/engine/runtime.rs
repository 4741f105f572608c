//! The runtime that a call is made in.

use std::cell::Cell;
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use crate::error::Error;

thread_local! {
    /// The last runtime that was looked at on this thread, and whether it has timers.
    static LAST: Cell<Option<(Id, bool)>> = const { Cell::new(None) };
}

/// The runtime that this is called in.
///
/// # Errors
/// When there is none, or one that cannot measure time: leases would not be renewed there.
pub(super) fn current() -> Result<Handle, Error> {
    let handle = Handle::try_current().map_err(|_| Error::NoRuntime)?;
    let id = handle.id();
    let has_timers = match LAST.get() {
        Some((known, has_timers)) if known == id => has_timers,
        _ => {
            let has_timers = has_timers();
            LAST.set(Some((id, has_timers)));
            has_timers
        }
    };
    has_timers.then_some(handle).ok_or(Error::NoTimers)
}

/// A runtime says so by a panic only, whose message goes to the panic hook, once for each thread.
fn has_timers() -> bool {
    std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_ok()
}
