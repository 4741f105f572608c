//! Responses that flow: what their clients and those who attach to them can do to their attempts.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::StatusCode;
use http_body_util::BodyExt;
use idem::Engine;
use idem::conformance::faults::{FaultyStore, Method};
use tower::ServiceExt;

use crate::bench::faulty;

const DEADLINE: Duration = Duration::from_secs(60);

/// A stream whose first part is "first ", and which goes on as `kind` says.
fn streamed(kind: &str) -> Body {
    let attempt = idem::attempt().number();
    if attempt > 1 {
        return Body::from(format!("attempt {attempt}"));
    }
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"first "))]);
    match kind {
        "ends" => Body::from_stream(first),
        "hangs" => Body::from_stream(first.chain(stream::pending())),
        "panics" => {
            let panics = stream::once(async {
                tokio::task::yield_now().await;
                panic!("half-way")
            });
            Body::from_stream(first.chain(panics))
        }
        _ => Body::from_stream(first.chain(stream::repeat(Ok(Bytes::from_static(b"more "))))),
    }
}

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h", deadline = "60s")]
async fn streams(kind: String) -> Body {
    streamed(&kind)
}

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h", deadline = "60s", in_flight = "attach")]
async fn shares(kind: String) -> Body {
    streamed(&kind)
}

fn service() -> (FaultyStore, Engine, Router) {
    let store = faulty();
    let engine = Engine::new(store.clone());
    let router = Router::new()
        .route("/streams", post(streams))
        .route("/shares", post(shares))
        .layer(axum::Extension(engine.clone()));
    (store, engine, router)
}

async fn call(router: &Router, path: &str, kind: &str) -> Response {
    let request = Request::post(path)
        .header("host", "tests")
        .header("idempotency-key", "k")
        .body(Body::from(kind.to_owned()))
        .unwrap();
    router.clone().oneshot(request).await.unwrap()
}

async fn first_part(response: &mut Response) -> Bytes {
    let frame = response.frame().await.unwrap().unwrap();
    frame.into_data().unwrap()
}

async fn text(response: Response) -> Bytes {
    response.collect().await.unwrap().to_bytes()
}

#[tokio::test(start_paused = true)]
async fn a_response_whose_client_reads_no_more_ends_at_its_deadline() {
    for kind in ["hangs", "goes on"] {
        let (store, _, router) = service();
        let mut first = call(&router, "/streams", kind).await;
        assert_eq!(first_part(&mut first).await, "first ");
        tokio::time::sleep(DEADLINE * 2).await;
        assert_eq!(store.calls(Method::Abandon), 1, "{kind}");
        let retry = call(&router, "/streams", kind).await;
        assert_eq!(retry.status(), StatusCode::OK, "{kind}");
        assert_eq!(text(retry).await, "attempt 2");
        // Nothing of the first is given on: another attempt has answered.
        assert!(first.frame().await.unwrap().is_err(), "{kind}");
        assert!(first.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_attaches_to_what_was_cut_off() {
    for kind in ["hangs", "panics"] {
        let (store, _, router) = service();
        let gate = store.hold(Method::Abandon);
        let mut first = call(&router, "/shares", kind).await;
        assert_eq!(first_part(&mut first).await, "first ");
        // The attempt is over, and the store does not know yet.
        gate.arrived(1).await;
        let mut retry = Box::pin(call(&router, "/shares", kind));
        tokio::select! {
            biased;
            attached = &mut retry => panic!("{kind}: {attached:?}"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        gate.open();
        let retry = retry.await;
        assert_eq!(text(retry).await, "attempt 2", "{kind}");
        assert!(first.frame().await.unwrap().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_breaks_off_when_its_attempt_has_been_given_up() {
    for path in ["/streams", "/shares"] {
        let (store, _, router) = service();
        let gate = store.hold(Method::Abandon);
        let mut first = call(&router, path, "hangs").await;
        assert_eq!(first_part(&mut first).await, "first ");
        let mut broken_off = Box::pin(first.frame());
        tokio::select! {
            biased;
            _ = &mut broken_off => panic!("{path}: a retry would find it in flight"),
            () = gate.arrived(1) => {}
        }
        assert!((&mut broken_off).now_or_never().is_none(), "{path}");
        gate.open();
        assert!(broken_off.await.unwrap().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_has_ended_stays_at_its_end() {
    for kind in ["ends", "hangs"] {
        let (store, _, router) = service();
        let gate = store.hold(Method::Complete);
        let mut first = call(&router, "/shares", kind).await;
        if kind == "ends" {
            gate.arrived(1).await;
        }
        let mut attached = call(&router, "/shares", kind).await;
        gate.open();
        for response in [&mut first, &mut attached] {
            assert_eq!(first_part(response).await, "first ");
            if kind == "hangs" {
                assert!(response.frame().await.unwrap().is_err());
            }
            assert!(response.frame().await.is_none(), "{kind}");
            let again = response.frame().now_or_never();
            assert!(matches!(again, Some(None)), "{kind}: {again:?}");
        }
    }
}
