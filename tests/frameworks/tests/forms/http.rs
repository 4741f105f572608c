//! Functions of a request, apart from what the contract's suite shows.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use idem::Engine;
use idem::http::HttpSettings;
use idem::http::idempotent;
use idem::stores::memory::MemoryStore;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let settings = HttpSettings::new().max_request_bytes(3 * 1024 * 1024);
    Engine::builder(MemoryStore::new()).http(settings).build()
});

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false, engine = ENGINE)]
async fn length(request: Request<Bytes>) -> Response<Full<Bytes>> {
    let length = request.body().len().to_string();
    Response::new(Full::new(length.into()))
}

#[tokio::test]
async fn the_named_engines_limit_holds_with_and_without_a_key() {
    let send = async |key: Option<&str>, length: usize| {
        let mut request = Request::post("/").body(Full::new(Bytes::from(vec![7; length])));
        let headers = request.as_mut().unwrap().headers_mut();
        headers.extend(key.map(|key| {
            let name = http::HeaderName::from_static("idempotency-key");
            (name, key.parse().unwrap())
        }));
        self::length(request.unwrap()).await.status()
    };
    let limit = 3 * 1024 * 1024;
    for key in [Some("a"), None] {
        assert_eq!(send(key, limit).await, 200, "{key:?}");
        assert_eq!(send(key, limit + 1).await, 413, "{key:?}");
    }
}

#[idempotent(
    key = header("Idempotency-Key"),
    ttl = Duration::from_secs(request.body().len() as u64),
    engine = ENGINE,
)]
async fn kept_as_its_body_says(request: Request<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(request.into_body()))
}

#[tokio::test]
async fn the_request_may_name_the_ttl() {
    let answer = async |key: &str, body: &'static str| {
        let request = Request::post("/").header("idempotency-key", key);
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        kept_as_its_body_says(request).await.status()
    };
    assert_eq!(answer("ttl", "a minute").await, 200);
    assert_eq!(answer("no ttl", "").await, 500);
}

#[deny(unused_variables)]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h", engine = ENGINE)]
async fn conditional(
    #[allow(unused_variables)] request: Request<Bytes>,
    #[cfg(any())] absent: Absent,
) -> Response<Full<Bytes>> {
    Response::new(Full::default())
}

#[tokio::test]
async fn an_argument_that_is_not_compiled_is_none() {
    let request = Request::post("/").header("idempotency-key", "conditional");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    assert_eq!(conditional(request).await.status(), 200);
}

#[tokio::test]
async fn a_body_over_another_limit_is_413() {
    let request = Request::post("/").header("idempotency-key", "over");
    let frames = ["12345", "67890", "1"].map(|text| {
        let frame = http_body::Frame::data(Bytes::from(text));
        Ok::<_, std::convert::Infallible>(frame)
    });
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let body = Limited::new(body, 10);
    assert_eq!(length(request.body(body).unwrap()).await.status(), 413);
}

type Trickle = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

/// Its first answer begins, and does not end.
#[idempotent(
    key = header("Idempotency-Key"), ttl = "1h", deadline = "1m", in_flight = "wait",
    name = "tests.http.trickle", engine = ENGINE
)]
async fn trickle(_: Request<Bytes>) -> Response<Trickle> {
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"first"))) });
    Response::new(StreamBody::new(match idem::attempt().number() {
        1 => Box::pin(first.chain(stream::pending())),
        _ => Box::pin(first),
    }))
}

/// Nobody asks for its rest, so that nobody sees that the body takes too long but its attempt.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_no_key_past_the_deadline() {
    for asks_once in [false, true] {
        let key = format!("asks-once-{asks_once}");
        let request = || {
            let request = Request::post("/").header("idempotency-key", &key);
            request.body(Full::new(Bytes::new())).unwrap()
        };
        let mut stalled = trickle(request()).await.into_body();
        if asks_once {
            stalled.frame().await.unwrap().unwrap();
        }
        let retry = trickle(request()).await;
        assert!(!retry.headers().contains_key("idempotent-replayed"));
        let retry = retry.into_body().collect().await.unwrap();
        assert_eq!(retry.to_bytes(), "first");
        // Who asks at last is told.
        let rest = stalled.collect().await;
        assert!(rest.is_err());
        let replay = trickle(request()).await;
        assert!(replay.headers().contains_key("idempotent-replayed"));
    }
}

#[idempotent(
    key = header("Idempotency-Key"), ttl = "1h", in_flight = "attach",
    name = "tests.http.shared", engine = ENGINE
)]
async fn shared(_: Request<Bytes>) -> Response<Trickle> {
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"first"))) });
    Response::new(StreamBody::new(Box::pin(first.chain(stream::pending()))))
}

#[tokio::test]
async fn what_is_there_at_once_goes_out_beside_the_head() {
    let request = Request::post("/").header("idempotency-key", "at-once");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let mut body = shared(request).await.into_body();
    let first = body.frame().now_or_never();
    assert_eq!(
        first.unwrap().unwrap().unwrap().into_data().unwrap(),
        "first"
    );
}

#[idempotent(
    key = header("Idempotency-Key"), ttl = "1h", on_crash = "refuse", deadline = "50ms",
    name = "tests.http.refusing", engine = ENGINE
)]
async fn refusing(request: Request<Bytes>) -> Response<Full<Bytes>> {
    match &request.body()[..] {
        b"panic" => panic!("as asked"),
        _ => std::future::pending().await,
    }
}

#[tokio::test]
async fn what_is_not_run_again_says_so_at_once() {
    for body in ["panic", "hang"] {
        let request = Request::post("/").header("idempotency-key", body);
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = refusing(request).await;
        assert!(response.status().is_server_error());
        assert!(!response.headers().contains_key("retry-after"));
        let problem = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!(problem["retryable"], false, "{problem}");
    }
}
