//! What a URL says. The one module that sees credentials, on their way into the driver's options.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

use crate::ConnectError;
use crate::sql::tls_files;

/// The driver's options of a URL. The driver would ignore an unknown one.
const DRIVER_OPTIONS: &[&str] = &[
    "socket", "ssl-ca", "ssl-cert", "ssl-key", "ssl-mode", "sslca", "sslcert", "sslkey", "sslmode",
];

/// The store's own settings.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) max_connections: usize,
    pub(super) max_waiting: usize,
    pub(super) timeout: Duration,
    pub(super) migrate: bool,
    pub(super) sweep_every: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 10,
            max_waiting: 1024,
            timeout: Duration::from_secs(2),
            migrate: true,
            sweep_every: Some(Duration::from_secs(60)),
        }
    }
}

fn bad(expected: &'static str) -> ConnectError {
    ConnectError::BadOption {
        scheme: "mysql",
        expected,
    }
}

/// Reads `mysql://[user[:password]@]host[:port]/database[?option=value&…]`.
pub(super) fn parse(url: &str) -> Result<(MySqlConnectOptions, Settings), ConnectError> {
    let (scheme, _) = url.split_once("://").ok_or(ConnectError::NotAUrl)?;
    if !matches!(scheme, "mysql" | "mariadb") {
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
            name if DRIVER_OPTIONS.contains(&name) => {
                names_authority |= matches!(name, "ssl-ca" | "sslca");
                driver_options.push(option);
            }
            _ => {
                return Err(bad(
                    "the options are max_connections, max_waiting, timeout, migrate, sweep, socket, ssl-mode, ssl-ca, ssl-cert and ssl-key",
                ));
            }
        }
    }
    let options =
        MySqlConnectOptions::from_str(&format!("{location}?{}", driver_options.join("&")))
            .map_err(|_| {
                bad("it is mysql://[user[:password]@]host[:port]/database[?option=value&…]")
            })?;
    let encrypts = matches!(
        options.get_ssl_mode(),
        MySqlSslMode::Required | MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity
    );
    if encrypts && !cfg!(feature = "mysql-tls") {
        return Err(bad("its ssl-mode needs the feature `mysql-tls` of idem-rs"));
    }
    let verifies = matches!(
        options.get_ssl_mode(),
        MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity
    );
    if names_authority && !verifies {
        return Err(bad(
            "ssl-ca goes with ssl-mode=verify_ca or verify_identity: other modes verify no certificate",
        ));
    }
    if !tls_files::are_readable(&driver_options) {
        return Err(bad(
            "ssl-ca, ssl-cert and ssl-key name files that this process can read",
        ));
    }
    if options.get_database().is_none() {
        return Err(bad("it names no database: mysql://host/database"));
    }
    let options = options
        // Every call has a span already, and statements have their values in their text.
        .disable_statement_logging()
        // The store sets its sessions itself, in one round trip.
        .set_names(false)
        .timezone(None)
        .pipes_as_concat(false)
        .no_engine_substitution(false);
    Ok((options, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_options_are_its_own() {
        let (options, settings) = parse(
            "mysql://app:p%40ss@db.example:3307/shop?ssl-mode=disabled&max_connections=3\
             &timeout=800ms&migrate=off&sweep=5m&max_waiting=7",
        )
        .unwrap();
        assert_eq!(
            (options.get_host(), options.get_port()),
            ("db.example", 3307)
        );
        assert_eq!(options.get_username(), "app");
        assert_eq!(options.get_database(), Some("shop"));
        assert_eq!(settings.max_connections, 3);
        assert_eq!(settings.max_waiting, 7);
        assert_eq!(settings.timeout, Duration::from_millis(800));
        assert_eq!(settings.sweep_every, Some(Duration::from_secs(300)));
        assert!(!settings.migrate);
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let (options, settings) = parse("mariadb://app@db.example/shop?sweep=off").unwrap();
        assert_eq!(options.get_port(), 3306);
        assert!(settings.migrate && settings.sweep_every.is_none());
        assert_eq!(settings.max_connections, 10);
        assert_eq!(settings.max_waiting, 1024);
        assert_eq!(settings.timeout, Duration::from_secs(2));
    }

    #[test]
    fn no_message_repeats_the_url() {
        for url in [
            "mysql://app:secret@db.example",
            "mysql://app:secret@db.example/shop?charset=latin1",
            "mysql://app:secret@db.example/shop?ssl-mode=secret",
            "mysql://app:secret@db.example:secret/shop",
            "mysql://app:secret@db.example/shop?timeout=secret",
            "mysql://app:secret@[db/shop",
        ] {
            let error = parse(url).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[cfg(not(feature = "mysql-tls"))]
    #[test]
    fn what_is_to_be_encrypted_needs_the_feature() {
        for mode in ["required", "VERIFY_CA", "verify_identity"] {
            let url = format!("mysql://app@db.example/shop?ssl-mode={mode}");
            let error = parse(&url).unwrap_err();
            assert!(error.to_string().contains("mysql-tls"), "{error}");
        }
    }
}
