//! The statements, on any connection to the database: inside of a transaction or not, each
//! transition is judged by itself, by the time that the statement reads.
//!
//! A statement that writes is always run to its end. Outside of a transaction it commits when it
//! ends, and the driver would not tell of a commit that failed behind the first row.

mod many;

use idem_core::{Change as Changed, Claim, Claimed, Fingerprint, OnCrash, RecordId, Token};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::record::{self, Record, millis};
use super::writes::{Change, Completion, To};
use many::Many;
pub(super) use many::MANY;

/// A statement that begins by looking at the clock: the one place where time is read.
macro_rules! on_the_clock {
    ($file:literal) => {
        concat!(
            include_str!("statements/clock.sql"),
            include_str!(concat!("statements/", $file, ".sql"))
        )
    };
}

static CLAIM: Many = Many::new(on_the_clock!("claim"), "(?, ?, ?, ?, ?)");
static COMPLETE: Many = Many::new(on_the_clock!("complete"), "(?, ?, ?, ?)");
const RENEW: &str = on_the_clock!("renew");
const RELEASE: &str = on_the_clock!("release");
const ABANDON: &str = on_the_clock!("abandon");
const LOOK: &str = on_the_clock!("look");
const RUNNING: &str = on_the_clock!("running");
const SWEEP: &str = on_the_clock!("sweep");

/// One claim.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    claim: &Claim,
) -> Result<Claimed, sqlx::Error> {
    loop {
        let acquired = acquire(&mut *connection, &[claim], claim.on_crash).await?;
        if let [Some(answer)] = &acquired[..] {
            return Ok(answer.clone());
        }
        if let Some(answer) = answer(connection, claim).await? {
            return Ok(answer);
        }
        // It ended between the two looks, and is free.
    }
}

/// Up to [`MANY`] claims of one policy, each judged by itself: those that acquire their record.
/// What the others find is [`claim`]'s to say.
pub(super) async fn acquire(
    connection: &mut SqliteConnection,
    claims: &[&Claim],
    on_crash: OnCrash,
) -> Result<Vec<Option<Claimed>>, sqlx::Error> {
    let mut query = CLAIM.of(claims.len()).bind(on_crash == OnCrash::Rerun);
    for claim in claims {
        query = query
            .bind(claim.id.as_bytes().as_slice())
            .bind(claim.fingerprint.to_bytes().as_slice())
            .bind(claim.token.as_bytes().as_slice())
            .bind(millis(claim.lease))
            .bind(millis(claim.retention));
    }
    let acquired = query.fetch_all(connection).await?;
    let answers = claims.iter().map(|claim| {
        let row = find(&acquired, &claim.id, &claim.token)?;
        row.map(|row| {
            let attempt = record::attempt(row)?;
            Ok(Claimed::Acquired { attempt })
        })
        .transpose()
    });
    answers.collect()
}

/// The row of this record and this token.
fn find<'a>(
    rows: &'a [SqliteRow],
    id: &RecordId,
    token: &Token,
) -> Result<Option<&'a SqliteRow>, sqlx::Error> {
    for row in rows {
        let (of, by): (&[u8], &[u8]) = (row.try_get("id")?, row.try_get("token")?);
        if of == id.as_bytes() && by == token.as_bytes() {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// The answer to a claim that changes nothing. `None` is to write the claim.
pub(super) async fn answer(
    connection: &mut SqliteConnection,
    claim: &Claim,
) -> Result<Option<Claimed>, sqlx::Error> {
    let record = look(connection, &claim.id, Some(&claim.fingerprint)).await?;
    Ok(record.and_then(|record| record.answer(claim)))
}

/// The record, with its outcome where the fingerprint is this one or any will do.
pub(super) async fn look(
    connection: &mut SqliteConnection,
    id: &RecordId,
    fingerprint: Option<&Fingerprint>,
) -> Result<Option<Record>, sqlx::Error> {
    let row = sqlx::query(LOOK)
        .bind(id.as_bytes().as_slice())
        .bind(fingerprint.map(|fingerprint| fingerprint.to_bytes().to_vec()))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(Record::read).transpose()
}

/// Up to [`MANY`] completions, each judged by itself.
pub(super) async fn complete(
    connection: &mut SqliteConnection,
    completions: &[&Completion],
) -> Result<Vec<Changed>, sqlx::Error> {
    let mut query = COMPLETE.of(completions.len());
    for completion in completions {
        query = query
            .bind(completion.id.as_bytes().as_slice())
            .bind(completion.token.as_bytes().as_slice())
            .bind(&completion.outcome[..])
            .bind(millis(completion.retention));
    }
    let finished = query.fetch_all(connection).await?;
    let changed = completions.iter().map(|completion| {
        Ok(
            match find(&finished, &completion.id, &completion.token)? {
                Some(_) => Changed::Applied,
                None => Changed::LeaseLost,
            },
        )
    });
    changed.collect()
}

/// Any other change that needs the token.
pub(super) async fn change(
    connection: &mut SqliteConnection,
    change: &Change,
) -> Result<Changed, sqlx::Error> {
    let of = |statement: &'static str| {
        sqlx::query(statement)
            .bind(change.id.as_bytes().as_slice())
            .bind(change.token.as_bytes().as_slice())
    };
    let query = match &change.to {
        To::Renewed { lease, retention } => of(RENEW).bind(millis(*lease)).bind(millis(*retention)),
        To::Absent => of(RELEASE),
        To::Abandoned => of(ABANDON),
    };
    let done = query.execute(connection).await?;
    Ok(match done.rows_affected() {
        0 => Changed::LeaseLost,
        _ => Changed::Applied,
    })
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

/// Deletes up to `batch` records whose time is over, and says how many.
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    batch: u32,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(SWEEP).bind(batch).execute(connection).await?;
    Ok(done.rows_affected())
}

/// Changes whenever another connection has committed something.
pub(super) async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version")
        .fetch_one(connection)
        .await
}
