//! An application: a handler that reserves and then never ends, in a process of its own.

use std::future::pending;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use idem::axum::idempotent;
use idem::{Engine, Error};
use idem_tests::Process;
use tower::ServiceExt;

use crate::tool::Tool;

const STORE: &str = "IDEM_TESTS_OWNER_OF";

pub(crate) const OPERATION: &str = "charges.create";
pub(crate) const TENANT: &str = "acme";
/// In a form that needs quotes in a header.
pub(crate) const KEY: &str = "order 4242";

struct ApiError(Error);

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl axum::response::IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

#[idempotent(
    key = header("Idempotency-Key"),
    scope = tenant,
    ttl = "6h",
    name = "charges.create",
    lease = "3s",
    on_crash = "refuse"
)]
async fn charge(Path(tenant): Path<String>, order: String) -> Result<StatusCode, ApiError> {
    idem::step("reserve", async { Ok::<_, Error>(order.len()) }).await?;
    pending().await
}

pub(crate) async fn application(url: &str) -> Router {
    let engine: Engine = idem::connect(url).await.unwrap().namespace("shop").build();
    Router::new()
        .route("/{tenant}/charges", post(charge))
        .layer(axum::Extension(engine))
}

/// The client's call, the same on every try.
pub(crate) async fn call(application: &Router) -> (StatusCode, Option<String>, String) {
    let request = Request::post(format!("/{TENANT}/charges"))
        .header("idempotency-key", format!("\"{KEY}\""))
        .body(Body::from("one coffee"))
        .unwrap();
    let response = application.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let replayed = response.headers().get("idempotent-replayed");
    let replayed = replayed.map(|value| value.to_str().unwrap().to_owned());
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, replayed, String::from_utf8(body.to_vec()).unwrap())
}

/// Starts the process, whose attempt runs when the tool sees it.
pub(crate) fn start(tool: &Tool) -> Arc<Process> {
    let program = std::env::current_exe().unwrap().display().to_string();
    let store = format!("{STORE}={}", tool.url());
    let test = "owner::owner_of_an_attempt_that_never_ends".to_owned();
    let args = [store, program, test, "--exact".into(), "--nocapture".into()];
    Arc::new(Process::start("env", args, tool.path("owner.log")))
}

/// What [`start`] runs: nothing, where it is run as a test.
#[tokio::test]
async fn owner_of_an_attempt_that_never_ends() {
    if let Ok(url) = std::env::var(STORE) {
        let application = application(&url).await;
        let (status, _, body) = call(&application).await;
        panic!("it has ended: {status} {body}");
    }
}
