//! Refusals and failures, as the page's script and a person with curl read them.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::Error;

/// Why a request of the page was not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// One word, for the script and for tests.
    pub(super) error: &'static str,
    pub(super) message: &'static str,
}

impl Refused {
    pub(super) const fn new(
        status: StatusCode,
        error: &'static str,
        message: &'static str,
    ) -> Self {
        Self {
            status,
            error,
            message,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "message": self.message });
        (self.status, Json(body)).into_response()
    }
}

pub(super) const NO_RECORD: Refused = Refused::new(
    StatusCode::NOT_FOUND,
    "no-record",
    "There is no such record. It was freed or forgotten, or it never was.",
);

/// Something of the engine's. Its message names no address, key or body.
pub(super) fn failed(error: &Error) -> Response {
    let (status, word) = match error {
        Error::Key(_) | Error::Scope(_) | Error::Policy(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "not-acceptable")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable"),
    };
    let message = capitalised(&error.to_string());
    (status, Json(json!({ "error": word, "message": message }))).into_response()
}

pub(super) fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    let mut sentence: String = first.chain(rest).collect();
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    sentence
}

/// In whole milliseconds, as JavaScript counts.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Since 1970.
pub(super) fn timestamp(time: std::time::SystemTime) -> Option<u64> {
    let since = time.duration_since(std::time::UNIX_EPOCH);
    since.ok().map(milliseconds)
}
