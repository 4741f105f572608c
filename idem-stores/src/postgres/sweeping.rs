//! Deleting expired records: one statement per batch, which skips locked rows.

use std::time::Duration;

use idem_core::StoreError;
use sqlx::Row;

use super::connections::Connections;
use super::errors::is_timeout;
use super::statements;
use crate::sql::gate::Lane;
use crate::sql::sweeping::Deletes;

impl Deletes for Connections {
    fn timeout(&self) -> Duration {
        Self::timeout(self)
    }

    async fn delete(
        &self,
        batch: u32,
        from: Option<i64>,
    ) -> Result<(u64, Option<i64>), StoreError> {
        let statement = statements::sweep(batch, from);
        let (records, to): (i64, Option<i64>) = self
            .run(Lane::Other, &statement, |row| {
                Ok(Some((row.try_get("records")?, row.try_get("swept_to")?)))
            })
            .await?;
        Ok((records.try_into().unwrap_or(0), to))
    }

    fn is_timeout(error: &StoreError) -> bool {
        is_timeout(error)
    }
}
