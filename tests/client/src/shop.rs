//! A server whose charges are protected, and which counts what it has really done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use idem::axum::idempotent;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};

/// What a charge that is stopped is told.
#[derive(Debug)]
pub enum Step {
    /// Charge.
    Charge,
    /// Crash.
    Panic,
    /// Say that it was not the time.
    Later,
}

#[derive(Clone)]
pub struct Shop {
    pub address: SocketAddr,
    state: Arc<Books>,
}

#[derive(Default)]
struct Books {
    charged: AtomicUsize,
    plain: AtomicUsize,
    stops: Mutex<Option<mpsc::Sender<oneshot::Sender<Step>>>>,
}

impl Books {
    async fn charge(&self) -> Result<usize, StatusCode> {
        let stop = self.stops.lock().await.clone();
        if let Some(stop) = stop {
            let (tell, told) = oneshot::channel();
            stop.send(tell).await.unwrap();
            match told.await.unwrap() {
                Step::Charge => {}
                Step::Panic => panic!("as the test wants"),
                Step::Later => return Err(StatusCode::SERVICE_UNAVAILABLE),
            }
        }
        Ok(self.charged.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

#[idempotent(key = header("Idempotency-Key"), scope = "shop", ttl = "1h", name = "client.charge")]
async fn charge(
    State(books): State<Arc<Books>>,
    body: Bytes,
) -> Result<(StatusCode, Json<usize>), StatusCode> {
    if &body[..] == b"declined" {
        return Err(StatusCode::PAYMENT_REQUIRED);
    }
    if &body[..] == b"broken" {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    Ok((StatusCode::CREATED, Json(books.charge().await?)))
}

#[idempotent(key = header("Idempotency-Key"), scope = "shop", ttl = "1h", name = "client.refuse", on_crash = "refuse")]
async fn charge_at_most_once(
    State(books): State<Arc<Books>>,
    _body: Bytes,
) -> Result<Json<usize>, StatusCode> {
    Ok(Json(books.charge().await?))
}

/// As Stripe's API has it.
#[idempotent(key = header("Idempotency-Key"), scope = "shop", ttl = "1h", name = "client.stripe")]
async fn charge_like_stripe(
    State(books): State<Arc<Books>>,
    _body: Bytes,
) -> Result<Json<serde_json::Value>, StatusCode> {
    let number = books.charge().await?;
    let id = format!("ch_{number}");
    Ok(Json(serde_json::json!({"id": id, "object": "charge"})))
}

/// How often a request without protection came, and with which key.
async fn plain(State(books): State<Arc<Books>>, headers: HeaderMap) -> String {
    let count = books.plain.fetch_add(1, Ordering::SeqCst) + 1;
    let key = headers.get("idempotency-key");
    format!(
        "{count} {}",
        key.map_or("no key", |it| it.to_str().unwrap())
    )
}

impl Shop {
    pub async fn open() -> Self {
        Self::over("memory://").await
    }

    pub async fn over(store: &str) -> Self {
        let engine = idem::connect(store).await.unwrap().build();
        let state = Arc::new(Books::default());
        let router = Router::new()
            .route("/charges", post(charge).patch(charge))
            .route("/v1/charges", post(charge_like_stripe))
            .route("/at-most-once", post(charge_at_most_once))
            .route("/plain", get(plain).put(plain).post(plain))
            .with_state(Arc::clone(&state))
            .layer(Extension(engine));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How many charges were really made.
    pub fn charged(&self) -> usize {
        self.state.charged.load(Ordering::SeqCst)
    }

    /// From now on every charge stops, and waits to be told.
    pub async fn stop_charges(&self) -> mpsc::Receiver<oneshot::Sender<Step>> {
        let (stop, stops) = mpsc::channel(16);
        *self.state.stops.lock().await = Some(stop);
        stops
    }

    /// Charges that come no longer stop.
    pub async fn let_charges_pass(&self) {
        *self.state.stops.lock().await = None;
    }
}
