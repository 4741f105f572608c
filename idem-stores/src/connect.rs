//! From a URL to a store.

use std::sync::Arc;

use idem_core::Store;

use crate::error::{ConnectError, SCHEMES};

/// Opens the store that `url` names.
///
/// | URL | store |
/// |---|---|
/// | `dynamodb://table` | a table of Amazon DynamoDB, with the credentials that the SDK finds |
/// | `memory://` | this process, 256 MiB |
/// | `memory://?max_bytes=N` | this process, at most `N` bytes |
/// | `mysql://[user[:password]@]host[:3306]/database`, `mariadb://…` | a MySQL or MariaDB server, over TLS where its `ssl-mode` says so |
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
/// that wait in the queue, and `wait_replicas=1` and `wait_aof=1` say what must have a write before it
/// is confirmed; see `RedisStoreBuilder`.
///
/// With DynamoDB, `region=eu-west-1` and `endpoint=http://127.0.0.1:8000` say where the table is,
/// `timeout=2s` how long one call may take with all its tries, and `max_claims=128` and
/// `max_waiting=4096` bound the claims that are under way and those that wait in the queue.
///
/// With SQLite, `timeout=2s` is how long a call waits for the lock of another process. `max_waiting=4096`
/// bounds the claims that wait to be written, and those that wait to be read; the next one is refused.
/// `sweep=60s` is how often expired records are deleted, or `off`.
///
/// With PostgreSQL, `max_connections=10` bounds the store's connections, and `max_waiting=1024` the
/// calls that wait for one, without those of lease holders. `pooler=transaction` says that a pooler
/// gives each transaction another session; without it, such a pooler is an error. `migrate=off` leaves
/// the migrations to be run by hand, and `sweep=60s` is how often expired records are deleted, or `off`.
/// All other options are the driver's: `sslmode`, `sslrootcert`, `options[search_path]=…`. Defaults come
/// from the variables of libpq (`PGHOST`, `PGPASSWORD`) and its password file. Files that `sslrootcert`,
/// `sslcert` and `sslkey` name are looked for at once.
///
/// With MySQL and MariaDB, `max_connections=10`, `max_waiting=1024`, `migrate=off` and `sweep=60s` say the
/// same. All other options are the driver's: `ssl-mode`, `ssl-ca`, `ssl-cert`, `ssl-key`, `socket`. The files are
/// looked for at once.
///
/// # Errors
/// When the scheme is unknown or its feature is not compiled in, when the URL is malformed, or
/// when the store cannot be reached. Messages never repeat the URL, which may hold a password.
#[allow(
    clippy::unused_async,
    reason = "stores behind a network are opened here too"
)]
pub async fn connect(url: &str) -> Result<Arc<dyn Store>, ConnectError> {
    // Also without slashes: the driver of SQLite takes `sqlite:` for a URL, and for a database in memory.
    #[cfg(feature = "sqlite")]
    if url.starts_with("sqlite:") {
        return Ok(Arc::new(crate::sqlite::SqliteStore::connect(url).await?));
    }
    match url.split_once("://").ok_or(ConnectError::NotAUrl)? {
        #[cfg(feature = "dynamodb")]
        ("dynamodb", _) => Ok(Arc::new(
            crate::dynamodb::DynamoDbStore::connect(url).await?,
        )),
        #[cfg(feature = "memory")]
        ("memory", rest) => open_memory(rest),
        #[cfg(feature = "redis")]
        (scheme, _) if is_redis(scheme) => {
            Ok(Arc::new(crate::redis::RedisStore::connect(url).await?))
        }
        #[cfg(feature = "mysql")]
        ("mariadb" | "mysql", _) => Ok(Arc::new(crate::mysql::MySqlStore::connect(url).await?)),
        #[cfg(feature = "postgres")]
        ("postgres" | "postgresql", _) => Ok(Arc::new(
            crate::postgres::PostgresStore::connect(url).await?,
        )),
        (scheme, _) => Err(no_store_for(scheme)),
    }
}

/// Opens the store that `url` names for tools beside the application: it creates nothing, migrates
/// nothing, sweeps nothing, and asks for no right before it is needed. URLs are those of [`connect`].
///
/// # Errors
/// As [`connect`], and when there is nothing to attach to: the file or its tables are missing or of an
/// older version, or the store lives in its own process.
#[allow(
    clippy::unused_async,
    reason = "stores behind a network are opened here too"
)]
pub async fn attach(url: &str) -> Result<Arc<dyn Store>, ConnectError> {
    #[cfg(feature = "sqlite")]
    if url.starts_with("sqlite:") {
        let builder = crate::sqlite::SqliteStore::builder(url)?;
        return Ok(Arc::new(builder.attach().await?));
    }
    match url.split_once("://").ok_or(ConnectError::NotAUrl)? {
        #[cfg(feature = "dynamodb")]
        ("dynamodb", _) => {
            let builder = crate::dynamodb::DynamoDbStore::builder(url)?;
            Ok(Arc::new(builder.attach().await?))
        }
        #[cfg(feature = "memory")]
        ("memory", _) => Err(ConnectError::Unfit {
            store: "memory",
            problem: "it lives in the process that uses it, and nobody else can see it".into(),
        }),
        #[cfg(feature = "redis")]
        (scheme, _) if is_redis(scheme) => {
            let builder = crate::redis::RedisStore::builder(url)?;
            Ok(Arc::new(builder.attach().await?))
        }
        #[cfg(feature = "mysql")]
        ("mariadb" | "mysql", _) => {
            let builder = crate::mysql::MySqlStore::builder(url)?;
            Ok(Arc::new(builder.attach().await?))
        }
        #[cfg(feature = "postgres")]
        ("postgres" | "postgresql", _) => {
            let builder = crate::postgres::PostgresStore::builder(url)?;
            Ok(Arc::new(builder.attach().await?))
        }
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
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !location.is_empty() {
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
