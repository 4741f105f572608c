//! Work that its caller cannot stop by going away.

use std::future::Future;

use tracing::Instrument;

use crate::caller::Caller;
use crate::engine::panic_of;

/// Runs the future on a task of its own, at once: dropping what is returned, as a server does when
/// a client hangs up, does not stop a body that has begun.
///
/// A call whose body has not begun ends with its caller: it neither waits any longer for another's
/// attempt, nor runs. On its task it is refused as [in flight](crate::Error::InFlight). Whatever else
/// the future does goes on.
///
/// An idempotent function runs on its caller's task, so that its arguments may borrow. Where that
/// task ends with a connection, the body would end with it, in the middle of its work, and the
/// attempt would count as crashed. Detached, it goes on, and its outcome is stored.
///
/// ```
/// # use idem_core::Error;
/// # async fn create(key: String) -> Result<(), Error> { Ok(drop(key)) }
/// # async fn example(key: String) -> Result<(), Error> {
/// idem_core::detached(create(key)).await
/// # }
/// ```
///
/// The task inherits the caller's tracing span, and no task-local value. A panic is resumed where
/// the returned future is awaited.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn detached<F>(future: F) -> impl Future<Output = F::Output> + Send + use<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    let (waiting, caller) = Caller::new();
    let running = tokio::spawn(caller.scope(future).in_current_span());
    async move {
        let ended = running.await;
        drop(waiting);
        match ended {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(panic_of(error)),
        }
    }
}
