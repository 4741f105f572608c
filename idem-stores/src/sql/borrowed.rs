//! A connection that a call uses, and the pool that takes it back.

use std::sync::Arc;

use sqlx::{Database, Error};

use super::application_pool::{ApplicationConnection, ApplicationPool};
use super::gate::{Lane, Permit};
use super::pool::{Opener, Pool, PooledConnection};

/// Where connections come from.
pub(crate) enum Source<O: Opener, DB: Database> {
    Own(Arc<Pool<O>>),
    Application(Arc<ApplicationPool<DB>>),
}

impl<O: Opener, DB: Database> Source<O, DB> {
    pub(crate) async fn check_out(
        &self,
        lane: Lane,
        permit: Permit,
    ) -> Result<Borrowed<O, DB>, Error> {
        Ok(match self {
            Self::Own(pool) => Borrowed::Own(pool.check_out(permit).await?, Arc::clone(pool)),
            Self::Application(pool) => {
                Borrowed::Application(pool.check_out(lane).await?, permit, Arc::clone(pool))
            }
        })
    }
}

/// A connection, its permit, and the pool that takes it back.
pub(crate) enum Borrowed<O: Opener, DB: Database> {
    Own(PooledConnection<O::Connection>, Arc<Pool<O>>),
    Application(ApplicationConnection<DB>, Permit, Arc<ApplicationPool<DB>>),
}

impl<O: Opener, DB: Database> Borrowed<O, DB> {
    /// Gives back a connection that has just answered. Called within a runtime.
    pub(crate) fn check_in(self) {
        match self {
            Self::Own(pooled, pool) => pool.check_in(pooled),
            Self::Application(used, permit, pool) => {
                pool.check_in(used);
                drop(permit);
            }
        }
    }

    /// Closes the connection. Called within a runtime.
    pub(crate) fn discard(self) {
        match self {
            Self::Own(pooled, _) => drop(pooled),
            Self::Application(used, permit, pool) => {
                pool.discard(used);
                drop(permit);
            }
        }
    }
}
