//! Connections of the application's pool, and those of them that are kept aside for who holds a
//! lease: an application that uses all of its pool, or waits for it in a crowd, would otherwise let
//! the leases of its own handlers run out.
//!
//! A connection is kept aside from the call on that has made the first lease, and goes back when
//! none is held any more. What the pool does with each of its connections, to their `search_path`
//! say, was done with these, too.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use idem_core::Token;
use sqlx::pool::PoolConnection;
use sqlx::{Error, PgPool, Postgres};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::gate::Lane;

/// How long one connection is kept aside: the pool may have reasons to replace it.
const LONGEST_ASIDE: Duration = Duration::from_secs(5 * 60);

/// How often it is looked whether a lease is still held, at most.
const LOOK: Duration = Duration::from_millis(100);

/// How many leases there are at least before those that are over are looked for.
const FEW: usize = 64;

pub(super) struct Shared {
    pool: PgPool,
    keeps: usize,
    aside: Mutex<Aside>,
    returned: Notify,
}

#[derive(Default)]
struct Aside {
    idle: Vec<Kept>,
    /// Those that are kept aside, lent ones counted.
    count: usize,
    leases: Leases,
    /// The runtime of the task that looks after them, while there is one.
    watched: Option<Handle>,
}

impl Aside {
    /// Those that rest while no lease is held, which are kept no longer.
    fn rested_in_vain(&mut self, now: Instant) -> Vec<Kept> {
        if self.leases.are_held(now) {
            return Vec::new();
        }
        self.count -= self.idle.len();
        std::mem::take(&mut self.idle)
    }
}

struct Kept {
    connection: PoolConnection<Postgres>,
    since: Instant,
}

/// A connection of the pool's on loan.
pub(super) struct Lent {
    pub(super) connection: PoolConnection<Postgres>,
    /// Since when it is one of those that are kept aside.
    kept: Option<Instant>,
}

/// How many connections of a pool of this size are kept aside while leases are held.
pub(super) const fn kept_of(max_connections: usize) -> usize {
    match max_connections {
        0 | 1 => 0,
        2..8 => 1,
        _ => 2,
    }
}

impl Shared {
    pub(super) fn new(pool: PgPool) -> Arc<Self> {
        Arc::new(Self {
            keeps: kept_of(size_of(&pool)),
            pool,
            aside: Mutex::default(),
            returned: Notify::new(),
        })
    }

    pub(super) const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection of the pool's. Holders have the first that is free of those that are kept
    /// aside and those that are not.
    pub(super) async fn take(&self, lane: Lane) -> Result<Lent, Error> {
        let of_the_pool = |connection| Lent {
            connection,
            kept: None,
        };
        if lane == Lane::Other || self.keeps == 0 {
            return self.pool.acquire().await.map(of_the_pool);
        }
        let mut acquiring = pin!(self.pool.acquire());
        loop {
            let returned = self.returned.notified();
            if let Some(kept) = self.aside().idle.pop() {
                return Ok(Lent {
                    connection: kept.connection,
                    kept: Some(kept.since),
                });
            }
            tokio::select! {
                biased;
                acquired = &mut acquiring => return acquired.map(of_the_pool),
                () = returned => {}
            }
        }
    }

    /// Takes back a connection that has just answered. Called within a runtime.
    pub(super) fn give_back(self: &Arc<Self>, lent: Lent) {
        let now = Instant::now();
        let mut aside = self.aside();
        let is_wanted = match lent.kept {
            Some(since) => now.duration_since(since) < LONGEST_ASIDE,
            None => aside.count < self.keeps,
        };
        if !is_wanted || !aside.leases.are_held(now) || self.pool.is_closed() {
            aside.count -= usize::from(lent.kept.is_some());
            drop(aside);
            return;
        }
        aside.count += usize::from(lent.kept.is_none());
        aside.idle.push(Kept {
            connection: lent.connection,
            since: lent.kept.unwrap_or(now),
        });
        if aside.watched.is_none() {
            aside.watched = Some(Handle::current());
            let closed = self.pool.close_event();
            tokio::spawn(Self::watch(Arc::downgrade(self), closed));
        }
        drop(aside);
        self.returned.notify_one();
    }

    /// Closes a connection that is of no use any more.
    pub(super) fn discard(&self, mut lent: Lent) {
        let mut aside = self.aside();
        aside.count -= usize::from(lent.kept.is_some());
        // Those that rest may be as bad.
        let doubted = std::mem::take(&mut aside.idle);
        aside.count -= doubted.len();
        drop(aside);
        lent.connection.close_on_drop();
        for mut kept in doubted {
            kept.connection.close_on_drop();
        }
    }

    /// A lease is held for so long from now, unless it ends before.
    pub(super) fn holds(&self, token: &Token, lease: Duration) {
        self.aside().leases.hold(token, lease);
    }

    /// A lease is held no more. Called within a runtime.
    pub(super) fn has_ended(&self, token: &Token) {
        let mut aside = self.aside();
        aside.leases.held.remove(token.as_bytes());
        let rested = aside.rested_in_vain(Instant::now());
        drop(aside);
        drop(rested);
    }

    /// Gives those that are kept aside back when no lease is held any more, and when the pool is
    /// closed, which waits for them.
    async fn watch(shared: Weak<Self>, closed: impl Future<Output = ()>) {
        let mut closed = pin!(closed);
        let mut is_closed = false;
        while let Some(shared) = shared.upgrade() {
            let now = Instant::now();
            let (rested, next) = {
                let mut aside = shared.aside();
                if is_closed {
                    aside.leases.held.clear();
                }
                let rested = aside.rested_in_vain(now);
                if aside.count == 0 {
                    aside.watched = None;
                    return;
                }
                (rested, aside.leases.last.unwrap_or(now).max(now + LOOK))
            };
            drop(rested);
            drop(shared);
            if is_closed {
                sleep_until(now + LOOK).await;
                continue;
            }
            tokio::select! {
                () = &mut closed => is_closed = true,
                () = sleep_until(next) => {}
            }
        }
    }

    fn aside(&self) -> MutexGuard<'_, Aside> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn size_of(pool: &PgPool) -> usize {
    usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX)
}

impl Drop for Shared {
    fn drop(&mut self) {
        let aside = self.aside.get_mut().unwrap_or_else(PoisonError::into_inner);
        let idle = std::mem::take(&mut aside.idle);
        // Whoever drops the last of a store need not be on the runtime, which the driver's pool
        // needs, also where it is gone.
        let _context = aside.watched.as_ref().map(Handle::enter);
        drop(idle);
    }
}

/// The leases that are held, as far as this store knows.
#[derive(Default)]
struct Leases {
    held: HashMap<[u8; 16], Instant>,
    /// None is held any more then.
    last: Option<Instant>,
    /// How many there may be before they are looked through.
    many: usize,
}

impl Leases {
    fn hold(&mut self, token: &Token, lease: Duration) {
        let now = Instant::now();
        let until = now.checked_add(lease).unwrap_or(now);
        self.held.insert(*token.as_bytes(), until);
        self.last = self.last.max(Some(until));
        // The end of some is never heard of.
        if self.held.len() > self.many.max(FEW) {
            self.held.retain(|_, until| *until > now);
            self.many = self.held.len() * 2;
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
    async fn leases_whose_end_is_never_heard_of_are_over_in_the_end() {
        let mut leases = Leases::default();
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
        // And there are never many more than are held.
        for _ in 0..10_000 {
            leases.hold(&Token::random(), Duration::from_millis(1));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(leases.held.len() <= 2 * FEW, "{}", leases.held.len());
    }

    #[test]
    fn small_pools_keep_less_aside() {
        let kept: Vec<_> = [1, 2, 7, 8, 100].map(kept_of).into();
        assert_eq!(kept, [0, 1, 1, 2, 2]);
    }
}
