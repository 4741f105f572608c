//! Ways to keep an outcome in Redis: the naked commands, the store, and a peer. All keys are as
//! long as the store's, and all keep what they store for as long.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use axum::extract::{Json, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{Router, post};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use cached::{AsyncRedisCache, ConcurrentCachedAsync, SerializeCachedAsync};
use idem::store::{Change, Claimed, Lease, Store};
use idem::stores::redis::RedisStore;
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, cmd};

use crate::http::{Order, charge};
use crate::store::{RETENTION, claims_of};

/// What is stored.
pub const OUTCOME_BYTES: usize = 350;
/// How long a running record is.
const RUNNING_BYTES: usize = 125;
/// What the store puts before a record's id.
const PREFIX: &str = "idem:";

/// One call, made before it is measured.
pub struct Call {
    claim: idem::store::Claim,
    outcome: String,
    /// The store's key.
    key: Vec<u8>,
    /// A text of its own for `cached`, which makes a key of the same length of it.
    text: String,
}

impl Call {
    /// The calls with these numbers.
    pub fn many(numbers: Range<usize>) -> Vec<Self> {
        let call = |claim: idem::store::Claim| Self {
            outcome: "o".repeat(OUTCOME_BYTES),
            key: format!(
                "{PREFIX}{}",
                BASE64_URL_SAFE_NO_PAD.encode(claim.id.as_bytes())
            )
            .into_bytes(),
            text: claim.id.to_string()[..44].to_owned(),
            claim,
        };
        claims_of(numbers).into_iter().map(call).collect()
    }

    /// The keys that it may have left in the server.
    pub fn keys(&self) -> [Vec<u8>; 2] {
        let of_cached = format!("{CACHED_NAMESPACE}:{CACHED_PREFIX}:{}", self.text);
        [self.key.clone(), of_cached.into_bytes()]
    }
}

/// A way to keep an outcome in Redis.
pub trait Way: Clone + Send + Sync + 'static {
    /// What is asked of Redis before and after an operation.
    fn first(&self, call: &Call) -> impl Future<Output = ()> + Send;
    /// Asks for the outcome.
    fn replay(&self, call: &Call) -> impl Future<Output = ()> + Send;
}

/// One multiplexed connection.
///
/// # Panics
/// When the server cannot be reached.
pub async fn connection(url: &str) -> MultiplexedConnection {
    let client = Client::open(url).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    connection.expect("a connection")
}

async fn ask<T: redis::FromRedisValue>(connection: &MultiplexedConnection, command: &Cmd) -> T {
    let answer = command.query_async(&mut connection.clone()).await;
    answer.expect("an answer")
}

fn millis() -> u128 {
    RETENTION.as_millis()
}

/// `GET`, and `SET` where there was nothing: two callers at once both run.
#[derive(Clone)]
pub struct GetAndSet(pub MultiplexedConnection);

impl Way for GetAndSet {
    async fn first(&self, call: &Call) {
        let found: Option<Bytes> = ask(&self.0, cmd("GET").arg(&call.key)).await;
        assert!(found.is_none());
        let mut set = cmd("SET");
        set.arg(&call.key).arg(&call.outcome);
        let () = ask(&self.0, set.arg("PX").arg(millis())).await;
    }

    async fn replay(&self, call: &Call) {
        let found: Vec<u8> = ask(&self.0, cmd("GET").arg(&call.key)).await;
        assert_eq!(found.len(), OUTCOME_BYTES);
    }
}

/// `SET NX GET`, and `SET XX` without a look at whose record it is: a floor, and nothing to use.
#[derive(Clone)]
pub struct Blind(pub MultiplexedConnection);

impl Blind {
    fn set(call: &Call, value: &str, how: &[&str]) -> Cmd {
        let mut set = cmd("SET");
        set.arg(&call.key).arg(value).arg(how);
        set.arg("PX").arg(millis());
        set
    }
}

impl Way for Blind {
    async fn first(&self, call: &Call) {
        // As long as a running record.
        let running = &call.outcome[..RUNNING_BYTES];
        let found: Option<Bytes> = ask(&self.0, &Self::set(call, running, &["NX", "GET"])).await;
        assert!(found.is_none());
        let () = ask(&self.0, &Self::set(call, &call.outcome, &["XX"])).await;
    }

    async fn replay(&self, call: &Call) {
        let running = &call.outcome[..RUNNING_BYTES];
        let found: Vec<u8> = ask(&self.0, &Self::set(call, running, &["NX", "GET"])).await;
        assert_eq!(found.len(), OUTCOME_BYTES);
    }
}

impl Way for RedisStore {
    async fn first(&self, call: &Call) {
        let claim = &call.claim;
        let claimed = Store::claim(self, claim).await.expect("an answer");
        assert!(matches!(claimed, Claimed::Acquired { attempt: 1, .. }));
        let outcome = Bytes::copy_from_slice(call.outcome.as_bytes());
        let changed = Store::complete(self, &Lease::of(claim, 1), outcome).await;
        assert_eq!(changed.expect("an answer"), Change::Applied);
    }

    async fn replay(&self, call: &Call) {
        match Store::claim(self, &call.claim).await.expect("an answer") {
            Claimed::Finished { outcome, .. } => assert_eq!(outcome.len(), OUTCOME_BYTES),
            other => panic!("{other:?}"),
        }
    }
}

const CACHED_NAMESPACE: &str = "b";
const CACHED_PREFIX: &str = "c";

/// The crate `cached`, called as its macro calls it.
#[derive(Clone)]
pub struct Cached(Arc<AsyncRedisCache<String, String>>);

impl Cached {
    /// # Panics
    /// When the server cannot be reached.
    pub async fn connect(url: &str) -> Self {
        let cache = AsyncRedisCache::builder(CACHED_PREFIX)
            .namespace(CACHED_NAMESPACE)
            .ttl(RETENTION)
            .connection_string(url)
            .build();
        Self(Arc::new(cache.await.expect("a connection")))
    }

    async fn get(&self, key: &String) -> Option<String> {
        self.0.async_cache_get(key).await.expect("an answer")
    }

    async fn set(&self, key: &String, value: &String) {
        let set = self.0.async_cache_set_ref(key, value).await;
        set.expect("an answer");
    }
}

impl Way for Cached {
    async fn first(&self, call: &Call) {
        assert!(self.get(&call.text).await.is_none());
        self.set(&call.text, &call.outcome).await;
    }

    async fn replay(&self, call: &Call) {
        let found = self.get(&call.text).await.unwrap_or_default();
        assert_eq!(found.len(), OUTCOME_BYTES);
    }
}

/// The handler with its result cached by the key, as one would with `cached`.
pub fn cached_app(cache: Cached) -> Router {
    Router::new()
        .route("/charges", post(cached_handler))
        .with_state(cache)
}

async fn cached_handler(
    State(cache): State<Cached>,
    headers: HeaderMap,
    Json(order): Json<Order>,
) -> impl IntoResponse {
    let key = headers.get("idempotency-key");
    let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default();
    let key = key.to_owned();
    let receipt = match cache.get(&key).await {
        Some(receipt) => receipt,
        None => {
            let receipt = serde_json::to_string(&charge(&order)).unwrap_or_default();
            cache.set(&key, &receipt).await;
            receipt
        }
    };
    ([(CONTENT_TYPE, "application/json")], receipt)
}
