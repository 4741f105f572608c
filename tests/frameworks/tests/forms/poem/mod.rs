//! The handler form for poem: the HTTP contract, in process, and what is poem's own.

mod shapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::http::{HttpSettings, IDEMPOTENT_REPLAYED};
use idem::poem::idempotent;
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder};
use poem::endpoint::BoxEndpoint;
use poem::http::{HeaderMap, StatusCode};
use poem::test::TestClient;
use poem::web::{Data, Json};
use poem::{Body, EndpointExt, FromRequest, IntoResponse, Request, Response, Route, handler, post};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// What the handlers share.
#[derive(Default)]
struct Shop {
    runs: AtomicU32,
    entered: Notify,
    go: Notify,
}

impl Shop {
    fn run(&self) -> u32 {
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

#[derive(Deserialize, Serialize)]
struct Order {
    amount: u64,
}

/// Authentication: it reads the head, and refuses.
struct Caller(String);

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(request: &'a Request, _: &mut poem::RequestBody) -> poem::Result<Self> {
        match request.header("x-caller") {
            Some("nobody") => Err(poem::Error::from_string("who?", StatusCode::UNAUTHORIZED)),
            caller => Ok(Self(caller.unwrap_or("someone").to_owned())),
        }
    }
}

/// Charges.
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn charge(
    Caller(caller): Caller,
    Data(shop): Data<&Arc<Shop>>,
    request: &Request,
    Json(order): Json<Order>,
) -> impl IntoResponse {
    let run = shop.run();
    let body = format!("{run}: {} of {caller} at {}", order.amount, request.uri());
    (StatusCode::CREATED, body.with_header("x-run", run))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn gated(shop: Data<&Arc<Shop>>) -> String {
    let run = shop.run();
    shop.entered.notify_one();
    shop.go.notified().await;
    format!("run {run}")
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn failing(shop: Data<&Arc<Shop>>, status: String) -> poem::Result<()> {
    let run = shop.run();
    let status: u16 = status.parse().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    Err(poem::Error::from_string(format!("run {run}"), status))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn panicking(shop: Data<&Arc<Shop>>) {
    panic!("run {}", shop.run());
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn streaming(shop: Data<&Arc<Shop>>) -> Body {
    shop.run();
    let chunks = ["a", "b"].map(Ok::<_, std::io::Error>);
    Body::from_bytes_stream(futures_util::stream::iter(chunks))
}

struct Server {
    client: TestClient<BoxEndpoint<'static, Response>>,
    shop: Arc<Shop>,
}

fn server() -> Server {
    server_with(|engine| engine)
}

fn server_with(settings: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Server {
    let shop = Arc::new(Shop::default());
    let builder = Engine::builder(MemoryStore::builder().build());
    let engine: Engine = settings(builder).build();
    let routes = Route::new()
        .at("/charges", post(charge))
        .nest("/v2", Route::new().at("/charges", post(charge)))
        .at("/gated", post(gated))
        .at("/failing", post(failing))
        .at("/panicking", post(panicking))
        .at("/streaming", post(streaming))
        .data(engine)
        .data(Arc::clone(&shop))
        .map_to_response()
        .boxed();
    Server {
        client: TestClient::new(routes),
        shop,
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    async fn of(response: poem::test::TestResponse) -> Self {
        let (head, body) = response.0.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body: body.into_string().await.unwrap(),
        }
    }

    fn is_replay(&self) -> bool {
        self.headers.contains_key(IDEMPOTENT_REPLAYED)
    }

    fn assert_problem(&self, status: StatusCode, kind: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert!(self.body.contains(&format!("problem:{kind}\"")), "{self:?}");
    }

    /// The same answer from the store.
    fn assert_replayed_by(&self, mut replay: Self) {
        assert!(!self.is_replay());
        let mark = replay.headers.remove(IDEMPOTENT_REPLAYED);
        assert_eq!(mark.unwrap(), "true");
        assert_eq!(replay, *self);
    }
}

impl Server {
    async fn send(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.client.post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.body(body.to_owned()).send().await).await
    }

    async fn send_json(&self, path: &str, key: &str, body: &str) -> Answer {
        let headers = [
            ("idempotency-key", key),
            ("content-type", "application/json"),
        ];
        self.send(path, &headers, body).await
    }
}

#[tokio::test]
async fn a_retry_gets_the_first_response() {
    let server = server();
    let first = server.send_json("/charges", "a", r#"{"amount":5}"#).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(first.body, "1: 5 of someone at /charges");
    assert_eq!(first.headers["x-run"], "1");
    let second = server.send_json("/charges", "a", r#"{"amount":5}"#).await;
    first.assert_replayed_by(second);
    let third = server.send_json("/charges", "b", r#"{"amount":5}"#).await;
    assert_eq!(third.headers["x-run"], "2");
}

#[tokio::test]
async fn a_key_must_be_there_and_well_formed() {
    let server = server();
    let json = ("content-type", "application/json");
    let missing = server.send("/charges", &[json], r#"{"amount":5}"#).await;
    missing.assert_problem(StatusCode::BAD_REQUEST, "key-missing");
    let malformed = server.send_json("/charges", "\"a", "{}").await;
    malformed.assert_problem(StatusCode::BAD_REQUEST, "key-invalid");
    assert_eq!(server.shop.runs(), 0);
}

#[tokio::test]
async fn a_key_names_one_request() {
    let server = server();
    server.send_json("/charges", "a", r#"{"amount":5}"#).await;
    let other_body = server.send_json("/charges", "a", r#"{"amount":6}"#).await;
    other_body.assert_problem(StatusCode::UNPROCESSABLE_ENTITY, "mismatch");
    let other_path = server
        .send_json("/v2/charges?x=1", "a", r#"{"amount":5}"#)
        .await;
    other_path.assert_problem(StatusCode::UNPROCESSABLE_ENTITY, "mismatch");
    assert_eq!(server.shop.runs(), 1);
}

#[tokio::test]
async fn a_duplicate_in_flight_is_refused() {
    let server = server();
    let duplicate = async {
        server.shop.entered.notified().await;
        let duplicate = server.send_json("/gated", "a", "").await;
        server.shop.go.notify_one();
        duplicate
    };
    let (first, duplicate) = tokio::join!(server.send_json("/gated", "a", ""), duplicate);
    assert_eq!(first.body, "run 1");
    duplicate.assert_problem(StatusCode::CONFLICT, "in-flight");
    assert!(duplicate.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_the_handler() {
    let server = server();
    tokio::select! {
        _ = server.send_json("/gated", "a", "") => panic!("it waits"),
        () = server.shop.entered.notified() => {}
    }
    server.shop.go.notify_one();
    let replayed = async {
        loop {
            let answer = server.send_json("/gated", "a", "").await;
            if answer.status != StatusCode::CONFLICT {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), replayed).await;
    let answer = answer.unwrap();
    assert!(answer.is_replay());
    assert_eq!(answer.body, "run 1");
}

#[tokio::test]
async fn who_is_not_let_in_claims_nothing() {
    let server = server();
    let body = r#"{"amount":5}"#;
    let nobody = [
        ("idempotency-key", "a"),
        ("content-type", "application/json"),
        ("x-caller", "nobody"),
    ];
    let refused = server.send("/charges", &nobody, body).await;
    assert_eq!(
        (refused.status, &*refused.body),
        (StatusCode::UNAUTHORIZED, "who?")
    );
    // Authentication comes before the key.
    let refused = server.send("/charges", &nobody[2..], body).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let first = server.send_json("/charges", "a", body).await;
    assert!(!first.is_replay());
    // And a replay is authenticated, too.
    let refused = server.send("/charges", &nobody, body).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_body_that_is_refused_frees_its_key() {
    let server = server();
    let refused = server.send_json("/charges", "a", "no json").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.body.starts_with("parse error"), "{refused:?}");
    let first = server.send_json("/charges", "a", r#"{"amount":5}"#).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(server.shop.runs(), 1);
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_taken() {
    let settings = HttpSettings::new().max_request_bytes(16);
    let server = server_with(|engine| engine.http(settings));
    let long = format!(r#"{{"amount":5{}}}"#, " ".repeat(16));
    let refused = server.send_json("/charges", "a", &long).await;
    refused.assert_problem(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
    let first = server.send_json("/charges", "a", r#"{"amount":5}"#).await;
    assert_eq!(first.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_error_is_stored_unless_its_status_says_not_processed() {
    let server = server();
    let first = server.send_json("/failing", "a", "409").await;
    assert_eq!(
        (first.status, &*first.body),
        (StatusCode::CONFLICT, "run 1")
    );
    first.assert_replayed_by(server.send_json("/failing", "a", "409").await);
    server.send_json("/failing", "b", "503").await;
    let again = server.send_json("/failing", "b", "503").await;
    assert_eq!((again.is_replay(), &*again.body), (false, "run 3"));
}

#[tokio::test]
async fn a_panic_is_answered_and_the_next_one_runs() {
    let server = server();
    let crashed = server.send_json("/panicking", "a", "").await;
    assert_eq!(crashed.status, StatusCode::INTERNAL_SERVER_ERROR);
    server.send_json("/panicking", "a", "").await;
    assert_eq!(server.shop.runs(), 2);
}

#[tokio::test]
async fn a_stream_is_replayed() {
    let server = server();
    let first = server.send_json("/streaming", "a", "").await;
    assert_eq!(first.body, "ab");
    let second = server.send_json("/streaming", "a", "").await;
    first.assert_replayed_by(second);
    assert_eq!(server.shop.runs(), 1);
}
