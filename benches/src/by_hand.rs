//! Idempotency as one would write it into a handler: no lease, no waiting, no attempt numbers,
//! and a handler that dies with its connection. A floor, and nothing to use.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{FromRequest, Json, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use crate::http::{Order, charge};

/// What was seen under a key.
#[derive(Clone)]
pub struct Entry {
    digest: [u8; 32],
    answer: Option<Arc<Answer>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Where entries are kept.
pub trait Shelf: Clone + Send + Sync + 'static {
    /// Whether the handler runs on a task of its own, so that it outlives its connection.
    const DETACHED: bool;

    /// Puts a running entry, or returns what is there.
    fn claim(&self, key: &str, running: Entry) -> Option<Entry>;

    /// Replaces the running entry.
    fn complete(&self, key: &str, finished: Entry);
}

const SHARDS: usize = 64;

/// Mutexes around hash maps.
#[derive(Clone)]
pub struct Sharded<const DETACHED: bool> {
    shards: Arc<[Mutex<HashMap<String, Entry>>]>,
    hasher: RandomState,
}

impl<const DETACHED: bool> Default for Sharded<DETACHED> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl<const DETACHED: bool> Sharded<DETACHED> {
    #[allow(clippy::cast_possible_truncation)]
    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<String, Entry>> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const DETACHED: bool> Shelf for Sharded<DETACHED> {
    const DETACHED: bool = DETACHED;

    fn claim(&self, key: &str, running: Entry) -> Option<Entry> {
        let mut shard = self.shard(key);
        if let Some(entry) = shard.get(key) {
            return Some(entry.clone());
        }
        shard.insert(key.to_owned(), running);
        None
    }

    fn complete(&self, key: &str, finished: Entry) {
        self.shard(key).insert(key.to_owned(), finished);
    }
}

/// One moka cache. Two claims at once could both win here.
#[derive(Clone)]
pub struct Moka(Cache<String, Entry>);

impl Default for Moka {
    fn default() -> Self {
        Self(
            Cache::builder()
                .time_to_live(crate::store::RETENTION)
                .build(),
        )
    }
}

impl Shelf for Moka {
    const DETACHED: bool = false;

    fn claim(&self, key: &str, running: Entry) -> Option<Entry> {
        if let Some(entry) = self.0.get(key) {
            return Some(entry);
        }
        self.0.insert(key.to_owned(), running);
        None
    }

    fn complete(&self, key: &str, finished: Entry) {
        self.0.insert(key.to_owned(), finished);
    }
}

/// The handler.
pub async fn handler<S: Shelf>(State(shelf): State<S>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(key) = head.headers.get("idempotency-key") else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Ok(key) = key.to_str().map(str::to_owned) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Ok(body) = body.collect().await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let body = body.to_bytes();
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let running = Entry {
        digest,
        answer: None,
    };
    match shelf.claim(&key, running) {
        None => {}
        Some(entry) if entry.digest != digest => {
            return StatusCode::UNPROCESSABLE_ENTITY.into_response();
        }
        Some(Entry { answer: None, .. }) => return StatusCode::CONFLICT.into_response(),
        Some(Entry {
            answer: Some(answer),
            ..
        }) => return replay(&answer),
    }
    let run = run(shelf, key, digest, head, body);
    if !S::DETACHED {
        return run.await;
    }
    tokio::spawn(run)
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn run<S: Shelf>(
    shelf: S,
    key: String,
    digest: [u8; 32],
    head: Parts,
    body: Bytes,
) -> Response {
    let Json(order) = match parse(head, body).await {
        Ok(order) => order,
        Err(rejection) => return rejection,
    };
    let (head, body) = Json(charge(&order)).into_response().into_parts();
    let body = body.collect().await.unwrap_or_default().to_bytes();
    let answer = Answer {
        status: head.status,
        headers: head.headers.clone(),
        body: body.clone(),
    };
    let finished = Entry {
        digest,
        answer: Some(Arc::new(answer)),
    };
    shelf.complete(&key, finished);
    Response::from_parts(head, Body::from(body))
}

fn replay(answer: &Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body.clone()));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    response
}

/// The body, as the plain handler's extractor reads it.
///
/// # Errors
/// The extractor's answer.
pub async fn parse(head: Parts, body: Bytes) -> Result<Json<Order>, Response> {
    Json::from_request(Request::from_parts(head, Body::from(body)), &())
        .await
        .map_err(IntoResponse::into_response)
}
