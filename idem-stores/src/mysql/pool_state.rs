//! What this process knows of each of the application's pools: when expired records were last deleted
//! through it, how much its server takes, and which of its sessions are in an attempt's transaction that
//! the server may end by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use idem_core::Watch;
use sqlx::{Error, MySqlPool};

use super::message::{Message, number};
use crate::database::database_id;
use crate::sql::ended_sessions::{EndedSessions, Sessions};
use crate::sql::goes_on::GoesOn;
use crate::sql::pool_states::PoolStates;
use crate::sql::sweeping::SweepsOnUse;

static POOLS: PoolStates<PoolState> = PoolStates::new();

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
    sessions: Arc<EndedSessions<i64>>,
    /// 0: not known yet.
    max_message: AtomicUsize,
}

impl PoolState {
    pub(super) fn of(pool: &MySqlPool) -> Arc<Self> {
        POOLS.of(database_id_of(pool))
    }

    /// Resolves when the server has ended the session.
    pub(super) fn session_ended(&self, pool: &MySqlPool, session: i64, limit: Duration) -> Watch {
        self.sessions.watch(pool.clone(), session, limit)
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

impl Sessions for MySqlPool {
    /// Its number.
    type Session = i64;

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }

    async fn find_living(&self, sessions: &[i64]) -> Result<Vec<i64>, Error> {
        let numbers: Vec<_> = sessions.iter().map(i64::to_string).collect();
        let look = Message::plain(format!(
            "SELECT ID AS session FROM information_schema.PROCESSLIST WHERE ID IN ({})",
            numbers.join(", ")
        ));
        let mut connection = self.acquire().await?;
        // The driver must read an answer to its end.
        let looked = async move { look.send(&mut connection, |_| {}).await };
        let (answer, ended) = GoesOn::new(looked.boxed()).await;
        ended?;
        let living = answer.rows().iter().map(|row| number(row, "session"));
        living.collect()
    }
}
