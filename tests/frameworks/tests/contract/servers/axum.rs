//! axum 0.8.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use axum::{Extension, Json, Router};
use http::StatusCode;
use http::request::Parts;
use idem::axum::idempotent;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::app::{App, Content, Order, Reply};
use crate::works::Works;
use crate::{Framework, Running};

pub(crate) struct Axum;

impl Framework for Axum {
    const NAME: &'static str = "axum 0.8";
    const REFUSING: &'static str = "axum.refusing";

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let versions = Router::new().route("/echo", post(echo));
        let router = Router::new()
            .route("/charges", post(charge))
            .route("/echo", any(echo))
            .route("/echo/other", any(echo))
            .route("/counted", any(counted))
            .route("/counted/other", any(counted))
            .route("/refunds", post(refund))
            .route("/optional", post(optional))
            .route("/guarded", post(guarded))
            .route("/slow", any(slow))
            .route("/slow/other", any(slow))
            .route("/slow-optional", post(slow_optional))
            .route("/waiting", post(waiting))
            .route("/attaching", post(attaching))
            .route("/hanging", post(hanging))
            .route("/panics-once", post(panics_once))
            .route("/panics-and-refuses", post(panics_and_refuses))
            .route("/status", post(status))
            .route("/releases-500", post(releases_500))
            .route("/nothing-happened", post(nothing_happened))
            .route("/scoped", post(scoped))
            .route("/respond", post(respond))
            .nest("/v1", versions.clone())
            .nest("/v2", versions)
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

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let body = match self.body {
            Content::Whole(bytes) => Body::from(bytes),
            Content::Streamed(chunks) => Body::from_stream(chunks),
        };
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(body).unwrap()
    }
}

struct Login;

impl<S: Sync> FromRequestParts<S> for Login {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let login = head.headers.get("authorization");
        login.map(|_| Self).ok_or(StatusCode::UNAUTHORIZED)
    }
}

struct Tenant(String);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let tenant = head.headers.get("x-tenant");
        let tenant = tenant.ok_or(StatusCode::UNAUTHORIZED)?.to_str();
        Ok(Self(tenant.unwrap_or_default().to_owned()))
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn charge(State(works): State<Works>, Json(order): Json<Order>) -> Reply {
    works.charge(order)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn echo(State(works): State<Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", fingerprint(body.len()))]
async fn counted(State(works): State<Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn refund(State(works): State<Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
async fn optional(State(works): State<Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn guarded(_: Login, State(works): State<Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn slow(State(works): State<Works>, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
async fn slow_optional(State(works): State<Works>, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
async fn waiting(State(works): State<Works>, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "attach 5s")]
async fn attaching(State(works): State<Works>, body: String) -> Reply {
    works.respond(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", deadline = "100ms")]
async fn hanging(State(works): State<Works>, body: String) -> Reply {
    works.hang(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
async fn panics_once(State(works): State<Works>) -> Reply {
    works.panic_once().await
}

#[idempotent(name = "axum.refusing", key = header("Idempotency-Key"), ttl = "24h", on_crash = "refuse")]
async fn panics_and_refuses(State(works): State<Works>) -> Reply {
    works.panic_always()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn status(State(works): State<Works>, body: String) -> Reply {
    works.status(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(500))]
async fn releases_500(State(works): State<Works>, body: String) -> Reply {
    works.status(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn nothing_happened(State(works): State<Works>) -> Reply {
    works.release()
}

#[idempotent(key = header("Idempotency-Key"), scope = tenant.0, ttl = "24h")]
async fn scoped(tenant: Tenant, State(works): State<Works>, body: String) -> Reply {
    works.tenant(&tenant.0, &body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn respond(State(works): State<Works>, body: String) -> Reply {
    works.respond(&body)
}
