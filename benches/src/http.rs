//! The request, the answer, and the handlers that the HTTP benchmarks compare.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Json, Request};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, post};
use bytes::Bytes;
use http_body_util::BodyExt;
use idem::Engine;
use idem::axum::idempotent;
use idem::stores::memory::MemoryStore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tower::{Service, ServiceExt};

use crate::by_hand::{self, Shelf};
use crate::{on_a_task, per_operation, thread_cpu};

/// About one kilobyte of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    customer: String,
    currency: String,
    lines: Vec<Line>,
    note: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    sku: String,
    description: String,
    quantity: u32,
    unit_price: u64,
}

impl Order {
    /// The one that every request sends.
    pub fn sample() -> Self {
        let line = |number: u32| Line {
            sku: format!("SKU-{number:05}-XL"),
            description: format!("A thing of the {number}th kind, blue, with a handle"),
            quantity: 1 + number % 4,
            unit_price: 1999 + u64::from(number) * 100,
        };
        Self {
            customer: "cus_9s6XKzkNRiz8i3".to_owned(),
            currency: "EUR".to_owned(),
            lines: (1..=7).map(line).collect(),
            note: "Please ring twice, and leave it with the neighbours if nobody is at home."
                .to_owned(),
        }
    }
}

/// About 280 bytes of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    id: String,
    status: String,
    customer: String,
    currency: String,
    total: u64,
    message: String,
}

/// The business of all handlers.
pub fn charge(order: &Order) -> Receipt {
    let totals = order
        .lines
        .iter()
        .map(|line| line.unit_price * u64::from(line.quantity));
    Receipt {
        id: "ch_3MmlLrLkdIwHu7ix0snN0B15".to_owned(),
        status: "succeeded".to_owned(),
        customer: order.customer.clone(),
        currency: order.currency.clone(),
        total: totals.sum(),
        message: "The payment is complete. A confirmation is on its way to the address on file; \
                  it names every position of the order and the time of its delivery."
            .to_owned(),
    }
}

async fn plain(Json(order): Json<Order>) -> Json<Receipt> {
    Json(charge(&order))
}

async fn hashed(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap_or_default().to_bytes();
    std::hint::black_box(Sha256::digest(&body));
    match by_hand::parse(head, body).await {
        Ok(order) => plain(order).await.into_response(),
        Err(rejection) => rejection,
    }
}

#[idempotent(
    name = "charges.create",
    key = header("Idempotency-Key"),
    ttl = "24h"
)]
async fn protected(Json(order): Json<Order>) -> Json<Receipt> {
    Json(charge(&order))
}

/// The handler as it stands.
pub fn plain_app() -> Router {
    Router::new().route("/charges", post(plain))
}

/// The handler behind one that buffers the body and hashes it.
pub fn hashed_app() -> Router {
    Router::new().route("/charges", post(hashed))
}

/// The handler behind thirty lines of one's own.
pub fn by_hand_app<S: Shelf>(shelf: S) -> Router {
    Router::new()
        .route("/charges", post(by_hand::handler::<S>))
        .with_state(shelf)
}

/// The handler under the attribute, over the installed engine.
pub fn protected_app() -> Router {
    Router::new().route("/charges", post(protected))
}

/// The handler within the layer, over the installed engine.
pub fn layered_app() -> Router {
    plain_app().layer(idem::axum::layer(crate::store::RETENTION))
}

/// Installs an engine over a memory store that is large enough for every run.
pub fn install_engine() {
    let store = MemoryStore::builder().max_bytes(8 << 30).build();
    Engine::new(store).install().ok();
}

/// The key that a request carries.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// Another one every time.
    Fresh,
    /// One of a few, sent before.
    Known,
}

/// How many known keys there are.
pub const KNOWN: u64 = 64;

impl Keys {
    /// The key of one request.
    pub fn key(self, index: u64) -> String {
        static FRESH: AtomicU64 = AtomicU64::new(0);
        let (kind, number) = match self {
            Self::Fresh => (0, FRESH.fetch_add(1, Ordering::Relaxed)),
            Self::Known => (1, index % KNOWN),
        };
        // As long as a UUID, which is what clients send.
        format!("8e03978e-40d5-43e8-{kind:04}-{number:012}")
    }
}

/// Requests to an application, made before they are measured.
pub struct Client {
    app: Router,
    body: Bytes,
    keys: Keys,
}

impl Client {
    /// # Panics
    /// When the application does not answer as it should.
    pub fn new(runtime: &Runtime, app: Router, keys: Keys) -> Self {
        let body = serde_json::to_vec(&Order::sample()).expect("an order is JSON");
        let client = Self {
            app,
            body: body.into(),
            keys,
        };
        let expected = serde_json::to_vec(&charge(&Order::sample())).expect("a receipt is JSON");
        for request in client.requests(KNOWN as usize) {
            let app = client.app.clone();
            let body = runtime.block_on(async move {
                let response = app
                    .oneshot(request)
                    .await
                    .unwrap_or_else(|never| match never {});
                assert!(response.status().is_success());
                response.into_body().collect().await
            });
            assert_eq!(body.expect("an answer").to_bytes(), expected);
        }
        client
    }

    /// The request's and the answer's length.
    pub fn lengths(&self) -> (usize, usize) {
        let answer = serde_json::to_vec(&charge(&Order::sample())).unwrap_or_default();
        (self.body.len(), answer.len())
    }

    /// So many requests, which are made before they are measured.
    pub fn requests(&self, count: usize) -> Vec<Request> {
        let request = |index| {
            let mut request = Request::post("/charges")
                .body(Body::from(self.body.clone()))
                .expect("a request");
            let headers = request.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            for (name, value) in [
                ("host", "shop.example"),
                ("accept", "application/json"),
                ("user-agent", "bench/1.0"),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let key = HeaderValue::try_from(self.keys.key(index)).expect("a header value");
            headers.insert("idempotency-key", key);
            request
        };
        (0..count as u64).map(request).collect()
    }

    /// The nanoseconds of one request, from the router's call to the answer's last byte.
    pub fn round(&self, runtime: &Runtime, count: usize) -> f64 {
        self.measured(runtime, count, thread_cpu, move |started| {
            per_operation(started, count)
        })
    }

    /// Sends so many requests; `before` is called when they are made and none is sent, and
    /// `after` with its value when the last is answered.
    pub fn measured<T: Send + 'static, R: Send + 'static>(
        &self,
        runtime: &Runtime,
        count: usize,
        before: impl FnOnce() -> T + Send + 'static,
        after: impl FnOnce(T) -> R + Send + 'static,
    ) -> R {
        let requests = self.requests(count);
        let mut app = self.app.clone();
        on_a_task(runtime, async move {
            let value = before();
            for request in requests {
                answer(&mut app, request).await;
            }
            after(value)
        })
    }
}

async fn answer(app: &mut Router, request: Request) {
    let Ok(app): Result<_, Infallible> = ServiceExt::<Request>::ready(app).await;
    let Ok(response): Result<Response, Infallible> = app.call(request).await;
    let body = response.into_body().collect().await;
    std::hint::black_box(body.ok());
}
