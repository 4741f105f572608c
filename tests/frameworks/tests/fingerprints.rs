//! Fingerprints of stored records: those of operations without `fingerprint(…)` have fixed bytes.
//! One that changes makes every retry across an upgrade a mismatch.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use idem::conformance::faults::FaultyStore;
use idem::http::{RequestIdentity, outcome_of};
use idem::stores::memory::MemoryStore;
use idem::{Begun, Engine, Error, Fingerprint, Fingerprinter, Key, Verdict, idempotent};
use serde::Serialize;
use tower::ServiceExt as _;

/// The fingerprint of the record of this operation under the key "k".
async fn stored(engine: &Engine, operation: &'static str) -> String {
    let found = engine.operation(operation).inspect("k").await.unwrap();
    let bytes = found.unwrap().fingerprint.to_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn engine() -> Engine {
    Engine::new(MemoryStore::new())
}

/// A request without a host, as HTTP/1.0 has it.
fn request(body: &'static str) -> Request<Bytes> {
    Request::post("/charges/7?dry=1")
        .header("idempotency-key", "k")
        .header("content-type", "application/json")
        .header("authorization", "Bearer a")
        .body(Bytes::from_static(body.as_bytes()))
        .unwrap()
}

#[derive(Serialize)]
struct Order {
    id: &'static str,
    cents: u32,
}

#[idempotent(key = order.id, ttl = "1h", name = "f.function", skip(engine), engine = engine)]
async fn function(engine: &Engine, order: Order, note: Option<&str>) -> Result<u32, Error> {
    assert!(note.is_some());
    Ok(order.cents)
}

#[tokio::test]
async fn of_a_function_is_fixed() {
    let engine = engine();
    let order = Order {
        id: "k",
        cents: 500,
    };
    function(&engine, order, Some("n")).await.unwrap();
    let expected = "014da887d77d441e938f833943d720e1e4e7dd929cd9920b128808432bb67b8284";
    assert_eq!(stored(&engine, "f.function").await, expected);
}

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "f.axum")]
async fn axum_handler(body: String) -> String {
    body
}

#[idem::axum::idempotent(key = header("Idempotency-Key"), scope = "s", ttl = "1h", name = "f.scoped")]
async fn axum_scoped(body: String) -> String {
    body
}

#[tokio::test]
async fn of_a_handler_is_fixed() {
    let engine = engine();
    let router = Router::new()
        .route("/charges/{id}", post(axum_handler))
        .layer(axum::Extension(engine.clone()));
    let answer = router.oneshot(request("{}").map(Body::from)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let expected = "020a7d3564729e00957cbe41d4865b60cea244621f5701677f0d701e79abad3ea6";
    assert_eq!(stored(&engine, "f.axum").await, expected);

    let router = Router::new()
        .route("/charges/{id}", post(axum_scoped))
        .layer(axum::Extension(engine.clone()));
    let answer = router.oneshot(request("{}").map(Body::from)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let scoped = engine.operation("f.scoped").scope("s");
    let found = scoped.inspect("k").await.unwrap().unwrap();
    let bytes = found.fingerprint.to_bytes();
    let scoped: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        scoped,
        "01247a8c90fd9e2e20428ded4839ff0cf9e5c812ee4be64351fb83ff71c4e01186"
    );
}

#[idem::http::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "f.http", engine = engine)]
async fn http_function(
    engine: Engine,
    request: Request<Bytes>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request;
    Ok(Response::new(Full::default()))
}

#[tokio::test]
async fn of_a_function_of_a_request_is_the_same() {
    let engine = engine();
    let request = request("{}").map(Full::new);
    http_function(engine.clone(), request).await.unwrap();
    let expected = "020a7d3564729e00957cbe41d4865b60cea244621f5701677f0d701e79abad3ea6";
    assert_eq!(stored(&engine, "f.http").await, expected);
}

#[idempotent(key = key, ttl = "1h", name = "f.warp", skip(engine), engine = engine)]
async fn warp_function(
    key: idem::warp::IdempotencyKey,
    engine: Engine,
    amount: u32,
) -> idem::warp::Reply {
    idem::warp::Reply::of(amount.to_string())
}

#[tokio::test]
async fn of_a_function_in_warp_is_fixed() {
    let engine = engine();
    let key = warp::test::request()
        .method("POST")
        .path("/charges/7?dry=1")
        .header("idempotency-key", "k")
        .header("content-type", "application/json")
        .header("authorization", "Bearer a");
    let key = key.filter(&idem::warp::key()).await.unwrap();
    warp_function(key, engine.clone(), 5).await;
    let expected = "01d1eb585714bcb3ec9482508b17ceabff9c1ee49b5087d69b68b04d9818de839a";
    assert_eq!(stored(&engine, "f.warp").await, expected);
}

#[rocket::post("/charges/<id>", data = "<body>")]
#[idempotent(key = key, ttl = "1h", name = "f.rocket", skip(engine), engine = engine)]
async fn rocket_function<'r>(
    key: idem::rocket::IdempotencyKey<'r>,
    engine: &rocket::State<Engine>,
    id: u8,
    body: String,
) -> idem::rocket::Reply<'r> {
    assert_eq!(id, 7);
    key.reply(body).await
}

#[tokio::test]
async fn of_a_function_in_rocket_is_fixed() {
    let engine = engine();
    let figment = rocket::Config::figment().merge(("log_level", "off"));
    let rocket = rocket::custom(figment)
        .manage(engine.clone())
        .mount("/", rocket::routes![rocket_function]);
    let client = rocket::local::asynchronous::Client::untracked(rocket);
    let client = client.await.unwrap();
    let header = rocket::http::Header::new;
    let request = client
        .post("/charges/7?dry=1")
        .header(header("idempotency-key", "k"))
        .header(header("content-type", "application/json"))
        .header(header("authorization", "Bearer a"))
        .body("{}");
    assert_eq!(request.dispatch().await.status().code, 200);
    let expected = "01394a4a0bc0a44d3006fcf00e579963a9c620622e55089dc3164a7cfcaccb2e46";
    assert_eq!(stored(&engine, "f.rocket").await, expected);
}

#[derive(Clone)]
struct Charges(Engine);

impl Charges {
    #[idem::tonic::idempotent(key = metadata("idempotency-key"), ttl = "1h", name = "f.tonic", engine = self.0)]
    async fn create(
        &self,
        request: tonic::Request<u64>,
    ) -> Result<tonic::Response<u64>, tonic::Status> {
        let _ = &self.0;
        Ok(tonic::Response::new(request.into_inner()))
    }
}

#[tokio::test]
async fn of_a_grpc_method_is_fixed() {
    let engine = engine();
    let mut request = tonic::Request::new(7);
    let metadata = request.metadata_mut();
    metadata.insert("idempotency-key", "k".parse().unwrap());
    metadata.insert("authorization", "Bearer a".parse().unwrap());
    Charges(engine.clone()).create(request).await.unwrap();
    let expected = "0203207875d2a44e91a14fbeb9832724ab894f39dcd831fe2bd1df7e41ce2ca9cd";
    assert_eq!(stored(&engine, "f.tonic").await, expected);
}

#[idempotent(key = id.key(), ttl = "1h", name = "f.skipped", skip(id, engine), engine = engine)]
async fn key_is_skipped(
    id: idem::warp::IdempotencyKey,
    engine: Engine,
    amount: u32,
) -> idem::warp::Reply {
    idem::warp::Reply::of(amount.to_string())
}

#[tokio::test]
async fn what_is_asked_for_counts_where_the_key_itself_is_left_out() {
    let engine = engine();
    for (method, path, expected) in [
        ("POST", "/refunds/1", 200),
        ("POST", "/refunds/1", 200),
        ("POST", "/refunds/2", 422),
        ("POST", "/refunds/1?dry=1", 422),
        ("PUT", "/refunds/1", 422),
    ] {
        let key = warp::test::request()
            .method(method)
            .path(path)
            .header("idempotency-key", "k");
        let key = key.filter(&idem::warp::key()).await.unwrap();
        let reply = key_is_skipped(key, engine.clone(), 5).await;
        let response = warp::Reply::into_response(reply);
        assert_eq!(response.status(), expected, "{method} {path}");
    }
}

/// An upload as a client sends it, under a boundary of its own.
fn upload(boundary: &str) -> Request<Bytes> {
    let body = format!(
        "--{boundary}\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--{boundary}--\r\n"
    );
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let mut request = request("").map(|_| Bytes::from(body));
    let content_type = content_type.parse().unwrap();
    request.headers_mut().insert("content-type", content_type);
    request
}

#[tokio::test]
async fn of_an_upload_is_fixed_whatever_its_boundary() {
    for boundary in ["a", "----WebKitFormBoundaryx9B7pOQ0bXJmYfHe"] {
        let engine = engine();
        http_function(engine.clone(), upload(boundary).map(Full::new))
            .await
            .unwrap();
        assert_eq!(stored(&engine, "f.http").await, UPLOAD);
        let scoped = identity(&upload(boundary)).fingerprint(true, upload(boundary).body());
        assert_eq!(scoped.to_bytes()[0], 3);
    }
}

const UPLOAD: &str = "0445d710fce9d427c2554a01825f14d1b883919630799ff3a0d0be6e3d1f12571c";

fn identity<B>(request: &Request<B>) -> RequestIdentity<'_> {
    RequestIdentity {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
    }
}

/// As versions 1 and 2 of the algorithm took a request: content type and body byte by byte.
fn former(request: &Request<Bytes>) -> Fingerprint {
    let mut parts = Fingerprinter::new();
    parts.bytes("method", request.method().as_str().as_bytes());
    parts.bytes("path", request.uri().path().as_bytes());
    parts.bytes("query", request.uri().query().unwrap_or("").as_bytes());
    parts.bytes("content-type", request.headers()["content-type"].as_bytes());
    identity(request).count_caller(&mut parts);
    parts.bytes("body", request.body());
    parts.finish()
}

/// Leaves a record as a version before has left it: finished, or running.
async fn left_behind(engine: &Engine, request: &Request<Bytes>, finished: bool) -> Option<Begun> {
    let operation = engine.operation("f.http");
    let keyed = operation.keyed(Key::of("k")).unwrap();
    let begun = keyed.begin(former(request)).await.unwrap();
    if !finished {
        return Some(begun);
    }
    let Begun::Execute(execution) = begun else {
        panic!("{begun:?}");
    };
    let response = Response::new(Bytes::from_static(b"of the version before"));
    let outcome = outcome_of(&response, engine.http());
    let ended = execution.drive(async { (Verdict::Final(outcome), ()) });
    ended.await.unwrap();
    None
}

#[tokio::test]
async fn a_record_of_a_version_before_is_known_again() {
    let spelled = |content_type: &str| {
        let mut request = request("{}");
        let content_type = content_type.parse().unwrap();
        request.headers_mut().insert("content-type", content_type);
        request
    };
    let changed = |request: &Request<Bytes>| {
        let mut other = request.clone();
        *other.body_mut() = Bytes::from([request.body(), &b" "[..]].concat());
        other
    };
    for request in [
        spelled("application/json; charset=utf-8"),
        spelled("Application/JSON"),
        upload("a"),
    ] {
        let engine = engine();
        left_behind(&engine, &request, true).await;
        for (sent, status) in [(&request, 200), (&changed(&request), 422), (&request, 200)] {
            let sent = sent.clone().map(Full::new);
            let answer = http_function(engine.clone(), sent).await.unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(
                answer.headers().contains_key("idempotent-replayed"),
                status == 200
            );
        }
        // One that runs, in this process or another, is in flight.
        for elsewhere in [false, true] {
            let store = FaultyStore::new(Arc::new(MemoryStore::new()));
            let here = Engine::builder(store.clone()).build();
            let there = Engine::builder(store).build();
            let running = left_behind(&there, &request, false).await;
            let engine = if elsewhere { here } else { there };
            let sent = request.clone().map(Full::new);
            let answer = http_function(engine, sent).await.unwrap();
            assert_eq!(answer.status(), 409);
            drop(running);
        }
    }
}
