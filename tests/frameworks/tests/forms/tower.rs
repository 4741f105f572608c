//! The layer beside the attribute: one operation may move from one to the other.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{OriginalUri, State};
use axum::middleware::Next;
use axum::routing::{get, post as route};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use idem::Engine;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::tower::IdempotencyLayer;
use idem_frameworks::{Server, Works, is_replay, post, problem};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn plain(State(works): State<Works>, body: String) -> String {
    format!("{}: {body}", works.execute())
}

#[idem::axum::idempotent(name = "moving", key = header("Idempotency-Key"), ttl = "24h")]
async fn annotated(State(works): State<Works>, body: String) -> String {
    format!(
        "{}: {body} in attempt {}",
        works.execute(),
        idem::attempt().number()
    )
}

fn moving(engine: &Engine) -> IdempotencyLayer {
    idem::axum::layer(DAY).engine(engine.clone()).name("moving")
}

#[tokio::test]
async fn an_operation_moves_between_the_layer_and_the_attribute() {
    let engine = Engine::new(MemoryStore::new());
    let works = Works::default();
    let with_layer = Router::new()
        .route("/v1/charges", route(plain))
        .layer(moving(&engine))
        .with_state(works.clone());
    // In a nested router, whose prefix counts all the same.
    let inside = Router::new()
        .route("/charges", route(plain))
        .layer(moving(&engine));
    let nested = Router::new().nest("/v1", inside).with_state(works.clone());
    let with_attribute = Router::new()
        .route("/v1/charges", route(annotated))
        .layer(Extension(engine.clone()))
        .with_state(works.clone());
    for (number, routers) in (1..).zip([
        [&with_layer, &with_attribute, &nested],
        [&nested, &with_layer, &with_attribute],
        [&with_attribute, &nested, &with_layer],
    ]) {
        let key = format!("key {number}").replace(' ', "-");
        let mut bodies = Vec::new();
        for (position, router) in routers.into_iter().enumerate() {
            let server = Server::start(router.clone()).await;
            let response = server.send(post("/v1/charges", &key, "x")).await;
            assert_eq!(response.status(), 200);
            assert_eq!(is_replay(&response), position > 0);
            bodies.push(response.into_body());
        }
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(works.executed(), number);
    }
}

#[tokio::test]
async fn a_handler_of_the_same_operation_runs_within_the_layers_attempt() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let engine = Engine::new(store.clone());
    let works = Works::default();
    let router = Router::new()
        .route("/charges", route(annotated))
        .layer(moving(&engine))
        .layer(Extension(engine.clone()))
        .with_state(works.clone());
    let server = Server::start(router).await;
    for again in [false, true] {
        let response = server.send(post("/charges", "a", "x")).await;
        assert_eq!(response.body(), "1: x in attempt 1");
        assert_eq!(is_replay(&response), again);
    }
    assert_eq!(works.executed(), 1);
    assert_eq!(store.calls(Method::Claim), 2);
}

#[tokio::test]
async fn only_the_given_methods_are_protected_under_the_given_header() {
    let engine = Engine::new(MemoryStore::new());
    let works = Works::default();
    let layer = IdempotencyLayer::new("tests", DAY)
        .engine(engine)
        .methods([http::Method::PUT])
        .key(HeaderName::from_static("x-request-key"));
    let router = Router::new()
        .route("/", get(plain).post(plain).put(plain))
        .layer(layer)
        .with_state(works.clone());
    let server = Server::start(router).await;
    let send = |method: http::Method, key: Option<&str>| {
        let mut request = Request::builder().method(method).uri("/");
        if let Some(key) = key {
            request = request.header("x-request-key", key);
        }
        server.send(request.body(Bytes::new()).unwrap())
    };
    for method in [http::Method::GET, http::Method::POST] {
        for _ in 0..2 {
            let response = send(method.clone(), Some("a")).await;
            assert_eq!(response.status(), 200);
            assert!(!is_replay(&response));
        }
    }
    let refused = send(http::Method::PUT, None).await;
    assert_eq!(problem(&refused), "key-missing");
    for again in [false, true] {
        let response = send(http::Method::PUT, Some("a")).await;
        assert_eq!(is_replay(&response), again);
    }
    assert_eq!(works.executed(), 5);
}

#[tokio::test]
async fn without_a_route_two_paths_under_a_key_are_a_mismatch() {
    let works = Works::default();
    let counted = works.clone();
    let service = service_fn(move |_: Request<Full<Bytes>>| {
        let number = counted.execute().to_string();
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(number)))) }
    });
    let layer = IdempotencyLayer::new("tests", DAY).engine(Engine::new(MemoryStore::new()));
    let service = layer.layer(service);
    let send = async |path: &str| {
        let request = Request::post(path).header("idempotency-key", "a");
        let request = request.body(Full::default()).unwrap();
        service.clone().oneshot(request).await.unwrap()
    };
    assert_eq!(send("/one").await.status(), 200);
    assert_eq!(send("/other").await.status(), 422);
    assert_eq!(send("/one").await.headers()["idempotent-replayed"], "true");
    assert_eq!(works.executed(), 1);
}

#[derive(Debug, PartialEq)]
struct Lost;

#[tokio::test]
async fn an_error_is_no_response_and_the_next_attempt_follows_the_crash_rule() {
    let works = Works::default();
    let counted = works.clone();
    let service = service_fn(move |_: Request<Full<Bytes>>| {
        let number = counted.execute();
        async move {
            if number == 1 {
                return Err(Lost);
            }
            let attempt = idem::attempt().number().to_string();
            Ok(Response::new(Full::new(Bytes::from(attempt))))
        }
    });
    let engine = Engine::new(MemoryStore::new());
    let layer = IdempotencyLayer::new("tests", DAY).engine(engine.clone());
    let mut service = layer.layer(service);
    let mut send = async || {
        let request = Request::post("/").header("idempotency-key", "a");
        let request = request.body(Full::default()).unwrap();
        service.ready().await.unwrap().call(request).await
    };
    assert_eq!(send().await.unwrap_err(), Lost);
    let second = send().await.unwrap();
    assert_eq!(second.status(), 200);
    assert!(!second.headers().contains_key("idempotent-replayed"));
    let replay = send().await.unwrap();
    assert_eq!(replay.headers()["idempotent-replayed"], "true");
    assert_eq!(works.executed(), 2);

    // Where a crash refuses, somebody has to look.
    let counted = Works::default();
    let always = counted.clone();
    let service = service_fn(move |_: Request<Full<Bytes>>| {
        always.execute();
        async { Err::<Response<Full<Bytes>>, _>(Lost) }
    });
    let layer = IdempotencyLayer::new("refusing", DAY)
        .engine(engine)
        .on_crash(idem::OnCrash::Refuse);
    let service = layer.layer(service);
    let request = || {
        let request = Request::post("/").header("idempotency-key", "a");
        request.body(Full::default()).unwrap()
    };
    assert_eq!(service.clone().oneshot(request()).await.unwrap_err(), Lost);
    let refused = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(refused.status(), 409);
    assert_eq!(counted.executed(), 1);
}

/// A handler that calls the router it stands in, once, with its own key and another body.
#[idem::axum::idempotent(name = "calls itself", key = header("Idempotency-Key"), ttl = "24h")]
async fn calls_itself(State((works, router)): State<Looping>, body: String) -> String {
    let number = works.execute();
    if number > 1 {
        return format!("{number}: {body}");
    }
    let inner = router.get().unwrap().clone();
    let request = post("/", "a", "another").map(axum::body::Body::from);
    inner.oneshot(request).await.unwrap().status().to_string()
}

type Looping = (Works, Arc<std::sync::OnceLock<Router>>);

#[tokio::test]
async fn a_body_that_calls_its_own_operation_under_its_own_key_is_refused() {
    for layered in [false, true] {
        let engine = Engine::new(MemoryStore::new());
        let looping = Looping::default();
        let mut router = Router::new()
            .route("/", route(calls_itself))
            .layer(Extension(engine.clone()));
        if layered {
            let layer = idem::axum::layer(DAY).name("calls itself");
            router = router.layer(layer.engine(engine));
        }
        let router = router.with_state(looping.clone());
        looping.1.set(router.clone()).unwrap();
        let server = Server::start(router).await;
        let response = server.send(post("/", "a", "x")).await;
        assert_eq!(response.body(), "409 Conflict", "layered: {layered}");
        assert_eq!(looping.0.executed(), 1);
    }
}

#[tokio::test]
async fn within_a_layer_that_fails_open_the_handler_runs() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let engine = Engine::builder(store.clone()).fail_open(true).build();
    let works = Works::default();
    let router = Router::new()
        .route("/charges", route(annotated))
        .layer(moving(&engine))
        .layer(Extension(engine.clone()))
        .with_state(works.clone());
    let server = Server::start(router).await;
    store.fail_everything(&Fault::Unavailable);
    let response = server.send(post("/charges", "a", "x")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(works.executed(), 1);
}

#[idem::axum::idempotent(name = "inner", key = header("Idempotency-Key"), ttl = "24h", fingerprint(1))]
async fn inner(State(works): State<Works>) -> String {
    works.stop_here().await;
    format!("{}", works.execute())
}

#[tokio::test]
async fn an_attempt_elsewhere_of_an_operation_within_is_no_final_answer() {
    let engine = Engine::new(MemoryStore::new());
    let works = Works::default();
    let direct = Router::new()
        .route("/", route(inner))
        .layer(Extension(engine.clone()))
        .with_state(works.clone());
    let layer = idem::axum::layer(DAY).engine(engine.clone());
    let layered = direct.clone().layer(layer);
    let (direct, layered) = (Server::start(direct).await, Server::start(layered).await);
    let running = tokio::spawn(direct.send(post("/", "a", "x")));
    works.started().await;
    let refused = layered.send(post("/", "a", "x")).await;
    assert_eq!(problem(&refused), "in-flight");
    works.let_go();
    assert_eq!(running.await.unwrap().body(), "1");
    // The layer's own record says nothing of how that ended.
    let answer = layered.send(post("/", "a", "x")).await;
    assert_eq!(answer.body(), "1");
    assert_eq!(works.executed(), 1);
}

/// One layer, inside of two routers that take their prefixes away.
fn nested(layer: &IdempotencyLayer, works: &Works) -> Router {
    let inside = || {
        Router::new()
            .route("/", route(plain))
            .layer(layer.clone())
            .with_state(works.clone())
    };
    Router::new()
        .nest("/charges", inside())
        .nest("/refunds", inside())
}

#[tokio::test]
async fn one_layer_inside_two_nested_routers_never_confuses_them() {
    let engine = Engine::new(MemoryStore::new());
    let routed = idem::axum::layer(DAY).engine(engine.clone());
    let works = Works::default();
    let server = Server::start(nested(&routed, &works)).await;
    for again in [false, true] {
        for (number, path) in [(1, "/charges"), (2, "/refunds")] {
            let response = server.send(post(path, "a", "x")).await;
            assert_eq!(is_replay(&response), again);
            assert_eq!(response.body(), &format!("{number}: x"));
        }
    }

    // As one operation: with axum's own layer, and with any that is told where the path is.
    for layer in [
        routed.name("payments"),
        IdempotencyLayer::new("payments of any service", DAY)
            .engine(engine.clone())
            .original_uri(|head| {
                let original = head.extensions.get::<OriginalUri>();
                original.map_or(&head.uri, |original| &original.0)
            }),
    ] {
        let works = Works::default();
        let server = Server::start(nested(&layer, &works)).await;
        let charged = server.send(post("/charges", "a", "x")).await;
        assert_eq!(charged.status(), 200);
        let refused = server.send(post("/refunds", "a", "x")).await;
        assert_eq!(problem(&refused), "mismatch");
        assert!(is_replay(&server.send(post("/charges", "a", "x")).await));
        assert_eq!(works.executed(), 1);
    }
}

#[tokio::test]
async fn a_layer_names_operations_by_the_requests_head() {
    let engine = Engine::new(MemoryStore::new());
    let works = Works::default();
    let by_version = |head: &http::request::Parts| match head.headers.get("api-version") {
        Some(version) if version == "2" => "charges.2",
        _ => "charges.1",
    };
    let layer = IdempotencyLayer::named_by(by_version, DAY).engine(engine);
    let router = Router::new()
        .route("/", route(plain))
        .layer(layer)
        .with_state(works.clone());
    let server = Server::start(router).await;
    for (version, number) in [("1", 1), ("2", 2), ("1", 1), ("2", 2)] {
        let mut request = post("/", "a", "x");
        let version = version.parse().unwrap();
        request.headers_mut().insert("api-version", version);
        let response = server.send(request).await;
        assert_eq!(response.body(), &format!("{number}: x"));
    }
}

#[tokio::test]
async fn a_layer_keeps_records_for_the_ttl_that_was_given_last() {
    let store = Arc::new(MemoryStore::new());
    let engine = idem::EngineBuilder::new(Arc::clone(&store) as _).build();
    let layer = moving(&engine).ttl(Duration::from_secs(7));
    let router = Router::new()
        .route("/", route(plain))
        .layer(layer)
        .with_state(Works::default());
    let server = Server::start(router).await;
    server.send(post("/", "a", "x")).await;
    let id = idem::RecordId::derive("", "moving", None, &idem::Key::of("a").unwrap());
    let found = idem::store::Store::inspect(&*store, &id).await.unwrap();
    let mut claim = idem::store::Claim::new(id, found.unwrap().fingerprint, DAY, DAY);
    claim.ask_retention = true;
    match idem::store::Store::claim(&*store, &claim).await.unwrap() {
        idem::store::Claimed::Finished { retention_left, .. } => {
            assert!(retention_left.unwrap() <= Duration::from_secs(7));
        }
        other => panic!("{other:?}"),
    }
}

/// A router of annotated handlers under a layer of another name, and what stands between the two.
struct Layered {
    server: Server,
    works: Works,
    /// The store of the handlers' own engine.
    store: FaultyStore,
    /// Whether the handlers have that engine.
    has_engine: Arc<AtomicBool>,
}

#[idem::axum::idempotent(name = "within", key = header("Inner-Key"), ttl = "24h")]
async fn within(State(works): State<Works>, Json(amount): Json<u32>) -> String {
    let number = works.execute();
    assert!(amount > 0, "half-way");
    format!("{number}: {amount}")
}

impl Layered {
    async fn start() -> Self {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let inner = Engine::new(store.clone());
        let has_engine = Arc::new(AtomicBool::new(true));
        let gives = Arc::clone(&has_engine);
        let give_engine = move |mut request: axum::extract::Request, next: Next| {
            if gives.load(Ordering::SeqCst) {
                request.extensions_mut().insert(inner.clone());
            }
            next.run(request)
        };
        let works = Works::default();
        let layer = idem::axum::layer(DAY)
            .engine(Engine::new(MemoryStore::new()))
            // Not even a status that says "not processed" is listed.
            .release([429])
            .on_crash(idem::OnCrash::Refuse);
        let router = Router::new()
            .route("/", route(within))
            .layer(axum::middleware::from_fn(give_engine))
            .layer(layer)
            .with_state(works.clone());
        Self {
            server: Server::start(router).await,
            works,
            store,
            has_engine,
        }
    }

    async fn send(
        &self,
        key: &str,
        inner_key: Option<&str>,
        body: &'static str,
    ) -> Response<Bytes> {
        let mut request = post("/", key, body);
        if let Some(inner_key) = inner_key {
            let inner_key = inner_key.parse().unwrap();
            request.headers_mut().insert("inner-key", inner_key);
        }
        self.server.send(request).await
    }
}

#[tokio::test]
async fn a_layer_keeps_no_refusal_of_a_handler_within() {
    let layered = Layered::start().await;

    layered.has_engine.store(false, Ordering::SeqCst);
    let refused = layered.send("a", Some("a"), "1").await;
    assert_eq!(problem(&refused), "misconfigured");
    layered.has_engine.store(true, Ordering::SeqCst);
    assert_eq!(layered.send("a", Some("a"), "1").await.body(), "1: 1");

    layered.store.fail_always(Method::Claim, Fault::Unavailable);
    let refused = layered.send("b", Some("b"), "1").await;
    assert_eq!(problem(&refused), "store-unavailable");
    layered.store.heal(Method::Claim);
    assert_eq!(layered.send("b", Some("b"), "1").await.body(), "2: 1");

    for (key, inner, kind) in [
        ("c", None, "key-missing"),
        ("d", Some("no key"), "key-invalid"),
        ("e", Some("a"), "mismatch"),
    ] {
        let body = if key == "e" { "2" } else { "1" };
        let refused = layered.send(key, inner, body).await;
        assert_eq!(problem(&refused), kind);
        let accepted = layered.send(key, Some(key), body).await;
        assert_eq!(accepted.status(), 200, "{kind}");
        assert!(!is_replay(&accepted));
    }
    assert_eq!(layered.works.executed(), 5);
    // What was executed is kept, without a look at the handler.
    assert!(is_replay(&layered.send("a", Some("a"), "1").await));
    assert_eq!(layered.works.executed(), 5);
}

#[tokio::test]
async fn a_layer_keeps_no_rejection_of_an_annotated_handler() {
    let layered = Layered::start().await;
    let rejected = layered.send("a", Some("a"), "no number").await;
    assert!(rejected.status().is_client_error());
    // The key is free, for another request too.
    assert_eq!(layered.send("a", Some("a"), "1").await.body(), "1: 1");
}

#[tokio::test]
async fn a_panic_of_a_handler_within_is_no_answer_that_a_layer_keeps() {
    let layered = Layered::start().await;
    let crashed = layered.send("a", Some("a"), "0").await;
    assert_eq!(problem(&crashed), "crashed");
    // It may have had an effect, and the layer refuses to find out.
    let refused = layered.send("a", Some("a"), "0").await;
    assert_eq!(problem(&refused), "outcome-unknown");
    assert_eq!(layered.works.executed(), 1);
}

/// A service that holds its bodies, with room for four at once, and layers around it.
fn crowded(works: &Works) -> impl Fn(&'static str) -> Answering + use<> {
    let inside = works.clone();
    let body = service_fn(move |_: Request<Full<Bytes>>| {
        let works = inside.clone();
        async move {
            works.stop_here().await;
            let number = works.execute().to_string();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(number))))
        }
    });
    let layer = IdempotencyLayer::new("crowded", DAY)
        .engine(Engine::new(MemoryStore::new()))
        .in_flight(idem::InFlight::Wait(DAY));
    let service = layer.layer(ConcurrencyLimit::new(body, 4));
    move |key| {
        let request = Request::post("/").header("idempotency-key", key);
        let request = request.body(Full::default()).unwrap();
        let answer = service.clone().oneshot(request);
        Box::pin(async move {
            let Ok(answer) = answer.await;
            answer.into_body().collect().await.unwrap().to_bytes()
        })
    }
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Bytes> + Send>>;

#[tokio::test]
async fn who_waits_takes_no_room_of_the_service_within() {
    let works = Works::default();
    let send = crowded(&works);
    let first = tokio::spawn(send("a"));
    works.started().await;
    let mut waiters: Vec<_> = (0..8).map(|_| send("a")).collect();
    for waiter in &mut waiters {
        assert!(waiter.now_or_never().is_none());
    }
    let other = tokio::spawn(send("b"));
    works.started().await;
    works.let_go();
    works.let_go();
    assert_ne!(first.await.unwrap(), other.await.unwrap());
    for waiter in waiters {
        assert_eq!(waiter.await.len(), 1);
    }
    assert_eq!(works.executed(), 2);
}

#[tokio::test]
async fn who_hangs_up_while_the_service_within_is_full_never_runs() {
    let works = Works::default();
    let send = crowded(&works);
    let running: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|key| tokio::spawn(send(key)))
        .collect();
    for _ in &running {
        works.started().await;
    }
    // Admitted, without room.
    let mut full = send("e");
    for _ in 0..100 {
        assert!((&mut full).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(full);
    for _ in 0..5 {
        works.let_go();
    }
    for one in running {
        one.await.unwrap();
    }
    assert_eq!(send("e").await, "5");
    assert_eq!(works.executed(), 5);
}

/// Ready at the second time of asking.
#[derive(Clone)]
struct NotReadyYet(Works);

impl Service<Request<Full<Bytes>>> for NotReadyYet {
    type Response = Response<Full<Bytes>>;
    type Error = Lost;
    type Future = std::future::Ready<Result<Self::Response, Lost>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Lost>> {
        std::task::Poll::Ready(match self.0.execute() {
            1 => Err(Lost),
            _ => Ok(()),
        })
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        std::future::ready(Ok(Response::new("done".into())))
    }
}

#[tokio::test]
async fn a_service_within_that_is_not_ready_has_executed_nothing() {
    let layer = IdempotencyLayer::new("not ready", DAY)
        .engine(Engine::new(MemoryStore::new()))
        .on_crash(idem::OnCrash::Refuse);
    let service = layer.layer(NotReadyYet(Works::default()));
    let send = || {
        let request = Request::post("/").header("idempotency-key", "a");
        service
            .clone()
            .oneshot(request.body(Full::default()).unwrap())
    };
    assert_eq!(send().await.unwrap_err(), Lost);
    assert_eq!(send().await.unwrap().status(), 200);
}

#[test]
fn a_layer_frees_no_key_by_a_status_that_says_processed() {
    let release = |statuses: &'static [u16]| {
        let statuses = statuses.iter().copied();
        std::panic::catch_unwind(|| {
            drop(IdempotencyLayer::new("statuses", DAY).release(statuses));
        })
    };
    assert!(release(&[]).is_ok());
    assert!(release(&[300, 404, 503, 599]).is_ok());
    for wrong in [&[200][..], &[503, 204], &[299], &[100], &[600], &[0]] {
        assert!(release(wrong).is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn what_no_route_answers_is_not_kept_under_axums_router() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let engine = Engine::new(store.clone());
    let works = Works::default();
    let found = works.clone();
    let missing = move |path: axum::extract::Path<String>| {
        let number = found.execute();
        async move {
            (
                http::StatusCode::NOT_FOUND,
                format!("{number}: no {}", path.0),
            )
        }
    };
    let layer = || idem::axum::layer(Duration::from_secs(60)).engine(engine.clone());
    let customers = Router::new()
        .route("/customers/{id}", route(missing))
        .route("/read-only", get(|| async {}));
    let inside = Router::new()
        .merge(customers.clone())
        .nest("/v1", customers.clone())
        .layer(layer());
    let mut requests = 0;
    for (path, status, is_kept) in [
        ("/nowhere", 404, false),
        ("/v1/nowhere", 404, false),
        ("/read-only", 405, false),
        ("/v1/read-only", 405, false),
        // A handler's.
        ("/customers/7", 404, true),
        ("/v1/customers/7", 404, true),
    ] {
        for again in [false, true] {
            let request = post(path, path, "x").map(axum::body::Body::from);
            let answer = inside.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            let is_replay = answer.headers().contains_key("idempotent-replayed");
            assert_eq!(is_replay, again && is_kept, "{path}");
        }
        requests += 2;
    }
    assert_eq!(works.executed(), 2);
    assert_eq!(store.calls(Method::Claim), requests);
    // Around a whole router, a 404 may be a handler's.
    let outside = layer().layer(customers.into_service());
    for again in [false, true] {
        let request = post("/customers/8", "8", "x").map(axum::body::Body::from);
        let answer = outside.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 404);
        let is_replay = answer.headers().contains_key("idempotent-replayed");
        assert_eq!(is_replay, again);
    }
    assert_eq!(works.executed(), 3);
}
