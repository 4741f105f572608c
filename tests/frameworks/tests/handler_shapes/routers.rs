//! Routers: nested ones, several handlers on one path, parts of the state, and middleware.

use axum::extract::{FromRef, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use idem::axum::idempotent;

use crate::{assert_runs_once, post_json, run, send, with_engine};

#[derive(Clone)]
struct App {
    bank: Bank,
    mail: Mail,
}

#[derive(Clone)]
struct Bank(&'static str);

#[derive(Clone)]
struct Mail(&'static str);

impl FromRef<App> for Bank {
    fn from_ref(app: &App) -> Self {
        app.bank.clone()
    }
}

impl FromRef<App> for Mail {
    fn from_ref(app: &App) -> Self {
        app.mail.clone()
    }
}

#[derive(Clone)]
struct User(String);

async fn authenticate(State(mail): State<Mail>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(User(mail.0.to_owned()));
    next.run(request).await
}

#[idempotent(key = header("Idempotency-Key"), scope = user.0, ttl = "1h")]
async fn charge(
    State(bank): State<Bank>,
    State(mail): State<Mail>,
    Extension(user): Extension<User>,
    Json(cents): Json<u32>,
) -> String {
    run(&format!("{} {} {} {cents}", bank.0, mail.0, user.0))
}

#[tokio::test]
async fn parts_of_the_state_and_what_middleware_adds_reach_the_handler() {
    let app = App {
        bank: Bank("b"),
        mail: Mail("m"),
    };
    let router = Router::new()
        .route("/", post(charge))
        .layer(from_fn_with_state(app.clone(), authenticate))
        .with_state(app);
    let router = with_engine(router);
    let body = assert_runs_once(&router, || post_json("/", "k", "5")).await;
    assert!(body.starts_with("b m m 5 #"), "{body}");
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn nested(State(bank): State<Bank>, request: Request) -> String {
    run(&format!("{} {}", bank.0, request.uri()))
}

#[tokio::test]
async fn a_nested_router_keeps_its_mount_points_apart() {
    let inner = || {
        Router::new()
            .route("/x", post(nested))
            .with_state(Bank("b"))
    };
    let router = Router::new()
        .nest("/a", inner())
        .nest("/b", Router::new().nest("/c", inner()));
    let router = with_engine(router);
    let body = assert_runs_once(&router, || post_json("/a/x", "k", "5")).await;
    assert!(body.starts_with("b /x #"), "{body}");
    let elsewhere = send(&router, post_json("/b/c/x", "k", "5")).await;
    assert_eq!(elsewhere.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn create(text: String) -> String {
    run(&text)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "1h")]
async fn cancel(text: String) -> String {
    run(&text)
}

#[tokio::test]
async fn two_handlers_never_share_a_key() {
    let router = Router::new()
        .route("/", post(create).delete(cancel).put(|| async { "plain" }))
        .route("/any", any(create))
        .route("/list", get(|| async { "plain" }));
    let router = with_engine(router);
    let created = assert_runs_once(&router, || post_json("/", "k", "text")).await;
    let cancelled = assert_runs_once(&router, || {
        let mut request = post_json("/", "k", "text");
        *request.method_mut() = axum::http::Method::DELETE;
        request
    })
    .await;
    assert_ne!(created, cancelled);
    assert_runs_once(&router, || post_json("/any", "other", "text")).await;
}

#[tokio::test]
async fn a_fallback_and_a_method_router_of_their_own_are_protected() {
    let router = with_engine(Router::new().fallback(create));
    assert_runs_once(&router, || post_json("/anywhere", "k", "text")).await;
    let router = Router::new().route(
        "/",
        post(create).layer(from_fn(|request: Request, next: Next| async move {
            next.run(request).await
        })),
    );
    assert_runs_once(&with_engine(router), || post_json("/", "k", "text")).await;
}
