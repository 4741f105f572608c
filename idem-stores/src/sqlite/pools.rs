//! What this process knows of the application's pools that transactions were opened from: that the
//! database can be used, its file, and the task that sweeps it. It keeps no pool alive.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use idem_core::StoreError;
use sqlx::SqlitePool;
use sqlx::pool::CloseEvent;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::warn;

use super::NAME;
use super::checks::Settings;
use super::errors::OpenError;
use super::file::{FileId, Found, Location, Replaced};
use super::statements;
use super::sweeping::{self, SweepInterval, Sweeper};
use super::target::{Opened, Target};

/// By the id of the database.
static POOLS: LazyLock<Mutex<HashMap<Vec<u8>, KnownPool>>> = LazyLock::new(Mutex::default);

struct KnownPool {
    closed: CloseEvent,
    location: Location,
    /// The file at the first transaction.
    file: Option<FileId>,
    /// The task that sweeps. It ends with the pool, or with the runtime of its first transaction.
    sweeping: Option<JoinHandle<()>>,
}

fn pools() -> MutexGuard<'static, HashMap<Vec<u8>, KnownPool>> {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KnownPool {
    /// Whether the pool is closed or dropped. Another one may have its id then.
    fn is_closed(&mut self) -> bool {
        let closed = Pin::new(&mut self.closed);
        closed
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    fn has_stopped_sweeping(&self) -> bool {
        self.sweeping.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

/// Whether the pool has been inspected.
///
/// # Errors
/// When its file was replaced since. It is not known then which file its connections write to.
pub(super) fn is_known(key: &[u8]) -> Result<bool, StoreError> {
    let mut pools = pools();
    let Some(known) = pools.get_mut(key) else {
        return Ok(false);
    };
    if known.is_closed() || known.has_stopped_sweeping() {
        pools.remove(key);
        return Ok(false);
    }
    match known.location.check_in_place(known.file) {
        Ok(()) => Ok(true),
        Err(_) => Err(Replaced::UnderAPool.into()),
    }
}

/// Inspects a pool, at its first transaction.
///
/// # Errors
/// When the database cannot keep what a transaction promises.
pub(super) fn inspect(
    pool: &SqlitePool,
    key: Vec<u8>,
    settings: &Settings,
    sweep_every: SweepInterval,
) -> Result<(), StoreError> {
    let refused = |problem| StoreError::rejected(NAME, problem);
    settings.refuse_without_journal().map_err(refused)?;
    let mut pools = pools();
    // Of concurrent transactions the first one inspects.
    if pools.contains_key(&key) {
        return Ok(());
    }
    settings.warn();
    pools.retain(|_, known| !known.is_closed());
    let options = pool.connect_options();
    let location = Location::of(&options);
    let file = match location.found() {
        Found::File(file) => Some(file),
        Found::Nothing | Found::Unknown => None,
    };
    let known = KnownPool {
        closed: pool.close_event(),
        location,
        file,
        // A database in memory is not swept: another connection would open another database.
        sweeping: sweep_every
            .filter(|_| settings.has_a_file())
            .and_then(|every| sweep(pool, every)),
    };
    pools.insert(key, known);
    Ok(())
}

/// Sweeps on this runtime, as long as the pool is open.
fn sweep(pool: &SqlitePool, every: Duration) -> Option<JoinHandle<()>> {
    let Ok(runtime) = Handle::try_current() else {
        warn!(
            target: "idem",
            "the sqlite database is not swept from this process: there is no runtime; call SqliteStore::sweep regularly"
        );
        return None;
    };
    // On a connection of its own: the pool's may all be in transactions.
    let options = (*pool.connect_options()).clone().create_if_missing(false);
    let sweeper = PoolSweeper {
        target: Target::from_options(options),
        opened: None,
    };
    let closed = pool.close_event();
    Some(runtime.spawn(async move {
        tokio::select! {
            () = closed => {}
            () = sweeping::sweep_periodically(sweeper, every) => {}
        }
    }))
}

struct PoolSweeper {
    target: Target,
    /// `Some` while there are records to sweep.
    opened: Option<Opened>,
}

impl PoolSweeper {
    async fn batch(&mut self, batch: u32) -> Result<u64, OpenError> {
        let opened = match &mut self.opened {
            Some(opened) => opened,
            none => none.insert(self.target.open().await?),
        };
        Ok(statements::sweep(&mut opened.connection, batch).await?)
    }
}

impl Sweeper for PoolSweeper {
    async fn sweep(&mut self, batch: u32) -> Option<Result<u64, StoreError>> {
        let swept = self.batch(batch).await;
        if !matches!(swept, Ok(1..)) {
            self.opened = None;
        }
        Some(swept.map_err(StoreError::from))
    }
}
