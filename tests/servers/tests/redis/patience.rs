//! Waiting on machines that are busy with other things.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use idem::stores::redis::RedisStore;
use tokio::time::sleep;

/// How long anything here may take. It bounds a hang, and says nothing of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is `Ok`.
pub(crate) async fn eventually<T, E: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(seen) => assert!(
                start.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}, but: {seen:?}"
            ),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// For [`eventually`].
pub(crate) fn is(condition: bool) -> Result<(), &'static str> {
    condition.then_some(()).ok_or("not yet")
}

/// Connects, however slow the machine is.
pub(crate) async fn connect(url: &str, command_timeout: Duration) -> RedisStore {
    let start = Instant::now();
    loop {
        let builder = RedisStore::builder(url).unwrap();
        match builder.command_timeout(command_timeout).connect().await {
            Ok(store) => return store,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}
