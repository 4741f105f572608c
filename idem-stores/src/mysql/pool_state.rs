//! What this process knows of each of the application's pools: when expired records were last deleted
//! through it, and how much its server takes.
//!
//! It is kept for as long as the process runs: a pool cannot hold it, and a transaction knows only its
//! pool.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sqlx::MySqlPool;

use crate::database::database_id;
use crate::sql::sweeping::SweepsOnUse;

/// The most pools. With more, all are forgotten, and known anew.
const MAX_POOLS: usize = 1024;

type Pools = HashMap<Vec<u8>, Arc<PoolState>>;

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

#[derive(Default)]
pub(super) struct PoolState {
    pub(super) sweeps: Arc<SweepsOnUse>,
    /// 0: not known yet.
    max_message: AtomicUsize,
}

impl PoolState {
    pub(super) fn of(pool: &MySqlPool) -> Arc<Self> {
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= MAX_POOLS {
            pools.clear();
        }
        Arc::clone(pools.entry(database_id_of(pool)).or_default())
    }

    /// The largest message that the server takes, as far as is known.
    pub(super) fn max_message(&self) -> usize {
        match self.max_message.load(Ordering::Relaxed) {
            0 => usize::MAX,
            known => known,
        }
    }

    pub(super) fn set_max_message(&self, bytes: usize) {
        self.max_message.store(bytes, Ordering::Relaxed);
    }
}
