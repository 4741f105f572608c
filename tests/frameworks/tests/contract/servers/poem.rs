//! poem 3.

use std::sync::Arc;

use idem::poem::idempotent;
use poem::http::StatusCode;
use poem::listener::TcpAcceptor;
use poem::web::{Data, Json};
use poem::{
    Body, Endpoint, EndpointExt, Error, FromRequest, IntoResponse, Request, RequestBody, Response,
    Route, Server, handler, post,
};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::app::{App, Content, Order, Reply};
use crate::works::Works;
use crate::{Framework, Running};

pub(crate) struct Poem;

impl Framework for Poem {
    const NAME: &'static str = "poem 3";
    const REFUSING: &'static str = "poem.refusing";
    const LACKS: &'static [(&'static str, &'static str)] = &[(
        "who_is_attached_to_what_breaks_off_is_cut_off",
        "poem ends a body that fails as if it were whole, with and without the attribute. The retry is told.",
    )];

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let leaves = app.works.clone();
        let versions = || Route::new().at("/echo", post(echo));
        let routes = Route::new()
            .at("/charges", post(charge))
            .at("/echo", post(echo).put(echo))
            .at("/echo/other", post(echo).put(echo))
            .at("/counted", post(counted).put(counted))
            .at("/counted/other", post(counted).put(counted))
            .at("/refunds", post(refund))
            .at("/optional", post(optional))
            .at("/guarded", post(guarded))
            .at("/slow", post(slow).put(slow))
            .at("/slow/other", post(slow).put(slow))
            .at("/slow-optional", post(slow_optional))
            .at("/waiting", post(waiting))
            .at("/attaching", post(attaching))
            .at("/hanging", post(hanging))
            .at("/panics-once", post(panics_once))
            .at("/panics-and-refuses", post(panics_and_refuses))
            .at("/status", post(status))
            .at("/releases-500", post(releases_500))
            .at("/nothing-happened", post(nothing_happened))
            .at("/scoped", post(scoped))
            .at("/respond", post(respond))
            .nest("/v1", versions())
            .nest("/v2", versions())
            .data(app.engine)
            .data(app.works)
            .around(move |routes, request| {
                let leaving = leaves.leaving();
                async move {
                    let _leaving = leaving;
                    routes.call(request).await
                }
            });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
        let told = Arc::<Notify>::default();
        let signal = Arc::clone(&told);
        let server = Server::new_with_acceptor(acceptor).run_with_graceful_shutdown(
            routes,
            async move { signal.notified().await },
            None,
        );
        let ended = tokio::spawn(async move { server.await.unwrap() });
        Running::until(told, address, ended, engine)
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::builder().status(StatusCode::from_u16(self.status).unwrap());
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(match self.body {
            Content::Whole(bytes) => Body::from(bytes),
            Content::Streamed(chunks) => Body::from_bytes_stream(chunks),
        })
    }
}

struct Login;

impl<'a> FromRequest<'a> for Login {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let login = request.header("authorization");
        login
            .map(|_| Self)
            .ok_or_else(|| Error::from_status(StatusCode::UNAUTHORIZED))
    }
}

struct Tenant(String);

impl<'a> FromRequest<'a> for Tenant {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let tenant = request.header("x-tenant");
        tenant
            .map(|name| Self(name.to_owned()))
            .ok_or_else(|| Error::from_status(StatusCode::UNAUTHORIZED))
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn charge(Data(works): Data<&Works>, Json(order): Json<Order>) -> Reply {
    works.charge(order)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn echo(Data(works): Data<&Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", fingerprint(body.len()))]
#[handler]
async fn counted(Data(works): Data<&Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn refund(Data(works): Data<&Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
#[handler]
async fn optional(Data(works): Data<&Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn guarded(_: Login, Data(works): Data<&Works>, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn slow(Data(works): Data<&Works>, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
#[handler]
async fn slow_optional(Data(works): Data<&Works>, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
#[handler]
async fn waiting(Data(works): Data<&Works>, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "attach 5s")]
#[handler]
async fn attaching(Data(works): Data<&Works>, body: String) -> Reply {
    works.respond(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", deadline = "100ms")]
#[handler]
async fn hanging(Data(works): Data<&Works>, body: String) -> Reply {
    works.hang(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
#[handler]
async fn panics_once(Data(works): Data<&Works>) -> Reply {
    works.panic_once().await
}

#[idempotent(name = "poem.refusing", key = header("Idempotency-Key"), ttl = "24h", on_crash = "refuse")]
#[handler]
async fn panics_and_refuses(Data(works): Data<&Works>) -> Reply {
    works.panic_always()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn status(Data(works): Data<&Works>, body: String) -> Reply {
    works.status(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(500))]
#[handler]
async fn releases_500(Data(works): Data<&Works>, body: String) -> Reply {
    works.status(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn nothing_happened(Data(works): Data<&Works>) -> Reply {
    works.release()
}

#[idempotent(key = header("Idempotency-Key"), scope = tenant.0, ttl = "24h")]
#[handler]
async fn scoped(tenant: Tenant, Data(works): Data<&Works>, body: String) -> Reply {
    works.tenant(&tenant.0, &body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn respond(Data(works): Data<&Works>, body: String) -> Reply {
    works.respond(&body)
}
