//! What this process knows of each of the application's pools: when expired records were last deleted
//! through it, and which of its sessions are in an attempt's transaction that the server may end by
//! itself.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use idem_core::Watch;
use sqlx::{AssertSqlSafe, Error, PgPool};

use super::hung_sessions::Session;
use crate::database::database_id;
use crate::sql::ended_sessions::{EndedSessions, Sessions};
use crate::sql::pool_states::PoolStates;
use crate::sql::sweeping::SweepsOnUse;

static POOLS: PoolStates<PoolState> = PoolStates::new();

/// The bytes that tell a pool's database from every other.
pub(super) fn database_id_of(pool: &PgPool) -> Vec<u8> {
    let options = pool.connect_options();
    database_id(
        pool,
        (
            (options.get_host(), options.get_port()),
            options.get_socket(),
            (options.get_username(), options.get_database()),
            options.get_options(),
        ),
    )
}

#[derive(Default)]
pub(super) struct PoolState {
    pub(super) sweeps: Arc<SweepsOnUse>,
    sessions: Arc<EndedSessions<Session>>,
}

impl PoolState {
    pub(super) fn of(pool: &PgPool) -> Arc<Self> {
        POOLS.of(database_id_of(pool))
    }

    /// Resolves when the server has ended the session.
    pub(super) fn session_ended(&self, pool: &PgPool, session: Session, limit: Duration) -> Watch {
        self.sessions.watch(pool.clone(), session, limit)
    }
}

impl Sessions for PgPool {
    type Session = Session;

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }

    async fn find_living(&self, sessions: &[Session]) -> Result<Vec<Session>, Error> {
        let mut known = String::from("(0, 0)");
        for Session { pid, began } in sessions {
            let _ = write!(known, ", ({pid}, {began})");
        }
        let query = format!(
            "SELECT pid, began FROM (\
                SELECT pid, coalesce((extract(epoch FROM backend_start) * 1000000)::bigint, 0) AS began \
                FROM pg_stat_get_activity(NULL)) AS sessions \
             WHERE (pid, began) IN ({known})"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(self).await?;
        rows.iter().map(Session::read).collect()
    }
}
