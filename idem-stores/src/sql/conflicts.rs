//! Statements that the server refused because of a concurrent one, and that are sent again.

use std::time::Duration;

use sqlx::Error;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;

/// Pauses before a statement is sent again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));

/// The conflicts of one statement.
#[derive(Debug, Default)]
pub(crate) struct Conflicts(u32);

impl Conflicts {
    /// Pauses after a conflict, within a call that has so much time in all.
    ///
    /// # Errors
    /// The error, if there is no time for another try.
    pub(crate) async fn pause(
        &mut self,
        error: Error,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), Error> {
        // If the next try were cut off, its effect would not be known.
        let enough = timeout / 4;
        if Instant::now() + enough >= deadline {
            return Err(error);
        }
        self.0 += 1;
        sleep(BACKOFF.after(self.0).mul_f64(rand::random())).await;
        Ok(())
    }
}
