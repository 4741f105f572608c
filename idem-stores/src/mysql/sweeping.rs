//! Deleting expired records: a short transaction per batch, which skips locked rows.
//!
//! One message locks the rows and returns their ids, and another deletes these. A deletion with a subquery
//! that locks would be one message, but the servers do not agree on what it may contain.

use std::time::Duration;

use idem_core::{RecordId, StoreError};
use sqlx::Error;

use super::connections::{Call, Connections};
use super::errors::is_timeout;
use super::message::{Answer, Message, maybe_number};
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
        let mut call = self.begin(Lane::Other).await?;
        call.begins_transaction();
        let deleted = delete_locked(&mut call, batch, from).await;
        if deleted.is_ok() {
            call.ends_transaction();
        }
        call.finish(deleted)
    }

    fn is_timeout(error: &StoreError) -> bool {
        is_timeout(error)
    }
}

async fn delete_locked(
    call: &mut Call,
    batch: u32,
    from: Option<i64>,
) -> Result<(u64, Option<i64>), Error> {
    let locked = call.send(statements::sweep_look(batch, from)).await?;
    let (ids, to) = read_locked(&locked)?;
    if ids.is_empty() {
        call.send(Message::plain("ROLLBACK")).await?;
        return Ok((0, None));
    }
    let deleted = call.send(statements::sweep_delete(&ids)).await?;
    Ok((deleted.affected(), to))
}

/// The ids, and where the last one's time to be swept is.
fn read_locked(answer: &Answer) -> Result<(Vec<RecordId>, Option<i64>), Error> {
    let rows = answer.rows();
    let ids = rows
        .iter()
        .map(|row| statements::id(row, "id")?.ok_or(Error::RowNotFound));
    let last = rows.last();
    let to = last.map(|row| maybe_number(row, "sweep_at")).transpose()?;
    Ok((ids.collect::<Result<_, _>>()?, to.flatten()))
}
