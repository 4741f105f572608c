//! What is checked at start-up. A setting that weakens what the store promises is a warning with its
//! reason, and so is a server that cannot do all of it. A missing right, without which it would fail
//! halfway, is an error.

use std::collections::HashMap;
use std::time::Duration;

use idem_core::Finding;
use sqlx::mysql::MySqlConnection;

use super::errors::{connect_error, is_denied, is_read_only, schema_error};
use super::message::{Message, maybe_number, word};
use super::schema::{self, unfit};
use crate::{ConnectError, findings};

/// The oldest versions that skip locked rows.
const OLDEST_MARIADB: (u32, u32) = (10, 6);
const OLDEST_MYSQL: (u32, u32) = (8, 0);

/// A server that takes less than this cannot keep every outcome that an engine may have.
const ENOUGH_MESSAGE: u64 = 5 * 1024 * 1024;

const LOGS_STATEMENTS: &str =
    "its server has binlog_format = STATEMENT, which cannot hold what is written at READ COMMITTED";
const SET_ROW: &str = "set it to ROW or MIXED";

/// Not all servers have all of them.
const ASK: &str = "SHOW VARIABLES WHERE Variable_name IN ('version', \
    'innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', 'binlog_format', 'read_only', \
    'max_allowed_packet', 'wsrep_on')";

/// Statements that change nothing, and are refused without their right.
const RIGHTS: &[(&str, &str)] = &[
    ("SELECT", "SELECT 1 FROM idem_records WHERE FALSE"),
    (
        "INSERT",
        "INSERT INTO idem_records (id, fingerprint, attempt, state, claimed_at, lease_until, \
            expires_at, sweep_at) \
         SELECT x'', x'', 1, 'running', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), \
            UTC_TIMESTAMP(6) FROM DUAL WHERE FALSE",
    ),
    ("UPDATE", "UPDATE idem_records SET attempt = 1 WHERE FALSE"),
    ("DELETE", "DELETE FROM idem_records WHERE FALSE"),
];

/// When the oldest expired record expired. The index has it first.
const OLDEST_EXPIRED: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, MIN(sweep_at), UTC_TIMESTAMP(6)) AS late \
    FROM idem_records WHERE sweep_at <= UTC_TIMESTAMP(6)";

/// Checks the server, and warns.
///
/// # Errors
/// When the login may claim but not finish, and when the server's log cannot hold what the store writes.
pub(super) async fn check(connection: &mut MySqlConnection) -> Result<(), ConnectError> {
    let server = Server::ask(connection).await?;
    findings::warn_of(&server.findings());
    if server.logs_statements() {
        return Err(unfit(format!("{LOGS_STATEMENTS}; {SET_ROW}")));
    }
    let missing = missing_rights(connection).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(unfit(format!(
        "its login lacks rights on the table idem_records: {}",
        missing.join(", ")
    )))
}

/// The server's settings, the login's rights, the tables and who sweeps them.
pub(super) async fn examine(
    connection: &mut MySqlConnection,
) -> Result<Vec<Finding>, ConnectError> {
    match schema::check(connection).await {
        Ok(()) => {}
        Err(ConnectError::Store(error)) => return Err(ConnectError::Store(error)),
        // Without tables there is nothing else to look at.
        Err(problem) => {
            return Ok(vec![Finding::problem(
                "schema",
                "",
                problem.to_string(),
                "let the application migrate, or run the store's migrations by hand",
            )]);
        }
    }
    let version = schema::version(connection).await?;
    let mut found = vec![Finding::fine("schema", format!("version {version}"))];
    let server = Server::ask(connection).await?;
    found.extend(server.findings());
    if server.logs_statements() {
        found.push(Finding::problem(
            "binlog_format",
            "STATEMENT",
            LOGS_STATEMENTS,
            SET_ROW,
        ));
    }
    let missing = missing_rights(connection).await?;
    if missing.is_empty() {
        found.push(Finding::fine("rights", "all that are needed"));
    } else {
        let rights = missing.join(", ");
        found.push(Finding::problem(
            "rights",
            format!("missing: {rights}"),
            "this login lacks rights on the table idem_records: an application that uses it does not start",
            format!("GRANT {rights} ON idem_records TO the login"),
        ));
    }
    if !missing.contains(&"SELECT") {
        let (answer, ended) = Message::plain(OLDEST_EXPIRED)
            .send(connection, |_| {})
            .await;
        ended.map_err(schema_error)?;
        let late = answer.rows().first().map(|row| maybe_number(row, "late"));
        let late = late.transpose().map_err(connect_error)?.flatten();
        let late = late.and_then(|micros| u64::try_from(micros).ok());
        found.push(findings::sweeping(late.map(Duration::from_micros)));
    }
    Ok(found)
}

/// Of what is needed.
async fn missing_rights(
    connection: &mut MySqlConnection,
) -> Result<Vec<&'static str>, ConnectError> {
    let mut missing = Vec::new();
    for (right, statement) in RIGHTS {
        match Message::plain(*statement).send(connection, |_| {}).await.1 {
            Ok(()) => {}
            Err(error) if is_denied(&error) => missing.push(*right),
            // It can give finished records back.
            Err(error) if is_read_only(&error) => break,
            Err(error) => return Err(schema_error(error)),
        }
    }
    Ok(missing)
}

#[derive(Debug)]
struct Server {
    variables: HashMap<String, String>,
}

impl Server {
    async fn ask(connection: &mut MySqlConnection) -> Result<Self, ConnectError> {
        let (answer, ended) = Message::plain(ASK).send(connection, |_| {}).await;
        ended.map_err(schema_error)?;
        let mut variables = HashMap::new();
        for row in answer.rows() {
            let name = word(row, "Variable_name").map_err(connect_error)?;
            let value = word(row, "Value").map_err(connect_error)?;
            variables.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self { variables })
    }

    /// Nothing can be written at `READ COMMITTED` then.
    fn logs_statements(&self) -> bool {
        self.is("log_bin", "ON") && self.is("binlog_format", "STATEMENT")
    }

    fn is(&self, variable: &str, value: &str) -> bool {
        let set = self.variables.get(variable);
        set.is_some_and(|set| set.eq_ignore_ascii_case(value))
    }

    fn number(&self, variable: &str) -> Option<u64> {
        self.variables.get(variable)?.parse().ok()
    }

    fn is_too_old(&self) -> bool {
        let Some(version) = self.variables.get("version") else {
            return false;
        };
        let mut numbers = version.split(|it: char| !it.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        let (Some(major), Some(minor)) = (number(), number()) else {
            return false;
        };
        let oldest = match version.contains("MariaDB") {
            true => OLDEST_MARIADB,
            false => OLDEST_MYSQL,
        };
        (major, minor) < oldest
    }

    fn findings(&self) -> Vec<Finding> {
        let setting = |variable: &str| self.variables.get(variable).cloned().unwrap_or_default();
        let version = setting("version");
        let is_log_on_disk = !self.is("log_bin", "ON") || self.number("sync_binlog") == Some(1);
        let is_galera = self.is("wsrep_on", "ON");
        let message = self.number("max_allowed_packet").unwrap_or(u64::MAX);
        vec![
            match self.is_too_old() {
                false => Finding::fine("version", version),
                true => Finding::warning(
                    "version",
                    version,
                    "the server of the mysql store is older than MySQL 8.0 or MariaDB 10.6, which this store is not made for",
                    "upgrade the server",
                ),
            },
            match self.number("innodb_flush_log_at_trx_commit") {
                None | Some(1) => Finding::fine("innodb_flush_log_at_trx_commit", "1"),
                Some(_) => Finding::warning(
                    "innodb_flush_log_at_trx_commit",
                    setting("innodb_flush_log_at_trx_commit"),
                    "the server of the mysql store acknowledges what is not on its disk yet: a crash forgets the newest records, and their retries run again",
                    "set innodb_flush_log_at_trx_commit to 1",
                ),
            },
            match is_log_on_disk {
                true => Finding::fine("sync_binlog", "1, or no binary log"),
                false => Finding::warning(
                    "sync_binlog",
                    setting("sync_binlog"),
                    "the server of the mysql store does not wait for its binary log: after a crash of the machine its replicas may lack the newest records, or the server itself what they have",
                    "set sync_binlog to 1",
                ),
            },
            match self.is("read_only", "ON") {
                false => Finding::fine("writes", "taken"),
                true => Finding::warning(
                    "writes",
                    "read-only",
                    "the server of the mysql store is read only, a replica perhaps: it can give finished records back, and nothing is run unless this login may write",
                    "connect to the primary",
                ),
            },
            match is_galera {
                false => Finding::fine("wsrep_on", "off"),
                true => Finding::warning(
                    "wsrep_on",
                    "on",
                    "the server of the mysql store is a node of a Galera cluster: a lock is its node's own, and a commit that another node refuses is sent again",
                    "let all processes write to the same node",
                ),
            },
            match message < ENOUGH_MESSAGE {
                false => Finding::fine("max_allowed_packet", setting("max_allowed_packet")),
                true => Finding::warning(
                    "max_allowed_packet",
                    setting("max_allowed_packet"),
                    "the server of the mysql store takes messages of less than 5 MiB: an outcome of half of max_allowed_packet is not kept, and its retries are told so",
                    "raise max_allowed_packet",
                ),
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_their_server() {
        let is_too_old = |version: &str| {
            let variables = [("version".to_owned(), version.to_owned())].into();
            Server { variables }.is_too_old()
        };
        for version in [
            "8.0.11",
            "8.4.0-commercial",
            "9.1.0",
            "10.6.0-MariaDB",
            "11.8.2-MariaDB-log",
        ] {
            assert!(!is_too_old(version), "{version}");
        }
        for version in ["5.7.44", "10.5.29-MariaDB-0+deb11u1", "5.5.68-MariaDB"] {
            assert!(is_too_old(version), "{version}");
        }
    }
}
