use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

struct ApiError;

impl axum::response::IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        axum::http::StatusCode::BAD_REQUEST.into_response()
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create(text: String) -> Result<String, ApiError> {
    let number: u64 = text.parse()?;
    number.to_string()
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
