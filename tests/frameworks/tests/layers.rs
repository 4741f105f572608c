//! The order of layers, row by row of the table in `idem::guide::frameworks`: what a layer does outside
//! of the protection, and what it does inside.

#[path = "../../servers/tests/support/log.rs"]
mod log;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, AUTHORIZATION,
    CONTENT_ENCODING, ORIGIN,
};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use idem::Engine;
use idem::http::IDEMPOTENT_REPLAYED;
use idem::stores::memory::MemoryStore;
use idem_frameworks::{Works, is_replay, problem};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::timeout::TimeoutLayer;

/// It echoes, and stops or panics where the text says so.
async fn handler(State(works): State<Works>, body: String) -> String {
    let number = works.execute();
    match &*body {
        "stop" => works.stop_here().await,
        "panic" => panic!("half-way"),
        _ => {}
    }
    format!("{number}: {body}")
}

/// Where a layer stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Outside,
    Inside,
}
use Side::{Inside, Outside};

struct Server {
    router: Router,
    works: Works,
    engine: Engine,
}

impl Server {
    /// A protected handler, with this layer on this side of the protection.
    fn with(layer: impl FnOnce(Router) -> Router, side: Side) -> Self {
        let works = Works::default();
        let engine = Engine::new(MemoryStore::new());
        let protection = idem::axum::layer(Duration::from_secs(60 * 60));
        let handler = Router::new()
            .route("/charges", post(handler))
            .with_state(works.clone());
        let router = match side {
            Outside => layer(handler.layer(protection)),
            Inside => layer(handler).layer(protection),
        };
        Self {
            router: router.layer(Extension(engine.clone())),
            works,
            engine,
        }
    }

    async fn send(&self, request: Request) -> Response<Bytes> {
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (head, body) = response.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }
}

fn charge(body: impl Into<Body>, headers: &[(HeaderName, &'static str)]) -> Request {
    let mut request = Request::post("/charges").header("idempotency-key", "a");
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(body.into()).unwrap()
}

async fn log_in(request: Request, next: Next) -> Response {
    match request.headers().get("x-session") {
        Some(session) if session == "open" => next.run(request).await,
        Some(_) => StatusCode::FORBIDDEN.into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

#[tokio::test]
async fn authentication() {
    const SESSION: HeaderName = HeaderName::from_static("x-session");
    for side in [Outside, Inside] {
        let server = Server::with(|router| router.layer(from_fn(log_in)), side);
        // A 401 frees the key.
        let refused = server.send(charge("x", &[])).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let first = server.send(charge("x", &[(SESSION, "open")])).await;
        assert_eq!(first.body(), "1: x");
        // Whoever has no session, and the key and the request of one who had.
        let stranger = server.send(charge("x", &[])).await;
        match side {
            Outside => assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED),
            Inside => assert_eq!(
                (stranger.body(), is_replay(&stranger)),
                (first.body(), true)
            ),
        }
        let other = charge("x", &[(AUTHORIZATION, "another's")]);
        let other = server.send(other).await;
        assert_ne!(other.status(), StatusCode::OK);
    }
    // A 403 inside is an answer like any other.
    let server = Server::with(|router| router.layer(from_fn(log_in)), Inside);
    for session in ["closed", "open"] {
        let answer = server.send(charge("x", &[(SESSION, session)])).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    assert_eq!(server.works.executed(), 0);
}

#[tokio::test]
async fn tracing_sees_replays_and_refusals_from_outside_alone() {
    for (side, seen) in [(Outside, 3), (Inside, 1)] {
        let requests = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&requests);
        let count = move |request: Request, next: Next| {
            counted.fetch_add(1, Ordering::Relaxed);
            next.run(request)
        };
        let server = Server::with(|router| router.layer(from_fn(count)), side);
        for body in ["x", "x", "another"] {
            server.send(charge(body, &[])).await;
        }
        assert_eq!(requests.load(Ordering::Relaxed), seen, "{side:?}");
    }
}

#[derive(Clone, Default)]
struct Count(Arc<AtomicU32>);

impl MakeRequestId for Count {
    fn make_request_id<B>(&mut self, _: &http::Request<B>) -> Option<RequestId> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Some(RequestId::new(HeaderValue::from(number)))
    }
}

#[tokio::test]
async fn request_ids_are_each_requests_own_from_outside_alone() {
    for (side, of_retry) in [(Outside, "1"), (Inside, "0")] {
        let ids = |router: Router| {
            router
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(SetRequestIdLayer::x_request_id(Count::default()))
        };
        let server = Server::with(ids, side);
        let first = server.send(charge("x", &[])).await;
        assert_eq!(first.headers()["x-request-id"], "0");
        let retry = server.send(charge("x", &[])).await;
        assert!(is_replay(&retry));
        assert_eq!(retry.headers()["x-request-id"], of_retry, "{side:?}");
    }
}

#[tokio::test]
async fn cors_is_of_each_origin_from_outside_alone() {
    let (log, _guard) = log::listen();
    for side in [Outside, Inside] {
        let cors = CorsLayer::new()
            .allow_origin(AllowOrigin::mirror_request())
            .expose_headers([IDEMPOTENT_REPLAYED, http::header::RETRY_AFTER]);
        let server = Server::with(|router| router.layer(cors), side);
        let first = server
            .send(charge("x", &[(ORIGIN, "https://a.test")]))
            .await;
        assert_eq!(
            first.headers()[ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://a.test"
        );
        let retry = server
            .send(charge("x", &[(ORIGIN, "https://b.test")]))
            .await;
        assert!(is_replay(&retry));
        let refused = server
            .send(charge("y", &[(ORIGIN, "https://b.test")]))
            .await;
        assert_eq!(problem(&refused), "mismatch");
        let told = log.take();
        match side {
            Outside => {
                for response in [&retry, &refused] {
                    let headers = response.headers();
                    assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://b.test");
                    let exposed = headers[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
                    assert_eq!(exposed, "idempotent-replayed,retry-after");
                }
                assert_eq!(told, "");
            }
            Inside => {
                assert_eq!(
                    retry.headers()[ACCESS_CONTROL_ALLOW_ORIGIN],
                    "https://a.test"
                );
                assert!(!refused.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
                assert_eq!(
                    told.matches("put the CORS layer outside").count(),
                    1,
                    "{told}"
                );
            }
        }
    }
}

/// Longer than what is worth compressing.
const LONG: &str =
    "a text that is long enough to be compressed, and is compressed for who accepts it";

fn decoded(response: &Response<Bytes>) -> String {
    let mut text = String::new();
    match response.headers().get(CONTENT_ENCODING) {
        Some(_) => GzDecoder::new(&response.body()[..]).read_to_string(&mut text),
        None => (&response.body()[..]).read_to_string(&mut text),
    }
    .unwrap();
    text
}

#[tokio::test]
async fn compression_is_as_each_client_asks_from_outside_alone() {
    let (log, _guard) = log::listen();
    for side in [Outside, Inside] {
        let server = Server::with(|router| router.layer(CompressionLayer::new()), side);
        let gzip = || charge(LONG, &[(ACCEPT_ENCODING, "gzip")]);
        let first = server.send(gzip()).await;
        assert_eq!(first.headers()[CONTENT_ENCODING], "gzip");
        let retry = server.send(gzip()).await;
        assert!(is_replay(&retry));
        assert_eq!(retry.headers()[CONTENT_ENCODING], "gzip");
        let plain = server.send(charge(LONG, &[])).await;
        assert!(is_replay(&plain));
        let is_encoded = plain.headers().contains_key(CONTENT_ENCODING);
        assert_eq!(is_encoded, side == Inside);
        for response in [&first, &retry, &plain] {
            assert_eq!(decoded(response), format!("1: {LONG}"));
        }
        let told = log.take();
        let warnings = told.matches("put the compression layer outside").count();
        assert_eq!(warnings, usize::from(side == Inside), "{told}");
        assert_eq!(server.works.executed(), 1);
    }
}

#[tokio::test]
async fn an_encoded_body_and_its_plain_twin_are_one_request_behind_decompression() {
    let (log, _guard) = log::listen();
    for side in [Outside, Inside] {
        let server = Server::with(
            |router| router.layer(RequestDecompressionLayer::new()),
            side,
        );
        let encoded = |level| {
            let mut encoded = Vec::new();
            let mut encoder = GzEncoder::new(LONG.as_bytes(), level);
            encoder.read_to_end(&mut encoded).unwrap();
            charge(encoded, &[(CONTENT_ENCODING, "gzip")])
        };
        let first = server.send(encoded(Compression::best())).await;
        assert_eq!(first.body(), &format!("1: {LONG}"));
        // A retry of another library, and one that is not encoded.
        for retry in [encoded(Compression::none()), charge(LONG, &[])] {
            let retry = server.send(retry).await;
            match side {
                Outside => assert_eq!((retry.body(), is_replay(&retry)), (first.body(), true)),
                Inside => assert_eq!(problem(&retry), "mismatch"),
            }
        }
        let told = log.take();
        let warnings = told.matches("put the decompression layer outside").count();
        assert_eq!(warnings, usize::from(side == Inside), "{told}");
        assert_eq!(server.works.executed(), 1);
    }
}

#[tokio::test]
async fn a_body_over_a_layers_limit_keeps_nothing_from_outside_alone() {
    for side in [Outside, Inside] {
        let server = Server::with(|router| router.layer(RequestBodyLimitLayer::new(10)), side);
        let refused = server.send(charge(LONG, &[])).await;
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        // The client sends less under the same key.
        let shorter = server.send(charge("x", &[])).await;
        match side {
            Outside => assert_eq!(shorter.body(), "1: x"),
            Inside => {
                assert_eq!(problem(&shorter), "mismatch");
                let again = server.send(charge(LONG, &[])).await;
                assert_eq!(again.status(), StatusCode::PAYLOAD_TOO_LARGE);
                assert!(is_replay(&again));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_leaves_the_handler_alone_from_outside_alone() {
    let timeout = |status| {
        let layer = TimeoutLayer::with_status_code(status, Duration::from_millis(50));
        move |router: Router| router.layer(layer)
    };
    for (side, status, executions) in [
        (Outside, StatusCode::GATEWAY_TIMEOUT, 1),
        (Inside, StatusCode::REQUEST_TIMEOUT, 2),
        (Inside, StatusCode::GATEWAY_TIMEOUT, 1),
    ] {
        let server = Server::with(timeout(status), side);
        let first = server.send(charge("stop", &[])).await;
        assert_eq!(first.status(), status);
        server.works.started().await;
        server.works.let_go();
        if side == Inside && executions == 1 {
            // Stopped half-way, for good.
            let retry = server.send(charge("stop", &[])).await;
            assert!(is_replay(&retry));
            assert_eq!(retry.status(), status);
        } else {
            server.engine.idle().await;
            let retry = server.send(charge("stop", &[])).await;
            assert_eq!(is_replay(&retry), side == Outside);
            assert_eq!(retry.body(), &format!("{executions}: stop"));
        }
        assert_eq!(server.works.executed(), executions, "{side:?} {status}");
    }
}

#[tokio::test]
async fn what_a_rate_limit_refuses_keeps_nothing_on_either_side() {
    for side in [Outside, Inside] {
        let is_first = Arc::new(AtomicU32::new(0));
        let limit = move |request: Request, next: Next| {
            let is_first = is_first.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                match is_first {
                    true => StatusCode::TOO_MANY_REQUESTS.into_response(),
                    false => next.run(request).await,
                }
            }
        };
        let server = Server::with(|router| router.layer(from_fn(limit)), side);
        let refused = server.send(charge("x", &[])).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let retry = server.send(charge("x", &[])).await;
        assert_eq!(retry.body(), "1: x");
    }
}

#[tokio::test]
async fn what_catches_panics_inside_makes_them_final() {
    let (log, _guard) = log::listen();
    for side in [Outside, Inside] {
        let server = Server::with(|router| router.layer(CatchPanicLayer::new()), side);
        for _ in 0..2 {
            let answer = server.send(charge("panic", &[])).await;
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
        let executions = if side == Outside { 2 } else { 1 };
        assert_eq!(server.works.executed(), executions, "{side:?}");
        let told = log.take();
        let warnings = told
            .matches("every retry gets it for the whole ttl")
            .count();
        assert_eq!(warnings, usize::from(side == Inside), "{told}");
    }
}

#[tokio::test]
async fn what_commits_after_the_handler_stands_inside() {
    // A transaction of each request, in a middleware, whose commit fails.
    async fn commit(request: Request, next: Next) -> Response {
        next.run(request).await;
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
    for side in [Outside, Inside] {
        let server = Server::with(|router| router.layer(from_fn(commit)), side);
        let first = server.send(charge("x", &[])).await;
        assert_eq!(first.status(), StatusCode::SERVICE_UNAVAILABLE);
        server.send(charge("x", &[])).await;
        // Outside, what was rolled back is taken for done.
        let executions = if side == Outside { 1 } else { 2 };
        assert_eq!(server.works.executed(), executions, "{side:?}");
    }
}
