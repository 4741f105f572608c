//! The HTTP contract through warp.

use std::sync::Arc;

use crate::replies::{Answer, LIMIT, Order, Shop};
use futures_util::stream;
use idem::idempotent;
use idem::warp::{IdempotencyKey, Reply};
use idem_frameworks::{Server, is_replay, post as request};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use warp::Filter;
use warp::http::StatusCode;

#[idempotent(key = key, ttl = "24h", skip(shop), engine = shop.engine)]
async fn charge(key: IdempotencyKey, shop: Shop, order: Order) -> Reply {
    let number = shop.works.execute();
    match order.answer {
        Answer::Created => {}
        Answer::Stopped => shop.works.stop_here().await,
        Answer::Refused => {
            return Reply::of(warp::reply::with_status("no", StatusCode::BAD_REQUEST));
        }
        Answer::Overloaded => return Reply::of(StatusCode::SERVICE_UNAVAILABLE),
        Answer::Large => return Reply::of("x".repeat(2 * LIMIT)),
        Answer::Streamed => {
            let half = || Ok::<_, std::io::Error>("x".repeat(LIMIT));
            return Reply::of(warp::reply::stream(stream::iter([half(), half()])));
        }
        Answer::Panic => panic!("as asked"),
    }
    let reply = warp::reply::json(&serde_json::json!({ "charge": number }));
    let reply = warp::reply::with_header(reply, "location", format!("/charges/{number}"));
    Reply::of(warp::reply::with_status(reply, StatusCode::CREATED))
}

/// The scope says who asks, so that a new token on a retry is no other request.
#[idempotent(
    key = id, ttl = "24h", scope = "tenant", skip(shop), engine = shop.engine
)]
async fn scoped(id: IdempotencyKey, shop: Shop) -> Reply {
    Reply::of(shop.works.execute().to_string())
}

async fn start(shop: &Shop) -> Server {
    start_noting(shop, Arc::default()).await
}

/// Notes when the server lets go of a request.
async fn start_noting(shop: &Shop, left: Arc<Notify>) -> Server {
    let shared = shop.clone();
    let shop = warp::any().map(move || shared.clone());
    let charges = warp::path("charges")
        .and(warp::post())
        .and(idem::warp::key())
        .and(shop.clone())
        .and(warp::body::json())
        .then(move |key, shop, order| {
            let answer = idem::warp::detached(charge(key, shop, order));
            let leaving = Leaving(Arc::clone(&left));
            async move {
                let _leaving = leaving;
                answer.await
            }
        });
    let scoped = warp::path("scoped")
        .and(idem::warp::header("Transfer-Id"))
        .and(shop)
        .then(|id, shop| idem::warp::detached(scoped(id, shop)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(warp::serve(charges.or(scoped)).incoming(listener).run());
    Server(address)
}

struct Leaving(Arc<Notify>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

cases_of_replies!();

#[tokio::test]
async fn a_body_goes_on_when_its_client_has_gone() {
    let shop = Shop::open();
    let left = Arc::new(Notify::new());
    let server = start_noting(&shop, Arc::clone(&left)).await;
    crate::replies::a_body_goes_on_when_its_client_has_gone(&shop, server, left.notified()).await;
}

#[tokio::test]
async fn a_panic_is_a_problem() {
    let shop = Shop::open();
    let server = start(&shop).await;
    let order = r#"{"answer": "Panic"}"#;
    let answer = server.send(request("/charges", "k", order)).await;
    assert_eq!(idem_frameworks::problem(&answer), "crashed");
}

#[tokio::test]
async fn within_a_scope_a_new_token_is_the_same_request() {
    let shop = Shop::open();
    let server = start(&shop).await;
    let with = |token: &'static str| {
        http::Request::post("/scoped")
            .header("transfer-id", "\"7\"")
            .header("authorization", token)
            .body(bytes::Bytes::new())
            .unwrap()
    };
    let first = server.send(with("Bearer 1")).await;
    let replay = server.send(with("Bearer 2")).await;
    assert!(is_replay(&replay));
    assert_eq!(replay.body(), first.body());
}

#[idempotent(key = ("text", key.key()), ttl = "24h", skip(shop), engine = shop.engine)]
async fn keyed_by_text(key: IdempotencyKey, shop: Shop) -> Reply {
    let text = key.key().unwrap().to_uppercase();
    Reply::of(format!("{text} {}", shop.works.execute()))
}

#[tokio::test]
async fn a_keys_text_says_who_asks_too() {
    let shop = Shop::open();
    let shared = shop.clone();
    let route = idem::warp::key().then(move |key| {
        let answer = keyed_by_text(key, shared.clone());
        idem::warp::detached(answer)
    });
    for (caller, status) in [("alice", 200), ("bob", 422), ("alice", 200)] {
        let request = warp::test::request()
            .header("idempotency-key", "a")
            .header("authorization", caller);
        let answer = request.reply(&route).await;
        assert_eq!(answer.status(), status, "{caller}");
    }
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn a_key_of_a_request_without_a_filter_is_the_filters() {
    let shop = Shop::open();
    let route = warp::any()
        .and(idem::warp::key())
        .and_then(async |key: IdempotencyKey| {
            Ok::<_, warp::Rejection>(serde_json::to_string(&key).unwrap())
        });
    let request = || {
        let request = http::Request::post("/charges?dry=1").header("idempotency-key", "a");
        request.header("host", "localhost").body(()).unwrap()
    };
    let by_filter = warp::test::request()
        .method("POST")
        .path("/charges?dry=1")
        .header("host", "localhost")
        .header("idempotency-key", "a")
        .reply(&route)
        .await;
    let (head, ()) = request().into_parts();
    let key = || IdempotencyKey::in_header("idempotency-key", &head);
    assert_eq!(&*key().key().unwrap(), "a");
    assert_eq!(
        serde_json::to_string(&key()).unwrap().as_bytes(),
        by_filter.body()
    );
    // In a test of the function alone.
    let order = || Order {
        answer: Answer::Created,
        amount: 1,
    };
    for _ in 0..2 {
        charge(key(), shop.clone(), order()).await;
    }
    assert_eq!(shop.works.executed(), 1);
}
