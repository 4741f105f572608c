//! The database's file, and how a connection to it is opened. Only this module and `file` hold a path.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::errors::{OpenError, is_busy, unfit};
use super::file::{FileId, Found, Location, Replaced};
use super::schema;
use super::statements::execute;
use crate::ConnectError;

/// `PRAGMA synchronous`: every commit is on the disk before it returns.
pub(super) const FULL: i64 = 2;

/// `PRAGMA synchronous`: as [`FULL`], and if a commit deletes its journal, the deletion is on the disk,
/// too.
pub(super) const EXTRA: i64 = 3;

/// The pause between two tries to change the journal's mode. SQLite itself does not wait.
const JOURNAL_MODE_PAUSE: Duration = Duration::from_millis(5);

pub(super) const IN_MEMORY: &str = "a database in memory keeps nothing; use memory:// for that";

pub(super) struct Target {
    options: SqliteConnectOptions,
    location: Location,
}

/// A connection, and the file that it has opened.
pub(super) struct Opened {
    pub(super) connection: SqliteConnection,
    file: Option<FileId>,
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) path: PathBuf,
    pub(super) busy_timeout: Option<Duration>,
    pub(super) max_waiting: Option<usize>,
    /// `Some(None)`: never.
    pub(super) sweep_every: Option<Option<Duration>>,
}

fn bad(expected: &'static str) -> ConnectError {
    ConnectError::BadOption {
        scheme: "sqlite",
        expected,
    }
}

impl Target {
    /// Reads `sqlite://path[?timeout=…&max_waiting=…&sweep=…]`.
    pub(super) fn parse(url: &str) -> Result<Address, ConnectError> {
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
        let path = decoded(path).ok_or_else(|| bad("the path is not UTF-8"))?;
        if path.is_empty() {
            return Err(bad("there is no path"));
        }
        // Absolute, because SQLite interprets some names (`file:…`), and because connections are opened
        // later, when the process may have another directory.
        let path = std::path::absolute(path).map_err(|_| bad("there is no such path"))?;
        let mut address = Address {
            path,
            busy_timeout: None,
            max_waiting: None,
            sweep_every: None,
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            address.set(option)?;
        }
        Ok(address)
    }

    /// The store's own file.
    pub(super) fn file(path: PathBuf, busy_timeout: Duration) -> Self {
        // The driver takes no longer one.
        let busy_timeout = busy_timeout.min(Duration::from_millis(i32::MAX as u64));
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(busy_timeout);
        Self::from_options(options)
    }

    /// The application's database.
    pub(super) fn from_options(mut options: SqliteConnectOptions) -> Self {
        let location = Location::of(&options);
        if let Some(path) = location.path() {
            options = options.filename(path);
        }
        Self {
            location,
            options: options
                .disable_statement_logging()
                .statement_cache_capacity(32)
                // Between connections that share a cache the driver waits for locks without limit.
                .shared_cache(false),
        }
    }

    /// Opens a connection that writes, and whose commits are durable.
    pub(super) async fn open(&self) -> Result<Opened, OpenError> {
        let mut opened = self.connect(&self.options, "idem-writer").await?;
        if synchronous(&mut opened.connection).await? < EXTRA {
            execute(&mut opened.connection, "PRAGMA synchronous = EXTRA").await?;
        }
        Ok(opened)
    }

    /// Opens the writer's connection; see [`set_short_busy_timeout`].
    pub(super) async fn open_to_write(&self) -> Result<Opened, OpenError> {
        let mut opened = self.open().await?;
        set_short_busy_timeout(&mut opened.connection).await?;
        Ok(opened)
    }

    /// Opens a connection that cannot write.
    pub(super) async fn open_to_read(&self, thread: &'static str) -> Result<Opened, OpenError> {
        let mut opened = self.connect(&self.options, thread).await?;
        execute(&mut opened.connection, "PRAGMA query_only = ON").await?;
        Ok(opened)
    }

    /// Opens every connection: to the known file, or to another one that was put in its place and has
    /// the store's tables.
    async fn connect(
        &self,
        options: &SqliteConnectOptions,
        thread: &'static str,
    ) -> Result<Opened, OpenError> {
        let mut options = options.clone().thread_name(move |_| thread.to_owned());
        let known = self.location.known();
        let before = self.location.found();
        if known.is_some() {
            if before == Found::Nothing {
                return Err(Replaced::ByNothing.into());
            }
            options = options.create_if_missing(false);
        }
        let mut connection = options.connect().await?;
        let after = self.location.found();
        let file = match after {
            Found::File(file) if before == after || before == Found::Nothing => file,
            Found::Unknown => {
                let file = None;
                return Ok(Opened { connection, file });
            }
            // It is not known which of the two was opened.
            _ => return Err(Replaced::ByAnother.into()),
        };
        if known != Some(file) {
            if known.is_some() {
                take_over(&mut connection).await?;
            }
            let is_news = self.location.learn(file);
            if is_news && known.is_some() {
                warn!(
                    target: "idem",
                    "another file was put in place of the sqlite database's; it has the store's tables and is used from now on: records of the old file count as forgotten"
                );
            }
        }
        let file = Some(file);
        Ok(Opened { connection, file })
    }

    /// # Errors
    /// When the file of this connection is not at its path any more.
    pub(super) fn check_in_place(&self, opened: &Opened) -> Result<(), Replaced> {
        self.location.check_in_place(opened.file)
    }

    /// Creates the file if it is missing, makes its journal a write-ahead log, and opens it as
    /// [`open`](Self::open) does.
    pub(super) async fn create(&self, busy_timeout: Duration) -> Result<Opened, OpenError> {
        let options = self.options.clone().create_if_missing(true);
        let mut opened = self.connect(&options, "idem-writer").await?;
        let connection = &mut opened.connection;
        execute(connection, "PRAGMA synchronous = EXTRA").await?;
        let until = Instant::now() + busy_timeout;
        loop {
            match write_ahead(connection).await {
                Err(error) if is_busy(&error) && Instant::now() < until => {
                    sleep(JOURNAL_MODE_PAUSE).await
                }
                done => return Ok(done.map(|()| opened)?),
            }
        }
    }
}

/// # Errors
/// When the file that replaced another one cannot be used.
async fn take_over(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let problem = match schema::check(connection).await {
        Ok(0) => unfit("it has no tables of the store"),
        Ok(version) if version < schema::VERSION => unfit("its tables are of an older version"),
        Ok(_) => return Ok(()),
        Err(problem) => problem,
    };
    Err(Replaced::ByUnfit(Arc::new(problem)).into())
}

impl Address {
    fn set(&mut self, option: &str) -> Result<(), ConnectError> {
        let expected = "its options are timeout, max_waiting and sweep";
        let (name, value) = option.split_once('=').ok_or_else(|| bad(expected))?;
        let value = decoded(value).ok_or_else(|| bad(expected))?;
        let duration = |expected| humantime::parse_duration(&value).map_err(|_| bad(expected));
        match name {
            "timeout" => {
                let expected = "timeout is a duration such as 2s or 500ms";
                self.busy_timeout = Some(duration(expected)?);
            }
            "max_waiting" => {
                let expected = "max_waiting is a whole number of calls";
                self.max_waiting = Some(value.parse().map_err(|_| bad(expected))?);
            }
            "sweep" if value == "off" => self.sweep_every = Some(None),
            "sweep" => {
                let expected = "sweep is a duration such as 60s, or off";
                self.sweep_every = Some(Some(duration(expected)?));
            }
            _ => return Err(bad(expected)),
        }
        Ok(())
    }
}

/// Makes a connection try to get the lock every millisecond or two, for a moment; its user then tries
/// again. With a longer timeout SQLite tries ever more seldom, down to ten times a second, and later
/// callers are served first.
pub(super) async fn set_short_busy_timeout(
    connection: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    execute(connection, "PRAGMA busy_timeout = 3").await
}

/// How long the connection waits for a lock.
pub(super) async fn busy_timeout(
    connection: &mut SqliteConnection,
) -> Result<Duration, sqlx::Error> {
    let millis: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
        .fetch_one(connection)
        .await?;
    Ok(Duration::from_millis(
        u64::try_from(millis).unwrap_or_default(),
    ))
}

/// The mode stays another one if the file system cannot share the index: a warning says so.
async fn write_ahead(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    if journal_mode(&mut *connection).await? != "wal" {
        execute(connection, "PRAGMA journal_mode = WAL").await?;
    }
    Ok(())
}

/// `false` if the database is in memory, or temporary.
pub(super) async fn has_a_file(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let file: String =
        sqlx::query_scalar("SELECT file FROM pragma_database_list WHERE name = 'main'")
            .fetch_one(connection)
            .await?;
    Ok(!file.is_empty())
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
    fn a_url_is_a_path_and_options() {
        let here = std::env::current_dir().unwrap();
        let cases = [
            ("sqlite://idem.db", here.join("idem.db")),
            ("sqlite://data/idem.db?", here.join("data/idem.db")),
            ("sqlite:///var/lib/idem.db", "/var/lib/idem.db".into()),
            ("sqlite:///a%20file%3f", "/a file?".into()),
            // SQLite would interpret this name.
            ("sqlite://file:idem.db", here.join("file:idem.db")),
        ];
        for (url, path) in cases {
            let bare = Address {
                path,
                busy_timeout: None,
                max_waiting: None,
                sweep_every: None,
            };
            assert_eq!(Target::parse(url).unwrap(), bare, "{url}");
        }
        let url = "sqlite:///idem.db?timeout=500ms&max_waiting=7&sweep=90s";
        let full = Address {
            path: "/idem.db".into(),
            busy_timeout: Some(Duration::from_millis(500)),
            max_waiting: Some(7),
            sweep_every: Some(Some(Duration::from_secs(90))),
        };
        assert_eq!(Target::parse(url).unwrap(), full);
        let off = Target::parse("sqlite:///idem.db?sweep=off").unwrap();
        assert_eq!(off.sweep_every, Some(None));
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
            ("sqlite://secret.db?max_waiting=many", "number"),
            ("sqlite://secret.db?sweep=never", "off"),
            ("sqlite://secret.db?cache=shared", "timeout"),
            ("sqlite://secret.db?cache", "timeout"),
            ("sqlite://secret%ff.db", "UTF-8"),
        ];
        for (url, hint) in cases {
            let message = Target::parse(url).unwrap_err().to_string();
            assert!(message.contains(hint), "{url}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
