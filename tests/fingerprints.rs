//! Fingerprints of stored records: those of operations without `fingerprint(…)` have fixed bytes.
//! One that changes makes every retry across an upgrade a mismatch.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, idempotent};
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
