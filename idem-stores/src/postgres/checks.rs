//! What is checked at start-up. A setting that weakens what the store promises is a warning with its
//! reason, and so is a server that cannot do all of it. A missing right, without which it would fail
//! halfway, is an error.

use std::time::Duration;

use idem_core::{Finding, StoreError};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Error, Row};

use super::errors::schema_error;
use super::{NAME, schema};
use crate::{ConnectError, findings};

/// The oldest version that is still maintained.
const OLDEST: i32 = 140_000;

const ASK: &str = "SELECT current_setting('server_version_num')::integer AS number, \
        current_setting('server_version') AS version, \
        current_setting('fsync')::boolean AS fsync, \
        current_setting('synchronous_commit') AS synchronous_commit, \
        current_setting('track_activities')::boolean AS track_activities, \
        pg_is_in_recovery() AS is_standby, \
        current_setting('transaction_read_only')::boolean AS read_only, \
        row_security_active('idem_records') AS row_security, \
        coalesce((SELECT string_agg(name, ', ') FROM (VALUES \
            ('SELECT', has_any_column_privilege('idem_records', 'SELECT')), \
            ('INSERT', has_any_column_privilege('idem_records', 'INSERT')), \
            ('UPDATE', has_any_column_privilege('idem_records', 'UPDATE')), \
            ('DELETE', has_table_privilege('idem_records', 'DELETE')) \
        ) AS rights (name, is_there) WHERE NOT is_there), '') AS missing_rights";

/// Fails if the table is not the store's.
const COLUMNS: &str = "SELECT lease_until, expires_at, sweep_at, attempt, watched, id, \
    fingerprint, token, outcome, operation, claimed_at, steps FROM idem_records LIMIT 0";

/// Checks the server, and warns.
///
/// # Errors
/// When the login may claim but not finish, and when the table is foreign.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), ConnectError> {
    let row = sqlx::raw_sql(ASK).fetch_one(&mut *connection).await;
    let server = row
        .and_then(|row| Server::read(&row))
        .map_err(schema_error)?;
    findings::warn_of(&server.findings());
    if !server.missing_rights.is_empty() {
        let missing = server.missing_rights;
        return Err(ConnectError::Unfit {
            store: NAME,
            problem: format!("its login lacks rights on the table idem_records: {missing}").into(),
        });
    }
    let columns = sqlx::raw_sql(COLUMNS).fetch_optional(connection).await;
    columns.map(drop).map_err(schema_error)
}

/// When the oldest expired record expired. The index has it first.
const OLDEST_EXPIRED: &str = "SELECT (extract(epoch FROM now() - min(sweep_at)) * 1000)::bigint \
    FROM idem_records WHERE sweep_at <= now()";

/// The server's settings, the login's rights, the tables and who sweeps them.
pub(super) async fn examine(connection: &mut PgConnection) -> Result<Vec<Finding>, StoreError> {
    match try_to_examine(connection).await {
        Ok(found) => Ok(found),
        Err(ConnectError::Store(error)) => Err(error),
        // Without tables there is nothing else to look at.
        Err(unfit) => Ok(vec![schema_problem(&unfit)]),
    }
}

fn schema_problem(problem: &ConnectError) -> Finding {
    Finding::problem(
        "schema",
        "",
        problem.to_string(),
        "let the application migrate, or run the store's migrations by hand",
    )
}

async fn try_to_examine(connection: &mut PgConnection) -> Result<Vec<Finding>, ConnectError> {
    schema::check(&mut *connection).await?;
    let row = sqlx::raw_sql(ASK).fetch_one(&mut *connection).await;
    let server = row
        .and_then(|row| Server::read(&row))
        .map_err(schema_error)?;
    let mut found = vec![Finding::fine(
        "schema",
        format!("version {}", schema::version(&mut *connection).await?),
    )];
    found.extend(server.findings());
    let missing = &server.missing_rights;
    if missing.is_empty() {
        found.push(Finding::fine("rights", "all that are needed"));
    } else {
        found.push(Finding::problem(
            "rights",
            format!("missing: {missing}"),
            "this login lacks rights on the table idem_records: an application that uses it does not start",
            format!("GRANT {missing} ON idem_records TO the login"),
        ));
    }
    if !missing.contains("SELECT") {
        let late = sqlx::raw_sql(OLDEST_EXPIRED).fetch_one(connection).await;
        let millis: Option<i64> = late.and_then(|row| row.try_get(0)).map_err(schema_error)?;
        let millis = millis.and_then(|millis| u64::try_from(millis).ok());
        found.push(findings::sweeping(millis.map(Duration::from_millis)));
    }
    Ok(found)
}

#[derive(Debug)]
struct Server {
    number: i32,
    version: String,
    fsync: bool,
    synchronous_commit: String,
    track_activities: bool,
    is_standby: bool,
    read_only: bool,
    row_security: bool,
    missing_rights: String,
}

impl Server {
    fn read(row: &PgRow) -> Result<Self, Error> {
        Ok(Self {
            number: row.try_get("number")?,
            version: row.try_get("version")?,
            fsync: row.try_get("fsync")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            track_activities: row.try_get("track_activities")?,
            is_standby: row.try_get("is_standby")?,
            read_only: row.try_get("read_only")?,
            row_security: row.try_get("row_security")?,
            missing_rights: row.try_get("missing_rights")?,
        })
    }

    const fn is_too_old(&self) -> bool {
        self.number < OLDEST
    }

    fn findings(&self) -> Vec<Finding> {
        let version = self.version.clone();
        vec![
            match self.is_too_old() {
                false => Finding::fine("version", version),
                true => Finding::warning(
                    "version",
                    version,
                    "the postgres server is older than 14, which this store is not made for",
                    "upgrade the server",
                ),
            },
            match self.fsync {
                true => Finding::fine("fsync", "on"),
                false => Finding::warning(
                    "fsync",
                    "off",
                    "the postgres server does not wait for its disk: a crash of the machine may forget any record, and retries run again",
                    "set fsync to on",
                ),
            },
            match &*self.synchronous_commit {
                "off" => Finding::warning(
                    "synchronous_commit",
                    "off",
                    "the postgres server acknowledges what is not on its disk yet: a crash forgets the newest records, and their retries run again",
                    "set synchronous_commit to on",
                ),
                setting => Finding::fine("synchronous_commit", setting.to_owned()),
            },
            match (self.is_standby, self.read_only) {
                (true, _) => Finding::warning(
                    "writes",
                    "a standby",
                    "the postgres server is a standby: it can give finished records back, and nothing is run until it is promoted",
                    "connect to the primary",
                ),
                (false, true) => Finding::warning(
                    "writes",
                    "read-only",
                    "the postgres server takes no writes of this login: it can give finished records back, and nothing is run",
                    "see default_transaction_read_only",
                ),
                (false, false) => Finding::fine("writes", "taken"),
            },
            match self.row_security {
                false => Finding::fine("row-level security", "off"),
                true => Finding::warning(
                    "row-level security",
                    "on",
                    "row-level security applies to this login on the table idem_records: it is refused what it cannot see",
                    "let a policy give it all rows",
                ),
            },
            match self.track_activities {
                true => Finding::fine("track_activities", "on"),
                false => Finding::warning(
                    "track_activities",
                    "off",
                    "the postgres server does not show which statements run: sessions of a pool or behind a pooler are not ended when they hang",
                    "set track_activities to on",
                ),
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fourteen_is_not_too_old() {
        let of = |number| Server {
            number,
            version: String::new(),
            fsync: true,
            synchronous_commit: "on".to_owned(),
            track_activities: true,
            is_standby: false,
            read_only: false,
            row_security: false,
            missing_rights: String::new(),
        };
        assert!(of(130_022).is_too_old());
        assert!(!of(140_000).is_too_old());
    }
}
