//! Sessions that hang and that no call waits for: a commit that waits for a replica that is away, a lock
//! that is not granted. Closing a connection does not end its session. If each one were replaced, the
//! replacements would use up all connections of the server. So a permit is free again when the server has
//! said that the session is gone. The server is asked over a separate connection, and told to end it.

use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool};
use sqlx::{Connection, Error};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::message::{Message, is, number};
use super::sessions::Session;
use crate::backoff::Backoff;

/// Pauses between looks.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Where to connect to.
pub(super) enum Address {
    Options(Box<MySqlConnectOptions>),
    OfPool(MySqlPool),
}

impl Address {
    fn options(&self) -> MySqlConnectOptions {
        match self {
            Self::Options(options) => (**options).clone(),
            Self::OfPool(pool) => (*pool.connect_options()).clone(),
        }
    }
}

pub(super) struct HungSessions {
    address: Address,
    /// How long a statement may take.
    timeout: Duration,
    /// One look at a time: there is one connection beside the store's own.
    has_warned: Mutex<bool>,
}

impl HungSessions {
    pub(super) fn new(address: Address, timeout: Duration) -> Self {
        Self {
            address,
            timeout,
            has_warned: Mutex::new(false),
        }
    }

    /// Ends a session. Resolves when it is gone.
    pub(super) async fn end(&self, session: &Session) {
        let mut looks = 0;
        loop {
            {
                let mut has_warned = self.has_warned.lock().await;
                if !std::mem::replace(&mut *has_warned, true) {
                    warn!(
                        target: "idem",
                        "sessions of the mysql store hang and are ended; their connections are not replaced until the server has said that they are gone"
                    );
                }
                let look = timeout(self.timeout, self.end_once(session)).await;
                if let Ok(Ok(true)) = look {
                    return;
                }
            }
            looks += 1;
            sleep(BACKOFF.after(looks)).await;
        }
    }

    /// Tells the server to end it, and returns whether it was gone before. A session that is idle, or whose
    /// statement has not taken long, is another one with the same number.
    async fn end_once(&self, session: &Session) -> Result<bool, Error> {
        let mut connection = MySqlConnection::connect_with(&self.address.options()).await?;
        let number_of_session = session.number;
        let seconds = self.timeout.as_secs();
        let look = format!(
            "{}SELECT COUNT(*) > 0 AS hangs FROM information_schema.PROCESSLIST \
             WHERE ID = {number_of_session} AND COMMAND NOT IN ('Sleep', 'Killed') \
                AND TIME >= {seconds}",
            Session::ASK
        );
        let (answer, ended) = Message::plain(look).send(&mut connection, |_| {}).await;
        ended?;
        let here = answer.row_of(0).ok_or(Error::RowNotFound)?;
        let found = answer.rows().first().ok_or(Error::RowNotFound)?;
        let is_same = Session::read(here)?.server == session.server;
        let hangs = is_same && is(found, "hangs")?;
        if hangs {
            let kill = Message::plain(format!("KILL {number_of_session}"));
            kill.send(&mut connection, |_| {}).await.1?;
        } else if is_same && self.is_there(&mut connection, session).await? {
            return Ok(false);
        }
        let _ = connection.close().await;
        Ok(!hangs)
    }

    async fn is_there(
        &self,
        connection: &mut MySqlConnection,
        session: &Session,
    ) -> Result<bool, Error> {
        let look = format!(
            "SELECT COUNT(*) AS sessions FROM information_schema.PROCESSLIST \
             WHERE ID = {} AND COMMAND <> 'Sleep'",
            session.number
        );
        let (answer, ended) = Message::plain(look).send(connection, |_| {}).await;
        ended?;
        let row = answer.rows().first().ok_or(Error::RowNotFound)?;
        Ok(number(row, "sessions")? > 0)
    }
}
