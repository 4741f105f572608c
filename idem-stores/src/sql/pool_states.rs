//! What this process knows of each of the application's pools.
//!
//! It is kept for as long as the process runs: a pool cannot hold it, and a transaction knows only its
//! pool.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// The most pools. With more, all are forgotten, and known anew.
const MAX_POOLS: usize = 1024;

pub(crate) struct PoolStates<T>(LazyLock<Mutex<HashMap<Vec<u8>, Arc<T>>>>);

impl<T: Default> PoolStates<T> {
    pub(crate) const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// That of a pool's database; see [`database_id`](crate::database::database_id).
    pub(crate) fn of(&self, database: Vec<u8>) -> Arc<T> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= MAX_POOLS {
            pools.clear();
        }
        Arc::clone(pools.entry(database).or_default())
    }
}
