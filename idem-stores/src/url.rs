//! From a URL to a store.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use idem_core::{Store, StoreError};

/// Every scheme there is, with the feature that compiles it in.
const SCHEMES: &[(&str, &str, bool)] = &[
    ("memory", "memory", cfg!(feature = "memory")),
    ("postgres", "postgres", cfg!(feature = "postgres")),
    ("postgresql", "postgres", cfg!(feature = "postgres")),
    ("redis", "redis", cfg!(feature = "redis")),
    ("rediss", "redis-tls", cfg!(feature = "redis-tls")),
    ("redis-cluster", "redis", cfg!(feature = "redis")),
    ("rediss-cluster", "redis-tls", cfg!(feature = "redis-tls")),
    ("redis-sentinel", "redis", cfg!(feature = "redis")),
    ("rediss-sentinel", "redis-tls", cfg!(feature = "redis-tls")),
    ("sqlite", "sqlite", cfg!(feature = "sqlite")),
];

/// Opens the store that `url` names.
///
/// | URL | store |
/// |---|---|
/// | `memory://` | this process, 256 MiB |
/// | `memory://?max_bytes=N` | this process, at most `N` bytes |
/// | `postgres://[user[:password]@][host][:5432][/database]`, `postgresql://…` | a PostgreSQL server, over TLS where its `sslmode` says so |
/// | `redis://[user:password@]host[:6379][/database]` | one Redis or Valkey server |
/// | `redis-cluster://[…@]host:port[,host:port]…` | a cluster, found through these nodes |
/// | `redis-sentinel://[…@]host[:26379][,host[:port]]…[/database]?master=NAME` | the primary that these sentinels name |
/// | `rediss://`, `rediss-cluster://`, `rediss-sentinel://` | the same over TLS |
/// | `sqlite://file.db`, `sqlite:///directory/file.db` | a file, created where it is missing |
///
/// Options after `?`, separated by `&`: `prefix=idem:` is what every key in Redis begins with,
/// `timeout=2s` how long one call may take. Reserved characters of a login or an option are
/// percent-encoded.
///
/// With Redis, `max_claims=256` and `max_waiting=4096` bound the claims that are under way and those
/// that wait for their turn, and `wait_replicas=1` and `wait_aof=1` say who must have a write before
/// it counts; see `RedisStoreBuilder`.
///
/// With SQLite, `timeout=2s` is how long a call waits for the lock of another process,
/// `max_waiting=4096` how many claims may wait to be written, and as many to be looked up, before
/// more are refused, and `sweep=60s` how often what has expired is deleted, or `off`.
///
/// With PostgreSQL, `max_connections=10` bounds the store's connections, and `max_waiting=1024` the
/// calls that wait for one, but for those of who holds a lease. `pooler=transaction` says that a
/// pooler gives each transaction another session; unsaid, that is an error. `migrate=off` leaves the
/// tables to whoever runs the migrations by hand, and `sweep=60s` is how often what has expired is
/// deleted, or `off`. The others are the driver's: `sslmode`, `sslrootcert`,
/// `options[search_path]=…`. What a URL does not say comes from the variables of libpq
/// (`PGHOST`, `PGPASSWORD`) and its password file.
///
/// # Errors
/// When the scheme is unknown or its feature is not compiled in, when the URL is malformed, or
/// when the store cannot be reached. Messages never repeat the URL, which may hold a password.
#[allow(
    clippy::unused_async,
    reason = "stores behind a network are opened here too"
)]
pub async fn connect(url: &str) -> Result<Arc<dyn Store>, ConnectError> {
    // What the driver of SQLite takes for a URL, and what means a database in memory to it.
    #[cfg(feature = "sqlite")]
    if url.starts_with("sqlite:") {
        return Ok(Arc::new(crate::sqlite::SqliteStore::connect(url).await?));
    }
    match url.split_once("://").ok_or(ConnectError::NotAUrl)? {
        #[cfg(feature = "memory")]
        ("memory", rest) => open_memory(rest),
        #[cfg(feature = "redis")]
        (scheme, _) if is_redis(scheme) => {
            Ok(Arc::new(crate::redis::RedisStore::connect(url).await?))
        }
        #[cfg(feature = "postgres")]
        ("postgres" | "postgresql", _) => Ok(Arc::new(
            crate::postgres::PostgresStore::connect(url).await?,
        )),
        (scheme, _) => Err(no_store_for(scheme)),
    }
}

#[cfg(feature = "redis")]
fn is_redis(scheme: &str) -> bool {
    let of_redis = |(known, feature, compiled): &(&str, &str, bool)| {
        *compiled && feature.starts_with("redis") && *known == scheme
    };
    SCHEMES.iter().any(of_redis)
}

#[cfg(feature = "memory")]
fn open_memory(rest: &str) -> Result<Arc<dyn Store>, ConnectError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !place.is_empty() {
        return Err(ConnectError::BadOption {
            scheme: "memory",
            expected: "memory:// has no host and no path",
        });
    }
    let mut builder = crate::memory::MemoryStore::builder();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let bytes = option
            .strip_prefix("max_bytes=")
            .and_then(|bytes| bytes.parse().ok());
        builder = builder.max_bytes(bytes.ok_or(ConnectError::BadOption {
            scheme: "memory",
            expected: "the one option is max_bytes=N, a whole number of bytes",
        })?);
    }
    Ok(Arc::new(builder.build()))
}

fn no_store_for(scheme: &str) -> ConnectError {
    match SCHEMES.iter().find(|(known, ..)| *known == scheme) {
        Some((scheme, feature, _)) => ConnectError::NotCompiled { scheme, feature },
        None => ConnectError::UnknownScheme,
    }
}

/// Why a URL gave no store. Never holds the URL.
///
/// Its `Debug` form is its message with those of its sources, for a `main` that returns it.
#[non_exhaustive]
pub enum ConnectError {
    /// The text has no scheme.
    NotAUrl,
    /// No store has this scheme.
    UnknownScheme,
    /// The store of this scheme is not compiled in.
    NotCompiled {
        /// The URL's scheme.
        scheme: &'static str,
        /// The cargo feature of `idem-rs` to enable.
        feature: &'static str,
    },
    /// The URL says something that the store does not know.
    BadOption {
        /// The URL's scheme.
        scheme: &'static str,
        /// What it can say.
        expected: &'static str,
    },
    /// The store cannot be reached.
    Store(StoreError),
    /// The database is there, and is not one that the store can work with.
    Unfit {
        /// The store's name.
        store: &'static str,
        /// What is wrong with it.
        problem: Cow<'static, str>,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compiled = || {
            let compiled: Vec<_> = SCHEMES
                .iter()
                .filter(|(.., compiled)| *compiled)
                .map(|(scheme, ..)| format!("{scheme}://"))
                .collect();
            if compiled.is_empty() {
                "none".to_owned()
            } else {
                compiled.join(", ")
            }
        };
        match self {
            Self::NotAUrl => write!(
                f,
                "the store URL has no scheme; compiled in: {}",
                compiled()
            ),
            Self::UnknownScheme => write!(
                f,
                "no store has this URL's scheme; compiled in: {}",
                compiled()
            ),
            Self::NotCompiled { scheme, feature } => write!(
                f,
                "the store for {scheme}:// is not compiled in; enable the feature `{feature}` of idem-rs"
            ),
            Self::BadOption { scheme, expected } => {
                write!(f, "the {scheme}:// store URL is malformed: {expected}")
            }
            Self::Store(error) => error.fmt(f),
            Self::Unfit { store, problem } => {
                write!(f, "the {store} store cannot use this database: {problem}")
            }
        }
    }
}

impl fmt::Debug for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its own words are this error's.
            Self::Store(error) => error.source(),
            _ => None,
        }
    }
}
