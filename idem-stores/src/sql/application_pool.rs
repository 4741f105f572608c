//! Connections of the application's pool. Some of them are reserved for lease holders: otherwise an
//! application that uses its whole pool, or has many calls waiting for it, would lose the leases of its
//! own handlers.
//!
//! Connections are reserved while leases are held: from the end of the call that made the first lease, until
//! no lease is held any more. They are connections of the pool, with all that the pool does to each new
//! one, such as setting its `search_path`.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use idem_core::Token;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Error, Pool};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::gate::Lane;

/// How long a connection is reserved. The pool may have reasons to replace it.
const MAX_RESERVED: Duration = Duration::from_secs(5 * 60);

/// The least time between two looks whether a lease is still held.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// With fewer leases, expired ones are not removed.
const MIN_PRUNED: usize = 64;

pub(crate) struct ApplicationPool<DB: Database> {
    pool: Pool<DB>,
    reserved_size: usize,
    reserve: Mutex<Reserve<DB>>,
    returned: Notify,
}

struct Reserve<DB: Database> {
    idle: Vec<Reserved<DB>>,
    /// How many connections are reserved, idle ones and those in use.
    count: usize,
    leases: HeldLeases,
    /// The runtime of the task that releases them, while it runs.
    releasing_on: Option<Handle>,
}

impl<DB: Database> Default for Reserve<DB> {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            count: 0,
            leases: HeldLeases::default(),
            releasing_on: None,
        }
    }
}

impl<DB: Database> Reserve<DB> {
    /// The idle connections, if no lease is held any more.
    fn take_unneeded(&mut self, now: Instant) -> Vec<Reserved<DB>> {
        if self.leases.are_held(now) {
            return Vec::new();
        }
        self.count -= self.idle.len();
        std::mem::take(&mut self.idle)
    }
}

struct Reserved<DB: Database> {
    connection: PoolConnection<DB>,
    since: Instant,
}

/// A connection of the pool that is in use.
pub(crate) struct ApplicationConnection<DB: Database> {
    pub(crate) connection: PoolConnection<DB>,
    /// Since when it is reserved, if it is.
    reserved: Option<Instant>,
}

/// How many connections of a pool of this size are reserved while leases are held.
pub(crate) const fn reserved_size(max_connections: usize) -> usize {
    match max_connections {
        0 | 1 => 0,
        2..8 => 1,
        _ => 2,
    }
}

impl<DB: Database> ApplicationPool<DB> {
    pub(crate) fn new(pool: Pool<DB>) -> Arc<Self> {
        Arc::new(Self {
            reserved_size: reserved_size(max_size(&pool)),
            pool,
            reserve: Mutex::default(),
            returned: Notify::new(),
        })
    }

    pub(crate) const fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    /// A connection of the pool. Lease holders get the first one that is free, reserved or not.
    pub(crate) async fn check_out(&self, lane: Lane) -> Result<ApplicationConnection<DB>, Error> {
        let unreserved = |connection| ApplicationConnection {
            connection,
            reserved: None,
        };
        if lane == Lane::Other || self.reserved_size == 0 {
            return self.pool.acquire().await.map(unreserved);
        }
        let mut acquiring = pin!(self.pool.acquire());
        loop {
            let returned = self.returned.notified();
            if let Some(reserved) = self.reserve().idle.pop() {
                return Ok(ApplicationConnection {
                    connection: reserved.connection,
                    reserved: Some(reserved.since),
                });
            }
            tokio::select! {
                biased;
                acquired = &mut acquiring => return acquired.map(unreserved),
                () = returned => {}
            }
        }
    }

    /// Takes back a connection that has just answered. Called within a runtime.
    pub(crate) fn check_in(self: &Arc<Self>, used: ApplicationConnection<DB>) {
        let now = Instant::now();
        let mut reserve = self.reserve();
        let is_wanted = match used.reserved {
            Some(since) => now.duration_since(since) < MAX_RESERVED,
            None => reserve.count < self.reserved_size,
        };
        if !is_wanted || !reserve.leases.are_held(now) || self.pool.is_closed() {
            reserve.count -= usize::from(used.reserved.is_some());
            drop(reserve);
            return;
        }
        reserve.count += usize::from(used.reserved.is_none());
        reserve.idle.push(Reserved {
            connection: used.connection,
            since: used.reserved.unwrap_or(now),
        });
        if reserve.releasing_on.is_none() {
            reserve.releasing_on = Some(Handle::current());
            let closed = self.pool.close_event();
            tokio::spawn(Self::release_when_unneeded(Arc::downgrade(self), closed));
        }
        drop(reserve);
        self.returned.notify_one();
    }

    /// Closes a broken connection.
    pub(crate) fn discard(&self, mut used: ApplicationConnection<DB>) {
        let mut reserve = self.reserve();
        reserve.count -= usize::from(used.reserved.is_some());
        // The idle ones may be broken, too.
        let older = std::mem::take(&mut reserve.idle);
        reserve.count -= older.len();
        drop(reserve);
        used.connection.close_on_drop();
        for mut reserved in older {
            reserved.connection.close_on_drop();
        }
    }

    /// Notes that a lease is held from now on, for this long at most.
    pub(crate) fn note_lease(&self, token: &Token, lease: Duration) {
        self.reserve().leases.hold(token, lease);
    }

    /// Notes that a lease has ended. Called within a runtime.
    pub(crate) fn note_lease_end(&self, token: &Token) {
        let mut reserve = self.reserve();
        reserve.leases.held.remove(token.as_bytes());
        let unneeded = reserve.take_unneeded(Instant::now());
        drop(reserve);
        drop(unneeded);
    }

    /// Releases the reserved connections when no lease is held any more, or the pool is closed, which
    /// waits for them.
    async fn release_when_unneeded(pool: Weak<Self>, closed: impl Future<Output = ()>) {
        let mut closed = pin!(closed);
        let mut is_closed = false;
        while let Some(pool) = pool.upgrade() {
            let now = Instant::now();
            let (unneeded, next) = {
                let mut reserve = pool.reserve();
                if is_closed {
                    reserve.leases.held.clear();
                }
                let unneeded = reserve.take_unneeded(now);
                if reserve.count == 0 {
                    reserve.releasing_on = None;
                    return;
                }
                (
                    unneeded,
                    reserve
                        .leases
                        .last
                        .unwrap_or(now)
                        .max(now + MIN_CHECK_INTERVAL),
                )
            };
            drop(unneeded);
            drop(pool);
            if is_closed {
                sleep_until(now + MIN_CHECK_INTERVAL).await;
                continue;
            }
            tokio::select! {
                () = &mut closed => is_closed = true,
                () = sleep_until(next) => {}
            }
        }
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve<DB>> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn max_size<DB: Database>(pool: &Pool<DB>) -> usize {
    usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX)
}

impl<DB: Database> Drop for ApplicationPool<DB> {
    fn drop(&mut self) {
        let reserve = self
            .reserve
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let idle = std::mem::take(&mut reserve.idle);
        // The last handle of a store may be dropped outside of the runtime. The driver's pool needs a
        // runtime, even one that has ended.
        let _context = reserve.releasing_on.as_ref().map(Handle::enter);
        drop(idle);
    }
}

/// The leases that are held, as far as this store knows.
#[derive(Default)]
struct HeldLeases {
    held: HashMap<[u8; 16], Instant>,
    /// When the last of them expires.
    last: Option<Instant>,
    /// Expired leases are removed when there are more than this.
    prune_above: usize,
}

impl HeldLeases {
    fn hold(&mut self, token: &Token, lease: Duration) {
        let now = Instant::now();
        let until = now.checked_add(lease).unwrap_or(now);
        self.held.insert(*token.as_bytes(), until);
        self.last = self.last.max(Some(until));
        // The end of some leases is never noted.
        if self.held.len() > self.prune_above.max(MIN_PRUNED) {
            self.held.retain(|_, until| *until > now);
            self.prune_above = self.held.len() * 2;
        }
    }

    fn are_held(&mut self, now: Instant) -> bool {
        if self.last.is_none_or(|last| last <= now) {
            self.held.clear();
        }
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn leases_whose_end_is_never_noted_expire() {
        let mut leases = HeldLeases::default();
        let tokens: Vec<_> = (0..10).map(|_| Token::random()).collect();
        for token in &tokens {
            leases.hold(token, Duration::from_secs(30));
        }
        for token in &tokens[1..] {
            leases.held.remove(token.as_bytes());
        }
        assert!(leases.are_held(Instant::now()));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(!leases.are_held(Instant::now()));
        // There are never many more than are held.
        for _ in 0..10_000 {
            leases.hold(&Token::random(), Duration::from_millis(1));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(leases.held.len() <= 2 * MIN_PRUNED, "{}", leases.held.len());
    }

    #[test]
    fn small_pools_keep_less_aside() {
        let reserved: Vec<_> = [1, 2, 7, 8, 100].map(reserved_size).into();
        assert_eq!(reserved, [0, 1, 1, 2, 2]);
    }
}
