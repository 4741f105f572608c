//! An operation of a library, for tests of what the linker takes along: nobody calls it.

use idem::{Error, idempotent};

/// Gives its key back.
///
/// # Errors
/// As any idempotent call.
#[idempotent(key = id, ttl = "1h", name = "idem_tests.settle")]
pub async fn settle(id: u8) -> Result<u8, Error> {
    Ok(id)
}
