//! The tower layer, over axum's router with plain handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use axum::{Extension, Json, Router};
use http::StatusCode;
use idem::{InFlight, OnCrash};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::app::{App, Order, Reply};
use crate::works::Works;
use crate::{Framework, Running};

pub(crate) struct Tower;

impl Framework for Tower {
    const NAME: &'static str = "tower layer";
    const REFUSING: &'static str = "tower.refusing";
    const LACKS: &'static [(&'static str, &'static str)] = &[
        (
            "an_extractors_rejection_is_the_frameworks_own_and_keeps_nothing_claimed",
            "A layer cannot tell a rejection from an answer: both are judged by their status, and kept.",
        ),
        (
            "named_parts_count_in_place_of_the_body_and_of_nothing_else",
            "A layer counts the whole request.",
        ),
    ];

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let layer = || idem::axum::layer(Duration::from_secs(24 * 60 * 60));
        let wait = InFlight::Wait(Duration::from_secs(5));
        let attach = InFlight::Attach(Duration::from_secs(5));
        let versions = Router::new().route("/echo", post(echo));
        let named = |name: &'static str| layer().name(name);
        let router = Router::new()
            .route("/charges", post(charge))
            .route("/refunds", post(echo))
            .route("/status", post(status))
            .route("/nothing-happened", post(nothing_happened))
            .route("/respond", post(respond))
            .layer(layer())
            .merge(
                Router::new()
                    .route("/echo", any(echo))
                    .route("/echo/other", any(echo))
                    .nest("/v1", versions.clone())
                    .nest("/v2", versions)
                    .layer(named("echo").methods([http::Method::POST, http::Method::PUT])),
            )
            .merge(
                Router::new()
                    .route("/slow", any(slow))
                    .route("/slow/other", any(slow))
                    .layer(named("slow").methods([http::Method::POST, http::Method::PUT])),
            )
            .merge(
                Router::new()
                    .route("/optional", post(echo))
                    .route("/slow-optional", post(slow))
                    .layer(layer().required(false)),
            )
            .merge(
                Router::new()
                    .route("/waiting", post(slow))
                    .route("/panics-once", post(panics_once))
                    .layer(layer().in_flight(wait)),
            )
            .merge(
                Router::new()
                    .route("/hanging", post(hanging))
                    .layer(layer().deadline(Duration::from_millis(100))),
            )
            .merge(
                Router::new()
                    .route("/attaching", post(respond))
                    .layer(layer().in_flight(attach)),
            )
            .merge(
                Router::new()
                    .route("/panics-and-refuses", post(panics_and_refuses))
                    .layer(named(Self::REFUSING).on_crash(OnCrash::Refuse)),
            )
            .merge(
                Router::new()
                    .route("/releases-500", post(status))
                    .layer(layer().release([500])),
            )
            .merge(
                Router::new()
                    .route("/guarded", post(echo))
                    .layer(layer())
                    .layer(from_fn(log_in)),
            )
            .merge(
                Router::new()
                    .route("/scoped", post(scoped))
                    .layer(layer().scope(|head| {
                        let tenant = head.extensions.get::<Tenant>();
                        tenant.map(|tenant| tenant.0.clone())
                    }))
                    .layer(from_fn(find_tenant)),
            )
            .layer(Extension(app.engine))
            .layer(from_fn_with_state(
                app.works.clone(),
                Works::note_who_leaves,
            ))
            .with_state(app.works);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::<Notify>::default();
        let signal = Arc::clone(&told);
        let server = axum::serve(listener, router)
            .with_graceful_shutdown(async move { signal.notified().await });
        let ended = tokio::spawn(async move { server.await.unwrap() });
        Running::until(told, address, ended, engine)
    }
}

type Request = axum::extract::Request;

async fn log_in(request: Request, next: Next) -> Response {
    if request.headers().contains_key("authorization") {
        next.run(request).await
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

#[derive(Clone)]
struct Tenant(String);

async fn find_tenant(mut request: Request, next: Next) -> Response {
    let tenant = request.headers().get("x-tenant");
    let Some(tenant) = tenant.and_then(|tenant| tenant.to_str().ok()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let tenant = Tenant(tenant.to_owned());
    request.extensions_mut().insert(tenant);
    next.run(request).await
}

async fn charge(State(works): State<Works>, Json(order): Json<Order>) -> Reply {
    works.charge(order)
}

async fn echo(State(works): State<Works>, body: String) -> Reply {
    works.echo(&body)
}

async fn slow(State(works): State<Works>, body: String) -> Reply {
    works.slow(&body).await
}

async fn panics_once(State(works): State<Works>) -> Reply {
    works.panic_once().await
}

async fn panics_and_refuses(State(works): State<Works>) -> Reply {
    works.panic_always()
}

async fn status(State(works): State<Works>, body: String) -> Reply {
    works.status(&body)
}

async fn nothing_happened(State(works): State<Works>) -> Reply {
    works.release()
}

async fn scoped(
    Extension(tenant): Extension<Tenant>,
    State(works): State<Works>,
    body: String,
) -> Reply {
    works.tenant(&tenant.0, &body)
}

async fn respond(State(works): State<Works>, body: String) -> Reply {
    works.respond(&body)
}

async fn hanging(State(works): State<Works>, body: String) -> Reply {
    works.hang(&body).await
}
