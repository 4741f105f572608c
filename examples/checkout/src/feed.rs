//! What the server did, for the page to show: executed, given back, refused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use idem::{Decision, Event, EventKind, Observer};
use serde::Serialize;
use tokio::sync::watch;

const KEPT: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);

/// One line of the page's list.
#[derive(Clone, Serialize)]
pub(crate) struct Entry {
    number: u64,
    what: &'static str,
    attempt: Option<u32>,
    record: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Feed(Arc<Inside>);

struct Inside {
    entries: Mutex<VecDeque<Entry>>,
    /// The number of the newest entry, from 1.
    newest: watch::Sender<u64>,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inside {
            entries: Mutex::default(),
            newest: watch::Sender::new(0),
        }))
    }
}

impl Observer for Feed {
    fn observe(&self, event: &Event<'_>) {
        let (what, attempt) = match event.kind {
            // What is executed says so when it starts, with its attempt.
            EventKind::Decided {
                decision: Decision::Executed,
                ..
            } => return,
            EventKind::Decided { decision, .. } => (decision.as_str(), None),
            EventKind::Started { attempt } => ("executed", Some(attempt)),
            EventKind::Finished { attempt } => ("stored", Some(attempt)),
            EventKind::Crashed { attempt, .. } => ("crashed", Some(attempt)),
            EventKind::Released { attempt } => ("released", Some(attempt)),
            _ => return,
        };
        let mut entries = self
            .0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = entries.back().map_or(1, |newest| newest.number + 1);
        entries.push_back(Entry {
            number,
            what,
            attempt,
            record: event.record.map(|record| record.to_string()),
        });
        if entries.len() > KEPT {
            entries.pop_front();
        }
        // Within the lock: of two events the later one is told last.
        self.0.newest.send_replace(number);
    }
}

#[derive(Serialize)]
pub(crate) struct News {
    newest: u64,
    entries: Vec<Entry>,
}

/// Everything that is newer than entry `after`, as soon as there is anything. A page that knows of more
/// entries than there are has seen another process's.
pub(crate) async fn since(State(feed): State<Feed>, Path(after): Path<u64>) -> Json<News> {
    let mut newest = feed.0.newest.subscribe();
    let news = newest.wait_for(|newest| *newest != after);
    let _ = tokio::time::timeout(PATIENCE, news).await;
    let entries = feed
        .0
        .entries
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let newest = entries.back().map_or(0, |entry| entry.number);
    let is_new = |entry: &&Entry| after > newest || entry.number > after;
    Json(News {
        newest,
        entries: entries.iter().filter(is_new).cloned().collect(),
    })
}
