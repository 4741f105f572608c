//! Every shape of poem handler: generics, borrowed arguments, keys and scopes from arguments,
//! transactions' neighbours, other attributes.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idem::Engine;
use idem::poem::idempotent;
use idem::stores::memory::MemoryStore;
use poem::http::{HeaderMap, Method, StatusCode, Uri};
use poem::test::TestClient;
use poem::web::{Data, Form, Json, Path, Query};
use poem::{Endpoint, EndpointExt, Error, IntoResponse, Request, Response, Route, post};
use serde::Deserialize;

use super::{Answer, Caller, Order};

fn run(name: &str) -> String {
    static RUNS: AtomicU32 = AtomicU32::new(1);
    format!("{name} #{}", RUNS.fetch_add(1, Ordering::SeqCst))
}

/// Sends the same twice: it runs once.
async fn assert_runs_once<E: Endpoint + 'static>(endpoint: E, body: &str) -> Answer {
    let engine = Engine::new(MemoryStore::builder().build());
    let route = Route::new().at("/at/:id", post(endpoint)).data(engine);
    let client = TestClient::new(route);
    let send = || async {
        let request = client
            .post("/at/7?page=2")
            .header("idempotency-key", "a")
            .header("content-type", "application/json")
            .body(body.to_owned());
        Answer::of(request.send().await).await
    };
    let first = send().await;
    assert!(first.status.is_success(), "{first:?}");
    let second = send().await;
    first.assert_replayed_by(second);
    first
}

mod qualified {
    use super::*;

    #[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
    #[poem::handler]
    pub(super) async fn nothing() {}

    /// Documented.
    #[idempotent(key = id, ttl = "24h", scope = caller, name = "qualified")]
    #[poem::handler]
    #[allow(clippy::needless_pass_by_value)]
    pub(super) async fn from_arguments(
        Caller(caller): Caller,
        Path(id): Path<u32>,
        body: String,
    ) -> String {
        run(&format!("{caller} {id} {body}"))
    }
}

#[tokio::test]
async fn arguments_may_be_none_or_name_the_key() {
    assert_runs_once(qualified::nothing, "").await;
    let answer = assert_runs_once(qualified::from_arguments, "x").await;
    assert!(answer.body.starts_with("someone 7 x"), "{answer:?}");
}

#[derive(Deserialize)]
struct Page {
    page: u32,
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[poem::handler]
async fn borrowed(
    request: &Request,
    headers: &HeaderMap,
    uri: &Uri,
    method: Method,
    Query(page): Query<Page>,
    order: poem::Result<Json<Order>>,
) -> Result<Response, Error> {
    let amount = order?.amount;
    let key = headers.get("idempotency-key").is_some();
    let said = format!("{method} {uri} {} {key} {amount}", page.page);
    assert_eq!(request.uri(), uri);
    Ok(run(&said).into_response())
}

#[tokio::test]
async fn arguments_may_borrow_the_request() {
    let answer = assert_runs_once(borrowed, r#"{"amount":3}"#).await;
    assert!(
        answer.body.starts_with("POST /at/7?page=2 2 true 3"),
        "{answer:?}"
    );
}

#[idempotent(key = order.amount, ttl = "24h", fingerprint(order.amount))]
#[poem::handler]
async fn keyed_by_its_body(Json(order): Json<Order>) -> String {
    run(&order.amount.to_string())
}

#[idempotent(key = header("Idempotency-Key"), ttl = Duration::from_secs(order.amount))]
#[poem::handler]
async fn kept_as_its_body_says(Json(order): Json<Order>) -> String {
    run(&order.amount.to_string())
}

#[tokio::test]
async fn the_body_may_name_the_key_and_the_ttl() {
    assert_runs_once(keyed_by_its_body, r#"{"amount":3}"#).await;
    assert_runs_once(kept_as_its_body_says, r#"{"amount":3600}"#).await;
}

#[deny(unused_variables)]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[poem::handler]
async fn conditional(
    #[cfg(any())] absent: Absent,
    #[allow(unused_variables)] Json(order): Json<Order>,
    #[cfg(any())] absent: Absent,
) -> String {
    run("conditional")
}

#[tokio::test]
async fn an_argument_that_is_not_compiled_is_none() {
    assert_runs_once(conditional, r#"{"amount":3}"#).await;
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", name = "generic")]
#[poem::handler]
async fn generic<T, const N: usize>(given: Data<&T>, body: Vec<u8>) -> String
where
    T: Display + Send + Sync + 'static,
{
    run(&format!("{} {N} {}", given.0, body.len()))
}

#[tokio::test]
async fn handlers_may_be_generic() {
    let endpoint = generic::<u8, 3>::default().data(5_u8);
    let answer = assert_runs_once(endpoint, "four").await;
    assert!(answer.body.starts_with("5 3 4"), "{answer:?}");
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[poem::handler]
#[tracing::instrument(skip_all)]
async fn instrumented(form: Option<Form<Page>>) -> Result<String, Error> {
    let current = tracing::Span::current();
    let name = current.metadata().map(|it| it.name());
    Ok(run(&format!("{} {name:?}", form.is_some())))
}

#[tokio::test]
async fn other_attributes_stay() {
    assert_runs_once(instrumented, "").await;
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[poem::handler]
async fn not_last(_stolen: Stolen, _body: String) {}

struct Stolen;

impl<'a> poem::FromRequest<'a> for Stolen {
    async fn from_request(_: &'a Request, body: &mut poem::RequestBody) -> poem::Result<Self> {
        body.take()?;
        Ok(Self)
    }
}

#[tokio::test]
async fn a_body_that_is_taken_before_its_turn_is_no_request_without_a_body() {
    let engine = Engine::new(MemoryStore::builder().build());
    let client = TestClient::new(not_last.data(engine));
    let request = client.post("/").header("idempotency-key", "a").body("x");
    let answer = Answer::of(request.send().await).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn middleware_sees_the_error_of_an_extractor() {
    let engine = Engine::new(MemoryStore::builder().build());
    let endpoint = keyed_by_its_body
        .data(engine.clone())
        .catch_all_error(|error| async move { format!("caught {}", error.status()) });
    let late = super::charge
        .data(engine)
        .data(std::sync::Arc::new(super::Shop::default()))
        .catch_all_error(|error| async move { format!("caught {}", error.status()) });
    for client in [
        TestClient::new(endpoint.map_to_response().boxed()),
        TestClient::new(late.map_to_response().boxed()),
    ] {
        let request = client
            .post("/")
            .header("idempotency-key", "a")
            .content_type("application/json")
            .body("no json");
        let answer = Answer::of(request.send().await).await;
        assert_eq!(answer.body, "caught 400 Bad Request");
    }
}
