//! What is said of a record. The fields of the JSON form are a promise to scripts: the README lists them.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use idem::store::{Listed, RecordState, Seen};
use idem::{Inspection, NotReplayable, Outcome, Phase, RecordId};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, millis, short, timestamp};

/// A record in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    record: String,
    operation: Option<String>,
    state: &'static str,
    attempt: u32,
    claimed_at: Option<String>,
    age_ms: Option<u64>,
    lease_left_ms: Option<u64>,
    kept_for_ms: u64,
    bytes: usize,
}

impl Summary {
    pub(crate) fn of(listed: &Listed, now: SystemTime) -> Self {
        Self {
            record: listed.id.to_string(),
            operation: name(listed.operation.as_str()),
            state: listed.state.as_str(),
            attempt: listed.attempt,
            claimed_at: listed.claimed_at.and_then(timestamp),
            age_ms: age(listed.claimed_at, now).map(millis),
            lease_left_ms: listed.lease_left.map(millis),
            kept_for_ms: millis(listed.kept_for),
            bytes: listed.bytes,
        }
    }

    /// The line above the first one, for people.
    pub(crate) fn head(output: &mut Output) -> Result<(), Failure> {
        output.line(&format!(
            "{:64}  {:9}  {:>7}  {:>8}  {:>8}  {:>8}  {:>9}  OPERATION",
            "RECORD", "STATE", "ATTEMPT", "AGE", "LEASE", "KEPT FOR", "BYTES"
        ))
    }

    pub(crate) fn write(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.object(self);
        }
        let duration = |millis: Option<u64>| match millis {
            Some(millis) => short(Duration::from_millis(millis)),
            None => "-".to_owned(),
        };
        output.line(&format!(
            "{}  {:9}  {:>7}  {:>8}  {:>8}  {:>8}  {:>9}  {}",
            self.record,
            self.state,
            self.attempt,
            duration(self.age_ms),
            duration(self.lease_left_ms),
            duration(Some(self.kept_for_ms)),
            self.bytes,
            self.operation.as_deref().unwrap_or("(not known)"),
        ))
    }
}

/// How long ago the newest attempt was claimed, by the store's clock.
pub(crate) fn age(claimed_at: Option<SystemTime>, now: SystemTime) -> Option<Duration> {
    claimed_at.map(|at| now.duration_since(at).unwrap_or_default())
}

fn name(operation: &str) -> Option<String> {
    (!operation.is_empty()).then(|| operation.to_owned())
}

/// Where a record is in its life.
pub(crate) const fn state_of(found: &Inspection) -> RecordState {
    Seen::of(found).state
}

pub(crate) const fn lease_left(found: &Inspection) -> Option<Duration> {
    match found.phase {
        Phase::Running { lease_left } => lease_left,
        _ => None,
    }
}

/// One record, looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    record: String,
    operation: Option<String>,
    state: &'static str,
    attempt: u32,
    fingerprint: String,
    claimed_at: Option<String>,
    age_ms: Option<u64>,
    lease_left_ms: Option<u64>,
    kept_for_ms: Option<u64>,
    /// `null`: this version cannot read them.
    steps: Option<Vec<Step>>,
    outcome: Option<Answer>,
}

#[derive(Debug, Serialize)]
struct Step {
    name: String,
    bytes: usize,
    #[serde(flatten)]
    value: Option<Body>,
}

/// A stored outcome.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// `response`, `value`, `failure`, `rpc`, `not-kept` or `unreadable`.
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) headers: Option<Vec<(String, String)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    /// Of its body, or of its value.
    pub(crate) bytes: usize,
    #[serde(flatten)]
    body: Option<Body>,
}

/// Shown only where it is asked for.
#[derive(Debug, Serialize)]
enum Body {
    #[serde(rename = "body")]
    Text(String),
    #[serde(rename = "body_base64")]
    Bytes(String),
}

impl Body {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(BASE64_STANDARD.encode(bytes)),
        }
    }
}

impl Report {
    pub(crate) fn of(
        id: &RecordId,
        found: &Inspection,
        now: SystemTime,
        with_bodies: bool,
    ) -> Self {
        let shown = |bytes: &[u8]| with_bodies.then(|| Body::of(bytes));
        let steps = found.finished_step_values().map(|steps| {
            let step = |(name, value): (String, bytes::Bytes)| Step {
                name,
                bytes: value.len(),
                value: shown(&value),
            };
            steps.into_iter().map(step).collect()
        });
        let outcome = match &found.phase {
            Phase::Finished { outcome } => Some(Answer::of_stored(outcome, with_bodies)),
            _ => None,
        };
        let fingerprint = &found.fingerprint.to_bytes()[..8];
        Self {
            record: id.to_string(),
            operation: name(found.operation.as_str()),
            state: state_of(found).as_str(),
            attempt: found.attempt,
            fingerprint: fingerprint
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            claimed_at: found.claimed_at.and_then(timestamp),
            age_ms: age(found.claimed_at, now).map(millis),
            lease_left_ms: lease_left(found).map(millis),
            kept_for_ms: found.kept_for.map(millis),
            steps,
            outcome,
        }
    }

    pub(crate) fn write(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.object(self);
        }
        let duration = |millis: u64| short(Duration::from_millis(millis));
        let mut field = |name: &str, value: &str| output.line(&format!("{name:12} {value}"));
        field("record", &self.record)?;
        field(
            "operation",
            self.operation.as_deref().unwrap_or("(not known)"),
        )?;
        field("state", self.state)?;
        field("attempt", &self.attempt.to_string())?;
        if let Some(at) = &self.claimed_at {
            let age = self.age_ms.map(duration).unwrap_or_default();
            field("claimed", &format!("{at}, {age} ago"))?;
        }
        match (self.state, self.lease_left_ms) {
            (_, Some(left)) => field("lease", &format!("{} left", duration(left)))?,
            ("crashed", None) => field(
                "lease",
                "over: its attempt ended without an outcome, and what it did is not known",
            )?,
            ("suspended", None) => field("lease", "none: the next claim goes on with its steps")?,
            _ => {}
        }
        if let Some(kept) = self.kept_for_ms {
            field("kept for", &duration(kept))?;
        }
        field("fingerprint", &format!("{}…", self.fingerprint))?;
        match &self.steps {
            None => field("steps", "this version cannot read them")?,
            Some(steps) if steps.is_empty() => {}
            Some(steps) => {
                field("steps", &format!("{} finished", steps.len()))?;
                for step in steps {
                    field("", &format!("{} ({} bytes)", step.name, step.bytes))?;
                    if let Some(value) = &step.value {
                        field("", &format!("  {}", value.for_people()))?;
                    }
                }
            }
        }
        match &self.outcome {
            Some(answer) => answer.write(output),
            None => Ok(()),
        }
    }
}

impl Body {
    fn for_people(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Bytes(_) => "(no text; --json has it in base64)",
        }
    }
}

impl Answer {
    pub(crate) fn of_stored(stored: &bytes::Bytes, with_body: bool) -> Self {
        match Outcome::decode(stored) {
            Ok(outcome) => Self::of(&outcome, with_body),
            Err(_) => Self::plain("unreadable", stored.len(), None),
        }
    }

    pub(crate) fn of(outcome: &Outcome, with_body: bool) -> Self {
        let shown = |bytes: &[u8]| with_body.then(|| Body::of(bytes));
        match outcome {
            Outcome::Value(value) => Self::plain("value", value.len(), shown(value)),
            Outcome::Failure(value) => Self::plain("failure", value.len(), shown(value)),
            Outcome::Rpc(message) => Self::plain("rpc", message.len(), shown(message)),
            Outcome::NotReplayable(reason) => Self {
                reason: Some(match reason {
                    NotReplayable::TooLarge => "too large",
                    NotReplayable::Streamed => "streamed",
                    _ => "not captured",
                }),
                ..Self::plain("not-kept", 0, None)
            },
            Outcome::Response(encoded) => match idem::http::replay(outcome) {
                Err(_) => Self::plain("unreadable", encoded.len(), None),
                Ok(response) => {
                    let marker = idem::http::IDEMPOTENT_REPLAYED;
                    let headers = response
                        .headers()
                        .iter()
                        .filter(|(name, _)| **name != marker);
                    let text = |value: &http::HeaderValue| {
                        String::from_utf8_lossy(value.as_bytes()).into_owned()
                    };
                    let headers = headers.map(|(name, value)| (name.to_string(), text(value)));
                    Self {
                        status: Some(response.status().as_u16()),
                        headers: Some(headers.collect()),
                        ..Self::plain("response", response.body().len(), shown(response.body()))
                    }
                }
            },
            _ => Self::plain("unreadable", 0, None),
        }
    }

    const fn plain(kind: &'static str, bytes: usize, body: Option<Body>) -> Self {
        Self {
            kind,
            status: None,
            headers: None,
            reason: None,
            bytes,
            body,
        }
    }

    /// For people.
    pub(crate) fn write(&self, output: &mut Output) -> Result<(), Failure> {
        output.line(&format!("{:12} {}", "outcome", self.in_words()))?;
        for (name, value) in self.headers.iter().flatten() {
            output.line(&format!("{:12}   {name}: {value}", ""))?;
        }
        match &self.body {
            None => Ok(()),
            Some(body) => {
                output.line("")?;
                // Line by line, so that a body of several lines is one.
                body.for_people()
                    .lines()
                    .try_for_each(|line| output.line(line))
            }
        }
    }

    pub(crate) fn in_words(&self) -> String {
        let bytes = self.bytes;
        match (self.kind, self.status, self.reason) {
            (_, Some(status), _) => format!("response {status}, body of {bytes} bytes"),
            (_, _, Some(reason)) => {
                format!("not kept ({reason}): the operation was executed, and its answer is lost")
            }
            ("value", ..) => format!("a function's value, {bytes} bytes of JSON"),
            ("failure", ..) => format!("a function's error, {bytes} bytes of JSON"),
            ("rpc", ..) => format!("an answer of gRPC, {bytes} bytes"),
            _ => format!("{bytes} bytes that this version cannot read"),
        }
    }
}
