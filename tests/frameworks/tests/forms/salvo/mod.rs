//! The handler form for salvo: the HTTP contract, in process, and what is salvo's own.

mod errors;
mod shapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::http::{HttpSettings, IDEMPOTENT_REPLAYED};
use idem::salvo::idempotent;
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder};
use salvo::catcher::Catcher;
use salvo::extract::{JsonBody, Metadata};
use salvo::http::{HeaderMap, StatusCode};
use salvo::prelude::*;
use salvo::test::{ResponseExt, SendTarget, TestClient};
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
    fn of(depot: &Depot) -> Arc<Self> {
        Arc::clone(depot.get_typed::<Arc<Self>>().unwrap())
    }

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

impl<'ex> salvo::Extractible<'ex> for Caller {
    fn metadata() -> &'static Metadata {
        static METADATA: Metadata = Metadata::new("");
        &METADATA
    }

    #[allow(refining_impl_trait)]
    async fn extract(request: &'ex mut Request, _: &'ex mut Depot) -> Result<Self, StatusError> {
        match request.header::<&str>("x-caller") {
            Some("nobody") => Err(StatusError::unauthorized()),
            caller => Ok(Self(caller.unwrap_or("someone").to_owned())),
        }
    }
}

/// Charges.
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn charge(
    caller: Caller,
    order: JsonBody<Order>,
    req: &mut Request,
    depot: &mut Depot,
    res: &mut Response,
) -> String {
    let run = Shop::of(depot).run();
    res.status_code(StatusCode::CREATED);
    res.headers_mut().insert("x-run", run.into());
    depot.insert("handler", "has run");
    format!(
        "{run}: {} of {} at {}",
        order.amount,
        caller.0,
        req.uri().path()
    )
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn gated(depot: &mut Depot) -> String {
    let shop = Shop::of(depot);
    let run = shop.run();
    shop.entered.notify_one();
    shop.go.notified().await;
    format!("run {run}")
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn panicking(depot: &mut Depot, res: &mut Response) {
    res.headers_mut().insert("x-run", 1.into());
    panic!("run {}", Shop::of(depot).run());
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn streaming(depot: &mut Depot, res: &mut Response) {
    Shop::of(depot).run();
    let chunks = ["a", "b"].map(Ok::<_, std::io::Error>);
    res.stream(futures_util::stream::iter(chunks));
}

/// What the hoops around a handler do and see.
#[handler]
async fn around(req: &mut Request, depot: &mut Depot, res: &mut Response, ctrl: &mut FlowCtrl) {
    res.headers_mut().insert("x-before", 1.into());
    ctrl.call_next(req, depot, res).await;
    let has_run = depot.contains_key("handler");
    res.headers_mut()
        .insert("x-has-run", u32::from(has_run).into());
    assert_eq!(req.method(), "POST");
}

struct Server {
    service: Service,
    shop: Arc<Shop>,
}

/// Puts what it holds into the depot.
struct Depots<T>(T);

#[async_trait]
impl<T: Clone + Send + Sync + 'static> Handler for Depots<T> {
    async fn handle(&self, _: &mut Request, depot: &mut Depot, _: &mut Response, _: &mut FlowCtrl) {
        depot.insert_typed(self.0.clone());
    }
}

fn server() -> Server {
    server_with(|engine| engine)
}

fn server_with(settings: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Server {
    let shop = Arc::new(Shop::default());
    let builder = Engine::builder(MemoryStore::builder().build());
    let engine: Engine = settings(builder).build();
    let router = Router::new()
        .hoop(Depots(engine))
        .hoop(Depots(Arc::clone(&shop)))
        .push(Router::with_path("charges").hoop(around).post(charge))
        .push(Router::with_path("v2/charges").post(charge))
        .push(Router::with_path("gated").post(gated))
        .push(Router::with_path("panicking").post(panicking))
        .push(Router::with_path("streaming").post(streaming))
        .push(errors::router())
        .push(shapes::router());
    let service = Service::new(router).catcher(Catcher::default().hoop(errors::teapots));
    Server { service, shop }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
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
    async fn send(&self, path: &str, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let mut request = TestClient::post(format!("http://shop{path}"));
        for (name, value) in headers {
            request = request.add_header(*name, *value, true);
        }
        let request = request.body(body.to_owned()).build();
        let mut response = self.service.call(request).await;
        // As a client would get it, cookies and all.
        let body = response.take_string().await.unwrap();
        let (head, _) = response.into_hyper().into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
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
    assert_eq!(first.headers["x-before"], "1");
    // Later hoops see what the handler has left.
    assert_eq!(first.headers["x-has-run"], "1");
    let mut second = server.send_json("/charges", "a", r#"{"amount":5}"#).await;
    assert_eq!(second.headers["x-has-run"], "0");
    second.headers.insert("x-has-run", 1.into());
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
    assert_eq!(missing.headers["x-before"], "1");
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
    for path in ["/v2/charges", "/charges?x=1"] {
        let other = server.send_json(path, "a", r#"{"amount":5}"#).await;
        other.assert_problem(StatusCode::UNPROCESSABLE_ENTITY, "mismatch");
    }
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
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
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
async fn a_panic_is_answered_and_the_next_one_runs() {
    let server = server();
    let crashed = server.send_json("/panicking", "a", "").await;
    assert_eq!(crashed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!crashed.headers.contains_key("x-run"));
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
