//! How the store's own connections are opened, and what is known of a session.

use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{Connection, Error};

use super::message::{Answer, Message, number, word};
use crate::sql::pool::{Opener, Pool};

/// The store's own connections.
pub(super) type OwnPool = Pool<Sessions>;

/// A connection of the store's own.
pub(super) struct OwnConnection {
    pub(super) connection: MySqlConnection,
    pub(super) session: Session,
}

/// A session of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) number: u64,
    /// Tells its server from others behind the same address.
    pub(super) server: String,
    /// The largest message that the server takes.
    pub(super) max_message: usize,
    /// Whether a statement without a transaction is committed.
    pub(super) commits: bool,
}

impl Session {
    /// Asks a connection for its session; see [`Session::read`].
    pub(super) const ASK: &str = "SELECT CONNECTION_ID() AS session, \
        CONCAT(@@hostname, ':', @@port, ' ', @@server_id) AS server, \
        @@max_allowed_packet AS max_message, @@autocommit AS commits; ";

    pub(super) fn read(row: &MySqlRow) -> Result<Self, Error> {
        Ok(Self {
            number: number(row, "session")?.unsigned_abs(),
            server: word(row, "server")?.to_owned(),
            max_message: usize::try_from(number(row, "max_message")?).unwrap_or(usize::MAX),
            commits: number(row, "commits")? == 1,
        })
    }
}

/// Opens connections, and begins their sessions.
pub(super) struct Sessions {
    options: MySqlConnectOptions,
    /// What each session is set to.
    settings: String,
}

impl Sessions {
    pub(super) fn new(options: MySqlConnectOptions, timeout: Duration) -> Self {
        Self {
            options,
            settings: settings(timeout),
        }
    }

    pub(super) const fn options(&self) -> &MySqlConnectOptions {
        &self.options
    }
}

impl Opener for Sessions {
    type Connection = OwnConnection;

    async fn open(&self) -> Result<OwnConnection, Error> {
        let mut connection = MySqlConnection::connect_with(&self.options).await?;
        let begin = Message::plain(format!("{}{}", self.settings, Session::ASK));
        let (answer, ended) = begin.send(&mut connection, |_| {}).await;
        ended?;
        let session = answer.rows().first().ok_or(Error::RowNotFound)?;
        Ok(OwnConnection {
            session: Session::read(session)?,
            connection,
        })
    }
}

/// Strict, so that nothing is cut off. At READ COMMITTED fewer rows are locked. A statement waits for a lock,
/// and takes, no longer than a call may: it does not take effect long after its caller has given up. Only
/// MariaDB bounds statements that write.
fn settings(timeout: Duration) -> String {
    let waits = (timeout * 3 / 4).as_secs().max(1);
    let millis = timeout.as_millis().clamp(1, 2_147_483_647);
    let (seconds, rest) = (millis / 1000, millis % 1000);
    format!(
        "SET NAMES utf8mb4; \
         SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET SESSION autocommit = 1, \
            sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
            innodb_lock_wait_timeout = {waits} \
            /*M! , max_statement_time = {seconds}.{rest:03} */ \
            /*!80000 , max_execution_time = {millis} */; "
    )
}

/// How many statements an application's connection is sent before a message.
pub(super) const BEFORE: usize = 2;

/// What an application's connection is sent before a message. It ends a transaction that a dropped `begin`
/// has left open, whose statements would never be committed.
pub(super) fn before_message() -> String {
    format!("ROLLBACK; {}", Session::ASK)
}

/// The session that has answered [`before_message`].
pub(super) fn session_of(answer: &Answer) -> Result<Option<Session>, Error> {
    answer.row_of(1).map(Session::read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_whole_seconds_within_the_time_of_a_call() {
        let of = |millis| settings(Duration::from_millis(millis));
        assert!(of(2000).contains("innodb_lock_wait_timeout = 1 "));
        assert!(of(8000).contains("innodb_lock_wait_timeout = 6 "));
        assert!(of(250).contains("innodb_lock_wait_timeout = 1 "));
        assert!(of(250).contains("max_statement_time = 0.250 "));
        assert!(of(12_005).contains("max_statement_time = 12.005 "));
        assert!(of(12_005).contains("max_execution_time = 12005 "));
    }
}
