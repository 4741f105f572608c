//! Which file, and how a connection to it is opened. The one place that holds a path.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::time::{Instant, sleep};

use super::errors::{connect_error, is_busy};
use super::{NAME, execute};
use crate::ConnectError;

/// `PRAGMA synchronous`: every commit is on the disk before it returns.
pub(super) const FULL: i64 = 2;

/// Between two tries to change the journal's mode, which SQLite itself does not wait for.
const PAUSE: Duration = Duration::from_millis(5);

const IN_MEMORY: &str = "a database in memory keeps nothing; use memory:// for that";

#[derive(Clone)]
pub(super) struct Target {
    options: SqliteConnectOptions,
}

fn bad(expected: &'static str) -> ConnectError {
    ConnectError::BadOption {
        scheme: "sqlite",
        expected,
    }
}

impl Target {
    /// Reads `sqlite://path[?timeout=…]`.
    pub(super) fn parse(url: &str) -> Result<(PathBuf, Option<Duration>), ConnectError> {
        let (scheme, rest) = url.split_once(':').ok_or(ConnectError::NotAUrl)?;
        if scheme != "sqlite" {
            return Err(ConnectError::UnknownScheme);
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.contains(":memory:") || query.contains("mode=memory") {
            return Err(bad(IN_MEMORY));
        }
        let path = path
            .strip_prefix("//")
            .ok_or_else(|| bad("it is sqlite://path or sqlite:///path"))?;
        let mut timeout = None;
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let value = option.strip_prefix("timeout=").and_then(decoded);
            let value = value.ok_or_else(|| bad("the one option is timeout"))?;
            let value = humantime::parse_duration(&value)
                .map_err(|_| bad("timeout is a duration such as 2s or 500ms"))?;
            timeout = Some(value);
        }
        let path = decoded(path).ok_or_else(|| bad("the path is not UTF-8"))?;
        if path.is_empty() {
            return Err(bad("there is no path"));
        }
        // Absolute, because a name may mean something else to SQLite (`file:…`), and because
        // connections are opened later, too, when the process may have gone elsewhere.
        let path = std::path::absolute(path).map_err(|_| bad("there is no such path"))?;
        Ok((path, timeout))
    }

    /// A file of the store's own.
    pub(super) fn file(path: PathBuf, busy_timeout: Duration) -> Self {
        // The driver has no room for more.
        let busy_timeout = busy_timeout.min(Duration::from_millis(i32::MAX as u64));
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(busy_timeout);
        Self::with(options)
    }

    /// A database of the application's.
    pub(super) fn with(options: SqliteConnectOptions) -> Self {
        Self {
            options: options
                .disable_statement_logging()
                .statement_cache_capacity(32),
        }
    }

    /// Opens a connection that writes, and whose commits are durable.
    pub(super) async fn open(&self) -> Result<SqliteConnection, sqlx::Error> {
        let mut connection = self.connect("idem-writer").await?;
        if synchronous(&mut connection).await? < FULL {
            execute(&mut connection, "PRAGMA synchronous = FULL").await?;
        }
        Ok(connection)
    }

    /// Opens the writer's connection, which [`hurries`].
    pub(super) async fn open_to_write(&self) -> Result<SqliteConnection, sqlx::Error> {
        let mut connection = self.open().await?;
        hurries(&mut connection).await?;
        Ok(connection)
    }

    /// Opens a connection that cannot write.
    pub(super) async fn open_to_read(
        &self,
        thread: &'static str,
    ) -> Result<SqliteConnection, sqlx::Error> {
        let mut connection = self.connect(thread).await?;
        execute(&mut connection, "PRAGMA query_only = ON").await?;
        Ok(connection)
    }

    async fn connect(&self, thread: &'static str) -> Result<SqliteConnection, sqlx::Error> {
        let options = self.options.clone().thread_name(move |_| thread.to_owned());
        options.connect().await
    }

    /// Creates the file where it is missing, makes its journal a write-ahead log, and opens it
    /// as [`open`](Self::open) does.
    pub(super) async fn create(
        &self,
        busy_timeout: Duration,
    ) -> Result<SqliteConnection, sqlx::Error> {
        let creating = Self {
            options: self.options.clone().create_if_missing(true),
        };
        let mut connection = creating.open().await?;
        let until = Instant::now() + busy_timeout;
        loop {
            match write_ahead(&mut connection).await {
                Err(error) if is_busy(&error) && Instant::now() < until => sleep(PAUSE).await,
                done => return done.map(|()| connection),
            }
        }
    }
}

/// Makes a connection look after the lock every millisecond or two, for a moment; its user then
/// tries again. SQLite itself looks ever more seldom, up to ten times a second, and who comes
/// later is then served earlier.
pub(super) async fn hurries(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    execute(connection, "PRAGMA busy_timeout = 3").await
}

/// How long the connection waits for a lock.
pub(super) async fn patience(connection: &mut SqliteConnection) -> Result<Duration, sqlx::Error> {
    let millis: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
        .fetch_one(connection)
        .await?;
    Ok(Duration::from_millis(
        u64::try_from(millis).unwrap_or_default(),
    ))
}

/// Another mode is kept where the file system has no room for a shared index: a warning.
async fn write_ahead(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    if journal_mode(&mut *connection).await? != "wal" {
        execute(connection, "PRAGMA journal_mode = WAL").await?;
    }
    Ok(())
}

/// # Errors
/// When the database is in memory, or temporary.
pub(super) async fn refuse_memory(connection: &mut SqliteConnection) -> Result<(), ConnectError> {
    let file: String =
        sqlx::query_scalar("SELECT file FROM pragma_database_list WHERE name = 'main'")
            .fetch_one(connection)
            .await
            .map_err(connect_error)?;
    if file.is_empty() {
        return Err(ConnectError::Unfit {
            store: NAME,
            problem: IN_MEMORY.into(),
        });
    }
    Ok(())
}

pub(super) async fn journal_mode(connection: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(connection)
        .await
}

pub(super) async fn synchronous(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(connection)
        .await
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(text).decode_utf8();
    text.ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_path_and_a_timeout() {
        let here = std::env::current_dir().unwrap();
        let cases = [
            ("sqlite://idem.db", here.join("idem.db")),
            ("sqlite://data/idem.db?", here.join("data/idem.db")),
            ("sqlite:///var/lib/idem.db", "/var/lib/idem.db".into()),
            ("sqlite:///a%20file%3f", "/a file?".into()),
            // Means something else to SQLite, but not here.
            ("sqlite://file:idem.db", here.join("file:idem.db")),
        ];
        for (url, path) in cases {
            assert_eq!(Target::parse(url).unwrap(), (path, None), "{url}");
        }
        let (_, timeout) = Target::parse("sqlite://idem.db?timeout=500ms").unwrap();
        assert_eq!(timeout, Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_url_that_is_no_file_says_what_is_wrong() {
        let cases = [
            ("sqlite::memory:", "memory://"),
            ("sqlite://:memory:", "memory://"),
            ("sqlite://file::memory:?cache=shared", "memory://"),
            ("sqlite://secret.db?mode=memory", "memory://"),
            ("sqlite:secret.db", "sqlite://path"),
            ("sqlite://", "no path"),
            ("sqlite://?timeout=1s", "no path"),
            ("sqlite://secret.db?timeout=soon", "duration"),
            ("sqlite://secret.db?cache=shared", "timeout"),
            ("sqlite://secret%ff.db", "UTF-8"),
        ];
        for (url, hint) in cases {
            let message = Target::parse(url).unwrap_err().to_string();
            assert!(message.contains(hint), "{url}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
