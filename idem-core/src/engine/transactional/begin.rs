//! The claim that begins a transaction.

use std::time::Duration;

use crate::call::Call;
use crate::engine::Engine;
use crate::observe;
use crate::record::Claim;
use crate::store::StoreError;
use crate::transactional::{BegunTransaction, Transactional};

/// Pauses of a call that waits for another process's transaction: nobody announces its end.
pub(super) const FIRST_POLL: Duration = Duration::from_millis(5);
pub(super) const LAST_POLL: Duration = Duration::from_millis(250);

/// Begins, and once more after a transient failure: nothing has happened.
pub(super) async fn begin<D: Transactional>(
    engine: &Engine,
    call: &Call,
    database: &D,
    claim: &Claim,
) -> Result<BegunTransaction<D::Transaction>, StoreError> {
    let tries = async {
        match database.begin(claim).await {
            Err(error) if error.is_transient() => {
                observe::store_failed(&call.operation, "begin", &error);
                database.begin(claim).await
            }
            answer => answer,
        }
    };
    engine
        .database_call(database.name(), &call.operation, "begin", tries)
        .await
}
