//! What a client asks for, and why it may have to ask again.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct NewTrip {
    /// The client's own mark.
    pub(crate) reference: String,
    pub(crate) price: i64,
}

/// A step that did not come to its end. 503 frees no key here: the trip is suspended, and the retry
/// continues it.
pub(crate) struct Interrupted(String);

impl From<idem::Error> for Interrupted {
    fn from(error: idem::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<sqlx::Error> for Interrupted {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for Interrupted {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for Interrupted {
    fn into_response(self) -> Response {
        tracing::error!(error = self.0, "a trip was interrupted");
        (StatusCode::SERVICE_UNAVAILABLE, "try again\n").into_response()
    }
}
