//! Duplicates at once, clients that hang up, handlers that panic.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::routing::post as route;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use idem::axum::idempotent;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::{Engine, Operation, Verdict};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Server, Works, is_replay, post, problem};

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn rejecting(State(works): State<Works>, body: String) -> (StatusCode, String) {
    works.stop_here().await;
    (StatusCode::CREATED, format!("{}: {body}", works.execute()))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
async fn waiting(State(works): State<Works>, body: String) -> (StatusCode, String) {
    works.stop_here().await;
    (StatusCode::CREATED, format!("{}: {body}", works.execute()))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
async fn panics_once(State(works): State<Works>) -> String {
    works.stop_here().await;
    let number = works.execute();
    assert_ne!(number, 1, "the first attempt fails half-way");
    format!("attempt {}", idem::attempt().number())
}

#[idempotent(
    name = "refusing",
    key = header("Idempotency-Key"),
    ttl = "24h",
    on_crash = "refuse"
)]
async fn panics_and_refuses(State(works): State<Works>) -> String {
    works.execute();
    panic!("half-way");
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
async fn optional(State(works): State<Works>) -> String {
    works.stop_here().await;
    works.execute().to_string()
}

struct Setup {
    server: Server,
    works: Works,
    engine: Engine,
}

async fn serve() -> Setup {
    let works = Works::default();
    let engine = Engine::new(MemoryStore::new());
    let router = Router::new()
        .route("/rejecting", route(rejecting))
        .route("/waiting", route(waiting))
        .route("/panics-once", route(panics_once))
        .route("/panics-and-refuses", route(panics_and_refuses))
        .layer(Extension(engine.clone()))
        .layer(from_fn_with_state(works.clone(), Works::note_who_leaves))
        .with_state(works.clone());
    Setup {
        server: Server::start(router).await,
        works,
        engine,
    }
}

/// 64 equal requests, all sent before the one that runs is let go.
async fn burst(server: Server, works: &Works, path: &str) -> Vec<Response<Bytes>> {
    let all: Vec<_> = (0..64)
        .map(|_| tokio::spawn(server.send(post(path, "a", "{}"))))
        .collect();
    works.started().await;
    works.let_go();
    join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_once_one_runs_and_63_wait_for_its_answer() {
    let Setup { server, works, .. } = serve().await;
    let responses = burst(server, &works, "/waiting").await;
    assert_eq!(works.executed(), 1);
    for response in &responses {
        assert_eq!(response.status(), 201);
        assert_eq!(response.body(), "1: {}");
    }
    let replays = responses.iter().filter(|response| is_replay(response));
    assert_eq!(replays.count(), 63);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_once_one_runs_and_63_are_told_to_come_back() {
    let Setup { server, works, .. } = serve().await;
    let first = tokio::spawn(server.send(post("/rejecting", "a", "{}")));
    works.started().await;
    let others = join_all((0..63).map(|_| server.send(post("/rejecting", "a", "{}")))).await;
    works.let_go();
    assert_eq!(first.await.unwrap().status(), 201);
    for refused in others {
        assert_eq!(refused.status(), 409);
        assert_eq!(problem(&refused), "in-flight");
        assert_eq!(refused.headers()["retry-after"], "1");
    }
    assert_eq!(works.executed(), 1);
    assert!(is_replay(&server.send(post("/rejecting", "a", "{}")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn different_keys_do_not_wait_for_each_other() {
    let Setup { server, works, .. } = serve().await;
    let all: Vec<_> = (0..16)
        .map(|key| tokio::spawn(server.send(post("/rejecting", &key.to_string(), "{}"))))
        .collect();
    for _ in &all {
        works.started().await;
    }
    for _ in &all {
        works.let_go();
    }
    for response in join_all(all).await {
        assert_eq!(response.unwrap().status(), 201);
    }
    assert_eq!(works.executed(), 16);
}

#[tokio::test]
async fn a_client_that_hangs_up_gets_its_answer_on_the_retry() {
    let Setup { server, works, .. } = serve().await;
    let mut stream = TcpStream::connect(server.0).await.unwrap();
    let request = "POST /waiting HTTP/1.1\r\nhost: a\r\nidempotency-key: a\r\n\
                   content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    works.started().await;
    drop(stream);
    // The server has noticed, and has dropped the request.
    works.left().await;
    // The duplicate joins the attempt whose client is gone.
    let retry = tokio::spawn(server.send(post("/waiting", "a", "{}")));
    works.let_go();
    let retry = retry.await.unwrap();
    assert_eq!(retry.status(), 201);
    assert!(is_replay(&retry));
    assert_eq!(retry.body(), "1: {}");
    assert_eq!(works.executed(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_an_unprotected_body_either() {
    // Without a key where none is required, and when the engine fails open.
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    store.fail_always(Method::Claim, Fault::Unavailable);
    let engine = Engine::builder(store).fail_open(true).build();
    let works = Works::default();
    let router = Router::new()
        .route("/", route(optional))
        .layer(Extension(engine))
        .layer(from_fn_with_state(works.clone(), Works::note_who_leaves))
        .with_state(works.clone());
    let server = Server::start(router).await;
    for (number, key) in [(1, ""), (2, "idempotency-key: a\r\n")] {
        let mut stream = TcpStream::connect(server.0).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{key}content-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        works.started().await;
        drop(stream);
        // The server has noticed, and has dropped the request.
        works.left().await;
        works.let_go();
        works.reached(number).await;
    }
}

#[tokio::test]
async fn a_panic_is_500_and_frees_nobody_who_waits_from_the_crash_rule() {
    let Setup { server, works, .. } = serve().await;
    let first = tokio::spawn(server.send(post("/panics-once", "a", "")));
    works.started().await;
    let waiter = tokio::spawn(server.send(post("/panics-once", "a", "")));
    works.let_go();
    let first = first.await.unwrap();
    assert_eq!(first.status(), 500);
    assert_eq!(problem(&first), "crashed");
    assert!(!String::from_utf8_lossy(first.body()).contains("half-way"));
    // The waiter, or the next retry, runs as the second attempt.
    works.started().await;
    works.let_go();
    let second = waiter.await.unwrap();
    assert_eq!(
        (second.status(), &second.body()[..]),
        (StatusCode::OK, &b"attempt 2"[..])
    );
    assert!(is_replay(&server.send(post("/panics-once", "a", "")).await));
    assert_eq!(works.executed(), 2);
}

#[tokio::test]
async fn after_a_panic_a_refusing_operation_waits_for_an_operator() {
    let Setup {
        server,
        works,
        engine,
    } = serve().await;
    let send = || server.send(post("/panics-and-refuses", "a", ""));
    assert_eq!(send().await.status(), 500);
    for _ in 0..3 {
        let refused = send().await;
        assert_eq!(refused.status(), 409);
        assert_eq!(problem(&refused), "outcome-unknown");
        assert!(!refused.headers().contains_key("retry-after"));
    }
    assert_eq!(works.executed(), 1);
    let operation: Operation = engine.operation("refusing").ttl(Duration::from_secs(60));
    assert!(operation.resolve("a", Verdict::Released).await.unwrap());
    assert!(!operation.resolve("a", Verdict::Released).await.unwrap());
    assert_eq!(send().await.status(), 500);
    assert_eq!(works.executed(), 2);
}

#[tokio::test]
async fn a_waiter_whose_patience_ends_is_told_to_come_back() {
    // The clock is moved by the test, not by waiting.
    let works = Works::default();
    let engine = Engine::new(MemoryStore::new());
    let operation = engine
        .operation("patience")
        .in_flight(idem::InFlight::Wait(Duration::from_secs(5)));
    let fingerprint = idem::Fingerprint::of("x").unwrap();
    let body = {
        let works = works.clone();
        async move {
            works.stop_here().await;
            Ok::<_, idem::Error>(works.execute())
        }
    };
    let first = tokio::spawn({
        let operation = operation.clone();
        async move { operation.run("k", fingerprint, body).await }
    });
    works.started().await;
    tokio::time::pause();
    let never = async { Ok::<u32, idem::Error>(0) };
    let refused = operation.run("k", fingerprint, never).await;
    assert!(matches!(refused, Err(idem::Error::InFlight { .. })));
    works.let_go();
    assert_eq!(first.await.unwrap().unwrap(), 1);
}
