//! Whether a session is one client's. A pooler that gives each transaction another session mixes
//! up what clients have prepared and set, so a store has to know.
//!
//! Two connections are opened, and each is asked for its session, over and over: a session that
//! changes under a connection, and one that two open connections have, is shared. Poolers give the
//! session that rested last, or the one that rested longest; asked twice in a row, and while the
//! other one is within a transaction, either is seen. A pooler that pools sessions, and a server
//! without one, give every answer the same.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Error};
use tokio::time::timeout;

use super::NAME;
use super::connections::Connections;
use super::errors::{connect_error, refuses_start_up_options};
use super::hung::Session;
use super::own::{Own, SettingsBy, session};
use super::statement::SHARED_SESSIONS;
use crate::ConnectError;

/// How often everything is asked: the answers of a busy pooler are chance.
const ROUNDS: usize = 3;

/// Makes sure that sessions are one client's, and finds out how they come by their settings. None
/// are set before that: another application's sessions might be the ones.
pub(super) async fn prove(own: &Own, patience: Duration) -> Result<(), ConnectError> {
    let connect = |with_options| within(patience, own.connect(with_options));
    let (mut first, takes_options) = match connect(true).await {
        Err(error) if refuses_start_up_options(&error) => {
            (connect(false).await.map_err(connect_error)?, false)
        }
        connected => (connected.map_err(connect_error)?, true),
    };
    let asked = within(patience, session(&mut first, "")).await;
    let (_, is_set) = asked.map_err(connect_error)?;
    let second = connect(false).await.map_err(connect_error)?;
    refuse_shared(first, second, patience).await?;
    own.set_by(match takes_options && is_set {
        true => SettingsBy::StartUp,
        false => SettingsBy::Statement,
    });
    Ok(())
}

/// The same for the server of an application's pool, over two connections beside it.
pub(super) async fn prove_pool(connections: &Connections) -> Result<(), ConnectError> {
    let patience = connections.timeout();
    let options = connections.options();
    let open = async || {
        let opened = within(patience, PgConnection::connect_with(&options)).await;
        opened.map_err(connect_error)
    };
    refuse_shared(open().await?, open().await?, patience).await
}

async fn within<T>(
    patience: Duration,
    done: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let done = timeout(patience, done).await;
    done.unwrap_or(Err(Error::PoolTimedOut))
}

/// # Errors
/// Where a pooler shares sessions among transactions.
async fn refuse_shared(
    mut first: PgConnection,
    mut second: PgConnection,
    patience: Duration,
) -> Result<(), ConnectError> {
    let mut seen = Seen::default();
    let looked = seen.look(&mut first, &mut second, patience).await;
    if seen.is_shared() {
        return Err(ConnectError::Unfit {
            store: NAME,
            problem: SHARED_SESSIONS.into(),
        });
    }
    looked.map_err(connect_error)?;
    for connection in [first, second] {
        let _ = timeout(patience, connection.close()).await;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Seen {
    first: Vec<Session>,
    second: Vec<Session>,
}

impl Seen {
    /// Each of the two has one session, and they are two.
    fn is_shared(&self) -> bool {
        let changes = |seen: &[Session]| seen.windows(2).any(|pair| pair[0] != pair[1]);
        changes(&self.first)
            || changes(&self.second)
            || self
                .second
                .iter()
                .any(|session| self.first.contains(session))
    }

    /// Looks until it is seen that sessions are shared, or long enough.
    async fn look(
        &mut self,
        first: &mut PgConnection,
        second: &mut PgConnection,
        patience: Duration,
    ) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            for _ in 0..2 {
                let asked = within(patience, session(first, "")).await;
                self.first.push(asked?.0);
            }
            // Who has to wait for a session while the other one does nothing is given no other's.
            let Ok(begun) = timeout(patience, session(second, "BEGIN; ")).await else {
                return Ok(());
            };
            self.second.push(begun?.0);
            if self.is_shared() {
                return Ok(());
            }
            let Ok(meanwhile) = timeout(patience, session(first, "")).await else {
                return Ok(());
            };
            self.first.push(meanwhile?.0);
            let ended = within(patience, session(second, "ROLLBACK; ")).await;
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
