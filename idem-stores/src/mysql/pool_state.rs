//! What this process knows of each of the application's pools: when expired records were last deleted
//! through it.
//!
//! It is kept for as long as the process runs: a pool cannot hold it, and a transaction knows only its
//! pool.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sqlx::MySqlPool;

use crate::database::database_id;
use crate::sql::sweeping::SweepsOnUse;

/// The most pools. With more, all are forgotten, and known anew.
const MAX_POOLS: usize = 1024;

type Pools = HashMap<Vec<u8>, Arc<SweepsOnUse>>;

static POOLS: LazyLock<Mutex<Pools>> = LazyLock::new(Mutex::default);

/// The bytes that tell a pool's database from every other.
pub(super) fn database_id_of(pool: &MySqlPool) -> Vec<u8> {
    let options = pool.connect_options();
    database_id(
        pool,
        (
            (options.get_host(), options.get_port()),
            options.get_socket(),
            (options.get_username(), options.get_database()),
        ),
    )
}

/// The sweeps through a pool.
pub(super) fn sweeps_of(pool: &MySqlPool) -> Arc<SweepsOnUse> {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if pools.len() >= MAX_POOLS {
        pools.clear();
    }
    Arc::clone(pools.entry(database_id_of(pool)).or_default())
}
