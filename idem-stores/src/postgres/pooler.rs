//! Whether a session belongs to one client. A pooler that gives each transaction another session mixes up
//! what its clients have prepared and set, so a store must know.
//!
//! Two connections are opened, and each is asked for its session several times. A session is shared if it
//! changes under a connection, or if both connections have it. Poolers give the session that was used
//! last, or the one that was idle longest. Both are found by asking twice in a row, and while the other
//! connection is in a transaction. With a pooler of sessions, or without a pooler, the answers stay the
//! same.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Error};
use tokio::time::timeout;

use super::NAME;
use super::connections::Connections;
use super::errors::{connect_error, refuses_start_up_options};
use super::hung_sessions::Session;
use super::sessions::{OwnPool, SettingsBy, session};
use super::statement::SHARED_SESSIONS;
use crate::ConnectError;

/// How often everything is asked: the answers of a busy pooler are random.
const ROUNDS: usize = 3;

/// Makes sure that sessions belong to one client, and finds out how they get their settings. Nothing is
/// set before: the sessions might be another application's.
pub(super) async fn check_sessions(pool: &OwnPool, limit: Duration) -> Result<(), ConnectError> {
    let connect = |with_options| within(limit, pool.opener().connect(with_options));
    let (mut first, takes_options) = match connect(true).await {
        Err(error) if refuses_start_up_options(&error) => {
            (connect(false).await.map_err(connect_error)?, false)
        }
        connected => (connected.map_err(connect_error)?, true),
    };
    let asked = within(limit, session(&mut first, "")).await;
    let (_, is_set) = asked.map_err(connect_error)?;
    let second = connect(false).await.map_err(connect_error)?;
    refuse_shared(first, second, limit).await?;
    pool.opener()
        .set_settings_by(match takes_options && is_set {
            true => SettingsBy::StartUp,
            false => SettingsBy::Statement,
        });
    Ok(())
}

/// Makes sure of it for the server of an application's pool, over two connections beside it.
pub(super) async fn check_pool_sessions(connections: &Connections) -> Result<(), ConnectError> {
    let limit = connections.timeout();
    let options = connections.options();
    let open = async || {
        let opened = within(limit, PgConnection::connect_with(&options)).await;
        opened.map_err(connect_error)
    };
    refuse_shared(open().await?, open().await?, limit).await
}

async fn within<T>(
    limit: Duration,
    done: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let done = timeout(limit, done).await;
    done.unwrap_or(Err(Error::PoolTimedOut))
}

/// # Errors
/// When a pooler shares sessions among transactions.
async fn refuse_shared(
    mut first: PgConnection,
    mut second: PgConnection,
    limit: Duration,
) -> Result<(), ConnectError> {
    let mut seen = Seen::default();
    let looked = seen.look(&mut first, &mut second, limit).await;
    if seen.is_shared() {
        return Err(ConnectError::Unfit {
            store: NAME,
            problem: SHARED_SESSIONS.into(),
        });
    }
    looked.map_err(connect_error)?;
    for connection in [first, second] {
        let _ = timeout(limit, connection.close()).await;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Seen {
    first: Vec<Session>,
    second: Vec<Session>,
}

impl Seen {
    /// Whether a connection had two sessions, or both connections had the same.
    fn is_shared(&self) -> bool {
        let changes = |seen: &[Session]| seen.windows(2).any(|pair| pair[0] != pair[1]);
        changes(&self.first)
            || changes(&self.second)
            || self
                .second
                .iter()
                .any(|session| self.first.contains(session))
    }

    /// Looks until sessions are seen to be shared, or for all rounds.
    async fn look(
        &mut self,
        first: &mut PgConnection,
        second: &mut PgConnection,
        limit: Duration,
    ) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            for _ in 0..2 {
                let asked = within(limit, session(first, "")).await;
                self.first.push(asked?.0);
            }
            // If it waits for a session while the other connection is idle, that session is not shared.
            let Ok(begun) = timeout(limit, session(second, "BEGIN; ")).await else {
                return Ok(());
            };
            self.second.push(begun?.0);
            if self.is_shared() {
                return Ok(());
            }
            let Ok(meanwhile) = timeout(limit, session(first, "")).await else {
                return Ok(());
            };
            self.first.push(meanwhile?.0);
            let ended = within(limit, session(second, "ROLLBACK; ")).await;
            self.second.push(ended?.0);
            if self.is_shared() {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(first: &[i32], second: &[i32]) -> Seen {
        let sessions = |pids: &[i32]| {
            let session = |pid: &i32| Session {
                pid: *pid,
                began: 1,
            };
            pids.iter().map(session).collect()
        };
        Seen {
            first: sessions(first),
            second: sessions(second),
        }
    }

    #[test]
    fn sessions_are_shared_where_one_changes_or_two_have_it() {
        assert!(!seen(&[], &[]).is_shared());
        assert!(!seen(&[1, 1, 1], &[2, 2]).is_shared());
        assert!(seen(&[1, 1], &[1]).is_shared());
        assert!(seen(&[1, 3, 1], &[2]).is_shared());
        assert!(seen(&[1], &[2, 4]).is_shared());
    }
}
