//! What an operator does about a record: the same rules as for any attempt, a log before and after, and
//! only what the operator has seen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use idem_core::Outcome;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::answers::{NO_RECORD, Refused, failed, milliseconds};
use super::audit::{Action, Change, Stage};
use super::records::{NOT_AN_ID, state_of};
use super::state::State as Shared;
use crate::store::{Forgotten, RecordState, Seen, Token};
use crate::{
    Engine, Error, Inspection, Operation, Phase, RecordId, Resolution, Revocation, Verdict,
};

const READ_ONLY: Refused = Refused::new(
    StatusCode::FORBIDDEN,
    "read-only",
    "This dashboard is read-only. The program allows changes with `Dashboard::allow_changes`.",
);

const NO_ACTION: Refused = Refused::new(
    StatusCode::NOT_FOUND,
    "not-found",
    "An action is release, resolve or forget.",
);

const NO_REASON: Refused = Refused::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "no-reason",
    "Say why, in 1 to 1,000 characters.",
);

const CHANGED_MEANWHILE: Refused = Refused::new(
    StatusCode::CONFLICT,
    "changed-meanwhile",
    "Nothing was changed: the record is not as you have seen it any more. Look again.",
);

const FINISHED: Refused = Refused::new(
    StatusCode::CONFLICT,
    "finished",
    "Nothing was changed: the record is finished, and its answer stays.",
);

const NO_ANSWER: Refused = Refused::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "no-answer",
    "Give the answer that retries get.",
);

const ANSWER_NOT_ACCEPTABLE: Refused = Refused::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "answer-not-acceptable",
    "That is no answer: a status is 200 to 599, and headers are a name and a value of visible characters.",
);

const NOT_JSON: Refused = Refused::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "not-json",
    "A function's value is JSON, and this is none.",
);

const ANSWER_TOO_LARGE: Refused = Refused::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "answer-too-large",
    "The answer is larger than what the engine stores.",
);

const ONLY_REVOKED: Refused = Refused::new(
    StatusCode::CONFLICT,
    "only-revoked",
    "The lease was taken away, and nothing else was changed: the record was claimed, freed or resolved meanwhile. Look again.",
);

const NO_REVOCATION: Refused = Refused::new(
    StatusCode::NOT_IMPLEMENTED,
    "no-revocation",
    "Nothing was changed: this store cannot take a lease away.",
);

const NOT_LOGGED: Refused = Refused::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "not-logged",
    "Nothing was changed: the audit log could not be written.",
);

const BROKEN_OFF: Refused = Refused::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "broken-off",
    "The change was broken off. Look at the record.",
);

const MAX_REASON: usize = 1000;

#[derive(Deserialize)]
struct Asked {
    /// The attempt that the operator has seen,
    attempt: u32,
    /// in this state.
    state: String,
    /// Takes the lease from that attempt if it holds one.
    #[serde(default)]
    force: bool,
    reason: String,
    answer: Option<Answer>,
    /// How long an answer is kept; as long as the record says unless given.
    keep_for_seconds: Option<u64>,
}

/// What did happen.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Answer {
    Response {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// A function's value.
    Value { json: String },
    /// Its error, where it stores errors.
    Failure { json: String },
}

impl Answer {
    fn outcome(self, engine: &Engine) -> Result<Outcome, Refused> {
        match self {
            Self::Value { json } => Ok(Outcome::Value(checked(json)?)),
            Self::Failure { json } => Ok(Outcome::Failure(checked(json)?)),
            Self::Response {
                status,
                headers,
                body,
            } => {
                let mut response = http::Response::new(Bytes::from(body));
                let status = StatusCode::from_u16(status).ok();
                let status = status.filter(|status| (200..600).contains(&status.as_u16()));
                *response.status_mut() = status.ok_or(ANSWER_NOT_ACCEPTABLE)?;
                for (name, value) in headers {
                    let name = HeaderName::try_from(name).map_err(|_| ANSWER_NOT_ACCEPTABLE)?;
                    let value = HeaderValue::try_from(value).map_err(|_| ANSWER_NOT_ACCEPTABLE)?;
                    let appended = response.headers_mut().try_append(name, value);
                    appended.map_err(|_| ANSWER_NOT_ACCEPTABLE)?;
                }
                Ok(crate::http::outcome_of(&response, engine.http()))
            }
        }
    }
}

fn checked(json: String) -> Result<Bytes, Refused> {
    match serde_json::from_str::<IgnoredAny>(&json) {
        Ok(_) => Ok(json.into()),
        Err(_) => Err(NOT_JSON),
    }
}

/// What is to be done.
enum Plan {
    Settle(Verdict),
    Forget,
}

impl Plan {
    fn answer(&self) -> Option<Outcome> {
        match self {
            Self::Settle(Verdict::Final(outcome)) => Some(outcome.clone()),
            _ => None,
        }
    }
}

pub(super) async fn change(
    State(shared): State<Arc<Shared>>,
    Path((id, action)): Path<(String, String)>,
    request: Request,
) -> Response {
    if !shared.allow_changes {
        return READ_ONLY.into_response();
    }
    let Ok(id) = id.parse::<RecordId>() else {
        return NOT_AN_ID.into_response();
    };
    let action = match &*action {
        "release" => Action::Release,
        "resolve" => Action::Resolve,
        "forget" => Action::Forget,
        _ => return NO_ACTION.into_response(),
    };
    let (head, body) = request.into_parts();
    let copy = Request::from_parts(head.clone(), body);
    let asked = match Json::<Asked>::from_request(copy, &()).await {
        Ok(Json(asked)) => asked,
        Err(rejected) => return rejected.into_response(),
    };
    // It goes on when the operator's connection is gone.
    let changing = tokio::spawn(async move {
        let changed = perform(&shared, id, action, asked, Arc::new(head)).await;
        changed.unwrap_or_else(|refused| refused)
    });
    changing
        .await
        .unwrap_or_else(|_| BROKEN_OFF.into_response())
}

async fn perform(
    shared: &Shared,
    id: RecordId,
    action: Action,
    asked: Asked,
    head: Arc<http::request::Parts>,
) -> Result<Response, Response> {
    let reason = asked.reason.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON {
        return Err(NO_REASON.into_response());
    }
    let engine = &shared.engine;
    let plan = plan(engine, action, asked.answer).map_err(IntoResponse::into_response)?;
    let found = engine.operation("").inspect_record(&id).await;
    let found = found.map_err(|error| failed(&error))?;
    let found = found.ok_or_else(|| NO_RECORD.into_response())?;
    let state = state_of(&found);
    let lease_left = match found.phase {
        Phase::Running { lease_left } => lease_left,
        _ => None,
    };
    if let Some(left) = lease_left.filter(|_| !asked.force) {
        return Err(still_running(left));
    }
    if state == RecordState::Finished && action != Action::Forget {
        return Err(FINISHED.into_response());
    }
    if found.attempt != asked.attempt || state.as_str() != asked.state {
        return Err(CHANGED_MEANWHILE.into_response());
    }
    let mut change = Change {
        id: u128::from_le_bytes(*Token::random().as_bytes()),
        action,
        record: id,
        operation: found.operation.as_str().to_owned(),
        state,
        attempt: found.attempt,
        forced: lease_left.is_some(),
        answer: plan.answer(),
        reason: reason.to_owned(),
        stage: Stage::Before,
        request: head,
    };
    if shared.audit.write(&change).await.is_err() {
        return Err(NOT_LOGGED.into_response());
    }
    let mut operation = engine.operation(change.operation.clone());
    let keep_for = asked.keep_for_seconds.map(Duration::from_secs);
    if let Some(ttl) = keep_for.or_else(|| retention_of(&found)) {
        operation = operation.ttl(ttl);
    }
    let (stage, answer) = carry_out(engine, &operation, &change, plan).await;
    change.stage = stage;
    tracing::warn!(
        target: "idem",
        operation = change.operation,
        record = %id,
        attempt = change.attempt,
        %action,
        forced = change.forced,
        stage = ?stage,
        "an operator has changed a record"
    );
    shared.counts.is_due().await;
    // It is made or not by now: the log says so of itself.
    let _ = shared.audit.write(&change).await;
    Ok(answer)
}

/// The operation's own, at least: what is left of the record, and what has passed since it was claimed.
fn retention_of(found: &Inspection) -> Option<Duration> {
    let age = SystemTime::now().duration_since(found.claimed_at?).ok()?;
    Some(found.kept_for?.saturating_add(age))
}

fn plan(engine: &Engine, action: Action, answer: Option<Answer>) -> Result<Plan, Refused> {
    match action {
        Action::Release => Ok(Plan::Settle(Verdict::Released)),
        Action::Forget => Ok(Plan::Forget),
        Action::Resolve => {
            let outcome = answer.ok_or(NO_ANSWER)?.outcome(engine)?;
            match outcome.encode().len() > engine.max_outcome_bytes() {
                true => Err(ANSWER_TOO_LARGE),
                false => Ok(Plan::Settle(Verdict::Final(outcome))),
            }
        }
    }
}

/// The lease first, from the attempt that was seen and from no other.
async fn carry_out(
    engine: &Engine,
    operation: &Operation,
    change: &Change,
    plan: Plan,
) -> (Stage, Response) {
    if !change.forced {
        return settle(engine, operation, change, plan).await;
    }
    match engine.revoke(&change.record, change.attempt).await {
        Ok(Revocation::Revoked) => {}
        Ok(Revocation::NotHeld) => return (Stage::NotMade, CHANGED_MEANWHILE.into_response()),
        Ok(_) => return (Stage::NotMade, NO_REVOCATION.into_response()),
        Err(error) => return (stage_of(&error), failed(&error)),
    }
    match settle(engine, operation, change, plan).await {
        (Stage::NotMade, _) => (Stage::OnlyRevoked, ONLY_REVOKED.into_response()),
        ended => ended,
    }
}

async fn settle(
    engine: &Engine,
    operation: &Operation,
    change: &Change,
    plan: Plan,
) -> (Stage, Response) {
    let Change {
        record: id,
        attempt,
        ..
    } = change;
    let made = || {
        (
            Stage::Made,
            Json(json!({ "changed": true })).into_response(),
        )
    };
    let not_made = |why: Response| (Stage::NotMade, why);
    match plan {
        Plan::Settle(verdict) => match operation.resolve_attempt(id, *attempt, verdict).await {
            Ok(Resolution::Resolved) => made(),
            Ok(Resolution::NoRecord) => not_made(NO_RECORD.into_response()),
            Ok(Resolution::StillRunning { lease_left }) => not_made(still_running(lease_left)),
            Ok(Resolution::Finished) => not_made(FINISHED.into_response()),
            Ok(_) => not_made(CHANGED_MEANWHILE.into_response()),
            Err(error) => (stage_of(&error), failed(&error)),
        },
        Plan::Forget => match engine.forget_seen(id, seen(change)).await {
            Ok(Forgotten::Removed) => made(),
            Ok(Forgotten::Absent) => not_made(NO_RECORD.into_response()),
            Ok(Forgotten::Running { lease_left }) => not_made(still_running(lease_left)),
            Ok(_) => not_made(CHANGED_MEANWHILE.into_response()),
            Err(error) => (stage_of(&error), failed(&error)),
        },
    }
}

/// What is to be forgotten. A lease that was taken away has left a crashed attempt.
const fn seen(change: &Change) -> Seen {
    let state = match change.state {
        RecordState::Running => RecordState::Crashed,
        state => state,
    };
    Seen::new(change.attempt, state)
}

/// A resolution is several calls: after a failure it may be half done.
const fn stage_of(error: &Error) -> Stage {
    match error {
        Error::Store(_) => Stage::Unknown,
        _ => Stage::NotMade,
    }
}

fn still_running(lease_left: Duration) -> Response {
    let body = json!({
        "error": "still-running",
        "message": "Nothing was changed: an attempt is running, and holds the record.",
        "lease_left_ms": milliseconds(lease_left),
    });
    (StatusCode::CONFLICT, Json(body)).into_response()
}
