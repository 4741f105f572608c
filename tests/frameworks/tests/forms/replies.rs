//! What a framework whose handlers use the function form must keep of the HTTP contract. Each case
//! runs over a real socket.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use idem::conformance::faults::{FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::{Engine, EngineBuilder};
use serde::{Deserialize, Serialize};

use idem_frameworks::{Server, Works, is_replay, post, problem};

/// Longer outcomes are not kept.
pub(crate) const LIMIT: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct Shop {
    pub(crate) works: Works,
    pub(crate) engine: Engine,
    pub(crate) store: Arc<FaultyStore>,
}

impl Shop {
    pub(crate) fn open() -> Self {
        Self::with_room_for(LIMIT)
    }

    /// One that stores outcomes of up to so many bytes.
    pub(crate) fn with_room_for(limit: usize) -> Self {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
        let engine = EngineBuilder::new(Arc::clone(&store) as _);
        Self {
            works: Works::default(),
            engine: engine.max_outcome_bytes(limit).build(),
            store,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) answer: Answer,
    #[serde(default)]
    pub(crate) amount: u64,
}

/// How the handler is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// 201 with a location and JSON.
    Created,
    /// The same once it is let go.
    Stopped,
    /// 400, in words.
    Refused,
    /// 503.
    Overloaded,
    Large,
    Streamed,
    Panic,
}

fn order(answer: Answer, amount: u64) -> Bytes {
    serde_json::to_vec(&Order { answer, amount })
        .unwrap()
        .into()
}

fn charge(key: &str, answer: Answer) -> Request<Bytes> {
    post("/charges", key, order(answer, 1999))
}

pub(crate) async fn a_retry_gets_the_first_response(shop: &Shop, server: Server) {
    let first = server.send(charge("order-1", Answer::Created)).await;
    assert_eq!(first.status(), 201);
    assert_eq!(first.headers()["location"], "/charges/1");
    assert!(!is_replay(&first));
    for same_key in ["order-1", "\"order-1\""] {
        let replay = server.send(charge(same_key, Answer::Created)).await;
        assert!(is_replay(&replay));
        assert_eq!(replay.status(), 201);
        assert_eq!(replay.headers()["location"], "/charges/1");
        assert_eq!(
            replay.headers()["content-type"],
            first.headers()["content-type"]
        );
        assert_eq!(replay.body(), first.body());
    }
    assert_eq!(shop.works.executed(), 1);
    let other = server.send(charge("order-2", Answer::Created)).await;
    assert_eq!(other.headers()["location"], "/charges/2");
}

pub(crate) async fn a_final_error_is_stored_and_a_released_one_is_not(shop: &Shop, server: Server) {
    let first = server.send(charge("refused", Answer::Refused)).await;
    assert_eq!(first.status(), 400);
    let replay = server.send(charge("refused", Answer::Refused)).await;
    assert!(is_replay(&replay));
    assert_eq!(
        (replay.status(), replay.body()),
        (first.status(), first.body())
    );
    assert_eq!(shop.works.executed(), 1);
    for executed in [2, 3] {
        let overloaded = server.send(charge("overloaded", Answer::Overloaded)).await;
        assert_eq!(overloaded.status(), 503);
        assert!(!is_replay(&overloaded));
        assert_eq!(shop.works.executed(), executed);
    }
}

pub(crate) async fn a_bad_key_is_refused(shop: &Shop, server: Server) {
    let mut request = charge("k", Answer::Created);
    request.headers_mut().remove("idempotency-key");
    let missing = server.send(request).await;
    assert_eq!(
        (missing.status().as_u16(), &*problem(&missing)),
        (400, "key-missing")
    );
    for malformed in ["", "\"open", "two words", "\"a\" b", &"k".repeat(256)] {
        let answer = server.send(charge(malformed, Answer::Created)).await;
        assert_eq!(
            (answer.status().as_u16(), &*problem(&answer)),
            (400, "key-invalid")
        );
    }
    let mut request = charge("one", Answer::Created);
    let two = "two".parse().unwrap();
    request.headers_mut().append("idempotency-key", two);
    let repeated = server.send(request).await;
    assert_eq!(
        (repeated.status().as_u16(), &*problem(&repeated)),
        (400, "key-invalid")
    );
    assert_eq!(shop.works.executed(), 0);
}

pub(crate) async fn another_request_with_the_key_is_a_mismatch(shop: &Shop, server: Server) {
    server.send(charge("k", Answer::Created)).await;
    let body = order(Answer::Created, 5);
    for request in [
        post("/charges", "k", body),
        post("/charges?dry=1", "k", order(Answer::Created, 1999)),
    ] {
        let answer = server.send(request).await;
        assert_eq!(
            (answer.status().as_u16(), &*problem(&answer)),
            (422, "mismatch")
        );
    }
    assert_eq!(shop.works.executed(), 1);
}

pub(crate) async fn another_callers_response_is_never_given_back(shop: &Shop, server: Server) {
    let from = |caller: &'static str| {
        let mut request = charge("k", Answer::Created);
        let value = http::HeaderValue::from_static(caller);
        request.headers_mut().insert("authorization", value);
        request
    };
    let first = server.send(from("Bearer alice")).await;
    assert_eq!(first.status(), 201);
    for request in [from("Bearer bob"), charge("k", Answer::Created)] {
        let other = server.send(request).await;
        assert_eq!(
            (other.status().as_u16(), &*problem(&other)),
            (422, "mismatch")
        );
    }
    let replay = server.send(from("Bearer alice")).await;
    assert_eq!(replay.body(), first.body());
    assert_eq!(shop.works.executed(), 1);
}

pub(crate) async fn a_duplicate_in_flight_is_told_to_come_back(shop: &Shop, server: Server) {
    let first = tokio::spawn(server.send(charge("k", Answer::Stopped)));
    shop.works.started().await;
    let duplicate = server.send(charge("k", Answer::Stopped)).await;
    assert_eq!(
        (duplicate.status().as_u16(), &*problem(&duplicate)),
        (409, "in-flight")
    );
    assert!(duplicate.headers().contains_key("retry-after"));
    shop.works.let_go();
    assert_eq!(first.await.unwrap().status(), 201);
    assert_eq!(shop.works.executed(), 1);
}

pub(crate) async fn without_its_store_nothing_runs(shop: &Shop, server: Server) {
    shop.store
        .fail_always(Method::Claim, idem::conformance::faults::Fault::Unavailable);
    let refused = server.send(charge("k", Answer::Created)).await;
    assert_eq!(
        (refused.status().as_u16(), &*problem(&refused)),
        (503, "store-unavailable")
    );
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(shop.works.executed(), 0);
    shop.store.heal_everything();
    assert_eq!(
        server.send(charge("k", Answer::Created)).await.status(),
        201
    );
}

pub(crate) async fn what_cannot_be_kept_is_whole_once_and_never_runs_again(
    shop: &Shop,
    server: Server,
) {
    for (executed, answer) in [(1, Answer::Large), (2, Answer::Streamed)] {
        let key = format!("{answer:?}");
        let first = server.send(charge(&key, answer)).await;
        assert_eq!(first.status(), 200);
        assert_eq!(first.body(), &vec![b'x'; 2 * LIMIT]);
        let retry = server.send(charge(&key, answer)).await;
        assert_eq!(
            (retry.status().as_u16(), &*problem(&retry)),
            (409, "not-replayable")
        );
        assert_eq!(shop.works.executed(), executed);
    }
}

pub(crate) async fn a_panic_is_answered_and_the_next_attempt_runs(shop: &Shop, server: Server) {
    for executed in [1, 2] {
        let answer = server.send(charge("k", Answer::Panic)).await;
        assert_eq!(answer.status(), 500);
        assert!(!is_replay(&answer));
        assert_eq!(shop.works.executed(), executed);
    }
}

pub(crate) async fn a_body_goes_on_when_its_client_has_gone(
    shop: &Shop,
    server: Server,
    noticed: impl Future<Output = ()>,
) {
    let client = tokio::spawn(server.exchange(charge("k", Answer::Stopped)));
    shop.works.started().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    noticed.await;
    shop.works.let_go();
    shop.engine.idle().await;
    let retry = server.send(charge("k", Answer::Stopped)).await;
    assert_eq!(retry.status(), 201);
    assert!(is_replay(&retry));
    assert_eq!(shop.works.executed(), 1);
}

/// One test of each case, over what `start` starts.
macro_rules! cases_of_replies {
    ($($case:ident)+) => {$(
        #[tokio::test]
        async fn $case() {
            let shop = $crate::replies::Shop::open();
            let server = start(&shop).await;
            $crate::replies::$case(&shop, server).await;
        }
    )+};
    () => {
        cases_of_replies! {
            a_retry_gets_the_first_response
            a_final_error_is_stored_and_a_released_one_is_not
            a_bad_key_is_refused
            another_request_with_the_key_is_a_mismatch
            another_callers_response_is_never_given_back
            a_duplicate_in_flight_is_told_to_come_back
            without_its_store_nothing_runs
            what_cannot_be_kept_is_whole_once_and_never_runs_again
            a_panic_is_answered_and_the_next_attempt_runs
        }
    };
}
