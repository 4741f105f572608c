//! What the suite needs to know of a store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::store::Store;

/// What the suite needs to know of a store.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A handle onto the same storage each time, so that two handles act as two processes:
    /// for a server, two clients.
    async fn store(&self) -> Arc<dyn Store>;

    /// Lets at least `by` pass on the store's clock. More does no harm.
    async fn advance(&self, by: Duration);

    /// The shortest lease and retention the cases use, above zero. They never need an
    /// operation to happen within it: what has to stay alive is held ten thousand times as
    /// long. With real time each run of the suite sleeps for about ten of it; below a few
    /// times the store's own resolution it is too short.
    fn lease(&self) -> Duration;

    /// Whether a [`Watch`](crate::Watch) of this store wakes by itself. `false` for a store
    /// whose waiters only poll.
    fn notifies(&self) -> bool;

    /// Whether a listing shows no record twice, also while records come and go. `false` for a store
    /// that cannot promise it.
    fn lists_each_once(&self) -> bool {
        true
    }

    /// Whether a claim that is sent again may have its lease from then on. `true` for a store that
    /// writes a lease anew where a slow answer does not prove that it lasts long enough.
    fn claims_again_may_renew(&self) -> bool {
        false
    }
}
