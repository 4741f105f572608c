//! Every fault of the network, through each integration, against a real server.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use idem_client::reqwest_middleware::{IdempotencyMiddleware, RequestError};
use idem_client::tower::IdempotencyLayer;
use idem_client::{
    IdempotencyKey, KeyError, KeyForm, Outcome, Policy, Refusal, RetryBudget, Tries, TryEnd,
    Unknown, UnknownReason,
};
use idem_client_tests::{Fault, Network, Nobody, Shop, Step};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tower::{Layer, ServiceExt};

const FAULTS: [Fault; 5] = [
    Fault::DropRequest,
    Fault::CutRequest,
    Fault::DropAnswer,
    Fault::CutAnswer,
    Fault::HoldAnswer,
];

/// Quick, but for tries: those of a test on a busy machine take their time.
fn policy() -> Policy {
    Policy::new()
        .backoff(Duration::from_millis(1), Duration::from_millis(20))
        .budget(RetryBudget::new(1.0).reserve(100))
        .max_tries(50)
}

fn client(policy: Policy) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(IdempotencyMiddleware::new(policy))
        .build()
}

/// What an operation came to, whichever client sent it.
type Ended = Outcome<(StatusCode, Bytes)>;

async fn by_reqwest(policy: Policy, url: &str, key: &IdempotencyKey, body: &'static str) -> Ended {
    let request = client(policy)
        .post(url)
        .with_extension(key.clone())
        .body(body);
    match idem_client::reqwest_middleware::outcome(request.send().await).unwrap() {
        Outcome::Unknown(unknown) => Outcome::Unknown(unknown),
        outcome => {
            let mut body = Bytes::new();
            let mut responses = Vec::new();
            let outcome = outcome.map(|response| responses.push(response));
            let response = responses.pop().unwrap();
            let status = response.status();
            body.clone_from(&response.bytes().await.unwrap());
            outcome.map(|()| (status, body))
        }
    }
}

async fn by_hyper(policy: Policy, url: &str, key: &IdempotencyKey, body: &'static str) -> Ended {
    let client: legacy::Client<_, Full<Bytes>> =
        legacy::Client::builder(TokioExecutor::new()).build_http();
    let layer = IdempotencyLayer::new(policy).not_sent_where(legacy::Error::is_connect);
    let request = Request::post(url)
        .extension(key.clone())
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap();
    let sent = layer.layer(client).oneshot(request).await;
    let outcome = idem_client::tower::outcome(sent).unwrap();
    outcome.map(|response| (response.status(), response.into_body().whole().unwrap()))
}

fn answered(ended: Ended) -> (u16, String, Tries) {
    match ended {
        Outcome::Answered(answer) => {
            let (status, body) = answer.response;
            let body = String::from_utf8(body.to_vec()).unwrap();
            (status.as_u16(), body, answer.tries)
        }
        other => panic!("{other:?}"),
    }
}

fn unknown<R: std::fmt::Debug>(outcome: Outcome<R>) -> Unknown {
    match outcome {
        Outcome::Unknown(unknown) => unknown,
        other => panic!("{other:?}"),
    }
}

/// The same test through each integration.
macro_rules! through_each {
    ($($test:ident),* $(,)?) => {
        mod reqwest_client {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(super::by_reqwest).await; })*
        }
        mod hyper_client {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(super::by_hyper).await; })*
        }
    };
}

through_each![
    each_fault_costs_tries_and_never_a_second_charge,
    all_faults_in_a_row_are_one_operation,
    a_request_that_is_doubled_on_its_way_is_one_charge,
    an_operation_in_flight_is_waited_for,
    a_declined_card_and_a_broken_handler_are_answers,
    a_handler_that_was_not_ready_is_asked_again,
    a_crash_is_tried_again_or_unknown_as_the_server_says,
    another_request_under_the_key_is_refused,
    a_deadline_without_an_answer_is_unknown_and_the_key_finds_it_later,
    nobody_listening_is_not_carried_out,
];

async fn each_fault_costs_tries_and_never_a_second_charge(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    for (charges, fault) in FAULTS.into_iter().enumerate() {
        let network = Network::with(shop.address, [fault]).await;
        // Only what is silent has to wait for a timeout.
        let policy = match fault {
            Fault::HoldAnswer => policy().try_timeout(Duration::from_millis(300)),
            _ => policy(),
        };
        let key = IdempotencyKey::random();
        let (status, body, tries) =
            answered(send(policy, &network.url("/charges"), &key, "5").await);
        assert_eq!(
            (status, body),
            (201, (charges + 1).to_string()),
            "{fault:?}"
        );
        assert_eq!(shop.charged(), charges + 1, "{fault:?}");
        assert!(tries.count >= 2, "{fault:?}: {tries:?}");
        let reached = !matches!(fault, Fault::DropRequest | Fault::CutRequest);
        assert_eq!(tries.replayed, reached, "{fault:?}");
        let requests = network.requests();
        assert_eq!(requests.len(), tries.count as usize);
        assert!(requests.iter().all(|it| *it == requests[0]), "{fault:?}");
        let quoted = format!("idempotency-key: \"{}\"\r\n", key.as_str());
        assert!(String::from_utf8_lossy(&requests[0]).contains(&quoted));
    }
}

async fn all_faults_in_a_row_are_one_operation(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let network = Network::with(shop.address, FAULTS.into_iter().chain(FAULTS)).await;
    let policy = policy().try_timeout(Duration::from_secs(1));
    let key = IdempotencyKey::random();
    let (status, _, tries) = answered(send(policy, &network.url("/charges"), &key, "5").await);
    assert_eq!((status, shop.charged()), (201, 1));
    assert!(tries.count >= 11 && tries.replayed, "{tries:?}");
}

async fn a_request_that_is_doubled_on_its_way_is_one_charge(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let network = Network::with(shop.address, [Fault::Duplicate]).await;
    let key = IdempotencyKey::random();
    let (status, body, _) = answered(send(policy(), &network.url("/charges"), &key, "5").await);
    assert_eq!((status, &body[..], shop.charged()), (201, "1", 1));
}

async fn an_operation_in_flight_is_waited_for(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let mut stops = shop.stop_charges().await;
    // The first try's answer is given up while its charge runs; the second one finds it in flight, and
    // only then the charge goes on.
    let network = Network::with(shop.address, []).await;
    let key = IdempotencyKey::random();
    let url = network.url("/charges");
    let policy = policy().try_timeout(Duration::from_millis(500));
    let sending = send(policy, &url, &key, "5");
    let releasing = async {
        let stop = stops.recv().await.unwrap();
        while network.requests().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send(Step::Charge).unwrap();
    };
    let (ended, ()) = tokio::join!(sending, releasing);
    let (status, _, tries) = answered(ended);
    assert_eq!((status, shop.charged(), tries.replayed), (201, 1, true));
}

async fn a_declined_card_and_a_broken_handler_are_answers(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let url = shop.url("/charges");
    let (status, _, tries) =
        answered(send(policy(), &url, &IdempotencyKey::random(), "declined").await);
    assert_eq!((status, tries.count), (402, 1));
    // The second try says that the 500 is final.
    let (status, _, tries) =
        answered(send(policy(), &url, &IdempotencyKey::random(), "broken").await);
    assert_eq!((status, tries.count, tries.replayed), (500, 2, true));
}

async fn a_handler_that_was_not_ready_is_asked_again(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let mut stops = shop.stop_charges().await;
    let url = shop.url("/charges");
    let key = IdempotencyKey::random();
    let telling = async {
        stops.recv().await.unwrap().send(Step::Later).unwrap();
        stops.recv().await.unwrap().send(Step::Charge).unwrap();
    };
    let (ended, ()) = tokio::join!(send(policy(), &url, &key, "5"), telling);
    let (status, _, tries) = answered(ended);
    assert_eq!((status, tries.count, tries.replayed), (201, 2, false));
}

async fn a_crash_is_tried_again_or_unknown_as_the_server_says(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let mut stops = shop.stop_charges().await;
    let url = shop.url("/charges");
    let key = IdempotencyKey::random();
    let telling = async {
        stops.recv().await.unwrap().send(Step::Panic).unwrap();
        stops.recv().await.unwrap().send(Step::Charge).unwrap();
    };
    let (ended, ()) = tokio::join!(send(policy(), &url, &key, "5"), telling);
    assert_eq!(answered(ended).0, 201);

    let url = shop.url("/at-most-once");
    let key = IdempotencyKey::random();
    let telling = async {
        stops.recv().await.unwrap().send(Step::Panic).unwrap();
    };
    let (ended, ()) = tokio::join!(send(policy(), &url, &key, "5"), telling);
    let unknown = unknown(ended);
    assert_eq!(unknown.reason, UnknownReason::CrashedOnServer);
    assert!(unknown.may_have_executed);
}

async fn another_request_under_the_key_is_refused(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let url = shop.url("/charges");
    let key = IdempotencyKey::random();
    answered(send(policy(), &url, &key, "5").await);
    let Outcome::Refused(refused) = send(policy(), &url, &key, "6").await else {
        panic!("not refused")
    };
    assert_eq!(refused.tries.refused, Some(Refusal::Mismatch));
    assert_eq!((refused.response.0.as_u16(), refused.tries.count), (422, 1));
    // Where the network has lost an earlier try, nobody can say that it was not carried out.
    let network = Network::with(shop.address, [Fault::DropAnswer]).await;
    let lost = send(policy(), &network.url("/charges"), &key, "6").await;
    assert_eq!(
        unknown(lost).reason,
        UnknownReason::RefusedLater(StatusCode::UNPROCESSABLE_ENTITY)
    );
    assert_eq!(shop.charged(), 1);
}

async fn a_deadline_without_an_answer_is_unknown_and_the_key_finds_it_later(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let shop = Shop::open().await;
    let mut stops = shop.stop_charges().await;
    let url = shop.url("/charges");
    let key = IdempotencyKey::random();
    let hasty = policy().deadline(Duration::from_secs(2));
    let unknown = unknown(send(hasty, &url, &key, "5").await);
    assert!(unknown.may_have_executed, "{unknown:?}");
    assert_eq!(
        (unknown.reason, &unknown.key),
        (UnknownReason::Deadline, &key)
    );
    stops.recv().await.unwrap().send(Step::Charge).unwrap();
    let (status, body, _) = answered(send(policy(), &url, &unknown.key, "5").await);
    assert_eq!((status, &body[..], shop.charged()), (201, "1", 1));
}

async fn nobody_listening_is_not_carried_out(
    send: impl AsyncFn(Policy, &str, &IdempotencyKey, &'static str) -> Ended,
) {
    let nobody = Nobody::bind();
    let url = format!("http://{}/charges", nobody.address);
    let unknown = unknown(send(policy().max_tries(3), &url, &IdempotencyKey::random(), "5").await);
    assert_eq!(
        (unknown.reason, unknown.tries),
        (UnknownReason::TriesSpent, 3)
    );
    assert_eq!(
        (unknown.may_have_executed, unknown.last),
        (false, Some(TryEnd::NotSent))
    );
}

fn cause<E: std::error::Error + Copy + Send + Sync + 'static>(
    sent: Result<reqwest::Response, reqwest_middleware::Error>,
) -> E {
    match sent.unwrap_err() {
        reqwest_middleware::Error::Middleware(error) => *error.downcast_ref::<E>().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_sent_twice_is_not_sent_once() {
    let shop = Shop::open().await;
    let network = Network::with(shop.address, []).await;
    let client = client(policy());
    let stream = reqwest::Body::wrap(Full::new(Bytes::from_static(b"5")));
    let sent = client
        .post(network.url("/charges"))
        .body(stream)
        .send()
        .await;
    assert_eq!(cause::<RequestError>(sent), RequestError::BodyNotRepeatable);
    let keyed = |key: &'static str| {
        client
            .post(network.url("/charges"))
            .header("idempotency-key", key)
            .body("5")
    };
    let key = |error| RequestError::Key(error);
    assert_eq!(
        cause::<RequestError>(keyed("a b").send().await),
        key(KeyError::Malformed)
    );
    let two = keyed("a").header("idempotency-key", "b").send().await;
    assert_eq!(cause::<RequestError>(two), key(KeyError::Repeated));
    let other = IdempotencyKey::new("b").unwrap();
    let two = keyed("a").with_extension(other).send().await;
    assert_eq!(cause::<RequestError>(two), key(KeyError::Contradictory));
    assert_eq!(network.requests().len(), 0);
}

#[tokio::test]
async fn the_key_is_sent_on_operations_in_the_header_and_form_of_the_policy() {
    let shop = Shop::open().await;
    let own = client(policy());
    let text = async |request: reqwest_middleware::RequestBuilder| {
        request.send().await.unwrap().text().await.unwrap()
    };
    assert!(text(own.get(shop.url("/plain"))).await.ends_with("no key"));
    assert!(text(own.put(shop.url("/plain"))).await.ends_with("no key"));
    assert!(text(own.post(shop.url("/plain"))).await.contains('"'));
    let key = IdempotencyKey::new("order-1").unwrap();
    let given = own.put(shop.url("/plain")).with_extension(key.clone());
    assert!(text(given).await.ends_with("\"order-1\""));
    // As its caller has spelled it.
    let spelled = own
        .post(shop.url("/plain"))
        .header("idempotency-key", "order-1");
    assert!(text(spelled).await.ends_with(" order-1"));
    let bare = client(policy().key_form(KeyForm::Bare));
    let sent = bare.post(shop.url("/plain")).with_extension(key.clone());
    assert!(text(sent).await.ends_with(" order-1"));

    let network = Network::with(shop.address, []).await;
    let elsewhere = client(policy().header(HeaderName::from_static("x-request-id")));
    let sent = elsewhere.post(network.url("/plain")).with_extension(key);
    assert!(text(sent).await.ends_with("no key"));
    let request = String::from_utf8(network.requests()[0].clone()).unwrap();
    assert!(
        request.contains("x-request-id: \"order-1\"\r\n"),
        "{request}"
    );
}

/// Retries whatever has failed once more, and knows nothing of keys.
struct Again;

#[async_trait::async_trait]
impl reqwest_middleware::Middleware for Again {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut http::Extensions,
        next: reqwest_middleware::Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let again = request.try_clone().unwrap();
        match next.clone().run(request, extensions).await {
            Ok(response) => Ok(response),
            Err(_) => next.run(again, extensions).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_further_out_has_the_same_key() {
    let shop = Shop::open().await;
    let network = Network::with(shop.address, [Fault::DropAnswer]).await;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(Again)
        .with(IdempotencyMiddleware::new(policy().max_tries(1)))
        .build();
    let response = client
        .post(network.url("/charges"))
        .body("5")
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["idempotent-replayed"], "true");
    assert_eq!(shop.charged(), 1);
    assert_eq!(response.url().as_str(), network.url("/charges"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_flows_and_its_break_is_the_callers() {
    let shop = Shop::open().await;
    let key = IdempotencyKey::random();
    let network = Network::with(shop.address, [Fault::CutAnswer]).await;
    let policy = policy().max_answer_bytes(0);
    let client: legacy::Client<_, Full<Bytes>> =
        legacy::Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(network.url("/charges"))
        .extension(key)
        .body(Full::new(Bytes::from_static(b"5")))
        .unwrap();
    let sent = IdempotencyLayer::new(policy)
        .layer(client)
        .oneshot(request)
        .await
        .unwrap();
    assert!(sent.into_body().collect().await.is_err());
}
