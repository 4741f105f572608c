//! Every shape of salvo handler: what it takes, and what its key and scope are made of.

use std::time::Duration;

use idem::salvo::idempotent;
use salvo::extract::{FormBody, JsonBody, PathParam, QueryParam};
use salvo::prelude::*;
use serde::Deserialize;

use super::{Answer, Order, Shop, server};

pub(super) fn router() -> Router {
    Router::new()
        .push(Router::with_path("nothing").post(nothing))
        .push(Router::with_path("parameters/{id}").post(parameters))
        .push(Router::with_path("keyed").post(keyed_by_its_body))
        .push(Router::with_path("kept").post(kept_as_its_body_says))
        .push(Router::with_path("conditional").post(conditional))
        .push(Router::with_path("borrowed").post(borrowed))
        .push(Router::with_path("derived").post(derived))
        .push(Router::with_path("parts").post(parts))
        .push(Router::with_path("read").hoop(read_before).post(form))
        .push(Router::with_path("form").post(form))
        .push(Router::with_path("taken").hoop(take_before).post(form))
        .push(Router::with_path("parsed").hoop(parse_before).post(form))
}

async fn assert_runs_once(path: &str, body: &str) -> Answer {
    let server = server();
    let send = || async {
        let kind = if body.starts_with('{') {
            "json"
        } else {
            "x-www-form-urlencoded"
        };
        let kind = format!("application/{kind}");
        let headers = [("idempotency-key", "a"), ("content-type", &*kind)];
        server.send(path, &headers, body).await
    };
    let first = send().await;
    assert!(first.status.is_success(), "{first:?}");
    first.assert_replayed_by(send().await);
    assert_eq!(server.shop.runs(), 1);
    first
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", scope = depot.get::<String>("x").ok())]
#[handler]
async fn nothing(depot: &mut Depot) -> impl Writer + use<> {
    Shop::of(depot).run();
    (StatusCode::CREATED, "made")
}

#[idempotent(key = (*id, _page.as_str()), ttl = "24h")]
#[handler]
#[tracing::instrument(skip_all)]
async fn parameters(
    id: PathParam<u32>,
    _page: QueryParam<String>,
    depot: &mut Depot,
) -> Result<String, StatusError> {
    Shop::of(depot).run();
    Ok(id.to_string())
}

#[idempotent(key = order.amount, ttl = "24h", fingerprint(order.amount))]
#[salvo::handler]
async fn keyed_by_its_body(depot: &mut Depot, JsonBody(order): JsonBody<Order>) -> String {
    Shop::of(depot).run();
    order.amount.to_string()
}

#[idempotent(key = header("Idempotency-Key"), ttl = Duration::from_secs(order.amount))]
#[salvo::handler]
async fn kept_as_its_body_says(depot: &mut Depot, JsonBody(order): JsonBody<Order>) -> String {
    Shop::of(depot).run();
    order.amount.to_string()
}

#[deny(unused_variables)]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[salvo::handler]
async fn conditional(
    depot: &mut Depot,
    #[allow(unused_variables)] order: JsonBody<Order>,
    #[cfg(any())] absent: Absent,
) -> String {
    Shop::of(depot).run();
    "conditional".to_owned()
}

#[derive(Deserialize, Extractible)]
#[salvo(extract(default_source(from = "body")))]
struct Borrowed<'a> {
    name: &'a str,
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn borrowed<'a>(given: Borrowed<'a>, res: &mut Response) {
    count(res);
    res.render(given.name.to_owned());
}

/// The depot is borrowed, too: what counts is told otherwise.
fn count(res: &mut Response) {
    res.headers_mut().insert("x-ran", 1.into());
}

#[derive(Deserialize, Extractible)]
#[salvo(extract(default_source(from = "body")))]
struct Derived {
    name: String,
    #[salvo(extract(source(from = "query")))]
    page: u32,
}

#[idempotent(key = given.name, ttl = "24h")]
#[handler]
async fn derived(given: Derived, depot: &mut Depot) -> String {
    Shop::of(depot).run();
    format!("{} {}", given.name, given.page)
}

#[idempotent(
    key = req.header::<String>("idempotency-key"),
    ttl = "24h",
    scope = depot.get::<String>("user").ok(),
)]
#[handler]
async fn parts(req: &mut Request, depot: &mut Depot, res: &mut Response) {
    Shop::of(depot).run();
    let payload = req.payload().await.unwrap();
    res.write_body(payload.clone()).unwrap();
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn form(depot: &mut Depot, named: FormBody<Named>) -> String {
    Shop::of(depot).run();
    named.into_inner().name
}

#[handler]
async fn read_before(req: &mut Request) {
    req.payload().await.unwrap();
}

/// As a hoop behind HTTP/2 does, where no length is announced.
#[handler]
async fn parse_before(req: &mut Request) {
    *req.version_mut() = salvo::http::Version::HTTP_2;
    req.form_data().await.unwrap();
}

#[handler]
async fn take_before(req: &mut Request) {
    drop(req.take_body());
}

#[tokio::test]
async fn whatever_a_handler_takes_it_runs_once() {
    for (path, body, said) in [
        ("/nothing", "", "made"),
        ("/parameters/7?page=a", "", "7"),
        ("/keyed", r#"{"amount":3}"#, "3"),
        ("/kept", r#"{"amount":3600}"#, "3600"),
        ("/conditional", r#"{"amount":3}"#, "conditional"),
        ("/derived?page=2", r#"{"name":"x"}"#, "x 2"),
        ("/parts", "whole", "whole"),
        ("/form", "name=y", "y"),
        ("/read", "name=y", "y"),
    ] {
        let answer = assert_runs_once(path, body).await;
        assert_eq!(answer.body, said, "{path}");
    }
}

#[tokio::test]
async fn an_extractor_may_borrow_the_request() {
    let server = server();
    let first = server.send_json("/borrowed", "a", r#"{"name":"x"}"#).await;
    assert_eq!(first.body, "x");
    let again = server.send_json("/borrowed", "a", r#"{"name":"x"}"#).await;
    first.assert_replayed_by(again);
}

#[tokio::test]
async fn a_body_that_a_hoop_has_taken_is_no_request_without_a_body() {
    let server = server();
    let headers = [("idempotency-key", "a"), ("content-length", "6")];
    let answer = server.send("/taken", &headers, "name=y").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(server.shop.runs(), 0);
}

#[tokio::test]
async fn neither_is_one_that_a_hoop_has_parsed() {
    let server = server();
    let kind = "application/x-www-form-urlencoded";
    let headers = [("idempotency-key", "a"), ("content-type", kind)];
    for body in ["name=y", "name=z"] {
        let answer = server.send("/parsed", &headers, body).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(server.shop.runs(), 0);
}
