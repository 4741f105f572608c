//! actix-web 4.

use std::future::{Ready, ready};

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, Service};
use actix_web::http::StatusCode;
use actix_web::{
    App as ActixApp, FromRequest, HttpRequest, HttpResponse, HttpServer, Responder, post, web,
};
use idem::actix::idempotent;

use crate::app::{App, Content, Order, Reply};
use crate::works::Works;
use crate::{Framework, Running};

pub(crate) struct Actix;

impl Framework for Actix {
    const NAME: &'static str = "actix-web 4";
    const REFUSING: &'static str = "actix.refusing";

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let server = HttpServer::new(move || {
            let App { engine, works } = app.clone();
            let leaves = works.clone();
            ActixApp::new()
                .app_data(web::Data::new(engine))
                .app_data(web::Data::new(works))
                .app_data(web::PayloadConfig::new(usize::MAX))
                .wrap_fn(move |request, service| {
                    let leaving = leaves.leaving();
                    let answer = service.call(request);
                    async move {
                        let _leaving = leaving;
                        answer.await
                    }
                })
                .service(charge)
                .route("/echo", web::to(echo))
                .route("/echo/other", web::to(echo))
                .route("/counted", web::to(counted))
                .route("/counted/other", web::to(counted))
                .service(refund)
                .service(optional)
                .service(guarded)
                .route("/slow", web::to(slow))
                .route("/slow/other", web::to(slow))
                .service(slow_optional)
                .service(waiting)
                .service(attaching)
                .service(hanging)
                .service(panics_once)
                .service(panics_and_refuses)
                .service(status)
                .service(releases_500)
                .service(nothing_happened)
                .service(scoped)
                .service(respond)
                .service(web::scope("/v1").route("/echo", web::post().to(echo)))
                .service(web::scope("/v2").route("/echo", web::post().to(echo)))
        });
        let server = server.workers(2).disable_signals();
        let server = server.bind("127.0.0.1:0").unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        let stop = async move {
            idem::actix::stop(&handle, &engine).await;
        };
        Running {
            address,
            stop: Box::pin(stop),
        }
    }
}

impl Responder for Reply {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let mut response = HttpResponse::build(StatusCode::from_u16(self.status).unwrap());
        for (name, value) in self.headers {
            response.append_header((name, value));
        }
        match self.body {
            Content::Whole(bytes) if bytes.is_empty() => response.finish(),
            Content::Whole(bytes) => response.body(bytes),
            Content::Streamed(chunks) => response.streaming(chunks),
        }
    }
}

struct Login;

impl FromRequest for Login {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let login = request.headers().get("authorization");
        let refused = || actix_web::error::ErrorUnauthorized("log in");
        ready(login.map(|_| Self).ok_or_else(refused))
    }
}

struct Tenant(String);

impl FromRequest for Tenant {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let tenant = request.headers().get("x-tenant");
        let tenant = tenant.and_then(|tenant| tenant.to_str().ok());
        let refused = || actix_web::error::ErrorUnauthorized("log in");
        ready(tenant.map(|name| Self(name.to_owned())).ok_or_else(refused))
    }
}

type Data = web::Data<Works>;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[post("/charges")]
async fn charge(works: Data, order: web::Json<Order>) -> Reply {
    works.charge(*order)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn echo(works: Data, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", fingerprint(body.len()))]
async fn counted(works: Data, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[post("/refunds")]
async fn refund(works: Data, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
#[post("/optional")]
async fn optional(works: Data, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[post("/guarded")]
async fn guarded(_: Login, works: Data, body: String) -> Reply {
    works.echo(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn slow(works: Data, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
#[post("/slow-optional")]
async fn slow_optional(works: Data, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
#[post("/waiting")]
async fn waiting(works: Data, body: String) -> Reply {
    works.slow(&body).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "attach 5s")]
#[post("/attaching")]
async fn attaching(works: Data, body: String) -> Reply {
    works.respond(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", deadline = "100ms")]
#[post("/hanging")]
async fn hanging(works: Data, body: String) -> Reply {
    works.hang(&body).await
}

// The other order works as well.
#[post("/panics-once")]
#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
async fn panics_once(works: Data) -> Reply {
    works.panic_once().await
}

#[idempotent(name = "actix.refusing", key = header("Idempotency-Key"), ttl = "24h", on_crash = "refuse")]
#[post("/panics-and-refuses")]
async fn panics_and_refuses(works: Data) -> Reply {
    works.panic_always()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[post("/status")]
async fn status(works: Data, body: String) -> Reply {
    works.status(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(500))]
#[post("/releases-500")]
async fn releases_500(works: Data, body: String) -> Reply {
    works.status(&body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[post("/nothing-happened")]
async fn nothing_happened(works: Data) -> Reply {
    works.release()
}

#[idempotent(key = header("Idempotency-Key"), scope = tenant.0, ttl = "24h")]
#[post("/scoped")]
async fn scoped(tenant: Tenant, works: Data, body: String) -> Reply {
    works.tenant(&tenant.0, &body)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[post("/respond")]
async fn respond(works: Data, body: String) -> Reply {
    works.respond(&body)
}
