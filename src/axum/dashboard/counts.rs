//! How many records there are, without reading the whole store for each look.
//!
//! A count is a pass through the store, of so many records at a time and no sooner than so often, and only
//! while somebody looks. A store that is larger than that is counted over several looks: until its first
//! pass has come to the end, the page says "at least".

mod tally;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::answers::{failed, milliseconds, timestamp};
use super::records::listed;
use super::state::State as Shared;
use crate::store::{Cursor, Listing, RecordState};
use crate::{Engine, Error};
use tally::{Range, STATES, Tally};

/// How often the store is read on.
const EVERY: Duration = Duration::from_secs(10);
/// How many pages are read then,
const PAGES: usize = 20;
/// how many records are on each,
const PAGE: usize = Listing::MAX_LIMIT;
/// and how long it may take before the page gets what is there.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct Counts(Mutex<Passes>);

#[derive(Default)]
struct Passes {
    read_at: Option<Instant>,
    /// The pass that is under way, and where it goes on.
    current: Option<(Tally, Cursor)>,
    /// The newest one that has come to the end.
    complete: Option<Tally>,
}

impl Counts {
    /// The newest count, read on where it is time.
    async fn look<T>(
        &self,
        engine: &Engine,
        show: impl FnOnce(&Tally, bool) -> T,
    ) -> Result<T, Error> {
        let mut passes = self.0.lock().await;
        let is_recent = passes.read_at.is_some_and(|at| at.elapsed() < EVERY);
        if !is_recent {
            passes.read_on(engine).await?;
        }
        let Passes {
            complete, current, ..
        } = &*passes;
        let none = Tally::begun(SystemTime::now());
        let (tally, is_complete) = match (complete, current) {
            (Some(complete), _) => (complete, true),
            (None, Some((current, _))) => (current, false),
            (None, None) => (&none, true),
        };
        Ok(show(tally, is_complete))
    }

    /// The next look reads on: an operator has changed something, and will look.
    pub(super) async fn is_due(&self) {
        self.0.lock().await.read_at = None;
    }
}

impl Passes {
    async fn read_on(&mut self, engine: &Engine) -> Result<(), Error> {
        // Taken out: a pass whose cursor the store does not know any more begins anew.
        let (mut tally, mut after) = match self.current.take() {
            Some((tally, after)) => (tally, Some(after)),
            None => (Tally::begun(SystemTime::now()), None),
        };
        let began = Instant::now();
        for _ in 0..PAGES {
            let mut listing = Listing::new(PAGE);
            listing.after = after.take();
            let page = engine.list(&listing).await?;
            page.records.iter().for_each(|record| tally.add(record));
            tally.counted_at = SystemTime::now();
            after = page.next;
            if after.is_none() || began.elapsed() > PATIENCE {
                break;
            }
        }
        self.read_at = Some(Instant::now());
        match after {
            Some(after) => self.current = Some((tally, after)),
            None => self.complete = Some(tally),
        }
        Ok(())
    }
}

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
