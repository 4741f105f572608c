//! Looks at records: a list of them, and one with all that may be seen of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use idem_core::{Key, KeyError, KeyPart, Outcome};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answers::{NO_RECORD, Refused, failed, milliseconds, timestamp};
use super::state::State as Shared;
use crate::store::{Cursor, Listed, Listing, RecordState, Seen};
use crate::{Error, Inspection, Phase, RecordId};

/// The most records of one answer.
const MAX_LIMIT: usize = 200;
/// A store's pages may be short: so many are asked for one answer,
const PAGES: usize = 20;
/// and no more after so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most that is shown of one body or value, in bytes.
const MAX_SHOWN: usize = 64 * 1024;

const BODIES_HIDDEN: Refused = Refused::new(
    StatusCode::FORBIDDEN,
    "bodies-hidden",
    "Bodies are not shown here. The program allows it with `Dashboard::show_bodies`.",
);

pub(super) const NOT_AN_ID: Refused = Refused::new(
    StatusCode::BAD_REQUEST,
    "not-an-id",
    "A record's id is 64 hexadecimal digits, as log lines have it.",
);

const NO_STATE: Refused = Refused::new(
    StatusCode::BAD_REQUEST,
    "no-such-state",
    "A state is running, crashed, suspended or finished.",
);

/// A record as it is listed.
pub(super) fn listed(record: &Listed) -> Value {
    json!({
        "id": record.id.to_string(),
        "state": record.state.as_str(),
        "operation": record.operation.as_str(),
        "attempt": record.attempt,
        "claimed_at": record.claimed_at.and_then(timestamp),
        "lease_left_ms": record.lease_left.map(milliseconds),
        "kept_for_ms": milliseconds(record.kept_for),
        "bytes": record.bytes,
    })
}

#[derive(Deserialize)]
pub(super) struct Asked {
    state: Option<String>,
    operation: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Response {
    let limit = asked.limit.unwrap_or(50).clamp(1, MAX_LIMIT);
    let state = match asked.state.as_deref() {
        None | Some("") => None,
        Some(word) => {
            let mut states = RecordState::ALL.into_iter();
            match states.find(|state| state.as_str() == word) {
                Some(state) => Some(state),
                None => return NO_STATE.into_response(),
            }
        }
    };
    let operation = asked.operation.filter(|name| !name.is_empty());
    let mut after = asked.after.map(Cursor::new);
    let mut found = Vec::new();
    let began = Instant::now();
    for _ in 0..PAGES {
        let mut listing = Listing::new(limit - found.len());
        listing.state = state;
        if let Some(name) = &operation {
            listing = listing.of_operation(name);
        }
        listing.after = after.take();
        match shared.engine.list(&listing).await {
            Ok(page) => {
                found.extend(page.records.iter().map(listed));
                after = page.next;
            }
            Err(error) => return failed(&error),
        }
        if after.is_none() || found.len() >= limit || began.elapsed() > PATIENCE {
            break;
        }
    }
    let next = after.as_ref().map(Cursor::as_str);
    Json(json!({ "records": found, "next": next })).into_response()
}

#[derive(Deserialize)]
pub(super) struct Shown {
    #[serde(default)]
    bodies: bool,
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(Shown { bodies }): Query<Shown>,
) -> Response {
    let Ok(id) = id.parse::<RecordId>() else {
        return NOT_AN_ID.into_response();
    };
    if bodies && !shared.show_bodies {
        return BODIES_HIDDEN.into_response();
    }
    match shared.engine.operation("").inspect_record(&id).await {
        Ok(Some(found)) => Json(inspected(&id, &found, bodies)).into_response(),
        Ok(None) => NO_RECORD.into_response(),
        Err(error) => failed(&error),
    }
}

/// Where an inspected record is in its life.
pub(super) const fn state_of(found: &Inspection) -> RecordState {
    Seen::of(found).state
}

fn inspected(id: &RecordId, found: &Inspection, bodies: bool) -> Value {
    let lease_left = match found.phase {
        Phase::Running { lease_left } => lease_left.map(milliseconds),
        _ => None,
    };
    let outcome = match &found.phase {
        Phase::Finished { outcome } => Some(stored(outcome, bodies)),
        _ => None,
    };
    let values = found.finished_step_values();
    let is_unreadable = values.is_none();
    let values = values.unwrap_or_default();
    let steps: Vec<_> = values
        .iter()
        .map(|(name, value)| {
            let shown = bodies.then(|| text(value));
            json!({ "name": name, "bytes": value.len(), "value": shown })
        })
        .collect();
    let fingerprint = found.fingerprint.to_bytes();
    let fingerprint: String = fingerprint[1..7]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({
        "id": id.to_string(),
        "state": state_of(found).as_str(),
        "operation": found.operation.as_str(),
        "attempt": found.attempt,
        "claimed_at": found.claimed_at.and_then(timestamp),
        "lease_left_ms": lease_left,
        "kept_for_ms": found.kept_for.map(milliseconds),
        "fingerprint": fingerprint,
        "steps": steps,
        "steps_unreadable": is_unreadable,
        "outcome": outcome,
    })
}

fn stored(encoded: &Bytes, bodies: bool) -> Value {
    let shown = |content: &[u8]| bodies.then(|| text(content));
    match Outcome::decode(encoded) {
        Ok(Outcome::Value(json)) => {
            json!({ "kind": "value", "bytes": json.len(), "body": shown(&json) })
        }
        Ok(Outcome::Failure(json)) => {
            json!({ "kind": "failure", "bytes": json.len(), "body": shown(&json) })
        }
        Ok(Outcome::Rpc(answer)) => json!({ "kind": "rpc", "bytes": answer.len() }),
        Ok(Outcome::NotReplayable(reason)) => {
            json!({ "kind": "tombstone", "bytes": 0, "why": super::answers::capitalised(&reason.to_string()) })
        }
        Ok(outcome @ Outcome::Response(_)) => match crate::http::replay(&outcome) {
            Ok(response) => json!({
                "kind": "response",
                "status": response.status().as_u16(),
                "reason": response.status().canonical_reason(),
                "headers": headers(response.headers(), bodies),
                "bytes": response.body().len(),
                "body": shown(response.body()),
            }),
            Err(_) => json!({ "kind": "unreadable", "bytes": encoded.len() }),
        },
        _ => json!({ "kind": "unreadable", "bytes": encoded.len() }),
    }
}

/// Names always, values where bodies are shown.
fn headers(headers: &HeaderMap, bodies: bool) -> Vec<Value> {
    let stored = headers
        .iter()
        .filter(|(name, _)| *name != crate::http::IDEMPOTENT_REPLAYED);
    stored
        .map(|(name, value)| {
            let value = bodies.then(|| String::from_utf8_lossy(value.as_bytes()).into_owned());
            json!({ "name": name.as_str(), "value": value })
        })
        .collect()
}

/// What can be read, up to the bound.
fn text(content: &[u8]) -> Value {
    let shown = &content[..content.len().min(MAX_SHOWN)];
    let is_text = match std::str::from_utf8(shown) {
        Ok(_) => true,
        // The bound has cut a character.
        Err(error) => error.error_len().is_none() && shown.len() < content.len(),
    };
    let written = match is_text {
        true => String::from_utf8_lossy(shown).into_owned(),
        false => {
            let lines = shown.chunks(32).take(64).map(|line| {
                let bytes: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                bytes.join(" ")
            });
            lines.collect::<Vec<_>>().join("\n")
        }
    };
    let left_out = match is_text {
        true => content.len() - shown.len(),
        false => content.len().saturating_sub(32 * 64),
    };
    json!({ "text": written, "is_text": is_text, "left_out": left_out })
}

/// What an operator knows of a record. It is sent as a body: keys do not belong in addresses, which are
/// logged.
#[derive(Deserialize)]
pub(super) struct Named {
    operation: String,
    /// The parts of the scope; none where there is no scope.
    #[serde(default)]
    scope: Vec<String>,
    /// The parts of the key.
    key: Vec<String>,
    /// The key is as the header has it, quoted or bare.
    #[serde(default)]
    from_header: bool,
}

/// A key or a scope of several parts. Text, numbers and UUIDs are alike.
struct Parts(Vec<String>);

impl KeyPart for Parts {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.0.iter().for_each(|part| key.push(part.as_bytes()));
        Ok(())
    }
}

pub(super) async fn find(State(shared): State<Arc<Shared>>, Json(named): Json<Named>) -> Response {
    match record_id(&shared, named) {
        Ok(id) => Json(json!({ "id": id.to_string() })).into_response(),
        Err(error) => failed(&error),
    }
}

fn record_id(shared: &Shared, named: Named) -> Result<RecordId, Error> {
    let mut key = named.key;
    if named.from_header {
        for part in &mut key {
            *part = crate::http::key_as_sent(part).map_err(Error::Key)?;
        }
    }
    let scope = (!named.scope.is_empty()).then_some(Parts(named.scope));
    let operation = shared.engine.operation(named.operation);
    operation.scope(&scope).record_id(&Parts(key))
}
