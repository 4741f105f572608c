//! What is asked of the server once, at start-up: settings that weaken what the store promises
//! are each a warning with its reason. None is fatal.

use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use tracing::warn;

use super::connections::Statement;

/// The oldest that its makers still look after.
const OLDEST: i32 = 140_000;

pub(super) fn ask() -> Statement<'static> {
    sqlx::query(
        "SELECT current_setting('server_version_num')::integer AS number, \
            current_setting('server_version') AS version, \
            current_setting('fsync')::boolean AS fsync, \
            current_setting('synchronous_commit') AS synchronous_commit",
    )
    .persistent(false)
}

#[derive(Debug)]
pub(super) struct Server {
    number: i32,
    version: String,
    fsync: bool,
    synchronous_commit: String,
}

impl Server {
    pub(super) fn read(row: Option<PgRow>) -> Result<Option<Self>, Error> {
        let row = row.ok_or(Error::RowNotFound)?;
        Ok(Some(Self {
            number: row.try_get("number")?,
            version: row.try_get("version")?,
            fsync: row.try_get("fsync")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
        }))
    }

    const fn is_too_old(&self) -> bool {
        self.number < OLDEST
    }

    pub(super) fn warn(&self) {
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
        };
        assert!(of(130_022).is_too_old());
        assert!(!of(140_000).is_too_old());
    }
}
