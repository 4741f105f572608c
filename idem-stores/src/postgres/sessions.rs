//! How the store's own connections are opened, and how their sessions get its settings.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Error, Row};
use tracing::warn;

use super::errors::refuses_start_up_options;
use super::hung_sessions::Session;
use super::statement::setting_millis;
use crate::sql::pool::{Opener, Pool};

/// The store's own connections.
pub(super) type OwnPool = Pool<Sessions>;

/// A connection of the store's own.
pub(super) struct OwnConnection {
    pub(super) connection: PgConnection,
    /// Known if sessions are the store's own.
    pub(super) session: Option<Session>,
}

/// How sessions get the store's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SettingsBy {
    /// Not at all: sessions may be shared with other clients.
    Nothing,
    /// With the start-up message, which costs no round trip and leaves nothing behind.
    StartUp,
    /// By a statement: a pooler refuses start-up options, and each session is one client's.
    Statement,
}

impl SettingsBy {
    const ALL: [Self; 3] = [Self::Nothing, Self::StartUp, Self::Statement];
}

/// Opens connections, and begins their sessions.
pub(super) struct Sessions {
    options: PgConnectOptions,
    timeout: Duration,
    settings_by: AtomicU8,
}

impl Opener for Sessions {
    type Connection = OwnConnection;

    async fn open(&self) -> Result<OwnConnection, Error> {
        let settings_by = self.settings_by();
        let with_options = settings_by == SettingsBy::StartUp;
        let mut connection = match self.connect(with_options).await {
            Err(error) if with_options && refuses_start_up_options(&error) => {
                // A pooler was put in between after the store had connected. Its sessions may be shared,
                // so nothing is set in them.
                warn!(
                    target: "idem",
                    "a pooler now refuses the options that the postgres store starts its sessions with; it goes on without them"
                );
                self.set_settings_by(SettingsBy::Nothing);
                self.connect(false).await?
            }
            connected => connected?,
        };
        let session = match settings_by {
            SettingsBy::Nothing => None,
            SettingsBy::StartUp => Some(session(&mut connection, "").await?.0),
            SettingsBy::Statement => {
                Some(session(&mut connection, &self.set_statements()).await?.0)
            }
        };
        Ok(OwnConnection {
            connection,
            session,
        })
    }
}

impl Sessions {
    pub(super) const fn new(options: PgConnectOptions, timeout: Duration) -> Self {
        Self {
            options,
            timeout,
            settings_by: AtomicU8::new(SettingsBy::Nothing as u8),
        }
    }

    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    fn settings_by(&self) -> SettingsBy {
        SettingsBy::ALL[usize::from(self.settings_by.load(Ordering::Relaxed))]
    }

    pub(super) fn set_settings_by(&self, settings_by: SettingsBy) {
        self.settings_by.store(settings_by as u8, Ordering::Relaxed);
    }

    /// Connects, with or without the store's settings as start-up options.
    pub(super) async fn connect(&self, with_options: bool) -> Result<PgConnection, Error> {
        if !with_options {
            return PgConnection::connect_with(&self.options).await;
        }
        let settings = self.settings();
        PgConnection::connect_with(&self.options.clone().options(settings)).await
    }

    /// Without sequential scans, because a plan for a small table would scan all of it, and be kept until
    /// the statistics change. Without compilation, which never pays here. And with a timeout, so that a
    /// statement does not take effect long after its caller has given up.
    fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("enable_seqscan", "off".to_owned()),
            ("jit", "off".to_owned()),
            (
                "statement_timeout",
                setting_millis(self.timeout).to_string(),
            ),
        ]
    }

    fn set_statements(&self) -> String {
        let settings = self.settings().into_iter();
        settings
            .map(|(name, value)| format!("SET {name} = {value}; "))
            .collect()
    }
}

/// The session of a connection, and whether it has the store's settings. The message begins with `after`.
pub(super) async fn session(
    connection: &mut PgConnection,
    after: &str,
) -> Result<(Session, bool), Error> {
    let ask = format!(
        "{after}SELECT {}, current_setting('enable_seqscan') = 'off' \
            AND current_setting('jit') = 'off' AS is_set",
        Session::OWN
    );
    let row = sqlx::raw_sql(AssertSqlSafe(ask))
        .fetch_one(connection)
        .await?;
    Ok((Session::read(&row)?, row.try_get("is_set")?))
}
