//! What is checked at start-up. A setting that weakens what the store promises is a warning with its
//! reason, and so is a server that cannot do all of it. A missing right, without which it would fail
//! halfway, is an error.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Error, Row};
use tracing::warn;

use super::NAME;
use super::errors::schema_error;
use crate::ConnectError;

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
    server.warn();
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

    fn warn(&self) {
        if self.is_too_old() {
            warn!(
                target: "idem",
                version = self.version,
                "the postgres server is older than 14, which this store is not made for"
            );
        }
        if !self.fsync {
            warn!(
                target: "idem",
                "the postgres server does not wait for its disk: a crash of the machine may forget any record, and retries run again; set fsync to on"
            );
        }
        if self.synchronous_commit == "off" {
            warn!(
                target: "idem",
                "the postgres server acknowledges what is not on its disk yet: a crash forgets the newest records, and their retries run again; set synchronous_commit to on"
            );
        }
        if self.is_standby {
            warn!(
                target: "idem",
                "the postgres server is a standby: it can give finished records back, and nothing is run until it is promoted; connect to the primary"
            );
        } else if self.read_only {
            warn!(
                target: "idem",
                "the postgres server takes no writes of this login: it can give finished records back, and nothing is run; see default_transaction_read_only"
            );
        }
        if self.row_security {
            warn!(
                target: "idem",
                "row-level security applies to this login on the table idem_records: it is refused what it cannot see; let a policy give it all rows"
            );
        }
        if !self.track_activities {
            warn!(
                target: "idem",
                "the postgres server does not show which statements run: sessions of a pool or behind a pooler are not ended when they hang; set track_activities to on"
            );
        }
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
