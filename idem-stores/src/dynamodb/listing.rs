//! Records page by page.
//!
//! | asked for | read |
//! |---|---|
//! | finished records, or all | the table, a page of a scan |
//! | running, crashed or suspended ones | the index `unfinished`, and then these items in the table; without the index, the table |
//!
//! An item of the index holds its keys and no more, so that only the beginning and the end of an attempt
//! change the index. What a record says is read from the table, strongly consistent.

use aws_sdk_dynamodb::types::AttributeValue;
use idem_core::{Cursor, Listed, Listing, Page, RecordId, RecordState, StoreError};

use super::NAME;
use super::calls::{Answer, Calls, Expression, Scan};
use super::errors::Said;
use super::record::{self, ID, Item, OPERATION, Record, STATE, UNFINISHED};

/// The most records that are read by their ids in one call.
const MOST_BY_ID: usize = 100;

/// What a cursor begins with.
const OF_TABLE: &str = "table:";
const OF_INDEX: &str = "index:";

pub(super) async fn page(calls: &Calls, listing: &Listing) -> Result<Page, StoreError> {
    let _permit = calls.lanes.listing().await?;
    let (is_of_index, after) = match &listing.after {
        None => (None, None),
        Some(cursor) => {
            let (is_of_index, id) = read(cursor)?;
            (Some(is_of_index), Some(id))
        }
    };
    let is_unfinished = listing
        .state
        .is_some_and(|state| state != RecordState::Finished);
    // A listing stays where it began.
    if is_of_index == Some(true) || is_of_index.is_none() && is_unfinished {
        match of_index(calls, listing, after).await {
            // Then it has not begun there.
            Err(StoreError::Rejected { .. }) if after.is_none() => {}
            page => return page,
        }
    }
    of_table(calls, listing, after).await
}

fn read(cursor: &Cursor) -> Result<(bool, RecordId), StoreError> {
    let text = cursor.as_str();
    let (is_of_index, id) = match (text.strip_prefix(OF_TABLE), text.strip_prefix(OF_INDEX)) {
        (Some(id), _) => (false, id.parse()),
        (_, Some(id)) => (true, id.parse()),
        _ => return Err(not_a_cursor()),
    };
    id.map(|id| (is_of_index, id)).map_err(|_| not_a_cursor())
}

fn not_a_cursor() -> StoreError {
    let why = "this cursor is not one that a dynamodb store has made";
    StoreError::rejected(NAME, Said::new(why))
}

async fn of_table(
    calls: &Calls,
    listing: &Listing,
    after: Option<RecordId>,
) -> Result<Page, StoreError> {
    let answer = calls
        .scan(Scan {
            index: None,
            attributes: record::LISTED,
            limit: listing.limit(),
            filter: filter(listing),
            after: after.as_ref().map(record::key),
        })
        .await?;
    let next = answer.value.1.as_ref().and_then(id_of);
    let records = listed(calls, listing, answer.date(), answer.value.0)?;
    Ok(Page::new(records, next.map(|id| cursor(OF_TABLE, &id))))
}

async fn of_index(
    calls: &Calls,
    listing: &Listing,
    after: Option<RecordId>,
) -> Result<Page, StoreError> {
    let key = |id: &RecordId| {
        let mut key = record::key(id);
        key.insert(UNFINISHED.to_owned(), record::index_value(id));
        key
    };
    let found = calls
        .scan(Scan {
            index: Some(UNFINISHED),
            attributes: ID,
            limit: listing.limit().min(MOST_BY_ID),
            filter: None,
            after: after.as_ref().map(key),
        })
        .await?;
    let (items, last) = found.value;
    let ids: Vec<_> = items.iter().filter_map(id_of).collect();
    let next = last.as_ref().and_then(id_of);
    let mut records = Vec::new();
    if !ids.is_empty() {
        let answer = calls.get_many(&ids).await?;
        let date = answer.date();
        let Answer {
            value: (items, unread),
            ..
        } = answer;
        if unread > 0 {
            let why = "the table's capacity does not reach for a page of records";
            return Err(StoreError::not_ready(NAME, Said::new(why)));
        }
        records = listed(calls, listing, date, items)?;
    }
    Ok(Page::new(records, next.map(|id| cursor(OF_INDEX, &id))))
}

/// Sorts out in the service what need not be sent. The state of a running record depends on the clock.
fn filter(listing: &Listing) -> Option<Expression> {
    let operation = listing.operation.as_ref().map(|operation| {
        let name = AttributeValue::S(operation.as_str().to_owned());
        (format!("{OPERATION} = :o"), ":o", name)
    });
    let state = listing.state.map(|state| {
        let finished = AttributeValue::S("f".to_owned());
        let sign = match state {
            RecordState::Finished => "=",
            _ => "<>",
        };
        (format!("{STATE} {sign} :f"), ":f", finished)
    });
    let mut parts = operation.into_iter().chain(state);
    let (text, name, value) = parts.next()?;
    let first = Expression::new(text).value(name, value);
    Some(parts.fold(first, |all, (text, name, value)| {
        all.and(&text).value(name, value)
    }))
}

fn id_of(item: &Item) -> Option<RecordId> {
    let id = item.get(ID)?.as_b().ok()?;
    Some(RecordId::from_bytes(id.as_ref().try_into().ok()?))
}

fn cursor(prefix: &str, id: &RecordId) -> Cursor {
    Cursor::new(format!("{prefix}{id}"))
}

/// Those that are asked for. What cannot be read is left out.
fn listed(
    calls: &Calls,
    listing: &Listing,
    date: i64,
    items: Vec<Item>,
) -> Result<Vec<Listed>, StoreError> {
    let now = calls.now()?;
    let records = items.into_iter().filter_map(|item| Record::read(item).ok());
    let kept = records.filter(|record| !record.is_expired(date));
    let listed = kept.map(|record| record.listed(date, now));
    Ok(listed
        .filter(|listed| listing.includes(listed.state, &listed.operation))
        .collect())
}
