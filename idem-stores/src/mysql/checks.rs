//! What is checked at start-up. A setting that weakens what the store promises is a warning with its
//! reason, and so is a server that cannot do all of it. A missing right, without which it would fail
//! halfway, is an error.

use std::collections::HashMap;

use sqlx::mysql::MySqlConnection;
use tracing::warn;

use super::errors::{connect_error, is_denied, is_read_only, schema_error};
use super::message::{Message, word};
use super::schema::unfit;
use crate::ConnectError;

/// The oldest versions that skip locked rows.
const OLDEST_MARIADB: (u32, u32) = (10, 6);
const OLDEST_MYSQL: (u32, u32) = (8, 0);

/// A server that takes less than this cannot keep every outcome that an engine may have.
const ENOUGH_MESSAGE: u64 = 5 * 1024 * 1024;

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

/// Checks the server, and warns.
///
/// # Errors
/// When the login may claim but not finish, and when the server's log cannot hold what the store writes.
pub(super) async fn check(connection: &mut MySqlConnection) -> Result<(), ConnectError> {
    let (answer, ended) = Message::plain(ASK).send(connection, |_| {}).await;
    ended.map_err(schema_error)?;
    let mut variables = HashMap::new();
    for row in answer.rows() {
        let name = word(row, "Variable_name").map_err(connect_error)?;
        let value = word(row, "Value").map_err(connect_error)?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    let server = Server { variables };
    server.warn();
    if server.is("log_bin", "ON") && server.is("binlog_format", "STATEMENT") {
        return Err(unfit(
            "its server has binlog_format = STATEMENT, which cannot hold what is written at READ COMMITTED; set it to ROW or MIXED",
        ));
    }
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
    if missing.is_empty() {
        return Ok(());
    }
    Err(unfit(format!(
        "its login lacks rights on the table idem_records: {}",
        missing.join(", ")
    )))
}

#[derive(Debug)]
struct Server {
    variables: HashMap<String, String>,
}

impl Server {
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

    fn warn(&self) {
        if self.is_too_old() {
            warn!(
                target: "idem",
                version = self.variables.get("version").map(String::as_str).unwrap_or_default(),
                "the server of the mysql store is older than MySQL 8.0 or MariaDB 10.6, which this store is not made for"
            );
        }
        if self
            .number("innodb_flush_log_at_trx_commit")
            .is_some_and(|flush| flush != 1)
        {
            warn!(
                target: "idem",
                "the server of the mysql store acknowledges what is not on its disk yet: a crash forgets the newest records, and their retries run again; set innodb_flush_log_at_trx_commit to 1"
            );
        }
        if self.is("log_bin", "ON") && self.number("sync_binlog").is_some_and(|sync| sync != 1) {
            warn!(
                target: "idem",
                "the server of the mysql store does not wait for its binary log: after a crash of the machine its replicas may lack the newest records, or the server itself what they have; set sync_binlog to 1"
            );
        }
        if self.is("read_only", "ON") {
            warn!(
                target: "idem",
                "the server of the mysql store is read only, a replica perhaps: it can give finished records back, and nothing is run unless this login may write; connect to the primary"
            );
        }
        if self.is("wsrep_on", "ON") {
            warn!(
                target: "idem",
                "the server of the mysql store is a node of a Galera cluster: let all processes write to the same node, because a lock is its node's own, and a commit that another node refuses is sent again"
            );
        }
        if self
            .number("max_allowed_packet")
            .is_some_and(|bytes| bytes < ENOUGH_MESSAGE)
        {
            warn!(
                target: "idem",
                "the server of the mysql store takes messages of less than 5 MiB: an outcome of half of max_allowed_packet is not kept, and its retries are told so; raise max_allowed_packet"
            );
        }
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
