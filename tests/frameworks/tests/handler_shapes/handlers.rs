//! Shapes of handlers: generic ones, associated functions, every kind of return.

use std::fmt::Display;
use std::marker::PhantomData;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use idem::axum::idempotent;
use serde::Deserialize;

use crate::{Answer, assert_runs_once, post_json, run, send, with_engine};

#[derive(Deserialize)]
struct Order {
    cents: u32,
}

fn order() -> axum::http::Request<axum::body::Body> {
    post_json("/", "k", r#"{"cents":5}"#)
}

trait Repository: Clone + Send + Sync + 'static {
    const NAME: &'static str;
}

#[derive(Clone)]
struct Postgres;

#[derive(Clone)]
struct Mock;

impl Repository for Postgres {
    const NAME: &'static str = "postgres";
}

impl Repository for Mock {
    const NAME: &'static str = "mock";
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "handlers.generic")]
async fn generic<R: Repository>(State(_): State<R>, Json(order): Json<Order>) -> String {
    run(&format!("{} {}", R::NAME, order.cents))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "handlers.generic_in_a_where_clause")]
async fn generic_in_a_where_clause<R, const LOUD: bool>(State(repository): State<R>) -> String
where
    R: Repository,
{
    let _ = repository;
    run(&format!("{} {LOUD}", R::NAME))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "handlers.generic_in_the_last_place")]
async fn generic_in_the_last_place<R: Repository, T>(_: State<R>, Json(value): Json<T>) -> String
where
    T: for<'de> Deserialize<'de> + Into<serde_json::Value> + Send + 'static,
{
    run(&value.into().to_string())
}

#[tokio::test]
async fn a_generic_handler_is_routed_with_its_type() {
    let router = with_engine(
        Router::new()
            .route("/", post(generic::<Postgres>))
            .with_state(Postgres),
    );
    let body = assert_runs_once(&router, order).await;
    assert!(body.starts_with("postgres 5 #"), "{body}");

    let router = with_engine(
        Router::new()
            .route("/", post(generic_in_a_where_clause::<Mock, true>))
            .with_state(Mock),
    );
    let body = assert_runs_once(&router, order).await;
    assert!(body.starts_with("mock true #"), "{body}");

    let router = with_engine(
        Router::new()
            .route(
                "/",
                post(generic_in_the_last_place::<Mock, serde_json::Value>),
            )
            .with_state(Mock),
    );
    let body = assert_runs_once(&router, order).await;
    assert!(body.starts_with("{\"cents\":5} #"), "{body}");
}

struct Shop<R>(PhantomData<R>);

impl<R: Repository> Shop<R> {
    const PREFIX: &'static str = "shop";

    #[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "handlers.create")]
    async fn create(State(repository): State<R>, Json(order): Json<Order>) -> String {
        let _: &R = &repository;
        run(&format!("{} {} {}", Self::PREFIX, R::NAME, order.cents))
    }

    #[idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "handlers.nothing")]
    pub(crate) async fn nothing() -> String {
        run(Self::PREFIX)
    }
}

#[tokio::test]
async fn an_associated_function_is_a_handler() {
    let router = Router::new()
        .route("/", post(Shop::<Mock>::create))
        .route("/nothing", post(Shop::<Mock>::nothing))
        .with_state(Mock);
    let router = with_engine(router);
    let body = assert_runs_once(&router, order).await;
    assert!(body.starts_with("shop mock 5 #"), "{body}");
    let body = assert_runs_once(&router, || post_json("/nothing", "k", "")).await;
    assert!(body.starts_with("shop #"), "{body}");
}

/// Not `Serialize`, not `Clone`, not `Debug`: nothing is asked of the user's types.
struct ApiError(StatusCode);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, run("refused")).into_response()
    }
}

impl<E: Display> From<E> for ApiError {
    fn from(_: E) -> Self {
        Self(StatusCode::PAYMENT_REQUIRED)
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn impl_response(Json(order): Json<Order>) -> impl IntoResponse {
    if order.cents == 0 {
        return (StatusCode::CREATED, Html(run("none")));
    }
    (StatusCode::CREATED, Html(run("html")))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn result_of_impl(text: String) -> Result<impl IntoResponse, ApiError> {
    let number: u32 = text.parse()?;
    if number == 0 {
        return Err(ApiError(StatusCode::INTERNAL_SERVER_ERROR));
    }
    Ok((HeaderMap::new(), run("fine")))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn no_return_type(text: String) {
    assert_eq!(text, "body");
    if text.is_empty() {
        return;
    }
    run(&text);
}

type Answered = Result<(StatusCode, Json<serde_json::Value>), ApiError>;

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn alias(text: String) -> Answered {
    let cents: u32 = text.parse()?;
    Ok((
        StatusCode::ACCEPTED,
        Json(serde_json::json!({ "cents": cents, "run": run("alias") })),
    ))
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn response(text: String) -> Response {
    let by = |text: &str| {
        if text.is_empty() {
            return StatusCode::NO_CONTENT.into_response();
        }
        run(text).into_response()
    };
    by(&text)
}

#[tokio::test]
async fn every_kind_of_return_is_stored() {
    let router = Router::new()
        .route("/", post(impl_response))
        .route("/result", post(result_of_impl))
        .route("/nothing", post(no_return_type))
        .route("/alias", post(alias))
        .route("/response", post(response));
    let router = with_engine(router);
    for (uri, sent, received) in [
        ("/", r#"{"cents":5}"#, "html #"),
        ("/result", "1", "fine #"),
        ("/nothing", "body", ""),
        ("/alias", "7", "{\"cents\":7,"),
        ("/response", "body", "body #"),
    ] {
        let body = assert_runs_once(&router, || post_json(uri, "k", sent)).await;
        assert!(body.starts_with(received), "{uri}: {body}");
    }
}

#[tokio::test]
async fn an_error_response_is_final_too_with_every_status_but_the_released_ones() {
    let router = with_engine(Router::new().route("/", post(result_of_impl)));
    for (key, sent, status) in [
        ("a", "x", StatusCode::PAYMENT_REQUIRED),
        ("b", "0", StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let first = send(&router, post_json("/", key, sent)).await;
        assert_eq!(first.status, status);
        assert!(first.body.starts_with("refused #") && !first.replayed);
        let replay = Answer {
            replayed: true,
            ..first
        };
        assert_eq!(send(&router, post_json("/", key, sent)).await, replay);
    }
}

#[idempotent(key = key, ttl = "1h")]
async fn tempting(
    State(__idem_captured): State<u8>,
    State(__idem_admitted): State<u8>,
    State(captured): State<u8>,
    State(admitted): State<u8>,
    State(refused): State<u8>,
    State(response): State<u8>,
    key: String,
) -> String {
    let numbers = [__idem_captured, __idem_admitted, captured, admitted];
    let sum: u8 = numbers.into_iter().chain([refused, response]).sum();
    run(&format!("{key} {sum}"))
}

#[tokio::test]
async fn no_name_of_the_users_is_captured() {
    let router = Router::new().route("/", post(tempting)).with_state(2_u8);
    let router = with_engine(router);
    let body = assert_runs_once(&router, || post_json("/", "", "k")).await;
    assert!(body.starts_with("k 12 #"), "{body}");
}

mod shadowed {
    //! A module where the prelude's names mean something else.
    #![allow(dead_code, non_upper_case_globals, non_snake_case)]

    const Ok: u8 = 1;
    const Err: u8 = 2;
    const None: u8 = 3;
    const Some: u8 = 4;
    struct Result;
    struct Option;
    struct Box;
    struct Response;
    mod core {}
    mod std {}

    #[::idem::axum::idempotent(key = header("Idempotency-Key"), scope = "s", ttl = "1h", fingerprint(text))]
    pub(crate) async fn handler(text: String) -> String {
        crate::run(&text)
    }
}

#[tokio::test]
async fn shadowed_prelude_names_do_not_matter() {
    let router = with_engine(Router::new().route("/", post(shadowed::handler)));
    assert_runs_once(&router, order).await;
}

mod elsewhere {
    pub(crate) use idem as reexported;
}

#[elsewhere::reexported::axum::idempotent(crate = elsewhere::reexported, key = header("Idempotency-Key"), ttl = "1h")]
async fn through_a_reexport() -> String {
    run("reexport")
}

#[tokio::test]
async fn the_crate_can_be_reached_by_another_path() {
    let router = with_engine(Router::new().route("/", post(through_a_reexport)));
    assert_runs_once(&router, order).await;
}
