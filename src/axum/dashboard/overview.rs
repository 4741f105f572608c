//! What the first page shows: numbers, and what needs somebody.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::{failed, milliseconds, timestamp};
use super::records::listed;
use super::state::State as Shared;
use super::tally::{Range, STATES, Tally};
use crate::store::RecordState;

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    range: Range,
    /// Of one operation only.
    operation: Option<String>,
}

pub(super) async fn overview(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Response {
    let show = |tally: &Tally, is_complete: bool| shown(tally, is_complete, &asked);
    match shared.counts.look(&shared.engine, show).await {
        Ok(overview) => Json(overview).into_response(),
        Err(error) => failed(&error),
    }
}

fn shown(tally: &Tally, is_complete: bool, asked: &Asked) -> Value {
    let operations: Vec<_> = tally
        .operations()
        .map(|(name, operation)| {
            json!({
                "name": name,
                "counts": operation.counts,
                "bytes": operation.bytes,
                "last_claimed": operation.last_claimed.and_then(timestamp),
                "day": operation.totals(Range::Day),
            })
        })
        .collect();
    let attention: Vec<_> = tally.attention().map(listed).collect();
    let range = asked.range;
    json!({
        "began_at": timestamp(tally.began_at),
        "counted_at": timestamp(tally.counted_at),
        "complete": is_complete,
        "records": tally.records(),
        "states": STATES.map(RecordState::as_str),
        "counts": tally.counts(),
        "operations": operations,
        "operations_left_out": tally.operations_left_out(),
        "attention": attention,
        "bucket_ms": milliseconds(range.bucket()),
        "buckets": tally.buckets(range, asked.operation.as_deref()),
    })
}
