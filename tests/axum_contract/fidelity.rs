//! A replay is the first response, byte for byte; what cannot be kept is never run again.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post as route;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use idem::Engine;
use idem::axum::idempotent;
use idem::http::HttpSettings;
use idem::stores::memory::MemoryStore;

use crate::support::{Server, Works, is_replay, post, problem};

const MIB: usize = 1024 * 1024;

fn binary(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8 ^ 0x80).collect()
}

/// One response of every kind.
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn respond(State(works): State<Works>, Path(kind): Path<String>) -> Response {
    let number = works.execute();
    let header = |name: &'static str, value: &[u8]| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value).unwrap(),
        )
    };
    match &*kind {
        "created" => {
            let location = format!("/charges/{number}");
            (StatusCode::CREATED, [("location", location)], "made").into_response()
        }
        "no-content" => StatusCode::NO_CONTENT.into_response(),
        "empty" => StatusCode::OK.into_response(),
        "binary" => binary(1000).into_response(),
        "mib" => binary(MIB).into_response(),
        "error" => (StatusCode::INTERNAL_SERVER_ERROR, "after the charge").into_response(),
        "headers" => {
            let mut headers = HeaderMap::new();
            headers.extend([
                header("x-latin", b"caf\xe9 \xff\x80"),
                header("x-empty", b""),
                header("link", b"</a>; rel=\"a\""),
                header("x-between", b"1"),
            ]);
            for value in ["</b>; rel=\"b\"", "</c>; rel=\"c\""] {
                headers.append("link", value.parse().unwrap());
            }
            (headers, "body").into_response()
        }
        "unkept" => {
            let headers = [
                ("set-cookie", "session=secret"),
                ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("idempotent-replayed", "forged"),
                ("x-kept", "1"),
            ];
            (headers, "body").into_response()
        }
        "large" => binary(3 * MIB).into_response(),
        "streamed" => {
            let frames = ["one ", "two ", "three"].map(Ok::<_, std::io::Error>);
            Body::from_stream(futures_util::stream::iter(frames)).into_response()
        }
        "endless" => {
            let frames = futures_util::stream::repeat(Bytes::from_static(b"tick\n"));
            Body::from_stream(frames.map(Ok::<_, std::io::Error>)).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn serve(settings: HttpSettings) -> (Server, Works) {
    let works = Works::default();
    let engine = Engine::builder(MemoryStore::new()).http(settings).build();
    let router = Router::new()
        .route("/{kind}", route(respond))
        .layer(Extension(engine))
        .with_state(works.clone());
    (Server::start(router).await, works)
}

/// The headers that a replay must share, in order; hyper adds `date` to both.
fn kept(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .filter(|(name, _)| !["date", "idempotent-replayed"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

#[tokio::test]
async fn a_replay_has_the_first_ones_status_headers_and_body() {
    let (server, works) = serve(HttpSettings::new()).await;
    let cases = [
        ("created", 201, Bytes::from_static(b"made")),
        ("no-content", 204, Bytes::new()),
        ("empty", 200, Bytes::new()),
        ("binary", 200, binary(1000)),
        ("mib", 200, binary(MIB)),
        ("error", 500, Bytes::from_static(b"after the charge")),
        ("headers", 200, Bytes::from_static(b"body")),
    ];
    for (number, (kind, status, body)) in (1..).zip(cases) {
        let send = || server.send(post(&format!("/{kind}"), kind, "{}"));
        let first = send().await;
        assert_eq!(first.status(), status, "{kind}");
        assert_eq!(first.body(), &body, "{kind}");
        assert!(!is_replay(&first), "{kind}");
        for _ in 0..2 {
            let replay = send().await;
            assert!(is_replay(&replay), "{kind}");
            assert_eq!(replay.status(), first.status(), "{kind}");
            assert_eq!(replay.body(), first.body(), "{kind}");
            assert_eq!(kept(replay.headers()), kept(first.headers()), "{kind}");
        }
        assert_eq!(works.executed(), number, "{kind}");
    }
}

#[tokio::test]
async fn location_repeated_headers_and_foreign_bytes_survive() {
    let (server, _) = serve(HttpSettings::new()).await;
    for _ in 0..2 {
        let created = server.send(post("/created", "a", "{}")).await;
        assert_eq!(created.headers()["location"], "/charges/1");
    }
    for _ in 0..2 {
        let response = server.send(post("/headers", "b", "{}")).await;
        let links: Vec<_> = response.headers().get_all("link").iter().collect();
        assert_eq!(
            links,
            ["</a>; rel=\"a\"", "</b>; rel=\"b\"", "</c>; rel=\"c\""]
        );
        assert_eq!(
            response.headers()["x-latin"].as_bytes(),
            b"caf\xe9 \xff\x80"
        );
        assert_eq!(response.headers()["x-empty"], "");
    }
}

#[tokio::test]
async fn cookies_dates_and_hop_by_hop_headers_are_not_stored() {
    let (server, _) = serve(HttpSettings::new()).await;
    let first = server.send(post("/unkept", "a", "{}")).await;
    assert_eq!(first.headers()["set-cookie"], "session=secret");
    let replay = server.send(post("/unkept", "a", "{}")).await;
    assert!(is_replay(&replay));
    assert_eq!(replay.headers()["x-kept"], "1");
    for name in ["set-cookie", "x-hop", "keep-alive"] {
        assert!(!replay.headers().contains_key(name), "{name}");
    }
    assert_ne!(replay.headers()["date"], "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(
        replay
            .headers()
            .get_all("idempotent-replayed")
            .iter()
            .count(),
        1
    );

    let (server, _) = serve(HttpSettings::new().keep_set_cookie(true)).await;
    for _ in 0..2 {
        let response = server.send(post("/unkept", "a", "{}")).await;
        assert_eq!(response.headers()["set-cookie"], "session=secret");
    }
}

#[tokio::test]
async fn what_cannot_be_kept_reaches_the_first_caller_whole_and_never_runs_again() {
    let (server, works) = serve(HttpSettings::new()).await;
    let cases = [
        ("large", binary(3 * MIB)),
        ("streamed", Bytes::from_static(b"one two three")),
    ];
    for (number, (kind, body)) in (1..).zip(cases) {
        let send = || server.send(post(&format!("/{kind}"), kind, "{}"));
        let first = send().await;
        assert_eq!(first.status(), 200);
        assert_eq!(first.body(), &body);
        for _ in 0..2 {
            let retry = send().await;
            assert_eq!(retry.status(), 409, "{kind}");
            assert_eq!(problem(&retry), "not-replayable");
            assert!(!retry.headers().contains_key("retry-after"));
        }
        assert_eq!(works.executed(), number, "{kind}");
    }
}

#[tokio::test]
async fn an_endless_response_flows_and_is_never_run_again() {
    let (server, works) = serve(HttpSettings::new()).await;
    let mut first = server.exchange(post("/endless", "a", "{}")).await;
    let mut received = 0;
    while received < 4 * MIB {
        let frame = first.frame().await.unwrap().unwrap();
        received += frame.into_data().unwrap().len();
    }
    // The retry comes while the first response still flows.
    let retry = server.send(post("/endless", "a", "{}")).await;
    assert_eq!(
        (retry.status(), problem(&retry).as_str()),
        (StatusCode::CONFLICT, "not-replayable")
    );
    drop(first);
    let retry = server.send(post("/endless", "a", "{}")).await;
    assert_eq!(retry.status(), 409);
    assert_eq!(works.executed(), 1);
}
