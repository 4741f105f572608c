//! What this process knows of the application's pools that transactions were opened from: that
//! their databases are fit, which file each has, and who sweeps it. No pool is kept alive by it.

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
use super::file::{FileId, Found, Place, Replaced};
use super::statements;
use super::sweeping::{self, Pause, Sweeper};
use super::target::{Opened, Target};

/// By the bytes that tell a pool's database from every other.
static POOLS: LazyLock<Mutex<HashMap<Vec<u8>, Known>>> = LazyLock::new(Mutex::default);

struct Known {
    closed: CloseEvent,
    place: Place,
    /// What was there at the first transaction.
    file: Option<FileId>,
    /// Ends with the pool, or with the runtime of its first transaction.
    sweeping: Option<JoinHandle<()>>,
}

fn pools() -> MutexGuard<'static, HashMap<Vec<u8>, Known>> {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// Whether the pool is closed, or gone: another one may be where it was.
    fn is_closed(&mut self) -> bool {
        let closed = Pin::new(&mut self.closed);
        closed
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    fn sweeps_no_more(&self) -> bool {
        self.sweeping.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

/// Whether the pool has been looked at.
///
/// # Errors
/// When its file has been replaced since. What its connections write goes to one nobody knows.
pub(super) fn is_known(key: &[u8]) -> Result<bool, StoreError> {
    let mut pools = pools();
    let Some(known) = pools.get_mut(key) else {
        return Ok(false);
    };
    if known.is_closed() || known.sweeps_no_more() {
        pools.remove(key);
        return Ok(false);
    }
    match known.place.still_has(known.file) {
        Ok(()) => Ok(true),
        Err(_) => Err(Replaced::UnderAPool.into()),
    }
}

/// At the first transaction.
///
/// # Errors
/// When the database cannot keep what a transaction promises.
pub(super) fn look_at(
    pool: &SqlitePool,
    key: Vec<u8>,
    settings: &Settings,
    sweep_every: Pause,
) -> Result<(), StoreError> {
    let refused = |problem| StoreError::rejected(NAME, problem);
    settings.refuse_without_journal().map_err(refused)?;
    let mut pools = pools();
    // Of those that begin at once, the first.
    if pools.contains_key(&key) {
        return Ok(());
    }
    settings.warn();
    pools.retain(|_, known| !known.is_closed());
    let options = pool.connect_options();
    let place = Place::of(&options);
    let file = match place.found() {
        Found::File(file) => Some(file),
        Found::Nothing | Found::Unknown => None,
    };
    let known = Known {
        closed: pool.close_event(),
        place,
        file,
        // One in memory is swept by nobody: another connection would find another database.
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
            "the sqlite database is not swept from this process: there is no runtime; call SqliteStore::sweep now and then"
        );
        return None;
    };
    // Its own connection: the pool's may all be in transactions.
    let options = (*pool.connect_options()).clone().create_if_missing(false);
    let sweeper = PoolSweeper {
        target: Target::with(options),
        opened: None,
    };
    let closed = pool.close_event();
    Some(runtime.spawn(async move {
        tokio::select! {
            () = closed => {}
            () = sweeping::now_and_then(sweeper, every) => {}
        }
    }))
}

struct PoolSweeper {
    target: Target,
    /// While there is something to sweep.
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
