//! What a URL says. The one module that sees credentials, on their way into the driver's options.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::ConnectError;
use crate::sql::tls_files;

/// The driver's options of a URL. The driver would log an unknown one with its value.
const DRIVER_OPTIONS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// The least number of prepared statements that a connection caches, so that none of the store's is
/// prepared twice.
const MIN_CACHED_STATEMENTS: usize = 16;

/// What is between a store and its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooler {
    /// Nothing, or a pooler that gives each connection a session of its own.
    #[default]
    Session,
    /// A pooler that gives each transaction a session: `pool_mode = transaction` in PgBouncer.
    ///
    /// Then no statement is prepared, and no setting outlives its transaction. Statements carry their
    /// values in their text, which a server that logs statements logs, too. Waiters poll the server,
    /// because notifications need a session.
    Transaction,
}

/// The store's own settings.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) max_connections: usize,
    pub(super) max_waiting: usize,
    pub(super) pooler: Pooler,
    pub(super) timeout: Duration,
    pub(super) migrate: bool,
    pub(super) sweep_every: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 10,
            max_waiting: 1024,
            pooler: Pooler::Session,
            timeout: Duration::from_secs(2),
            migrate: true,
            sweep_every: Some(Duration::from_secs(60)),
        }
    }
}

fn bad(expected: &'static str) -> ConnectError {
    ConnectError::BadOption {
        scheme: "postgres",
        expected,
    }
}

/// Reads `scheme://[user[:password]@][host][:port][/database][?option=value&…]`.
pub(super) fn parse(url: &str) -> Result<(PgConnectOptions, Settings), ConnectError> {
    let (scheme, _) = url.split_once("://").ok_or(ConnectError::NotAUrl)?;
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err(ConnectError::UnknownScheme);
    }
    let (location, query) = url.split_once('?').unwrap_or((url, ""));
    let mut settings = Settings::default();
    let mut driver_options = Vec::new();
    let mut names_authority = false;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "max_connections" => {
                let count = value.parse().ok().filter(|count| *count > 1);
                settings.max_connections =
                    count.ok_or(bad("max_connections is a whole number from 2"))?;
            }
            "max_waiting" => {
                let count = value.parse().ok();
                settings.max_waiting = count.ok_or(bad("max_waiting is a whole number"))?;
            }
            "pooler" => {
                settings.pooler = match value {
                    "session" => Pooler::Session,
                    "transaction" => Pooler::Transaction,
                    _ => return Err(bad("pooler is session or transaction")),
                };
            }
            "timeout" => {
                settings.timeout = humantime::parse_duration(value)
                    .map_err(|_| bad("timeout is a duration such as 2s or 500ms"))?;
            }
            "migrate" => {
                settings.migrate = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(bad("migrate is on or off")),
                };
            }
            "sweep" if value == "off" => settings.sweep_every = None,
            "sweep" => {
                let every = humantime::parse_duration(value);
                settings.sweep_every =
                    Some(every.map_err(|_| bad("sweep is a duration such as 60s, or off"))?);
            }
            name if DRIVER_OPTIONS.contains(&name) || name.starts_with("options[") => {
                let is_too_small = |value: &str| {
                    let capacity = value.parse::<usize>();
                    capacity.is_ok_and(|capacity| capacity < MIN_CACHED_STATEMENTS)
                };
                if name == "statement-cache-capacity" && is_too_small(value) {
                    return Err(bad("statement-cache-capacity is a whole number from 16"));
                }
                names_authority |= matches!(name, "sslrootcert" | "ssl-root-cert" | "ssl-ca");
                driver_options.push(option);
            }
            _ => {
                return Err(bad(
                    "the options are max_connections, max_waiting, timeout, pooler, migrate, sweep, and those of the driver",
                ));
            }
        }
    }
    let mut options =
        PgConnectOptions::from_str(&format!("{location}?{}", driver_options.join("&")))
            .map_err(|_| {
                bad("it is postgres://[user[:password]@][host][:port][/database][?option=value&…]")
            })?
            // Every call has a span already.
            .disable_statement_logging()
            // No value has a fraction, and poolers refuse settings that they do not know.
            .extra_float_digits(None);
    if options.get_application_name().is_none() {
        options = options.application_name("idem");
    }
    let encrypts = matches!(
        options.get_ssl_mode(),
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull
    );
    if encrypts && !cfg!(feature = "postgres-tls") {
        return Err(bad(
            "its sslmode needs the feature `postgres-tls` of idem-rs",
        ));
    }
    let verifies = matches!(
        options.get_ssl_mode(),
        PgSslMode::VerifyCa | PgSslMode::VerifyFull
    );
    if names_authority && !verifies {
        return Err(bad(
            "sslrootcert goes with sslmode=verify-ca or verify-full: other modes verify no certificate",
        ));
    }
    if !tls_files::are_readable(&driver_options) {
        return Err(bad(
            "sslrootcert, sslcert and sslkey name files that this process can read",
        ));
    }
    Ok((options, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_options_are_its_own() {
        let (options, settings) = parse(
            "postgresql://app:p%40ss@db.example:6432/shop?sslmode=disable&max_connections=3\
             &options[search_path]=idem&timeout=800ms&migrate=off&sweep=5m&application_name=till\
             &max_waiting=7&pooler=transaction",
        )
        .unwrap();
        assert_eq!(
            (options.get_host(), options.get_port()),
            ("db.example", 6432)
        );
        assert_eq!(options.get_username(), "app");
        assert_eq!(options.get_database(), Some("shop"));
        assert_eq!(options.get_application_name(), Some("till"));
        assert_eq!(options.get_options(), Some("-c search_path=idem"));
        assert_eq!(settings.max_connections, 3);
        assert_eq!(settings.max_waiting, 7);
        assert_eq!(settings.pooler, Pooler::Transaction);
        assert_eq!(settings.timeout, Duration::from_millis(800));
        assert_eq!(settings.sweep_every, Some(Duration::from_secs(300)));
        assert!(!settings.migrate);
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let (options, settings) = parse("postgres://app@db.example/shop?sweep=off").unwrap();
        assert_eq!(options.get_application_name(), Some("idem"));
        assert!(settings.migrate && settings.sweep_every.is_none());
        assert_eq!(settings.max_connections, 10);
        assert_eq!(settings.max_waiting, 1024);
        assert_eq!(settings.pooler, Pooler::Session);
        assert_eq!(settings.timeout, Duration::from_secs(2));
    }

    #[cfg(not(feature = "postgres-tls"))]
    #[test]
    fn what_is_to_be_encrypted_needs_the_feature() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let url = format!("postgres://app@db.example/shop?sslmode={mode}");
            let error = parse(&url).unwrap_err();
            assert!(error.to_string().contains("postgres-tls"), "{error}");
        }
    }
}
