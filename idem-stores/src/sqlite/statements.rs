//! The statements, on any connection to the database. In a transaction or not, each statement decides by
//! the time that it reads itself.
//!
//! A record has finished steps, and no outcome, where `steps` is not NULL and `outcome` is `x'00'`, or
//! `x'ff'` if it is suspended. Programs of before only look whether `outcome` is NULL: they take such a
//! record for a finished one whose outcome they cannot read, and leave it as it is. Either column alone
//! says nothing: such a program leaves `steps` as they are when it writes over an expired record, and any
//! bytes may be an outcome. Whoever holds a record has written both itself.
//!
//! A statement that writes is always run to its end. Outside of a transaction it commits when it ends,
//! and the driver would not report a commit that failed behind the first row.

mod many;

use idem_core::{
    Change, Claim, Claimed, Forgotten, Lease, Listing, OnCrash, OperationName, Page, RecordId,
    RecordState, Token,
};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteQueryResult};

use super::changes::{Checkpoint, Completion, End, Removal, Transition};
use super::record::{self, Record, millis};
pub(super) use many::MANY;
use many::Many;

/// A statement that begins by reading the clock: the one place where time is read.
macro_rules! on_the_clock {
    ($file:literal) => {
        concat!(
            include_str!("statements/clock.sql"),
            include_str!(concat!("statements/", $file, ".sql"))
        )
    };
}

const CLAIM: &str = on_the_clock!("claim");
const RENEW: &str = on_the_clock!("renew");
const COMPLETE: &str = on_the_clock!("complete");
const RELEASE: &str = on_the_clock!("release");
const ABANDON: &str = on_the_clock!("abandon");
const REVOKE: &str = on_the_clock!("revoke");
const SUSPEND: &str = on_the_clock!("suspend");
const CHECKPOINT: &str = on_the_clock!("checkpoint");
const FORGET: &str = on_the_clock!("forget");
const LIST: &str = on_the_clock!("list");
const LOOK: &str = on_the_clock!("look");
const RUNNING: &str = on_the_clock!("running");
const SWEEP: &str = on_the_clock!("sweep");
const TIME: &str = concat!(
    include_str!("statements/clock.sql"),
    "SELECT now FROM clock"
);
const OLDEST_EXPIRED: &str = concat!(
    include_str!("statements/clock.sql"),
    "SELECT (SELECT now FROM clock) - min(gone_at) FROM idem_records \
     WHERE gone_at <= (SELECT now FROM clock)"
);
/// Some failures end a transaction that its owner goes on to use, and a later write would commit by
/// itself. The savepoint is gone with its transaction, so this fails before it writes.
const TRANSACTION_FINISH: &str = concat!(
    "RELEASE idem_rs_before_body;\n",
    on_the_clock!("transaction_finish")
);
static CLAIM_MANY: Many = Many::new(on_the_clock!("claim_many"), "(?, ?, ?, ?, ?, ?)");
static COMPLETE_MANY: Many = Many::new(on_the_clock!("complete_many"), "(?, ?, ?, ?)");

/// Bytes of outcomes after which a sweep ends. Each page of them is read, and the other writes wait
/// meanwhile.
const MAX_SWEPT_BYTES: i64 = 4 * 1024 * 1024;

/// The name that a record says. NULL: not known.
fn name(operation: &OperationName) -> Option<String> {
    let name = operation.as_str();
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// One claim.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    claim: &Claim,
) -> Result<Claimed, sqlx::Error> {
    loop {
        let acquired = sqlx::query(CLAIM)
            .bind(claim.id.as_bytes().as_slice())
            .bind(claim.fingerprint.to_bytes().as_slice())
            .bind(claim.token.as_bytes().as_slice())
            .bind(millis(claim.lease))
            .bind(millis(claim.retention))
            .bind(claim.on_crash == OnCrash::Rerun)
            .bind(name(&claim.operation))
            .fetch_all(&mut *connection)
            .await?;
        if let Some(row) = acquired.first() {
            return Ok(Claimed::Acquired {
                attempt: record::attempt(row)?,
                steps: record::bytes(row, "steps")?,
            });
        }
        if let Some(answer) = answer(connection, claim).await? {
            return Ok(answer);
        }
        // The record ended between the two statements, and is free.
    }
}

/// Up to [`MANY`] claims in one statement. If some were not acquired, each claim is sent again by
/// itself, in the same transaction: a claim recognises itself.
pub(super) async fn claim_many(
    connection: &mut SqliteConnection,
    claims: &[&Claim],
) -> Result<Vec<Claimed>, sqlx::Error> {
    let mut query = CLAIM_MANY.of(claims.len());
    for claim in claims {
        query = query
            .bind(claim.id.as_bytes().as_slice())
            .bind(claim.fingerprint.to_bytes().as_slice())
            .bind(claim.token.as_bytes().as_slice())
            .bind(millis(claim.lease))
            .bind(millis(claim.retention))
            .bind(name(&claim.operation));
    }
    let done = query.execute(&mut *connection).await?;
    if done.rows_affected() == claims.len() as u64 {
        return Ok(vec![Claimed::acquired(1); claims.len()]);
    }
    let mut answers = Vec::with_capacity(claims.len());
    for asked in claims {
        answers.push(claim(connection, asked).await?);
    }
    Ok(answers)
}

/// The answer to a claim that changes nothing. `None`: the claim must be written.
pub(super) async fn answer(
    connection: &mut SqliteConnection,
    claim: &Claim,
) -> Result<Option<Claimed>, sqlx::Error> {
    let record = look(connection, &claim.id, Some(claim)).await?;
    Ok(record.and_then(|record| record.answer(claim)))
}

/// The record. If it is for a claim, its outcome is read only if the fingerprint is equal, and its steps
/// only if the token is.
pub(super) async fn look(
    connection: &mut SqliteConnection,
    id: &RecordId,
    claim: Option<&Claim>,
) -> Result<Option<Record>, sqlx::Error> {
    let row = sqlx::query(LOOK)
        .bind(id.as_bytes().as_slice())
        .bind(claim.map(|claim| claim.fingerprint.to_bytes().to_vec()))
        .bind(claim.map(|claim| claim.token.as_bytes().to_vec()))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(Record::read).transpose()
}

/// One renewal.
pub(super) async fn renew(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Result<Change, sqlx::Error> {
    let done = sqlx::query(RENEW)
        .bind(lease.id.as_bytes().as_slice())
        .bind(lease.token.as_bytes().as_slice())
        .bind(millis(lease.duration))
        .bind(millis(lease.retention))
        .bind(lease.fingerprint.to_bytes().as_slice())
        .bind(lease.attempt)
        .bind(lease.unbroken)
        .bind(name(&lease.operation))
        .execute(connection)
        .await?;
    Ok(changed(&done))
}

/// One completion.
pub(super) async fn complete(
    connection: &mut SqliteConnection,
    completion: &Completion,
) -> Result<Change, sqlx::Error> {
    let Completion { lease, outcome } = completion;
    let done = sqlx::query(COMPLETE)
        .bind(lease.id.as_bytes().as_slice())
        .bind(lease.token.as_bytes().as_slice())
        .bind(&outcome[..])
        .bind(millis(lease.retention))
        .bind(lease.fingerprint.to_bytes().as_slice())
        .bind(lease.attempt)
        .bind(lease.unbroken)
        .bind(name(&lease.operation))
        .execute(connection)
        .await?;
    Ok(changed(&done))
}

/// Writes the finished record in a transaction that began with the savepoint. `LeaseLost` if another
/// record is in its place.
///
/// # Errors
/// Also if the transaction has ended.
pub(super) async fn finish(
    connection: &mut SqliteConnection,
    claim: &Claim,
    attempt: u32,
    outcome: &[u8],
) -> Result<Change, sqlx::Error> {
    // SQLite counts no changed rows for a savepoint, but repeats those of the statement before.
    let written = sqlx::query(TRANSACTION_FINISH)
        .bind(claim.id.as_bytes().as_slice())
        .bind(claim.fingerprint.to_bytes().to_vec())
        .bind(attempt)
        .bind(claim.token.as_bytes().as_slice())
        .bind(millis(claim.retention))
        .bind(outcome)
        .bind(name(&claim.operation))
        .fetch_all(connection)
        .await?;
    Ok(match written.is_empty() {
        true => Change::LeaseLost,
        false => Change::Applied,
    })
}

/// Up to [`MANY`] completions of existing records, as [`claim_many`].
pub(super) async fn complete_many(
    connection: &mut SqliteConnection,
    completions: &[&Completion],
) -> Result<Vec<Change>, sqlx::Error> {
    let mut query = COMPLETE_MANY.of(completions.len());
    for completion in completions {
        query = query
            .bind(completion.lease.id.as_bytes().as_slice())
            .bind(completion.lease.token.as_bytes().as_slice())
            .bind(&completion.outcome[..])
            .bind(millis(completion.lease.retention));
    }
    let done = query.execute(&mut *connection).await?;
    if done.rows_affected() == completions.len() as u64 {
        return Ok(vec![Change::Applied; completions.len()]);
    }
    let mut answers = Vec::with_capacity(completions.len());
    for asked in completions {
        answers.push(complete(connection, asked).await?);
    }
    Ok(answers)
}

/// One release, abandonment, suspension or revocation. The second statement of a release is for a record with steps,
/// which the first has left as it is; between the two only the token's own calls change it.
pub(super) async fn end(
    connection: &mut SqliteConnection,
    end: &End,
) -> Result<Change, sqlx::Error> {
    let (statements, token): (&[_], _) = match &end.transition {
        Transition::Release(token) => (&[RELEASE, SUSPEND], token),
        Transition::Abandon(token) => (&[ABANDON], token),
        Transition::Suspend(token) => (&[SUSPEND], token),
        Transition::Revoke(attempt) => {
            let done = sqlx::query(REVOKE)
                .bind(end.id.as_bytes().as_slice())
                .bind(*attempt)
                .execute(connection)
                .await?;
            return Ok(changed(&done));
        }
    };
    for statement in statements {
        let done = sqlx::query(*statement)
            .bind(end.id.as_bytes().as_slice())
            .bind(token.as_bytes().as_slice())
            .execute(&mut *connection)
            .await?;
        if changed(&done) == Change::Applied {
            return Ok(Change::Applied);
        }
    }
    Ok(Change::LeaseLost)
}

/// One checkpoint.
pub(super) async fn checkpoint(
    connection: &mut SqliteConnection,
    checkpoint: &Checkpoint,
) -> Result<Change, sqlx::Error> {
    let Checkpoint { lease, at, steps } = checkpoint;
    let done = sqlx::query(CHECKPOINT)
        .bind(lease.id.as_bytes().as_slice())
        .bind(lease.token.as_bytes().as_slice())
        // No record has so many.
        .bind(i64::try_from(*at).unwrap_or(i64::MAX))
        .bind(&steps[..])
        .execute(connection)
        .await?;
    Ok(changed(&done))
}

/// Forgets one record, unless its lease is alive or it is not as it was seen.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    Removal { id, seen }: &Removal,
) -> Result<Forgotten, sqlx::Error> {
    loop {
        let done = sqlx::query(FORGET)
            .bind(id.as_bytes().as_slice())
            .bind(seen.map(|seen| seen.attempt))
            .bind(seen.map(|seen| seen.state.as_str()))
            .execute(&mut *connection)
            .await?;
        if done.rows_affected() > 0 {
            return Ok(Forgotten::Removed);
        }
        match look(connection, id, None).await? {
            None => return Ok(Forgotten::Absent),
            Some(record) => {
                if let Some(lease_left) = record.lease_left() {
                    return Ok(Forgotten::Running { lease_left });
                }
                if seen.is_some_and(|seen| seen != record.seen()) {
                    return Ok(Forgotten::NotAsSeen);
                }
                // The lease ended between the two statements.
            }
        }
    }
}

/// One page of the records.
pub(super) async fn list(
    connection: &mut SqliteConnection,
    listing: &Listing,
) -> Result<Page, sqlx::Error> {
    // One more than is asked for tells that there are more.
    let limit = i64::try_from(listing.limit() + 1).unwrap_or(i64::MAX);
    let rows = sqlx::query(LIST)
        .bind(record::listed_to(listing))
        .bind(limit)
        .bind(listing.state.map(RecordState::as_str))
        .bind(listing.operation.as_ref().and_then(name))
        .fetch_all(connection)
        .await?;
    record::page(&rows, listing)
}

/// The time by the clock of all statements, in milliseconds since 1970.
pub(super) async fn time(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(TIME).fetch_one(connection).await
}

/// How far a test has moved the clock, in milliseconds.
pub(super) async fn clock_offset(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT clock_offset_ms FROM idem_schema")
        .fetch_one(connection)
        .await
}

/// How long the oldest expired record is expired, in milliseconds. `None`: there is none.
pub(super) async fn oldest_expired(
    connection: &mut SqliteConnection,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(OLDEST_EXPIRED)
        .fetch_one(connection)
        .await
}

fn changed(done: &SqliteQueryResult) -> Change {
    match done.rows_affected() {
        0 => Change::LeaseLost,
        _ => Change::Applied,
    }
}

/// Which of the records are running, each with the token that holds it.
pub(super) async fn running(
    connection: &mut SqliteConnection,
    ids: impl IntoIterator<Item = &RecordId>,
) -> Result<Vec<(RecordId, Option<Token>)>, sqlx::Error> {
    let quoted: Vec<_> = ids.into_iter().map(|id| format!("\"{id}\"")).collect();
    let rows = sqlx::query(RUNNING)
        .bind(format!("[{}]", quoted.join(",")))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let id = record::array(row.try_get("id")?)?;
            Ok((RecordId::from_bytes(id), record::token(row)?))
        })
        .collect()
}

/// Deletes up to `batch` expired records, and returns how many: fewer if their outcomes are large, and 0
/// only if there is none.
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    batch: u32,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(SWEEP)
        .bind(batch)
        .bind(MAX_SWEPT_BYTES)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// A number that changes when another connection commits.
pub(super) async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version")
        .fetch_one(connection)
        .await
}

/// Runs a statement without parameters.
pub(super) async fn execute(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(drop)
}
